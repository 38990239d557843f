//! What the reader shows of itself.

use std::time::Instant;

use super::FileStatus;
use super::core::Core;
use super::fs::LogFs;
use super::metrics::{Records, Snapshot};
use super::tail::{Aside, TailFile};

impl<F: LogFs> Core<F> {
    /// Grows with what is published; the same as before = nothing new to publish.
    pub fn generation(&self) -> (u64, usize, u64, u64, usize, bool) {
        let errors = self.checkpoints.errors() + u64::from(self.checkpoints.failing());
        (
            self.ledger.changes() + self.windows,
            self.files.len(),
            self.outbox.sent(),
            errors,
            self.unreadable.len(),
            self.dirty_files.is_empty(),
        )
    }

    /// Whether bytes wait for something, so that ages grow.
    pub fn is_waiting(&self) -> bool {
        !self.outbox.is_idle() || !self.ready.is_empty()
    }

    /// What `/metrics/self` shows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            rows: self.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect(),
            namespaces: self.ledger.intake_since_start(),
            gaps: self.gaps,
            invalid_utf8_records: self.invalid_utf8,
            records: Records { sent: self.outbox.sent(), ..self.records },
            redacted: self.redactor.times(),
            set_aside: self.set_aside,
            compressed_resumes: self.compressed_resumes,
            unreadable: self.unreadable.len() as u64,
            files: self.files.len() as u64,
            open_files: self.files.values().filter(|file| file.handle.is_some()).count() as u64,
            pinned_bytes: self.files.values().filter_map(TailFile::held_bytes).sum(),
            state_errors: self.checkpoints.errors(),
            state_failing: self.checkpoints.failing(),
            inotify: self.root_watched,
        }
    }

    /// What `/debug/files` shows.
    pub fn statuses(&self, now: Instant) -> Vec<FileStatus> {
        let mut all: Vec<FileStatus> = self
            .files
            .iter()
            .filter_map(|(id, file)| {
                let lineage = self.lineages.get(&file.lineage)?;
                let state = match file.aside {
                    Some(Aside::Panic) => "set_aside",
                    Some(Aside::Gone) => "deleted",
                    None if lineage.excluded => "excluded",
                    None if file.identity.is_none() => "unidentified",
                    None if !file.is_named() => "deleted",
                    None if !file.is_drained() => "reading",
                    None if file.superseded.is_some() => "finished",
                    None => "idle",
                };
                Some(FileStatus {
                    path: lineage.path(&file.name),
                    namespace: lineage.pod.namespace.clone(),
                    pod: lineage.pod.pod.clone(),
                    container: lineage.row.container.clone(),
                    size: file.seen,
                    read: file.read,
                    acked: file.settled.watermark(),
                    lag_bytes: file.pending(),
                    lag_seconds: match file.behind_since {
                        Some(since) if file.pending() > 0 => {
                            now.saturating_duration_since(since).as_secs_f64()
                        }
                        _ => 0.0,
                    },
                    state,
                    persisted: !self.dirty_files.contains(id),
                })
            })
            .collect();
        all.sort_by(|left, right| left.path.cmp(&right.path));
        all
    }
}
