use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, metric::Data};
use prost::Message;
use sonde_wire::attrs::AttrSet;

use super::*;

const NOW: u64 = 1_800_000_000;

/// What is pushed of a section.
fn pushed(fill: impl FnOnce(&mut Sink)) -> Vec<Metric> {
    let mut sink = Sink::default();
    fill(&mut sink);
    let at = UNIX_EPOCH + Duration::from_secs(NOW);
    let began = UNIX_EPOCH + Duration::from_secs(NOW - 60);
    let mut encoder = MetricsEncoder::new(Vec::new(), &AttrSet::default(), "s", "1");
    put(&sink, &About { cluster: "prod", node: "n1", at, began }, &mut encoder);
    let mut request = ExportMetricsServiceRequest::decode(&encoder.finish()[..]).unwrap();
    request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
}

/// Of one point: attributes, start in seconds, value.
fn points(metric: &Metric) -> Vec<(String, u64, Number)> {
    let points = match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) => {
            assert!(sum.is_monotonic);
            assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
            &sum.data_points
        }
        other => panic!("{other:?}"),
    };
    let point = |point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
        assert_eq!(point.time_unix_nano, NOW * 1_000_000_000);
        let attribute = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| {
            let Some(Any::StringValue(text)) = pair.value.clone().unwrap().value else { panic!("no string") };
            format!("{}={text}", pair.key)
        };
        let attributes: Vec<_> = point.attributes.iter().map(attribute).collect();
        (attributes.join(" "), point.start_time_unix_nano / 1_000_000_000, point.value.unwrap())
    };
    points.iter().map(point).collect()
}

#[test]
fn names_types_and_labels_are_those_of_the_page_with_cluster_and_node() {
    let metrics = pushed(|out| {
        out.counter("node_cpu_seconds_total", "CPU.").row([("cpu", "0"), ("mode", "idle")], 12.5);
        out.gauge("kube_pod_info", "Pod.").row([("pod", "a"), ("node", "other"), ("uid", "")], 1u64);
        out.untyped("node_load1", "Load.").row([], 0.25);
        out.counter("node_vmstat_pgfault", "Not pushed.").row([], 1u64);
        out.gauge("node_memory_MemFree_bytes", "No row, so nothing.");
    });
    let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["node_cpu_seconds_total", "kube_pod_info", "node_load1"]);
    assert_eq!(metrics[0].description, "CPU.");
    let node = points(&metrics[0]);
    assert_eq!(node, [("cpu=0 mode=idle cluster=prod node=n1".into(), NOW - 60, Number::AsDouble(12.5))]);
    assert_eq!(points(&metrics[1]), [("pod=a node=other cluster=prod".into(), 0, Number::AsInt(1))]);
    assert_eq!(points(&metrics[2]), [("cluster=prod node=n1".into(), 0, Number::AsDouble(0.25))]);
}

#[test]
fn a_sum_says_since_when_it_counts() {
    let metrics = pushed(|out| {
        out.gauge("container_start_time_seconds", "").row([("id", "/a")], 1000u64);
        let mut rows = out.counter("container_cpu_usage_seconds_total", "");
        rows.row([("id", "/a")], 1.0).row([("id", "/b")], 1.0);
    });
    let starts: Vec<_> = points(&metrics[1]).into_iter().map(|point| point.1).collect();
    assert_eq!(starts, [1000, 0], "a cgroup's own start, or not known");

    let metrics = pushed(|out| {
        out.counter("node_cpu_seconds_total", "").row([("cpu", "0")], 1.0);
        out.gauge("node_boot_time_seconds", "").row([], 77.0);
    });
    assert_eq!(points(&metrics[0])[0].1, 77, "the node's boot");

    let metrics = pushed(|out| {
        out.gauge("kube_pod_start_time", "").row([("uid", "u")], NOW + 5);
        out.counter("kube_pod_container_status_restarts_total", "").row([("uid", "u")], 3u64);
    });
    assert_eq!(
        points(&metrics[1]),
        [("uid=u cluster=prod node=n1".into(), NOW, Number::AsInt(3))],
        "not after now"
    );
}

#[test]
fn every_value_is_a_number_that_otlp_has() {
    let metrics = pushed(|out| {
        let mut rows = out.gauge("node_load1", "");
        rows.row([], u64::MAX).row([], -5i64).row([], f64::INFINITY);
    });
    let values: Vec<_> = points(&metrics[0]).into_iter().map(|point| point.2).collect();
    assert_eq!(values[0], Number::AsDouble(18_446_744_073_709_551_615.0));
    assert_eq!(values[1..], [Number::AsInt(-5), Number::AsDouble(f64::INFINITY)]);
}
