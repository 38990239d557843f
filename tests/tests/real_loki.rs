//! A real Grafana Loki: every line is in its stream once, whatever Loki answers and whoever is killed.
//!
//! `tests/servers/loki` puts the server below `target/servers`; without it this test is skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, root, verify, wait_until};

const FILES: usize = 6;
const LINES: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(180);
/// What no Loki with default limits takes: a line of ten days ago, and one of 300 KiB.
const REFUSED: usize = 2;

fn installed(test: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().to_owned();
    let places = [target.join("servers/loki"), root().join("target/servers/loki")];
    let found = places.into_iter().find(|place| place.join("stamp").exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: no server below target/servers/loki (run tests/servers/loki)");
    }
    found.map(|place| place.join("loki"))
}

/// A Loki that keeps its data when it is killed and started again.
struct Server {
    program: PathBuf,
    home: PathBuf,
    port: u16,
    grpc: u16,
    child: Option<Child>,
}

impl Server {
    fn new(program: PathBuf, home: PathBuf) -> Self {
        fs::create_dir_all(&home).unwrap();
        Self { program, home, port: free_port().unwrap(), grpc: free_port().unwrap(), child: None }
    }

    /// `limits` = further lines of `limits_config`.
    fn start(&mut self, limits: &str) {
        let home = self.home.display();
        let config = format!(
            "auth_enabled: true\n\
             analytics: {{reporting_enabled: false}}\n\
             server: {{http_listen_address: 127.0.0.1, http_listen_port: {}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {}, log_level: warn, grpc_server_max_recv_msg_size: 104857600, grpc_server_max_send_msg_size: 104857600}}\n\
             frontend_worker: {{grpc_client_config: {{max_send_msg_size: 104857600}}}}\n\
             common:\n  path_prefix: {home}/data\n  replication_factor: 1\n  instance_addr: 127.0.0.1\n  ring: {{kvstore: {{store: inmemory}}}}\n  \
             storage: {{filesystem: {{chunks_directory: {home}/chunks, rules_directory: {home}/rules}}}}\n\
             schema_config: {{configs: [{{from: 2024-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {{prefix: index_, period: 24h}}}}]}}\n\
             limits_config:\n  max_entries_limit_per_query: 1000000\n{limits}",
            self.port, self.grpc
        );
        let path = self.home.join("loki.yaml");
        fs::write(&path, config).unwrap();
        let log = File::options().create(true).append(true).open(self.home.join("loki.log")).unwrap();
        let child = Command::new(&self.program)
            .arg(format!("-config.file={}", path.display()))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        // Its `/ready` waits 15 s longer than it has to; an answer to a question is enough.
        wait_until("Loki", LIMIT, || self.ask("/loki/api/v1/labels").is_some())
            .unwrap_or_else(|e| panic!("{e}: {}", fs::read_to_string(self.home.join("loki.log")).unwrap()));
    }

    /// kill -9.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As the tenant that the sink writes for.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut answer = http::get_as(self.port, path, "X-Scope-OrgID: team-a").ok()?;
        let mut text = String::new();
        answer.body.read_to_string(&mut text).ok()?;
        if answer.status != 200 {
            eprintln!("Loki answers {}: {text:.300}", answer.status);
            return None;
        }
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Every entry, with its stream's labels and its own metadata.
    fn entries(&self) -> Vec<(Value, u64, String)> {
        let path =
            "/loki/api/v1/query_range?query=%7Bk8s_namespace_name%3D~%22.%2B%22%7D&limit=1000000&since=700h";
        let Some(answer) = self.ask(path) else { return Vec::new() };
        let mut entries = Vec::new();
        for stream in answer["data"]["result"].as_array().unwrap() {
            for value in stream["values"].as_array().unwrap() {
                let nanos = value[0].as_str().unwrap().parse().unwrap();
                entries.push((stream["stream"].clone(), nanos, value[1].as_str().unwrap().to_owned()));
            }
        }
        entries
    }

    /// In the form of the collector's `/api/v1/logs`.
    fn export(&self) -> String {
        let mut entries = self.entries();
        entries.sort_by_key(|(names, nanos, _)| (*nanos, names["log_record_uid"].to_string()));
        entries.into_iter().fold(String::new(), |mut out, (names, nanos, line)| {
            let time = format!("{}.{:09}Z", corpus::rfc3339(nanos / 1_000_000_000), nanos % 1_000_000_000);
            let record = json!({
                "time": time, "namespace": names["k8s_namespace_name"], "pod": names["k8s_pod_name"],
                "container": names["k8s_container_name"], "stream": names["log_iostream"], "body": line,
                "uid": names["log_record_uid"], "attributes": {"k8s.pod.uid": names["k8s_pod_uid"]},
            });
            writeln!(out, "{record}").unwrap();
            out
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pod of its own, outside what the verifier compares: lines that Loki refuses between lines that it takes.
const ODD: &str = "odd_odd-0_0dd00000-0000-4000-8000-000000000000";

fn write_refused(dir: &Path, pod_logs: &Path) {
    let made = dir.join("made");
    fs::create_dir_all(made.join("app")).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut text = String::new();
    for (number, age) in [10 * 86_400, 3, 3, 3, 2].into_iter().enumerate() {
        let pad = if number == 2 { "x".repeat(300 << 10) } else { String::new() };
        writeln!(text, "{}.{number:09}Z stdout F odd {number} {pad}", corpus::rfc3339(now - age)).unwrap();
    }
    fs::write(made.join("app/0.log"), text).unwrap();
    fs::rename(made, pod_logs.join(ODD)).unwrap();
}

fn retries(stack: &Stack, code: &str) -> f64 {
    let labels = format!("code=\"{code}\"");
    http::metric(stack.collector_http, "/metrics", "sonde_collector_retries_total", &labels).unwrap_or(0.0)
}

fn drained(stack: &Stack) -> bool {
    let pending = http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_pending_bytes", "");
    let queue =
        http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", "sink=\"loki\"");
    pending.is_ok_and(|bytes| bytes == 0.0) && queue.is_ok_and(|bytes| bytes == 0.0)
}

#[test]
fn every_line_is_in_a_real_loki_once_whatever_it_answers_and_whoever_is_killed() {
    let test = "every_line_is_in_a_real_loki_once_whatever_it_answers_and_whoever_is_killed";
    let Some(program) = installed(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut loki = Server::new(program, dir.path().join("loki"));
    let settings = Settings {
        agent: "metrics: {push: false}\nlogs: {read_existing: true}".to_owned(),
        collector: format!(
            "cluster: east\nsinks: [{{name: loki, type: loki, endpoint: \"http://127.0.0.1:{}\", tenant: team-a}}]",
            loki.port
        ),
        ..Settings::default()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    let logs = stack.pod_logs.clone();
    corpus::write(&logs, FILES, LINES, 200).unwrap();

    // Blocked: a 2xx, and nothing is stored.
    loki.start("  block_ingestion_until: 2099-01-01T00:00:00Z\n");
    stack.start().unwrap();
    wait_until("a 260", LIMIT, || retries(&stack, "260") > 0.0).unwrap();
    assert_eq!(loki.entries().len(), 0);
    loki.kill();
    // A burst that is smaller than our requests.
    loki.start("  ingestion_rate_mb: 2\n  ingestion_burst_size_mb: 0.3\n");
    stack.kill_collector().unwrap();
    stack.start_collector().unwrap();
    wait_until("a 429", LIMIT, || retries(&stack, "429") > 0.0).unwrap();
    let some = |loki: &Server, count: usize| loki.entries().len() >= count;
    wait_until("some lines", LIMIT, || some(&loki, 1_000)).unwrap();
    // What was under way is sent again: by the collector, and, read anew, by the agent.
    for round in 1..=3 {
        // What comes again is not in the same chunk then: it is merged when it is asked for.
        assert_eq!(http::send(loki.port, "POST", "/flush", "").unwrap().status, 204);
        stack.kill_collector().unwrap();
        stack.kill_agent().unwrap();
        if round == 2 {
            loki.kill();
            loki.start("");
        }
        stack.start().unwrap();
        wait_until("some lines more", LIMIT, || some(&loki, (1_000 + 3_000 * round).min(FILES * LINES)))
            .unwrap();
    }
    write_refused(dir.path(), &logs);
    let all = FILES * LINES + 5 - REFUSED;
    wait_until("every line", LIMIT, || drained(&stack) && some(&loki, all))
        .unwrap_or_else(|error| panic!("{error}: {} of {all}", loki.entries().len()));
    let dead = dir.path().join("collector-data/dead-letter/loki");
    let letters: String =
        fs::read_dir(&dead).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let reasons: Vec<String> = letters
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons.len(), REFUSED, "{reasons:?}");
    assert!(reasons[0].contains("timestamp too old") && reasons[1].contains("max entry size"), "{reasons:?}");

    let named = &loki.entries()[0].0;
    assert_eq!(named["k8s_cluster_name"], "east", "{named}");
    assert_eq!(loki.entries().len(), all, "none twice");
    let odd = |line: &&str| line.contains("\"odd-0\"");
    let text: Vec<String> = loki.export().lines().filter(|line| !odd(line)).map(str::to_owned).collect();
    let export = dir.path().join("export.ndjson");
    fs::write(&export, text.join("\n") + "\n").unwrap();
    fs::remove_dir_all(logs.join(ODD)).unwrap();
    if verify::python() {
        verify::verify_file(&[logs], &export).unwrap();
    }
}
