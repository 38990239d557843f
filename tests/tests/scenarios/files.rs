//! Plain files of the node, as logrotate and programs keep them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sonde_tests::{http, wait_until};

use crate::rig::{Rig, until};

/// How a file is rotated.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Renamed to `.1`, the others one up; compressed when it becomes `.2`.
    Numbers,
    /// Renamed to `-<date>-<seconds>` and compressed at once; the writer reopens late.
    Dates,
    /// Copied to `.1`, then emptied; compressed when it becomes `.2`.
    CopyTruncate,
    /// The same, with lines between copying and emptying, which are in no copy.
    CopyTruncateLate,
}

struct Log {
    path: PathBuf,
    way: Way,
    file: File,
    written: Vec<String>,
    /// Lines that were there only between copying and emptying.
    between: BTreeSet<String>,
    rotations: u64,
}

impl Log {
    fn new(path: PathBuf, way: Way) -> Self {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = Self::open(&path);
        let mut log = Self { path, way, file, written: Vec::new(), between: BTreeSet::new(), rotations: 0 };
        log.line("# the same first line in each file");
        log
    }

    fn open(path: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    fn line(&mut self, line: &str) {
        self.file.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.written.push(line.to_owned());
    }

    fn lines(&mut self, count: usize) {
        for _ in 0..count {
            let line =
                format!("{} {} {}", self.rotations, self.written.len(), "=".repeat(self.written.len() % 300));
            self.line(&line);
        }
    }

    fn other(&self, end: &str) -> PathBuf {
        PathBuf::from(format!("{}{end}", self.path.display()))
    }

    fn move_up(&self) {
        for number in (1..=self.rotations).rev() {
            for end in ["", ".gz"] {
                let _ = fs::rename(
                    self.other(&format!(".{number}{end}")),
                    self.other(&format!(".{}{end}", number + 1)),
                );
            }
        }
        if self.rotations > 0 {
            compress(&self.other(".2"));
        }
    }

    fn rotate(&mut self) {
        match self.way {
            Way::Numbers => {
                self.move_up();
                fs::rename(&self.path, self.other(".1")).unwrap();
                self.file = Self::open(&self.path);
            }
            Way::Dates => {
                let dated = self.other(&format!("-20261121-{}", 1_700_000_000 + self.rotations));
                fs::rename(&self.path, &dated).unwrap();
                self.lines(3);
                self.file = Self::open(&self.path);
                compress(&dated);
            }
            Way::CopyTruncate | Way::CopyTruncateLate => {
                self.move_up();
                fs::copy(&self.path, self.other(".1")).unwrap();
                if self.way == Way::CopyTruncateLate {
                    let before = self.written.len();
                    self.lines(5);
                    self.between.extend(self.written[before..].iter().cloned());
                    thread::sleep(Duration::from_millis(self.rotations % 4 * 20));
                }
                self.file.set_len(0).unwrap();
            }
        }
        self.rotations += 1;
        self.line("# the same first line in each file");
    }
}

/// As gzip does it: beside the file, which goes when all is there.
fn compress(path: &Path) {
    let packed = File::create(format!("{}.gz", path.display())).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(path).unwrap();
}

/// The bodies that are stored, by the path of the file.
fn stored(rig: &Rig) -> BTreeMap<String, Vec<String>> {
    let page = http::text(rig.stack.collector_http, "/api/v1/logs?limit=0").unwrap();
    let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let path = record["attributes"]["log.file.path"].as_str().unwrap_or_default().to_owned();
        stored.entry(path).or_default().push(record["body"].as_str().unwrap().to_owned());
    }
    stored
}

/// Lines that are missing and lines too many, with one of each.
fn difference(log: &Log, got: &[String]) -> Option<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    log.written.iter().for_each(|line| *counts.entry(line).or_default() -= 1);
    got.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    let some = |sign: i64| {
        let lines = counts.iter().filter(|(_, count)| **count * sign > 0);
        let (mut number, mut example) = (0, "");
        lines.for_each(|(line, count)| {
            number += count.abs();
            example = line.split('=').next().unwrap_or_default();
        });
        format!("{number} ({example})")
    };
    let is_same = counts.values().all(|count| *count == 0);
    let path = log.path.display();
    (!is_same)
        .then(|| format!("{path}: missing {}, too many {}, of {}", some(-1), some(1), log.written.len()))
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

#[test]
fn plain_files_that_are_renumbered_and_compressed_around_kills_are_stored_once() {
    rotated_around_kills(Way::Numbers);
}

#[test]
fn plain_files_that_are_dated_and_compressed_at_once_around_kills_are_stored_once() {
    rotated_around_kills(Way::Dates);
}

#[test]
fn plain_files_that_are_copied_and_emptied_around_kills_are_stored_once() {
    rotated_around_kills(Way::CopyTruncate);
}

#[test]
fn what_is_written_between_copying_and_emptying_is_stored_once_or_lost_and_nothing_else_is_either() {
    rotated_around_kills(Way::CopyTruncateLate);
}

fn rotated_around_kills(way: Way) {
    let logs = tempfile::tempdir().unwrap();
    let below = logs.path().display();
    let mut rig =
        Rig::new(&format!("files: [{{path: '{below}/*/*.log', name: app}}, {{path: '{below}/x/app*'}}]"));
    rig.stack.start().unwrap();
    let is_over = AtomicBool::new(false);
    let mut log = thread::scope(|scope| {
        let (path, over) = (logs.path().join("x/app.log"), &is_over);
        let writer = scope.spawn(move || {
            let mut log = Log::new(path, way);
            while !over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    log.lines(10);
                    thread::sleep(Duration::from_millis(10));
                }
                log.rotate();
            }
            log.file.write_all(b"no newline").unwrap();
            log.written.push("no newline".into());
            log
        });
        for round in 0..8u64 {
            thread::sleep(Duration::from_millis(700 + 130 * round));
            rig.stack.kill_agent().unwrap();
            if round % 3 == 1 {
                rig.stack.kill_collector().unwrap();
            }
            thread::sleep(Duration::from_millis(round % 4 * 300));
            rig.stack.start_agent().unwrap();
            if round % 3 == 1 {
                thread::sleep(Duration::from_millis(500));
                rig.stack.start_collector().unwrap();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(log.rotations > 10);
    let is_settled = wait_until("all lines", Duration::from_secs(60), || {
        let stored = rig.stack.stored().unwrap_or_default();
        let least = (log.written.len() - log.between.len()) as u64;
        stored >= least && rig.ledger("pending_bytes", "") == 0
    });
    // What was emptied waits for a copy for ten seconds.
    thread::sleep(Duration::from_secs(if log.between.is_empty() { 2 } else { 12 }));
    let mut stored = stored(&rig);
    let got = stored.remove(&*log.path.to_string_lossy()).unwrap_or_default();
    let files = || http::text(rig.stack.agent_http, "/debug/files").unwrap();
    // Each of these lines is written once.
    let seen: BTreeSet<&String> = got.iter().collect();
    let missed: Vec<String> = log.between.iter().filter(|line| !seen.contains(line)).cloned().collect();
    log.written.retain(|line| !missed.contains(line));
    assert_eq!((difference(&log, &got), is_settled.is_ok()), (None, true), "{}", files());
    assert_eq!(stored.keys().collect::<Vec<_>>(), Vec::<&String>::new());
    // As many as were seen; of what was on its way at a kill it is not known.
    let lost = rig.ledger("lost_bytes_total", "");
    assert!(lost <= log.between.iter().map(|line| line.len() as u64 + 1).sum(), "{lost}");
    assert_eq!(rig.ledger("pending_bytes", ""), 0);
}

#[test]
fn what_is_no_file_is_not_opened_links_are_followed_once_and_what_comes_later_is_found() {
    let logs = tempfile::tempdir().unwrap();
    let below = logs.path();
    let path = |name: &str| below.join(name);
    fs::create_dir_all(path("dir.log")).unwrap();
    fs::write(path("a.log"), "a\n").unwrap();
    symlink(path("a.log"), path("again.log")).unwrap();
    symlink("/dev/zero", path("zero.log")).unwrap();
    symlink("/nowhere", path("broken.log")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo.log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    fs::write(below.join(std::ffi::OsStr::from_bytes(b"\xff.log")), "not said\n").unwrap();
    fs::create_dir_all(path("releases/1")).unwrap();
    fs::write(path("releases/1/app.log"), "first release\n").unwrap();
    symlink(path("releases/1"), path("current")).unwrap();
    let files = ["*.log", "a*", "late/*/*.log", "current/app.log", "pods/*.log"];
    let rules: Vec<String> =
        files.iter().map(|name| format!("{{path: '{}'}}", path(name).display())).collect();
    let mut rig = Rig::new(&format!("files: [{}]", rules.join(", ")));
    let mut container = rig.container("linked");
    container.line("of the container");
    fs::create_dir(path("pods")).unwrap();
    symlink(container.live(), path("pods/container.log")).unwrap();
    rig.stack.start().unwrap();
    rig.until_stored(3);
    fs::create_dir_all(path("late/x")).unwrap();
    fs::write(path("late/x/b.log"), "late\n").unwrap();
    fs::create_dir_all(path("releases/2")).unwrap();
    fs::write(path("releases/2/app.log"), "second release\n").unwrap();
    symlink(path("releases/2"), path("next")).unwrap();
    fs::rename(path("next"), path("current")).unwrap();
    rig.until_stored(5);
    // A rotation under the link: the new file is the container's too.
    container.rotate();
    container.line("after a rotation");
    rig.until_stored(6);
    fs::write(path("releases/1/app.log"), "nobody's\n").unwrap();
    let expected = [
        ("", "of the container,after a rotation"),
        ("a.log", "a"),
        ("current/app.log", "first release,second release"),
        ("late/x/b.log", "late"),
    ];
    let stored = stored(&rig);
    for (name, bodies) in expected {
        let name = if name.is_empty() { String::new() } else { path(name).display().to_string() };
        let expected = bodies.split(',').map(str::to_owned).collect();
        assert_eq!(sorted(stored[&name].clone()), sorted(expected), "{name}");
    }
    assert_eq!(stored.len(), expected.len());
    let said = fs::read_to_string(rig.dir.path().join("agent.log")).unwrap();
    for oddity in ["it is not UTF-8", "it is not a regular file"] {
        assert!(said.contains(oddity), "{oddity}");
    }
    until("the file to be shown", || {
        rig.file(&path("a.log")).is_some_and(|(size, read)| (size, read) == (2, 2))
    });
}
