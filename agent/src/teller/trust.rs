//! Whether the kubelet is to tell of its pods, or somebody else. Pure: answers and times in, decisions out.
//!
//! - A refusal (401, 403) is believed after three asks in a row. Any other failure may be a restart, which takes seconds: it must
//!   last for half a minute as well.
//! - A kubelet that was given up is believed again when it has answered three asks in a row over a minute; twice as long each time that
//!   it is given up within an hour after that, up to an hour. So whatever it does, the source does not flip to and fro.

use std::time::{Duration, Instant};

/// Numbers and times of a change from one source to the other.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Asks in a row that count.
    pub asks: u32,
    /// A kubelet that does not refuse must fail for so long.
    pub patience: Duration,
    /// One that was given up must answer for so long.
    pub proof: Duration,
    /// And at most for so long; one that was believed for so long has a clean record.
    pub calm: Duration,
    /// Between two asks of it while another tells, about.
    pub probe: Duration,
    /// The first ask of the other one comes within this time, at random: a thousand kubelets may refuse at the same instant.
    pub spread: Duration,
    /// The other one has told and does not any more: it is given up after so long.
    pub lost: Duration,
    /// Between two asks of one that refuses, at least; half as much more at random.
    pub seldom: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            asks: 3,
            patience: seconds(30),
            proof: seconds(60),
            calm: seconds(3600),
            probe: seconds(30),
            spread: seconds(10),
            lost: seconds(120),
            seldom: seconds(300),
        }
    }
}

/// How an ask ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With pods.
    Pods,
    /// With 401 or 403.
    Refusal,
    /// In any other way.
    Failure,
}

/// What the kubelet's answers are worth.
#[derive(Debug)]
pub struct Trust {
    pace: Pace,
    /// Since when the asks in a row had the same end, and how many they are.
    row: Option<(Instant, u32)>,
    /// Refusals in a row.
    refusals: u32,
    proof: Duration,
    /// When it took another's place again.
    back: Option<Instant>,
}

impl Trust {
    /// It is trusted.
    pub fn new(pace: Pace) -> Self {
        Self { pace, row: None, refusals: 0, proof: pace.proof, back: None }
    }

    /// An answer of a kubelet that is trusted; whether it is given up with that.
    pub fn is_lost(&mut self, answer: Answer, now: Instant) -> bool {
        self.refusals = if answer == Answer::Refusal { self.refusals + 1 } else { 0 };
        let patience = if self.refusals >= self.pace.asks { Duration::ZERO } else { self.pace.patience };
        let lost = self.count(answer != Answer::Pods, now, patience);
        if lost {
            self.refusals = 0;
            self.proof = match self.back.take() {
                Some(back) if now.saturating_duration_since(back) < self.pace.calm => {
                    (self.proof * 2).min(self.pace.calm)
                }
                _ => self.pace.proof,
            };
        }
        lost
    }

    /// An answer of a kubelet in whose place another tells; whether it is trusted again with that.
    pub fn is_back(&mut self, answer: Answer, now: Instant) -> bool {
        let back = self.count(answer == Answer::Pods, now, self.proof);
        if back {
            self.back = Some(now);
        }
        back
    }

    /// Nobody tells in its place: it is trusted again, whatever it is worth.
    pub fn take_back(&mut self) {
        self.row = None;
    }

    /// Whether what is counted has come often enough and for long enough; the count begins anew then, and with what is not counted.
    fn count(&mut self, counts: bool, now: Instant, least: Duration) -> bool {
        let Some((since, asks)) = counts.then(|| self.row.map_or((now, 1), |(since, n)| (since, n + 1)))
        else {
            self.row = None;
            return false;
        };
        let enough = asks >= self.pace.asks && now.saturating_duration_since(since) >= least;
        self.row = (!enough).then_some((since, asks));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks each so many seconds from `at` on until it says yes; when that was, and how often it was asked.
    fn until(at: u64, every: u64, mut ask: impl FnMut(u64) -> bool) -> (u64, u32) {
        (0..1000).map(|n| (at + n * every, u32::try_from(n).unwrap() + 1)).find(|(at, _)| ask(*at)).unwrap()
    }

    #[test]
    fn a_refusal_is_believed_after_three_asks_and_another_failure_after_half_a_minute() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut trust = Trust::new(Pace::default());
        assert_eq!(until(0, 1, |at| trust.is_lost(Answer::Refusal, after(at))), (2, 3));
        assert_eq!(until(0, 1, |at| trust.is_lost(Answer::Failure, after(at))), (30, 31));
        assert_eq!(
            until(0, 20, |at| trust.is_lost(Answer::Failure, after(at))),
            (40, 3),
            "three asks at least"
        );
        // A refusal behind other failures is the first of its kind.
        for at in 0..20 {
            assert!(!trust.is_lost(Answer::Failure, after(at)), "{at}");
        }
        assert_eq!(until(20, 1, |at| trust.is_lost(Answer::Refusal, after(at))), (22, 3));
        // An answer in between ends the row.
        for at in 0..1000 {
            let answer = if at % 3 == 2 { Answer::Pods } else { Answer::Refusal };
            assert!(!trust.is_lost(answer, after(at)), "{at}");
        }
    }

    #[test]
    fn it_must_answer_for_a_minute_and_for_twice_as_long_each_time_that_it_fails_again_soon() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut trust = Trust::new(Pace::default());
        let mut now = 0;
        for proof in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            now = until(now, 1, |at| trust.is_lost(Answer::Refusal, after(at))).0;
            // What it answered before a failure does not count.
            assert!(!trust.is_back(Answer::Pods, after(now)));
            assert!(!trust.is_back(Answer::Failure, after(now + 1000)));
            now += 1001;
            let (back, asks) = until(now, 30, |at| trust.is_back(Answer::Pods, after(at)));
            assert_eq!(back - now, proof, "{asks}");
            now = back + 1;
        }
        // An hour without a failure, and all is forgotten.
        now += 3600;
        now = until(now, 1, |at| trust.is_lost(Answer::Refusal, after(at))).0;
        assert_eq!(until(now, 1, |at| trust.is_back(Answer::Pods, after(at))).0 - now, 60);
    }

    #[test]
    fn where_nobody_told_in_its_place_its_record_stays_clean() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut trust = Trust::new(Pace::default());
        for at in 0..50 {
            until(at * 10, 1, |at| trust.is_lost(Answer::Refusal, after(at)));
            trust.take_back();
        }
        until(1000, 1, |at| trust.is_lost(Answer::Refusal, after(at)));
        assert_eq!(until(2000, 10, |at| trust.is_back(Answer::Pods, after(at))).0, 2060);
    }
}
