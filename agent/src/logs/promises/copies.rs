//! Plain files that are copied and then emptied (logrotate's `copytruncate`): at any instant, and around kills.

use super::files::{APP, bodies, is_quiet_after_a_restart, world};
use super::pending;
use crate::batch::Outcome;
use crate::logs::simulation::World;

const HEADING: &str = "# the same first line\n";

/// A xorshift generator: the same steps for the same seed.
struct Steps(u64);

impl Steps {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// A writer, logrotate, and an agent that is killed now and then.
struct Node {
    world: World,
    steps: Steps,
    written: Vec<String>,
    /// Bytes that were written between copying and emptying.
    between: u64,
    /// Whether requests are refused for their size, and lines are longer than a window.
    refuses: bool,
}

impl Node {
    fn new(seed: u64) -> Self {
        let steps = Steps(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut node = Self { world: world(), steps, written: Vec::new(), between: 0, refuses: false };
        node.begin();
        node
    }

    /// What a file begins with, and a line that is only there.
    fn begin(&mut self) {
        self.written.push(HEADING.trim_end().into());
        let line = self.next_line();
        self.world.disk.append(APP, format!("{HEADING}{line}").as_bytes());
    }

    fn next_line(&mut self) -> String {
        let number = self.written.len();
        let mut len = [3, 40, 1500][usize::try_from(self.steps.below(3)).unwrap()];
        if self.refuses && self.steps.below(10) == 0 {
            len = 300_000;
        }
        let line = format!("{number} {}", "=".repeat(len));
        self.written.push(line[..line.len().min(4096)].to_owned());
        format!("{line}\n")
    }

    fn write(&mut self) {
        for _ in 0..=self.steps.below(4) {
            let line = self.next_line();
            self.world.disk.append(APP, line.as_bytes());
        }
    }

    /// Whatever may happen between any two steps of the others.
    fn agent(&mut self) {
        match self.steps.below(8) {
            0..=2 => {
                let millis = self.steps.below(400);
                self.world.turn(millis);
            }
            3 => self.world.turn(1000),
            4 | 5 if !self.world.unsettled.is_empty() => {
                if self.refuses && self.world.unsettled[0].records > 1 && self.steps.below(2) == 0 {
                    return self.world.settle(0, Outcome::Refused { code: "413".into() });
                }
                let is_answered = self.steps.below(3) > 0;
                self.world.accept(0, is_answered);
            }
            6 => self.world.restart(),
            _ => {}
        }
    }

    fn rotate(&mut self, writes_between: bool) {
        for number in (1..99).rev() {
            for end in ["", ".gz"] {
                self.world
                    .disk
                    .rename(&format!("{APP}.{number}{end}"), &format!("{APP}.{}{end}", number + 1));
            }
            if number == 1 || number == 2 {
                self.agent();
            }
        }
        let older = format!("{APP}.2");
        if self.world.disk.names(APP).contains(&older) {
            self.world.disk.gzip(&older);
            self.agent();
            self.world.disk.remove(&older);
        }
        let bytes = self.world.disk.read(APP);
        let (first, second) = bytes.split_at(usize::try_from(self.steps.below(bytes.len() as u64)).unwrap());
        self.world.disk.append(&format!("{APP}.1"), first);
        self.agent();
        self.world.disk.append(&format!("{APP}.1"), second);
        self.agent();
        if writes_between && bytes.len() > 4096 {
            let before = bytes.len() as u64;
            self.write();
            self.agent();
            self.agent();
            self.between += self.world.disk.read(APP).len() as u64 - before;
        }
        self.world.disk.truncate(APP);
        self.agent();
        self.begin();
    }

    fn run(&mut self, writes_between: bool) {
        for _ in 0..40 {
            match self.steps.below(6) {
                0 => self.rotate(writes_between),
                1 | 2 => self.write(),
                _ => self.agent(),
            }
        }
        self.world.drain_for(30);
    }
}

fn counts(lines: &[String]) -> std::collections::BTreeMap<&str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    lines.iter().for_each(|line| *counts.entry(line.as_str()).or_default() += 1);
    counts
}

#[test]
fn whatever_happens_while_a_file_is_copied_and_emptied_each_line_is_stored_once() {
    for seed in 1..150 {
        let mut node = Node::new(seed);
        node.run(false);
        let got = bodies(&node.world);
        assert_eq!(counts(&got), counts(&node.written), "seed {seed}");
        assert_eq!((node.world.lost(), pending(&node.world)), (0, 0), "seed {seed}");
        assert!(is_quiet_after_a_restart(&mut node.world), "sent again: seed {seed}");
    }
}

#[test]
fn requests_that_are_refused_and_lines_longer_than_a_window_are_taken_from_the_copy_too() {
    for seed in 1..40 {
        let mut node = Node { refuses: true, ..Node::new(seed) };
        node.run(false);
        let got = bodies(&node.world);
        assert!(counts(&got) == counts(&node.written), "seed {seed}");
        assert_eq!((node.world.lost(), pending(&node.world)), (0, 0), "seed {seed}");
        assert!(is_quiet_after_a_restart(&mut node.world), "sent again: seed {seed}");
    }
}

#[test]
fn what_is_written_between_copying_and_emptying_is_stored_once_or_counted_as_lost() {
    let mut lost = 0;
    for seed in (1..150).chain([214, 241, 319]) {
        let mut node = Node::new(seed);
        node.run(true);
        let got = bodies(&node.world);
        let (got, written) = (counts(&got), counts(&node.written));
        let mut missing = 0;
        for (line, count) in &written {
            let stored = got.get(line).copied().unwrap_or(0);
            assert!(stored <= *count, "doubled: seed {seed}: {line}");
            missing += (count - stored) * (line.len() + 1);
        }
        assert!(got.keys().all(|line| written.contains_key(line)));
        // What came and went between two looks, nobody saw.
        assert!(missing as u64 <= node.between, "seed {seed}: {missing} of {}", node.between);
        assert_eq!(pending(&node.world), 0, "seed {seed}");
        lost += node.world.lost();
        assert!(node.world.lost() <= node.between, "seed {seed}");
    }
    assert!(lost > 0);
}

/// As logrotate does it, with nothing before.
fn copy(world: &World) {
    let bytes = world.disk.read(APP);
    world.disk.append(&format!("{APP}.1"), &bytes);
}

#[test]
fn what_only_the_copy_has_is_shipped_also_after_a_kill_before_it_was() {
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.drain();
    world.disk.append(APP, b"two\n");
    world.core.note_sizes_for_test(world.now);
    copy(&world);
    world.disk.truncate(APP);
    world.disk.append(APP, b"three\n");
    // It is noticed, the copy is read, and all of that is on disk; what was read is never sent.
    for _ in 0..30 {
        world.turn(100);
    }
    world.restart();
    world.drain();
    assert_eq!(bodies(&world), ["one", "two", "three"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    assert!(is_quiet_after_a_restart(&mut world));
}

#[test]
fn a_file_that_was_emptied_is_listed_with_its_copy_also_where_nobody_tells_of_it() {
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.disk.watch_all();
    for _ in 0..30 {
        world.turn(100);
        while !world.unsettled.is_empty() {
            world.accept(0, true);
        }
    }
    assert_eq!(bodies(&world), ["one"]);
    world.disk.append(APP, b"two\n");
    copy(&world);
    world.disk.truncate(APP);
    world.disk.append(APP, b"and three\n");
    world.drain();
    assert_eq!(bodies(&world), ["one", "two", "and three"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn what_was_refused_or_on_its_way_when_a_file_was_emptied_is_taken_from_the_copy() {
    let mut world = world();
    world.disk.append(APP, b"one\nbad\ntwo\n");
    for _ in 0..25 {
        world.turn(100);
    }
    assert_eq!(world.unsettled.len(), 1);
    copy(&world);
    world.disk.truncate(APP);
    world.disk.append(APP, b"three\n");
    for _ in 0..5 {
        world.turn(100);
    }
    for _ in 0..400 {
        world.turn(50);
        while let Some(batch) = world.unsettled.first() {
            if memchr::memmem::find(&batch.payload, b"bad").is_some() {
                world.settle(0, Outcome::Refused { code: "400".into() });
            } else {
                world.accept(0, true);
            }
        }
    }
    let mut got = bodies(&world);
    got.sort_unstable();
    assert_eq!(got, ["one", "three", "two"]);
    assert_eq!((world.lost(), pending(&world)), (4, 0));
}

#[test]
fn what_was_emptied_without_a_copy_is_counted_once_and_what_comes_then_is_not() {
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.drain();
    world.disk.append(APP, b"not read\n");
    world.core.note_sizes_for_test(world.now);
    world.disk.truncate(APP);
    world.disk.append(APP, b"longer than all that was there before\n");
    world.drain_for(30);
    assert_eq!(bodies(&world), ["one", "longer than all that was there before"]);
    assert_eq!((world.lost(), pending(&world)), (9, 0));
    assert_eq!(world.core.files.len(), 1);
}

#[test]
fn a_copy_of_a_file_that_is_deleted_keeps_what_is_known_of_it() {
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.drain();
    copy(&world);
    world.drain();
    world.disk.remove(APP);
    world.drain_for(30);
    for _ in 0..2 {
        assert!(is_quiet_after_a_restart(&mut world));
    }
    world.disk.append(APP, b"two\n");
    world.drain();
    assert_eq!(bodies(&world), ["one", "two"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_copy_that_is_made_over_the_older_copy_is_stored_once() {
    let mut world = world();
    let copy = format!("{APP}.1");
    let mut written = Vec::new();
    for round in 1..=4 {
        // Each longer than the one before.
        for line in 0..10 * round {
            written.push(format!("{round} {line}"));
            world.disk.append(APP, format!("{round} {line}\n").as_bytes());
        }
        world.drain_for(30);
        // `cp app.log app.log.1; : > app.log`: the copy's inode is that of the older one.
        let content = world.disk.read(APP);
        if world.disk.names(&copy).is_empty() {
            world.disk.append(&copy, &content);
        } else {
            world.disk.truncate(&copy);
            world.disk.append(&copy, &content);
        }
        world.disk.truncate(APP);
        world.drain_for(90);
    }
    assert_eq!(bodies(&world), written);
    assert_eq!((pending(&world), world.lost()), (0, 0));
    assert!(is_quiet_after_a_restart(&mut world), "sent again");
}
