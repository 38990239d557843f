//! The ledger and the reader's own counters as `sonde_agent_log_*`.

use std::sync::{Arc, Mutex, PoisonError};

use super::FileStatus;
use super::ledger::{Intake, Row, RowKey};

/// What the reader last published; at most a second old.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Ledger rows.
    pub rows: Vec<(RowKey, Row)>,
    /// What was read of each namespace since this process began.
    pub namespaces: Vec<(String, Intake)>,
    /// Rotations that were not seen.
    pub gaps: u64,
    /// Bytes sequences of bodies that were not UTF-8 and were replaced, in records.
    pub invalid_utf8_records: u64,
    /// Records of known outcome, by outcome.
    pub records: Records,
    /// What was taken out of bodies, by rule.
    pub redacted: Vec<(String, u64)>,
    /// Files that are set aside after an error of our own or a damaged compression.
    pub set_aside: u64,
    /// Files of which a part was read before they were compressed, and the rest after.
    pub compressed_resumes: u64,
    /// Files that could not be opened at the last look.
    pub unreadable: u64,
    /// Files that are known.
    pub files: u64,
    /// Handles that are open.
    pub open_files: u64,
    /// Bytes of deleted files that are held open.
    pub pinned_bytes: u64,
    /// Failed writes of the state file.
    pub state_errors: u64,
    /// Whether the last write of the state file failed.
    pub state_failing: bool,
    /// Whether changes are noticed by inotify (1) or by rescans alone (0).
    pub inotify: bool,
}

/// Records by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The receiver took them.
    pub acked: u64,
    /// The receiver refused them for good.
    pub rejected: u64,
    /// Left out by `logs.limits`.
    pub shed: u64,
    /// Cut at `max_line`.
    pub truncated: u64,
    /// Not in the runtime's format.
    pub malformed: u64,
    /// Sent by the reader, counting each sending.
    pub sent: u64,
}

/// Shared between the reader's thread and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct LogMetrics {
    shared: Arc<Mutex<Published>>,
}

#[derive(Debug, Default)]
struct Published {
    snapshot: Arc<Snapshot>,
    files: Arc<Vec<FileStatus>>,
    ready: bool,
}

impl LogMetrics {
    /// What was last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot, files: Vec<FileStatus>) {
        let mut shared = self.lock();
        shared.snapshot = Arc::new(snapshot);
        shared.files = Arc::new(files);
        shared.ready = true;
    }

    pub(super) fn files(&self) -> Arc<Vec<FileStatus>> {
        self.lock().files.clone()
    }

    pub(crate) fn ready(&self) -> bool {
        self.lock().ready
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Published> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
