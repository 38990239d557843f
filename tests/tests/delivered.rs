//! `ack: delivered`: what the sender was told yes about is in the required sink, whatever becomes of the collector.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sonde_tests::bulk::Bulk;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, wait_until};

const LONG: Duration = Duration::from_secs(120);

fn stack(dir: &Path, bulk: &Bulk) -> Stack {
    let collector = format!("ack: delivered\nsinks:\n{}", bulk.sink("es", ", required: true"));
    Stack::new(dir, &Settings { collector, ..Settings::default() }).unwrap()
}

fn start(stack: &mut Stack) {
    stack.start_collector().unwrap();
    wait_until("the collector", LONG, || {
        http::get(stack.collector_http, "/readyz").is_ok_and(|a| a.status == 200)
    })
    .unwrap();
}

fn queued(stack: &Stack) -> f64 {
    http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", "sink=\"es\"")
        .unwrap_or(0.0)
}

fn waiting(stack: &Stack) -> f64 {
    http::metric(stack.collector_http, "/metrics", "sonde_collector_ack_waiting", "").unwrap_or(0.0)
}

fn post(port: u16, message: &str) -> u16 {
    let json = format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"timeUnixNano":"1","body":{{"stringValue":"{message}"}}}}]}}]}}]}}"#
    );
    http::send(port, "POST", "/v1/logs", &json).unwrap().status
}

#[test]
fn a_collector_that_is_killed_and_loses_its_volume_between_queue_and_sink_loses_no_line() {
    const FILES: usize = 3;
    const LINES: usize = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let bulk = Bulk::start(503).unwrap();
    let mut stack = stack(dir.path(), &bulk);
    corpus::write(&stack.pod_logs, FILES, LINES, 120).unwrap();
    stack.start().unwrap();
    wait_until("requests in the queue", LONG, || queued(&stack) > 0.0 && waiting(&stack) > 0.0).unwrap();
    let acked =
        http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_acked_bytes_total", "").unwrap();
    assert!(acked < 1.0, "{acked} bytes were acknowledged that no sink has");
    stack.kill_collector().unwrap();
    fs::remove_dir_all(dir.path().join("collector-data")).unwrap();
    bulk.answer(200);
    stack.start_collector().unwrap();
    wait_until("all lines in the sink", LONG, || bulk.documents().len() >= FILES * LINES).unwrap();
    let pending = || http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_pending_bytes", "");
    wait_until("the agent to know", LONG, || pending().is_ok_and(|pending| pending < 1.0)).unwrap();
    let documents = bulk.documents();
    assert_eq!(documents.len(), FILES * LINES);
    let mut lines: Vec<&str> =
        documents.values().map(|(message, _)| message.trim_end_matches('x').trim()).collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), FILES * LINES, "each line once");
}

#[test]
fn while_the_required_sink_is_away_the_queue_keeps_one_round_and_senders_are_asked_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let bulk = Bulk::start(503).unwrap();
    let mut stack = stack(dir.path(), &bulk);
    start(&mut stack);
    assert_eq!(post(stack.otlp_http, "first"), 503, "after the longest wait");
    let before = queued(&stack);
    assert!(before > 0.0, "it stays in the queue");
    for _ in 0..20 {
        assert_eq!(post(stack.otlp_http, "again"), 503);
    }
    assert!((queued(&stack) - before).abs() < 1.0, "tries while it is away take no space");
    let refusing =
        || http::metric(stack.collector_http, "/metrics", "sonde_collector_ack_refusing", "").unwrap();
    assert!(refusing() > 0.0);
    bulk.answer(200);
    // What was queued is delivered although nobody waits for it, and then all goes on.
    wait_until("it to take again", LONG, || post(stack.otlp_http, "after") == 200).unwrap();
    assert!(refusing() < 1.0);
    let messages: Vec<String> = bulk.documents().into_values().map(|(message, _)| message).collect();
    assert_eq!(messages.iter().filter(|message| *message == "first").count(), 1, "{messages:?}");
    assert!(messages.iter().any(|message| message == "after"));
    // Refused for good and durable among the dead letters is settled: asking again would change nothing.
    assert_eq!(post(stack.otlp_http, "poison"), 200);
    let letters =
        http::metric(stack.collector_http, "/metrics", "sonde_collector_records_total", "dead_letter");
    assert_eq!(letters.unwrap(), 1.0);
}

#[test]
fn a_stop_ends_the_waits_in_time_and_keeps_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let bulk = Bulk::start(503).unwrap();
    let mut stack = stack(dir.path(), &bulk);
    start(&mut stack);
    let port = stack.otlp_http;
    let sender = thread::spawn(move || post(port, "waits"));
    wait_until("the wait", LONG, || waiting(&stack) > 0.0).unwrap();
    let began = Instant::now();
    let status = stack.collector.take().unwrap().stop(LONG).unwrap();
    assert!(status.success(), "{status}");
    // The default grace is 20 s; the wait alone would last as long.
    assert!(began.elapsed() < Duration::from_secs(19), "{:?}", began.elapsed());
    assert_eq!(sender.join().unwrap(), 503);
    bulk.answer(200);
    stack.start_collector().unwrap();
    wait_until("the delivery", LONG, || bulk.documents().len() == 1).unwrap();
}

#[test]
fn a_record_that_the_required_sink_never_copes_with_is_a_dead_letter_and_shuts_out_nobody_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let bulk = Bulk::start(200).unwrap();
    let mut stack = stack(dir.path(), &bulk);
    start(&mut stack);
    let port = stack.otlp_http;
    // For a while it is alone: nothing shows that it is the record and not the server.
    assert_eq!(post(port, "sick"), 503, "after the longest wait");
    assert_eq!(
        http::metric(stack.collector_http, "/metrics", "sonde_collector_ack_refusing", "").unwrap(),
        1.0
    );
    // Then others come beside it, and it comes again until it is told yes.
    let told = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = ["good 1", "good 2", "good 3"]
        .map(|message| {
            let told = Arc::clone(&told);
            thread::spawn(move || {
                let mut taken = 0;
                while !told.load(Ordering::Relaxed) || taken == 0 {
                    taken += usize::from(post(port, message) == 200);
                    thread::sleep(Duration::from_millis(100));
                }
            })
        })
        .into();
    let sick = wait_until("yes about it", LONG, || post(port, "sick") == 200);
    told.store(true, Ordering::Relaxed);
    sick.unwrap();
    for other in others {
        other.join().unwrap();
    }
    let documents = bulk.documents();
    let has = |wanted: &str| documents.values().any(|(message, _)| message == wanted);
    assert!(has("good 1") && has("good 2") && has("good 3") && !has("sick"));
    let letters =
        http::metric(stack.collector_http, "/metrics", "sonde_collector_records_total", "dead_letter")
            .unwrap();
    assert!(letters >= 1.0);
}

#[test]
fn a_required_store_says_yes_to_a_sender_that_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let collector = "ack: delivered\nsinks:\n  - {name: store, type: store, required: true}\n".to_owned();
    let mut stack = Stack::new(dir.path(), &Settings { collector, ..Settings::default() }).unwrap();
    start(&mut stack);
    assert_eq!(post(stack.otlp_http, "one line"), 200);
}
