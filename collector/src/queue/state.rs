//! What writer, keeper and readers share: the segments that exist, the cursors, the counts. No IO under its lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::cursor::{Cursor, Cursors};
use super::fs::Filesystem;
use super::segment::{FRAME_HEADER, Gap, SEGMENT_HEADER, Stamp};
use super::{FullReason, Position, QueueOptions};

/// Segment files end so.
pub(super) const SEGMENT_SUFFIX: &str = ".segment";
/// What is damaged is put here.
pub(super) const DAMAGED_DIR: &str = "damaged";

/// One queue's shared part.
pub(super) struct Shared {
    pub fs: Arc<dyn Filesystem>,
    pub dir: PathBuf,
    pub options: QueueOptions,
    /// Behind the last durable frame; readers wait for it to move. Also sent when the queue closes.
    pub end: watch::Sender<Position>,
    state: Mutex<State>,
    wake: Mutex<Wake>,
    waker: Condvar,
}

/// What the keeper is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wake {
    /// Nothing yet.
    #[default]
    Wait,
    /// A pass now.
    Now,
    /// A last pass, then end.
    Stop,
}

/// What is known of the queue's directory.
#[derive(Debug, Default)]
pub(super) struct State {
    pub segments: BTreeMap<u64, Segment>,
    /// All segment numbers up to this one are used up.
    pub floor: u64,
    pub cursors: Cursors,
    pub damaged: Damaged,
    /// Size of the files under `damaged/`.
    pub damaged_bytes: u64,
    /// Why the last append was refused, if it was.
    pub full: Option<FullReason>,
    pub write_errors: u64,
    pub closed: bool,
}

/// One segment that holds frames, or will.
#[derive(Debug)]
pub(super) struct Segment {
    pub stamp: Stamp,
    /// Behind its last durable frame.
    pub end: u64,
    /// What it takes on disk.
    pub disk_bytes: u64,
    /// The writer appends to it.
    pub active: bool,
    /// Up to here all was durable before something behind it was written: a gap there is damage. Further on it may
    /// be what a crash left of a write that was never acknowledged.
    pub vouched: u64,
    /// Where the gaps begin that were counted.
    pub gaps: BTreeSet<u64>,
    /// One of them was damage.
    pub damaged: bool,
}

/// What was found damaged since the queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Segments that could not be read at all.
    pub segments: u64,
    /// Frames that did not check; at least as many as places that were damaged.
    pub frames: u64,
    /// Records in those frames, as far as it is known.
    pub records: u64,
    /// Bytes in those segments and frames.
    pub bytes: u64,
    /// Bytes of writes that a crash cut off before they were acknowledged.
    pub torn_bytes: u64,
    /// Segments that were deleted by somebody else, found at the start, that a reader was not done with.
    pub missing_segments: u64,
    /// Bytes of frames in those, as far as it is known: there may have been more.
    pub missing_bytes: u64,
    /// Cursor files that did not check: readers without a position of their own began again at the oldest frame.
    pub cursor_files: u64,
}

impl Shared {
    pub fn new(fs: Arc<dyn Filesystem>, dir: PathBuf, options: QueueOptions, state: State) -> Self {
        let end = watch::Sender::new(state.end());
        let (wake, waker) = (Mutex::default(), Condvar::new());
        Self { fs, dir, options, end, state: Mutex::new(state), wake, waker }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn segment_path(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(number))
    }

    pub fn now_unix_nano(&self) -> u64 {
        let since = (self.options.clock)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// See `Queue::register`.
    pub fn register(&self, name: &str, start: Option<Position>) -> Cursor {
        let mut state = self.state();
        let position = start.or_else(|| state.cursors.get(name)).unwrap_or_else(|| state.oldest());
        // A position that lies ahead of all that is there says that segments were lost: what comes goes behind it.
        state.floor = state.floor.max(position.segment);
        if position > state.end() && state.segments.contains_key(&position.segment) {
            state.floor += 1;
        }
        state.cursors.set(name, position);
        Cursor { name: name.to_owned(), position }
    }

    /// Asks the keeper for something; a stop stays a stop.
    pub fn wake(&self, wake: Wake) {
        let mut asked = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if *asked != Wake::Stop {
            *asked = wake;
        }
        self.waker.notify_one();
    }

    /// Waits until the keeper is asked for something, at most `patience`.
    pub fn wait(&self, patience: Duration) -> Wake {
        let asked = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |asked: &mut Wake| *asked == Wake::Wait;
        let (mut asked, _) =
            self.waker.wait_timeout_while(asked, patience, idle).unwrap_or_else(PoisonError::into_inner);
        let woken = *asked;
        if woken == Wake::Now {
            *asked = Wake::Wait;
        }
        woken
    }

    /// Counts a gap, once however many readers meet it. True the first time that it is met and is damage.
    pub fn count_gap(&self, segment: u64, gap: &Gap) -> bool {
        let mut state = self.state();
        let State { segments, damaged, .. } = &mut *state;
        segments.get_mut(&segment).is_some_and(|segment| segment.count(gap, damaged))
    }
}

impl State {
    /// Behind the last durable frame of all.
    pub fn end(&self) -> Position {
        self.segments
            .last_key_value()
            .map(|(number, segment)| Position { segment: *number, offset: segment.end })
            .unwrap_or_default()
    }

    /// What segments and damaged files take on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.disk_bytes).sum::<u64>() + self.damaged_bytes
    }

    /// The oldest frame that is left, or where the next one will be.
    pub fn oldest(&self) -> Position {
        self.segments
            .first_key_value()
            .map(|(number, _)| Position { segment: *number, offset: SEGMENT_HEADER })
            .unwrap_or_default()
    }

    /// Bytes of frames at and behind a position.
    pub fn bytes_from(&self, from: Position) -> u64 {
        let ahead = self.segments.range(from.segment..).map(|(number, segment)| {
            let start =
                if *number == from.segment { from.offset.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
            segment.end.saturating_sub(start)
        });
        ahead.sum()
    }

    /// The first place at or behind `from` that can hold a frame: positions at the end of a segment, or in one that
    /// is gone, mean the start of the next. `None` while there is nothing behind it.
    pub fn resolve(&self, from: Position) -> Option<(Position, u64)> {
        self.segments.range(from.segment..).find_map(|(number, segment)| {
            let offset =
                if *number == from.segment { from.offset.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
            (offset < segment.end).then_some((Position { segment: *number, offset }, segment.end))
        })
    }
}

impl Segment {
    pub fn sealed(stamp: Stamp, end: u64, vouched: u64) -> Self {
        let disk_bytes = end + FRAME_HEADER;
        Self { stamp, end, disk_bytes, active: false, vouched, gaps: BTreeSet::new(), damaged: false }
    }

    /// Counts a gap that was not met before; true if it is damage.
    pub fn count(&mut self, gap: &Gap, counts: &mut Damaged) -> bool {
        if !self.gaps.insert(gap.offset) {
            return false;
        }
        let bytes = gap.next - gap.offset;
        if gap.offset >= self.vouched {
            counts.torn_bytes += bytes;
            return false;
        }
        self.damaged = true;
        counts.frames += u64::from(gap.frames);
        counts.records += gap.records;
        counts.bytes += bytes;
        true
    }
}

/// The file name of a segment: 20 digits, so that names sort as numbers.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:020}{SEGMENT_SUFFIX}")
}

/// The number in a segment's file name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
