//! Read positions and the ledger on disk.
//!
//! Constraints: what is written was acknowledged (or settled otherwise) before; a file may be torn at its end, damaged
//! in the middle, or unwritable for a while, and the agent starts and works all the same; what is sent twice for that
//! the record uids absorb.
//!
//! Format of `positions`: frames of `magic (4) | length (u32 LE) | CRC-32 of the payload (u32 LE) | payload`. A payload
//! is a format version (1 byte) and entries; all that one write changes is one frame, so positions and ledger agree
//! after any crash. A frame has the lowest version that has a name for all that is in it (2: multi-line rules; 3: plain files). A later entry for the same key replaces an earlier one. The file is appended to with one fsync at
//! most once a second, and rewritten (new file, fsync, rename, fsync of the directory) when it has grown to several
//! times what is live. The magic lets reading go on behind a damaged frame.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::time::{Duration, Instant};

use sonde_wire::logs::Stream;
use sonde_wire::uid::FileHash;

use super::ledger::{Row, RowKey};
use super::proof::Proof;

mod dir;
mod disk;
mod frame;

pub use disk::DiskStore;
use frame::{frame, read};

const COMPACT_ABOVE: u64 = 1 << 20;
const RETRY: Duration = Duration::from_secs(1);

/// Names a file beyond rename, compression and restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// Name of the pod's directory.
    pub pod_dir: String,
    /// Container.
    pub container: String,
    /// Restart count.
    pub restart: u32,
    /// Of the first entry.
    pub hash: FileHash,
}

/// A place where the clock ended a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// The record ends before this byte.
    pub offset: u64,
    /// The unfinished line of this stream ends there; none = a line without its newline ends there.
    pub stream: Option<Stream>,
}

/// What is kept of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// Bytes of the first entry that were hashed.
    pub head_len: u16,
    /// Largest size seen, uncompressed.
    pub seen: u64,
    /// Settled ranges.
    pub settled: Vec<(u64, u64)>,
    /// Above the watermark.
    pub cuts: Vec<Cut>,
    /// Records stamped before are left out (nanoseconds since the epoch), 0 = none are.
    pub cutoff: u64,
    /// Tells it from another file that begins with the same bytes; 0 = nothing does.
    pub salt: u64,
    /// Of a plain file: what shows that it is the same one.
    pub proof: Option<Proof>,
    /// Its last known name.
    pub name: String,
    /// Device and inode by which it was known; none = it had no name any more.
    pub node: Option<(u64, u64)>,
    /// Multi-line rules, each from a byte on; an empty one is none.
    pub rules: Vec<(u64, String)>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A file's state, whole.
    File(FileKey, FileState),
    /// Nothing needs to be known of the file any more.
    Gone(FileKey),
    /// A ledger row, whole.
    Row(RowKey, Row),
    /// The row is folded into its namespace's.
    Folded(RowKey),
    /// Rotations that were not seen, so far.
    Gaps(u64),
    /// The process stopped: what was written before is all that it read.
    Stopped,
    /// The files that this path of `logs.files` means were found once: what is new there is read from its start.
    Begun(String),
}

/// What an earlier process kept, as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// No file: a first start, or somebody removed it.
    #[default]
    Nothing,
    /// A file without a byte.
    Empty,
    /// A file of ours.
    State,
    /// Something in it was written by a newer version than this one.
    Newer,
}

/// All that was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Files.
    pub files: HashMap<FileKey, FileState>,
    /// Ledger rows.
    pub rows: BTreeMap<RowKey, Row>,
    /// Rotations that were not seen.
    pub gaps: u64,
    /// Paths of `logs.files` whose files were found once.
    pub begun: BTreeSet<String>,
    /// What an earlier process kept, as a whole.
    pub found: Found,
    /// Bytes in the middle that could not be read.
    pub damaged: u64,
    /// Nothing was written behind [`Entry::Stopped`].
    pub stopped: bool,
}

/// Where frames are kept. `append` and `replace` are durable when they return.
pub trait Store: Send {
    /// All bytes; none if there is nothing yet.
    fn load(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Adds bytes at the end; on failure the end is where it was.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Puts other bytes in the place of all, at once.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Keeps the present bytes under another name, for people.
    fn set_aside(&mut self) -> io::Result<()>;
}

/// The writer of the state.
pub struct Checkpoints {
    store: Box<dyn Store>,
    len: u64,
    compacted_len: u64,
    retry_at: Option<Instant>,
    said: bool,
    must_replace: bool,
    errors: u64,
}

impl Checkpoints {
    /// Reads what there is. A damaged file is set aside, said once, and what is readable of it is used.
    pub fn open(mut store: Box<dyn Store>) -> io::Result<(Self, State)> {
        let bytes = store.load()?;
        let state = bytes.as_deref().map(read).unwrap_or_default();
        let mut must_replace = bytes.is_none();
        if state.found == Found::Empty {
            tracing::warn!(
                "read positions are empty: every log file is read again, the collector drops what it has"
            );
            must_replace = true;
        }
        if state.found == Found::Newer {
            tracing::warn!(
                "read positions were written by a newer version: set aside; what it read is read again, the collector \
                 drops what it has"
            );
        } else if state.damaged > 0 {
            tracing::warn!(
                bytes = state.damaged,
                "read positions are damaged: set aside; what is readable is used, other files are read again, the \
                 collector drops what it has"
            );
        }
        if state.damaged > 0 {
            if let Err(error) = store.set_aside() {
                tracing::warn!(%error, "cannot set damaged read positions aside");
            }
            must_replace = true;
        }
        let len = bytes.map_or(0, |bytes| bytes.len() as u64);
        Ok((
            Self { store, len, compacted_len: len, retry_at: None, said: false, must_replace, errors: 0 },
            state,
        ))
    }

    /// Whether the next write should be all of the live state rather than changes.
    pub fn wants_all(&self) -> bool {
        self.must_replace || self.len > COMPACT_ABOVE.max(4 * self.compacted_len)
    }

    /// Whether a failed write is to be tried again already.
    pub fn may_write(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| now >= at)
    }

    /// Failed writes so far.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Whether the last write failed.
    pub fn failing(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Writes changes (or, with `all`, the whole live state); durable when it returns true.
    pub fn write(&mut self, entries: &[Entry], all: bool, now: Instant) -> bool {
        let frame = frame(entries);
        let done = if all { self.store.replace(&frame) } else { self.store.append(&frame) };
        match done {
            Ok(()) => {
                self.len = if all { frame.len() as u64 } else { self.len + frame.len() as u64 };
                if all {
                    self.compacted_len = self.len;
                    self.must_replace = false;
                }
                if self.said {
                    tracing::info!("read positions are written again");
                }
                (self.retry_at, self.said) = (None, false);
                true
            }
            Err(error) => {
                self.errors += 1;
                self.retry_at = Some(now + RETRY);
                if !self.said {
                    tracing::error!(%error, "cannot write read positions: shipping goes on, a restart would send again");
                    self.said = true;
                }
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
