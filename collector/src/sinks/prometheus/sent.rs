//! What the server is known to have, to the point, across a kill: the queue's own cursor follows within a second only, and what a
//! server has of a series it refuses to take again where it has something newer, in the words that it has for what it never had.
//! So what may be in doubt has to be one request at most.
//!
//! A file in the queue's directory, written after each request that was answered: magic `SONDES` 00 02; where what is known
//! ends, as segment, offset and number of the point in the frame; how many points before that are not known, at most [`HOLES`]
//! (refused and not yet among the dead letters, or put aside), and their places alike; each u64, little-endian; CRC-32 of all that. It is not
//! synced: a kill leaves it as it is, and after a loss of power it is at worst behind or torn, and points that are there are
//! refused, which costs dead letters and no sample. It goes with the queue, whose positions it has: [`forget_all`], and a frame that
//! this process has queued at a place that is known is of another queue.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::deliver::Batch;
use crate::deliver::batch::State;
use crate::queue::Position;

const MAGIC: [u8; 8] = *b"SONDES\x00\x02";
/// Files of this kind end so.
const ENDING: &str = "sent";
/// Points that are not known before one that is, at most, 24 bytes each.
const HOLES: usize = 1024;

/// A point of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The frame.
    pub frame: Position,
    /// The point's number in it.
    pub point: u64,
}

/// Whether what was refused is among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// It is, on disk.
    AreDurable,
    /// It is in memory alone: to be met again after a kill.
    MayBeLost,
}

/// The points of which there is nothing more to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// The first behind the last of them.
    end: Place,
    /// Those before it that are none.
    holes: BTreeSet<Place>,
}

impl Known {
    fn has(&self, place: Place) -> bool {
        place < self.end && !self.holes.contains(&place)
    }
}

/// The file.
pub struct Sent {
    file: File,
    progress: Mutex<Progress>,
}

struct Progress {
    /// As it is in the file.
    known: Known,
    /// There were too many holes: the file stays as it is.
    lost: bool,
}

/// Deletes what was known of a queue in `dir` whose positions begin anew.
///
/// # Errors
/// The disk's.
pub fn forget_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl Sent {
    /// Opens the file, or makes one.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&file).take(64 << 10).read_to_end(&mut bytes)?;
        let known = decode(&bytes).unwrap_or_default();
        Ok(Self { file, progress: Mutex::new(Progress { known, lost: false }) })
    }

    /// Settles what is known to be delivered of points that an earlier process, or an earlier try, may have sent.
    pub fn recall(&self, batch: &mut Batch) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (units, end) = (Arc::clone(batch.units()), progress.known.end.frame);
        for unit in units.iter().filter(|unit| unit.position <= end) {
            for number in 0..unit.records {
                let state = batch.states().get(unit.first + number).copied();
                if !progress.known.has(Place { frame: unit.position, point: number as u64 }) {
                    continue;
                }
                match state {
                    Some(State::InDoubt) => batch.duplicate(unit.first + number),
                    // It was queued after what is known had been sent.
                    Some(State::Open) => {
                        tracing::warn!(
                            "how far a sink has come was written down for another queue than this: it begins anew"
                        );
                        self.write(&mut progress, Known::default());
                        return;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Writes down what is known after something was settled in a batch. Batches come in their order; one that is overtaken
    /// waits for points that it has put off, and was seen before.
    pub fn note(&self, batch: &Batch, refusals: Refusals) {
        let (Some(first), Some(last)) = (batch.units().first(), batch.units().last()) else { return };
        let (holes, end) = look(batch, refusals);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.lost {
            return;
        }
        let mut known = progress.known.clone();
        known.holes.retain(|place| place.frame < first.position || place.frame > last.position);
        known.holes.extend(holes);
        known.end = known.end.max(end);
        if known.holes.len() > HOLES {
            // What is known stays true.
            progress.lost = true;
        } else if known != progress.known {
            self.write(&mut progress, known);
        }
    }

    fn write(&self, progress: &mut Progress, known: Known) {
        // What it is for is less to do after a kill; the queue's own cursor is the promise.
        let _ = self.file.write_all_at(&encode(&known), 0);
        progress.known = known;
    }
}

/// The points of a batch that would be missed if they were never looked at again, and the end of all others. Where they are
/// many, without those behind that end.
fn look(batch: &Batch, refusals: Refusals) -> (Vec<Place>, Place) {
    let is_known = |state: &State| match state {
        State::Refused => refusals == Refusals::AreDurable,
        state => !state.is_open(),
    };
    let (mut holes, mut behind, mut end) = (Vec::new(), Vec::new(), Place::default());
    for unit in batch.units().iter() {
        for (point, state) in (0..).zip(&batch.states()[unit.first..unit.first + unit.records]) {
            if is_known(state) {
                holes.append(&mut behind);
                end = Place { frame: unit.position, point: point + 1 };
            } else {
                behind.push(Place { frame: unit.position, point });
            }
        }
    }
    if holes.len() + behind.len() <= HOLES {
        holes.append(&mut behind);
    }
    (holes, end)
}

fn encode(known: &Known) -> Vec<u8> {
    let of = |place: &Place| [place.frame.segment, place.frame.offset, place.point];
    let numbers = of(&known.end).into_iter().chain([known.holes.len() as u64]);
    let numbers = numbers.chain(known.holes.iter().flat_map(of));
    let mut bytes = MAGIC.to_vec();
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// What is behind the end is left of a longer content.
fn decode(bytes: &[u8]) -> Option<Known> {
    let content = bytes.strip_prefix(&MAGIC)?;
    let mut numbers = content.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let [segment, offset, point, count] =
        [numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?];
    let count = usize::try_from(count).ok().filter(|count| *count <= HOLES)?;
    let end = Place { frame: Position { segment, offset }, point };
    let (content, rest) = bytes.split_at_checked(MAGIC.len() + 8 * (4 + 3 * count))?;
    if !rest.starts_with(&crc32fast::hash(content).to_le_bytes()) {
        return None;
    }
    let mut hole = || {
        let [segment, offset, point] = [numbers.next()?, numbers.next()?, numbers.next()?];
        Some(Place { frame: Position { segment, offset }, point })
    };
    let holes = (0..count).map_while(|_| hole()).collect();
    Some(Known { end, holes })
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

    #[test]
    fn what_was_queued_by_this_process_was_not_sent_by_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        let mut of_another_queue = batch_of(0..5);
        (0..25).for_each(|record| of_another_queue.delivered(record));
        sent.note(&of_another_queue, Refusals::AreDurable);
        assert_eq!(known(&path, 3), 15);
        // Its positions come again: that queue is gone, and the clock was set back.
        let sent = Sent::open(&path).unwrap();
        let units = batch().units().to_vec();
        let mut fresh = Batch::new(units, |_| false);
        sent.recall(&mut fresh);
        assert_eq!(fresh.open(), 15, "all of it is to be sent");
        assert_eq!(known(&path, 3), 0, "and a process after this one knows as much");
        (0..7).for_each(|record| fresh.delivered(record));
        sent.note(&fresh, Refusals::AreDurable);
        assert_eq!(known(&path, 3), 7);
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
            resend: false,
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
        assert_eq!(known(&path, 3), 14, "all but that one");
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
        assert_eq!(known(&path, 5), 23, "all but the two that wait");
        first.delivered(3);
        sent.note(&first, Refusals::AreDurable);
        assert_eq!(known(&path, 5), 24);
        second.delivered(7);
        sent.note(&second, Refusals::AreDurable);
        assert_eq!(known(&path, 5), 25);
    }

    #[test]
    fn too_many_that_wait_stop_the_writing_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next.sent");
        let sent = Sent::open(&path).unwrap();
        // Of each frame of five four wait.
        for frame in 0..HOLES {
            let mut batch = batch_of(frame..frame + 1);
            batch.delivered(4);
            sent.note(&batch, Refusals::AreDurable);
        }
        assert_eq!(known(&path, 2 * HOLES), HOLES / 4);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (8 + 32 + 24 * HOLES + 4) as u64);
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
        assert_eq!(again.count(State::Duplicate), 9, "{:?}", again.states());
        assert!(again.states()[8].is_open() && again.states()[10].is_open());
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
        let place = |segment| Place { frame: Position { segment, offset: 9 }, point: 9 };
        let bytes = encode(&Known { end: place(9), holes: [place(8)].into() });
        for torn in [&bytes[..20], &bytes[..50], &[&bytes[..60], &[0; 10][..]].concat()] {
            std::fs::write(&path, torn).unwrap();
            let mut batch = batch();
            Sent::open(&path).unwrap().recall(&mut batch);
            assert_eq!(batch.open(), 15);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_places_or_none(
            bytes: Vec<u8>,
            places in prop::collection::vec(any::<(u64, u64, u64)>(), 1..9),
            behind: Vec<u8>,
        ) {
            let mut places = places.into_iter().map(|(segment, offset, point)| Place { frame: Position { segment, offset }, point });
            let known = Known { end: places.next().unwrap_or_default(), holes: places.collect() };
            prop_assert_eq!(decode(&[encode(&known), behind].concat()), Some(known));
            prop_assert_eq!(decode(&[&MAGIC[..], &bytes].concat()), None);
        }
    }
}
