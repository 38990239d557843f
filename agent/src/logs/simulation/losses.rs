//! The ledger where bytes cannot be saved: rotated away unseen, truncated, left out by rule or age, cut at the limit,
//! refused, deleted with their pod, all of it also while the agent is down. After each step the sum is counted a second
//! way; at the end each byte that was seen is in what the receiver has, or under a name that says why it is not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sonde_daemon::units::{Interval, Size};

use super::{Disk, World};
use crate::batch::Outcome;
use crate::config::{LogRule, Logs, ReadExisting};

/// Containers, of which the last is left out by rule.
const CONTAINERS: usize = 4;

#[derive(Clone, Debug)]
enum Change {
    Write { container: usize, fragments: usize, len: usize },
    Rotate { container: usize, compress: bool },
    RemoveOldest { container: usize },
    Truncate { container: usize },
    DeletePod { container: usize },
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Turn {
        millis: u64,
    },
    Accept {
        answered: bool,
    },
    Refuse,
    /// Kill -9, and what happens until the next start.
    Down(Vec<Change>),
}

/// What the containers wrote.
#[derive(Default)]
struct Node {
    stamp: u64,
    rotations: u64,
    written: u64,
    /// What of it was cut or removed, looked at or not.
    removed: u64,
    /// Bytes of each file that is there, by its name without `.gz`.
    sizes: BTreeMap<String, u64>,
    /// Bytes of a logical line, by the number it begins with.
    lines: BTreeMap<String, u64>,
}

fn dir(container: usize) -> String {
    format!("ns_pod-{container}_uid-{container}/app")
}

impl Node {
    fn change(&mut self, disk: &Disk, change: &Change) {
        match change {
            Change::Write { container, fragments, len } => self.write(disk, *container, *fragments, *len),
            Change::Rotate { container, compress } => self.rotate(disk, *container, *compress),
            Change::RemoveOldest { container } => {
                let live = format!("{}/0.log", dir(*container));
                if let Some(oldest) = disk.names(&dir(*container)).iter().find(|path| **path != live) {
                    disk.remove(oldest);
                    self.remove(*container, oldest.trim_end_matches(".gz"));
                }
            }
            Change::Truncate { container } => {
                let live = format!("{}/0.log", dir(*container));
                if disk.names(&live).contains(&live) {
                    disk.truncate(&live);
                    self.remove(*container, &live);
                }
            }
            Change::DeletePod { container } => {
                for path in disk.names(&dir(*container)) {
                    disk.remove(&path);
                    self.remove(*container, path.trim_end_matches(".gz"));
                }
            }
        }
    }

    fn remove(&mut self, container: usize, path: &str) {
        let bytes = self.sizes.remove(path).unwrap_or(0);
        if container < CONTAINERS - 1 {
            self.removed += bytes;
        }
    }

    fn write(&mut self, disk: &Disk, container: usize, fragments: usize, len: usize) {
        self.stamp += 1;
        let name = format!("{:06}", self.stamp);
        let mut bytes = 0;
        for fragment in 0..=fragments {
            let (tag, body) = if fragment < fragments { ("P", "x".repeat(len)) } else { ("F", "end".into()) };
            let body = if fragment == 0 { format!("{name}:{body}") } else { body };
            let (minute, second, nanos) =
                (self.stamp / 60 % 60, self.stamp % 60, self.stamp * 100 + fragment as u64);
            let entry = format!("2026-11-20T16:{minute:02}:{second:02}.{nanos:09}Z stdout {tag} {body}\n");
            disk.append(&format!("{}/0.log", dir(container)), entry.as_bytes());
            bytes += entry.len() as u64;
        }
        self.lines.insert(name, bytes);
        *self.sizes.entry(format!("{}/0.log", dir(container))).or_default() += bytes;
        if container < CONTAINERS - 1 {
            self.written += bytes;
        }
    }

    fn rotate(&mut self, disk: &Disk, container: usize, compress: bool) {
        let live = format!("{}/0.log", dir(container));
        let names = disk.names(&dir(container));
        if !names.contains(&live) {
            return;
        }
        if compress {
            for path in names.iter().filter(|path| !path.ends_with(".gz") && **path != live) {
                disk.gzip(path);
                disk.remove(path);
            }
        }
        self.rotations += 1;
        let renamed = format!("{live}.20261120-{:06}", self.rotations);
        disk.rename(&live, &renamed);
        if let Some(bytes) = self.sizes.remove(&live) {
            self.sizes.insert(renamed, bytes);
        }
    }
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (0..CONTAINERS, 0usize..3, 0usize..3000).prop_map(|(container, fragments, len)| Change::Write { container, fragments, len }),
        3 => (0..CONTAINERS, any::<bool>()).prop_map(|(container, compress)| Change::Rotate { container, compress }),
        2 => (0..CONTAINERS).prop_map(|container| Change::RemoveOldest { container }),
        1 => (0..CONTAINERS).prop_map(|container| Change::Truncate { container }),
        1 => (0..CONTAINERS).prop_map(|container| Change::DeletePod { container }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => changes().prop_map(Step::Change),
        6 => (0u64..1500).prop_map(|millis| Step::Turn { millis }),
        6 => prop::bool::weighted(0.8).prop_map(|answered| Step::Accept { answered }),
        1 => Just(Step::Refuse),
        2 => prop::collection::vec(changes(), 0..6).prop_map(Step::Down),
    ];
    prop::collection::vec(step, 1..100)
}

fn run(read_existing: ReadExisting, pinned_deleted: u64, steps: Vec<Step>) {
    let rule = LogRule { pod: format!("pod-{}", CONTAINERS - 1), ..LogRule::default() };
    let config =
        Logs { read_existing, exclude: vec![rule], pinned_deleted: Size(pinned_deleted), ..Logs::default() };
    let mut world = World::with(config, 4);
    let mut node = Node::default();
    for step in steps {
        match step {
            Step::Change(change) => node.change(&world.disk, &change),
            Step::Turn { millis } => world.turn(millis),
            Step::Accept { answered } if !world.unsettled.is_empty() => world.accept(0, answered),
            Step::Refuse if !world.unsettled.is_empty() => {
                world.settle(0, Outcome::Refused { code: "413".into() });
            }
            Step::Accept { .. } | Step::Refuse => {}
            Step::Down(changes) => {
                changes.iter().for_each(|change| node.change(&world.disk, change));
                world.restart();
            }
        }
    }
    world.drain();
    // A container that is left out has no positions: its bytes are observed, and left out, by each process anew.
    let (left_out, read): (Vec<_>, Vec<_>) =
        world.core.ledger.rows().partition(|(key, _)| key.pod == format!("pod-{}", CONTAINERS - 1));
    assert!(left_out.iter().all(|(_, row)| row.observed == row.excluded[0]), "{left_out:?}");
    let rows: Vec<_> = read.into_iter().map(|(_, row)| *row).collect();
    let sum = |part: fn(&crate::logs::ledger::Row) -> u64| rows.iter().map(part).sum::<u64>();
    let (observed, acked, lost) =
        (sum(|row| row.observed), sum(|row| row.acked), sum(|row| row.lost.iter().sum()));
    let [old, cut] = [1, 2].map(|at| rows.iter().map(|row| row.excluded[at]).sum::<u64>());
    assert_eq!(sum(crate::logs::ledger::Row::pending), 0);
    // Whatever was not removed was seen.
    let least = node.written - node.removed;
    assert!(
        (least..=node.written).contains(&observed),
        "{observed} of {} bytes were seen, {least} are there",
        node.written
    );
    let delivered: u64 = world.got.values().filter_map(|got| node.lines.get(got.body.get(..6)?)).sum();
    assert!(acked <= delivered, "{acked} acknowledged, of {delivered} that arrived");
    // A refused line over the limit is cut and lost.
    assert!(
        delivered + lost + old + cut >= observed,
        "{observed} were seen: {delivered} arrived, {lost} lost, {old} left out, {cut} cut"
    );
    assert!(world.got.values().all(|got| got.pod != format!("pod-{}", CONTAINERS - 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_byte_that_is_seen_arrives_or_is_counted_under_the_reason_why_not(steps in steps()) {
        run(ReadExisting::All, 1 << 30, steps);
    }

    #[test]
    fn the_same_where_few_bytes_of_deleted_files_may_be_held_open(steps in steps()) {
        run(ReadExisting::All, 2000, steps);
    }

    #[test]
    fn the_same_where_a_first_start_leaves_out_what_is_old(steps in steps()) {
        // The world's clock says 16:35:01: the first half minute of what is written is left out.
        run(ReadExisting::Within(Interval::secs(2071)), 1 << 30, steps);
    }
}
