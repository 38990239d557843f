use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use proptest::prelude::*;
use prost::Message;
use sonde_wire::view::MetricsRequest;

use super::super::tests::shown;
use super::*;
use crate::store::tests::text;

const MS: u64 = 1_800_000_000_000;
const NANOS: u64 = MS * 1_000_000;

/// The series of all points of a metric, or why one has none; with `target_info` at the end.
fn series_of(attributes: Vec<KeyValue>, selected: &[&str], metric: otlp::Metric) -> Vec<String> {
    let group = otlp::ResourceMetrics {
        resource: Some(OtlpResource { attributes, ..OtlpResource::default() }),
        scope_metrics: vec![otlp::ScopeMetrics { metrics: vec![metric], ..Default::default() }],
        ..Default::default()
    };
    of_request(&ExportMetricsServiceRequest { resource_metrics: vec![group] }.encode_to_vec(), selected)
}

fn of_request(bytes: &[u8], selected: &[&str]) -> Vec<String> {
    let (hash, mut all) = (RandomState::new(), Vec::new());
    let selected: Vec<String> = selected.iter().map(|key| (*key).to_owned()).collect();
    for group in MetricsRequest::trusted(bytes).resources() {
        let resource = Resource::new(group.attributes(), &selected);
        for metric in group.scopes().flat_map(|scope| scope.metrics()) {
            for point in metric.every_point() {
                match of_point(&hash, &resource, &metric, point, NANOS) {
                    Ok((series, _)) => all.extend(series.iter().map(|one| shown(&one.bytes))),
                    Err(reason) => all.push(reason.name().to_owned()),
                }
            }
        }
        all.extend(resource.target_info(&hash, 7).map(|info| shown(&info.bytes)));
    }
    all
}

fn number(value: Number, attributes: Vec<KeyValue>) -> otlp::NumberDataPoint {
    otlp::NumberDataPoint { time_unix_nano: NANOS, value: Some(value), attributes, ..Default::default() }
}

fn metric(name: &str, unit: &str, data: Data) -> otlp::Metric {
    otlp::Metric { name: name.into(), unit: unit.into(), data: Some(data), ..Default::default() }
}

fn gauge(points: Vec<otlp::NumberDataPoint>) -> otlp::Metric {
    metric("g", "", Data::Gauge(otlp::Gauge { data_points: points }))
}

#[test]
fn numbers_are_gauges_and_counters_with_the_targets_labels() {
    let service = || {
        vec![
            text("service.name", "shop"),
            text("service.namespace", "web"),
            text("service.instance.id", "i-1"),
            text("k8s.pod.name", "shop-0"),
        ]
    };
    let sum = |temporality, is_monotonic| {
        let data_points = vec![number(Number::AsInt(3), vec![text("http.method", "GET")])];
        Data::Sum(otlp::Sum { data_points, aggregation_temporality: temporality, is_monotonic })
    };
    let info = "target_info{instance=\"i-1\",job=\"web/shop\",k8s_pod_name=\"shop-0\"} 1@7";
    let target = "http_method=\"GET\",instance=\"i-1\",job=\"web/shop\"";
    assert_eq!(
        series_of(service(), &[], metric("requests", "", sum(2, true))),
        [format!("requests_total{{{target}}} 3@{MS}"), info.to_owned()]
    );
    assert_eq!(
        series_of(service(), &["k8s.pod.name"], metric("level", "By", sum(2, false))),
        [format!("level_bytes{{{target},k8s_pod_name=\"shop-0\"}} 3@{MS}"), info.to_owned()]
    );
    for temporality in [0, 1] {
        assert_eq!(series_of(vec![], &[], metric("m", "", sum(temporality, true))), ["temporality"]);
    }
    // Without anything that names a target there is none.
    let lonely =
        series_of(vec![text("k8s.pod.name", "p")], &[], gauge(vec![number(Number::AsDouble(0.5), vec![])]));
    assert_eq!(lonely, [format!("g{{}} 0.5@{MS}")]);
}

#[test]
fn a_point_of_a_million_series_is_left_out_before_they_are_made() {
    let long = || vec![text("path", &"x".repeat(1000))];
    let histogram = |bounds: usize| otlp::HistogramDataPoint {
        time_unix_nano: NANOS,
        attributes: long(),
        bucket_counts: vec![1; bounds + 1],
        explicit_bounds: (0..bounds).map(|bound| bound as f64).collect(),
        ..Default::default()
    };
    let of = |bounds| {
        let data_points = vec![histogram(bounds)];
        let data = Data::Histogram(otlp::Histogram { data_points, aggregation_temporality: 2 });
        series_of(vec![], &[], metric("h", "", data))
    };
    assert_eq!(of(1_000_000), ["too_large"]);
    assert_eq!(of(3_000).len(), 3_002);
    let quantiles = (0..60_000).map(|at| otlp::summary_data_point::ValueAtQuantile {
        quantile: f64::from(at) / 60_000.0,
        value: 1.0,
    });
    let point = otlp::SummaryDataPoint {
        time_unix_nano: NANOS,
        attributes: long(),
        quantile_values: quantiles.collect(),
        ..Default::default()
    };
    let data = Data::Summary(otlp::Summary { data_points: vec![point] });
    assert_eq!(series_of(vec![], &[], metric("s", "", data)), ["too_large"]);
}

#[test]
fn a_histogram_is_its_buckets_added_up() {
    let point = |counts: Vec<u64>, bounds: Vec<f64>, sum| otlp::HistogramDataPoint {
        time_unix_nano: NANOS,
        count: counts.iter().sum(),
        sum,
        bucket_counts: counts,
        explicit_bounds: bounds,
        ..Default::default()
    };
    let of = |points, temporality| {
        let data = otlp::Histogram { data_points: points, aggregation_temporality: temporality };
        series_of(vec![], &[], metric("h", "s", Data::Histogram(data)))
    };
    let at = |series: &[&str]| series.iter().map(|one| format!("{one}@{MS}")).collect::<Vec<_>>();
    assert_eq!(
        of(vec![point(vec![1, 2, 4], vec![0.25, 1e6], Some(9.5))], 2),
        at(&[
            "h_seconds_bucket{le=\"0.25\"} 1",
            "h_seconds_bucket{le=\"1000000\"} 3",
            "h_seconds_bucket{le=\"+Inf\"} 7",
            "h_seconds_sum{} 9.5",
            "h_seconds_count{} 7",
        ])
    );
    assert_eq!(
        of(vec![point(vec![], vec![], None)], 2),
        at(&["h_seconds_bucket{le=\"+Inf\"} 0", "h_seconds_count{} 0"])
    );
    assert_eq!(of(vec![point(vec![1], vec![], None)], 1), ["temporality"]);
    for (counts, bounds) in [
        (vec![1], vec![1.0]),
        (vec![1, 2], vec![]),
        (vec![1, 2, 3], vec![2.0, 1.0]),
        (vec![1, 2], vec![f64::NAN]),
    ] {
        assert_eq!(of(vec![point(counts, bounds, None)], 2), ["malformed"]);
    }
    let exponential =
        otlp::ExponentialHistogram { data_points: vec![Default::default()], aggregation_temporality: 2 };
    let exponential = metric("e", "", Data::ExponentialHistogram(exponential));
    assert_eq!(series_of(vec![], &[], exponential), ["exponential_histogram"]);
}

#[test]
fn a_summary_is_its_quantiles() {
    let at = |quantile, value| otlp::summary_data_point::ValueAtQuantile { quantile, value };
    let point = otlp::SummaryDataPoint {
        time_unix_nano: NANOS,
        count: 4,
        sum: 8.0,
        quantile_values: vec![at(0.5, 1.0), at(0.99, 3.0), at(0.5, 2.0)],
        ..Default::default()
    };
    let summary = metric("s", "", Data::Summary(otlp::Summary { data_points: vec![point] }));
    let wanted = ["s{quantile=\"0.5\"} 1", "s{quantile=\"0.99\"} 3", "s_sum{} 8", "s_count{} 4"];
    assert_eq!(series_of(vec![], &[], summary), wanted.map(|one| format!("{one}@{MS}")));
}

#[test]
fn labels_that_get_one_name_are_joined_and_none_names_the_target_or_the_metric() {
    let attributes = vec![
        text("b.c", "2"),
        text("b_c", "3"),
        text("b-c", "1"),
        text("empty", ""),
        text("", "x"),
        text("job", "mine"),
        text("__name__", "other"),
    ];
    let series = series_of(
        vec![text("service.name", "shop")],
        &["service.name"],
        gauge(vec![number(Number::AsInt(1), attributes)]),
    );
    assert_eq!(series, [format!("g{{b_c=\"1;2;3\",job=\"shop\",service_name=\"shop\"}} 1@{MS}")]);
}

#[test]
fn a_point_without_a_value_is_stale_and_a_nan_is_not() {
    let stale = otlp::NumberDataPoint { time_unix_nano: NANOS, flags: 1, ..Default::default() };
    let nan = number(Number::AsDouble(f64::from_bits(0x7ff8_0000_0000_0123)), vec![]);
    let none = otlp::NumberDataPoint { time_unix_nano: NANOS, ..Default::default() };
    let never = otlp::NumberDataPoint { value: Some(Number::AsInt(1)), ..Default::default() };
    assert_eq!(
        series_of(vec![], &[], gauge(vec![stale, nan, none, never])),
        [
            format!("g{{}} stale@{MS}"),
            format!("g{{}} NaN@{MS}"),
            "malformed".to_owned(),
            "malformed".to_owned()
        ]
    );
}

#[test]
fn what_is_far_ahead_of_its_arrival_is_left_out() {
    let at = |ahead: u64| otlp::NumberDataPoint {
        time_unix_nano: NANOS + ahead,
        ..number(Number::AsInt(1), vec![])
    };
    let series =
        series_of(vec![], &[], gauge(vec![at(FUTURE_NANOS), at(FUTURE_NANOS + 1), at(u64::MAX - NANOS)]));
    assert_eq!(series, [format!("g{{}} 1@{}", MS + 300_000), "future".to_owned(), "future".to_owned()]);
}

proptest! {
    #[test]
    fn any_point_is_series_that_a_server_can_read_or_is_left_out(
        name in "\\PC{0,12}", unit in "\\PC{0,6}", pairs in prop::collection::vec(("\\PC{0,6}", "\\PC{0,6}"), 0..6),
        bits: u64, time in prop_oneof![Just(NANOS), any::<u64>()], kind in 0..3_u8, counts in prop::collection::vec(any::<u64>(), 0..4),
    ) {
        let attributes: Vec<KeyValue> = pairs.iter().map(|(key, value)| text(key, value)).collect();
        let point = otlp::NumberDataPoint {
            time_unix_nano: time, ..number(Number::AsDouble(f64::from_bits(bits)), attributes.clone())
        };
        let data = match kind {
            0 => Data::Gauge(otlp::Gauge { data_points: vec![point] }),
            1 => Data::Sum(otlp::Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true }),
            _ => Data::Histogram(otlp::Histogram {
                data_points: vec![otlp::HistogramDataPoint {
                    time_unix_nano: time,
                    explicit_bounds: (1..counts.len()).map(|n| n as f64).collect(),
                    bucket_counts: counts,
                    attributes: attributes.clone(),
                    ..Default::default()
                }],
                aggregation_temporality: 2,
            }),
        };
        series_of(attributes, &["a", "b"], metric(&name, &unit, data));
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        of_request(&bytes, &[]);
    }
}
