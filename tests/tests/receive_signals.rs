//! Logs, metrics and traces of one app through a real agent, a real collector and on to a real OpenTelemetry Collector: with
//! the attributes of the sending pod, whoever is killed meanwhile.
//!
//! The app does what an SDK does: what was not acknowledged is sent again, until it is. So of metrics and traces each comes at
//! least once; log records that have a `log.record.uid` are stored once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sonde_tests::app::{self, Signal, WEB, fixed, message};
use sonde_tests::otelcol::{installed, opentelemetry_collector};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{free_port, http, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Metrics, Signal::Traces];

fn text_attribute(key: &str, value: &str) -> Vec<u8> {
    [message(1, key.as_bytes()), message(2, &message(1, value.as_bytes()))].concat()
}

/// A request with one record, data point or span, whose name is `item <number>`; a resource with a service of its own.
fn request(signal: Signal, number: u64) -> Vec<u8> {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let name = format!("item {number}");
    let item = match signal {
        Signal::Logs => {
            let uid = message(6, &text_attribute("log.record.uid", &format!("{number:032x}")));
            // Another time of the same record would make another record of it.
            let time = fixed(1, 1_790_000_000_000_000_000 + number);
            [time, message(5, &message(1, name.as_bytes())), uid].concat()
        }
        Signal::Metrics => {
            let point = [fixed(3, now), fixed(6, number)].concat();
            [message(1, name.as_bytes()), message(5, &message(1, &point))].concat()
        }
        Signal::Traces => {
            let ids =
                [message(1, &u128::from(number + 1).to_be_bytes()), message(2, &(number + 1).to_be_bytes())];
            [ids.concat(), message(5, name.as_bytes()), fixed(7, now), fixed(8, now)].concat()
        }
    };
    let resource = message(1, &message(1, &text_attribute("service.name", "checkout")));
    message(1, &[resource, message(2, &message(2, &item))].concat())
}

/// Names of the data points and spans in the file exporter's lines: how often each came. Each is of the app's pod.
fn received(file: &Path) -> BTreeMap<String, u64> {
    let mut names = BTreeMap::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        // The last line may be half written.
        let Ok(request) = serde_json::from_str::<Value>(line) else { continue };
        let (metrics, traces) = (list(&request["resourceMetrics"]), list(&request["resourceSpans"]));
        for (kind, scopes, items, of) in
            [("metric", "scopeMetrics", "metrics", metrics), ("span", "scopeSpans", "spans", traces)]
        {
            for resource in of {
                let names_of = |item: &Value| format!("{kind} {}", item["name"].as_str().unwrap());
                let scopes = list(&resource[scopes]);
                for name in scopes.iter().flat_map(|scope| list(&scope[items])).map(|item| names_of(&item)) {
                    is_of_the_pod(&resource["resource"]["attributes"], &name);
                    *names.entry(name).or_default() += 1;
                }
            }
        }
    }
    names
}

fn is_of_the_pod(attributes: &Value, name: &str) {
    let attributes: BTreeMap<&str, &str> = attributes
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            (pair["key"].as_str().unwrap(), pair["value"]["stringValue"].as_str().unwrap_or_default())
        })
        .collect();
    for (key, value) in [
        ("service.name", "checkout"),
        ("k8s.cluster.name", "lab"),
        ("k8s.node.name", "test-node"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-0"),
        ("k8s.pod.uid", "uid-of-web-0"),
        ("k8s.container.name", "main"),
        ("k8s.pod.label.app", "web-0"),
    ] {
        assert_eq!(attributes.get(key), Some(&value), "{name}: {attributes:?}");
    }
}

/// An app that sends one item after the other, each until it is acknowledged.
struct App {
    ports: (u16, u16),
    paused: AtomicBool,
    ended: AtomicBool,
    /// Of each signal, in the order of [`SIGNALS`].
    acknowledged: [AtomicU64; 3],
    /// Requests that were not acknowledged, and sent again.
    again: AtomicU64,
}

impl App {
    /// Sends items of one signal until it is told to end; over gRPC and HTTP by turns.
    async fn run(&self, which: usize) {
        let mut number = 0;
        while !self.ended.load(Ordering::Relaxed) {
            if self.paused.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let (signal, body) = (SIGNALS[which], request(SIGNALS[which], number));
            let taken = if number % 2 == 0 {
                app::call(WEB, self.ports.0, signal, &body).await == 0
            } else {
                app::post(WEB, self.ports.1, signal, body).await == 200
            };
            if taken {
                number += 1;
                self.acknowledged[which].store(number, Ordering::Relaxed);
            } else {
                self.again.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn acknowledged(&self) -> [u64; 3] {
        [0, 1, 2].map(|which| self.acknowledged[which].load(Ordering::Relaxed))
    }

    /// Waits until so many more of each signal are acknowledged.
    fn goes_on(&self, more: u64) {
        let before = self.acknowledged();
        let each = || self.acknowledged().iter().zip(before).all(|(now, before)| *now >= before + more);
        wait_until("more of each signal", LIMIT, each)
            .unwrap_or_else(|error| panic!("{error}: {before:?}, now {:?}", self.acknowledged()));
    }
}

fn start_agent(stack: &mut Stack) {
    stack.start_agent().unwrap();
    let pods = || http::metric(stack.agent_http, "/metrics", "kube_pod_info", "").is_ok_and(|sum| sum >= 2.0);
    wait_until("the pods", LIMIT, pods).unwrap();
}

#[test]
fn every_signal_of_an_app_arrives_with_its_pod_whoever_is_killed_and_log_records_with_a_uid_once() {
    let test =
        "every_signal_of_an_app_arrives_with_its_pod_whoever_is_killed_and_log_records_with_a_uid_once";
    let Some(otelcol) = installed("otelcol", test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_receiver, (grpc, _), file) =
        opentelemetry_collector(&otelcol, &dir.path().join("behind"), &["metrics", "traces"]).unwrap();
    let ports = (free_port().unwrap(), free_port().unwrap());
    let settings = Settings {
        kubelet: app::kubelet().unwrap(),
        agent: format!(
            "cluster: lab\nmetrics: {{push: false}}\nreceive: {{otlp_grpc: \"127.0.0.1:{}\", otlp_http: \"127.0.0.1:{}\"}}",
            ports.0, ports.1
        ),
        collector: format!(
            "sinks:\n- {{name: store, type: store}}\n\
             - {{name: next, type: otlp, endpoint: \"http://127.0.0.1:{grpc}\", signals: [metrics, traces]}}"
        ),
        ..Settings::default()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    stack.start_collector().unwrap();
    stack.wait_collector().unwrap();
    start_agent(&mut stack);
    let app = App {
        ports,
        paused: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        acknowledged: Default::default(),
        again: AtomicU64::new(0),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|which| {
            scope.spawn({
                let (app, runtime) = (&app, runtime.handle());
                move || runtime.block_on(app.run(which))
            })
        });
        let ends = End(&app.ended);
        for _ in 0..2 {
            app.goes_on(40);
            stack.kill_collector().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            stack.start_collector().unwrap();
            app.goes_on(40);
            stack.kill_agent().unwrap();
            // Of a pod that the agent does not know yet it says the node alone.
            app.paused.store(true, Ordering::Relaxed);
            start_agent(&mut stack);
            app.paused.store(false, Ordering::Relaxed);
        }
        app.goes_on(40);
        drop(ends);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(app.again.load(Ordering::Relaxed) > 0, "no answer was lost, and nothing sent again");
    let [logs, metrics, traces] = app.acknowledged();

    let names = |kind: &str, count: u64| {
        (0..count).map(move |number| format!("{kind} item {number}")).collect::<Vec<_>>()
    };
    let sent = [names("metric", metrics), names("span", traces)].concat();
    let all = || {
        let received = received(&file);
        sent.iter().all(|name| received.contains_key(name))
    };
    wait_until("every data point and span", LIMIT, all).unwrap();
    let filter = "limit=0&namespace=shop&pod=web-0&container=main&node=test-node";
    let stored = || http::text(stack.collector_http, &format!("/api/v1/logs?{filter}")).unwrap();
    let count = |text: &str| text.lines().count() as u64;
    wait_until("every record", LIMIT, || count(&stored()) >= logs).unwrap();
    let stored = stored();
    let bodies: Vec<String> = stored
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].as_str().unwrap().to_owned())
        .collect();
    // What was under way when it was told to end may have come without an answer.
    for number in 0..logs {
        let times = bodies.iter().filter(|body| **body == format!("item {number}")).count();
        assert_eq!(times, 1, "item {number} of {logs}");
    }
    assert!(count(&stored) <= logs + 1, "{} of {logs}", count(&stored));
    eprintln!(
        "{logs} records, {metrics} points, {traces} spans acknowledged, {} times sent again",
        app.again.load(Ordering::Relaxed)
    );
}

/// Ends the app also when a test fails on its way.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
