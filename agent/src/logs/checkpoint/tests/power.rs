//! Power loss at any instant: what was durable is there, nothing is there that was not written, positions and ledger are
//! of one instant.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::model::{ModelDir, Random};
use super::{file, key, row};
use crate::logs::checkpoint::{Checkpoints, DiskStore, Entry, RETRY, State};

#[derive(Clone, Debug)]
enum Step {
    /// These files' positions move.
    Write(Vec<u8>),
    Full(bool),
    /// The power goes after so many operations of the next writes.
    Cut {
        after: u32,
        seed: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(0u8..5, 1..4).prop_map(Step::Write),
        1 => any::<bool>().prop_map(Step::Full),
        3 => (0u32..8, 1u64..).prop_map(|(after, seed)| Step::Cut { after, seed }),
    ];
    prop::collection::vec(step, 1..60)
}

fn watermark(state: &State, n: u8) -> Option<u64> {
    state.files.get(&key(n)).and_then(|file| file.settled.first()).map(|(_, end)| *end)
}

fn open(dir: &ModelDir) -> (Checkpoints, State) {
    Checkpoints::open(Box::new(DiskStore::over(dir.clone()))).unwrap()
}

/// One process after another on one directory. Positions by file: those that are durable for certain, and the newest.
struct Lives {
    dir: ModelDir,
    writer: Checkpoints,
    durable: BTreeMap<u8, u64>,
    newest: BTreeMap<u8, u64>,
    /// Since the last write that was durable.
    dirty: Vec<u8>,
    clock: u64,
    now: Instant,
}

impl Lives {
    fn write(&mut self, files: &[u8], compact: bool) {
        self.clock += 1;
        for n in files {
            self.newest.insert(*n, self.clock);
            self.dirty.push(*n);
        }
        self.now += RETRY;
        let all = compact || self.writer.wants_all();
        let changed: Vec<u8> = if all { self.newest.keys().copied().collect() } else { self.dirty.clone() };
        let mut entries: Vec<Entry> = changed.iter().map(|n| file(*n, self.newest[n])).collect();
        entries.push(row(self.clock));
        if self.writer.write(&entries, all, self.now) {
            self.durable.clone_from(&self.newest);
            self.dirty.clear();
        }
    }

    fn come_back(&mut self, seed: u64) {
        self.dir.come_back(&mut Random(seed));
        let (writer, state) = open(&self.dir);
        self.writer = writer;
        for n in 0..5 {
            let (found, least) = (watermark(&state, n), self.durable.get(&n).copied());
            assert!(found >= least, "{n}: {found:?} is there, {least:?} was durable");
            assert!(found <= self.newest.get(&n).copied(), "{n}: {found:?} was never written");
        }
        let ledger = state.rows.values().next().map(|row| row.observed);
        let last = (0..5).filter_map(|n| watermark(&state, n)).max();
        assert_eq!(ledger, last, "positions and ledger are of one instant");
        // The rest is read and sent again, and its positions are written again.
        self.newest = (0..5).filter_map(|n| Some((n, watermark(&state, n)?))).collect();
        self.durable.clone_from(&self.newest);
        self.dirty.clear();
    }
}

fn run(steps: &[Step], compact_often: bool) {
    let dir = ModelDir::default();
    let (writer, _) = open(&dir);
    let (durable, newest) = Default::default();
    let mut lives = Lives { dir, writer, durable, newest, dirty: vec![], clock: 0, now: Instant::now() };
    for step in steps {
        match step {
            Step::Write(files) => lives.write(files, compact_often && lives.clock.is_multiple_of(3)),
            Step::Full(full) => lives.dir.set_full(*full),
            Step::Cut { after, seed } => {
                lives.dir.cut_after(*after);
                for n in 0..3 {
                    lives.write(&[n], compact_often && n == 1);
                }
                lives.come_back(*seed);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn after_a_power_loss_the_positions_are_never_ahead_and_never_behind_what_was_durable(steps in steps(), compact_often: bool) {
        run(&steps, compact_often);
    }
}
