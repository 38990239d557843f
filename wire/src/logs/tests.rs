use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::attrs::RecordAttrs;
use crate::limits::ViewLimits;
use crate::uid::FileHash;
use crate::view;

/// A record with what the encoder borrows.
#[derive(Clone, Debug)]
struct Owned {
    times: (u64, u64),
    severity: (u8, String),
    body: String,
    ids: (Option<[u8; 16]>, Option<[u8; 8]>),
    stream: Stream,
    uid: RecordUid,
    flags: (bool, bool),
    /// One more attribute of each kind.
    more: Option<(String, i64)>,
    encoded: RecordAttrs,
}

impl Owned {
    fn plain(body: &str, offset: u64) -> Self {
        Self {
            times: (1, 2),
            severity: (0, String::new()),
            body: body.into(),
            ids: (None, None),
            stream: Stream::Stdout,
            uid: RecordUid { file: FileHash([7; 10]), offset },
            flags: (false, false),
            more: None,
            encoded: RecordAttrs::default(),
        }
    }

    fn record(&self) -> LogRecord<'_> {
        LogRecord {
            time_unix_nano: self.times.0,
            observed_time_unix_nano: self.times.1,
            severity_number: self.severity.0,
            severity_text: &self.severity.1,
            body: &self.body,
            trace_id: self.ids.0,
            span_id: self.ids.1,
            stream: self.stream,
            uid: self.uid,
            truncated: self.flags.0,
            malformed: self.flags.1,
            attributes: self.encoded.bytes(),
        }
    }

    fn prost(&self) -> otlp::LogRecord {
        let mut attributes = Vec::new();
        match self.stream {
            Stream::Stdout => attributes.push(attribute("log.iostream", text("stdout"))),
            Stream::Stderr => attributes.push(attribute("log.iostream", text("stderr"))),
            Stream::Unknown => {}
        }
        let uid = format!("{}{:012x}", self.uid.file.hex(), self.uid.offset & 0xffff_ffff_ffff);
        attributes.push(attribute("log.record.uid", text(&uid)));
        if self.flags.0 {
            attributes.push(attribute("log.truncated", Value::BoolValue(true)));
        }
        if self.flags.1 {
            attributes.push(attribute("log.malformed", Value::BoolValue(true)));
        }
        if let Some((text, number)) = &self.more {
            attributes.push(attribute("syslog.identifier", Value::StringValue(text.clone())));
            attributes.push(attribute("process.pid", Value::IntValue(*number)));
        }
        otlp::LogRecord {
            time_unix_nano: self.times.0,
            observed_time_unix_nano: self.times.1,
            severity_number: if self.severity.0 <= 24 { self.severity.0.into() } else { 0 },
            severity_text: self.severity.1.clone(),
            body: Some(AnyValue { value: Some(text(&self.body)) }),
            attributes,
            trace_id: self.ids.0.map(Vec::from).unwrap_or_default(),
            span_id: self.ids.1.map(Vec::from).unwrap_or_default(),
            ..Default::default()
        }
    }
}

fn text(value: &str) -> Value {
    Value::StringValue(value.into())
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn named(pod: &str) -> AttrSet {
    AttrSet::builder().str("k8s.pod.name", pod).build()
}

fn resource_logs(resource: Vec<KeyValue>, records: Vec<otlp::LogRecord>) -> otlp::ResourceLogs {
    otlp::ResourceLogs {
        resource: Some(Resource { attributes: resource, ..Default::default() }),
        scope_logs: vec![otlp::ScopeLogs { log_records: records, ..Default::default() }],
        ..Default::default()
    }
}

/// Pods with the bodies of their records, in the request's order.
fn bodies(request: &[u8]) -> Vec<(String, Vec<String>)> {
    view::check(request, &ViewLimits::default()).unwrap();
    let request = ExportLogsServiceRequest::decode(request).unwrap();
    let string = |value: &Option<AnyValue>| match value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    request
        .resource_logs
        .iter()
        .map(|logs| {
            let attributes = &logs.resource.as_ref().unwrap().attributes;
            let pod = attributes.first().map_or(String::new(), |kv| string(&kv.value));
            let records = logs.scope_logs.iter().flat_map(|scope| &scope.log_records);
            (pod, records.map(|record| string(&record.body)).collect())
        })
        .collect()
}

fn push(encoder: &mut LogEncoder, body: &str) {
    encoder.push(&Owned::plain(body, 0).record());
}

#[test]
fn an_empty_request_has_no_bytes() {
    let mut encoder = LogEncoder::with_capacity(100);
    assert_eq!((encoder.len(), encoder.is_empty()), (0, true));
    encoder.open(&named("a"));
    assert_eq!(encoder.len(), 0);
    assert!(encoder.take().is_empty());
}

#[test]
fn opening_the_same_resource_goes_on_in_it_open_or_closed() {
    let mut encoder = LogEncoder::default();
    encoder.open(&named("a"));
    push(&mut encoder, "1");
    encoder.open(&named("a"));
    push(&mut encoder, "2");
    encoder.close();
    encoder.open(&named("a"));
    push(&mut encoder, "3");
    encoder.open(&named("b"));
    push(&mut encoder, "4");
    encoder.open(&named("a"));
    push(&mut encoder, "5");
    let expected = [("a", vec!["1", "2", "3"]), ("b", vec!["4"]), ("a", vec!["5"])];
    let expected: Vec<_> =
        expected.map(|(pod, bodies)| (pod.into(), bodies.into_iter().map(String::from).collect())).into();
    assert_eq!(bodies(encoder.finish()), expected);
    assert_eq!(encoder.records(), 5);
}

#[test]
fn a_resource_without_records_is_left_out() {
    let mut encoder = LogEncoder::default();
    encoder.open(&named("a"));
    encoder.open(&named("b"));
    push(&mut encoder, "1");
    encoder.open(&named("c"));
    assert_eq!(bodies(encoder.finish()), [("b".to_string(), vec!["1".to_string()])]);
}

#[test]
fn a_record_with_nothing_open_gets_an_empty_resource() {
    let mut encoder = LogEncoder::default();
    push(&mut encoder, "1");
    assert_eq!(bodies(encoder.finish()), [(String::new(), vec!["1".to_string()])]);
}

#[test]
fn the_next_request_knows_nothing_of_the_last() {
    let mut encoder = LogEncoder::with_capacity(1000);
    encoder.open(&named("a"));
    push(&mut encoder, "1");
    let mark = encoder.mark();
    let first = encoder.take();
    assert!(!encoder.rewind(&mark));
    encoder.open(&named("a"));
    push(&mut encoder, "1");
    assert_eq!(encoder.take(), first);
}

#[test]
fn rewinding_over_an_empty_resource_leaves_a_valid_request() {
    let mut encoder = LogEncoder::default();
    encoder.open(&named("a"));
    let mark = encoder.mark();
    encoder.open(&named("b"));
    push(&mut encoder, "1");
    assert!(encoder.rewind(&mark));
    assert_eq!((encoder.len(), encoder.records()), (0, 0));
    encoder.open(&named("c"));
    push(&mut encoder, "2");
    assert_eq!(bodies(encoder.finish()), [("c".to_string(), vec!["2".to_string()])]);
}

#[test]
fn lengths_of_every_width_are_right() {
    for len in [0, 1, 100, 120, 125, 127, 128, 16_000, 16_383, 16_384, 2_097_151, 2_097_152] {
        let owned = Owned::plain(&"x".repeat(len), 5);
        let mut encoder = LogEncoder::default();
        encoder.open(&AttrSet::default());
        encoder.push(&owned.record());
        let expected =
            ExportLogsServiceRequest { resource_logs: vec![resource_logs(vec![], vec![owned.prost()])] };
        assert_eq!(ExportLogsServiceRequest::decode(encoder.finish()).unwrap(), expected, "{len}");
    }
}

#[test]
fn a_full_buffer_is_not_allocated_again() {
    let mut encoder = LogEncoder::with_capacity(1 << 16);
    let owned = Owned::plain(&"x".repeat(200), 5);
    let mut buffers = std::collections::HashSet::new();
    for _ in 0..3 {
        encoder.open(&named("a"));
        // To the last byte.
        while encoder.len() + owned.record().encoded_len() <= 1 << 16 {
            encoder.push(&owned.record());
        }
        assert_eq!(encoder.buf.capacity(), 1 << 16);
        buffers.insert(encoder.finish().as_ptr());
        encoder.clear();
    }
    assert_eq!(buffers.len(), 1);
}

fn encoded(more: Option<&(String, i64)>) -> RecordAttrs {
    let mut attributes = RecordAttrs::default();
    if let Some((text, number)) = more {
        attributes.str("syslog.identifier", text);
        attributes.int("process.pid", *number);
    }
    attributes
}

fn owned() -> impl Strategy<Value = Owned> {
    (
        any::<(u64, u64)>(),
        (any::<u8>(), "[a-zA-Zé]{0,8}"),
        prop_oneof!["\\PC{0,200}", Just(String::new()), (0..40_000usize).prop_map(|n| "y".repeat(n))],
        any::<(Option<[u8; 16]>, Option<[u8; 8]>)>(),
        prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr), Just(Stream::Unknown)],
        any::<([u8; 10], u64)>(),
        any::<(bool, bool)>(),
        proptest::option::of(("\\PC{0,50}", any::<i64>())),
    )
        .prop_map(|(times, severity, body, ids, stream, (file, offset), flags, more)| Owned {
            encoded: encoded(more.as_ref()),
            more,
            times,
            severity,
            body,
            ids,
            stream,
            uid: RecordUid { file: FileHash(file), offset },
            flags,
        })
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Push(Box<Owned>),
    Close,
    Mark,
    Rewind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3u8).prop_map(Step::Open),
        4 => owned().prop_map(|o| Step::Push(Box::new(o))),
        1 => Just(Step::Close),
        1 => Just(Step::Mark),
        1 => Just(Step::Rewind),
    ]
}

proptest! {
    #[test]
    fn a_length_in_a_head_is_the_varint_that_protobuf_has(len in prop_oneof![any::<usize>(), 0..SHORT_LEN * 2, 0..1usize << 16]) {
        let mut head = [0; HEAD];
        let end = head_len(&mut head, 3, BODY, len);
        let mut expected = vec![0, 0, 0, BODY];
        crate::proto::put_varint(&mut expected, len as u64);
        prop_assert_eq!(&head[..end], &expected[..]);
    }

    #[test]
    fn whatever_is_written_prost_reads_the_same(
        strings in prop::collection::vec(("[a-z.]{1,12}", "\\PC{0,200}"), 0..4),
        number in any::<i64>(),
        flag in any::<bool>(),
        tags in prop::collection::vec("\\PC{0,20}", 0..4),
        records in prop::collection::vec(owned(), 1..8),
    ) {
        let mut set = AttrSet::builder();
        let mut attributes = Vec::new();
        for (key, value) in &strings {
            set = set.str(key, value);
            attributes.push(attribute(key, text(value)));
        }
        let set = set.int("n", number).bool("b", flag).str_array("t", tags.iter().map(String::as_str)).build();
        attributes.push(attribute("n", Value::IntValue(number)));
        attributes.push(attribute("b", Value::BoolValue(flag)));
        let values = tags.iter().map(|tag| AnyValue { value: Some(text(tag)) }).collect();
        attributes.push(attribute("t", Value::ArrayValue(ArrayValue { values })));

        let mut encoder = LogEncoder::with_capacity(0);
        encoder.open(&set);
        for record in &records {
            let before = encoder.len();
            encoder.push(&record.record());
            let head = if before == 0 { encoder.last.unwrap().records } else { before };
            prop_assert_eq!(encoder.len(), head + record.record().encoded_len());
        }
        let len = encoder.len();
        let bytes = encoder.take();
        prop_assert_eq!(bytes.len(), len);
        let records: Vec<_> = records.iter().map(Owned::prost).collect();
        let summary = view::check(&bytes, &ViewLimits::default());
        prop_assert_eq!(summary.map(|s| s.records as usize), Ok(records.len()));
        let expected = ExportLogsServiceRequest { resource_logs: vec![resource_logs(attributes, records)] };
        prop_assert_eq!(ExportLogsServiceRequest::decode(&bytes[..]), Ok(expected));
    }

    /// Against a model: a list of (resource, records), and a stack of its earlier states.
    #[test]
    fn any_order_of_calls_leaves_the_request_of_the_model(steps in prop::collection::vec(step(), 0..40)) {
        let name = |n: u8| char::from(b'a' + n).to_string();
        let mut encoder = LogEncoder::default();
        let mut model: Vec<(String, Vec<String>)> = Vec::new();
        let mut open: Option<String> = None;
        let mut marks = Vec::new();
        for step in steps {
            match step {
                Step::Open(n) => {
                    encoder.open(&named(&name(n)));
                    open = Some(name(n));
                }
                Step::Push(owned) => {
                    encoder.push(&owned.record());
                    let pod = open.get_or_insert_default().clone();
                    match model.last_mut() {
                        Some((last, records)) if *last == pod => records.push(owned.body),
                        _ => model.push((pod, vec![owned.body])),
                    }
                }
                Step::Close => {
                    encoder.close();
                    open = None;
                }
                Step::Mark => marks.push((encoder.mark(), model.clone())),
                Step::Rewind => {
                    if let Some((mark, then)) = marks.pop() {
                        prop_assert!(encoder.rewind(&mark));
                        model = then;
                        open = None;
                    }
                }
            }
            let mut now = LogEncoder { buf: encoder.buf.clone(), ..LogEncoder::default() };
            (now.last, now.open) = (encoder.last, encoder.open);
            prop_assert_eq!(encoder.len(), now.finish().len());
            prop_assert_eq!(encoder.records() as usize, model.iter().map(|(_, r)| r.len()).sum::<usize>());
        }
        // Going on in the last resource by open or by not having closed it is the same to the reader, a new one with
        // the same name after a drop as well.
        let mut merged: Vec<(String, Vec<String>)> = Vec::new();
        for (pod, records) in bodies(encoder.finish()) {
            match merged.last_mut() {
                Some((last, own)) if *last == pod => own.extend(records),
                _ => merged.push((pod, records)),
            }
        }
        prop_assert_eq!(merged, model);
    }
}
