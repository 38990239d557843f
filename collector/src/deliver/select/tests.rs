use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{self as metrics, Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::deliver::decode::LIMITS;
use crate::queue::Position;

fn unit(signal: Signal, bytes: Vec<u8>, records: usize) -> Unit {
    Unit {
        signal,
        position: Position::default(),
        received_unix_nano: 1,
        bytes: Bytes::from(bytes),
        first: 100,
        records,
        came: None,
        resend: false,
    }
}

fn any_request() -> impl Strategy<Value = ExportLogsServiceRequest> {
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    let record = ("[a-z]{0,40}", any::<u64>()).prop_map(|(text, time)| LogRecord {
        time_unix_nano: time,
        event_name: text,
        ..LogRecord::default()
    });
    let scope = (prop::collection::vec(record, 0..5), prop::option::of("[a-z]{1,9}"), "[a-z]{0,5}").prop_map(
        |(log_records, name, schema_url)| ScopeLogs {
            log_records,
            scope: name.map(|name| InstrumentationScope { name, ..InstrumentationScope::default() }),
            schema_url,
        },
    );
    let group = (prop::collection::vec(scope, 0..4), prop::option::of("[a-z]{0,9}"), "[a-z]{0,5}").prop_map(
        |(scope_logs, value, schema_url)| ResourceLogs {
            scope_logs,
            resource: value.map(|value| Resource {
                attributes: vec![crate::store::tests::text("key", &value)],
                ..Resource::default()
            }),
            schema_url,
        },
    );
    prop::collection::vec(group, 0..4).prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
}

proptest! {
    #[test]
    fn a_selection_has_the_wanted_records_as_they_were_and_no_empty_group(
        request in any_request(), mask: u64, bytes in 0..2000_usize, most in 1..30_usize, one: bool,
    ) {
        let records = request.resource_logs.iter().flat_map(|g| &g.scope_logs).map(|s| s.log_records.len()).sum();
        let unit = unit(Signal::Logs, request.encode_to_vec(), records);
        let wanted: Vec<usize> = (0..records).filter(|n| mask >> (n % 64) & 1 == 1).map(|n| n + 100).collect();
        let (some, taken) = select(&unit, &wanted, bytes, most, one);
        prop_assert!(wanted.starts_with(&taken), "{wanted:?} {taken:?}");
        prop_assert!(taken.len() <= most);
        prop_assert!(some.len() <= bytes || one && taken.len() == 1, "{} of {bytes}", some.len());
        prop_assert!(!one || wanted.is_empty() || !taken.is_empty(), "one always goes");
        let mut expected = request;
        let mut number = 100;
        for group in &mut expected.resource_logs {
            for scope in &mut group.scope_logs {
                scope.log_records.retain(|_| { number += 1; taken.contains(&(number - 1)) });
            }
            group.scope_logs.retain(|scope| !scope.log_records.is_empty());
        }
        expected.resource_logs.retain(|group| !group.scope_logs.is_empty());
        prop_assert_eq!(ExportLogsServiceRequest::decode(&some[..]).unwrap(), expected);
    }

    #[test]
    fn any_bytes_can_be_selected_from(bytes: Vec<u8>, wanted in prop::collection::btree_set(100..110_usize, 0..9)) {
        let wanted: Vec<usize> = wanted.into_iter().collect();
        for signal in Signal::ALL {
            select(&unit(signal, bytes.clone(), 10), &wanted, 100, 100, true);
        }
    }
}

fn any_data() -> impl Strategy<Value = Data> {
    (0..5_u8, prop::collection::vec(any::<u64>(), 0..4)).prop_map(|(kind, times)| match kind {
        0 => Data::Gauge(metrics::Gauge { data_points: numbers(&times) }),
        1 => Data::Sum(metrics::Sum {
            data_points: numbers(&times),
            aggregation_temporality: 2,
            is_monotonic: true,
        }),
        2 => Data::Histogram(metrics::Histogram {
            data_points: times
                .iter()
                .map(|time| metrics::HistogramDataPoint { time_unix_nano: *time, ..Default::default() })
                .collect(),
            aggregation_temporality: 2,
        }),
        3 => Data::ExponentialHistogram(metrics::ExponentialHistogram {
            data_points: times
                .iter()
                .map(|time| metrics::ExponentialHistogramDataPoint { count: *time, ..Default::default() })
                .collect(),
            aggregation_temporality: 1,
        }),
        _ => Data::Summary(metrics::Summary {
            data_points: times
                .iter()
                .map(|time| metrics::SummaryDataPoint { time_unix_nano: *time, ..Default::default() })
                .collect(),
        }),
    })
}

fn numbers(times: &[u64]) -> Vec<metrics::NumberDataPoint> {
    let point = |time: &u64| metrics::NumberDataPoint { time_unix_nano: *time, ..Default::default() };
    times.iter().map(point).collect()
}

/// Keeps those points of a metric that `keep` says; how many are left.
fn retain(data: &mut Option<Data>, mut keep: impl FnMut() -> bool) -> usize {
    macro_rules! of {
        ($data:expr) => {{
            $data.data_points.retain(|_| keep());
            $data.data_points.len()
        }};
    }
    match data {
        None => 0,
        Some(Data::Gauge(data)) => of!(data),
        Some(Data::Sum(data)) => of!(data),
        Some(Data::Histogram(data)) => of!(data),
        Some(Data::ExponentialHistogram(data)) => of!(data),
        Some(Data::Summary(data)) => of!(data),
    }
}

proptest! {
    #[test]
    fn a_selection_of_points_has_those_alone_each_in_its_metric(
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(any_data(), 0..4), 0..3), 0..3),
        mask: u64, bytes in 0..2000_usize, most in 1..30_usize, one: bool,
    ) {
        let metric = |data| Metric { name: "m".into(), unit: "s".into(), data: Some(data), ..Metric::default() };
        let scope = |metrics: Vec<Data>| ScopeMetrics {
            metrics: metrics.into_iter().map(metric).collect(), schema_url: "s".into(), ..ScopeMetrics::default()
        };
        let group = |scopes: Vec<Vec<Data>>| ResourceMetrics {
            scope_metrics: scopes.into_iter().map(scope).collect(), schema_url: "r".into(), ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest { resource_metrics: groups.into_iter().map(group).collect() };
        let raw = request.encode_to_vec();
        let records = Signal::Metrics.check(&raw, &LIMITS).unwrap().records as usize;
        let unit = unit(Signal::Metrics, raw, records);
        let wanted: Vec<usize> = (0..records).filter(|n| mask >> (n % 64) & 1 == 1).map(|n| n + 100).collect();
        let (some, taken) = select(&unit, &wanted, bytes, most, one);
        prop_assert!(wanted.starts_with(&taken), "{wanted:?} {taken:?}");
        prop_assert!(taken.len() <= most);
        prop_assert!(some.len() <= bytes || one && taken.len() == 1, "{} of {bytes}", some.len());
        prop_assert!(!one || wanted.is_empty() || !taken.is_empty(), "one always goes");
        let mut expected = request;
        let mut number = 100;
        for group in &mut expected.resource_metrics {
            for scope in &mut group.scope_metrics {
                scope.metrics.retain_mut(|metric| {
                    retain(&mut metric.data, || { number += 1; taken.contains(&(number - 1)) }) > 0
                });
            }
            group.scope_metrics.retain(|scope| !scope.metrics.is_empty());
        }
        expected.resource_metrics.retain(|group| !group.scope_metrics.is_empty());
        prop_assert_eq!(ExportMetricsServiceRequest::decode(&some[..]).unwrap(), expected);
        prop_assert_eq!(Signal::Metrics.check(&some, &LIMITS).unwrap().records as usize, taken.len());
    }

    #[test]
    fn a_selection_of_spans_has_those_alone(
        groups in prop::collection::vec(prop::collection::vec(0..5_usize, 0..3), 0..3), mask: u64,
    ) {
        let mut id = 0_u64;
        let mut span = || { id += 1; Span { span_id: id.to_be_bytes().to_vec(), ..Span::default() } };
        let request = ExportTraceServiceRequest {
            resource_spans: groups.iter().map(|scopes| ResourceSpans {
                scope_spans: scopes.iter().map(|spans| ScopeSpans {
                    spans: (0..*spans).map(|_| span()).collect(), ..ScopeSpans::default()
                }).collect(),
                ..ResourceSpans::default()
            }).collect(),
        };
        let raw = request.encode_to_vec();
        let records = Signal::Traces.check(&raw, &LIMITS).unwrap().records as usize;
        let wanted: Vec<usize> = (0..records).filter(|n| mask >> (n % 64) & 1 == 1).map(|n| n + 100).collect();
        let (some, taken) = select(&unit(Signal::Traces, raw, records), &wanted, usize::MAX, usize::MAX, false);
        prop_assert_eq!(&taken, &wanted);
        let left = ExportTraceServiceRequest::decode(&some[..]).unwrap();
        let ids = left.resource_spans.iter().flat_map(|g| &g.scope_spans).flat_map(|s| &s.spans).map(|s| {
            usize::try_from(u64::from_be_bytes(s.span_id.clone().try_into().unwrap())).unwrap() + 99
        });
        prop_assert_eq!(ids.collect::<Vec<_>>(), wanted);
    }
}
