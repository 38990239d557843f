//! A million lines from their start, over both transports, each once in the store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, verify};

fn a_million_lines_arrive_once(http: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings { http, ..Settings::default() }).unwrap();
    corpus::write(&stack.pod_logs, 30, 33_334, 200).unwrap();
    stack.start().unwrap();
    stack.wait_drained(Duration::from_secs(300)).unwrap();
    assert_eq!(stack.stored().unwrap(), 30 * 33_334);
    verify::verify(&[stack.pod_logs.clone()], stack.collector_http).unwrap();
}

#[test]
fn a_million_lines_over_30_files_arrive_once_over_grpc() {
    a_million_lines_arrive_once(false);
}

#[test]
fn a_million_lines_over_30_files_arrive_once_over_http() {
    a_million_lines_arrive_once(true);
}

#[test]
fn both_daemons_stop_cleanly_and_resume_without_a_second_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    corpus::write(&stack.pod_logs, 10, 5_000, 200).unwrap();
    stack.start().unwrap();
    stack.wait_drained(Duration::from_secs(60)).unwrap();
    for daemon in [stack.agent.take().unwrap(), stack.collector.take().unwrap()] {
        assert_eq!(daemon.stop(Duration::from_secs(25)).unwrap().code(), Some(0));
    }
    stack.start().unwrap();
    stack.wait_drained(Duration::from_secs(60)).unwrap();
    assert_eq!(stack.stored().unwrap(), 50_000);
    verify::verify(&[stack.pod_logs.clone()], stack.collector_http).unwrap();
}
