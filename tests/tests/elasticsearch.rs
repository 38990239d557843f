//! A real OpenSearch: every record is in the stream once, in both layouts.
//!
//! `tests/servers/opensearch` puts the server below `target/servers`; without it this test is skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, root, wait_until};

const FILES: usize = 20;
const LINES: usize = 10_000;
const TOTAL: u64 = (FILES * LINES) as u64;
/// Lines that share a trace.
const TRACE: usize = 100;

const OTEL: &str = "logs-kubernetes.container_logs.otel-default";
const ECS: &str = "logs-kubernetes.container_logs-default";

/// What the node says of itself, for the day when it does not come up.
const LOG: &str = "rootLogger.level = warn\nrootLogger.appenderRef.console.ref = console\nappender.console.type = Console\n\
                   appender.console.name = console\nappender.console.layout.type = PatternLayout\n\
                   appender.console.layout.pattern = %d %p %c %m%n\n";

fn installed(test: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().to_owned();
    let places = [target.join("servers/opensearch"), root().join("target/servers/opensearch")];
    let found = places.into_iter().find(|place| place.join("stamp").exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: no server below target/servers/opensearch (run tests/servers/opensearch)");
    }
    found
}

/// A node that keeps its data when it is killed and started again.
struct Server {
    installed: PathBuf,
    home: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Server {
    fn start(&mut self) {
        fs::create_dir_all(self.home.join("config")).unwrap();
        fs::write(self.home.join("config/log4j2.properties"), LOG).unwrap();
        let log = File::options().create(true).append(true).open(self.home.join("node.log")).unwrap();
        let lib = self.installed.join("lib");
        let path = format!("{}/*:{}", lib.display(), self.installed.join("classes").display());
        let child = Command::new("java")
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.home.join("config/log4j2.properties").display()
            ))
            .args(["-Xms512m", "-Xmx1g", "-cp", &path, "OpenSearchNode"])
            .arg(&self.home)
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let up = || {
            http::get(self.port, "/_cluster/health?wait_for_status=yellow&timeout=1s")
                .is_ok_and(|a| a.status == 200)
        };
        wait_until("OpenSearch", Duration::from_secs(600), up)
            .unwrap_or_else(|e| panic!("{e}: {}", fs::read_to_string(self.home.join("node.log")).unwrap()));
    }

    /// kill -9.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn call(&self, method: &str, path: &str, content: &Value) -> Value {
        let content = if content.is_null() { String::new() } else { content.to_string() };
        let mut answer = http::send(self.port, method, path, &content).unwrap();
        let mut text = String::new();
        answer.body.read_to_string(&mut text).unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn count(&self, stream: &str, query: &Value) -> u64 {
        let answer = self.call("POST", &format!("/{stream}/_count"), &json!({"query": query}));
        answer["count"].as_u64().unwrap()
    }

    /// Documents that are there, or 0 while there is no answer.
    fn total(&self, stream: &str) -> u64 {
        let refresh = http::send(self.port, "POST", &format!("/{stream}/_refresh"), "");
        if refresh.is_ok_and(|answer| answer.status == 200) {
            self.count(stream, &json!({"match_all": {}}))
        } else {
            0
        }
    }

    fn roll_over(&self) {
        for stream in [OTEL, ECS] {
            self.call("POST", &format!("/{stream}/_rollover"), &Value::Null);
        }
    }

    /// Every document's text, read page by page.
    fn texts(&self, stream: &str, field: &str) -> Vec<String> {
        let mut texts = Vec::new();
        let ask = json!({"size": 10_000, "_source": [field], "sort": ["_doc"]});
        let mut page = self.call("POST", &format!("/{stream}/_search?scroll=1m"), &ask);
        loop {
            let hits = page["hits"]["hits"].as_array().unwrap();
            if hits.is_empty() {
                return texts;
            }
            for hit in hits {
                let text = field.split('.').fold(&hit["_source"], |at, part| &at[part]);
                texts.push(text.as_str().unwrap().to_owned());
            }
            let scroll = json!({"scroll": "1m", "scroll_id": page["_scroll_id"]});
            page = self.call("POST", "/_search/scroll", &scroll);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Logs of `FILES` containers; every line says its file and number, and some lines share a trace.
fn write_logs(pod_logs: &Path) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for file in 0..FILES {
        let uid = format!("{file:08x}-0000-4000-8000-000000000000");
        let dir = pod_logs.join(format!("ns-{}_pod-{file}_{uid}", file % 3)).join(container(file));
        fs::create_dir_all(&dir).unwrap();
        let mut out = BufWriter::new(File::create(dir.join("0.log")).unwrap());
        for line in 0..LINES {
            let stamp = format!("{}.{:09}Z", corpus::rfc3339(now), line);
            let trace = trace(file, line);
            writeln!(out, "{stamp} stdout F level=info trace_id={trace} file={file} seq={line} hello")
                .unwrap();
        }
        out.flush().unwrap();
    }
}

fn container(file: usize) -> &'static str {
    if file.is_multiple_of(4) { "sidecar" } else { "app" }
}

fn trace(file: usize, line: usize) -> String {
    format!("{:016x}{:016x}", file + 1, line / TRACE + 1)
}

#[test]
fn every_record_is_in_the_stream_once_through_rollovers_and_kills_in_both_layouts() {
    let test = "every_record_is_in_the_stream_once_through_rollovers_and_kills_in_both_layouts";
    let Some(installed) = installed(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("opensearch");
    let mut server = Server { installed, home, port: free_port().unwrap(), child: None };
    server.start();
    let sinks = format!(
        "sinks:\n  - {{name: store, type: store}}\n  - {{name: otel, type: elasticsearch, endpoints: [\"http://127.0.0.1:{0}\"]}}\n  \
         - {{name: ecs, type: elasticsearch, layout: ecs, endpoints: [\"http://127.0.0.1:{0}\"]}}\n",
        server.port
    );
    let settings =
        Settings { collector: sinks, agent: "metrics: {push: false}".to_owned(), ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    write_logs(&stack.pod_logs);
    stack.start().unwrap();
    let reached = |server: &Server, share: u64| {
        let there = || server.total(OTEL).min(server.total(ECS)) >= TOTAL * share / 100;
        wait_until(&format!("{share} % in both streams"), Duration::from_secs(600), there).unwrap_or_else(
            |error| panic!("{error}: {}", fs::read_to_string(dir.path().join("collector.log")).unwrap()),
        );
    };
    reached(&server, 1);
    server.roll_over();
    reached(&server, 20);
    server.kill();
    server.start();
    server.roll_over();
    reached(&server, 40);
    stack.kill_collector().unwrap();
    server.roll_over();
    stack.start_collector().unwrap();
    reached(&server, 60);
    // Both at once: nobody knows what became of what was under way.
    server.kill();
    stack.kill_collector().unwrap();
    server.start();
    server.roll_over();
    stack.start_collector().unwrap();
    reached(&server, 100);
    let behind = |sink: &str| {
        let labels = format!("sink=\"{sink}\"");
        http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", &labels).unwrap_or(1.0)
    };
    let drained = || ["store", "otel", "ecs"].iter().all(|sink| behind(sink) == 0.0);
    wait_until("an empty queue", Duration::from_secs(300), drained).unwrap();
    assert_eq!(stack.stored().unwrap(), TOTAL);

    for (stream, text, namespace, pod, container_name, trace_id) in [
        (
            OTEL,
            "body.text",
            "resource.attributes.k8s.namespace.name",
            "resource.attributes.k8s.pod.name",
            "kubernetes.container.name",
            "trace_id",
        ),
        (
            ECS,
            "message",
            "kubernetes.namespace",
            "kubernetes.pod.name",
            "kubernetes.container.name",
            "trace.id",
        ),
    ] {
        let indices = server.call("GET", &format!("/_data_stream/{stream}"), &Value::Null);
        let indices = indices["data_streams"][0]["indices"].as_array().unwrap().len();
        assert!(indices >= 5, "{stream} was rolled over: {indices}");
        let mapping = server.call("GET", &format!("/{stream}/_mapping"), &Value::Null);
        assert!(mapping.as_object().unwrap().values().all(|index| index["mappings"]["dynamic"] == "strict"));
        assert_eq!(server.total(stream), TOTAL, "{stream}");
        let term = |field: &str, value: &str| server.count(stream, &json!({"term": {field: value}}));
        for file in 0..FILES {
            assert_eq!(term(pod, &format!("pod-{file}")), LINES as u64, "{stream} pod-{file}");
            assert_eq!(term(trace_id, &trace(file, file * 7)), TRACE as u64, "{stream} trace of {file}");
        }
        for n in 0..3 {
            let files = (0..FILES).filter(|file| file % 3 == n).count() * LINES;
            assert_eq!(term(namespace, &format!("ns-{n}")), files as u64, "{stream} ns-{n}");
        }
        for name in ["app", "sidecar"] {
            let files = (0..FILES).filter(|file| container(*file) == name).count() * LINES;
            assert_eq!(term(container_name, name), files as u64, "{stream} {name}");
        }
        // No sum hides a line that is lost behind another that is there twice.
        let texts = server.texts(stream, text);
        let different: HashSet<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!((texts.len() as u64, different.len() as u64), (TOTAL, TOTAL), "{stream}");
    }
    assert!(!dir.path().join("collector-data/dead-letter").exists(), "nothing was refused");
}
