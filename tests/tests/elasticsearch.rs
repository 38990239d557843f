//! A real OpenSearch: every record is in the stream once, in both layouts.
//!
//! `SONDE_RECORDS=2000000` in the environment makes them so many (200,000 where it is not set): the long run of `tests/long`.
//! Without the server (`tests/servers/opensearch`) this test is skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sonde_tests::opensearch::OpenSearch;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, wait_until};

const FILES: usize = 20;
/// Records without `SONDE_RECORDS`.
const RECORDS: usize = 200_000;
/// Lines that share a trace.
const TRACE: usize = 100;

const OTEL: &str = "logs-kubernetes.container_logs.otel-default";
const ECS: &str = "logs-kubernetes.container_logs-default";

fn roll_over(server: &OpenSearch) {
    for stream in [OTEL, ECS] {
        server.call("POST", &format!("/{stream}/_rollover"), &Value::Null).unwrap();
    }
}

/// Lines of each file: as many records as the environment wants.
fn lines() -> usize {
    let wanted = std::env::var("SONDE_RECORDS").map_or(RECORDS, |text| text.parse().unwrap());
    assert!(
        wanted > 0 && wanted.is_multiple_of(FILES * TRACE),
        "SONDE_RECORDS={wanted}: not a multiple of {}",
        FILES * TRACE
    );
    wanted / FILES
}

/// Logs of `FILES` containers of so many lines; every line says its file and number, and some lines share a trace.
fn write_logs(pod_logs: &Path, lines: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for file in 0..FILES {
        let uid = format!("{file:08x}-0000-4000-8000-000000000000");
        let dir = pod_logs.join(format!("ns-{}_pod-{file}_{uid}", file % 3)).join(container(file));
        fs::create_dir_all(&dir).unwrap();
        let mut out = BufWriter::new(File::create(dir.join("0.log")).unwrap());
        for line in 0..lines {
            let stamp = format!("{}.{:09}Z", corpus::rfc3339(now), line);
            writeln!(out, "{stamp} stdout F {}", body(file, line)).unwrap();
        }
        out.flush().unwrap();
    }
}

fn body(file: usize, line: usize) -> String {
    format!("level=info trace_id={} file={file} seq={line} hello", trace(file, line))
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
    let dir = tempfile::tempdir().unwrap();
    let Some(mut server) = OpenSearch::new(test, dir.path().join("opensearch")).unwrap() else { return };
    server.start().unwrap();
    let sinks = format!(
        "sinks:\n  - {{name: store, type: store}}\n  - {{name: otel, type: elasticsearch, endpoints: [\"http://127.0.0.1:{0}\"]}}\n  \
         - {{name: ecs, type: elasticsearch, layout: ecs, endpoints: [\"http://127.0.0.1:{0}\"]}}\n",
        server.port
    );
    let settings =
        Settings { collector: sinks, agent: "metrics: {push: false}".to_owned(), ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    let lines = lines();
    let total = (FILES * lines) as u64;
    // As much as 200,000 records may take, for each that many.
    let limit = Duration::from_secs(600) * u32::try_from(total.div_ceil(RECORDS as u64)).unwrap();
    write_logs(&stack.pod_logs, lines);
    let start = Instant::now();
    stack.start().unwrap();
    let reached = |server: &OpenSearch, share: u64| {
        let there = || {
            // Counting refreshes the stream, which is work of the server's.
            std::thread::sleep(Duration::from_millis(300));
            server.total(OTEL).min(server.total(ECS)) >= total * share / 100
        };
        wait_until(&format!("{share} % in both streams"), limit, there).unwrap_or_else(|error| {
            panic!("{error}: {}", fs::read_to_string(dir.path().join("collector.log")).unwrap())
        });
        eprintln!("{share} % of {total} in both streams after {:.0} s", start.elapsed().as_secs_f64());
    };
    reached(&server, 1);
    roll_over(&server);
    reached(&server, 20);
    server.kill().unwrap();
    server.start().unwrap();
    roll_over(&server);
    reached(&server, 40);
    stack.kill_collector().unwrap();
    roll_over(&server);
    stack.start_collector().unwrap();
    reached(&server, 60);
    // Both at once: nobody knows what became of what was under way.
    server.kill().unwrap();
    stack.kill_collector().unwrap();
    server.start().unwrap();
    roll_over(&server);
    stack.start_collector().unwrap();
    reached(&server, 100);
    let behind = |sink: &str| {
        let labels = format!("sink=\"{sink}\"");
        http::metric(stack.collector_http, "/metrics", "sonde_collector_queue_bytes", &labels).unwrap_or(1.0)
    };
    let drained = || ["store", "otel", "ecs"].iter().all(|sink| behind(sink) == 0.0);
    wait_until("an empty queue", limit, drained).unwrap();
    assert_eq!(stack.stored().unwrap(), total);

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
        let indices = server.call("GET", &format!("/_data_stream/{stream}"), &Value::Null).unwrap();
        let indices = indices["data_streams"][0]["indices"].as_array().unwrap().len();
        assert!(indices >= 5, "{stream} was rolled over: {indices}");
        let mapping = server.call("GET", &format!("/{stream}/_mapping"), &Value::Null).unwrap();
        assert!(mapping.as_object().unwrap().values().all(|index| index["mappings"]["dynamic"] == "strict"));
        assert_eq!(server.total(stream), total, "{stream}");
        let term = |field: &str, value: &str| server.count(stream, &json!({"term": {field: value}})).unwrap();
        for file in 0..FILES {
            assert_eq!(term(pod, &format!("pod-{file}")), lines as u64, "{stream} pod-{file}");
            assert_eq!(term(trace_id, &trace(file, file * 7)), TRACE as u64, "{stream} trace of {file}");
        }
        for n in 0..3 {
            let files = (0..FILES).filter(|file| file % 3 == n).count() * lines;
            assert_eq!(term(namespace, &format!("ns-{n}")), files as u64, "{stream} ns-{n}");
        }
        for name in ["app", "sidecar"] {
            let files = (0..FILES).filter(|file| container(*file) == name).count() * lines;
            assert_eq!(term(container_name, name), files as u64, "{stream} {name}");
        }
        // No sum hides a line that is lost behind another that is there twice.
        let texts = server.texts(stream, text).unwrap();
        let different: HashSet<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!((texts.len() as u64, different.len() as u64), (total, total), "{stream}");
        for (file, line) in (0..FILES).flat_map(|file| (0..lines).map(move |line| (file, line))) {
            let written = body(file, line);
            assert!(different.contains(written.as_str()), "{stream} has another line for: {written}");
        }
        eprintln!("{stream}: {indices} indices, {total} lines, each as it was written, once");
    }
    assert!(!dir.path().join("collector-data/dead-letter").exists(), "nothing was refused");
    only_what_cannot_be_mapped_becomes_a_dead_letter(&server, &stack, total);
}

/// The stream's mapping gets a field that is a number, and one record in the middle of a request has a word there.
fn only_what_cannot_be_mapped_becomes_a_dead_letter(server: &OpenSearch, stack: &Stack, total: u64) {
    const MORE: u64 = 9;
    let number = json!({"properties": {"attributes": {"properties": {"amount": {"type": "long"}}}}});
    server.call("PUT", &format!("/{OTEL}/_mapping"), &number).unwrap();
    let record = |n: u64| {
        let value = if n == 4 { json!({"stringValue": "many"}) } else { json!({"intValue": n.to_string()}) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        json!({"timeUnixNano": now.to_string(), "body": {"stringValue": format!("amount of {n}")},
               "attributes": [{"key": "amount", "value": value}]})
    };
    let records: Vec<Value> = (0..=MORE).map(record).collect();
    let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
    assert_eq!(http::send(stack.otlp_http, "POST", "/v1/logs", &request).unwrap().status, 200);
    let of_sinks = |name: &str, labels: &str| {
        http::metric(stack.collector_http, "/metrics", name, labels).unwrap_or(f64::NAN)
    };
    let drained = || {
        // The queue has nothing of it only after every sink was offered it.
        stack.stored().unwrap() == total + MORE + 1 && of_sinks("sonde_collector_queue_bytes", "") == 0.0
    };
    wait_until("an empty queue", Duration::from_secs(120), drained).unwrap();
    assert_eq!(server.total(OTEL), total + MORE, "all but that one");
    assert_eq!(server.total(ECS), total + MORE + 1, "there the field has no number");
    let stored = server.texts(OTEL, "body.text").unwrap();
    for n in 0..=MORE {
        let times = stored.iter().filter(|text| **text == format!("amount of {n}")).count();
        assert_eq!(times, usize::from(n != 4), "{n}");
    }
    let folder = stack.dir.join("collector-data/dead-letter");
    let sinks: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(sinks, ["otel"]);
    let files = fs::read_dir(folder.join("otel")).unwrap().map(|entry| entry.unwrap().path());
    let text: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let letters: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 1, "{text}");
    assert_eq!(letters[0]["code"], "400", "{text}");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("attributes.amount"), "the server's word: {reason}");
    let kept = letters[0]["request"].to_string();
    assert!(kept.contains("amount of 4") && !kept.contains("amount of 5"), "that record, whole: {kept}");
    let counted = |outcome: &str| {
        of_sinks("sonde_collector_records_total", &format!("sink=\"otel\",outcome=\"{outcome}\""))
    };
    assert_eq!(counted("dead_letter"), 1.0);
    // It is not tried again.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(counted("dead_letter"), 1.0);
    assert_eq!(server.total(OTEL), total + MORE);
}
