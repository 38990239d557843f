//! Memory of requests under way: reserved before it is used, and never waited for.
//!
//! Every request carries one [`Grant`]. It grows in steps as the request turns out to need more, and a step that is
//! not there refuses the request, so the sum of what all requests hold stays below `limits.in_flight` whatever
//! comes in, and two requests can never wait for each other's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory that all requests share.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    used: AtomicU64,
    total: u64,
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
        Self(Arc::new(Shared { used: AtomicU64::new(0), total: bytes }))
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

impl Grant {
    /// Makes it cover `bytes` in all; a step that fails changes nothing.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes as u64;
        let Some(missing) = bytes.checked_sub(self.bytes).filter(|&missing| missing > 0) else {
            return Ok(());
        };
        let total = self.shared.total;
        if bytes > total {
            return Err(Exhausted::Ever);
        }
        // Relaxed: the counter orders nothing but itself.
        self.shared
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(missing).filter(|&used| used <= total)
            })
            .map_err(|_| Exhausted::Now)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes as u64);
        self.shared.used.fetch_sub(spare, Ordering::Relaxed);
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
    fn a_request_for_more_than_there_can_ever_be_is_told_so() {
        let admission = Admission::new(100);
        let _held = admission.reserve(60).unwrap();
        assert_eq!(admission.reserve(60).unwrap_err(), Exhausted::Now);
        assert_eq!(admission.reserve(usize::MAX).unwrap_err(), Exhausted::Ever);
    }
}
