//! systemd's journal as an input: kubelet, container runtime, kernel. From the entries in the journals of a node to export
//! requests, and from the receiver's word on them to durable positions.
//!
//! One OS thread with blocking `pread` does it ([`Reader`]); [`core`] is the same without thread, clock and disk. Journals are
//! read as files, without libsystemd: `format` knows the bytes, `file` walks them. Constraints that everything below keeps:
//!
//! - A journal is what its `file_id` says it is, wherever it lies and whatever it is called: rotation renames it. A position
//!   is the sequence number of the next entry in it, kept in `journal-positions` of the state directory; it moves only on an
//!   acknowledgement. There is one request under way at a time, so positions move in the order of the entries.
//! - A record's uid is a function of the journal's bytes: `file_id`, what tells the entry from others, sequence number.
//! - Nothing is mapped, nothing in a journal is believed: offsets stay inside the file and grow, what is not what it should be
//!   is counted and passed over, a turn looks at so many items of a journal and then at the next one.
//! - Journals that are deleted are read to their end through the open handle, up to `logs.pinned_deleted`. What was removed
//!   while no agent ran is counted by its sequence numbers.
//! - What cannot be listed or opened is not gone, and what one listing does not have may have been renamed meanwhile: a position is
//!   forgotten when two listings do not have its journal. A place that the disk does not give is asked for again for half a minute,
//!   then it is counted and passed over. A journal that is another one by now, or an older state of itself, is read as what it is.
//! - Every byte of an entry that was read is in exactly one place of the ledger. An entry's bytes are those of its fields with
//!   their names, uncompressed. Rows have neither namespace nor pod: `journal:<unit>`, `journal:kernel`, `journal:other`, and
//!   `journal` for the entries that `units` and `priority` leave out.
//!
//! journald writes through a mapping and tells nobody; the headers of journals that may grow are looked at twice a second, one
//! `pread` each.
//!
//! Memory, with the defaults (1 MiB requests, `max_line` 1 MiB): pages 1 MiB; one entry: its message twice 1 MiB (as it is
//! and decompressed), its compressed bytes 1.3 MiB, a zstd window of at most 8 MiB (journald's are 2 MiB) while one is
//! decompressed, further fields 32 x 1 KiB; what [`crate::logs::redact`] needs beside; the open request, the one under way until
//! it is compressed, and a spare one, each 1 to 2 MiB; a journal 500 bytes, 4096 of them at most in a directory; 200 rows of 200
//! bytes and 256 resources of 300.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::batch::Batch;
use crate::config;
use crate::logs::redact::RedactError;

pub mod core;
pub mod format;
pub mod metrics;

mod dirs;
mod entry;
pub(crate) mod file;
mod listing;
mod lz4;
mod outgoing;
pub(crate) mod pages;
mod reader;
mod visit;

pub use outgoing::is_ours;
pub use reader::Reader;

/// What the reader is made of.
pub struct JournalDeps {
    /// The `logs` section.
    pub config: config::Logs,
    /// `k8s.cluster.name`; empty = not attached.
    pub cluster: String,
    /// `k8s.node.name`.
    pub node_name: String,
    /// Size and age of a request.
    pub batch: config::Batch,
    /// The host's root directory as this process sees it: no link leads out of it.
    pub host_root: PathBuf,
    /// Where positions and the ledger are kept; exists, and is locked by this process.
    pub state_dir: PathBuf,
    /// Where sealed requests go; it has room for one of ours.
    pub batches: mpsc::Sender<Batch>,
    /// Called at each turn of the loop, at least once a second.
    pub heartbeat: Box<dyn Fn() + Send>,
    /// Where the reader publishes its ledger and counters.
    pub metrics: metrics::JournalMetrics,
}

/// Why the reader could not start.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The state directory cannot be used.
    #[error("journal positions in {path}: {source}")]
    State {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host's root cannot be opened.
    #[error("host root {path}: {source}")]
    Root {
        /// Directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A rule of `logs.redact` cannot be used.
    #[error(transparent)]
    Redact(#[from] RedactError),
    /// A thread or a wake-up channel cannot be made.
    #[error("journal reader: {0}")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
