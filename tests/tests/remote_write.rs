//! A real Prometheus behind a sink of type prometheus: every sample is there, and none was refused, whoever is killed.
//!
//! `tests/servers/install` puts the server below `target/servers`; without it these tests are skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use sonde_tests::otelcol::Killed;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{free_port, http, root, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const SERIES: u64 = 20;
const TURNS: u64 = 1_800;

fn installed(test: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().to_owned();
    let places = [target.join("servers"), root().join("target/servers")];
    let found = places.iter().map(|place| place.join("root/usr/bin/prometheus")).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: no prometheus below target/servers");
    }
    found
}

/// A Prometheus that keeps its data when it is killed and started again.
struct Server {
    program: PathBuf,
    home: PathBuf,
    port: u16,
    process: Option<Killed>,
    /// Answers to writes that were no yes, of the processes before, but for those of a server that is not up.
    refused: f64,
}

impl Server {
    /// `storage`: of its configuration.
    fn new(program: PathBuf, home: &Path, storage: &str) -> Self {
        fs::create_dir_all(home).unwrap();
        fs::write(home.join("prometheus.yml"), format!("global: {{}}\nstorage: {storage}\n")).unwrap();
        Self { program, home: home.to_owned(), port: free_port().unwrap(), process: None, refused: 0.0 }
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.home.join("log")).unwrap();
        let child: Child = Command::new(&self.program)
            .arg(format!("--config.file={}", self.home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.home.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg("--web.enable-remote-write-receiver")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Killed(child));
        let port = self.port;
        let ready = || http::get(port, "/-/ready").is_ok_and(|answer| answer.status == 200);
        wait_until("Prometheus", LIMIT, ready).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    fn kill(&mut self) {
        self.refused += self.refused_now();
        drop(self.process.take());
    }

    /// Writes that this process said no to.
    fn refused_now(&self) -> f64 {
        let of = |code: &str| {
            let labels = format!("code=\"{code}\",handler=\"/api/v1/write\"");
            http::metric(self.port, "/metrics", "prometheus_http_requests_total", &labels).unwrap_or(0.0)
        };
        of("400") + of("500")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// All samples of series with this name, by their labels: time in milliseconds and value as it is written.
    fn samples(&self, name: &str) -> BTreeMap<String, BTreeMap<u64, String>> {
        let path = format!("/api/v1/query?query={name}%5B3h%5D");
        let answer: Value = serde_json::from_str(&http::text(self.port, &path).unwrap()).unwrap();
        let mut all = BTreeMap::new();
        for series in answer["data"]["result"].as_array().unwrap() {
            let values = series["values"].as_array().unwrap().iter().map(|pair| {
                let time = (pair[0].as_f64().unwrap() * 1000.0).round();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                (time as u64, pair[1].as_str().unwrap().to_owned())
            });
            all.insert(series["metric"].to_string(), values.collect());
        }
        all
    }

    /// What it refused, in its own words.
    fn refusals(&self) -> Vec<String> {
        let words = ["out of order", "duplicate", "out of bounds", "error appending", "too old"];
        let log = self.log();
        let lines =
            log.lines().filter(|line| words.iter().any(|word| line.to_ascii_lowercase().contains(word)));
        lines.map(str::to_owned).collect()
    }
}

fn stack(dir: &Path, port: u16) -> Stack {
    let settings = Settings {
        collector: format!(
            "queue: {{min_free: 0B}}\n\
             sinks: [{{name: prom, type: prometheus, endpoint: \"http://127.0.0.1:{port}\", resource_labels: [k8s.pod.name]}}]"
        ),
        ..Settings::default()
    };
    Stack::new(dir, &settings).unwrap()
}

fn start(stack: &mut Stack) {
    stack.start_collector().unwrap();
    let port = stack.collector_http;
    let up = || http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200);
    wait_until("the collector", LIMIT, up).unwrap();
}

fn now_ms() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// A request of a counter and a histogram, each with so many series.
fn request(turn: u64, time_ms: u64) -> String {
    let time = (time_ms * 1_000_000).to_string();
    let of = |series: u64| json!([{"key": "series", "value": {"stringValue": series.to_string()}}]);
    let numbers: Vec<Value> = (0..SERIES)
        .map(|series| json!({"asInt": (turn * series).to_string(), "timeUnixNano": time, "attributes": of(series)}))
        .collect();
    let histograms: Vec<Value> = (0..SERIES)
        .map(|series| {
            json!({"count": (turn + 1).to_string(), "sum": turn, "bucketCounts": [turn, 1], "explicitBounds": [0.5],
                "timeUnixNano": time, "attributes": of(series)})
        })
        .collect();
    let resource = json!({"attributes": [
        {"key": "service.name", "value": {"stringValue": "shop"}},
        {"key": "service.instance.id", "value": {"stringValue": "i-1"}},
        {"key": "k8s.pod.name", "value": {"stringValue": "shop-0"}},
    ]});
    json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [
        {"name": "requests", "unit": "1", "sum": {"dataPoints": numbers, "aggregationTemporality": 2, "isMonotonic": true}},
        {"name": "latency", "unit": "s", "histogram": {"dataPoints": histograms, "aggregationTemporality": 2}},
    ]}]}]})
    .to_string()
}

fn send(stack: &Stack, request: &str) {
    let sent = || {
        http::send(stack.otlp_http, "POST", "/v1/metrics", request).is_ok_and(|answer| answer.status == 200)
    };
    wait_until("a request to be taken", LIMIT, sent).unwrap();
}

fn metric(stack: &Stack, name: &str, labels: &str) -> f64 {
    http::metric(stack.collector_http, "/metrics", name, labels).unwrap_or(f64::NAN)
}

#[test]
fn a_long_replay_with_kills_of_prometheus_and_of_the_collector_leaves_every_sample_and_none_was_refused() {
    let test = "a_long_replay_with_kills_of_prometheus_and_of_the_collector_leaves_every_sample_and_none_was_refused";
    let Some(program) = installed(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(program, &dir.path().join("prometheus"), "{}");
    let mut stack = stack(dir.path(), server.port);
    start(&mut stack);
    let begin = now_ms() - TURNS * 1_000 - 60_000;
    let time = |turn: u64| begin + turn * 1_000;
    // The first half waits for a server that is away.
    for turn in 0..TURNS / 2 {
        send(&stack, &request(turn, time(turn)));
    }
    server.start();
    let stored = |server: &Server| {
        let path = "/api/v1/query?query=sum(count_over_time(requests_total%5B3h%5D))";
        let answer = http::text(server.port, path).unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["data"]["result"][0]["value"][1]
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    for round in 1..=6 {
        wait_until("some samples", LIMIT, || stored(&server) >= round * SERIES * TURNS / 20).unwrap();
        eprintln!("{} of {} samples are there at kill {round}", stored(&server), SERIES * TURNS / 2);
        if round % 2 == 0 {
            stack.kill_collector().unwrap();
            start(&mut stack);
        } else {
            server.kill();
            std::thread::sleep(Duration::from_millis(200));
            server.start();
        }
    }
    for turn in TURNS / 2..TURNS {
        if turn == TURNS * 3 / 4 {
            stack.kill_collector().unwrap();
            start(&mut stack);
        }
        send(&stack, &request(turn, time(turn)));
    }
    wait_until("every sample", LIMIT, || stored(&server) >= SERIES * TURNS).unwrap_or_else(|error| {
        let page = http::text(stack.collector_http, "/metrics").unwrap_or_default();
        let ours: Vec<&str> = page.lines().filter(|line| line.contains("\"prom\"")).collect();
        panic!("{error}: {} of {}; {ours:#?} {:?}", stored(&server), SERIES * TURNS, server.refusals())
    });
    let empty = || metric(&stack, "sonde_collector_queue_bytes", "sink=\"prom\"") == 0.0;
    wait_until("the queue to be empty", LIMIT, empty).unwrap();
    let labels = |name: &str, series: u64, more: &[(&str, &str)]| {
        let mut labels = json!({"__name__": name, "job": "shop", "instance": "i-1", "k8s_pod_name": "shop-0", "series": series.to_string()});
        for (name, value) in more {
            labels[*name] = (*value).into();
        }
        labels.to_string()
    };
    let wanted = |name: &str, more: &[(&str, &str)], value: &dyn Fn(u64, u64) -> u64| {
        let series = (0..SERIES).map(|series| {
            let samples = (0..TURNS).map(|turn| (time(turn), value(turn, series).to_string()));
            (labels(name, series, more), samples.collect())
        });
        series.collect::<BTreeMap<String, BTreeMap<u64, String>>>()
    };
    assert!(server.samples("requests_total") == wanted("requests_total", &[], &|turn, series| turn * series));
    assert!(
        server.samples("latency_seconds_count") == wanted("latency_seconds_count", &[], &|turn, _| turn + 1)
    );
    assert!(server.samples("latency_seconds_sum") == wanted("latency_seconds_sum", &[], &|turn, _| turn));
    let mut buckets = wanted("latency_seconds_bucket", &[("le", "0.5")], &|turn, _| turn);
    buckets.extend(wanted("latency_seconds_bucket", &[("le", "+Inf")], &|turn, _| turn + 1));
    assert!(server.samples("latency_seconds_bucket") == buckets);
    let info: Vec<String> = server.samples("target_info").into_keys().collect();
    assert_eq!(
        info,
        [json!({"__name__": "target_info", "job": "shop", "instance": "i-1", "k8s_pod_name": "shop-0"})
            .to_string()]
    );
    assert_eq!(server.refusals(), [""; 0], "Prometheus refused something");
    assert_eq!(server.refused + server.refused_now(), 0.0, "Prometheus refused something");
    let letters = dir.path().join("collector-data/dead-letter/prom");
    assert!(fs::read_dir(letters).map_or(0, Iterator::count) == 0, "there are dead letters");
}

#[test]
fn a_sample_that_is_too_old_for_the_window_of_out_of_order_ones_holds_up_nothing() {
    let test = "a_sample_that_is_too_old_for_the_window_of_out_of_order_ones_holds_up_nothing";
    let Some(program) = installed(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let storage = "{tsdb: {out_of_order_time_window: 30m}}";
    let mut server = Server::new(program, &dir.path().join("prometheus"), storage);
    server.start();
    let mut stack = stack(dir.path(), server.port);
    start(&mut stack);
    let now = now_ms();
    let minutes = |minutes: u64| now - minutes * 60_000;
    send(&stack, &gauge(&(0..50).map(|n| point(n, minutes(1), 1)).collect::<Vec<_>>()));
    // Of these ten are within the window and five too old, which Prometheus says 500 to.
    let late = (0..15).map(|n| point(n, minutes(if n % 3 == 2 { 180 } else { 10 }), 2));
    send(&stack, &gauge(&late.chain((15..50).map(|n| point(n, now, 3))).collect::<Vec<_>>()));
    let of = |outcome: &str| {
        metric(&stack, "sonde_collector_records_total", &format!("sink=\"prom\",outcome=\"{outcome}\""))
    };
    wait_until("all of it", LIMIT, || of("delivered") + of("dead_letter") >= 100.0).unwrap();
    assert_eq!((of("delivered"), of("dead_letter")), (95.0, 5.0));
    let samples = server.samples("g");
    let with = |time: u64| samples.values().filter(|samples| samples.contains_key(&time)).count();
    assert_eq!((samples.len(), with(minutes(10)), with(minutes(180)), with(now)), (50, 10, 0, 35));
    assert!(letters(dir.path()).contains("too old sample"));
}

fn point(number: u64, time_ms: u64, value: u64) -> Value {
    json!({"asInt": value.to_string(), "timeUnixNano": (time_ms * 1_000_000).to_string(),
        "attributes": [{"key": "n", "value": {"stringValue": number.to_string()}}]})
}

fn gauge(points: &[Value]) -> String {
    let metrics = json!([{"name": "g", "gauge": {"dataPoints": points}}]);
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}).to_string()
}

/// The sink's dead letters.
fn letters(dir: &Path) -> String {
    let files = fs::read_dir(dir.join("collector-data/dead-letter/prom")).unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn one_sample_that_prometheus_refuses_costs_no_other_and_is_kept_with_its_reason() {
    let test = "one_sample_that_prometheus_refuses_costs_no_other_and_is_kept_with_its_reason";
    let Some(program) = installed(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(program, &dir.path().join("prometheus"), "{}");
    server.start();
    let mut stack = stack(dir.path(), server.port);
    start(&mut stack);
    let now = now_ms();
    send(&stack, &gauge(&(0..100).map(|n| point(n, now - 10_000, 1)).collect::<Vec<_>>()));
    // An older sample of 40, another value of 70 at the same time, and one far ahead; all others go on.
    let mut next: Vec<Value> = (0..100).map(|n| point(n, now, 2)).collect();
    next[40] = point(40, now - 20_000, 3);
    next[70] = point(70, now - 10_000, 4);
    next[90] = point(90, now + 3_600_000, 5);
    send(&stack, &gauge(&next));
    let of = |outcome: &str| {
        metric(&stack, "sonde_collector_records_total", &format!("sink=\"prom\",outcome=\"{outcome}\""))
    };
    wait_until("all of it", LIMIT, || of("delivered") + of("dead_letter") + of("left_out") >= 200.0).unwrap();
    assert_eq!((of("delivered"), of("dead_letter"), of("left_out")), (197.0, 2.0, 1.0));
    assert_eq!(metric(&stack, "sonde_collector_left_out_total", "reason=\"future\""), 1.0);
    let two: BTreeSet<String> = server
        .samples("g")
        .into_iter()
        .filter(|(_, samples)| samples.len() == 2 && samples.get(&now).is_some_and(|value| value == "2"))
        .map(|(labels, _)| labels)
        .collect();
    assert_eq!(two.len(), 97, "every series but three has its second sample");
    assert!(!server.refusals().is_empty() && server.refused_now() > 0.0, "a refusal is not seen");
    let letters = letters(dir.path());
    assert!(letters.contains("out of order sample") && letters.contains("duplicate sample"), "{letters}");
}
