//! The sink against a strict stand-in of Prometheus: it refuses what a real one refuses, a whole request for one sample, and
//! answers something else than it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::*;
use crate::config::SinkKind;
use crate::queue::{Codec, Frame};
use crate::sinks::stub::{Act, Random, Seen, Way, frame_of, serve};
use crate::store::tests::text;

mod requests;

#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// A `TimeSeries` as text: `name{label="value",…} value@time`; checks what every receiver asks for.
pub fn shown(bytes: &[u8]) -> String {
    let series = TimeSeries::decode(bytes).unwrap();
    let names: Vec<&str> = series.labels.iter().map(|label| label.name.as_str()).collect();
    assert!(names.windows(2).all(|two| two[0] < two[1]), "sorted, each once: {names:?}");
    let is_name = |name: &str| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        name.chars().all(part) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
    };
    assert!(names.iter().all(|name| is_name(name)), "{names:?}");
    assert!(series.labels.iter().all(|label| !label.value.is_empty()), "{series:?}");
    let [sample] = &series.samples[..] else { panic!("{series:?}") };
    let of = |name: &str| series.labels.iter().find(|label| label.name == name);
    let name = &of("__name__").expect("a name").value;
    assert!(is_name(name), "{name}");
    let labels = series.labels.iter().filter(|label| label.name != "__name__");
    let labels: Vec<String> = labels.map(|label| format!("{}={:?}", label.name, label.value)).collect();
    let value = match sample.value.to_bits() {
        0x7ff0_0000_0000_0002 => "stale".to_owned(),
        _ => sample.value.to_string(),
    };
    format!("{name}{{{}}} {value}@{}", labels.join(","), sample.timestamp)
}

fn now_ms() -> u64 {
    u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// A request of points of a counter, each with a label, a value and a time in Unix milliseconds.
fn request(points: &[(String, i64, u64)]) -> Vec<u8> {
    let data_points = points.iter().map(|(label, value, time)| NumberDataPoint {
        attributes: vec![text("of", label)],
        time_unix_nano: time * 1_000_000,
        value: Some(Value::AsInt(*value)),
        ..NumberDataPoint::default()
    });
    let sum = Sum { data_points: data_points.collect(), aggregation_temporality: 2, is_monotonic: true };
    let metric = Metric { name: "requests".into(), data: Some(Data::Sum(sum)), ..Metric::default() };
    let group = ResourceMetrics {
        resource: Some(Resource {
            attributes: vec![text("service.name", "shop"), text("k8s.pod.name", "shop-0")],
            ..Resource::default()
        }),
        scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![group] }.encode_to_vec()
}

fn sink(port: u16) -> config::Sink {
    config::Sink {
        name: "next".to_owned(),
        kind: SinkKind::Prometheus,
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        tenant: Some("team".to_owned()),
        ..config::Sink::default()
    }
}

fn prometheus(port: u16, dir: &Path) -> Prometheus {
    std::fs::create_dir_all(dir.join("queue-metrics")).unwrap();
    Prometheus::with_deadline(&sink(port), dir, Duration::from_millis(700)).unwrap()
}

/// What a server keeps: of each series its samples.
#[derive(Default)]
struct Server {
    /// By name and labels: time and value.
    kept: BTreeMap<String, Vec<(i64, f64)>>,
    mischief: Option<Random>,
    /// The last answer was its own trouble; it says so once only.
    sick: bool,
    wrongs: BTreeSet<&'static str>,
    refused: u64,
    requests: u64,
    /// Stores what it can of a request with a sample that it refuses, as Mimir does.
    in_part: bool,
    /// Refuses every `target_info`: it has more labels than it takes.
    no_info: bool,
    /// The request of this number is lost on its way.
    lost: Option<u64>,
}

impl Server {
    fn answer(&mut self, seen: &Seen) -> Act {
        self.requests += 1;
        if self.lost == Some(self.requests) {
            return Act::Drop;
        }
        assert_eq!(seen.path, "/api/v1/write");
        for (name, value) in [
            ("content-encoding", "snappy"),
            ("content-type", "application/x-protobuf"),
            ("x-prometheus-remote-write-version", "0.1.0"),
            ("x-scope-orgid", "team"),
        ] {
            assert_eq!(seen.header(name), value);
        }
        let content = snap::raw::Decoder::new().decompress_vec(&seen.body).unwrap();
        let request = WriteRequest::decode(&content[..]).unwrap();
        let pick = self.mischief.as_mut().map_or(99, |random| random.pick(12));
        let wrong = |wrongs: &mut BTreeSet<&'static str>, what, act| {
            wrongs.insert(what);
            act
        };
        match pick {
            0 => return wrong(&mut self.wrongs, "dropped before", Act::Drop),
            1 => {
                let act = Act::Answer(429, vec![("retry-after", "0".into())], b"slow down".to_vec(), vec![]);
                return wrong(&mut self.wrongs, "later", act);
            }
            2 => return wrong(&mut self.wrongs, "unavailable", Act::status(503, "no")),
            3 if !std::mem::replace(&mut self.sick, true) => {
                return wrong(&mut self.wrongs, "sick", Act::status(500, "internal"));
            }
            4 => {
                let page =
                    Act::Answer(200, vec![("content-type", "text/html".into())], b"<html>".to_vec(), vec![]);
                return wrong(&mut self.wrongs, "a page", page);
            }
            _ if self.mischief.is_some() && request.timeseries.len() > 6 => {
                return wrong(&mut self.wrongs, "too large", Act::status(413, "too large"));
            }
            _ => {}
        }
        self.sick = false;
        let mut taken = Vec::new();
        let mut words = None;
        for series in &request.timeseries {
            let text = shown(&series.encode_to_vec());
            let (name, _) = text.rsplit_once(' ').unwrap();
            let sample = &series.samples[0];
            let newest = self.kept.get(name).and_then(|kept| kept.last());
            match newest {
                _ if self.no_info && name.starts_with("target_info") => {
                    words = Some("too many labels");
                }
                _ if name.contains("poison") => words = Some("label value too long"),
                Some((time, _)) if *time > sample.timestamp => words = Some("out of order sample"),
                Some((time, value)) if *time == sample.timestamp && *value != sample.value => {
                    words = Some("duplicate sample for timestamp");
                }
                Some((time, _)) if *time == sample.timestamp => {}
                _ => taken.push((name.to_owned(), (sample.timestamp, sample.value))),
            }
        }
        if words.is_none() || self.in_part {
            for (name, sample) in taken {
                self.kept.entry(name).or_default().push(sample);
            }
        }
        match (words, pick) {
            (Some(words), _) => {
                self.refused += 1;
                Act::status(400, words)
            }
            (None, 5) => wrong(&mut self.wrongs, "dropped after", Act::Drop),
            (None, 6) => wrong(&mut self.wrongs, "unavailable after", Act::status(502, "no")),
            (None, _) => Act::status(204, ""),
        }
    }

    fn counters(&self) -> BTreeMap<String, Vec<(i64, f64)>> {
        self.kept
            .iter()
            .filter(|(name, _)| name.starts_with("requests_total"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

async fn server(with: Server) -> (Arc<Mutex<Server>>, u16) {
    let server = Arc::new(Mutex::new(with));
    let theirs = Arc::clone(&server);
    let port = serve(false, move |seen| theirs.lock().unwrap().answer(&seen)).await;
    (server, port)
}

fn way(dir: &Path, port: u16) -> Way {
    Way::of(dir, Signal::Metrics, prometheus(port, dir), "", IN_FLIGHT)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_server_answers_each_sample_is_there_once_and_in_order_and_a_poisoned_one_is_a_dead_letter()
 {
    for in_part in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let with = Server { mischief: Some(Random(0x9e37_79b9)), in_part, ..Server::default() };
        let (server, port) = server(with).await;
        let begin = now_ms() - 600_000;
        let point = |series: u64, turn: u64| {
            let label = if turn == 7 && series == 3 { "poison".to_owned() } else { format!("s{series}") };
            (label, i64::try_from(turn).unwrap(), begin + turn * 1000)
        };
        // Twice: what the first process left under way is met by the second.
        for life in 0..2 {
            let way = way(dir.path(), port);
            for turn in life * 20..(life + 1) * 20 {
                let points: Vec<_> = (0..10).map(|series| point(series, turn)).collect();
                way.queue.append(frame_of(Signal::Metrics, request(&points), 10, Codec::Zstd)).await.unwrap();
            }
            if life == 1 {
                way.settled().await;
            }
            way.stop().await;
        }
        let server = server.lock().unwrap();
        let mut wanted: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
        for (series, turn) in (0..10).flat_map(|series| (0..40).map(move |turn| (series, turn))) {
            let (label, value, time) = point(series, turn);
            if label != "poison" {
                let name = format!("requests_total{{job=\"shop\",of=\"{label}\"}}");
                wanted.entry(name).or_default().push((i64::try_from(time).unwrap(), value as f64));
            }
        }
        assert_eq!(server.counters(), wanted, "in part: {in_part}");
        assert_eq!(server.wrongs.len(), 8, "{:?}", server.wrongs);
        let file = std::fs::read_dir(dir.path().join("dead-letter/next")).unwrap().next().unwrap().unwrap();
        let letters = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(letters.lines().count(), 1, "{letters}");
        assert!(letters.contains("poison") && letters.contains("label value too long"), "{letters}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_kill_is_neither_refused_nor_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, port) = server(Server::default()).await;
    let begin = now_ms() - 600_000;
    let first = way(dir.path(), port);
    // Keeps what the first life has delivered on disk.
    first.queue.register("other", None);
    for turn in 0..30_u64 {
        let points = [("a".to_owned(), i64::try_from(turn).unwrap(), begin + turn * 1000)];
        first.queue.append(frame_of(Signal::Metrics, request(&points), 1, Codec::Identity)).await.unwrap();
    }
    first.settled().await;
    first.stop().await;
    // The queue's cursors as they were a second before the kill.
    std::fs::remove_file(dir.path().join("queue/cursors")).unwrap();
    let requests = server.lock().unwrap().requests;
    let second = way(dir.path(), port);
    let points = [("a".to_owned(), 30, begin + 30_000)];
    second.queue.append(frame_of(Signal::Metrics, request(&points), 1, Codec::Identity)).await.unwrap();
    second.settled().await;
    let numbers = Arc::clone(second.lane.numbers());
    second.stop().await;
    let server = server.lock().unwrap();
    assert_eq!((server.refused, server.requests - requests), (0, 1), "only what is new was sent");
    assert_eq!(server.counters().values().next().unwrap().len(), 31);
    use std::sync::atomic::Ordering;
    assert_eq!(
        (numbers.duplicate.load(Ordering::Relaxed), numbers.delivered.load(Ordering::Relaxed)),
        (30, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_the_server_cannot_cope_with_is_given_up_while_others_go_on() {
    given_up(500, "cannot cope").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_refused_without_a_word_is_given_up_while_others_go_on() {
    given_up(400, "").await;
}

/// Some points get this answer, whatever they come with; all others are taken.
async fn given_up(status: u16, words: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let taken = Arc::new(Mutex::new(BTreeSet::new()));
    let theirs = Arc::clone(&taken);
    let port = serve(false, move |seen| {
        let content = snap::raw::Decoder::new().decompress_vec(&seen.body).unwrap();
        let all: Vec<String> = WriteRequest::decode(&content[..])
            .unwrap()
            .timeseries
            .iter()
            .map(|series| shown(&series.encode_to_vec()))
            .collect();
        if all.iter().any(|series| series.contains("poison")) {
            return Act::status(status, words);
        }
        theirs.lock().unwrap().extend(all);
        Act::status(204, "")
    })
    .await;
    let way = way(dir.path(), port);
    let begin = now_ms() - 600_000;
    let numbers = Arc::clone(way.lane.numbers());
    for turn in 0..400_u64 {
        // Five in a row: more than make the server look sick.
        let name = |n: u64| if turn == 0 && n < 5 { format!("poison{n}") } else { format!("s{n}") };
        let points: Vec<_> = (0..8).map(|n| (name(n), 1, begin + turn * 1000)).collect();
        way.queue.append(frame_of(Signal::Metrics, request(&points), 8, Codec::Identity)).await.unwrap();
        if numbers.dead_letter.load(std::sync::atomic::Ordering::Relaxed) == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    way.settled().await;
    assert_eq!(way.counts()[1], 5, "dead letters");
    way.stop().await;
    assert!(taken.lock().unwrap().iter().any(|series| series.contains("of=\"s7\"")));
    let file = std::fs::read_dir(dir.path().join("dead-letter/next")).unwrap().next().unwrap().unwrap();
    let letters = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(letters.matches(&format!("\"code\":\"{status}\"")).count(), letters.lines().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_order_is_a_dead_letter_however_long_it_waited_and_a_duplicate_only_where_its_sender_says_so()
 {
    let dir = tempfile::tempdir().unwrap();
    // The answer to the first of the late ones is lost.
    let (server, port) = server(Server { lost: Some(2), ..Server::default() }).await;
    let way = way(dir.path(), port);
    let begin = now_ms() - 600_000;
    let frame = |second: u64| {
        let points = [("a".to_owned(), i64::try_from(second).unwrap(), begin + second * 1000)];
        frame_of(Signal::Metrics, request(&points), 1, Codec::Identity)
    };
    let waited =
        |frame: Frame| Frame { received_unix_nano: frame.received_unix_nano - 60_000_000_000, ..frame };
    for frame in
        [frame(10), waited(frame(5)), frame(6), Frame { resend: true, ..frame(7) }, waited(frame(11))]
    {
        way.queue.append(frame).await.unwrap();
    }
    way.settled().await;
    use std::sync::atomic::Ordering;
    let numbers = Arc::clone(way.lane.numbers());
    way.stop().await;
    let counts = [&numbers.delivered, &numbers.dead_letter, &numbers.duplicate];
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [2, 2, 1]);
    assert_eq!(server.lock().unwrap().counters().into_values().next().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_series_is_left_out_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let (server, port) = server(Server::default()).await;
    let gauge = |name: &str, ahead: u64| {
        let point = NumberDataPoint {
            time_unix_nano: (now_ms() + ahead) * 1_000_000,
            value: Some(Value::AsDouble(0.5)),
            ..NumberDataPoint::default()
        };
        let data = Some(Data::Gauge(Gauge { data_points: vec![point] }));
        Metric { name: name.into(), data, ..Metric::default() }
    };
    let delta = Sum {
        data_points: vec![NumberDataPoint::default(); 2],
        aggregation_temporality: 1,
        is_monotonic: true,
    };
    let delta = Metric { name: "delta".into(), data: Some(Data::Sum(delta)), ..Metric::default() };
    let scope = ScopeMetrics {
        metrics: vec![delta, gauge("good", 0), gauge("soon", 240_000), gauge("late", 900_000)],
        ..ScopeMetrics::default()
    };
    let group = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    let raw = ExportMetricsServiceRequest { resource_metrics: vec![group] }.encode_to_vec();
    let way = way(dir.path(), port);
    way.queue.append(frame_of(Signal::Metrics, raw, 5, Codec::Gzip)).await.unwrap();
    way.settled().await;
    assert_eq!(way.counts(), [2, 0, 0]);
    let left_out = way.lane.numbers().left_out();
    assert_eq!(left_out, BTreeMap::from([("future", 1), ("temporality", 2)]));
    way.stop().await;
    let server = server.lock().unwrap();
    assert_eq!(server.kept.keys().map(String::as_str).collect::<Vec<_>>(), ["good{}", "soon{}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_info_that_is_refused_costs_no_sample() {
    for (in_part, points) in [(false, 1), (true, 1), (false, 5)] {
        let dir = tempfile::tempdir().unwrap();
        let (server, port) = server(Server { no_info: true, in_part, ..Server::default() }).await;
        let way = way(dir.path(), port);
        let all: Vec<_> = (0..points).map(|series| (format!("s{series}"), 1, now_ms())).collect();
        way.queue.append(frame_of(Signal::Metrics, request(&all), points, Codec::Zstd)).await.unwrap();
        way.settled().await;
        assert_eq!(way.counts(), [points as u64, 0, 0], "in part: {in_part}");
        way.stop().await;
        let server = server.lock().unwrap();
        assert!(server.refused > 0, "there was one");
        assert_eq!(server.counters().len(), points);
    }
}

#[test]
fn an_endpoint_without_a_path_is_prometheus() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("queue-metrics")).unwrap();
    for (url, path) in [
        ("http://a", "/api/v1/write"),
        ("http://a:9090/", "/api/v1/write"),
        ("http://a/api/v1/push", "/api/v1/push"),
    ] {
        let sink = config::Sink { endpoint: Some(url.to_owned()), ..sink(1) };
        assert_eq!(Prometheus::build(&sink, dir.path()).unwrap().target.path(), path, "{url}");
    }
}
