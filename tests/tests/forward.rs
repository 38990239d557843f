//! Collectors in a row: an agent, a collector that sends on, and one that stores; and a collector that we did not write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, verify, wait_until};

const LINES: usize = 5 * 4_000;

/// The collector at the end of the row.
fn last(dir: &Path) -> Stack {
    std::fs::create_dir_all(dir).unwrap();
    let mut last = Stack::new(dir, &Settings::default()).unwrap();
    last.start_collector().unwrap();
    last
}

fn ready(stack: &Stack) -> bool {
    http::get(stack.collector_http, "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// An agent and the first collector, which keeps nothing and sends on to `last`.
fn first(dir: &Path, last: &Stack, protocol: &str) -> Stack {
    std::fs::create_dir_all(dir).unwrap();
    let port = if protocol == "http" { last.otlp_http } else { last.otlp_grpc };
    let settings = Settings {
        agent: "metrics: {push: false}".to_owned(),
        collector: format!(
            "cluster: east\nsinks: [{{name: next, type: otlp, endpoint: \"http://127.0.0.1:{port}\", protocol: {protocol}}}]"
        ),
        ..Settings::default()
    };
    Stack::new(dir, &settings).unwrap()
}

/// Both collectors are killed -9 while the lines are under way; the last one has every line once.
fn every_line_is_stored_once_behind_two_collectors(protocol: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut last = last(&dir.path().join("last"));
    let mut first = first(&dir.path().join("first"), &last, protocol);
    corpus::write(&first.pod_logs, 5, LINES / 5, 200).unwrap();
    first.start().unwrap();
    let limit = Duration::from_secs(90);
    let stored = |stack: &Stack, count: u64| stack.stored().is_ok_and(|stored| stored >= count);
    for round in 1..=3 {
        wait_until("some lines", limit, || stored(&last, 1_000 * round)).unwrap();
        last.kill_collector().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        first.kill_collector().unwrap();
        first.start_collector().unwrap();
        last.start_collector().unwrap();
        wait_until("the last collector", limit, || ready(&last)).unwrap();
    }
    wait_until("every line", limit, || stored(&last, LINES as u64)).unwrap_or_else(|error| {
        panic!(
            "{error}: {:?} stored; {}",
            last.stored(),
            http::text(first.collector_http, "/metrics").unwrap()
        )
    });
    let outcome = |outcome: &str| {
        let labels = format!("sink=\"next\",outcome=\"{outcome}\"");
        http::metric(first.collector_http, "/metrics", "sonde_collector_records_total", &labels)
    };
    let queue =
        || http::metric(first.collector_http, "/metrics", "sonde_collector_queue_bytes", "sink=\"next\"");
    wait_until("the first collector's queue to be empty", limit, || queue().is_ok_and(|bytes| bytes == 0.0))
        .unwrap();
    assert_eq!(outcome("dead_letter").unwrap(), 0.0);
    assert_eq!(last.stored().unwrap(), LINES as u64);
    let named = http::text(last.collector_http, "/api/v1/logs?limit=10").unwrap();
    assert!(named.lines().all(|line| line.contains("\"cluster\":\"east\"")), "{named}");
    if verify::python() {
        verify::verify(&[first.pod_logs.clone()], last.collector_http).unwrap();
    }
}

#[test]
fn every_line_is_stored_once_behind_two_collectors_over_grpc() {
    every_line_is_stored_once_behind_two_collectors("grpc");
}

#[test]
fn every_line_is_stored_once_behind_two_collectors_over_http() {
    every_line_is_stored_once_behind_two_collectors("http");
}
