//! Protobuf and gRPC, beside what prost makes of the same bytes.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use prost::Message as _;
use sonde_wire::canary::{self, Canary};
use sonde_wire::grpc::{Prefix, Status, StatusDetails, decode_message, encode_message};
use sonde_wire::limits::ViewLimits;
use sonde_wire::proto::{ProtoError, Value, raw_fields};
use sonde_wire::view::{
    self, AnyValueView, Attributes, LogsRequest, MetricsRequest, RecordView, ScopeView, ViewError,
};
use sonde_wire::{base64, response};

use crate::deliver::batch::{State, Unit};
use crate::queue::{Position, Signal};
use crate::sinks::prometheus::write;

#[path = "../../../wire/src/view/tests/reference.rs"]
mod reference;

const LIMITS: ViewLimits =
    ViewLimits { records: 1000, groups: 1000, values: 1000, depth: ViewLimits::MAX_DEPTH };

/// A request for logs: the view takes and shows what prost takes and reads; without its canaries it is one with the others.
pub fn otlp(data: &[u8]) {
    if let Err(what) = reference::agrees_with_prost(data, &LIMITS) {
        panic!("{what}");
    }
    let (left, canaries) = canary::take_out(data);
    if let Ok(all) = view::check(data, &LIMITS) {
        let others = view::check(&left, &LIMITS).expect("what is left is a request");
        assert_eq!(others.records as usize + canaries.len(), all.records as usize);
        assert!(canary::take_out(&left).1.is_empty());
    }
}

/// The same of metrics, by their points.
pub fn metrics(data: &[u8]) {
    let theirs = ExportMetricsServiceRequest::decode(data);
    let ours = view::check_metrics(data, &LIMITS);
    let mut points = 0;
    for metric in
        MetricsRequest::trusted(data).resources().flat_map(|of| of.scopes()).flat_map(|of| of.metrics())
    {
        for point in metric.points() {
            points += 1;
            point.attributes().for_each(drop);
        }
    }
    let Ok(summary) = ours else { return };
    let theirs = theirs.expect("prost takes what passes");
    assert_eq!(summary.resources as usize, theirs.resource_metrics.len());
    let all = theirs.resource_metrics.iter().flat_map(|of| &of.scope_metrics).flat_map(|of| &of.metrics);
    let numbers: usize = all
        .map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Sum(sum)) => sum.data_points.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(points, numbers);
}

/// The same of traces, by their spans.
pub fn traces(data: &[u8]) {
    let Ok(summary) = view::check_traces(data, &LIMITS) else { return };
    let theirs = ExportTraceServiceRequest::decode(data).expect("prost takes what passes");
    let spans =
        theirs.resource_spans.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len()).sum::<usize>();
    assert_eq!((summary.resources as usize, summary.records as usize), (theirs.resource_spans.len(), spans));
}

/// A request for metrics as what a server of remote write is sent: every point is in a request once or left out once, and what
/// is sent is series as a server takes them.
pub fn remote_write(data: &[u8]) {
    let Ok(summary) = view::check_metrics(data, &LIMITS) else { return };
    let unit = Unit {
        signal: Signal::Metrics,
        position: Position::default(),
        received_unix_nano: 10,
        bytes: Bytes::copy_from_slice(data),
        first: 0,
        records: summary.records as usize,
        came: None,
        resend: false,
    };
    let (memory, mut states) = (write::Memory::default(), vec![State::Open; unit.records]);
    let selected = ["a".to_owned()];
    loop {
        let piece = write::Piece::default();
        let request =
            write::next(&memory, std::slice::from_ref(&unit), &states, &HashSet::new(), piece, &selected);
        let passed = request.points.iter().chain(request.left_out.iter().map(|(point, _)| point));
        let before = states.iter().filter(|state| state.is_open()).count();
        let mut count = 0;
        for point in passed {
            assert!(states[*point].is_open(), "a point came twice");
            states[*point] = State::Delivered;
            count += 1;
        }
        if count == 0 {
            assert_eq!(before, 0, "a point never comes");
            return;
        }
        if !request.points.is_empty() {
            let message = snap::raw::Decoder::new().decompress_vec(&request.body).expect("snappy");
            raw_fields(&message).for_each(|(field, series, _)| is_series(field, series));
        }
    }
}

/// A `TimeSeries`: labels with names and values, sorted, each name once; then one sample.
fn is_series(field: u32, series: Value<'_>) {
    let Value::Len(series) = series else { panic!("{series:?}") };
    let (mut last, mut samples) = (None, 0);
    for (part, value, _) in raw_fields(series) {
        let Value::Len(value) = value else { panic!("{value:?}") };
        match part {
            1 => {
                let texts = raw_fields(value).map(|(_, text, _)| match text {
                    Value::Len(text) => std::str::from_utf8(text).expect("UTF-8"),
                    other => panic!("{other:?}"),
                });
                let [name, text] = texts.collect::<Vec<_>>().try_into().expect("a name and a value");
                assert!(!name.is_empty() && !text.is_empty() && last < Some(name), "{last:?} {name}");
                last = Some(name);
            }
            _ => samples += 1,
        }
    }
    assert_eq!((field, samples), (1, 1));
}

/// gRPC's framing, status and messages, and OTLP's answer: what is written is read as the same, and what is read is what prost
/// reads.
pub fn grpc(data: &[u8]) {
    if let Some((prefix, rest)) = data.split_first_chunk()
        && let Ok(read) = Prefix::decode(*prefix, 1 << 20)
    {
        assert!(read.len <= 1 << 20);
        assert_eq!(read.encode(), *prefix);
        let _ = response::decode_logs_response(rest);
    }
    let text = decode_message(data);
    assert_eq!(decode_message(encode_message(&text).as_bytes()), text);
    let _ = Status::from_trailer(data);
    if let Some(bytes) = base64::decode(data) {
        assert_eq!(base64::decode(base64::encode(&bytes).as_bytes()), Some(bytes));
    }
    if let Ok(details) = StatusDetails::decode(data)
        && details.retry_delay.is_none_or(|delay| delay < Duration::from_secs(300_000_000_000))
    {
        let again = StatusDetails::decode_trailer(details.encode_trailer().as_bytes()).unwrap();
        assert_eq!(again, details);
    }
    let ours = response::decode_logs_response(data);
    if let (Ok(ours), Ok(theirs)) = (ours, ExportLogsServiceResponse::decode(data)) {
        let theirs = theirs.partial_success.unwrap_or_default();
        assert_eq!(ours.rejected, u64::try_from(theirs.rejected_log_records).unwrap_or(0));
        assert!(theirs.error_message.starts_with(&ours.message));
    }
}

pub fn otlp_seeds() -> Vec<Vec<u8>> {
    super::network::json_seeds()
        .iter()
        .filter_map(|json| crate::receive::json::request(json).ok())
        .map(|request| request.encode_to_vec())
        .filter(|bytes| !bytes.is_empty())
        .chain([Canary { node: "n".into(), run: 1, number: 2, written_unix_nano: 3 }.request("east")])
        .collect()
}

pub fn metrics_seeds() -> Vec<Vec<u8>> {
    let point = |value| NumberDataPoint {
        time_unix_nano: 5,
        value: Some(opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsInt(value)),
        ..NumberDataPoint::default()
    };
    let of = |name: &str, data| Metric { name: name.to_owned(), data: Some(data), ..Metric::default() };
    let sum = Sum { data_points: vec![point(1), point(-2)], aggregation_temporality: 2, is_monotonic: true };
    let metrics = vec![of("a", Data::Gauge(Gauge { data_points: vec![point(3)] })), of("b", Data::Sum(sum))];
    let scope = ScopeMetrics { metrics, ..ScopeMetrics::default() };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    vec![ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()]
}

pub fn remote_write_seeds() -> Vec<Vec<u8>> {
    let seeds = super::network::others_seeds();
    let requests = seeds.iter().filter_map(|json| crate::receive::json::metrics_request(json).ok());
    let requests = requests.map(|request| request.encode_to_vec()).filter(|bytes| !bytes.is_empty());
    metrics_seeds().into_iter().chain(requests).collect()
}

pub fn traces_seeds() -> Vec<Vec<u8>> {
    let seeds = super::network::others_seeds();
    let requests = seeds.iter().filter_map(|json| crate::receive::json::traces_request(json).ok());
    requests.map(|request| request.encode_to_vec()).filter(|bytes| !bytes.is_empty()).collect()
}

pub fn grpc_seeds() -> Vec<Vec<u8>> {
    let details = StatusDetails {
        status: Status::ResourceExhausted,
        message: "the queue is full".into(),
        retry_delay: Some(Duration::from_millis(1500)),
    };
    vec![
        [&[0, 0, 0, 0, 9][..], &response::encode_logs_response(3, "x")].concat(),
        response::encode_logs_response(3, "some were refused"),
        details.encode(),
        details.encode_trailer().into_bytes(),
        b"a%20message %C3%A9 \xff%".to_vec(),
        b"14".to_vec(),
    ]
}
