//! `/var/log/pods` of a real node (kubelet 1.36, containerd 2.1), with its rotated and compressed files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{http, root, verify};

#[test]
fn the_recorded_node_gives_exactly_the_records_of_its_ground_truth() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = root().join("tests/fixtures/logs");
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(fixtures.join("var-log-pods-and-containers.tar.gz"))
        .arg("-C")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    let pod_logs = find(dir.path(), "pods").expect("the tarball has a pods directory");
    let settings = Settings { agent: "logs: {read_existing: true}".to_owned(), ..Settings::default() };
    let mut stack = Stack::with_logs(dir.path(), &pod_logs, &settings).unwrap();
    stack.start().unwrap();
    stack.wait_drained(Duration::from_secs(120)).unwrap();
    let verdict = verify::verify(&[pod_logs], stack.collector_http).unwrap();
    eprintln!("{verdict}");

    let truth: Value =
        serde_json::from_slice(&fs::read(fixtures.join("ground-truth.json")).unwrap()).unwrap();
    let mut stored: BTreeMap<String, Container> = BTreeMap::new();
    for line in http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| record[name].as_str().unwrap().to_owned();
        let name = format!("{}_{}/{}", field("namespace"), field("pod"), field("container"));
        stored.entry(name).or_default().add(&record);
    }
    let mut expected: BTreeMap<String, Container> = BTreeMap::new();
    for (directory, container) in truth.as_object().unwrap() {
        let (pod, container_name) = directory.split_once('/').unwrap();
        let (pod, _uid) = pod.rsplit_once('_').unwrap();
        let container = Container::of_truth(container);
        if container.lines > 0 {
            assert!(expected.insert(format!("{pod}/{container_name}"), container).is_none(), "{directory}");
        }
    }
    let stored: BTreeMap<_, _> = stored.into_iter().map(|(name, each)| (name, each.counted())).collect();
    assert!(stored.keys().eq(expected.keys()), "{:?} and {:?}", stored.keys(), expected.keys());
    for (name, container) in &expected {
        assert_eq!(&stored[name], container, "{name}");
    }
    let sum = |value: fn(&Container) -> u64| expected.values().map(value).sum::<u64>();
    let sums = [
        sum(|each| each.lines),
        sum(|each| each.stderr),
        sum(|each| each.numbers.map_or(0, |(_, _, distinct, _)| distinct)),
    ];
    assert!(
        expected.len() > 20 && sums.iter().all(|sum| *sum > 1000),
        "the ground truth is nearly empty: {sums:?}"
    );
}

/// The runtime's largest fragment: a longer line is several entries.
const FRAGMENT: usize = 16_384;

/// A container's records, as the ground truth counts them.
#[derive(Debug, Default, PartialEq)]
struct Container {
    /// Logical lines, and one more where the last line never got its end (shipped as it stands).
    lines: u64,
    /// CRI entries of each stream.
    stdout: u64,
    stderr: u64,
    malformed: u64,
    /// Bytes of its longest line.
    longest: u64,
    /// The numbers that its lines carry (`seq=7`, `"seq":7`): least, greatest, how many there are, and are missing between those.
    numbers: Option<(u64, u64, u64, u64)>,
    seen: BTreeSet<u64>,
}

impl Container {
    fn of_truth(truth: &Value) -> Self {
        let number = |name: &str| truth[name].as_u64().unwrap();
        let numbers = truth
            .get("seq_first")
            .is_some()
            .then(|| (number("seq_first"), number("seq_last"), number("seq_distinct"), number("seq_gaps")));
        Self {
            lines: number("logical_lines") + u64::from(truth["trailing_partial"].as_bool().unwrap()),
            stdout: number("stdout"),
            stderr: number("stderr"),
            malformed: number("malformed"),
            longest: number("max_logical_line_bytes"),
            numbers,
            seen: BTreeSet::new(),
        }
    }

    fn add(&mut self, record: &Value) {
        let body = record["body"].as_str().unwrap();
        let entries = body.len().div_ceil(FRAGMENT).max(1) as u64;
        match record["stream"].as_str() {
            Some("stdout") => self.stdout += entries,
            Some("stderr") => self.stderr += entries,
            other => panic!("a stream {other:?}"),
        }
        self.lines += 1;
        self.malformed += u64::from(record["attributes"]["log.malformed"] == true);
        self.longest = self.longest.max(body.len() as u64);
        self.seen.extend(number_in(body));
    }

    /// All were added.
    fn counted(mut self) -> Self {
        let seen = std::mem::take(&mut self.seen);
        if let (Some(&first), Some(&last)) = (seen.first(), seen.last()) {
            let distinct = seen.len() as u64;
            self.numbers = Some((first, last, distinct, last - first + 1 - distinct));
        }
        self
    }
}

/// The first `seq=7` or `"seq": 7` of a line.
fn number_in(body: &str) -> Option<u64> {
    body.split("seq").skip(1).find_map(|rest| {
        let rest = rest.strip_prefix('"').unwrap_or(rest);
        let rest = rest.strip_prefix(['=', ':'])?.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if !path.is_dir() || path.is_symlink() {
            return None;
        }
        if entry.file_name() == name { Some(path) } else { find(&path, name) }
    })
}
