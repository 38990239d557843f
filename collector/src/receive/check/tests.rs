use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

use sonde_daemon::receive::admission::Admission;
use sonde_daemon::receive::refusal::Reason;

use super::*;

const LIMIT: usize = 1 << 20;

fn request(records: usize) -> ExportLogsServiceRequest {
    let record = |number: usize| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000 + number as u64,
        severity_number: 9,
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(format!("line {number}"))) }),
        attributes: vec![KeyValue {
            key: "log.iostream".to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue("stdout".to_owned())) }),
            ..KeyValue::default()
        }],
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        ..LogRecord::default()
    };
    let scope = ScopeLogs { log_records: (0..records).map(record).collect(), ..ScopeLogs::default() };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() }],
    }
}

fn gathered(bytes: Vec<u8>, codec: Encoding, format: Format, memory: u64) -> Gathered {
    let grant = Admission::new(memory).reserve(bytes.capacity()).unwrap();
    Gathered { bytes, codec, format, grant, leave: None }
}

fn run(bytes: Vec<u8>, codec: Encoding, format: Format, memory: u64) -> Result<Checked, Refusal> {
    check(Signal::Logs, gathered(bytes, codec, format, memory), LIMIT, &ViewLimits::default())
}

#[test]
fn a_request_stays_as_it_was_received() {
    let plain = request(10).encode_to_vec();
    let packed = zstd::bulk::compress(&plain, 1).unwrap();
    let checked = run(packed.clone(), Encoding::Zstd, Format::Protobuf, 64 << 20).unwrap();
    assert_eq!((checked.bytes, checked.codec, checked.records), (packed, Encoding::Zstd, 10));
    assert_eq!(checked.uncompressed_len as usize, plain.len());
}

#[test]
fn json_becomes_the_same_request_in_protobuf() {
    let request = request(3);
    let text = serde_json::to_vec(&request).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("\"abababab"), "ids are hex");
    let checked = run(text.clone(), Encoding::Identity, Format::Json, 64 << 20).unwrap();
    assert_eq!(ExportLogsServiceRequest::decode(checked.bytes.as_slice()).unwrap(), request);
    assert_eq!((checked.records, checked.codec), (3, Encoding::Identity));
    let packed = zstd::bulk::compress(&text, 1).unwrap();
    assert_eq!(run(packed, Encoding::Zstd, Format::Json, 64 << 20).unwrap().bytes, checked.bytes);
}

#[test]
fn json_as_other_senders_write_it_is_understood() {
    // The example of opentelemetry-proto's examples/logs.json, shortened, with numbers as numbers and as text.
    let text = br#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}]},
        "scopeLogs":[{"scope":{"name":"my.library","version":"1.0.0"},"logRecords":[{
        "timeUnixNano":"1544712660300000000","observedTimeUnixNano":1544712660300000000,"severityNumber":10,
        "severityText":"Information","traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
        "body":{"stringValue":"Example log record"},"unknownField":[1,{"a":null}],
        "attributes":[{"key":"i","value":{"intValue":"10"}},{"key":"j","value":{"intValue":11}},
        {"key":"d","value":{"doubleValue":637.704}},{"key":"b","value":{"boolValue":true}},
        {"key":"a","value":{"arrayValue":{"values":[{"stringValue":"many"},{"stringValue":"values"}]}}},
        {"key":"m","value":{"kvlistValue":{"values":[{"key":"some","value":{"stringValue":"value"}}]}}}]}]}]}]}"#;
    let checked = run(text.to_vec(), Encoding::Identity, Format::Json, 64 << 20).unwrap();
    let request = ExportLogsServiceRequest::decode(checked.bytes.as_slice()).unwrap();
    let record = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(record.time_unix_nano, record.observed_time_unix_nano);
    assert_eq!(record.trace_id[..2], [0x5b, 0x8e]);
    assert_eq!(record.attributes.len(), 6);
}

#[test]
fn what_is_no_request_is_malformed_and_the_answer_does_not_quote_it() {
    let nested = "[".repeat(100_000);
    for text in
        ["", "null", "[1]", "{\"resourceLogs\":\"secret\"}", "{\"resourceLogs\":[", "\u{1}", nested.as_str()]
    {
        let refusal = run(text.as_bytes().to_vec(), Encoding::Identity, Format::Json, 1 << 30).unwrap_err();
        assert_eq!(refusal.reason, Reason::Malformed, "{text:.20}");
        assert!(!refusal.message.contains("secret"));
    }
    for bytes in [&[0u8; 8][..], &[0x0a, 200], &[0xff; 11]] {
        let refusal = run(bytes.to_vec(), Encoding::Identity, Format::Protobuf, 1 << 20).unwrap_err();
        assert_eq!(refusal.reason, Reason::Malformed);
    }
}

#[test]
fn json_that_would_become_many_times_larger_in_memory_has_to_pay_for_it_first() {
    let text = format!("{{\"resourceLogs\":[{}{{}}]}}", "{},".repeat(100_000)).into_bytes();
    let refusal = run(text, Encoding::Identity, Format::Json, 8 << 20).unwrap_err();
    assert_eq!(refusal.reason, Reason::TooLarge, "it needs more than there is at all");
}

#[test]
fn json_metrics_and_traces_that_would_become_many_times_larger_have_to_pay_for_it_too() {
    let metrics = |points: String| {
        format!(
            "{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{{\"histogram\":{{\"dataPoints\":[{points}]}}}}]}}]}}]}}"
        )
    };
    let points = metrics(format!("{}{{}}", "{},".repeat(20_000)));
    let counts = metrics(format!("{{\"bucketCounts\":[{}1]}}", "1,".repeat(200_000)));
    let spans =
        format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{}{{}}]}}]}}]}}", "{},".repeat(20_000));
    for (signal, text) in [(Signal::Metrics, points), (Signal::Metrics, counts), (Signal::Traces, spans)] {
        let run = |total| {
            let body = gathered(text.clone().into_bytes(), Encoding::Identity, Format::Json, total);
            check(signal, body, 8 << 20, &ViewLimits::default())
        };
        assert_eq!(run(3 << 20).unwrap_err().reason, Reason::TooLarge, "it needs more than there is at all");
        assert!(run(64 << 20).is_ok());
    }
}

#[test]
fn the_estimate_for_json_covers_its_largest_struct() {
    use opentelemetry_proto::tonic::common::v1::{EntityRef, InstrumentationScope};
    use opentelemetry_proto::tonic::metrics::v1 as metrics;
    use opentelemetry_proto::tonic::trace::v1 as traces;
    let common = [
        size_of::<KeyValue>(),
        size_of::<AnyValue>(),
        size_of::<InstrumentationScope>(),
        size_of::<EntityRef>(),
    ];
    let logs = [size_of::<LogRecord>(), size_of::<ResourceLogs>(), size_of::<ScopeLogs>()];
    let metrics = [
        size_of::<metrics::ResourceMetrics>(),
        size_of::<metrics::ScopeMetrics>(),
        size_of::<metrics::Metric>(),
        size_of::<metrics::NumberDataPoint>(),
        size_of::<metrics::HistogramDataPoint>(),
        size_of::<metrics::ExponentialHistogramDataPoint>(),
        size_of::<metrics::SummaryDataPoint>(),
        size_of::<metrics::Exemplar>(),
    ];
    let traces = [
        size_of::<traces::ResourceSpans>(),
        size_of::<traces::ScopeSpans>(),
        size_of::<traces::Span>(),
        size_of::<traces::span::Event>(),
        size_of::<traces::span::Link>(),
        size_of::<traces::Status>(),
    ];
    for (own, signal) in
        [(&logs[..], Signal::Logs), (&metrics[..], Signal::Metrics), (&traces[..], Signal::Traces)]
    {
        let cost = JsonCost::of(signal);
        assert!(own.iter().chain(&common).all(|&size| 4 * size <= cost.array && 2 * size <= cost.object));
    }
}
