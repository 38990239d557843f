use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any,
};
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.into())) });
    KeyValue { key: key.into(), value, key_strindex: 0 }
}

fn attributes(pairs: &[(String, String)]) -> Vec<KeyValue> {
    pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| attribute(key, value)).collect()
}

type Pairs = Vec<(String, String)>;
type Point = (Pairs, u64, u64, Result<i64, f64>);
type Buckets = (Pairs, u64, u64, f64, Vec<(f64, u64)>);

fn pairs() -> impl Strategy<Value = Pairs> {
    prop::collection::vec(("[a-z_]{0,9}", "\\PC{0,20}"), 0..6)
}

fn point() -> impl Strategy<Value = Point> {
    let value = prop_oneof![any::<i64>().prop_map(Ok), (-1e300..1e300).prop_map(Err)];
    (pairs(), any::<u64>(), any::<u64>(), value)
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let bucket = (-1e9..1e9, 0u64..1 << 40);
    (pairs(), any::<u64>(), any::<u64>(), -1e9..1e9, prop::collection::vec(bucket, 0..8))
}

fn number(points: &[Point]) -> Vec<otlp::NumberDataPoint> {
    let point = |(pairs, start, time, value): &Point| otlp::NumberDataPoint {
        attributes: attributes(pairs),
        start_time_unix_nano: *start,
        time_unix_nano: *time,
        value: Some(match value {
            Ok(value) => otlp::number_data_point::Value::AsInt(*value),
            Err(value) => otlp::number_data_point::Value::AsDouble(*value),
        }),
        ..Default::default()
    };
    points.iter().map(point).collect()
}

fn histogram(points: &[Buckets]) -> Vec<otlp::HistogramDataPoint> {
    let point = |(pairs, start, time, sum, buckets): &Buckets| otlp::HistogramDataPoint {
        attributes: attributes(pairs),
        start_time_unix_nano: *start,
        time_unix_nano: *time,
        count: buckets.iter().map(|(_, count)| count).sum(),
        sum: Some(*sum),
        bucket_counts: buckets.iter().map(|(_, count)| *count).collect(),
        explicit_bounds: buckets.iter().rev().skip(1).rev().map(|(end, _)| *end).collect(),
        ..Default::default()
    };
    points.iter().map(point).collect()
}

fn borrowed(pairs: &Pairs) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

proptest! {
    #[test]
    fn what_is_written_is_what_prost_reads(
        gauges in prop::collection::vec(point(), 0..5),
        sums in prop::collection::vec(point(), 0..5),
        histograms in prop::collection::vec(buckets(), 0..4),
    ) {
        let resource = AttrSet::builder().str("k8s.node.name", "n").build();
        let mut encoder = MetricsEncoder::new(vec![1, 2, 3], &resource, "sonde-agent", "1");
        for (name, shape, points) in [("g", Shape::Gauge, &gauges), ("s", Shape::Sum, &sums)] {
            let mut metric = encoder.metric(name, "help", shape);
            for (pairs, start, time, value) in points {
                let value = match value {
                    Ok(value) => Number::Int(*value),
                    Err(value) => Number::Double(*value),
                };
                metric.point(borrowed(pairs), Span { start: *start, time: *time }, value);
                metric.histogram([], Span::default(), 0.0, &[]);
            }
        }
        let mut metric = encoder.metric("h", "", Shape::Histogram);
        for (pairs, start, time, sum, buckets) in &histograms {
            metric.histogram(borrowed(pairs), Span { start: *start, time: *time }, *sum, buckets);
            metric.point([], Span::default(), Number::Int(1));
        }
        drop(metric);
        prop_assert_eq!(encoder.points(), (gauges.len() + sums.len() + histograms.len()) as u64);

        let metric = |name: &str, description: &str, data| otlp::Metric {
            name: name.into(), description: description.into(), data: Some(data), ..Default::default()
        };
        let cumulative = otlp::AggregationTemporality::Cumulative.into();
        let scope = InstrumentationScope { name: "sonde-agent".into(), version: "1".into(), ..Default::default() };
        let wanted = ExportMetricsServiceRequest { resource_metrics: vec![otlp::ResourceMetrics {
            resource: Some(Resource { attributes: vec![attribute("k8s.node.name", "n")], ..Default::default() }),
            scope_metrics: vec![otlp::ScopeMetrics {
                scope: Some(scope),
                metrics: vec![
                    metric("g", "help", otlp::metric::Data::Gauge(otlp::Gauge { data_points: number(&gauges) })),
                    metric("s", "help", otlp::metric::Data::Sum(otlp::Sum {
                        data_points: number(&sums), aggregation_temporality: cumulative, is_monotonic: true,
                    })),
                    metric("h", "", otlp::metric::Data::Histogram(otlp::Histogram {
                        data_points: histogram(&histograms), aggregation_temporality: cumulative,
                    })),
                ],
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }] };
        let bytes = encoder.finish();
        prop_assert_eq!(ExportMetricsServiceRequest::decode(&bytes[..]).unwrap(), wanted);
        let summary = crate::view::check_metrics(&bytes, &Default::default()).unwrap();
        prop_assert_eq!(summary.records as usize, gauges.len() + sums.len() + histograms.len());
    }
}

#[test]
fn each_resource_has_its_own_metrics_and_a_sum_that_falls_says_so() {
    let resource = |name: &str| AttrSet::builder().str("k8s.pod.name", name).build();
    let mut encoder = MetricsEncoder::new(Vec::new(), &resource("a"), "one", "1");
    encoder.metric("first", "", Shape::Sum).point([], Span::default(), Number::Int(1));
    encoder.resource(&resource("b"), "two", "2");
    encoder.metric_in("second", "", "By", Shape::UpDown).point([], Span::default(), Number::Int(2));
    let bytes = encoder.finish();
    assert_eq!(crate::view::check_metrics(&bytes, &Default::default()).unwrap().records, 2);
    let request = ExportMetricsServiceRequest::decode(&bytes[..]).unwrap();
    let seen: Vec<_> = request
        .resource_metrics
        .iter()
        .map(|one| {
            let (scope, metric) = (&one.scope_metrics[0], &one.scope_metrics[0].metrics[0]);
            let Some(otlp::metric::Data::Sum(sum)) = &metric.data else { panic!("no sum") };
            let attributes = one.resource.as_ref().unwrap().attributes.clone();
            (attributes, scope.scope.as_ref().unwrap().name.as_str(), metric.unit.as_str(), sum.is_monotonic)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (vec![attribute("k8s.pod.name", "a")], "one", "", true),
            (vec![attribute("k8s.pod.name", "b")], "two", "By", false),
        ]
    );
}
