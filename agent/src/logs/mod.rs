//! The log reader: from bytes in the container log files of a node to sealed export requests, and from the receiver's
//! word on them to durable positions.
//!
//! One OS thread with blocking `pread` does all of it ([`Reader`]); [`core`] is the same without thread, clock, file
//! system and disk, and is what the simulation drives. Constraints that everything below keeps:
//!
//! - A position moves only on an acknowledgement; where a record ends is a function of the file's bytes, or of a cut that
//!   is on disk before the record is sent.
//! - Every byte that was seen in a file is in exactly one place of the [`ledger`]: acknowledged, shed, lost, excluded or
//!   pending.
//! - No bytes are kept per file. What cannot be decided yet (a line without its newline, a fragment without its end) is
//!   kept as offsets and read again. The files are the buffer: when every slot for an unacknowledged request is taken,
//!   reading stops.
//! - A file is what its first entry says it is, wherever it lies and whatever inode it has.
//!
//! The way of a byte: `discover`, `docker_dirs` and `plain_files` (with `plain_owners`) list what changed, `pod_path`, `layout` and `plain_names` name it, `reconcile` tells known files from new ones,
//! `identity` finds what is known of them (by the bytes of `naming`; `twins` and `proof` where files begin alike), `visit` chooses the file, `window` reads and cuts it into lines, `format`, `cri`, `docker` and
//! `join` make them whole, `group` and `grouping` make records of several (by the rules of `multiline`, as `bindings` says),
//! `emit`, `record`, `redact`, `fields` and `resource` dress them, `outbox` fills the request; `settle`
//! hears what became of it (`redo` sends what was refused in smaller requests), `ledger` and `persist` write it down.
//! `parsed` moves the positions, `late` keeps apart what comes late into a renamed file, `rules` says who is left out, `limits` what is shed, `cuts` ends what nobody ends, `loss` counts what nobody can read any more,
//! `decoders` says whose turn it is to decode.
//!
//! Memory of reading and shipping logs, with the defaults (1 MiB requests, `max_line` 1 MiB, 4 in flight). A request is sealed by
//! the record that fills it, so it may hold one line more than its size: 2 MiB at most, 1 MiB where lines are short.
//!
//! | what | bytes |
//! |---|---|
//! | code, stacks, runtimes, the page server | about 8 MiB |
//! | the read buffer | 128 KiB |
//! | one line read again (`joined`, and the room to read into) | at most 2 x `max_line` = 2 MiB; of Docker's, 256 KiB more |
//! | the open request | 1 to 2 MiB |
//! | a line in which [`redact`] found something, before and after | at most 2 x 2 x `max_line` = 4 MiB, and 3 MiB a pattern; nothing without rules |
//! | requests that the exporter has not compressed yet, and spare buffers for the next ones ([`crate::buffers`]; one is made only when none is spare) | together at most `in_flight` = 4 x the same, normally two |
//! | requests in flight | `in_flight` x their compressed size, about 250 KiB; with `compression: none` these are the line above |
//! | the compressor: its context, and room for the result | 1 MiB, and as much as the largest request |
//! | decoders of compressed files | 2 x (576 KiB of window and about 100 KiB); 8 x 230 KiB more where records of both streams lie that far apart in them |
//! | a file: its entry, name and ranges | about 600 |
//! | a lineage: its entry, names, attributes | about 1.5 KiB |
//! | an unfinished line | 24 an extent, at most [`join::most_extents`] (257), normally one: 200 containers in the middle of a 900 KiB line are about 20 KiB, and 340 KiB if the other stream wrote between any two fragments |
//! | an open record of several lines (none without a rule) | about 150, and 24 an extent, as many as a line's at most; a range of 40 for each such record in an unsettled request |
//! | the patterns of `logs.multiline` | 2 MiB each at most, those of pods 0.5 MiB, one for all with the same text; usually 100 KiB |
//! | what `/metrics/self` and `/debug/files` show of a container, and the page while it is made | about 2 KiB |
//!
//! So 1,000 containers and any backlog take about 20 MiB with short lines. Were every request filled by a line of a
//! mebibyte and none of them compressed yet, it would be 8 + 2 + 2 + 8 + 3 + 1.4 + 4 = 29 MiB.

use std::path::PathBuf;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::batch::Batch;
use crate::config;
use crate::pods::PodIndex;

pub mod cri;
pub mod docker;
pub mod fields;
pub mod join;
pub mod ledger;
pub mod metrics;
pub mod multiline;
pub mod pod_path;
pub mod redact;
pub mod spans;

mod bindings;
pub(crate) mod checkpoint;
mod copies;
pub(crate) mod core;
mod cuts;
mod decoders;
mod discover;
pub(crate) mod docker_config;
mod docker_dirs;
mod emit;
mod existing;
pub(crate) mod filter;
pub(crate) mod format;
pub(crate) mod fs;
pub(crate) mod group;
mod grouping;
pub(crate) mod gz;
mod identity;
mod late;
mod layout;
mod limits;
mod lineage;
mod long_line;
mod loss;
mod naming;
mod odd;
mod open;
mod outbox;
mod parsed;
mod persist;
mod plain_files;
pub(crate) mod plain_names;
mod plain_owners;
pub(crate) mod proof;
mod reader;
mod reconcile;
pub(crate) mod record;
mod redo;
pub(crate) mod resource;
mod rules;
mod settle;
mod status;
mod tail;
mod twins;
mod visit;
mod window;

pub use reader::Reader;
pub use tail::FileId;

/// What the reader is made of.
pub struct LogsDeps {
    /// The `logs` section.
    pub config: config::Logs,
    /// `k8s.cluster.name`; empty = not attached.
    pub cluster: String,
    /// `k8s.node.name`.
    pub node_name: String,
    /// Size and age of a request.
    pub batch: config::Batch,
    /// Requests that may be unsettled at a time.
    pub in_flight: usize,
    /// Label keys that are attached to records, `*` globs.
    pub pod_labels: Vec<String>,
    /// The host's root directory as this process sees it: no link leads out of it.
    pub host_root: PathBuf,
    /// The pod log directory as this process sees it (normally below `host_root`).
    pub pod_logs_dir: PathBuf,
    /// Docker's container directory, likewise; it need not be there.
    pub docker_logs_dir: PathBuf,
    /// Where positions and the ledger are kept; exists, and is locked by this process.
    pub state_dir: PathBuf,
    /// What is known of the pods.
    pub pods: PodIndex,
    /// Whether the first batch of a new container may wait up to a second for its pod to be known.
    pub wait_for_metadata: bool,
    /// Where sealed requests go; its capacity is at least `in_flight`.
    pub batches: mpsc::Sender<Batch>,
    /// Called at each turn of the loop, at least once a second.
    pub heartbeat: Box<dyn Fn() + Send>,
    /// Where the reader publishes its ledger and counters.
    pub metrics: metrics::LogMetrics,
}

/// Why the reader could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The state directory cannot be used.
    #[error("read positions in {path}: {source}")]
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
    Redact(#[from] redact::RedactError),
    /// A rule of `logs.multiline` cannot be used.
    #[error(transparent)]
    Multiline(#[from] multiline::MultilineError),
    /// A thread or a wake-up channel cannot be made.
    #[error("log reader: {0}")]
    Thread(#[source] std::io::Error),
}

/// One log file, for `/debug/files`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileStatus {
    /// Below the pod log directory; `docker:/…` is below Docker's container directory, `/…` below the host's root.
    pub path: String,
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container.
    pub container: String,
    /// Uncompressed bytes that were seen.
    pub size: u64,
    /// Position of the next byte to be parsed.
    pub read: u64,
    /// Everything below is settled.
    pub acked: u64,
    /// Bytes that are not settled.
    pub lag_bytes: u64,
    /// Since when there is something that is not settled; 0 = nothing is.
    pub lag_seconds: f64,
    /// `reading`, `idle`, `finished`, `deleted`, `unidentified`, `excluded`, `set_aside`.
    pub state: &'static str,
    /// Whether the state on disk says so too: after a kill just now nothing of it would be sent again, nor counted as lost
    /// were it deleted meanwhile.
    pub persisted: bool,
}

#[cfg(test)]
mod promises;
#[cfg(test)]
mod simulation;
