//! How long to wait before the next try: exponential with full jitter, so that a thousand agents that lost the
//! same collector do not come back in step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper end of the first wait.
pub const FIRST: Duration = Duration::from_millis(500);
/// Upper end of every later wait.
pub const LONGEST: Duration = Duration::from_secs(30);
/// A receiver may ask for a longer wait than ours (`RetryInfo`, `Retry-After`), but for at most this: a wrong
/// clock or a typing error over there must not silence a node for a day.
pub const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The waits between the tries of one operation.
#[derive(Debug)]
pub struct Backoff {
    tries: u32,
    random: u64,
}

impl Backoff {
    /// A sequence with its own random numbers, seeded from the time, the process and a counter.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::seeded((u64::from(std::process::id()) << 32 | u64::from(nanos)) ^ count.rotate_left(24))
    }

    /// A sequence that is the same for the same seed.
    pub fn seeded(seed: u64) -> Self {
        // splitmix64's finalizer: xorshift must not start at 0 and is slow to leave a seed with few bits.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self { tries: 0, random: (mixed ^ (mixed >> 31)) | 1 }
    }

    /// The wait before the next try: between zero and the doubled end of the last wait, at most [`LONGEST`].
    ///
    /// `asked` is what the receiver asked for. It is a floor, cut at [`LONGEST_ASKED`]; up to a tenth is added
    /// so that those who were asked for the same do not return together.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let end = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        let ours = self.up_to(end);
        let Some(asked) = asked else { return ours };
        let floor = asked.min(LONGEST_ASKED);
        ours.max(floor + self.up_to(floor / 10))
    }

    /// The operation succeeded: the next failure starts at [`FIRST`] again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Tries since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// A random time between zero and `end`, for other waits that must not be in step.
    pub fn up_to(&mut self, end: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let micros = u64::try_from(end.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.random % (micros + 1))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_are_spread_over_the_whole_range() {
        let mut sums = [Duration::ZERO; 10];
        for seed in 0..1000 {
            let mut backoff = Backoff::seeded(seed);
            for (at, sum) in sums.iter_mut().enumerate() {
                let wait = backoff.next(None);
                assert!(wait <= (FIRST * (1 << at)).min(LONGEST));
                *sum += wait;
            }
        }
        // The mean of a full jitter is the middle of its range.
        for (at, sum) in sums.iter().enumerate() {
            let middle = (FIRST * (1 << at)).min(LONGEST) / 2;
            let mean = *sum / 1000;
            assert!(mean > middle * 9 / 10 && mean < middle * 11 / 10, "try {at}: {mean:?} of {middle:?}");
        }
    }

    #[test]
    fn what_the_receiver_asks_for_is_a_floor_with_a_limit() {
        let mut backoff = Backoff::seeded(7);
        for _ in 0..100 {
            let wait = backoff.next(Some(Duration::from_secs(60)));
            assert!(wait >= Duration::from_secs(60) && wait <= Duration::from_secs(66));
        }
        let wait = backoff.next(Some(Duration::from_secs(86_400 * 365)));
        assert!(wait >= LONGEST_ASKED && wait <= LONGEST_ASKED * 11 / 10);
        assert!(backoff.next(Some(Duration::MAX)) <= LONGEST_ASKED * 11 / 10);
    }

    #[test]
    fn success_starts_it_again() {
        let mut backoff = Backoff::new();
        for _ in 0..100 {
            backoff.next(None);
        }
        assert_eq!(backoff.tries(), 100);
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }
}
