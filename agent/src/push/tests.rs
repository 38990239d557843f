//! The push against receivers that take their time, refuse, and hold.

use std::sync::atomic::Ordering;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message;
use sonde_daemon::page::{Format, Page};
use sonde_daemon::shutdown;
use sonde_wire::grpc::{METRICS_EXPORT_PATH, Status};

use super::*;
use crate::config::{Compression, Protocol};
use crate::export::tests as export;
use crate::export::tests::{Act, Receiver, Seen};
use crate::metrics::tests::{recorded, recorded_pods};

const INTERVAL: Duration = Duration::from_millis(100);

/// A push of a number that grows, as four bytes.
fn push(receiver: &Receiver, probe_every: Duration) -> Push {
    let config = export::config(receiver.address, Protocol::Grpc, Compression::None);
    let timing = Timing { deadline: Duration::from_secs(5), ..Timing::default() };
    let mut turn = 0u32;
    let sample = Box::new(move |_| {
        turn += 1;
        (turn.to_be_bytes().to_vec(), 1)
    });
    Push {
        courier: Courier::build(&config, timing, Service::Metrics).unwrap(),
        sample,
        interval: INTERVAL,
        probe_every,
        metrics: PushMetrics::default(),
        complaints: RateLimit::new(Duration::from_secs(60)),
    }
}

fn page(metrics: PushMetrics) -> String {
    Page::new(vec![Section::new(None, vec![Box::new(metrics)])], false).render(Format::Classic)
}

fn turns(seen: &[Seen]) -> Vec<u32> {
    let number = |one| u32::from_be_bytes(export::unpacked(one, Protocol::Grpc).try_into().unwrap());
    seen.iter().map(number).collect()
}

/// Runs a push until the receiver has seen so many requests, then stops it. Returns them and the page.
async fn seen_by(receiver: &Receiver, push: Push, requests: usize) -> (Vec<Seen>, String) {
    let (metrics, (trigger, shutdown)) = (push.metrics(), shutdown::channel());
    let running = tokio::spawn(push.run(shutdown));
    let wait = async {
        while receiver.seen().len() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The answer to the last one.
        tokio::time::sleep(INTERVAL / 2).await;
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("nothing is pushed");
    trigger.fire(Duration::from_secs(5));
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it does not stop").unwrap();
    (receiver.seen(), page(metrics))
}

#[tokio::test]
async fn a_slow_receiver_gets_the_newest_sample_and_never_two_at_a_time() {
    let late = Act::Late(INTERVAL * 5 + INTERVAL / 2);
    let receiver = Receiver::start(Protocol::Grpc, vec![late]).await;
    let (seen, page) = seen_by(&receiver, push(&receiver, PROBE_EVERY), 3).await;
    assert_eq!(receiver.busiest.load(Ordering::SeqCst), 1);
    assert_eq!(turns(&seen)[..3], [1, 2, 3], "a sample is made when it can go, and sent once");
    let late =
        page.lines().find_map(|line| line.strip_prefix("sonde_agent_push_dropped_total{reason=\"late\"} "));
    assert!(late.unwrap().parse::<u32>().unwrap() >= 4, "{page}");
    assert!(page.contains("sonde_agent_push_last_success_timestamp_seconds"), "{page}");
}

#[tokio::test]
async fn a_receiver_without_metrics_is_probed_and_not_asked_at_every_interval() {
    let hold = || Act::TrailersOnly(Status::Unimplemented);
    let receiver = Receiver::start(Protocol::Grpc, vec![hold(), hold()]).await;
    let begun = Instant::now();
    let (seen, page) = seen_by(&receiver, push(&receiver, INTERVAL * 4), 3).await;
    assert!(begun.elapsed() >= INTERVAL * 8, "two probes, each after its time");
    assert!(seen.iter().all(|one| one.path == METRICS_EXPORT_PATH));
    assert_eq!(turns(&seen)[..3], [1, 2, 3], "nothing is read while nothing may go");
    assert!(page.contains("sonde_agent_push_blocked{code=\"UNIMPLEMENTED\"} 0"), "it is over: {page}");
    let held =
        page.lines().find_map(|line| line.strip_prefix("sonde_agent_push_dropped_total{reason=\"held\"} "));
    assert!(held.unwrap().parse::<u32>().unwrap() >= 6, "{page}");
}

#[tokio::test]
async fn no_refusal_is_sent_again_and_a_time_that_is_asked_for_is_waited() {
    let wait = INTERVAL * 5;
    let script = vec![
        Act::Grpc(Status::InvalidArgument, None),
        Act::Grpc(Status::Unavailable, None),
        Act::Grpc(Status::Unavailable, Some(wait)),
    ];
    let receiver = Receiver::start(Protocol::Grpc, script).await;
    let begun = Instant::now();
    let (seen, page) = seen_by(&receiver, push(&receiver, PROBE_EVERY), 4).await;
    assert!(begun.elapsed() >= wait);
    assert_eq!(turns(&seen)[..4], [1, 2, 3, 4]);
    assert!(page.contains("sonde_agent_push_dropped_total{reason=\"refused\"} 1"), "{page}");
    assert!(page.contains("sonde_agent_push_requests_total{code=\"UNAVAILABLE\"} 2"), "{page}");
}

#[tokio::test]
async fn a_push_that_hangs_is_not_in_the_way_of_logs() {
    let receiver = Receiver::start(Protocol::Grpc, vec![Act::Late(Duration::from_secs(60))]).await;
    let (_trigger, shutdown) = shutdown::channel();
    let pushing = tokio::spawn(push(&receiver, PROBE_EVERY).run(shutdown));
    while receiver.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let config = export::config(receiver.address, Protocol::Grpc, Compression::None);
    let (outcomes, _) = export::outcomes(&config, 20, export::TIMING).await;
    assert!(outcomes.iter().all(|outcome| *outcome == export::TAKEN), "{outcomes:?}");
    assert!(!pushing.is_finished());
    pushing.abort();
}

#[tokio::test]
async fn a_node_is_pushed_as_its_pages_show_it() {
    for protocol in export::BOTH {
        let receiver = Receiver::start(protocol, vec![]).await;
        let (_dir, paths) = recorded();
        let mut config = Config { cluster: "lab".into(), ..Config::default() };
        config.node.name = "lab-node-1".into();
        config.metrics.drop = vec!["node_load.*".into()];
        config.export = export::config(receiver.address, protocol, Compression::Auto);
        let sources =
            Sources::new(&config.metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default())
                .unwrap();
        let mut push = Push::build(&config, &sources).unwrap();
        push.interval = INTERVAL;
        let (seen, _) = seen_by(&receiver, push, 1).await;
        let path = if protocol == Protocol::Grpc { METRICS_EXPORT_PATH } else { "/v1/metrics" };
        assert_eq!(seen[0].path, path);
        let request = ExportMetricsServiceRequest::decode(&export::unpacked(&seen[0], protocol)[..]).unwrap();
        let resource = &request.resource_metrics[0];
        assert_eq!(resource.resource.as_ref().unwrap().attributes.len(), 4);
        let scope = &resource.scope_metrics[0];
        assert_eq!(scope.scope.as_ref().unwrap().name, SCOPE);
        let count = |name: &str| {
            let metric = scope.metrics.iter().find(|metric| metric.name == name)?;
            match metric.data.as_ref()? {
                Data::Gauge(gauge) => Some(gauge.data_points.len()),
                Data::Sum(sum) => Some(sum.data_points.len()),
                _ => None,
            }
        };
        for name in [
            "node_cpu_seconds_total",
            "node_memory_MemAvailable_bytes",
            "node_network_receive_bytes_total",
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_network_receive_bytes_total",
            "kube_pod_status_phase",
            "kube_pod_container_status_restarts_total",
            "sonde_namespace_memory_working_set_bytes",
        ] {
            assert!(count(name) > Some(0), "{name}");
        }
        assert_eq!(count("node_load1"), None, "metrics.drop leaves it out");
    }
}
