//! The sink against receivers that do their work and say something else, or do nothing and say so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Mutex;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message;
use sonde_wire::grpc::{self, Status, StatusDetails};
use sonde_wire::response::encode_logs_response;

use super::*;
use crate::config::{Compression, Protocol, SinkKind};
use crate::deliver::batch::{State, Unit};
use crate::queue::{Codec, Position};
use crate::sinks::stub::{Act, Random, Seen, Way, dead_letters, frame, frame_of, garbage, serve};
use crate::store::tests::{Line, request};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];
const CODECS: [Codec; 3] = [Codec::Identity, Codec::Gzip, Codec::Zstd];

fn sink(port: u16, protocol: Protocol) -> config::Sink {
    config::Sink {
        name: "next".to_owned(),
        kind: SinkKind::Otlp,
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        protocol: Some(protocol),
        ..config::Sink::default()
    }
}

fn otlp(port: u16, protocol: Protocol) -> Otlp {
    Otlp::with_deadline(&sink(port, protocol), Signal::Logs, Duration::from_millis(700)).unwrap()
}

fn content(seen: &Seen, protocol: Protocol) -> Vec<u8> {
    let (body, encoding) = match protocol {
        Protocol::Grpc => (&seen.body[5..], seen.header("grpc-encoding")),
        Protocol::Http => (&seen.body[..], seen.header("content-encoding")),
    };
    match encoding {
        "zstd" => zstd::decode_all(body).unwrap(),
        "gzip" => {
            let mut raw = Vec::new();
            flate2::read::MultiGzDecoder::new(body).read_to_end(&mut raw).unwrap();
            raw
        }
        _ => body.to_vec(),
    }
}

fn texts(request: &[u8]) -> Vec<String> {
    let request = ExportLogsServiceRequest::decode(request).unwrap();
    let records =
        request.resource_logs.iter().flat_map(|group| &group.scope_logs).flat_map(|scope| &scope.log_records);
    records
        .map(|record| match &record.body.as_ref().unwrap().value {
            Some(Any::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn accepted(protocol: Protocol, rejected: u64, message: &str) -> Act {
    let body = encode_logs_response(rejected, message);
    match protocol {
        Protocol::Http => {
            Act::Answer(200, vec![("content-type", "application/x-protobuf".into())], body, vec![])
        }
        Protocol::Grpc => {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(body.len()).unwrap()];
            framed.extend_from_slice(&body);
            let headers = vec![("content-type", "application/grpc".into())];
            Act::Answer(200, headers, framed, vec![("grpc-status", "0".into())])
        }
    }
}

fn refused(protocol: Protocol, status: Status, http: u16) -> Act {
    match protocol {
        Protocol::Http => Act::status(http, "no"),
        Protocol::Grpc => {
            let headers = vec![
                ("content-type", "application/grpc".to_owned()),
                ("grpc-status", status.number().to_string()),
                ("grpc-message", "no".to_owned()),
            ];
            Act::Answer(200, headers, vec![], vec![])
        }
    }
}

fn later(protocol: Protocol) -> Act {
    let details = StatusDetails {
        status: Status::ResourceExhausted,
        message: String::new(),
        retry_delay: Some(Duration::from_millis(1)),
    };
    match (protocol, refused(protocol, Status::ResourceExhausted, 429)) {
        (Protocol::Grpc, Act::Answer(status, mut headers, body, trailers)) => {
            headers.push((grpc::STATUS_DETAILS_TRAILER, details.encode_trailer()));
            Act::Answer(status, headers, body, trailers)
        }
        (_, act) => act,
    }
}

/// A receiver that takes what it is sent, and answers something else.
struct Receiver {
    protocol: Protocol,
    random: Random,
    mischief: bool,
    /// How often each text was taken, and how often in a request that was marked as sent before.
    taken: BTreeMap<String, (u32, u32)>,
    wrongs: BTreeSet<&'static str>,
}

impl Receiver {
    fn answer(&mut self, seen: &Seen) -> Act {
        let texts = texts(&content(seen, self.protocol));
        let protocol = self.protocol;
        let mut wrong = |what, act| {
            self.wrongs.insert(what);
            act
        };
        if texts.iter().any(|text| text.starts_with("poison")) {
            return wrong("poison", refused(protocol, Status::InvalidArgument, 400));
        }
        if texts.len() > 12 {
            return wrong("too much", refused(protocol, Status::ResourceExhausted, 413));
        }
        let before = if self.mischief { self.random.pick(12) } else { 99 };
        match before {
            0 => return wrong("dropped before", Act::Drop),
            1 => return wrong("later", later(protocol)),
            2 => return wrong("unauthenticated", refused(protocol, Status::Unauthenticated, 401)),
            3 => {
                return wrong(
                    "a web page",
                    Act::Answer(200, vec![("content-type", "text/html".into())], b"<html>".to_vec(), vec![]),
                );
            }
            4 => return wrong("endless", Act::Endless),
            _ => {}
        }
        for text in texts {
            let taken = self.taken.entry(text).or_default();
            taken.0 += 1;
            taken.1 += u32::from(seen.header("x-sonde-resend") == "1");
        }
        match before {
            5 => wrong("dropped after", Act::Drop),
            6 => wrong("unavailable", refused(protocol, Status::Unavailable, 503)),
            7 => wrong("internal", refused(protocol, Status::Internal, 500)),
            _ => accepted(protocol, 0, ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_receiver_answers_each_record_arrives_or_is_a_dead_letter_and_a_second_copy_says_so() {
    for (protocol, codec) in [(BOTH[0], CODECS[2]), (BOTH[1], CODECS[1]), (BOTH[0], CODECS[0])] {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Arc::new(Mutex::new(Receiver {
            protocol,
            random: Random(0x9e37_79b9 + codec as u64),
            mischief: true,
            taken: BTreeMap::new(),
            wrongs: BTreeSet::new(),
        }));
        let theirs = Arc::clone(&receiver);
        let port = serve(protocol == Protocol::Grpc, move |seen| theirs.lock().unwrap().answer(&seen)).await;
        let text = |n: u64| format!("{} {n}", if n % 37 == 9 { "poison" } else { "good" });
        // Twice: what the first process left under way is met by the second.
        for life in 0..2 {
            let way = Way::new(dir.path(), otlp(port, protocol), "", 4);
            for first in (life * 400..(life + 1) * 400).step_by(20) {
                let lines: Vec<Line> =
                    (first..first + 20).map(|n| Line::new(n + 1, 1, n, &text(n))).collect();
                way.queue.append(frame(&lines, codec)).await.unwrap();
            }
            if life == 1 {
                way.settled().await;
            }
            way.stop().await;
        }
        let receiver = receiver.lock().unwrap();
        let all: BTreeSet<String> = (0..800).map(text).collect();
        let (good, bad): (BTreeSet<_>, BTreeSet<_>) =
            all.into_iter().partition(|text| text.starts_with("good"));
        let taken: BTreeSet<String> = receiver.taken.keys().cloned().collect();
        assert_eq!(taken, good, "{protocol:?} {codec:?}");
        let dead: BTreeSet<String> = dead_letters(dir.path()).into_keys().collect();
        assert_eq!(dead, bad, "{protocol:?} {codec:?}");
        for (text, (times, marked)) in &receiver.taken {
            assert!(*marked >= times - 1, "{text} came {times} times, {marked} of them said so");
        }
        assert!(receiver.taken.values().any(|(times, _)| *times > 1), "answers were lost");
        assert_eq!(receiver.wrongs.len(), 10, "{:?}", receiver.wrongs);
    }
}

/// What a receiver that takes everything was sent.
async fn all_of(
    protocol: Protocol,
    cluster: &str,
    frames: Vec<crate::queue::Frame>,
) -> (Vec<Seen>, [u64; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&seen);
    let port = serve(protocol == Protocol::Grpc, move |one| {
        theirs.lock().unwrap().push(one);
        accepted(protocol, 0, "")
    })
    .await;
    let config = config::Sink {
        headers: Some([("X-Scope-OrgID".to_owned(), "a".to_owned())].into()),
        ..sink(port, protocol)
    };
    let otlp = Otlp::build(&config, Signal::Logs);
    let way = Way::new(dir.path(), otlp.unwrap(), cluster, 1);
    for frame in frames {
        way.queue.append(frame).await.unwrap();
    }
    way.settled().await;
    let counts = way.counts();
    way.stop().await;
    let seen = seen.lock().unwrap().clone();
    (seen, counts)
}

fn large(first: u64) -> Vec<Line> {
    (first..first + 1000)
        .map(|n| Line::new(n + 1, 1, n, &format!("a line of text that is long enough {n}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_goes_on_byte_by_byte_as_it_came_unless_a_cluster_has_to_be_named() {
    for protocol in BOTH {
        for codec in [Codec::Gzip, Codec::Zstd] {
            let came = frame(&large(0), codec);
            let (seen, counts) = all_of(protocol, "", vec![came.clone()]).await;
            assert_eq!((seen.len(), counts), (1, [1000, 0, 0]));
            let body = &seen[0].body[if protocol == Protocol::Grpc { 5 } else { 0 }..];
            assert!(body == came.payload, "{protocol:?} {codec:?}");
            assert_eq!(seen[0].header("x-scope-orgid"), "a");
            assert_eq!(seen[0].header("x-sonde-resend"), "");
            let (seen, _) = all_of(protocol, "east", vec![came]).await;
            let request = ExportLogsServiceRequest::decode(&content(&seen[0], protocol)[..]).unwrap();
            let named = |group: &opentelemetry_proto::tonic::logs::v1::ResourceLogs| {
                let attributes = &group.resource.as_ref().unwrap().attributes;
                attributes.iter().any(|attribute| attribute.key == "k8s.cluster.name")
            };
            assert!(request.resource_logs.iter().all(named));
            assert_eq!(texts(&content(&seen[0], protocol)).len(), 1000);
        }
        // What came uncompressed is compressed.
        let (seen, _) = all_of(protocol, "", vec![frame(&large(0), Codec::Identity)]).await;
        assert!(seen[0].body.len() < 100_000, "{}", seen[0].body.len());
        assert_eq!(content(&seen[0], protocol), request(&large(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_are_joined_and_nothing_in_them_changes() {
    let frames: Vec<_> = (0..20)
        .map(|n| {
            frame(&[Line::new(n + 1, 1, n, &format!("line {n}"))], CODECS[usize::try_from(n).unwrap() % 3])
        })
        .collect();
    let raw: Vec<u8> =
        (0..20).flat_map(|n: u64| request(&[Line::new(n + 1, 1, n, &format!("line {n}"))])).collect();
    let (seen, counts) = all_of(Protocol::Grpc, "", frames).await;
    assert_eq!(counts, [20, 0, 0]);
    assert!(seen.len() < 10, "{}", seen.len());
    let together: Vec<u8> = seen.iter().flat_map(|one| content(one, Protocol::Grpc)).collect();
    assert_eq!(together, raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_success_is_counted_and_never_sent_again_and_where_all_are_refused_they_are_dead_letters() {
    for protocol in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(0));
        let theirs = Arc::clone(&seen);
        let port = serve(protocol == Protocol::Grpc, move |one| {
            *theirs.lock().unwrap() += 1;
            let rejected = if texts(&content(&one, protocol))[0].starts_with("all") { 1000 } else { 3 };
            accepted(protocol, rejected, "too old")
        })
        .await;
        let way = Way::new(dir.path(), otlp(port, protocol), "", 1);
        for (word, first) in [("some", 0), ("all", 1000)] {
            let lines: Vec<Line> = (first..first + 1000)
                .map(|n| Line::new(n + 1, 1, n, &format!("{word} of a line that is long {n}")))
                .collect();
            way.queue.append(frame(&lines, Codec::Zstd)).await.unwrap();
        }
        way.settled().await;
        assert_eq!(way.counts(), [997, 1000, 3]);
        assert_eq!(*seen.lock().unwrap(), 2, "nothing is sent again");
        let dead = dead_letters(dir.path());
        assert!(dead.len() == 1000 && dead.keys().all(|text| text.starts_with("all")));
        assert!(
            dead.values().all(|reason| reason == "partial_success: too old"),
            "{:?}",
            dead.values().next()
        );
        way.stop().await;
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_receiver_that_takes_all_of_it_with_a_warning_is_listened_to_once_in_a_while() {
    let sink = otlp(1, Protocol::Http);
    let log = Log::default();
    let settle = |message: &str| {
        let unit = Unit {
            signal: Signal::Logs,
            position: Position::default(),
            received_unix_nano: 1,
            bytes: Bytes::new(),
            first: 0,
            records: 2,
            came: None,
            resend: false,
        };
        let mut batch = Batch::new(vec![unit], |_| false);
        sink.settle(&[0, 1], 0, message, &mut batch);
        assert_eq!(batch.count(State::Delivered), 2);
    };
    tracing::subscriber::with_default(log.clone(), || {
        settle("");
        assert!(log.0.lock().unwrap().is_empty(), "there is nothing to say");
        (0..10).for_each(|_| settle("delta sums will not be taken from May on"));
    });
    let said = log.0.lock().unwrap().join(" ");
    assert_eq!(said.matches("delta sums will not be taken from May on").count(), 1, "{said}");
    assert!(said.contains("sink=\"next\"") && said.contains("took all records"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_zstd_gets_gzip_and_one_record_that_is_too_large_is_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&taken);
    let port = serve(false, move |one| {
        if one.header("content-encoding") == "zstd" {
            return Act::Answer(415, vec![("accept-encoding", "gzip".into())], vec![], vec![]);
        }
        let raw = content(&one, Protocol::Http);
        if raw.len() > 200_000 {
            return Act::status(413, "too large");
        }
        theirs.lock().unwrap().extend(texts(&raw));
        accepted(Protocol::Http, 0, "")
    })
    .await;
    let way = Way::new(dir.path(), otlp(port, Protocol::Http), "", 1);
    let mut lines = large(0);
    lines[500].body = "huge ".repeat(60_000);
    way.queue.append(frame(&lines, Codec::Zstd)).await.unwrap();
    way.settled().await;
    assert_eq!(way.counts(), [999, 1, 0]);
    assert_eq!(taken.lock().unwrap().len(), 999);
    assert!(dead_letters(dir.path()).values().all(|reason| reason == "413: too large"));
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_otlp_receiver_costs_no_record() {
    let endings: [&'static [u8]; 3] = [
        b"",
        b"\x00\xff\x16\x03nonsense",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
    ];
    for protocol in BOTH {
        let mut ports = Vec::new();
        for bytes in endings {
            ports.push((garbage(bytes).await, false));
        }
        for act in [
            Act::Endless,
            Act::Hang,
            Act::Answer(
                200,
                vec![("content-type", "text/html".into())],
                b"<html>hello</html>".to_vec(),
                vec![],
            ),
            Act::Answer(200, vec![("content-type", "application/grpc".into())], vec![0xff; 70_000], vec![]),
            Act::Answer(200, vec![("x", "y".repeat(60_000))], b"hello".to_vec(), vec![]),
            Act::Answer(206, vec![], vec![], vec![]),
            Act::Answer(302, vec![("location", "http://127.0.0.1:1/".into())], vec![], vec![]),
        ] {
            ports.push((serve(protocol == Protocol::Grpc, move |_| act.clone()).await, true));
        }
        for (port, _) in ports {
            let dir = tempfile::tempdir().unwrap();
            let otlp = Otlp::with_deadline(
                &config::Sink { compression: Some(Compression::Gzip), ..sink(port, protocol) },
                Signal::Logs,
                Duration::from_millis(100),
            );
            let way = Way::new(dir.path(), otlp.unwrap(), "", 1);
            way.queue.append(frame(&large(0), Codec::Zstd)).await.unwrap();
            let numbers = Arc::clone(way.lane.numbers());
            for _ in 0..6000 {
                if numbers.retries().values().sum::<u64>() >= 2 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(numbers.retries().values().sum::<u64>() >= 2, "{protocol:?} {port}");
            assert_eq!(way.counts(), [0, 0, 0], "{protocol:?}: {:?}", numbers.retries());
            way.stop().await;
        }
    }
}

/// A request of `count` points from `first` on, in two metrics.
fn points(first: i64, count: i64) -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
    };
    let metric = |numbers: std::ops::Range<i64>| Metric {
        name: "m".to_owned(),
        data: Some(Data::Gauge(Gauge {
            data_points: numbers
                .map(|number| NumberDataPoint { value: Some(Value::AsInt(number)), ..Default::default() })
                .collect(),
        })),
        ..Metric::default()
    };
    let half = first + count / 2;
    let scope = ScopeMetrics {
        metrics: vec![metric(first..half), metric(half..first + count)],
        ..Default::default()
    };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()
}

/// The values of a request's points.
fn values(request: &[u8]) -> Vec<i64> {
    let request = sonde_wire::view::MetricsRequest::trusted(request);
    let points =
        request.resources().flat_map(|of| of.scopes()).flat_map(|of| of.metrics()).flat_map(|of| of.points());
    #[allow(clippy::cast_possible_truncation)]
    points.map(|point| point.value.unwrap() as i64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_are_refused_for_good_are_found_by_halving_and_all_others_arrive() {
    for protocol in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&taken);
        let port = serve(protocol == Protocol::Grpc, move |seen| {
            let path = if protocol == Protocol::Grpc { grpc::METRICS_EXPORT_PATH } else { "/v1/metrics" };
            assert_eq!(seen.path, path);
            let values = values(&content(&seen, protocol));
            if values.contains(&13) || values.contains(&77) {
                return refused(protocol, Status::InvalidArgument, 400);
            }
            let rejected = u64::from(values.contains(&42));
            theirs.lock().unwrap().extend(values);
            accepted(protocol, rejected, "one is bad")
        })
        .await;
        let otlp = Otlp::build(&sink(port, protocol), Signal::Metrics).unwrap();
        let way = Way::of(dir.path(), Signal::Metrics, otlp, "east", 1);
        way.queue.append(frame_of(Signal::Metrics, points(0, 100), 100, Codec::Zstd)).await.unwrap();
        way.settled().await;
        assert_eq!(way.counts(), [97, 2, 1], "delivered, dead letters, rejected by their points");
        way.stop().await;
        let mut taken = taken.lock().unwrap().clone();
        taken.sort_unstable();
        assert_eq!(taken, (0..100).filter(|n| *n != 13 && *n != 77).collect::<Vec<_>>());
        let file = std::fs::read_dir(dir.path().join("dead-letter/next")).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let letters: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Both for one reason: one letter.
        assert_eq!((letters.len(), &letters[0]["records"]), (1, &2.into()), "{text}");
        assert_eq!((&letters[0]["record"], &letters[0]["signal"]), (&13.into(), &"metrics".into()));
        let json = letters[0]["request"].to_string();
        let again = crate::receive::json::metrics_request(json.as_bytes()).unwrap().encode_to_vec();
        assert_eq!(values(&again), [13, 77]);
    }
}
