//! How far the sink has come, to the point, across a kill: the queue's own cursor follows within a second only, and what a
//! server has of a series it refuses to take again where it has something newer.
//!
//! A file of 40 bytes in the queue's directory, written after each request that was taken: magic `SONDES` 00 01, segment,
//! offset, points of the frame at that place that are settled (each u64, little-endian), CRC-32 of these. It is not synced: a
//! kill leaves it as it is, and after a loss of power it is at worst behind or torn, which costs doubt and nothing else. It
//! goes with the queue: a position of another queue would mean nothing.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::deliver::Batch;
use crate::deliver::batch::State;
use crate::queue::Position;

const MAGIC: [u8; 8] = *b"SONDES\x00\x01";
const LEN: usize = 8 + 3 * 8 + 4;
/// Batches that are not settled, at most, 24 bytes each.
const OPEN: usize = 1024;

/// A place between two points of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The frame.
    pub frame: Position,
    /// Points of it that are settled.
    pub points: u64,
}

/// Whether what was refused is among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// It is, on disk.
    AreDurable,
    /// It is in memory alone: to be met again after a kill.
    MayBeLost,
}

/// The file.
pub struct Sent {
    file: File,
    /// Where an earlier process was.
    before: Place,
    progress: Mutex<Progress>,
}

/// How far this process is.
#[derive(Default)]
struct Progress {
    /// As it is in the file.
    written: Place,
    /// The first point of each batch that was seen and is not settled: one that waits for a point that the server cannot
    /// cope with is overtaken by others, and the file must not be ahead of it.
    open: BTreeSet<Place>,
    /// They were too many: the file stays as it is.
    lost: bool,
}

impl Sent {
    /// Opens the file, or makes one.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; LEN];
        let before = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Place::default(),
            Err(error) => return Err(error),
        };
        let progress = Mutex::new(Progress { written: before, ..Progress::default() });
        Ok(Self { file, before, progress })
    }

    /// Settles what an earlier process is known to have delivered.
    pub fn recall(&self, batch: &mut Batch) {
        let units = Arc::clone(batch.units());
        for unit in units.iter().filter(|unit| unit.position <= self.before.frame) {
            let all = unit.position < self.before.frame;
            let settled =
                if all { unit.records } else { usize::try_from(self.before.points).unwrap_or(usize::MAX) };
            for record in unit.first..unit.first + settled.min(unit.records) {
                batch.duplicate(record);
            }
        }
    }

    /// Writes down how far the sink is after something was settled in a batch: up to the first point of any batch that is
    /// not.
    pub fn note(&self, batch: &Batch, refusals: Refusals) {
        let (Some(first), Some(last)) = (batch.units().first(), batch.units().last()) else { return };
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.open.retain(|place| place.frame < first.position || place.frame > last.position);
        if let Some(place) = first_open(batch, refusals) {
            progress.open.insert(place);
        }
        let end = Place { frame: last.position, points: last.records as u64 };
        let place = progress.open.first().copied().unwrap_or(end);
        if progress.open.len() > OPEN {
            (progress.lost, progress.open) = (true, BTreeSet::new());
        }
        if place > progress.written && !progress.lost {
            progress.written = place;
            // What it is for is less to do after a kill; the queue's own cursor is the promise.
            let _ = self.file.write_all_at(&encode(place), 0);
        }
    }
}

/// The first point of a batch that would be missed if it was never looked at again.
fn first_open(batch: &Batch, refusals: Refusals) -> Option<Place> {
    let is_open = |state: &State| match state {
        State::Refused => refusals == Refusals::MayBeLost,
        state => state.is_open(),
    };
    batch.units().iter().find_map(|unit| {
        let states = &batch.states()[unit.first..unit.first + unit.records];
        let points = states.iter().position(is_open)? as u64;
        Some(Place { frame: unit.position, points })
    })
}

fn encode(place: Place) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    for (n, number) in [place.frame.segment, place.frame.offset, place.points].into_iter().enumerate() {
        bytes[8 + 8 * n..16 + 8 * n].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..LEN - 4]);
    bytes[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LEN]) -> Option<Place> {
    let (content, crc) = bytes.split_at(LEN - 4);
    if !content.starts_with(&MAGIC) || crc32fast::hash(content).to_le_bytes() != *crc {
        return None;
    }
    let mut numbers = content[8..].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let (segment, offset, points) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some(Place { frame: Position { segment, offset }, points })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::batch::{State, Unit};
    use crate::queue::Signal;

    fn batch() -> Batch {
        batch_of(0..3)
    }

    /// Of frames of five points each.
    fn batch_of(frames: std::ops::Range<usize>) -> Batch {
        let begin = frames.start;
        let unit = |n: usize| Unit {
            signal: Signal::Metrics,
            position: Position { segment: 7, offset: 100 * n as u64 },
            received_unix_nano: 1,
            bytes: Bytes::new(),
            first: (n - begin) * 5,
            records: 5,
            came: None,
        };
        Batch::new(frames.map(unit).collect(), |_| true)
    }

    /// How many of the first `frames` frames' points a process that begins now takes for settled.
    fn known(path: &Path, frames: usize) -> usize {
        let mut batch = batch_of(0..frames);
        Sent::open(path).unwrap().recall(&mut batch);
        5 * frames - batch.open()
    }

    #[test]
    fn a_refused_point_is_met_again_until_it_is_durable_among_the_dead_letters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        let mut batch = batch();
        (0..15).filter(|record| *record != 6).for_each(|record| batch.delivered(record));
        batch.refuse(6, "400", "bad");
        sent.note(&batch, Refusals::MayBeLost);
        assert_eq!(known(&path, 3), 6);
        sent.note(&batch, Refusals::AreDurable);
        assert_eq!(known(&path, 3), 15);
    }

    #[test]
    fn what_overtakes_a_point_that_waits_does_not_take_it_along() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        let (mut first, mut second, mut third) = (batch_of(0..2), batch_of(2..4), batch_of(4..5));
        (0..10).filter(|record| *record != 3).for_each(|record| first.delivered(record));
        sent.note(&first, Refusals::AreDurable);
        (0..10).filter(|record| *record != 7).for_each(|record| second.delivered(record));
        sent.note(&second, Refusals::AreDurable);
        (0..5).for_each(|record| third.delivered(record));
        sent.note(&third, Refusals::AreDurable);
        assert_eq!(known(&path, 5), 3);
        first.delivered(3);
        sent.note(&first, Refusals::AreDurable);
        assert_eq!(known(&path, 5), 17, "up to what waits in the second");
        second.delivered(7);
        sent.note(&second, Refusals::AreDurable);
        assert_eq!(known(&path, 5), 20, "the third is noted with the next that comes");
    }

    #[test]
    fn too_many_that_wait_stop_the_writing_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        for frame in 0..OPEN + 10 {
            let mut batch = batch_of(frame..frame + 1);
            batch.delivered(0);
            sent.note(&batch, Refusals::AreDurable);
        }
        let mut last = batch_of(OPEN + 10..OPEN + 11);
        (0..5).for_each(|record| last.delivered(record));
        sent.note(&last, Refusals::AreDurable);
        assert_eq!(known(&path, 3), 1);
    }

    #[test]
    fn what_was_noted_is_known_after_a_kill_to_the_point() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        let mut first = batch();
        sent.recall(&mut first);
        assert_eq!(first.count(State::Duplicate), 0, "nothing was noted");
        (0..8).for_each(|record| first.delivered(record));
        sent.note(&first, Refusals::MayBeLost);
        first.delivered(9);
        sent.note(&first, Refusals::MayBeLost);
        drop(sent);
        let sent = Sent::open(&path).unwrap();
        let mut again = batch();
        sent.recall(&mut again);
        assert_eq!(again.count(State::Duplicate), 8, "{:?}", again.states());
        assert!(again.states()[8].is_open() && again.states()[9].is_open());
        (0..15).for_each(|record| again.delivered(record));
        sent.note(&again, Refusals::MayBeLost);
        drop(sent);
        let mut all = batch();
        Sent::open(&path).unwrap().recall(&mut all);
        assert_eq!(all.open(), 0);
    }

    #[test]
    fn a_torn_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let bytes = encode(Place { frame: Position { segment: 9, offset: 9 }, points: 9 });
        for torn in [&bytes[..20], &[&bytes[..30], &[0; 10][..]].concat()] {
            std::fs::write(&path, torn).unwrap();
            let mut batch = batch();
            Sent::open(&path).unwrap().recall(&mut batch);
            assert_eq!(batch.open(), 15);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_place_or_none(bytes: [u8; 20], segment: u64, offset: u64, points: u64) {
            let place = Place { frame: Position { segment, offset }, points };
            prop_assert_eq!(decode(&encode(place)), Some(place));
            let mut other = [0; LEN];
            other[..20].copy_from_slice(&bytes);
            prop_assert_eq!(decode(&other), None);
        }
    }
}
