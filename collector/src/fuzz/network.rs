//! Request bodies: compression, JSON, and both in pieces.

use std::io::{Read, Write};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::receive::admission::Admission;
use sonde_daemon::receive::gather::{Format, Gather};
use sonde_daemon::receive::inflate::{Impression, inflate as unpacked, peek, probe};
use sonde_daemon::receive::refusal::Reason;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view;

use crate::queue::Signal;
use crate::receive::check::check;
use crate::receive::json as otlp_json;

const LIMIT: usize = 256 << 10;
const CODECS: [Encoding; 3] = Encoding::ALL;

/// What opentelemetry-proto reads too we read as the same. A choice (`data`, `value`) with something in it that it does not read, a
/// number `-0`, it takes as one that is not there, without a word: of such a request there is nothing to be said.
fn same<T: std::fmt::Debug>(ours: &T, theirs: &T) {
    let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
    let left_out = |text: &str| ["data: None", "value: None"].map(|choice| text.matches(choice).count());
    let (here, there) = (left_out(&ours), left_out(&theirs));
    if there[0] <= here[0] && there[1] <= here[1] {
        assert_eq!(ours, theirs);
    }
}

/// OTLP/JSON: what opentelemetry-proto reads too we read as the same (it takes lists for messages, which are none); what we read is
/// a request that the view takes, or one that is too large for it.
pub fn json(text: &[u8]) {
    let Ok(ours) = otlp_json::request(text) else { return };
    if let Ok(theirs) = serde_json::from_slice::<ExportLogsServiceRequest>(text) {
        same(&ours, &theirs);
    }
    let bytes = ours.encode_to_vec();
    if let Err(error) = view::check(&bytes, &ViewLimits::default()) {
        let is_too_much = matches!(error, view::ViewError::TooMany { .. } | view::ViewError::TooDeep(_));
        assert!(is_too_much, "{error}");
    }
}

/// OTLP/JSON of metrics and traces, by the same rules.
pub fn others(text: &[u8]) {
    let is_fine = |result: Result<view::Summary, view::ViewError>| {
        if let Err(error) = result {
            let is_too_much = matches!(error, view::ViewError::TooMany { .. } | view::ViewError::TooDeep(_));
            assert!(is_too_much, "{error}");
        }
    };
    let limits = ViewLimits::default();
    if let Ok(request) = otlp_json::metrics_request(text) {
        if let Ok(theirs) = serde_json::from_slice::<ExportMetricsServiceRequest>(text) {
            same(&request, &theirs);
        }
        is_fine(view::check_metrics(&request.encode_to_vec(), &limits));
    }
    if let Ok(request) = otlp_json::traces_request(text) {
        if let Ok(theirs) = serde_json::from_slice::<ExportTraceServiceRequest>(text) {
            same(&request, &theirs);
        }
        is_fine(view::check_traces(&request.encode_to_vec(), &limits));
    }
}

pub fn others_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"p"}},{"key":"a","value":{"intValue":"1"}}]},"scopeMetrics":[{"metrics":[{"name":"h","unit":"By/s","histogram":{"aggregationTemporality":2,"dataPoints":[{"timeUnixNano":"9","count":"3","sum":1.5,"bucketCounts":["1","2"],"explicitBounds":[0.5],"exemplars":[{"asInt":"1","traceId":"00"}]}]}},{"name":"g","gauge":{"dataPoints":[{"asDouble":1.5,"timeUnixNano":"5","attributes":[{"key":"x.y","value":{"stringValue":"1"}},{"key":"x_y","value":{"boolValue":true}}]},{"flags":1,"timeUnixNano":"6"}]}},{"name":"s","summary":{"dataPoints":[{"timeUnixNano":"7","quantileValues":[{"quantile":0.5,"value":1}]}]}},{"name":"e","exponentialHistogram":{"dataPoints":[{"scale":-1,"positive":{"offset":2,"bucketCounts":["1"]}}]}}]}]}]}"#,
        r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"p"}}]},"scopeSpans":[{"spans":[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","name":"a","kind":2,"startTimeUnixNano":"5","events":[{"name":"e","attributes":[{"key":"k","value":{"intValue":1}}]}],"links":[{"traceState":"a=b"}],"status":{"code":2,"message":"m"}}]}]}]}"#,
        r#"{"resourceSpans":null,"resourceMetrics":[]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Compressed bytes: within the limit, whatever is reserved is paid for, what we unpack others unpack as the same, and a look at
/// the beginning refuses nothing that is good.
pub fn inflate(data: &[u8]) {
    let Some((&first, input)) = data.split_first() else { return };
    let codec = CODECS[usize::from(first) % 3];
    let admission = Admission::new(8 << 20);
    let mut grant = admission.reserve(0).unwrap();
    let result = unpacked(codec, input, LIMIT, None, Impression::Usual, &mut grant, 0);
    let mut suspect = admission.reserve(0).unwrap();
    let again = unpacked(codec, input, LIMIT, None, Impression::Suspect, &mut suspect, 0);
    assert_eq!(again.is_ok(), result.is_ok(), "{result:?} {again:?}");
    assert!(admission.used_bytes() <= 8 << 20);
    let Ok(content) = result else { return };
    assert!(content.len() <= LIMIT);
    assert_eq!(again.unwrap(), content);
    let mut theirs = Vec::new();
    match codec {
        Encoding::Identity => theirs.extend_from_slice(input),
        Encoding::Gzip => drop(flate2::read::MultiGzDecoder::new(input).read_to_end(&mut theirs).unwrap()),
        Encoding::Zstd => theirs = zstd::stream::decode_all(input).unwrap(),
    }
    assert!(content == theirs, "{codec:?}: {} bytes, {} by others", content.len(), theirs.len());
    for end in [input.len() / 2, input.len()] {
        let part = &input[..end];
        if end == input.len() || codec != Encoding::Zstd || end > 18 {
            probe(codec, part, LIMIT, None).unwrap();
        }
        let is_object = content.trim_ascii_start().first().is_none_or(|first| *first == b'{');
        if is_object {
            let _ = peek(codec, part, None);
        }
    }
    drop((grant, suspect));
    assert_eq!(admission.used_bytes(), 0);
}

/// A body in pieces of any size is judged as the same body at once, and all memory is given back.
pub fn receive(data: &[u8]) {
    let Some(([first, size], body)) = data.split_first_chunk() else { return };
    let codec = CODECS[usize::from(first & 3) % 3];
    let format = if first & 4 == 0 { Format::Protobuf } else { Format::Json };
    let known = (first & 8 != 0).then_some(body.len() as u64);
    let admission = Admission::new(64 << 20);
    let judged = |piece: usize| {
        let mut gather =
            Gather::new(codec, format, known, LIMIT, &admission).map_err(|refusal| refusal.reason)?;
        for piece in body.chunks(piece) {
            gather.push(piece).map_err(|refusal| refusal.reason)?;
        }
        let whole = gather.finish().map_err(|refusal| refusal.reason)?;
        let checked =
            check(Signal::Logs, whole, LIMIT, &ViewLimits::default()).map_err(|refusal| refusal.reason)?;
        Ok::<_, Reason>((checked.bytes, checked.records, checked.uncompressed_len))
    };
    let whole = judged(body.len().max(1));
    let pieces = judged(1 + usize::from(*size));
    assert_eq!(whole, pieces);
    assert_eq!(admission.used_bytes(), 0);
    if let Ok((bytes, records, len)) = whole
        && (codec == Encoding::Identity || format == Format::Json)
    {
        let request = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
        let all = request.resource_logs.iter().flat_map(|of| &of.scope_logs).map(|of| of.log_records.len());
        assert_eq!((all.sum::<usize>(), bytes.len()), (records as usize, len as usize));
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd_without_size(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn inflate_seeds() -> Vec<Vec<u8>> {
    let text = b"GET /cart/0123456789abcdef 200 13ms\n".repeat(20);
    let zeros = vec![0; LIMIT + 10];
    let zstd = zstd::bulk::compress(&text, 3).unwrap();
    [
        (0, text.clone()),
        (1, gzip(&text)),
        (1, [gzip(&text), gzip(b"x")].concat()),
        (1, gzip(&zeros)),
        (2, zstd.clone()),
        (2, [zstd, zstd_without_size(b"x")].concat()),
        (2, zstd_without_size(&text)),
        (2, zstd_without_size(&zeros)),
    ]
    .map(|(codec, body)| [&[codec], body.as_slice()].concat())
    .to_vec()
}

pub fn receive_seeds() -> Vec<Vec<u8>> {
    let proto = super::wire::otlp_seeds().swap_remove(0);
    let json = json_seeds().swap_remove(0);
    [
        (0, proto.clone()),
        (8, proto.clone()),
        (1, gzip(&proto)),
        (2, zstd::bulk::compress(&proto, 3).unwrap()),
        (4, json.clone()),
        (5, gzip(&json)),
        (6, zstd_without_size(&json)),
    ]
    .map(|(kind, body)| [&[kind, 10], body.as_slice()].concat())
    .to_vec()
}

pub fn json_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"k8s.pod.name","value":{"stringValue":"p"}}],"droppedAttributesCount":1},"scopeLogs":[{"scope":{"name":"s","version":"1"},"logRecords":[{"timeUnixNano":"1795194000000000000","observedTimeUnixNano":1795194000000000001,"severityNumber":9,"severityText":"INFO","body":{"stringValue":"hello \u00e9"},"attributes":[{"key":"i","value":{"intValue":"-5"}},{"key":"d","value":{"doubleValue":1.5}},{"key":"b","value":{"boolValue":true}},{"key":"y","value":{"bytesValue":"AAEC"}},{"key":"a","value":{"arrayValue":{"values":[{"intValue":1},{}]}}},{"key":"m","value":{"kvlistValue":{"values":[{"key":"x","value":{"stringValue":"y"}}]}}}],"flags":1,"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","eventName":"e"}],"schemaUrl":"u"}],"schemaUrl":"v"}]}"#,
        r#"{"resourceLogs":null,"other":[1,{"x":null}]}"#,
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":"9","body":{"doubleValue":"NaN"},"attributes":null,"flags":"3"}]}]}]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
