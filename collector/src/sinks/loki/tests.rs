//! The sink against a stub of Loki that keeps what Loki keeps, and answers all that Loki and what stands before it answer.
//!
//! It is a stub: its rules are those of Loki's documentation and of what servers were seen to do. `tests/loki.py` is
//! another, which decodes snappy and protobuf by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex as StdMutex;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::config::SinkKind;
use crate::deliver::batch::{State, Unit};
use crate::queue::{Codec, Position};
use crate::sinks::stub::{Act, Random, Seen, Way, dead_letters, frame, garbage, serve};
use crate::store::tests::{Line, text};

// Loki's pkg/push/push.proto.
#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<StreamAdapter>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamAdapter {
    #[prost(string, tag = "1")]
    labels: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<EntryAdapter>,
    #[prost(uint64, tag = "3")]
    hash: u64,
}

#[derive(Clone, PartialEq, Message)]
struct EntryAdapter {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    line: String,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<LabelPair>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn decoded(body: &[u8]) -> PushRequest {
    let raw = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    PushRequest::decode(&raw[..]).unwrap()
}

impl EntryAdapter {
    fn nanos(&self) -> i64 {
        let stamp = self.timestamp.as_ref().unwrap();
        stamp.seconds * 1_000_000_000 + i64::from(stamp.nanos)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|pair| pair.name == name).map(|pair| pair.value.as_str())
    }
}

fn sink(port: u16) -> config::Sink {
    config::Sink {
        name: "next".to_owned(),
        kind: SinkKind::Loki,
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        ..config::Sink::default()
    }
}

fn loki(port: u16) -> Loki {
    Loki::with_deadline(&sink(port), Duration::from_millis(700)).unwrap()
}

/// What a Loki keeps: of each stream its entries by time, line and metadata, in the order in which they came first.
struct Server {
    random: Random,
    streams: BTreeMap<String, Vec<(i64, String, String)>>,
    wrongs: BTreeSet<&'static str>,
}

impl Server {
    /// Stores all but what is refused for good; whether there was such in the last stream, which is all that Loki says.
    fn store(&mut self, push: PushRequest) -> bool {
        let mut refused = false;
        for stream in push.streams {
            refused = false;
            let kept = self.streams.entry(stream.labels).or_default();
            for entry in stream.entries {
                let entry = (entry.nanos(), entry.line, format!("{:?}", entry.metadata));
                if entry.1.starts_with("poison") {
                    refused = true;
                } else if !kept.contains(&entry) {
                    kept.push(entry);
                }
            }
        }
        refused
    }

    fn answer(&mut self, seen: &Seen) -> Act {
        assert_eq!(seen.header("content-type"), "application/x-protobuf");
        let push = decoded(&seen.body);
        let entries: usize = push.streams.iter().map(|stream| stream.entries.len()).sum();
        let page = |status| {
            let headers = vec![("content-type", "text/html".to_owned())];
            Act::Answer(status, headers, b"<html>something in between</html>".to_vec(), vec![])
        };
        let pick = self.random.pick(16);
        let (what, stores, act) = match pick {
            0 => ("dropped before", false, Act::Drop),
            1 => ("dropped after", true, Act::Drop),
            2 => ("429", false, Act::status(429, "ingestion rate limit exceeded for user fake")),
            3 => ("500", true, Act::status(500, "at least 2 live replicas required, could only find 1")),
            4 => ("503", false, Act::status(503, "")),
            5 => ("260", false, Act::status(260, "ingestion is blocked for this tenant")),
            6 => ("200", false, Act::status(200, "")),
            7 => ("a page with 200", false, page(200)),
            8 => ("a page with 400", false, page(400)),
            9 => ("401", false, Act::status(401, "no org id")),
            10 => ("endless", false, Act::Endless),
            _ if entries > 12 => ("413", false, Act::status(413, "request too large")),
            _ => {
                return if self.store(push) {
                    self.wrongs.insert("400");
                    Act::status(400, "entry for stream '{}' has timestamp too old: 2000-01-01T00:00:00Z")
                } else {
                    Act::status(204, "")
                };
            }
        };
        self.wrongs.insert(what);
        if stores {
            self.store(push);
        }
        act
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_loki_answers_each_line_ends_in_its_stream_in_order_or_among_the_dead_letters() {
    for seed in 1..=2_u64 {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server { random: Random(seed * 0x9e37_79b9), streams: BTreeMap::new(), wrongs: BTreeSet::new() };
        let server = Arc::new(StdMutex::new(server));
        let theirs = Arc::clone(&server);
        let port = serve(false, move |seen| theirs.lock().unwrap().answer(&seen)).await;
        let text = |n: u64| format!("{} {n}", if n % 37 == 9 { "poison" } else { "good" });
        let start = 1_700_000_000_000_000_000;
        // Twice: what the first process left under way is met by the second.
        for life in 0..2 {
            let way = Way::new(dir.path(), loki(port), "east", IN_FLIGHT);
            for first in (life * 400..(life + 1) * 400).step_by(20) {
                let lines: Vec<Line> = (first..first + 20)
                    .map(|n| Line::new(start + n, u8::try_from(n % 3).unwrap(), n, &text(n)))
                    .collect();
                way.queue.append(frame(&lines, Codec::Zstd)).await.unwrap();
            }
            if life == 1 {
                way.settled().await;
            }
            way.stop().await;
        }
        let server = server.lock().unwrap();
        let all: BTreeSet<String> = (0..800).map(text).collect();
        let (good, bad): (BTreeSet<_>, BTreeSet<_>) =
            all.into_iter().partition(|text| text.starts_with("good"));
        let stored: Vec<String> =
            server.streams.values().flatten().map(|(_, line, _)| line.clone()).collect();
        assert_eq!(stored.len(), good.len(), "each once");
        assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), good);
        assert_eq!(dead_letters(dir.path()).into_keys().collect::<BTreeSet<_>>(), bad);
        assert_eq!(server.streams.len(), 3);
        for (labels, entries) in &server.streams {
            assert!(entries.is_sorted_by_key(|(time, ..)| *time), "{labels} is out of order");
        }
        assert_eq!(server.wrongs.len(), 13, "{:?}", server.wrongs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_429_requests_get_smaller_until_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let taken = Arc::new(StdMutex::new(0));
    let theirs = Arc::clone(&taken);
    let port = serve(false, move |seen| {
        let push = snap::raw::Decoder::new().decompress_vec(&seen.body).unwrap();
        if push.len() > 3000 {
            return Act::status(429, "ingestion rate limit exceeded for user fake (limit: 3000 bytes/sec)");
        }
        *theirs.lock().unwrap() += decoded(&seen.body).streams.iter().map(|s| s.entries.len()).sum::<usize>();
        Act::status(204, "")
    })
    .await;
    let way = Way::new(dir.path(), loki(port), "", IN_FLIGHT);
    let lines: Vec<Line> = (0..300).map(|n| Line::new(n + 1, 1, n, "a line of text")).collect();
    way.queue.append(frame(&lines, Codec::Identity)).await.unwrap();
    way.settled().await;
    assert_eq!((way.counts(), *taken.lock().unwrap()), ([300, 0, 0], 300));
    assert!(way.lane.numbers().retries()["429"] > 0);
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_stream_has_too_much_holds_up_no_other_of_its_batch_and_is_lost_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let stored = Arc::new(StdMutex::new(BTreeMap::<String, usize>::new()));
    let (theirs, full) = (Arc::clone(&stored), Arc::new(StdMutex::new(true)));
    let is_full = Arc::clone(&full);
    // As Loki does: all streams of a push are looked at, and the answer is that of the last.
    let port = serve(false, move |seen| {
        let mut refused = false;
        for stream in decoded(&seen.body).streams {
            refused = stream.labels.contains("pod-1") && *is_full.lock().unwrap();
            if !refused {
                *theirs.lock().unwrap().entry(stream.labels).or_default() += stream.entries.len();
            }
        }
        if refused { Act::status(429, "Per stream rate limit exceeded") } else { Act::status(204, "") }
    })
    .await;
    let way = Way::new(dir.path(), loki(port), "", IN_FLIGHT);
    let lines: Vec<Line> =
        (0..300).map(|n| Line::new(n + 1, u8::try_from(n % 3).unwrap(), n, "text")).collect();
    way.queue.append(frame(&lines, Codec::Identity)).await.unwrap();
    let others = || stored.lock().unwrap().values().sum::<usize>();
    for _ in 0..3000 {
        if others() >= 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(others(), 200, "the other two");
    *full.lock().unwrap() = false;
    way.settled().await;
    assert_eq!((way.counts(), others()), ([300, 0, 0], 300));
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_loki_takes_are_dead_letters_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let second = 1_000_000_000;
    let oldest = 1_700_000_000 * second;
    let pushes = Arc::new(StdMutex::new((0, 0)));
    let theirs = Arc::clone(&pushes);
    let port = serve(false, move |seen| {
        let stream = decoded(&seen.body).streams.remove(0);
        let mut pushes = theirs.lock().unwrap();
        pushes.0 += 1;
        if stream.entries.iter().any(|entry| entry.nanos() < i64::try_from(oldest).unwrap()) {
            let words = "entry for stream '{}' has timestamp too old: 2023-11-01T00:00:00Z, oldest acceptable timestamp is: 2023-11-14T22:13:20Z\n";
            return Act::status(400, words);
        }
        pushes.1 += stream.entries.len();
        Act::status(204, "")
    })
    .await;
    let way = Way::new(dir.path(), loki(port), "", IN_FLIGHT);
    let lines: Vec<Line> = (0..1000)
        .map(|n| Line::new(oldest + n * second - 900 * second, 1, n, &format!("line {n}")))
        .collect();
    way.queue.append(frame(&lines, Codec::Identity)).await.unwrap();
    way.settled().await;
    way.stop().await;
    assert_eq!(dead_letters(dir.path()).len(), 900);
    let (pushes, stored) = *pushes.lock().unwrap();
    assert_eq!(stored, 100);
    assert!(pushes < 20, "{pushes} pushes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_a_password_and_headers_are_shown_and_the_whole_path_may_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let seen = Arc::new(StdMutex::new(Vec::new()));
    let theirs = Arc::clone(&seen);
    let port = serve(false, move |one| {
        theirs.lock().unwrap().push(one);
        Act::status(204, "")
    })
    .await;
    let sink = config::Sink {
        endpoint: Some(format!("http://127.0.0.1:{port}/at/loki/api/v1/push")),
        tenant: Some("team-a".to_owned()),
        headers: Some([("X-Way".to_owned(), "through".to_owned())].into()),
        username: Some("u".to_owned()),
        password_file: Some(password.display().to_string()),
        ..sink(port)
    };
    let way = Way::new(dir.path(), Loki::build(&sink).unwrap(), "", IN_FLIGHT);
    way.queue.append(frame(&[Line::new(1, 1, 1, "x")], Codec::Identity)).await.unwrap();
    way.settled().await;
    way.stop().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].path, "/at/loki/api/v1/push");
    assert_eq!(seen[0].header("x-scope-orgid"), "team-a");
    assert_eq!(seen[0].header("x-way"), "through");
    assert_eq!(seen[0].header("authorization"), "Basic dTpzZWNyZXQ=");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_loki_costs_no_line() {
    let mut ports = Vec::new();
    for bytes in
        [&b""[..], b"\x00\xff\x16\x03nonsense", b"HTTP/1.1 200 OK\r\ncontent-length: nonsense\r\n\r\n"]
    {
        ports.push((String::from_utf8_lossy(bytes).into_owned(), garbage(bytes).await));
    }
    for act in [
        Act::Endless,
        Act::Hang,
        Act::status(200, "{}"),
        Act::status(202, ""),
        Act::status(206, ""),
        Act::status(400, ""),
        Act::status(400, "<!doctype html>no"),
        Act::status(400, "Client sent an HTTP request to an HTTPS server.\n"),
        Act::status(400, "tenant ID 'a/b' contains unsupported character '/'\n"),
        Act::status(
            400,
            "stream '{}' includes structured metadata, but this feature is disallowed. Please see",
        ),
        Act::status(404, "404 page not found"),
        Act::Answer(302, vec![("location", "http://127.0.0.1:1/".into())], vec![], vec![]),
        Act::Answer(503, vec![("retry-after", "0".into())], vec![b'x'; 5 << 20], vec![]),
    ] {
        let what = format!("{act:.60?}");
        ports.push((what, serve(false, move |_| act.clone()).await));
    }
    for (what, port) in ports {
        let dir = tempfile::tempdir().unwrap();
        let loki = Loki::with_deadline(&sink(port), Duration::from_millis(100)).unwrap();
        let way = Way::new(dir.path(), loki, "", IN_FLIGHT);
        way.queue.append(frame(&[Line::new(1, 1, 1, "x")], Codec::Identity)).await.unwrap();
        let numbers = Arc::clone(way.lane.numbers());
        for _ in 0..6000 {
            if numbers.retries().values().sum::<u64>() >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(numbers.retries().values().sum::<u64>() >= 2, "{what}: {:?}", numbers.retries());
        assert_eq!(way.counts(), [0, 0, 0], "{:?}", numbers.retries());
        way.stop().await;
    }
}

fn unit(request: &ExportLogsServiceRequest, received_unix_nano: u64) -> Unit {
    let records = request.resource_logs.iter().flat_map(|g| &g.scope_logs).map(|s| s.log_records.len()).sum();
    Unit {
        signal: crate::queue::Signal::Logs,
        position: Position::default(),
        received_unix_nano,
        bytes: Bytes::from(request.encode_to_vec()),
        first: 0,
        records,
        came: None,
        resend: false,
    }
}

fn one(attributes: &[(&str, &str)], record: LogRecord) -> ExportLogsServiceRequest {
    let resource = Resource {
        attributes: attributes.iter().map(|(key, value)| text(key, value)).collect(),
        ..Resource::default()
    };
    let scope = Some(InstrumentationScope { name: "lib".to_owned(), ..InstrumentationScope::default() });
    let scope_logs = vec![ScopeLogs { scope, log_records: vec![record], ..ScopeLogs::default() }];
    let group = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![group] }
}

fn pushed(request: &ExportLogsServiceRequest, received: u64, names: LabelNames) -> StreamAdapter {
    let unit = unit(request, received);
    let pushes = push::encode(&[unit], &[State::Open], |_| Piece::default(), names);
    assert_eq!(pushes.len(), 1);
    let mut push = decoded(&pushes[0].body);
    assert_eq!((push.streams.len(), push.streams[0].entries.len()), (1, 1));
    push.streams.remove(0)
}

fn body(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Any::StringValue(text.to_owned())) })
}

#[test]
fn four_labels_name_the_stream_and_everything_else_is_structured_metadata() {
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_123_456_789,
        observed_time_unix_nano: 7,
        severity_number: 17,
        severity_text: "ERROR".to_owned(),
        body: body("hello\nworld"),
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        attributes: vec![
            text("log.record.uid", "5a5a"),
            text("log.iostream", "stderr"),
            text("app", "mine"),
            text("k8s_pod_name", "liar"),
            text("0.x", "digit"),
            text("empty", ""),
            opentelemetry_proto::tonic::common::v1::KeyValue {
                key: "list".to_owned(),
                value: Some(AnyValue { value: Some(Any::IntValue(3)) }),
                ..Default::default()
            },
        ],
        ..LogRecord::default()
    };
    let names = [
        ("k8s.pod.name", "web \"0\"\\\n"),
        ("k8s.namespace.name", "shop"),
        ("k8s.container.name", "app"),
        ("k8s.cluster.name", "east"),
        ("k8s.pod.uid", "u-1"),
        ("app", "theirs"),
        ("service.name", "web"),
    ];
    let request = one(&names, record);
    let stream = pushed(&request, 1_700_000_001_000_000_000, LabelNames::Otel);
    assert_eq!(
        stream.labels,
        r#"{k8s_cluster_name="east", k8s_container_name="app", k8s_namespace_name="shop", k8s_pod_name="web \"0\"\\\u000a"}"#
    );
    let entry = &stream.entries[0];
    assert_eq!((entry.nanos(), entry.line.as_str()), (1_700_000_000_123_456_789, "hello\nworld"));
    let pairs: Vec<(&str, &str)> =
        entry.metadata.iter().map(|pair| (pair.name.as_str(), pair.value.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("log_record_uid", "5a5a"),
            ("log_iostream", "stderr"),
            ("app", "mine"),
            ("record_k8s_pod_name", "liar"),
            ("key_0_x", "digit"),
            ("list", "3"),
            ("severity_text", "ERROR"),
            ("severity_number", "17"),
            ("trace_id", "abababababababababababababababab"),
            ("span_id", "cdcdcdcdcdcdcdcd"),
            ("k8s_pod_uid", "u-1"),
            ("resource_app", "theirs"),
            ("service_name", "web"),
            ("scope_name", "lib"),
        ]
    );
    let stream = pushed(&request, 1_700_000_001_000_000_000, LabelNames::Promtail);
    assert!(stream.labels.starts_with(r#"{cluster="east", container="app", namespace="shop", pod="web"#));
    let plain = one(&[("service.name", "batch")], LogRecord { body: body("x"), ..LogRecord::default() });
    assert_eq!(pushed(&plain, 1, LabelNames::Otel).labels, r#"{service_name="batch"}"#);
    let bare = one(&[], LogRecord { body: body("x"), ..LogRecord::default() });
    assert_eq!(pushed(&bare, 5_000_000_001, LabelNames::Otel).labels, r#"{service_name="unknown_service"}"#);
    assert_eq!(pushed(&bare, 5_000_000_001, LabelNames::Otel).entries[0].nanos(), 5_000_000_001);
}

#[test]
fn a_time_in_the_future_is_that_of_the_arrival_and_the_record_says_what_it_was() {
    let received = 1_700_000_000_000_000_000;
    let minute = 60_000_000_000;
    for (ahead, clamped) in [(4 * minute, false), (6 * minute, true), (u64::MAX - received, true)] {
        let record = LogRecord { time_unix_nano: received + ahead, body: body("x"), ..LogRecord::default() };
        let request = one(&[("k8s.pod.name", "a")], record);
        let stream = pushed(&request, received, LabelNames::Otel);
        let entry = &stream.entries[0];
        let time = i64::try_from(if clamped { received } else { received + ahead }).unwrap();
        assert_eq!(entry.nanos(), time);
        assert_eq!(entry.get("original_time").is_some(), clamped);
    }
}

proptest! {
    #[test]
    fn each_open_record_is_pushed_once_one_stream_at_a_time_in_time_order_within_the_bound(
        times in prop::collection::vec((1..50_u64, 0..3_u8), 1..60), mask: u64,
        bytes in 1..3000_usize, entries in 1..40_usize,
    ) {
        let lines: Vec<Line> = times.iter().enumerate()
            .map(|(n, (time, pod))| Line::new(*time, *pod, n as u64, &format!("line {n}"))).collect();
        let request = ExportLogsServiceRequest::decode(&crate::store::tests::request(&lines)[..]).unwrap();
        let unit = unit(&request, 1);
        let mut states: Vec<State> = (0..lines.len())
            .map(|n| if mask >> (n % 64) & 1 == 1 { State::Open } else { State::Delivered }).collect();
        let wanted: Vec<usize> = (0..lines.len()).filter(|n| states[*n] == State::Open).collect();
        let (mut seen, mut last) = (Vec::new(), std::collections::HashMap::new());
        loop {
            let pushes = push::encode(std::slice::from_ref(&unit), &states, |_| Piece { bytes, entries }, LabelNames::Otel);
            if pushes.is_empty() {
                break;
            }
            for push in pushes {
                prop_assert!(push.records.len() <= entries);
                prop_assert!(push.bytes <= bytes + 40 || push.records.len() == 1, "{} of {bytes}", push.bytes);
                let mut streams = decoded(&push.body).streams;
                prop_assert_eq!(streams.len(), 1);
                let stream = streams.remove(0);
                prop_assert_eq!(&stream.labels, &push.labels);
                prop_assert!(stream.entries.is_sorted_by_key(EntryAdapter::nanos));
                let mut got: Vec<usize> = stream.entries.iter().map(|entry| entry.line[5..].parse().unwrap()).collect();
                got.sort_unstable();
                prop_assert_eq!(&got, &push.records);
                let of_records: Vec<u64> = got.iter().map(|n| times[*n].0).collect();
                prop_assert_eq!(&of_records, &push.times);
                prop_assert!(last.insert(push.labels, got[got.len() - 1]).is_none_or(|last| last < got[0]), "in the queue's order");
                for record in &got {
                    states[*record] = State::Delivered;
                }
                seen.extend(got);
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, wanted);
    }

    #[test]
    fn no_answer_makes_it_panic(status in 200..600_u16, body: Vec<u8>, kind in "[ -~]{0,20}", after in "[ -~]{0,20}") {
        let headers = [("content-type", kind), ("retry-after", after)];
        let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let reply = sonde_daemon::client::pool::Reply {
            status: http::StatusCode::from_u16(status).unwrap(), headers, body: body.into(), trailers: HeaderMap::new(),
        };
        let taken = answer::whole(&reply, SystemTime::UNIX_EPOCH) == Whole::Taken;
        prop_assert_eq!(taken, status == 204);
    }
}
