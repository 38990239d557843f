//! `/var/log/pods` of a real node (kubelet 1.36, containerd 2.1), with its rotated and compressed files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
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

    // Each container's logical lines, and one more where the last line never got its end (shipped as it stands).
    let truth: Value =
        serde_json::from_slice(&fs::read(fixtures.join("ground-truth.json")).unwrap()).unwrap();
    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    for line in http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| record[name].as_str().unwrap().to_owned();
        *stored
            .entry(format!("{}_{}/{}", field("namespace"), field("pod"), field("container")))
            .or_default() += 1;
    }
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (directory, container) in truth.as_object().unwrap() {
        let (pod, container_name) = directory.split_once('/').unwrap();
        let (pod, _uid) = pod.rsplit_once('_').unwrap();
        let lines = container["logical_lines"].as_u64().unwrap()
            + u64::from(container["trailing_partial"].as_bool().unwrap());
        if lines > 0 {
            *expected.entry(format!("{pod}/{container_name}")).or_default() += lines;
        }
    }
    assert_eq!(stored, expected);
    assert!(expected.len() > 20 && expected.values().sum::<u64>() > 1000, "the ground truth is nearly empty");
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
