//! What the reader of journals shows: its rows of the ledger beside those of the log files, and `sonde_agent_journal_*`.

use std::sync::{Arc, Mutex, PoisonError};

use sonde_daemon::page::{Sink, Source};

use crate::logs::ledger::{Row, RowKey};
use crate::logs::metrics::Records;

/// Since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries left out by `units` and `priority`.
    pub left_out: u64,
    /// Entries left out by `logs.read_existing`, without being read.
    pub old: u64,
    /// Entries of journals that were removed unread, at most.
    pub deleted: u64,
    /// Entries of deleted journals that were let go of.
    pub pinned: u64,
    /// Entries that cannot be read.
    pub damaged: u64,
    /// Fields that cannot be read: damaged, or compressed with XZ.
    pub unreadable_fields: u64,
    /// Files that are called journals and are none, or none that can be read here.
    pub unreadable_files: u64,
    /// Journals set aside after an error of our own.
    pub set_aside: u64,
    /// Messages that were not UTF-8.
    pub invalid_utf8: u64,
}

/// What was last published; at most a second old.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rows of the ledger.
    pub rows: Vec<(RowKey, Row)>,
    /// Counters.
    pub counts: Counts,
    /// Records by outcome.
    pub records: Records,
    /// What was taken out of bodies, by rule.
    pub redacted: Vec<(String, u64)>,
    /// Journals that are there.
    pub files: u64,
    /// Entries of open journals that were not read, as their headers have them.
    pub unread: u64,
    /// Failed writes of the state.
    pub state_errors: u64,
}

/// Shared between the thread and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct JournalMetrics(Arc<Mutex<Arc<Snapshot>>>);

impl JournalMetrics {
    /// What was last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}

impl Source for JournalMetrics {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let now = self.snapshot();
        let counts = now.counts;
        let help = "Entries of the journal that were left out, by reason.";
        let mut rows = out.counter("sonde_agent_journal_left_out_entries_total", help);
        rows.row([("reason", "rule")], counts.left_out);
        rows.row([("reason", "old")], counts.old);
        let help = "Entries of the journal that were lost, by reason. Of journals that were removed unread (deleted_unread) only their \
                    sequence numbers are known: there were at most so many. What was damaged is counted at each start.";
        let mut rows = out.counter("sonde_agent_journal_lost_entries_total", help);
        for (reason, value) in
            [("deleted_unread", counts.deleted), ("pinned_limit", counts.pinned), ("damaged", counts.damaged)]
        {
            rows.row([("reason", reason)], value);
        }
        for (name, help, value) in [
            (
                "sonde_agent_journal_unreadable_fields_total",
                "Fields of shipped entries that could not be read: damaged, or compressed with XZ.",
                counts.unreadable_fields,
            ),
            (
                "sonde_agent_journal_unreadable_files_total",
                "Files that are called journals and are none, or none that can be read here.",
                counts.unreadable_files,
            ),
            (
                "sonde_agent_journal_set_aside_files_total",
                "Journals set aside after an error.",
                counts.set_aside,
            ),
            ("sonde_agent_journal_state_errors_total", "Failed writes of the positions.", now.state_errors),
        ] {
            out.counter(name, help).row([], value);
        }
        out.gauge("sonde_agent_journal_files", "Journals that are there.").row([], now.files);
        let help = "Entries of the journals that were not read yet, as their headers have them.";
        out.gauge("sonde_agent_journal_unread_entries", help).row([], now.unread);
        Ok(())
    }
}
