//! Random work on a disk that fails, against the few sentences that must hold.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::disk::{Disk, Fault};
use super::{frame, options};
use crate::queue::reader::{Entry, fetch};
use crate::queue::segment::FrameHeader;
use crate::queue::state::Shared;
use crate::queue::writer::{Request, Writer};
use crate::queue::{AppendError, Frame, FullReason, Position, QueueOptions, recover, retain};

const DIR: &str = "/queue";
const SINK: &str = "sink";

thread_local! {
    static HOURS: Cell<u64> = const { Cell::new(0) };
}

/// Stands still unless told otherwise: numbers do not depend on it while anything is left.
fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * HOURS.get())
}

/// What may happen.
#[derive(Clone, Debug)]
enum Op {
    /// Requests that wait together, by payload size.
    Append(Vec<u16>),
    /// The sink reads so many frames and is done with them.
    Deliver(u8),
    /// The keeper's turn.
    Keep,
    /// A clean stop and start.
    Restart,
    /// The process is killed: what it wrote is there, synced or not.
    Kill,
    /// The machine dies.
    Crash,
    /// So many operations from here one fails.
    Fault(u8, Fault),
    /// The process is killed, the machine dies so many operations into the next start, and it is started again.
    CrashAtStart(u8),
    /// The volume has this many bytes.
    Capacity(u32),
    /// All segments are gone; time has gone on.
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    let fault = prop_oneof![Just(Fault::Io), Just(Fault::TornWrite), Just(Fault::Crash)];
    prop_oneof![
        8 => prop::collection::vec(0_u16..9000, 1..8).prop_map(Op::Append),
        4 => any::<u8>().prop_map(Op::Deliver),
        3 => Just(Op::Keep),
        1 => Just(Op::Restart),
        1 => Just(Op::Kill),
        2 => Just(Op::Crash),
        4 => (0_u8..24, fault).prop_map(|(after, fault)| Op::Fault(after, fault)),
        1 => (0_u8..40).prop_map(Op::CrashAtStart),
        1 => (30_000_u32..300_000).prop_map(Op::Capacity),
        1 => Just(Op::Lose),
    ]
}

/// One life of the queue's process.
struct Life {
    shared: Arc<Shared>,
    writer: Writer,
}

impl Life {
    fn begin(disk: &Disk) -> Self {
        let options = QueueOptions { max_bytes: 128 << 10, clock, ..options() };
        let dir = PathBuf::from(DIR);
        let state = recover::recover(disk, &dir, options.read_patience).expect("it always starts");
        let shared = Arc::new(Shared::new(Arc::new(disk.clone()), dir, options.bounded(), state));
        Self { writer: Writer::new(shared.clone()), shared }
    }

    fn append(&mut self, frames: &[Frame]) -> Vec<Result<Position, AppendError>> {
        let mut answers = Vec::new();
        let mut batch = VecDeque::new();
        for frame in frames {
            let (answer, answered) = oneshot::channel();
            let len = u32::try_from(frame.payload.len()).unwrap();
            let header = FrameHeader::new(frame, len, crc32fast::hash(&frame.payload));
            batch.push_back(Request { header, frame: frame.clone(), grant: None, answer });
            answers.push(answered);
        }
        self.writer.commit(&mut batch);
        answers
            .into_iter()
            .map(|mut answered| answered.try_recv().expect("every request is answered"))
            .collect()
    }

    fn read(&self, from: Position, most: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (mut at, mut walk) = (from, None);
        while entries.len() < most && self.shared.state().resolve(at).is_some() {
            let fetched = fetch(&self.shared, at, walk);
            assert!(fetched.next > at, "a pass moves on");
            at = fetched.next;
            walk = fetched.walk;
            entries.extend(fetched.entries);
        }
        entries.truncate(most);
        entries
    }
}

/// What is known from outside.
struct Model {
    disk: Disk,
    life: Life,
    sent: u32,
    frames: BTreeMap<u32, Frame>,
    acknowledged: BTreeMap<Position, u32>,
    /// All that was ever given out.
    highest: Position,
    released: Position,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = Disk::new(1 << 20, seed);
        let life = Life::begin(&disk);
        life.shared.register(SINK, None);
        Self {
            disk,
            life,
            sent: 0,
            frames: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            highest: Position::default(),
            released: Position::default(),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Append(sizes) => self.append(sizes),
            Op::Deliver(count) => self.deliver(usize::from(*count)),
            Op::Keep => retain::pass(&self.life.shared),
            Op::Restart => {
                self.life.writer.finish();
                retain::pass(&self.life.shared);
                self.restart();
            }
            Op::Kill => self.restart(),
            Op::Crash => {
                self.disk.crash();
                self.restart();
            }
            Op::Fault(after, fault) => self.disk.fail(u32::from(*after), *fault),
            Op::CrashAtStart(after) => {
                self.disk.fail(u32::from(*after), Fault::Crash);
                // It may start or not; what it did until then must harm nobody.
                drop(recover::recover(&self.disk, &PathBuf::from(DIR), Duration::ZERO));
                self.restart();
            }
            Op::Capacity(bytes) => self.disk.set_capacity(u64::from(*bytes)),
            Op::Lose => {
                self.life.writer.finish();
                retain::pass(&self.life.shared);
                self.disk.lose(".segment");
                HOURS.set(HOURS.get() + 1);
                self.acknowledged.clear();
                self.restart();
            }
        }
        if self.disk.is_dead() {
            self.disk.crash();
            self.restart();
        }
    }

    fn append(&mut self, sizes: &[u16]) {
        let first = self.sent;
        let frames: Vec<Frame> = sizes
            .iter()
            .map(|size| {
                self.sent += 1;
                frame(&format!("{:08}{}", self.sent - 1, "x".repeat(usize::from(*size))))
            })
            .collect();
        self.frames.extend((first..).zip(frames.iter().cloned()));
        for (n, answer) in (first..).zip(self.life.append(&frames)) {
            match answer {
                Ok(position) => {
                    assert!(position > self.highest, "{position:?} was given out before");
                    self.highest = position;
                    self.acknowledged.insert(position, n);
                }
                Err(AppendError::Full(FullReason::Budget)) => {
                    let state = self.life.shared.state();
                    assert!(state.disk_bytes() > 64 << 10, "full with {} bytes", state.disk_bytes());
                }
                Err(_) => {}
            }
        }
    }

    fn deliver(&mut self, count: usize) {
        // What cannot be read counts as damaged; that is another test's.
        self.disk.no_fault();
        let from = self.life.shared.state().cursors.get(SINK).unwrap();
        if let Some(last) = self.life.read(from, count).last() {
            self.released = self.released.max(last.next_position);
            self.life.shared.state().cursors.advance(SINK, last.next_position);
        }
    }

    fn restart(&mut self) {
        if self.disk.is_dead() {
            self.disk.crash();
        }
        // What fails at the start is another test's: here the start itself is to find everything.
        self.disk.no_fault();
        self.life = Life::begin(&self.disk);
        self.life.shared.register(SINK, None);
        self.check();
    }

    /// What was acknowledged and is not done with is there: in order, once, where it was, as it was.
    fn check(&mut self) {
        self.disk.no_fault();
        let cursor = self.life.shared.state().cursors.get(SINK).unwrap();
        let entries = self.life.read(cursor, usize::MAX);
        assert!(entries.is_sorted_by(|a, b| a.position < b.position));
        let mut seen = BTreeMap::new();
        for entry in &entries {
            let n: u32 = std::str::from_utf8(&entry.frame.payload[..8]).unwrap().parse().unwrap();
            assert_eq!(self.frames.get(&n), Some(&entry.frame), "as it was sent");
            assert_eq!(seen.insert(n, entry.position), None, "frame {n} came twice");
        }
        for (position, n) in self.acknowledged.range(self.released..) {
            assert_eq!(seen.get(n), Some(position), "frame {n} was acknowledged and is gone");
        }
        let damaged = self.life.shared.state().damaged;
        assert_eq!((damaged.segments, damaged.frames), (0, 0), "a crash is no damage");
        assert!(self.disk.peak() <= (128 << 10) + 1024, "{} bytes on disk", self.disk.peak());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_delivered_whatever_fails(seed: u64, ops in prop::collection::vec(op(), 1..60)) {
        let mut model = Model::new(seed);
        for op in &ops {
            model.run(op);
        }
        model.check();
        // The disk is well again: so is the queue, once there is room.
        model.disk.set_capacity(1 << 20);
        model.disk.no_fault();
        model.deliver(usize::MAX);
        retain::pass(&model.life.shared);
        let answers = model.life.append(&[frame("00000000")]);
        prop_assert!(answers[0].is_ok(), "{answers:?}");
    }
}

/// The fsync that seals a segment fails, the process is restarted, then the power fails: the space that the segment
/// had reserved comes back.
#[test]
fn space_that_a_failed_fsync_did_not_free_is_not_given_away() {
    let mut model = Model::new(5_378_948_198_658_923_698);
    for op in [
        Op::Append(vec![4879, 5029, 6658]),
        Op::Restart,
        Op::Fault(10, Fault::Io),
        Op::Append(vec![4101, 3014, 5111, 2519, 7748]),
        Op::Crash,
        Op::Append(vec![4591, 7538]),
        Op::Fault(3, Fault::Io),
        Op::Append(vec![5019]),
        Op::Append(vec![6994, 2422, 181, 3670, 3367]),
        Op::Restart,
        Op::Append(vec![0]),
        Op::Crash,
    ] {
        model.run(&op);
    }
}

/// The cursors cannot be written at the stop, and the newest segment holds no frame: the one before it stays, so that its number
/// is not given out again.
#[test]
fn the_highest_number_that_was_given_out_is_on_disk_when_cursors_cannot_be_written() {
    let more =
        vec![Op::Append(vec![1191]), Op::Fault(7, Fault::Io), Op::Append(vec![7014, 3868]), Op::Deliver(2)];
    let less = vec![Op::Append(vec![5131]), Op::Deliver(1), Op::Fault(5, Fault::Io), Op::Append(vec![6998])];
    for ops in [more, less] {
        let mut model = Model::new(0);
        for op in ops.iter().chain(&[Op::Fault(0, Fault::Io), Op::Restart, Op::Append(vec![0])]) {
            model.run(op);
        }
    }
}
