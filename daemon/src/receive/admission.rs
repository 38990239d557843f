//! Memory of requests under way: reserved before it is used, and never waited for.
//!
//! Every request carries one [`Grant`]. It grows in steps as the request turns out to need more, and a step that is
//! not there refuses the request, so the sum of what all requests hold stays below `limits.in_flight` whatever
//! comes in, and two requests can never wait for each other's memory.
//!
//! A part of it ([`Admission::part`]) bounds what some requests have of the whole, so that the rest is there for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory that all requests share.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    used: AtomicU64,
    total: u64,
    /// What this is a part of.
    whole: Option<Arc<Shared>>,
}

/// The memory of one request; given back when it is dropped.
#[derive(Debug)]
pub struct Grant {
    bytes: u64,
    shared: Arc<Shared>,
}

/// The memory asked for is not there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Other requests have it.
    #[error("the memory for requests under way is used up")]
    Now,
    /// There is not that much of it at all.
    #[error("the request needs more memory than all requests may have")]
    Ever,
}

impl Admission {
    /// Shares out `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Shared { used: AtomicU64::new(0), total: bytes, whole: None }))
    }

    /// At most `bytes` of this, for requests that are to leave the rest to others.
    pub fn part(&self, bytes: u64) -> Self {
        Self(Arc::new(Shared { used: AtomicU64::new(0), total: bytes, whole: Some(Arc::clone(&self.0)) }))
    }

    /// A grant of `bytes`, or nothing.
    pub fn reserve(&self, bytes: usize) -> Result<Grant, Exhausted> {
        let mut grant = Grant { bytes: 0, shared: Arc::clone(&self.0) };
        grant.grow_to(bytes)?;
        Ok(grant)
    }

    /// Bytes handed out now.
    pub fn used_bytes(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn take(&self, bytes: u64) -> Result<(), Exhausted> {
        // Relaxed: the counter orders nothing but itself.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&used| used <= self.total)
            })
            .map_err(|_| Exhausted::Now)?;
        let of_whole = self.whole.as_ref().map_or(Ok(()), |whole| whole.take(bytes));
        if of_whole.is_err() {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        of_whole
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give(bytes);
        }
    }
}

impl Grant {
    /// Makes it cover `bytes` in all; a step that fails changes nothing.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes as u64;
        let Some(missing) = bytes.checked_sub(self.bytes).filter(|&missing| missing > 0) else {
            return Ok(());
        };
        if bytes > self.shared.total {
            return Err(Exhausted::Ever);
        }
        self.shared.take(missing)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes as u64);
        self.shared.give(spare);
        self.bytes -= spare;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_had_again_and_no_more() {
        let admission = Admission::new(10 << 10);
        let mut grant = admission.reserve(3 << 10).unwrap();
        assert_eq!(admission.used_bytes(), 3 << 10);
        assert_eq!(admission.reserve(8 << 10).unwrap_err(), Exhausted::Now);
        grant.grow_to(10 << 10).unwrap();
        assert_eq!(grant.grow_to((10 << 10) + 1), Err(Exhausted::Ever));
        assert_eq!(admission.used_bytes(), 10 << 10, "a step that failed changes nothing");
        grant.shrink_to(1);
        assert_eq!(admission.used_bytes(), 1);
        drop(grant);
        assert_eq!(admission.used_bytes(), 0);
    }

    #[test]
    fn a_part_never_has_more_than_its_share_nor_than_is_left() {
        let whole = Admission::new(100);
        let part = whole.part(50);
        assert_eq!(part.reserve(51).unwrap_err(), Exhausted::Ever);
        let half = part.reserve(50).unwrap();
        assert_eq!((part.reserve(1).unwrap_err(), whole.used_bytes()), (Exhausted::Now, 50));
        let rest = whole.reserve(50).unwrap();
        drop(half);
        let mut again = part.reserve(20).unwrap();
        let more = whole.reserve(30).unwrap();
        assert_eq!(again.grow_to(21), Err(Exhausted::Now), "the whole is used up");
        assert_eq!((part.used_bytes(), whole.used_bytes()), (20, 100), "a step that failed changes nothing");
        drop((again, rest, more));
        assert_eq!((part.used_bytes(), whole.used_bytes()), (0, 0));
    }

    #[test]
    fn a_request_for_more_than_there_can_ever_be_is_told_so() {
        let admission = Admission::new(100);
        let _held = admission.reserve(60).unwrap();
        assert_eq!(admission.reserve(60).unwrap_err(), Exhausted::Now);
        assert_eq!(admission.reserve(usize::MAX).unwrap_err(), Exhausted::Ever);
    }
}
