//! Clients and receivers that we did not write: the OpenTelemetry SDK for Python, the OpenTelemetry Collector.
//!
//! `tests/interop/install` puts them below `target/interop`; without them these tests are skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, root, wait_until};

fn installed(name: &str, test: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().to_owned();
    let places = [target.join("interop"), root().join("target/interop")];
    let found = places.iter().map(|place| place.join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: {name} is not below target/interop (run tests/interop/install)");
    }
    found
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ten_thousand_records_of_the_python_sdk_arrive_field_by_field(transport: &str) {
    let test = "ten_thousand_records_of_the_python_sdk_arrive_field_by_field";
    let Some(python) = installed("venv/bin/python", test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    stack.start_collector().unwrap();
    let up =
        || sonde_tests::http::get(stack.collector_http, "/readyz").is_ok_and(|answer| answer.status == 200);
    wait_until("the collector", Duration::from_secs(30), up).unwrap();
    let port = if transport == "grpc" { stack.otlp_grpc } else { stack.otlp_http };
    let script = |name: &str, port: u16| {
        let out = Command::new(&python)
            .arg(root().join("tests/interop").join(name))
            .args([transport, &port.to_string(), "10000"])
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.success(), text)
    };
    let (sent, text) = script("send.py", port);
    assert!(sent, "{text}");
    wait_until("10,000 records", Duration::from_secs(30), || stack.stored().unwrap() >= 10_000).unwrap();
    let (same, text) = script("compare.py", stack.collector_http);
    assert!(same, "{text}");
}

#[test]
fn ten_thousand_records_of_the_python_sdk_arrive_field_by_field_over_grpc_with_gzip() {
    ten_thousand_records_of_the_python_sdk_arrive_field_by_field("grpc");
}

#[test]
fn ten_thousand_records_of_the_python_sdk_arrive_field_by_field_over_http_with_gzip() {
    ten_thousand_records_of_the_python_sdk_arrive_field_by_field("http");
}

/// A collector that writes what it receives of one signal to a file; its OTLP/gRPC and OTLP/HTTP ports, and the file.
fn opentelemetry_collector(program: &Path, dir: &Path, signal: &str) -> (Killed, (u16, u16), PathBuf) {
    let (grpc, web) = (free_port().unwrap(), free_port().unwrap());
    let out = dir.join("received.jsonl");
    let config = dir.join("otelcol.yaml");
    let text = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{grpc}}}, http: {{endpoint: 127.0.0.1:{web}}}}}}}}}\n\
         exporters: {{file: {{path: {}}}}}\n\
         service: {{telemetry: {{metrics: {{level: none}}}}, pipelines: {{{signal}: {{receivers: [otlp], exporters: [file]}}}}}}\n",
        out.display()
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(dir.join("otelcol.log")).unwrap();
    let child =
        Command::new(program).arg("--config").arg(&config).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let receiver = Killed(child);
    let up = || std::net::TcpStream::connect(("127.0.0.1", grpc)).is_ok();
    wait_until("the OpenTelemetry Collector", Duration::from_secs(30), up).unwrap();
    (receiver, (grpc, web), out)
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
    let (_receiver, (grpc, web), out) = opentelemetry_collector(&otelcol, dir.path(), "logs");
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
    corpus::write(&stack.pod_logs, 5, 2_000, 200).unwrap();
    stack.start_agent().unwrap();
    let lines = || fs::read_to_string(&out).unwrap_or_default();
    wait_until("10,000 records", Duration::from_secs(60), || {
        lines().matches("\"logRecords\"").count() > 0 && records(&lines()).len() == 10_000
    })
    .unwrap();
    let received = records(&lines());
    for file in 0..5 {
        let name = format!("pod-{file}");
        let written = fs::read_dir(&stack.pod_logs)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().contains(&format!("_{name}_")))
            .unwrap();
        for line in fs::read_to_string(written.join("app/0.log")).unwrap().lines() {
            let body = line.splitn(4, ' ').nth(3).unwrap();
            let attributes = received.get(body).unwrap_or_else(|| panic!("{body} was not received"));
            assert_eq!(attributes["k8s.pod.name"], name);
            assert_eq!(attributes["k8s.namespace.name"], format!("ns-{}", file % 3));
            assert_eq!(attributes["k8s.container.name"], "app");
            assert_eq!(attributes["log.iostream"], "stdout");
        }
    }
}

/// Body → resource and record attributes, out of the file exporter's OTLP JSON lines.
fn records(text: &str) -> HashMap<String, HashMap<String, String>> {
    let mut all = HashMap::new();
    let flat = |attributes: &Value, into: &mut HashMap<String, String>| {
        for attribute in attributes.as_array().into_iter().flatten() {
            let value = attribute["value"]["stringValue"].as_str().unwrap_or_default();
            into.insert(attribute["key"].as_str().unwrap().to_owned(), value.to_owned());
        }
    };
    for line in text.lines() {
        let Ok(request) = serde_json::from_str::<Value>(line) else { continue };
        for resource in request["resourceLogs"].as_array().unwrap() {
            for scope in resource["scopeLogs"].as_array().unwrap() {
                for record in scope["logRecords"].as_array().unwrap() {
                    let mut attributes = HashMap::new();
                    flat(&resource["resource"]["attributes"], &mut attributes);
                    flat(&record["attributes"], &mut attributes);
                    let body = record["body"]["stringValue"].as_str().unwrap().to_owned();
                    assert!(all.insert(body, attributes).is_none(), "a record came twice");
                }
            }
        }
    }
    all
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
    let (_receiver, (port, _), out) = opentelemetry_collector(&otelcol, dir.path(), "metrics");
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
