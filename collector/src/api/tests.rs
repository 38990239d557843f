//! The API as a client sees it.

use std::time::Duration;

use serde_json::Value;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::LogsRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::queue::Position;
use crate::store::{StoreOptions, Writer};

/// A request of our agent's encoder: one container's lines, the time a second apart.
fn request(pod: &str, lines: &[(&str, u64)]) -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value as Any,
    };
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;
    let attribute = |key: &str, value: Any| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let text = |key: &str, value: &str| attribute(key, Any::StringValue(value.to_owned()));
    let log_records = lines
        .iter()
        .map(|(line, second)| LogRecord {
            time_unix_nano: 1_700_000_000_000_000_000 + second * 1_000_000_000 + 7,
            observed_time_unix_nano: 1_700_000_000_000_000_001,
            severity_number: 13,
            severity_text: "warning".to_owned(),
            body: Some(AnyValue { value: Some(Any::StringValue((*line).to_owned())) }),
            attributes: vec![
                text("log.iostream", "stderr"),
                text("log.record.uid", &format!("{}{second:012x}", "ab".repeat(10))),
                text("service.name", "mine"),
                attribute("n", Any::IntValue(-7)),
                attribute(
                    "list",
                    Any::ArrayValue(ArrayValue {
                        values: vec![
                            AnyValue { value: Some(Any::DoubleValue(1.5)) },
                            AnyValue { value: None },
                        ],
                    }),
                ),
            ],
            trace_id: vec![1; 16],
            ..LogRecord::default()
        })
        .collect();
    let resource = Resource {
        attributes: vec![
            text("k8s.cluster.name", "c"),
            text("k8s.node.name", "n1"),
            text("k8s.namespace.name", "shop"),
            text("k8s.pod.name", pod),
            text("k8s.container.name", "app"),
            text("service.name", "theirs"),
        ],
        ..Resource::default()
    };
    let scope = Some(InstrumentationScope { name: "lib".to_owned(), ..InstrumentationScope::default() });
    let resource_logs = vec![ResourceLogs {
        resource: Some(resource),
        scope_logs: vec![ScopeLogs { scope, log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

fn ingest(writer: &mut Writer, bytes: &[u8], position: u64) {
    let (request, _) = LogsRequest::check(bytes, &ViewLimits::default()).unwrap();
    writer.ingest(request, 1, Position { segment: 1, offset: position }, 1000);
}

async fn serve(store: Store) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(store)).await });
    address
}

async fn ask(address: std::net::SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut answer = String::new();
    ask(address, path).await.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_shown_with_all_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    ingest(&mut writer, &request("web-0", &[("first \"line\"", 1), ("second", 2)]), 1);
    writer.commit(1000).unwrap();
    ingest(&mut writer, &request("web-1", &[("third", 3)]), 2);
    let address = serve(store).await;
    let (status, body) = get(address, "/api/v1/logs?namespace=shop&q=FIRST").await;
    let record: Value = serde_json::from_str(body.trim_end()).unwrap();
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:21.000000007Z", "severity": "WARN", "cluster": "c", "node": "n1",
        "namespace": "shop", "pod": "web-0", "container": "app", "stream": "stderr", "body": "first \"line\"",
        "uid": "abababababababababab000000000001",
        "attributes": {
            "resource.service.name": "theirs", "service.name": "mine", "otel.scope.name": "lib", "n": -7,
            "list": [1.5, null], "severity_text": "warning", "trace_id": "01".repeat(16),
            "observed_time": "2023-11-14T22:13:20.000000001Z",
        },
    });
    assert_eq!((status, record), (200, expected));
    let (_, body) = get(address, "/api/v1/logs?order=desc&limit=2").await;
    let bodies: Vec<Value> =
        body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].clone()).collect();
    assert_eq!(bodies, ["third", "second"]);
    assert_eq!(get(address, "/api/v1/logs/count?severity=warn").await.1, "{\"count\": 3}\n");
    assert_eq!(get(address, "/api/v1/logs/count?severity=error").await.1, "{\"count\": 0}\n");
    let (status, body) = get(address, "/api/v1/logs?nmespace=shop&limit=x").await;
    let errors: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, errors["errors"].as_array().unwrap().len()), (400, 2), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_lacks_what_is_damaged_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    for (n, pod) in ["web-0", "web-1", "web-2"].into_iter().enumerate() {
        ingest(&mut writer, &request(pod, &[("a line", n as u64)]), n as u64 + 1);
    }
    writer.commit(1000).unwrap();
    let address = serve(store).await;
    let whole = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(whole("/api/v1/logs").await.ends_with("\r\n0\r\n\r\n"), "nothing lacks");
    assert!(!whole("/api/v1/logs/count?q=line").await.contains("sonde-incomplete"));
    let blocks = dir.path().join("slice-0000000001/blocks");
    let mut bytes = std::fs::read(&blocks).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blocks, bytes).unwrap();
    let answer = whole("/api/v1/logs").await;
    assert!(answer.contains("trailer: sonde-incomplete\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\nsonde-incomplete: 1\r\n\r\n"), "{answer}");
    assert_eq!(answer.matches("\"a line\"").count(), 2, "{answer}");
    let answer = whole("/api/v1/logs/count?q=line").await;
    assert!(answer.contains("sonde-incomplete: 1\r\n") && answer.ends_with("{\"count\": 2}\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shows_what_comes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let address = serve(store).await;
    let mut stream = ask(address, "/api/v1/logs/tail?pod=web-1&limit=1").await;
    let mut head = vec![0; 4096];
    let mut read = 0;
    while !String::from_utf8_lossy(&head[..read]).contains(": following\n\n") {
        read += stream.read(&mut head[read..]).await.unwrap();
    }
    ingest(&mut writer, &request("web-0", &[("other", 1)]), 1);
    ingest(&mut writer, &request("web-1", &[("wanted", 2), ("more", 3)]), 2);
    let mut rest = String::new();
    let end = stream.read_to_string(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
    let event = rest.strip_prefix("data: ").unwrap();
    let record: Value = serde_json::from_str(event.trim_end()).unwrap();
    assert_eq!(record["body"], "wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_query() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let long = "x".repeat(100_000);
    for n in 0..300 {
        ingest(&mut writer, &request("web-0", &[(&long, n)]), n + 1);
    }
    let address = serve(store).await;
    // More than may run at a time: each gets its turn because the ones before end.
    for _ in 0..3 * QUERIES {
        let mut stream = ask(address, "/api/v1/logs?limit=0").await;
        let mut some = vec![0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        drop(stream);
    }
    let (status, body) = get(address, "/api/v1/logs?limit=0").await;
    assert_eq!((status, body.lines().count()), (200, 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_keep_nobody_else_from_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let long = "x".repeat(100_000);
    for n in 0..300 {
        ingest(&mut writer, &request("web-0", &[(&long, n)]), n + 1);
    }
    writer.commit(1000).unwrap();
    let address = serve(store).await;
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(ask(address, "/api/v1/logs?limit=0").await);
    }
    // Whoever asks now and reads is served by and by, also by a search that others have rested in.
    for _ in 0..3 {
        // Not first when those are given up anyway.
        let answer = tokio::time::timeout(STALL * 9 / 10, get(address, "/api/v1/logs?limit=0")).await;
        let (status, body) = answer.expect("it waits for readers that take nothing");
        assert_eq!((status, body.lines().count()), (200, 300));
        assert_eq!(get(address, "/api/v1/logs/count?q=xyz").await.1, "{\"count\": 0}\n");
    }
    drop(idle);
}

/// Over HTTP/1.1, where a body that breaks off can be told from a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_given_up_does_not_look_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let long = "x".repeat(100_000);
    for n in 0..300 {
        ingest(&mut writer, &request("web-0", &[(&long, n)]), n + 1);
    }
    let address = serve(store).await;
    let mut idle = Vec::new();
    for _ in 0..answers::ANSWERS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /api/v1/logs?limit=0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        // Its answer has begun, so it holds a place.
        assert_eq!(stream.peek(&mut [0]).await.unwrap(), 1);
        idle.push(stream);
    }
    let (status, body) = get(address, "/api/v1/logs?limit=0").await;
    assert_eq!((status, body.lines().count()), (200, 300), "one of the others gives its place up");
    let mut broken = 0;
    for mut stream in idle {
        let mut answer = Vec::new();
        // It may also be reset.
        let read = stream.read_to_end(&mut answer).await;
        let complete = read.is_ok() && answer.ends_with(b"\r\n0\r\n\r\n");
        let records = answer.iter().filter(|byte| **byte == b'\n').count();
        assert!(!complete || records >= 300, "{records} records look complete");
        broken += usize::from(!complete);
    }
    assert!(broken >= 1, "{broken}");
}
