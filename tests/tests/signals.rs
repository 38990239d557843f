//! Metrics and traces of others through a collector: untouched, none lost that was acknowledged, and never in the way of logs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sonde_tests::otelcol::{installed, opentelemetry_collector};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, root, verify, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// Every span and data point in the file exporter's lines, with all that is around it, and how often it is there.
fn items(text: &str) -> BTreeMap<String, u64> {
    let mut items = BTreeMap::new();
    let mut add = |parts: &[&Value]| {
        let item = parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        *items.entry(item).or_default() += 1;
    };
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for request in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        for resource in all(&request["resourceSpans"]) {
            for scope in all(&resource["scopeSpans"]) {
                for span in all(&scope["spans"]) {
                    add(&[&resource["resource"], &scope["scope"], &span]);
                }
            }
        }
        for resource in all(&request["resourceMetrics"]) {
            for scope in all(&resource["scopeMetrics"]) {
                for metric in all(&scope["metrics"]) {
                    for (key, mut data) in metric.as_object().cloned().unwrap_or_default() {
                        let points = data.get_mut("dataPoints").map(Value::take).unwrap_or_default();
                        for point in all(&points) {
                            let name = [&metric["name"], &metric["unit"], &metric["description"]];
                            let around = [&resource["resource"], &scope["scope"]];
                            let data = [&json!(key), &data, &point];
                            add(&[&around[..], &name[..], &data[..]].concat());
                        }
                    }
                }
            }
        }
    }
    items
}

/// The SDK sends the same to an OpenTelemetry Collector, and to a collector of ours that sends on to another one.
fn what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field(transport: &str) {
    let test = "what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field";
    let (Some(python), Some(otelcol)) = (installed("venv/bin/python", test), installed("otelcol", test))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let signals = ["metrics", "traces"];
    let (_direct, direct, sent) =
        opentelemetry_collector(&otelcol, &dir.path().join("direct"), &signals).unwrap();
    let (_behind, behind, received) =
        opentelemetry_collector(&otelcol, &dir.path().join("behind"), &signals).unwrap();
    let grpc = transport == "grpc";
    let port = |ports: (u16, u16)| if grpc { ports.0 } else { ports.1 };
    let mut stack =
        Stack::new(dir.path(), &settings(&format!("http://127.0.0.1:{}", port(behind)), transport)).unwrap();
    start(&mut stack);
    let ours = port((stack.otlp_grpc, stack.otlp_http));
    let out = Command::new(&python)
        .arg(root().join("tests/interop/signals.py"))
        .args([transport, &port(direct).to_string(), &ours.to_string()])
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
    let read = |path: &Path| items(&fs::read_to_string(path).unwrap_or_default());
    let count = |path: &Path| read(path).values().sum::<u64>();
    // 2,000 spans, and ten turns of three times 200 points and four of the histograms.
    wait_until("what was sent", LIMIT, || count(&sent) >= 2_000 + 10 * 604).unwrap();
    wait_until("what was sent on", LIMIT, || count(&received) >= count(&sent)).unwrap();
    let (sent, received) = (read(&sent), read(&received));
    let differ: Vec<_> =
        sent.iter().filter(|(item, times)| received.get(*item) != Some(times)).take(3).collect();
    assert!(sent == received, "{} and {} items; {differ:?}", sent.len(), received.len());
}

#[test]
fn what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field_over_grpc() {
    what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field("grpc");
}

#[test]
fn what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field_over_http() {
    what_the_python_sdk_sends_arrives_behind_a_collector_field_by_field("http");
}

/// A collector with the store, and a sink of metrics and traces.
fn settings(endpoint: &str, protocol: &str) -> Settings {
    Settings {
        collector: format!(
            "queue: {{min_free: 0B, metrics: {{max_bytes: 1MiB}}}}\n\
             sinks:\n\
             - {{name: store, type: store}}\n\
             - {{name: next, type: otlp, endpoint: \"{endpoint}\", protocol: {protocol}, signals: [metrics, traces]}}"
        ),
        ..Settings::default()
    }
}

fn start(stack: &mut Stack) {
    stack.start_collector().unwrap();
    let port = stack.collector_http;
    let up = || http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200);
    wait_until("the collector", LIMIT, up).unwrap();
}

fn points(first: u64, count: u64, padding: usize) -> String {
    let points: Vec<Value> = (first..first + count)
        .map(|number| {
            let value = json!({"stringValue": format!("{number}{}", "x".repeat(padding))});
            json!({"asInt": number.to_string(), "timeUnixNano": "1800000000000000000",
                "attributes": [{"key": "number", "value": value}]})
        })
        .collect();
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "gauge": {"dataPoints": points}}]}]}]})
        .to_string()
}

fn spans(first: u64, count: u64) -> String {
    let spans: Vec<Value> = (first..first + count)
        .map(|number| json!({"traceId": format!("{:032x}", number + 1), "spanId": format!("{:016x}", number + 1), "name": format!("span {number}")}))
        .collect();
    json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).to_string()
}

#[test]
fn a_killed_collector_loses_no_point_and_no_span_that_it_acknowledged() {
    let test = "a_killed_collector_loses_no_point_and_no_span_that_it_acknowledged";
    let Some(otelcol) = installed("otelcol", test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (receiver, (grpc, _), out) =
        opentelemetry_collector(&otelcol, &dir.path().join("behind"), &["metrics", "traces"]).unwrap();
    let mut stack = Stack::new(dir.path(), &settings(&format!("http://127.0.0.1:{grpc}"), "grpc")).unwrap();
    start(&mut stack);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new([BTreeSet::new(), BTreeSet::new()]));
    let port = stack.otlp_http;
    std::thread::scope(|scope| {
        for signal in 0..2 {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || {
                let mut first = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (path, body) = match signal {
                        0 => ("/v1/metrics", points(first, 10, 0)),
                        _ => ("/v1/traces", spans(first, 10)),
                    };
                    if http::send(port, "POST", path, &body).is_ok_and(|answer| answer.status == 200) {
                        acknowledged.lock().unwrap()[signal].extend(first..first + 10);
                    }
                    first += 10;
                }
            });
        }
        for round in 1..=3 {
            let enough = || acknowledged.lock().unwrap().iter().all(|all| all.len() >= round * 100);
            let result = wait_until("some to be acknowledged", LIMIT, enough);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result.unwrap();
            stack.kill_collector().unwrap();
            start(&mut stack);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    let missing = || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        let received = items(&text).into_keys().collect::<Vec<_>>().join("\n");
        let [points, spans] = &acknowledged;
        let points = points.iter().map(|number| format!("\"asInt\":\"{number}\""));
        let spans = spans.iter().map(|number| format!("\"name\":\"span {number}\""));
        points.chain(spans).filter(|item| !received.contains(item.as_str())).collect::<Vec<_>>()
    };
    wait_until("all that was acknowledged", LIMIT, || missing().is_empty())
        .unwrap_or_else(|error| panic!("{error}: {:?}", missing()));
    drop(receiver);
}

#[test]
fn a_sink_of_metrics_that_is_down_leaves_logs_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack =
        Stack::new(dir.path(), &settings(&format!("http://127.0.0.1:{}", free_port().unwrap()), "grpc"))
            .unwrap();
    start(&mut stack);
    // Fills the queue of metrics, whose sink is away.
    let mut first = 0;
    wait_until("metrics to be held back", LIMIT, || {
        first += 100;
        http::send(stack.otlp_http, "POST", "/v1/metrics", &points(first, 100, 2_000)).unwrap().status == 503
    })
    .unwrap();
    let web = stack.collector_http;
    let full = |labels: &str| http::metric(web, "/metrics", "sonde_collector_queue_full", labels);
    assert_eq!(full("{signal=\"metrics\"}").unwrap(), 1.0);
    corpus::write(&stack.pod_logs, 5, 2_000, 200).unwrap();
    stack.start_agent().unwrap();
    stack.wait_ready().unwrap();
    stack.wait_drained(LIMIT).unwrap();
    assert_eq!(stack.stored().unwrap(), 10_000);
    if verify::python() {
        verify::verify(&[stack.pod_logs.clone()], stack.collector_http).unwrap();
    }
    let traces = http::send(stack.otlp_http, "POST", "/v1/traces", &spans(0, 1)).unwrap();
    assert_eq!(traces.status, 200, "traces have a queue of their own");
    let metrics = http::send(stack.otlp_http, "POST", "/v1/metrics", &points(0, 100, 2_000)).unwrap();
    assert_eq!(metrics.status, 503, "nothing was made of their space");
    let of = |name: &str, labels: &str| http::metric(stack.collector_http, "/metrics", name, labels).unwrap();
    assert!(of("sonde_collector_queue_bytes", "sink=\"next\",signal=\"metrics\"") > 500_000.0);
    assert_eq!(full("").unwrap(), 1.0, "that of metrics alone is full");
    // What the agent pushes for the page is shown, and is not in the way either.
    wait_until("the page's node", LIMIT, || {
        http::text(stack.collector_http, "/api/v1/nodes").is_ok_and(|nodes| nodes.contains("test-node"))
    })
    .unwrap();
}
