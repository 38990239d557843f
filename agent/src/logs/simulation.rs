//! The core on a simulated node: random appends, rotations, compressions, restarts, lost acknowledgements and refusals.
//! After each step the ledger's sum is counted a second way; at the end every line arrived, and once per uid.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use sonde_daemon::units::{Interval, Size};

use crate::batch::Outcome;
use crate::config::{Logs, MultilineRule, ReadExisting};

mod disk;
mod limits;
mod losses;
mod world;

pub(super) use disk::Disk;
pub(super) use world::{World, decode, severities};

/// The container's side: what it writes, and the lines it means.
struct Writer {
    dir: String,
    live_path: String,
    docker: bool,
    pod: String,
    stamp: u64,
    rotations: u64,
    /// Bytes.
    written: u64,
    lines: [Vec<String>; 2],
    open: [Option<String>; 2],
    /// Bytes of the entries of each line, and of the unfinished ones.
    bytes: HashMap<String, u64>,
    open_bytes: [u64; 2],
    /// Entries of the live file: stream, whether partial, length.
    live: Vec<(bool, bool, usize)>,
    /// Lines of the live file by stream, from here on.
    live_from: [usize; 2],
    /// The renamed file, while the runtime may still write into it, and of which streams it does not any more.
    renamed: Option<(String, Instant)>,
    switched: [bool; 2],
    /// Lines that were cut away, read or not.
    cut: Vec<String>,
}

impl Writer {
    fn new(n: usize) -> Self {
        let (pod, dir) = (format!("pod-{n}"), format!("ns_pod-{n}_uid-{n}/app"));
        Self {
            live_path: format!("{dir}/0.log"),
            dir,
            docker: false,
            pod,
            stamp: 0,
            rotations: 0,
            written: 0,
            lines: Default::default(),
            open: Default::default(),
            bytes: HashMap::new(),
            open_bytes: [0; 2],
            live: Vec::new(),
            live_from: [0; 2],
            renamed: None,
            switched: [false; 2],
            cut: Vec::new(),
        }
    }

    /// In Docker's directory, named by its labels.
    fn of_docker(n: usize, disk: &Disk) -> Self {
        let (id, writer) = (format!("id{n}"), Self::new(n));
        let dir = format!("docker:/{id}");
        disk.append(
            &format!("{dir}/config.v2.json"),
            docker_config(&writer.pod, &format!("uid-{n}")).as_bytes(),
        );
        Self { live_path: format!("{dir}/{id}-json.log"), dir, docker: true, ..writer }
    }

    fn write(&mut self, disk: &Disk, stderr: bool, partial: bool, len: usize) {
        self.switched[usize::from(stderr)] = true;
        let path = self.live_path.clone();
        self.write_to(&path, disk, stderr, partial, len);
        self.live.push((stderr, partial, len));
    }

    /// Into the renamed file, as long as the stream was not written into the next one.
    fn write_late(&mut self, disk: &Disk, stderr: bool, partial: bool, len: usize, now: Instant) {
        let index = usize::from(stderr);
        let is_there = |(path, since): &(String, Instant)| {
            now.saturating_duration_since(*since) < Duration::from_secs(5) && disk.names(path).contains(path)
        };
        match self.renamed.clone().filter(|renamed| !self.switched[index] && is_there(renamed)) {
            Some((path, _)) => {
                self.write_to(&path, disk, stderr, partial, len);
                self.live_from[index] = self.lines[index].len();
            }
            None => self.write(disk, stderr, partial, len),
        }
    }

    fn write_to(&mut self, path: &str, disk: &Disk, stderr: bool, partial: bool, len: usize) {
        self.stamp += 1;
        let index = usize::from(stderr);
        let text = format!("{:06}:{}", self.stamp, "x".repeat(len));
        let stream = if stderr { "stderr" } else { "stdout" };
        let tag = if partial { "P" } else { "F" };
        let stamp =
            format!("2026-11-20T16:{:02}:{:02}.{:09}Z", self.stamp / 60 % 60, self.stamp % 60, self.stamp);
        let entry = if self.docker {
            let end = if partial { "" } else { "\\n" };
            format!("{{\"log\":\"{text}{end}\",\"stream\":\"{stream}\",\"time\":\"{stamp}\"}}\n")
        } else {
            format!("{stamp} {stream} {tag} {text}\n")
        };
        disk.append(path, entry.as_bytes());
        self.written += entry.len() as u64;
        let line = self.open[index].take().unwrap_or_default() + &text;
        self.open_bytes[index] += entry.len() as u64;
        if !partial {
            self.bytes.insert(line.clone(), std::mem::take(&mut self.open_bytes[index]));
        }
        if partial { self.open[index] = Some(line) } else { self.lines[index].push(line) }
    }

    fn rotate(&mut self, disk: &Disk, compress: bool, now: Instant) {
        let live = self.live_path.clone();
        let rotated = || disk.names(&live).into_iter().filter(|path| *path != live);
        if !disk.names(&self.dir).contains(&live) {
            return;
        }
        if compress {
            for path in rotated().filter(|path| !path.ends_with(".gz")) {
                disk.gzip(&path);
                disk.remove(&path);
            }
        }
        self.live.clear();
        self.live_from = [self.lines[0].len(), self.lines[1].len()];
        self.rotations += 1;
        if !self.docker {
            let renamed = format!("{live}.20261120-{:06}", self.rotations);
            disk.rename(&live, &renamed);
            (self.renamed, self.switched) = (Some((renamed, now)), [false; 2]);
            return;
        }
        // All numbers move up, the oldest first.
        for number in (1..self.rotations).rev() {
            for end in ["", ".gz"] {
                disk.rename(&format!("{live}.{number}{end}"), &format!("{live}.{}{end}", number + 1));
            }
        }
        disk.rename(&live, &format!("{live}.1"));
    }

    /// Empties the live file in its place and writes entries of the same lengths, at most `keep`.
    fn truncate(&mut self, disk: &Disk, keep: usize) {
        let live = self.live_path.clone();
        if !disk.names(&self.dir).contains(&live) {
            return;
        }
        disk.truncate(&live);
        for index in 0..2 {
            let cut = self.lines[index].drain(self.live_from[index]..);
            self.cut.extend(cut);
        }
        for (stderr, partial, len) in std::mem::take(&mut self.live).into_iter().take(keep) {
            self.write(disk, stderr, partial, len);
        }
        // What is unfinished gets its end.
        for (index, stderr) in [false, true].into_iter().enumerate() {
            if self.open[index].is_some() {
                self.write(disk, stderr, false, 3);
            }
        }
    }
}

/// What Docker keeps of a container of a pod.
pub(super) fn docker_config(pod: &str, uid: &str) -> String {
    let label = |key: &str, value: &str| format!("\"io.kubernetes.{key}\":\"{value}\"");
    let labels = [
        label("pod.namespace", "ns"),
        label("pod.name", pod),
        label("pod.uid", uid),
        label("container.name", "app"),
    ];
    format!("{{\"Config\":{{\"Labels\":{{{}}}}}}}", labels.join(","))
}

#[derive(Clone, Debug)]
enum Step {
    Write { container: usize, stderr: bool, fragments: usize, len: usize },
    Late { container: usize, stderr: bool, fragments: bool, len: usize },
    Rotate { container: usize, compress: bool },
    Truncate { container: usize, keep: usize },
    Turn { millis: u64 },
    Accept { which: usize, answered: bool },
    Refuse { which: usize },
    Restart,
    Stop,
    Rule { which: usize, stopped: bool },
    Full { full: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..3, any::<bool>(), 0usize..3, 0usize..300).prop_map(|(container, stderr, fragments, len)| Step::Write { container, stderr, fragments, len }),
        2 => (0usize..3, any::<bool>()).prop_map(|(container, compress)| Step::Rotate { container, compress }),
        2 => (0usize..3, any::<bool>(), any::<bool>(), 0usize..300).prop_map(|(container, stderr, fragments, len)| Step::Late { container, stderr, fragments, len }),
        1 => (0usize..3, 0usize..40).prop_map(|(container, keep)| Step::Truncate { container, keep }),
        8 => (0u64..1500).prop_map(|millis| Step::Turn { millis }),
        6 => (0usize..4, prop::bool::weighted(0.8)).prop_map(|(which, answered)| Step::Accept { which, answered }),
        1 => (0usize..4).prop_map(|which| Step::Refuse { which }),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
        1 => any::<bool>().prop_map(|full| Step::Full { full }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..120)
}

/// Rules of which line begins a record: by the last digit of its number.
fn rules(which: usize) -> Vec<MultilineRule> {
    let rule = |start: &str| MultilineRule { start: start.into(), ..MultilineRule::default() };
    match which {
        0 => vec![],
        1 => vec![rule(r"^\d{5}[0-4]:")],
        2 => vec![MultilineRule { max_lines: 3, ..rule(r"^\d{5}[05]:") }],
        3 => vec![MultilineRule { max_bytes: Size(600), max_wait: Interval::secs(1), ..rule("^[a-z]") }],
        4 => vec![MultilineRule { pod: "pod-1".into(), ..rule(r"^\d{5}[02468]:") }],
        _ => vec![MultilineRule { preset: "auto".into(), start: String::new(), ..rule("") }],
    }
}

/// Steps under changing rules. No file is emptied in its place: what a record at its border then is depends on what was read.
fn ruled_steps() -> impl Strategy<Value = Vec<Step>> {
    let ruled = prop_oneof![
        1 => (0usize..6, any::<bool>()).prop_map(|(which, stopped)| Step::Rule { which, stopped }),
        12 => step(),
    ];
    proptest::collection::vec(ruled, 1..120)
        .prop_map(|steps| steps.into_iter().filter(|step| !matches!(step, Step::Truncate { .. })).collect())
}

/// Takes the steps, and then all that is left to be taken, with a disk that is not full any more.
fn take(world: &mut World, writers: &mut [Writer], steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Write { container, stderr, fragments, len } => {
                for _ in 0..fragments {
                    writers[container].write(&world.disk, stderr, true, len);
                    writers[container].write(&world.disk, !stderr, false, 3);
                }
                writers[container].write(&world.disk, stderr, false, len);
            }
            Step::Late { container, stderr, fragments, len } => {
                let (writer, now) = (&mut writers[container], world.now.mono);
                if fragments {
                    writer.write_late(&world.disk, stderr, true, len, now);
                }
                writer.write_late(&world.disk, stderr, false, len, now);
            }
            Step::Rotate { container, compress } => {
                writers[container].rotate(&world.disk, compress, world.now.mono);
            }
            Step::Truncate { container, keep } => writers[container].truncate(&world.disk, keep),
            Step::Turn { millis } => world.turn(millis),
            Step::Accept { which, answered } => {
                if let Some(at) = which.checked_rem(world.unsettled.len()) {
                    world.accept(at, answered);
                }
            }
            Step::Refuse { which } => {
                if let Some(at) = which.checked_rem(world.unsettled.len())
                    && world.unsettled[at].records > 1
                {
                    world.settle(at, Outcome::Refused { code: "413".into() });
                }
            }
            Step::Restart => world.restart(),
            Step::Stop => world.stop(),
            Step::Rule { which, stopped } => world.change(rules(which), stopped),
            Step::Full { full } => *world.store.full.lock().unwrap() = full,
        }
    }
    *world.store.full.lock().unwrap() = false;
    world.drain();
}

fn run(steps: Vec<Step>, rule: usize) {
    let config = Logs { read_existing: ReadExisting::All, multiline: rules(rule), ..Logs::default() };
    let mut world = World::with(config, 4);
    let mut writers: Vec<Writer> = (0..2).map(Writer::new).collect();
    writers.push(Writer::of_docker(2, &world.disk));
    take(&mut world, &mut writers, steps);
    for writer in &writers {
        for (index, stream) in ["stdout", "stderr"].into_iter().enumerate() {
            let written = &writer.lines[index];
            let mut got: Vec<String> = Vec::new();
            for body in world.bodies(&writer.pod, stream) {
                let lines: Vec<String> = body.split('\n').map(str::to_owned).collect();
                let first = written.iter().position(|line| *line == lines[0]);
                let is_run = first.is_some_and(|first| written[first..].starts_with(&lines));
                assert!(lines.len() == 1 || is_run, "not lines that follow each other: {body}");
                got.extend(lines);
            }
            got.retain(|body| !writer.cut.contains(body));
            let mut expected = writer.lines[index].clone();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{} {stream}", writer.pod);
        }
    }
    if writers.iter().all(|writer| writer.cut.is_empty()) {
        let observed: u64 = world.core.ledger.rows().map(|(_, row)| row.observed).sum();
        let written: u64 = writers.iter().map(|writer| writer.written).sum();
        assert_eq!((world.lost(), world.core.gaps, observed), (0, 0, written));
    }
    let pending: u64 = world.core.ledger.rows().map(|(_, row)| row.pending()).sum();
    assert_eq!(pending, 0);
    // What is acknowledged is never sent again, by this process or the next.
    world.core.finish(world.now.mono);
    let before = world.got.len();
    world.restart();
    for _ in 0..50 {
        world.turn(100);
    }
    assert!(
        world.unsettled.is_empty(),
        "resent {} of {before}",
        world.unsettled.iter().map(|batch| batch.records).sum::<u32>()
    );
}

#[test]
fn lines_that_are_settled_at_the_beginning_of_the_next_file_end_a_record_of_the_file_before() {
    let write = |stderr, fragments, len| Step::Write { container: 1, stderr, fragments, len };
    let steps = vec![
        write(false, 2, 160),
        Step::Rule { which: 4, stopped: true },
        write(false, 2, 22),
        write(false, 2, 0),
        write(false, 0, 1),
        Step::Rotate { container: 1, compress: false },
        Step::Rule { which: 3, stopped: false },
        write(false, 0, 0),
        Step::Turn { millis: 0 },
        Step::Turn { millis: 0 },
        Step::Accept { which: 0, answered: true },
        Step::Turn { millis: 1000 },
        Step::Turn { millis: 200 },
        Step::Accept { which: 3, answered: true },
        Step::Rule { which: 4, stopped: true },
        write(true, 1, 0),
    ];
    run(steps, 1);
}

#[test]
fn a_process_that_stopped_before_it_came_to_what_a_killed_one_had_sent_does_not_say_that_it_read_all() {
    let write = |fragments, len| Step::Write { container: 1, stderr: false, fragments, len };
    let steps = vec![
        write(0, 0),
        write(2, 126),
        write(1, 53),
        write(1, 241),
        Step::Rotate { container: 1, compress: false },
        write(2, 113),
        Step::Full { full: true },
        Step::Turn { millis: 0 },
        Step::Rotate { container: 1, compress: false },
        Step::Accept { which: 3, answered: false },
        write(0, 0),
        Step::Rotate { container: 1, compress: true },
        Step::Full { full: false },
        Step::Restart,
        Step::Rule { which: 1, stopped: true },
    ];
    run(steps, 0);
}

#[test]
fn a_clean_stop_is_not_forgotten_by_a_process_that_came_to_nothing() {
    let write = |fragments| Step::Write { container: 0, stderr: false, fragments, len: 0 };
    let steps = vec![
        Step::Rule { which: 1, stopped: false },
        write(0),
        Step::Turn { millis: 0 },
        Step::Rule { which: 2, stopped: true },
        Step::Full { full: true },
        write(2),
        Step::Turn { millis: 0 },
        Step::Turn { millis: 0 },
        Step::Turn { millis: 200 },
        Step::Accept { which: 0, answered: false },
        Step::Restart,
        Step::Full { full: false },
        Step::Stop,
    ];
    run(steps, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_line_arrives_once_per_uid_whatever_happens_and_every_byte_is_accounted_for(steps in steps()) {
        run(steps, 0);
    }

    #[test]
    fn records_of_several_lines_hold_each_line_once_whatever_happens(steps in ruled_steps(), rule in 0usize..6) {
        run(steps, rule);
    }
}
