//! Clients and receivers that we did not write: the OpenTelemetry SDKs for Python and Node.js, the OpenTelemetry Collector.
//!
//! `tests/interop/install` puts them below `target/interop`; without them these tests are skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sonde_tests::otelcol::{Killed, To, installed, opentelemetry_collector, relaying_collector};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, root, verify, wait_until};

/// By what SDK records are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sdk {
    Python,
    Node,
}

impl Sdk {
    /// The sender's command; `None` where it is not installed.
    fn sender(self, test: &str) -> Option<Command> {
        let scripts = root().join("tests/interop");
        Some(match self {
            Self::Python => {
                let mut command = Command::new(installed("venv/bin/python", test)?);
                command.arg(scripts.join("send.py"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", installed("node/node_modules", test)?);
                command.arg(scripts.join("node/send.js"));
                command
            }
        })
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {text}");
}

/// Whether the records go to our collector, or to an OpenTelemetry Collector that sends them to ours.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Direct,
    Relayed,
}

fn ten_thousand_records_arrive_field_by_field(sdk: Sdk, transport: &str, way: Way) {
    let test = format!("ten_thousand_records_of_the_{sdk:?}_sdk_arrive_field_by_field_{way:?}");
    let (Some(mut sender), Some(python)) = (sdk.sender(&test), installed("venv/bin/python", &test)) else {
        return;
    };
    let Some(otelcol) = installed("otelcol", &test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    stack.start_collector().unwrap();
    let up =
        || sonde_tests::http::get(stack.collector_http, "/readyz").is_ok_and(|answer| answer.status == 200);
    wait_until("the collector", Duration::from_secs(30), up).unwrap();
    let is_grpc = transport == "grpc";
    let to = if is_grpc { To::Grpc(stack.otlp_grpc) } else { To::Http(stack.otlp_http) };
    let relay = match way {
        Way::Direct => None,
        Way::Relayed => Some(relaying_collector(&otelcol, &dir.path().join("relay"), &["logs"], to).unwrap()),
    };
    let (grpc, web) = relay.as_ref().map_or((stack.otlp_grpc, stack.otlp_http), |(_, ports)| *ports);
    let port = if is_grpc { grpc } else { web };
    // Within the store's retention, whatever day it is.
    let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    run(sender.args([transport, &port.to_string(), "10000", &base.to_string()]));
    wait_until("10,000 records", Duration::from_secs(30), || stack.stored().unwrap() >= 10_000).unwrap();
    let name = format!("{sdk:?}").to_lowercase();
    let compare = root().join("tests/interop/compare.py");
    let port = stack.collector_http.to_string();
    run(Command::new(python).arg(compare).args([transport, &port, "10000", &base.to_string(), &name]));
}

#[test]
fn ten_thousand_records_of_the_python_sdk_arrive_field_by_field_over_grpc_with_gzip() {
    ten_thousand_records_arrive_field_by_field(Sdk::Python, "grpc", Way::Direct);
}

#[test]
fn ten_thousand_records_of_the_python_sdk_arrive_field_by_field_over_http_with_gzip() {
    ten_thousand_records_arrive_field_by_field(Sdk::Python, "http", Way::Direct);
}

#[test]
fn ten_thousand_records_of_the_node_sdk_arrive_field_by_field_over_grpc_with_gzip() {
    ten_thousand_records_arrive_field_by_field(Sdk::Node, "grpc", Way::Direct);
}

#[test]
fn ten_thousand_records_of_the_node_sdk_arrive_field_by_field_over_http_with_gzip() {
    ten_thousand_records_arrive_field_by_field(Sdk::Node, "http", Way::Direct);
}

#[test]
fn what_an_opentelemetry_collector_sends_arrives_field_by_field_over_grpc() {
    ten_thousand_records_arrive_field_by_field(Sdk::Python, "grpc", Way::Relayed);
}

#[test]
fn what_an_opentelemetry_collector_sends_arrives_field_by_field_over_http() {
    ten_thousand_records_arrive_field_by_field(Sdk::Python, "http", Way::Relayed);
}

/// By what an OpenTelemetry Collector gets its records.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Agent,
    /// The agent sends to our collector, whose sink of type otlp sends on.
    Collector,
}

fn it_delivers_to_an_opentelemetry_collector(by: By, http: bool, compression: &str) {
    let Some(otelcol) = installed("otelcol", "it_delivers_to_an_opentelemetry_collector") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (_receiver, (grpc, web), out) = opentelemetry_collector(&otelcol, dir.path(), &["logs"]).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", if http { web } else { grpc });
    let protocol = if http { "http" } else { "grpc" };
    let mut settings = Settings { agent: "metrics: {push: false}".to_owned(), ..Settings::default() };
    match by {
        By::Agent => {
            (settings.http, settings.compression, settings.endpoint) =
                (http, compression.to_owned(), endpoint);
        }
        By::Collector => {
            settings.collector = format!(
                "sinks: [{{name: next, type: otlp, endpoint: \"{endpoint}\", protocol: {protocol}, compression: {compression}}}]"
            );
        }
    }
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    if by == By::Collector {
        stack.start_collector().unwrap();
    }
    let began = unix_nanos();
    corpus::write(&stack.pod_logs, 5, 2_000, 200).unwrap();
    let wanted = 10_000 + write_odd_lines(&stack.pod_logs);
    stack.start_agent().unwrap();
    let lines = || fs::read_to_string(&out).unwrap_or_default();
    wait_until(&format!("{wanted} records"), Duration::from_secs(60), || records(&lines()).len() >= wanted)
        .unwrap();
    let received = records(&lines());
    assert_eq!(received.len(), wanted);
    for record in &received {
        assert!((began..=unix_nanos()).contains(&record.observed), "{record:?}");
        let body = record.line["body"].as_str().unwrap();
        let level = LEVELS.iter().find(|(word, _)| body.contains(word)).map_or(0, |(_, number)| *number);
        assert_eq!(record.severity, level, "{body}");
        assert_eq!(record.line["node"], "test-node");
    }
    // Names, times, streams, bodies, uids, order, each once: by a program that shares no code with us.
    if !verify::python() {
        eprintln!("SKIPPED the comparison of what an OpenTelemetry Collector received: there is no python3");
        return;
    }
    let export = dir.path().join("export.ndjson");
    let text: String = received.iter().map(|record| format!("{}\n", record.line)).collect();
    fs::write(&export, text).unwrap();
    verify::verify_file(std::slice::from_ref(&stack.pod_logs), &export).unwrap();
}

/// What a line says of its level, and the number of the log data model.
const LEVELS: [(&str, u64); 2] = [("level=warn", 13), ("\"level\":\"error\"", 17)];

fn unix_nanos() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// A container that writes to both streams, in other alphabets, and longer lines than fit into one entry; how many lines.
fn write_odd_lines(pod_logs: &Path) -> usize {
    let dir = pod_logs.join("ns-odd_pod-odd_0dd0dd00-0000-4000-8000-000000000000").join("app");
    fs::create_dir_all(&dir).unwrap();
    let (long, wide) = ("a".repeat(16_384), "é".repeat(8_192));
    let entries: [(&str, &[u8]); 11] = [
        ("stdout F", "level=warn msg=\"ünïcödé ✓ 日本語\"".as_bytes()),
        ("stderr F", "{\"level\":\"error\",\"message\":\"наоборот\"}".as_bytes()),
        ("stdout P", long.as_bytes()),
        ("stderr F", b"between two parts"),
        ("stdout P", long.as_bytes()),
        ("stderr P", wide.as_bytes()),
        ("stdout F", "the end ✓".as_bytes()),
        ("stderr F", b""),
        ("stdout F", b""),
        ("stdout F", b"not UTF-8: \xff\xe2\x82"),
        ("stderr F", b"\x1b[31mred\x1b[0m \"quoted\" \\ tab\t"),
    ];
    let stamp = corpus::rfc3339(unix_nanos() / 1_000_000_000);
    let mut out = Vec::new();
    for (number, (entry, content)) in entries.iter().enumerate() {
        out.extend_from_slice(format!("{stamp}.{number:09}Z {entry} ").as_bytes());
        out.extend_from_slice(content);
        out.push(b'\n');
    }
    fs::write(dir.join("0.log"), out).unwrap();
    entries.iter().filter(|(entry, _)| entry.ends_with('F')).count()
}

/// A record as an OpenTelemetry Collector had it.
#[derive(Debug)]
struct Received {
    /// What the verifier looks at, as a line of our API.
    line: Value,
    observed: u64,
    severity: u64,
}

/// The records of the file exporter's OTLP JSON lines, by time.
fn records(text: &str) -> Vec<Received> {
    let mut all: Vec<(u64, Received)> = Vec::new();
    // The last line may be half written.
    for request in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        for resource in request["resourceLogs"].as_array().unwrap() {
            let of_resource = attributes(&resource["resource"]["attributes"]);
            for scope in resource["scopeLogs"].as_array().unwrap() {
                for record in scope["logRecords"].as_array().unwrap() {
                    let nanos = |name: &str| record[name].as_str().unwrap().parse::<u64>().unwrap();
                    let (own, time) = (attributes(&record["attributes"]), nanos("timeUnixNano"));
                    let line = json!({
                        "time": format!("{}.{:09}Z", corpus::rfc3339(time / 1_000_000_000), time % 1_000_000_000),
                        "namespace": of_resource["k8s.namespace.name"], "pod": of_resource["k8s.pod.name"],
                        "container": of_resource["k8s.container.name"], "node": of_resource["k8s.node.name"],
                        "stream": own["log.iostream"], "uid": own["log.record.uid"],
                        // Of an empty string the exporter writes nothing.
                        "body": record["body"]["stringValue"].as_str().unwrap_or_default(),
                        "attributes": of_resource,
                    });
                    let severity = record["severityNumber"].as_u64().unwrap_or(0);
                    assert_eq!(severity > 0, record["severityText"].is_string(), "{record}");
                    all.push((time, Received { line, observed: nanos("observedTimeUnixNano"), severity }));
                }
            }
        }
    }
    all.sort_by(|(left, one), (right, other)| {
        (left, one.line["uid"].as_str()).cmp(&(right, other.line["uid"].as_str()))
    });
    all.into_iter().map(|(_, record)| record).collect()
}

/// Attributes of a resource or a record that are text or whole numbers.
fn attributes(list: &Value) -> HashMap<&str, Value> {
    let plain = |value: &Value| match value.get("intValue") {
        Some(number) => number.clone(),
        None => value["stringValue"].clone(),
    };
    let each = list.as_array().into_iter().flatten();
    each.map(|attribute| (attribute["key"].as_str().unwrap(), plain(&attribute["value"]))).collect()
}

#[test]
fn the_agent_delivers_to_an_opentelemetry_collector_over_grpc_with_zstd() {
    it_delivers_to_an_opentelemetry_collector(By::Agent, false, "zstd");
}

#[test]
fn the_agent_delivers_to_an_opentelemetry_collector_over_grpc_uncompressed() {
    it_delivers_to_an_opentelemetry_collector(By::Agent, false, "none");
}

#[test]
fn the_agent_delivers_to_an_opentelemetry_collector_over_http_with_gzip() {
    it_delivers_to_an_opentelemetry_collector(By::Agent, true, "gzip");
}

#[test]
fn a_collectors_sink_delivers_to_an_opentelemetry_collector_over_grpc() {
    it_delivers_to_an_opentelemetry_collector(By::Collector, false, "auto");
}

#[test]
fn a_collectors_sink_delivers_to_an_opentelemetry_collector_over_http() {
    it_delivers_to_an_opentelemetry_collector(By::Collector, true, "gzip");
}

#[test]
fn the_daemons_own_metrics_arrive_at_an_opentelemetry_collector_when_the_environment_names_it() {
    let test = "the_daemons_own_metrics_arrive_at_an_opentelemetry_collector_when_the_environment_names_it";
    let Some(otelcol) = installed("otelcol", test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_receiver, (port, _), out) = opentelemetry_collector(&otelcol, dir.path(), &["metrics"]).unwrap();
    // Its configuration files only; the daemons are started with an environment of their own.
    let _stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    for name in ["sonde-agent", "sonde-collector"] {
        let config = dir.path().join(name.replace("sonde-", "") + ".yaml");
        let child = Command::new(sonde_tests::daemon::binary(name).unwrap())
            .args(["--config".as_ref(), config.as_os_str()])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"))
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join(format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let _daemon = Killed(child);
        let text = || fs::read_to_string(&out).unwrap_or_default();
        let wanted = [
            "process.cpu.time",
            "process.memory.usage",
            "process.uptime",
            "service.version",
            "deployment.environment.name",
        ];
        wait_until(&format!("the metrics of {name}"), Duration::from_secs(30), || {
            text().lines().any(|line| {
                line.contains(&format!("\"stringValue\":\"{name}\""))
                    && wanted.iter().all(|name| line.contains(name))
            })
        })
        .unwrap_or_else(|error| panic!("{error}: {}", text()));
    }
}
