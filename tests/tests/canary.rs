//! The canary: a delay for every sink, no loss that is none, each loss that is one, and no trace of it in anybody's data.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sonde_tests::bulk::Bulk;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, wait_until};

const FILES: usize = 3;
const LINES: usize = 3_000;
/// More canaries than a collector waits for one that is missing.
const ENOUGH: f64 = 12.0;
const LIMIT: Duration = Duration::from_secs(120);
const AGENT: &str = "canary: {interval: 1s}\nmetrics: {push: false}";

fn until(what: &str, ready: impl FnMut() -> bool) {
    wait_until(what, LIMIT, ready).unwrap();
}

/// A sum of the collector's page, of the rows that have these labels.
fn at_sink(stack: &Stack, name: &str, labels: &str) -> f64 {
    http::metric(stack.collector_http, "/metrics", &format!("sonde_collector_{name}"), labels).unwrap_or(0.0)
}

fn canaries(stack: &Stack, sink: &str, outcome: &str) -> f64 {
    let labels = format!("sink=\"{sink}\",node=\"test-node\",outcome=\"{outcome}\"");
    at_sink(stack, "canary_records_total", &labels)
}

fn at_agent(stack: &Stack, name: &str) -> f64 {
    let name = format!("sonde_agent_canary_{name}");
    http::metric(stack.agent_http, "/metrics/self", &name, "").unwrap_or(-1.0)
}

fn write_lines(stack: &Stack) {
    corpus::write(&stack.pod_logs, FILES, LINES / FILES, 200).unwrap();
}

fn collector(dir: &Path) -> Stack {
    fs::create_dir_all(dir).unwrap();
    let mut stack = Stack::new(dir, &Settings::default()).unwrap();
    stack.start_collector().unwrap();
    until("a collector", || http::get(stack.collector_http, "/readyz").is_ok_and(|a| a.status == 200));
    stack
}

#[test]
fn each_sink_has_a_delay_and_restarts_and_outages_are_no_loss_and_no_user_sees_a_canary() {
    const SINKS: [&str; 4] = ["store", "file", "es", "next"];
    let dir = tempfile::tempdir().unwrap();
    let next = collector(&dir.path().join("next"));
    let bulk = Bulk::start(200).unwrap();
    let file = dir.path().join("out/records.ndjson");
    let sinks = format!(
        "sinks:\n  - {{name: store, type: store}}\n  - {{name: file, type: file, path: {}}}\n  \
         - {{name: next, type: otlp, endpoint: \"http://127.0.0.1:{}\", protocol: grpc}}\n{}",
        file.display(),
        next.otlp_grpc,
        bulk.sink("es", "")
    );
    let settings = Settings { agent: AGENT.to_owned(), collector: sinks, ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    write_lines(&stack);
    stack.start().unwrap();
    let arrive = |stack: &Stack, count: f64| {
        for sink in SINKS {
            until(&format!("canaries at {sink}"), || canaries(stack, sink, "delivered") >= count);
        }
    };
    let none_is_missed = |stack: &Stack, when: &str| {
        for (sink, outcome) in SINKS.iter().flat_map(|sink| [(sink, "missing"), (sink, "duplicate")]) {
            assert_eq!(canaries(stack, sink, outcome), 0.0, "{when}: {sink} {outcome}");
        }
    };
    arrive(&stack, ENOUGH);
    none_is_missed(&stack, "undisturbed");
    for sink in SINKS {
        let label = format!("sink=\"{sink}\"");
        let delays = at_sink(&stack, "canary_delay_seconds_count", &label);
        assert!(delays >= ENOUGH, "{sink}: {delays}");
        assert!(at_sink(&stack, "canary_delay_seconds_sum", &label) > 0.0, "{sink}");
        let delivered = at_sink(&stack, "records_total", &format!("{label},outcome=\"delivered\""));
        assert_eq!(delivered, LINES as f64, "{sink} counts users' records");
    }
    assert!(at_agent(&stack, "acknowledged_total") >= ENOUGH);
    assert!(at_agent(&stack, "ack_seconds_count") >= ENOUGH);

    stack.kill_collector().unwrap();
    until("a canary to wait", || at_agent(&stack, "oldest_unacknowledged_seconds") > 2.0);
    stack.start_collector().unwrap();
    arrive(&stack, ENOUGH);
    none_is_missed(&stack, "after an outage of the collector");
    assert!(at_agent(&stack, "written_total") - at_agent(&stack, "acknowledged_total") <= 1.0);

    stack.kill_agent().unwrap();
    stack.start_agent().unwrap();
    arrive(&stack, 2.0 * ENOUGH);
    none_is_missed(&stack, "after a kill of the agent");

    until("the next collector to have the lines", || next.stored().is_ok_and(|count| count >= LINES as u64));
    for stack in [&stack, &next] {
        assert_eq!(stack.stored().unwrap(), LINES as u64);
        let all = http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap();
        assert!(all.lines().count() == LINES && !all.contains("canary"));
        let found = http::text(stack.collector_http, "/api/v1/logs/count?q=synthetic").unwrap();
        assert!(found.contains("\"count\": 0"), "{found}");
    }
    assert_eq!(at_sink(&next, "canary_records_total", ""), 0.0, "canaries end at the first collector");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.lines().count() == LINES && !text.contains("canary"));
    let documents = bulk.documents();
    assert_eq!(documents.len(), LINES);
    assert!(documents.values().all(|(message, _)| !message.contains("synthetic")));
    let observed =
        http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_observed_bytes_total", "").unwrap();
    let written: u64 = files(&stack.pod_logs).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(observed, written as f64, "the ledger has users' bytes only");
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Between an agent and collectors, OTLP over HTTP: hands canaries to its collectors in turn, and loses some.
struct Between {
    listener: TcpListener,
    /// Of so many of the next canaries it says that they arrived, and they do not.
    loses: Arc<AtomicU64>,
}

impl Between {
    fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), loses: Arc::default() }
    }

    fn settings(&self) -> Settings {
        Settings {
            http: true,
            compression: "none".to_owned(),
            endpoint: format!("http://{}", self.listener.local_addr().unwrap()),
            agent: AGENT.to_owned(),
            ..Settings::default()
        }
    }

    /// Its threads end with the connections, and with the test's process.
    fn forward_to(&self, ports: &[u16]) {
        let (listener, loses) = (self.listener.try_clone().unwrap(), Arc::clone(&self.loses));
        let (ports, turn) = (Arc::<[u16]>::from(ports), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let (loses, ports, turn) = (Arc::clone(&loses), Arc::clone(&ports), Arc::clone(&turn));
                std::thread::spawn(move || {
                    let mut requests = BufReader::new(agent.try_clone().unwrap());
                    while let Some(request) = message(&mut requests) {
                        let is_canary = request.windows(12).any(|bytes| bytes == b"sonde.canary");
                        let lose = |left: u64| left.checked_sub(1);
                        let relaxed = Ordering::Relaxed;
                        let answer = if is_canary && loses.fetch_update(relaxed, relaxed, lose).is_ok() {
                            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
                                .to_vec()
                        } else {
                            let at = turn.fetch_add(usize::from(is_canary), relaxed) % ports.len();
                            let Ok(mut to) = TcpStream::connect(("127.0.0.1", ports[at])) else { return };
                            let _ = to.write_all(&request);
                            let Some(answer) = message(&mut BufReader::new(to)) else { return };
                            answer
                        };
                        let _ = (&agent).write_all(&answer);
                    }
                });
            }
        });
    }
}

/// An HTTP/1.1 message with its body.
fn message(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    from.take(length).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[test]
fn a_request_that_was_acknowledged_and_lost_is_seen_at_each_sink() {
    let dir = tempfile::tempdir().unwrap();
    let between = Between::bind();
    let out = dir.path().join("out.ndjson");
    let settings = Settings {
        collector: format!(
            "sinks: [{{name: store, type: store}}, {{name: file, type: file, path: {}}}]",
            out.display()
        ),
        ..between.settings()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    between.forward_to(&[stack.otlp_http]);
    write_lines(&stack);
    stack.start().unwrap();
    until("canaries", || canaries(&stack, "store", "delivered") >= ENOUGH);
    assert_eq!(canaries(&stack, "store", "missing"), 0.0);
    between.loses.store(2, Ordering::Relaxed);
    for sink in ["store", "file"] {
        until(&format!("the loss at {sink}"), || canaries(&stack, sink, "missing") > 0.0);
    }
    let before = canaries(&stack, "store", "delivered");
    until("more canaries", || canaries(&stack, "store", "delivered") >= before + ENOUGH);
    for sink in ["store", "file"] {
        assert_eq!(canaries(&stack, sink, "missing"), 2.0, "{sink}: no more than were lost");
    }
    until("all lines", || stack.stored().is_ok_and(|stored| stored == LINES as u64));
}

#[test]
fn behind_two_replicas_the_sum_of_what_arrived_is_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let between = Between::bind();
    let (one, two) = (collector(&dir.path().join("one")), collector(&dir.path().join("two")));
    between.forward_to(&[one.otlp_http, two.otlp_http]);
    let mut agent = Stack::new(dir.path(), &between.settings()).unwrap();
    agent.start_agent().unwrap();
    let delivered = || canaries(&one, "store", "delivered") + canaries(&two, "store", "delivered");
    until("canaries", || delivered() >= 2.0 * ENOUGH);
    for replica in [&one, &two] {
        assert!(canaries(replica, "store", "missing") > 0.0, "the others are missing at each alone");
    }
    // Between two canaries it is exact.
    let lost = || at_agent(&agent, "acknowledged_total") - delivered();
    until("the sum to be what was acknowledged", || lost() == 0.0);
    between.loses.store(3, Ordering::Relaxed);
    until("the sum to show the loss", || lost() == 3.0);
}
