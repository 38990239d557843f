//! The embedded store: a sink with a query side.
//!
//! # Promises
//! - Each record with a uid (`log.record.uid` in the agent's form) is stored once, within retention, across crashes
//!   of agent and collector; records without one are stored as they come.
//! - A record is found by queries as soon as [`Writer::ingest`] returns, and exactly once by each query, also while
//!   a commit moves it from memory to disk.
//! - What [`Writer::commit`] returned is on disk; the queue may forget everything before that cursor.
//!
//! # Form
//! Slices by arrival time (`slice-<number>/`, [`mod@slice`]), each a file of compressed blocks and an index of them.
//! Retention deletes whole slices. One [`Writer`], owned by the delivery thread; any number of readers, which work
//! on a snapshot: the slices at one commit and the uncommitted records of that moment.
//!
//! # A commit
//! 1. Blocks are cut from the uncommitted records, appended to the newest slice's `blocks` and fsynced.
//! 2. One index document a block is added; tantivy's commit makes them durable together with the queue's cursor (its
//!    `meta.json` is replaced by a rename). This is the instant: before it, the blocks' file is as long as the
//!    commit before says and the frames are read again; after it, they are not.
//! 3. The index directory is fsynced; the snapshot is swapped; only then the queue may forget.
//!
//! It is made in steps ([`Writer::commit_step`]), a few blocks at a time, and intake goes on between them: what is
//! taken after its beginning is left for the next one. Its end, which waits for the index and for the fsyncs, is made
//! on a thread of its own.
//!
//! A slice whose index is damaged gets a new one, made from its blocks ([`mod@rebuild`]); only one without a whole
//! block is set aside. Files that are deleted under the running collector are missed, said and begun anew.
//!
//! After an error the writer lets go of the slice, opens it again at its last commit and tries anew from memory.
//!
//! # Memory
//! At most, beside what is mapped from files and can be dropped by the kernel:
//!
//! | what | bytes |
//! |---|---|
//! | uncommitted records | `commit_bytes` (32 MiB); while commits last or fail up to twice that, and one request |
//! | a commit | 16 MB index writer, 8 bytes a record of one container (40 while they are sorted), tokens of the blocks that wait for the index (under 1 MiB each) |
//! | a merge of index segments | a few MiB |
//! | known files, offsets of decoded blocks | 15 MB + 8 MiB + 16 MB ([`seen`]); only what re-sent data makes necessary |
//! | followers | 16 MiB together ([`tail`]), only while there are some |
//! | a query | 16 MiB, one block, 100 bytes a block of the slices that it is in, and while it lasts the uncommitted records of its beginning |

mod active;
pub(crate) mod block;
mod cutting;
mod filter;
mod open;
mod origin;
mod pending;
mod query;
mod rebuild;
pub(crate) mod record;
mod row;
mod seen;
mod slice;
mod status;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;
pub(crate) mod words;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use filter::{Filter, Sieve};
pub use origin::{NAMES, Origin};
pub use pending::Chunk;
pub use query::{Count, Order, Query, Step};
pub use row::{BodyKind, Row, Stream, rows};
pub use status::Status;
pub use tail::{Followed, Follower};
pub use text::{Needle, QueryError};
pub use writer::Writer;

use pending::Pending;
use slice::Slice;

/// How the store keeps what it is given.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Age at which records go, by arrival; their slice goes when its newest record is that old.
    pub retention: Duration,
    /// Bytes on disk above which the oldest slices go.
    pub max_bytes: u64,
    /// Bytes of uncommitted records at which they are committed. While a commit lasts, or fails, intake goes on to
    /// twice this.
    pub commit_bytes: usize,
    /// Age of the oldest uncommitted record at which they are committed.
    pub commit_interval: Duration,
    /// Bytes on disk at which a new slice is begun.
    pub slice_bytes: u64,
    /// Age at which a new slice is begun.
    pub slice_age: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::new(Duration::from_secs(7 * 86_400), 20 << 30)
    }
}

impl StoreOptions {
    /// The usual options with this retention by age and by bytes on disk.
    pub fn new(retention: Duration, max_bytes: u64) -> Self {
        Self {
            retention,
            max_bytes,
            commit_bytes: 32 << 20,
            commit_interval: Duration::from_secs(30),
            // A tenth of what is kept goes at a time at most.
            slice_bytes: (max_bytes / 10).clamp(1 << 20, 512 << 20),
            slice_age: (retention / 10).clamp(Duration::from_secs(1), Duration::from_secs(3600)),
        }
    }
}

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The index said no.
    #[error("{}: {source}", dir.display())]
    Index {
        /// The slice.
        dir: PathBuf,
        /// What it said.
        source: tantivy::TantivyError,
    },
    /// A slice is not what was written.
    #[error("{}: {what}", dir.display())]
    Damaged {
        /// The slice.
        dir: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl StoreError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn index(dir: &Path, source: tantivy::TantivyError) -> Self {
        Self::Index { dir: dir.to_owned(), source }
    }

    /// Whether the disk cannot read what it holds. It may be able to a moment later.
    fn is_unreadable(&self) -> bool {
        self.cause().and_then(std::io::Error::raw_os_error).is_some_and(is_bad_medium)
    }

    /// The system's error behind it, if there is one.
    fn cause(&self) -> Option<&std::io::Error> {
        use tantivy::TantivyError;
        use tantivy::directory::error::{OpenDirectoryError, OpenReadError};
        match self {
            Self::Damaged { .. } => None,
            Self::Io { source, .. } => Some(source),
            Self::Index { source, .. } => match source {
                TantivyError::IoError(error)
                | TantivyError::OpenReadError(OpenReadError::IoError { io_error: error, .. })
                | TantivyError::OpenDirectoryError(OpenDirectoryError::IoError { io_error: error, .. }) => {
                    Some(error)
                }
                _ => None,
            },
        }
    }

    /// Whether what is on disk is wrong, and not only out of reach now: no file descriptor left, no permission, a
    /// volume that does not answer.
    fn is_damage(&self) -> bool {
        use tantivy::TantivyError;
        use tantivy::directory::error::OpenDirectoryError;
        if let Some(error) = self.cause() {
            return is_content(error);
        }
        match self {
            Self::Damaged { .. } | Self::Io { .. } => true,
            Self::Index { source, .. } => !matches!(
                source,
                TantivyError::OpenDirectoryError(OpenDirectoryError::FailedToCreateTempDir(_))
                    | TantivyError::OpenWriteError(_)
                    | TantivyError::LockFailure(..)
                    | TantivyError::SystemError(_)
            ),
        }
    }
}

/// Whether an error tells of what is on disk: of files that are missing or end too early. The rest is the system's.
fn is_content(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    error.raw_os_error().is_none() || matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// EIO, and what file systems say of checksums that do not hold: EBADMSG, EUCLEAN (include/uapi/asm-generic/errno.h).
fn is_bad_medium(errno: i32) -> bool {
    matches!(errno, 5 | 74 | 117)
}

/// The store's query side; clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What writer and readers share.
struct Shared {
    state: Mutex<State>,
    counters: status::Counters,
    tail: Arc<tail::Tail>,
}

/// What a reader takes a snapshot of. A record is in exactly one of the two at any time.
struct State {
    slices: Arc<[Arc<Slice>]>,
    pending: Pending,
}

impl Store {
    /// Follows what the store takes from now on.
    pub fn follow(&self) -> Follower {
        self.shared.tail.follow()
    }

    /// Numbers for metrics and people. No IO.
    pub fn status(&self) -> Status {
        self.shared.counters.status(&self.shared.state())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
