//! The sink of type loki against `tests/loki.py`: a stub, with a decoder of its own and Loki's rules and lies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, root, verify, wait_until};

const LINES: u64 = 6 * 2_000;

struct Stub {
    child: Child,
    port: u16,
}

impl Stub {
    fn start(seed: u32, tenant: &str) -> Self {
        let port = free_port().unwrap();
        let child = Command::new("python3")
            .arg(root().join("tests/loki.py"))
            .args([&port.to_string(), &seed.to_string(), tenant])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stub = Self { child, port };
        wait_until("the stub", Duration::from_secs(30), || http::get(port, "/stats").is_ok()).unwrap();
        stub
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&http::text(self.port, "/stats").unwrap()).unwrap()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stack(dir: &std::path::Path, stub: &Stub, names: &str) -> Stack {
    let settings = Settings {
        agent: "metrics: {push: false}".to_owned(),
        collector: format!(
            "sinks: [{{name: loki, type: loki, endpoint: \"http://127.0.0.1:{}\", tenant: a, label_names: {names}}}]",
            stub.port
        ),
        ..Settings::default()
    };
    Stack::new(dir, &settings).unwrap()
}

fn every_line_is_there_once_whatever_the_stub_answers(names: &str, seed: u32) {
    if !verify::python() {
        eprintln!("SKIPPED every_line_is_there_once_whatever_the_stub_answers: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(seed, "a");
    let mut stack = stack(dir.path(), &stub, names);
    corpus::write(&stack.pod_logs, 6, 2_000, 200).unwrap();
    stack.start().unwrap();
    let limit = Duration::from_secs(120);
    let entries = || stub.stats()["entries"].as_u64().unwrap();
    wait_until("some lines", limit, || entries() > 1_000).unwrap();
    stack.kill_collector().unwrap();
    stack.start_collector().unwrap();
    let done = || {
        let all = http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_pending_bytes", "");
        let queue =
            http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", "sink=\"loki\"");
        all.is_ok_and(|bytes| bytes == 0.0) && queue.is_ok_and(|bytes| bytes == 0.0) && entries() >= LINES
    };
    wait_until("every line", limit, done).unwrap_or_else(|error| panic!("{error}: {}", stub.stats()));
    let stats = stub.stats();
    assert_eq!(stats["wrong"], serde_json::json!([]), "{stats}");
    assert_eq!(stats["entries"], LINES, "{stats}");
    assert!(seed == 0 || stats["lies"].as_object().unwrap().len() >= 4, "{stats}");
    let export = dir.path().join("export.ndjson");
    std::fs::write(&export, http::text(stub.port, "/export").unwrap()).unwrap();
    verify::verify_file(&[stack.pod_logs.clone()], &export).unwrap();
}

#[test]
fn every_line_is_there_once_under_the_labels_of_opentelemetry() {
    every_line_is_there_once_whatever_the_stub_answers("otel", 7);
}

#[test]
fn every_line_is_there_once_under_the_labels_of_promtail() {
    every_line_is_there_once_whatever_the_stub_answers("promtail", 11);
}
