//! Numbers for metrics and people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::State;

/// What happened since the store was opened.
#[derive(Default)]
pub struct Counters {
    /// Records that were taken.
    pub delivered: AtomicU64,
    /// Records that the store had already.
    pub duplicates: AtomicU64,
    /// Slices that were set aside.
    pub damaged: AtomicU64,
    /// Slices whose index was made anew.
    pub rebuilt: AtomicU64,
    /// Bytes of blocks that were found damaged then.
    pub lost_bytes: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Tries to commit that failed.
    pub commit_errors: AtomicU64,
    /// What the last commit took from its beginning to its end.
    pub last_commit_micros: AtomicU64,
    /// What all commits took.
    pub commit_micros: AtomicU64,
}

/// The store's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Records in it.
    pub records: u64,
    /// Of those, not yet committed.
    pub pending_records: u64,
    /// Memory that those take, about.
    pub pending_bytes: u64,
    /// Slices.
    pub slices: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// Bytes of the slices on disk, at the last commit.
    pub disk_bytes: u64,
    /// Smallest time of a committed record, Unix nanoseconds.
    pub oldest_unix_nano: Option<u64>,
    /// Largest time of a committed record, Unix nanoseconds.
    pub newest_unix_nano: Option<u64>,
    /// When the oldest slice was begun, Unix milliseconds.
    pub since_unix_milli: Option<u64>,
    /// Records taken since the store was opened.
    pub delivered: u64,
    /// Records since then that the store had already.
    pub duplicates: u64,
    /// Slices set aside since then.
    pub damaged_slices: u64,
    /// Slices since then whose index was damaged and was made anew from their blocks.
    pub rebuilt_slices: u64,
    /// Bytes of blocks that were found damaged then and are left out.
    pub lost_bytes: u64,
    /// Commits since then.
    pub commits: u64,
    /// Failed tries since then.
    pub commit_errors: u64,
    /// What the last commit took from its beginning to its end.
    pub last_commit: Duration,
    /// What all commits since then took.
    pub commit_time: Duration,
}

impl Counters {
    pub(super) fn on_commit(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.last_commit_micros.store(micros, Ordering::Relaxed);
        self.commit_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn status(&self, state: &State) -> Status {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let commits = || state.slices.iter().map(|slice| &slice.commit);
        let filled = || commits().filter(|commit| commit.records > 0);
        Status {
            records: commits().map(|commit| commit.records).sum::<u64>() + state.pending.records(),
            pending_records: state.pending.records(),
            pending_bytes: state.pending.bytes() as u64,
            slices: state.slices.len() as u64,
            blocks: commits().map(|commit| commit.blocks).sum(),
            disk_bytes: state.slices.iter().map(|slice| slice.bytes).sum(),
            oldest_unix_nano: filled().map(|commit| commit.min_time).min(),
            newest_unix_nano: filled().map(|commit| commit.max_time).max(),
            since_unix_milli: filled().map(|commit| commit.begun_ms).min(),
            delivered: count(&self.delivered),
            duplicates: count(&self.duplicates),
            damaged_slices: count(&self.damaged),
            rebuilt_slices: count(&self.rebuilt),
            lost_bytes: count(&self.lost_bytes),
            commits: count(&self.commits),
            commit_errors: count(&self.commit_errors),
            last_commit: Duration::from_micros(count(&self.last_commit_micros)),
            commit_time: Duration::from_micros(count(&self.commit_micros)),
        }
    }
}
