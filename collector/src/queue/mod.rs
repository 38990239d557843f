//! The durable queue between receivers and sinks: a log of opaque frames in a directory.
//!
//! # What it stands on
//!
//! - A write may be lost, torn at any byte or overtaken by a later one until an fsync of its file has succeeded; a
//!   name, until an fsync of its directory has. Bytes that were synced change only by damage.
//! - After an fsync that failed, the kernel may call pages clean that are not on disk. No later fsync of that file
//!   says anything about its data.
//! - The process may be killed, and the machine may lose power, at any point. A volume may run full, and come back.
//! - One process has the directory; the lock of the data directory sees to it.
//!
//! # What it promises
//!
//! 1. A frame is acknowledged only when it, its segment's header and its segment's name are durable.
//! 2. What was acknowledged is read by every cursor that was there before it: in the order of positions, once in a
//!    pass, byte for byte. What was not acknowledged may be read too: once in a pass, and whole.
//! 3. What does not check is never read. It is counted once, told apart from what a crash cut off, and its segment
//!    goes to `damaged/` in place of being deleted. Damage costs the frames that it touches and no others, except
//!    where it takes both copies of a segment's header: that costs the segment.
//! 4. Opening never fails for what the files hold.
//! 5. A position that was given out is never given out again, and later ones are greater.
//! 6. Segments and `damaged/` stay within `max_bytes`; the space of a segment is reserved before it is used. A new
//!    segment is begun only if `min_free` stays free behind it.
//! 7. A segment is deleted only when all cursors are past it, also those of readers that have not come back yet.
//! 8. Memory: the frames that wait (at most 1024, and 512 that are being written) keep what their requests reserved
//!    for them, also where the sender has gone away; a reader holds at most 256 KiB, or one frame.
//!
//! # Files
//!
//! ```text
//! <number: 20 digits>.segment   frames; numbers grow, mostly by the clock: the Unix time in milliseconds
//! cursors                       all cursors; replaced by rename
//! damaged/<number>.segment      at most a tenth of max_bytes, oldest deleted first
//! ```
//!
//! All numbers are little-endian; CRC is CRC-32 (IEEE).
//!
//! ```text
//! segment  header block of 4096 bytes, the header at 0 and again at 2048, zeros else; frames; an end mark if sealed
//! header   0 magic "SONDEQ" 00 01 | 8 number | 16 salt | 24 created, Unix ns | 32 CRC of these 32 bytes
//! frame    0 magic f5 "SQF" | 4 payload length | 8 CRC of the payload | 12 sequence: number of the frame in its
//!          segment | 16 received, Unix ns | 24 records | 28 uncompressed length | 32 durable | 40 kind: 0 frame,
//!          1 end | 41 signal | 42 codec | 43 resend | 44 CRC of salt, segment number, own offset and these 44 bytes
//!          48 payload
//! end      the same header; sequence = number of frames, no payload
//! cursors  magic "SONDEC" 00 02 | number of cursors u32 | each: name length u16, name, segment u64, offset u64 |
//!          all segments: number u64, end of its frames u64 | CRC of all before it
//! ```
//!
//! - The salt is random: a payload that holds a copy of a frame, or leftovers of another file, never check as one.
//!   So after damage the next frame can be found by looking for the magic.
//! - The cursor file lists the segments, so that one that somebody has deleted is missed at the next start. Without
//!   the list and the number of cursors (version 01) it is read too.
//! - `durable` is how far the segment was durable when the frame was written. A gap below it is damage to what was
//!   acknowledged; one that nothing behind it vouches for is the torn end of a last write.
//!
//! # Who does what
//!
//! - `writer` (one thread) owns the segment that is appended to. It takes all that waits, writes it at once, syncs
//!   once, answers all; what comes meanwhile is the next batch. A failed write or fsync ends the segment at what was
//!   durable, refuses its requests, and the next batch begins another one. So does a segment that turns out to have
//!   been deleted when it is synced.
//! - `retain` (one thread) writes the cursors and deletes segments, at most once a second or when space is short.
//! - `reader`s read what is durable, on tokio's blocking threads.
//! - `recover` runs before all of them. It never appends to an old segment: it cuts the last one behind its last
//!   whole frame and seals it; sealed segments are not read at the start.
//! - `state` is what they share; no IO happens under its lock.

mod cursor;
mod frame;
mod fs;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod inspect;
mod reader;
mod recover;
mod retain;
mod segment;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use sonde_daemon::receive::admission::Grant;
use sonde_daemon::units::{Size, UnitError};
use tokio::sync::{mpsc, oneshot};

pub use cursor::Cursor;
pub use frame::{Codec, Frame, Position, Signal};
pub use fs::{File, Filesystem, Listed, RealFilesystem, Space};
pub use reader::{Entry, Reader};
pub use state::Damaged;

use segment::{FRAME_HEADER, FrameHeader, SEGMENT_HEADER};
use state::{Shared, Wake};
use writer::{Message, Request, Writer};

/// Frames that wait for the writer; each holds the memory that its request has reserved.
const WAITING_FRAMES: usize = 1024;

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// What segments and damaged files may take on disk, bytes.
    pub max_bytes: u64,
    /// What stays free on the volume.
    pub min_free: MinFree,
    /// Size of a segment, bytes; a frame that is larger gets one of its own. Taken as at most a quarter of
    /// `max_bytes`, and at least 16 KiB.
    pub segment_bytes: u64,
    /// How long a place that the disk refuses to read is tried again before it counts as damaged.
    pub read_patience: Duration,
    /// The time of day.
    pub clock: fn() -> SystemTime,
}

/// What stays free on the volume, so that the queue is never what fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// Hundredths of the volume.
    Percent(u8),
    /// Bytes.
    Bytes(u64),
}

/// Why a queue cannot be opened. What is in its files is never a reason.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The directory cannot be made or listed.
    #[error("queue directory {}: {source}", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("queue thread: {0}")]
    Thread(io::Error),
}

/// Why a frame is not in the queue. After `Full` and `Disk` the sender is to try again later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// No space that may be used.
    #[error("queue is full: {0}")]
    Full(FullReason),
    /// It could not be written, or not be made durable.
    #[error("queue disk: {0}")]
    Disk(Arc<io::Error>),
    /// It would not fit into an empty queue: trying again is no use.
    #[error("frame of {bytes} bytes is larger than the queue")]
    TooLarge {
        /// Its payload.
        bytes: usize,
    },
    /// The queue is closed.
    #[error("queue is closed")]
    Closed,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullReason {
    /// `max_bytes`.
    Budget,
    /// `min_free`.
    MinFree,
    /// The volume itself, or a quota on it.
    NoSpace,
}

/// What a queue holds and how it is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Disk space of segments and damaged files, bytes.
    pub disk_bytes: u64,
    /// Number of segments.
    pub segments: usize,
    /// The oldest frame that is left.
    pub oldest: Position,
    /// Behind the last durable frame.
    pub end: Position,
    /// Every cursor, by name.
    pub cursors: Vec<CursorStatus>,
    /// Found damaged since the queue was opened.
    pub damaged: Damaged,
    /// Why the last append was refused, if it was.
    pub full: Option<FullReason>,
    /// Writes and fsyncs that failed since the queue was opened.
    pub write_errors: u64,
}

/// How far a reader is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorStatus {
    /// Its name.
    pub name: String,
    /// The first frame that it is not done with.
    pub position: Position,
    /// Bytes of frames that it is not done with.
    pub bytes: u64,
    /// Age of the oldest of them by the time it was received; zero without one. Known a second late.
    pub oldest: Duration,
}

/// A queue in a directory. Clones are the same queue.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    messages: mpsc::Sender<Message>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    first_fresh: Position,
}

impl Queue {
    /// Opens the queue in `dir`, or makes one. Blocks: a segment that the last process did not seal is read. The
    /// caller holds the lock of the data directory.
    pub fn open(dir: &Path, options: QueueOptions, fs: Arc<dyn Filesystem>) -> Result<Self, QueueError> {
        let state = recover::recover(&*fs, dir, options.read_patience)
            .map_err(|source| QueueError::Directory { dir: dir.to_owned(), source })?;
        let first_fresh = Position { segment: state.floor + 1, offset: 0 };
        let shared = Arc::new(Shared::new(fs, dir.to_owned(), options.bounded(), state));
        let (messages, receiver) = mpsc::channel(WAITING_FRAMES);
        let writer = Writer::new(shared.clone());
        let keeper = shared.clone();
        let threads = [
            thread::Builder::new().name("queue-writer".into()).spawn(move || writer.run(receiver)),
            thread::Builder::new().name("queue-keeper".into()).spawn(move || retain::run(&keeper)),
        ];
        let threads = threads.into_iter().collect::<Result<Vec<_>, _>>().map_err(QueueError::Thread)?;
        Ok(Self { shared, messages, threads: Arc::new(Mutex::new(threads)), first_fresh })
    }

    /// Whether it begins with this opening: neither a segment nor a reader's place was there, so its positions have nothing to do
    /// with those of an earlier one.
    pub fn is_new(&self) -> bool {
        self.first_fresh.segment == 1
    }

    /// Appends a frame; once this returns its position, the frame is durable. Waits for a place among those that
    /// wait to be written. When the future is dropped, the frame may be in the queue or not.
    pub async fn append(&self, frame: Frame) -> Result<Position, AppendError> {
        self.append_held(frame, None).await
    }

    /// As [`Self::append`]; `grant`, the memory that covers the frame, is let go with it: not before it is written or
    /// refused, also when the future is dropped.
    pub async fn append_held(
        &self,
        frame: Frame,
        grant: Option<Arc<Grant>>,
    ) -> Result<Position, AppendError> {
        let bytes = frame.payload.len();
        let most = self.shared.options.max_bytes.saturating_sub(SEGMENT_HEADER + 2 * FRAME_HEADER);
        let len = u32::try_from(bytes).ok().filter(|len| u64::from(*len) <= most);
        let len = len.ok_or(AppendError::TooLarge { bytes })?;
        let header = FrameHeader::new(&frame, len, crc32fast::hash(&frame.payload));
        let (answer, answered) = oneshot::channel();
        let request = Message::Append(Request { header, frame, grant, answer });
        self.messages.send(request).await.map_err(|_| AppendError::Closed)?;
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// Makes a reader's place known: from now on nothing behind it is deleted. `start` is the reader's own word where
    /// it keeps its position itself; else the queue's is taken, or, for a new name, the oldest frame. Names that are
    /// known from earlier hold frames back even before they are registered, until they are forgotten.
    pub fn register(&self, name: &str, start: Option<Position>) -> Cursor {
        self.shared.register(name, start)
    }

    /// Names of all cursors, registered in this life of the queue or an earlier one.
    pub fn cursors(&self) -> Vec<String> {
        self.shared.state().cursors.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// Drops a cursor that nobody will use again: it no longer holds frames back.
    pub fn forget(&self, name: &str) {
        self.shared.state().cursors.forget(name);
        self.shared.wake(Wake::Now);
    }

    /// Reads from a position on.
    pub fn reader(&self, from: Position) -> Reader {
        Reader::new(self.shared.clone(), from)
    }

    /// Says that a reader is done with all before `position`. Cursors only move forward. The cursor file follows
    /// within a second and at `close`: after a crash, a reader without a position of its own may get frames again.
    pub fn release(&self, name: &str, position: Position) {
        let mut state = self.shared.state();
        let before = state.cursors.get(name);
        let moved = state.cursors.advance(name, position);
        let urgent = state.full.is_some() || before.is_some_and(|before| before.segment != position.segment);
        drop(state);
        if moved && urgent {
            self.shared.wake(Wake::Now);
        }
    }

    /// Frames before this position were appended by an earlier process: what a reader without a position of its own
    /// gets of them, it may have had before.
    pub fn first_fresh(&self) -> Position {
        self.first_fresh
    }

    /// Whether its threads run. One that has ended before `close` was a bug's; a restart helps.
    pub fn is_running(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !threads.iter().any(JoinHandle::is_finished)
    }

    /// What was found damaged since it was opened. No IO.
    pub fn damaged(&self) -> Damaged {
        self.shared.state().damaged
    }

    /// Numbers for metrics and people. No IO.
    pub fn status(&self) -> Status {
        let now = self.shared.now_unix_nano();
        let state = self.shared.state();
        let cursors = state.cursors.iter().map(|(name, place)| {
            let bytes = state.bytes_from(place.position);
            let received = place.received_unix_nano.filter(|_| bytes > 0).unwrap_or(now);
            CursorStatus {
                name: name.to_owned(),
                position: place.position,
                bytes,
                oldest: Duration::from_nanos(now.saturating_sub(received)),
            }
        });
        Status {
            disk_bytes: state.disk_bytes(),
            segments: state.segments.len(),
            oldest: state.oldest(),
            end: state.end(),
            cursors: cursors.collect(),
            damaged: state.damaged,
            full: state.full,
            write_errors: state.write_errors,
        }
    }

    /// Takes no more frames, makes durable and answers those that wait, writes the cursors. Readers end when they
    /// have read all. Without it a queue ends the same way in the background when its last clone is dropped.
    pub async fn close(&self) {
        let _ = self.messages.send(Message::Close).await;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            min_free: MinFree::Percent(10),
            segment_bytes: 64 << 20,
            read_patience: Duration::from_secs(60),
            clock: SystemTime::now,
        }
    }
}

impl QueueOptions {
    /// For tests: however full the disk is on which they run.
    #[cfg(test)]
    pub(crate) fn on_any_disk() -> Self {
        Self { min_free: MinFree::Bytes(0), ..Self::default() }
    }

    fn bounded(self) -> Self {
        Self { segment_bytes: self.segment_bytes.min(self.max_bytes / 4).max(16 << 10), ..self }
    }
}

impl MinFree {
    /// In bytes, of a volume of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => total / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl FromStr for MinFree {
    type Err = UnitError;

    /// `10%`, or a size such as `5GiB`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let percent = text.trim().strip_suffix('%').map(|number| number.trim().parse::<u8>());
        match percent {
            Some(Ok(percent)) if percent < 100 => Ok(Self::Percent(percent)),
            Some(_) => Err(UnitError::Share(text.to_owned())),
            None => text.parse::<Size>().map(|size| Self::Bytes(size.0)),
        }
    }
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(FullReason::NoSpace),
            _ => Self::Disk(Arc::new(error)),
        }
    }
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Budget => "max_bytes is reached",
            Self::MinFree => "min_free is reached",
            Self::NoSpace => "no space on the volume",
        })
    }
}
