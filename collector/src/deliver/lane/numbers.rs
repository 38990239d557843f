//! A sink's numbers: what is shown of a lane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sonde_daemon::client::gate::Change;

/// Different codes in metrics; a destination may answer anything.
const CODES: usize = 64;

/// A sink's numbers.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Records that the destination took from us.
    pub delivered: AtomicU64,
    /// Records that it had already.
    pub duplicate: AtomicU64,
    /// Records that it refused for good.
    pub dead_letter: AtomicU64,
    /// Records that it refused for good without saying which.
    pub rejected: AtomicU64,
    /// Records that were given up for being too far behind.
    pub skipped: AtomicU64,
    left_out: Mutex<BTreeMap<&'static str, u64>>,
    retries: Mutex<BTreeMap<String, u64>>,
    blocked: Mutex<Option<String>>,
}

impl Numbers {
    /// Tries that failed, by code.
    pub fn retries(&self) -> BTreeMap<String, u64> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the destination has no form for, by reason.
    pub fn left_out(&self) -> BTreeMap<&'static str, u64> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts records that were left out.
    pub(super) fn leave_out(&self, reasons: &BTreeMap<&'static str, u64>) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, count) in reasons {
            *left_out.entry(reason).or_default() += count;
        }
    }

    /// The answer that holds us, if one does.
    pub fn blocked(&self) -> Option<String> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the destination took or had.
    pub(super) fn taken(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed) + self.duplicate.load(Ordering::Relaxed)
    }

    /// Counts a try that failed.
    pub(super) fn retried(&self, code: &str) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let code = if retries.len() < CODES || retries.contains_key(code) { code } else { "other" };
        *retries.entry(code.to_owned()).or_default() += 1;
    }

    /// Changes the gate, and what is shown of it, as one: of batches that report at once, the last word on the gate is
    /// also the last word here.
    pub(super) fn blocked_by(&self, code: Option<&str>, gate: impl FnOnce() -> Change) -> Change {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        *blocked = code.map(str::to_owned);
        gate()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use sonde_daemon::client::gate::Gate;

    use super::*;

    #[test]
    fn what_is_shown_of_the_gate_is_the_gate_whoever_reports_at_the_same_time() {
        let (numbers, gate) = (Numbers::default(), Gate::new(Duration::from_secs(60)));
        let start = Barrier::new(2);
        // Looked at when both have ended: who fails in between lets the other wait for ever.
        let wrongs = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    start.wait();
                    numbers.blocked_by(Some("403"), || gate.hold("403"));
                    start.wait();
                    let shown = numbers.blocked();
                    let held = match gate.open() {
                        Change::Opened(code) => Some(code),
                        _ => None,
                    };
                    if shown != held {
                        wrongs.lock().unwrap().push(format!("{shown:?} is shown of {held:?}"));
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..2000 {
                    start.wait();
                    numbers.blocked_by(None, || {
                        if numbers.blocked.try_lock().is_ok() {
                            wrongs.lock().unwrap().push("somebody may read or report in between".to_owned());
                        }
                        gate.open()
                    });
                    start.wait();
                }
            });
        });
        assert_eq!(wrongs.into_inner().unwrap(), [""; 0]);
    }

    #[test]
    fn a_destination_that_invents_codes_does_not_make_rows_without_end() {
        let numbers = Numbers::default();
        (0..1000).for_each(|code| numbers.retried(&code.to_string()));
        let retries = numbers.retries();
        assert_eq!((retries.len(), retries["other"]), (CODES + 1, 1000 - CODES as u64));
    }
}
