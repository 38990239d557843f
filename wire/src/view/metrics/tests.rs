use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any,
};
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{self as otlp, metric::Data};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message as _;

use super::super::{AnyValueView, ViewError, check_metrics};
use super::*;
use crate::limits::ViewLimits;
use crate::proto::ProtoError;

const LIMITS: ViewLimits =
    ViewLimits { records: 1000, groups: 1000, values: 1000, depth: ViewLimits::MAX_DEPTH };

fn pairs() -> impl Strategy<Value = Vec<KeyValue>> {
    let value = prop_oneof!["\\PC{0,9}".prop_map(Any::StringValue), any::<i64>().prop_map(Any::IntValue)];
    let pair = ("\\PC{0,9}", prop::option::of(value)).prop_map(|(key, value)| KeyValue {
        key,
        value: value.map(|value| AnyValue { value: Some(value) }),
        key_strindex: 0,
    });
    prop::collection::vec(pair, 0..4)
}

fn exemplars() -> impl Strategy<Value = Vec<otlp::Exemplar>> {
    let exemplar = (pairs(), any::<u64>()).prop_map(|(filtered_attributes, time)| otlp::Exemplar {
        filtered_attributes,
        time_unix_nano: time,
        span_id: vec![1; 8],
        trace_id: vec![2; 16],
        value: Some(otlp::exemplar::Value::AsInt(3)),
    });
    prop::collection::vec(exemplar, 0..2)
}

fn numbers() -> impl Strategy<Value = Vec<otlp::NumberDataPoint>> {
    let value = prop_oneof![
        Just(None),
        any::<i32>().prop_map(|value| Some(Number::AsInt(value.into()))),
        (-1e300..1e300).prop_map(|value| Some(Number::AsDouble(value))),
    ];
    let point = (pairs(), any::<(u64, u64, u32)>(), exemplars(), value).prop_map(
        |(attributes, (start, time, flags), exemplars, value)| otlp::NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: time,
            exemplars,
            flags,
            value,
        },
    );
    prop::collection::vec(point, 0..4)
}

fn histograms() -> impl Strategy<Value = Data> {
    let point = (pairs(), exemplars(), prop::collection::vec(any::<u64>(), 0..4)).prop_map(
        |(attributes, exemplars, counts)| otlp::HistogramDataPoint {
            attributes,
            exemplars,
            explicit_bounds: counts.iter().map(|_| 1.5).collect(),
            bucket_counts: counts,
            sum: Some(1.0),
            min: Some(0.5),
            max: None,
            flags: 1,
            ..Default::default()
        },
    );
    prop::collection::vec(point, 0..3)
        .prop_map(|data_points| Data::Histogram(otlp::Histogram { data_points, aggregation_temporality: 1 }))
}

fn exponentials() -> impl Strategy<Value = Data> {
    let buckets = || {
        prop::option::of((any::<i32>(), prop::collection::vec(any::<u64>(), 0..4))).prop_map(|buckets| {
            buckets.map(|(offset, bucket_counts)| otlp::exponential_histogram_data_point::Buckets {
                offset,
                bucket_counts,
            })
        })
    };
    let point = (pairs(), exemplars(), buckets(), buckets(), any::<i32>()).prop_map(
        |(attributes, exemplars, positive, negative, scale)| otlp::ExponentialHistogramDataPoint {
            attributes,
            exemplars,
            positive,
            negative,
            scale,
            zero_threshold: 0.1,
            ..Default::default()
        },
    );
    prop::collection::vec(point, 0..3).prop_map(|data_points| {
        Data::ExponentialHistogram(otlp::ExponentialHistogram { data_points, aggregation_temporality: 2 })
    })
}

fn summaries() -> impl Strategy<Value = Data> {
    let quantile = otlp::summary_data_point::ValueAtQuantile { quantile: 0.5, value: 7.0 };
    let point = (pairs(), 0usize..3).prop_map(move |(attributes, quantiles)| otlp::SummaryDataPoint {
        attributes,
        quantile_values: vec![quantile; quantiles],
        ..Default::default()
    });
    prop::collection::vec(point, 0..3).prop_map(|data_points| Data::Summary(otlp::Summary { data_points }))
}

fn requests() -> impl Strategy<Value = ExportMetricsServiceRequest> {
    let data = prop_oneof![
        4 => numbers().prop_map(|data_points| Data::Gauge(otlp::Gauge { data_points })),
        4 => numbers().prop_map(|data_points| Data::Sum(otlp::Sum {
            data_points, aggregation_temporality: 2, is_monotonic: true,
        })),
        1 => histograms(),
        1 => exponentials(),
        1 => summaries(),
    ];
    let metric = ("[a-z_]{0,9}", "\\PC{0,9}", pairs(), prop::option::of(data)).prop_map(
        |(name, description, metadata, data)| otlp::Metric {
            name,
            description,
            unit: "s".into(),
            metadata,
            data,
        },
    );
    let scope = ("[a-z]{0,4}", prop::collection::vec(metric, 0..4)).prop_map(|(name, metrics)| {
        let scope = InstrumentationScope { name, ..Default::default() };
        otlp::ScopeMetrics { scope: Some(scope), metrics, schema_url: "s".into() }
    });
    let resource = (pairs(), prop::collection::vec(scope, 0..3)).prop_map(|(attributes, scope_metrics)| {
        let resource = Some(Resource { attributes, ..Default::default() });
        otlp::ResourceMetrics { resource, scope_metrics, schema_url: String::new() }
    });
    prop::collection::vec(resource, 0..3)
        .prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics })
}

/// What a reader makes of a request, as text.
type Seen = Vec<(String, Vec<String>, String, u64, Vec<(u64, u64, Option<f64>, Vec<String>)>)>;

fn ours(request: MetricsRequest<'_>) -> Seen {
    let pairs = |attributes: Attributes<'_>| {
        attributes
            .map(|(key, value)| match value {
                AnyValueView::Str(text) => format!("{key}={text}"),
                AnyValueView::Int(value) => format!("{key}={value}"),
                _ => format!("{key}="),
            })
            .collect()
    };
    let mut seen = Seen::new();
    for resource in request.resources() {
        for scope in resource.scopes() {
            for metric in scope.metrics() {
                let points = metric
                    .points()
                    .map(|p| (p.start_time_unix_nano, p.time_unix_nano, p.value, pairs(p.attributes())))
                    .collect();
                let names = (scope.name().to_owned(), pairs(resource.attributes()), metric.name.to_owned());
                seen.push((names.0, names.1, names.2, metric.count(), points));
            }
        }
    }
    seen
}

fn theirs(request: &ExportMetricsServiceRequest) -> Seen {
    let pairs = |attributes: &[KeyValue]| -> Vec<String> {
        attributes
            .iter()
            .map(|pair| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Any::StringValue(text)) => format!("{}={text}", pair.key),
                Some(Any::IntValue(value)) => format!("{}={value}", pair.key),
                _ => format!("{}=", pair.key),
            })
            .collect()
    };
    let mut seen = Seen::new();
    for resource in &request.resource_metrics {
        for scope in &resource.scope_metrics {
            for metric in &scope.metrics {
                let none = Vec::new();
                let (count, numbers) = match &metric.data {
                    Some(Data::Gauge(data)) => (data.data_points.len(), &data.data_points),
                    Some(Data::Sum(data)) => (data.data_points.len(), &data.data_points),
                    Some(Data::Histogram(data)) => (data.data_points.len(), &none),
                    Some(Data::ExponentialHistogram(data)) => (data.data_points.len(), &none),
                    Some(Data::Summary(data)) => (data.data_points.len(), &none),
                    None => (0, &none),
                };
                let value = |value: &Option<Number>| match value {
                    Some(Number::AsInt(value)) => Some(*value as f64),
                    Some(Number::AsDouble(value)) => Some(*value),
                    None => None,
                };
                let points = numbers
                    .iter()
                    .map(|p| {
                        (p.start_time_unix_nano, p.time_unix_nano, value(&p.value), pairs(&p.attributes))
                    })
                    .collect();
                let own = resource.resource.as_ref().map(|own| pairs(&own.attributes)).unwrap_or_default();
                let name = scope.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
                seen.push((name, own, metric.name.clone(), count as u64, points));
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn whatever_prost_writes_is_read_the_same(written in requests()) {
        let bytes = written.encode_to_vec();
        let summary = check_metrics(&bytes, &LIMITS).unwrap();
        let seen = ours(MetricsRequest::trusted(&bytes));
        prop_assert_eq!(u64::from(summary.records), seen.iter().map(|metric| metric.3).sum::<u64>());
        prop_assert_eq!(seen, theirs(&written));
    }

    #[test]
    fn damaged_requests_are_judged_as_by_prost(
        written in requests(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
    ) {
        let mut bytes = written.encode_to_vec();
        for (at, byte, kind) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte & 7),
                2 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let seen = ours(MetricsRequest::trusted(&bytes));
        match (check_metrics(&bytes, &LIMITS), ExportMetricsServiceRequest::decode(&bytes[..])) {
            // As text: a NaN does not equal itself.
            (Ok(_), Ok(theirs_too)) => prop_assert_eq!(format!("{seen:?}"), format!("{:?}", theirs(&theirs_too))),
            (Ok(_), Err(error)) => prop_assert!(false, "prost refuses what passes: {error}"),
            (Err(error), Ok(_)) => {
                let stricter = matches!(
                    error,
                    ViewError::Twice { .. } | ViewError::TooDeep(_) | ViewError::TooMany { .. }
                        | ViewError::Proto { error: ProtoError::WireType(3 | 4), .. }
                );
                prop_assert!(stricter, "prost takes what is refused: {error}");
            }
            (Err(_), Err(_)) => {}
        }
    }
}

#[test]
fn points_and_metrics_are_limited() {
    let metric = |points| {
        let data_points = vec![otlp::NumberDataPoint::default(); points];
        otlp::Metric { data: Some(Data::Gauge(otlp::Gauge { data_points })), ..Default::default() }
    };
    let request = |metrics: Vec<otlp::Metric>| {
        let scope_metrics = vec![otlp::ScopeMetrics { metrics, ..Default::default() }];
        let resource_metrics = vec![otlp::ResourceMetrics { scope_metrics, ..Default::default() }];
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
    };
    assert_eq!(check_metrics(&request(vec![metric(500); 2]), &LIMITS).map(|s| s.records), Ok(1000));
    for (metrics, what) in [(vec![metric(500); 3], "data points"), (vec![metric(0); 1001], "metrics")] {
        assert_eq!(check_metrics(&request(metrics), &LIMITS), Err(ViewError::TooMany { what, limit: 1000 }));
    }
}
