//! The sink of type file: every line is there once and whole, through rotation, compression and kills.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, verify, wait_until};

const FILES: usize = 6;
const LINES: usize = 8_000;
const LIMIT: Duration = Duration::from_secs(120);

/// The text of a file of the sink, decompressed by somebody else.
fn text(path: &Path) -> String {
    if path.extension().is_some_and(|end| end == "gz") {
        let out = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return String::from_utf8(out.stdout).unwrap();
    }
    let mut text = String::new();
    fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|dir| dir.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[test]
fn every_line_is_in_the_files_once_through_rotation_and_kills_of_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let settings = Settings {
        agent: "metrics: {push: false}".to_owned(),
        collector: format!(
            "sinks: [{{name: store, type: store}}, {{name: file, type: file, path: {}/records.ndjson, max_bytes: 2MiB, max_files: 1000, compression: gzip}}]",
            out.display()
        ),
        ..Settings::default()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    stack.start_collector().unwrap();
    stack.start_agent().unwrap();
    let outcome = |stack: &Stack, outcome: &str| {
        let labels = format!("sink=\"file\",outcome=\"{outcome}\"");
        http::metric(stack.collector_http, "/metrics", "sonde_collector_records_total", &labels)
    };
    for round in 1..=4 {
        // Kills while lines are being written: the cursor is up to a second behind the file.
        corpus::write(&stack.pod_logs.join(format!("../round-{round}")), FILES, LINES / 4, 200).unwrap();
        for pod in paths(&dir.path().join(format!("round-{round}"))) {
            let name = pod.file_name().unwrap().to_str().unwrap().replace("pod-", &format!("pod-{round}-"));
            let name = name.replacen("_0000", &format!("_{round}000"), 1);
            fs::rename(&pod, stack.pod_logs.join(name)).unwrap();
        }
        let goal = |stack: &Stack| outcome(stack, "delivered").is_ok_and(|count| count > 2_000.0);
        wait_until("some lines", LIMIT, || goal(&stack)).unwrap();
        stack.kill_collector().unwrap();
        stack.start_collector().unwrap();
        wait_until("the collector", LIMIT, || outcome(&stack, "duplicate").is_ok()).unwrap();
    }
    let queue =
        || http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", "sink=\"file\"");
    let all = (FILES * LINES) as u64;
    let done = || stack.stored().is_ok_and(|lines| lines == all) && queue().is_ok_and(|bytes| bytes == 0.0);
    wait_until("every line", LIMIT, done).unwrap();
    let mut records: Vec<(String, String, String)> = Vec::new();
    let files = paths(&out);
    assert!(files.iter().filter(|path| path.extension().unwrap() == "gz").count() >= 3, "{files:?}");
    for path in &files {
        for line in text(path).lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let get = |key: &str| value[key].as_str().unwrap().to_owned();
            records.push((get("time"), get("uid"), line.to_owned()));
        }
    }
    assert_eq!(records.len(), FILES * LINES);
    records.sort();
    let export = dir.path().join("export.ndjson");
    fs::write(&export, records.into_iter().map(|(.., line)| line + "\n").collect::<String>()).unwrap();
    if verify::python() {
        verify::verify_file(&[stack.pod_logs.clone()], &export).unwrap();
    }
}
