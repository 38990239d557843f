//! The files of one container restart: one logical stream, read in the order of their rotation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;

use super::join::Joiner;
use super::ledger::RowKey;
use super::limits::Quota;
use super::pod_path::PodDir;
use super::redact::RuleSet;
use super::tail::FileId;

/// Names a lineage within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineageId(pub u32);

/// Shortest and longest time between two looks at a quiet file.
pub const FIRST_LOOK: Duration = Duration::from_millis(100);
/// See [`FIRST_LOOK`].
pub const LAST_LOOK: Duration = Duration::from_secs(1);

/// One container restart.
pub struct Lineage {
    /// Name of the pod's directory.
    pub pod_dir: Arc<str>,
    /// The same, taken apart.
    pub pod: PodDir,
    /// Container.
    pub container: Arc<str>,
    /// Restart count.
    pub restart: u32,
    /// Files in the order of their rotation.
    pub files: Vec<FileId>,
    /// Unfinished lines.
    pub joiner: Joiner,
    /// Ledger row.
    pub row: RowKey,
    /// Left out by `logs.include` or `logs.exclude`.
    pub ruled_out: bool,
    /// Left out, by rule or by its pod's word.
    pub excluded: bool,
    /// Whether fields are taken out of its bodies.
    pub parse: bool,
    /// What is used of its limit.
    pub quota: Quota,
    /// What is taken out of its bodies.
    pub redact: RuleSet,
    /// Resource attributes and the version of the pod index they were made from.
    pub attributes: Option<(AttrSet, u64)>,
    /// Until when the first batch may wait for metadata.
    pub hold_until: Option<Instant>,
    /// Next look; none = queued, or waiting for a notice.
    pub due: Option<Instant>,
    /// In the queue of lineages to be read.
    pub queued: bool,
    /// Time between the last two looks.
    pub period: Duration,
}

impl Lineage {
    /// Path of one of its files below the pod log directory.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.pod_dir, self.container)
    }

    /// Name of a compressed or plain file from its suffix.
    pub fn file_name(&self, suffix: Option<&str>, gz: bool) -> String {
        let gz = if gz { ".gz" } else { "" };
        match suffix {
            Some(suffix) => format!("{}.log.{suffix}{gz}", self.restart),
            None => format!("{}.log{gz}", self.restart),
        }
    }
}
