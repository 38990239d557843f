//! How many requests a destination is given at a time: grown by one for each round that went well, halved when it
//! pushes back (additive increase, multiplicative decrease; as TCP does it, RFC 5681).
//!
//! Pushing back is an answer of class Retry or no answer at all. One round of failures halves once: requests that
//! were sent before the last halving say nothing new.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// The limit of one destination.
pub(super) struct Limit {
    most: u32,
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    /// At least 1, at most `most`.
    allowed: f64,
    used: u32,
    halved: Option<Instant>,
}

/// Leave for one request; given back when it is dropped.
pub(super) struct Permit<'a> {
    limit: &'a Limit,
    since: Instant,
}

impl Limit {
    /// Begins at one request, grows to `most`.
    pub fn new(most: u32) -> Self {
        let state = State { allowed: 1.0, used: 0, halved: None };
        Self { most: most.max(1), state: Mutex::new(state), freed: Notify::new() }
    }

    /// Waits for a place.
    pub async fn acquire(&self) -> Permit<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if f64::from(state.used) + 1.0 <= state.allowed {
                    state.used += 1;
                    return Permit { limit: self, since: Instant::now() };
                }
            }
            freed.await;
        }
    }

    /// Requests that may be under way now.
    pub fn allowed(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).allowed
    }
}

impl Permit<'_> {
    /// The request went well.
    pub fn worked(&self) {
        let mut state = self.limit.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.allowed = (state.allowed + 1.0 / state.allowed).min(f64::from(self.limit.most));
    }

    /// The destination pushed back.
    pub fn pushed_back(&self) {
        let mut state = self.limit.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.halved.is_none_or(|halved| halved <= self.since) {
            state.allowed = (state.allowed / 2.0).max(1.0);
            state.halved = Some(Instant::now());
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used -= 1;
        drop(state);
        self.limit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_grows_by_one_a_round_and_halves_once_a_round() {
        let limit = Limit::new(8);
        for _ in 0..100 {
            limit.acquire().await.worked();
        }
        assert!((limit.allowed() - 8.0).abs() < 0.001);
        let round: Vec<_> = [limit.acquire().await, limit.acquire().await, limit.acquire().await].into();
        round.iter().for_each(Permit::pushed_back);
        assert!((limit.allowed() - 4.0).abs() < 0.001, "three failures of one round are one");
        drop(round);
        for _ in 0..10 {
            limit.acquire().await.pushed_back();
        }
        assert!((limit.allowed() - 1.0).abs() < 0.001, "one request is always allowed");
    }

    #[tokio::test]
    async fn no_more_are_let_through_than_are_allowed() {
        let limit = Limit::new(8);
        let first = limit.acquire().await;
        let second = limit.acquire();
        tokio::pin!(second);
        tokio::select! {
            biased;
            _ = &mut second => panic!("there was no place"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.await;
    }
}
