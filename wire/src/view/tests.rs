use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::logs::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message as _;

use self::reference::{plain, request};
use super::shape::{Message, Shape, shape};
use super::*;
use crate::proto::{LEN, put_varint};

mod reference;
mod traces;

const LIMITS: ViewLimits =
    ViewLimits { records: 1000, groups: 1000, values: 1000, depth: ViewLimits::MAX_DEPTH };

// Arbitrary requests.

fn any_values() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        "\\PC{0,20}".prop_map(|v| Some(Any::StringValue(v))),
        any::<bool>().prop_map(|v| Some(Any::BoolValue(v))),
        any::<i64>().prop_map(|v| Some(Any::IntValue(v))),
        any::<f64>().prop_map(|v| Some(Any::DoubleValue(v))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|v| Some(Any::BytesValue(v))),
        any::<i32>().prop_map(|v| Some(Any::StringValueStrindex(v))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|values| Any::ArrayValue(ArrayValue { values })),
            prop::collection::vec(("[a-z]{0,6}", prop::option::of(inner)), 0..4).prop_map(|pairs| {
                let pair = |(key, value)| KeyValue { key, value, key_strindex: 0 };
                Any::KvlistValue(KeyValueList { values: pairs.into_iter().map(pair).collect() })
            }),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn pairs() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = ("\\PC{0,12}", prop::option::of(any_values()), 0..2i32);
    prop::collection::vec(
        pair.prop_map(|(key, value, key_strindex)| KeyValue { key, value, key_strindex }),
        0..4,
    )
}

fn log_records() -> impl Strategy<Value = otlp::LogRecord> {
    let id = || {
        prop_oneof![Just(0), Just(8), Just(16), 0..20usize]
            .prop_flat_map(|n| prop::collection::vec(0..3u8, n))
    };
    let texts = ("[A-Z]{0,6}", "[a-z.]{0,9}");
    (any::<(u64, u64, i32, u32, u32)>(), texts, prop::option::of(any_values()), pairs(), id(), id()).prop_map(
        |((time, observed, severity, dropped, flags), (text, event), body, attributes, trace_id, span_id)| {
            otlp::LogRecord {
                time_unix_nano: time,
                observed_time_unix_nano: observed,
                severity_number: severity,
                severity_text: text,
                body,
                attributes,
                dropped_attributes_count: dropped,
                flags,
                trace_id,
                span_id,
                event_name: event,
            }
        },
    )
}

fn requests() -> impl Strategy<Value = ExportLogsServiceRequest> {
    let entity = |id_keys| EntityRef { id_keys, r#type: "k8s.pod".into(), ..Default::default() };
    let resource =
        (pairs(), any::<u32>(), prop::collection::vec(prop::collection::vec("[a-z]{1,4}", 0..2), 0..2))
            .prop_map(move |(attributes, dropped_attributes_count, keys)| Resource {
                attributes,
                dropped_attributes_count,
                entity_refs: keys.into_iter().map(entity).collect(),
            });
    let scope =
        ("[a-z]{0,4}", "[0-9]{0,2}", pairs(), 0..3u32).prop_map(|(name, version, attributes, dropped)| {
            InstrumentationScope { name, version, attributes, dropped_attributes_count: dropped }
        });
    let scope_logs = (prop::option::of(scope), prop::collection::vec(log_records(), 0..4), "[a-z:/]{0,9}")
        .prop_map(|(scope, log_records, schema_url)| otlp::ScopeLogs { scope, log_records, schema_url });
    let resource_logs =
        (prop::option::of(resource), prop::collection::vec(scope_logs, 0..3), "[a-z:/]{0,9}").prop_map(
            |(resource, scope_logs, schema_url)| otlp::ResourceLogs { resource, scope_logs, schema_url },
        );
    prop::collection::vec(resource_logs, 0..3)
        .prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
}

/// The same message with fields that nobody knows between the others, and with over-long lengths.
fn salted(message: Message, bytes: &[u8]) -> Vec<u8> {
    let unknown: [&[u8]; 4] = [
        &[0xa0, 0x06, 0xff, 0x01],                               // 100: varint
        &[0xaa, 0x06, 0x02, 0xc3, 0x28],                         // 101: two bytes that are not UTF-8
        &[0xb1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],                   // 102: fixed64
        &[0xfd, 0xff, 0xff, 0xff, 0x0f, 0x0b, 0x0c, 0x0d, 0x0e], // 2^29 - 1: fixed32
    ];
    let mut out = unknown[0].to_vec();
    let mut reader = Reader::new(bytes);
    let mut turn = 0;
    while let Some((field, value)) = reader.field().unwrap() {
        let key = |wire_type| u64::from(field << 3 | wire_type);
        match value {
            Value::Varint(v) => {
                put_varint(&mut out, key(0));
                put_varint(&mut out, v);
            }
            Value::Fixed64(v) => {
                put_varint(&mut out, key(1));
                out.extend(v.to_le_bytes());
            }
            Value::Fixed32(v) => {
                put_varint(&mut out, key(5));
                out.extend(v.to_le_bytes());
            }
            Value::Len(inner) => {
                let inner = match shape(message, field) {
                    Shape::Many(message) | Shape::Once(message) => salted(message, inner),
                    _ => inner.to_vec(),
                };
                put_varint(&mut out, u64::from(field << 3 | LEN));
                out.extend(crate::proto::padded(inner.len()));
                out.extend(inner);
            }
        }
        turn += 1;
        out.extend(unknown[turn % 4]);
    }
    out
}

fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    reference::agrees_with_prost(bytes, &LIMITS).map_err(TestCaseError::fail)
}

proptest! {
    #[test]
    fn whatever_prost_writes_is_read_the_same(written in requests()) {
        let bytes = written.encode_to_vec();
        let (view, _) = LogsRequest::check(&bytes, &LIMITS).unwrap();
        prop_assert_eq!(request(view), plain(written));
    }

    #[test]
    fn unknown_fields_and_long_lengths_change_nothing(written in requests()) {
        let bytes = salted(Message::Request, &written.encode_to_vec());
        let (view, _) = LogsRequest::check(&bytes, &LIMITS).unwrap();
        prop_assert_eq!(request(view), plain(written));
    }

    #[test]
    fn arbitrary_bytes_are_judged_as_by_prost(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        agrees(&bytes)?;
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
        agrees(&bytes)?;
    }

    /// Small field numbers in each other: what random bytes hardly ever are.
    #[test]
    fn well_formed_nonsense_is_judged_as_by_prost(
        steps in prop::collection::vec((1..13u8, prop_oneof![3 => Just(2u8), 1 => 0..6u8], 0..3u8), 0..40),
    ) {
        let mut bytes = Vec::new();
        for (field, wire_type, wrap) in steps {
            let key = field << 3 | wire_type;
            let mut next = match wire_type {
                0 => vec![key, 5],
                1 => [&[key][..], &[1; 8]].concat(),
                5 => [&[key][..], &[1; 4]].concat(),
                2 if wrap > 0 => [&[key][..], &crate::proto::padded(bytes.len()), &bytes].concat(),
                2 => vec![key, 1, b'x'],
                _ => vec![key],
            };
            if wire_type == 2 && wrap > 0 {
                bytes.clear();
            }
            bytes.append(&mut next);
        }
        agrees(&bytes)?;
    }
}

// Limits.

fn with_body(body: AnyValue) -> ExportLogsServiceRequest {
    let record = otlp::LogRecord { body: Some(body), ..Default::default() };
    let scope_logs = vec![otlp::ScopeLogs { log_records: vec![record], ..Default::default() }];
    ExportLogsServiceRequest { resource_logs: vec![otlp::ResourceLogs { scope_logs, ..Default::default() }] }
}

/// A string under `depth - 1` maps or arrays, as bytes of an AnyValue (prost's own drop would recurse).
fn nested(depth: usize, map: bool) -> Vec<u8> {
    let len = |field: u8, inner: &[u8]| {
        let mut out = Vec::with_capacity(inner.len() + 8);
        crate::proto::put_bytes(&mut out, field, inner);
        out
    };
    let mut value = len(1, b"x");
    for _ in 1..depth {
        value = if map { len(6, &len(1, &len(2, &value))) } else { len(5, &len(1, &value)) };
    }
    len(1, &len(2, &len(2, &len(5, &value))))
}

#[test]
fn nesting_is_limited_and_prost_takes_the_deepest() {
    for map in [false, true] {
        let deepest = nested(24, map);
        assert!(check(&deepest, &LIMITS).is_ok());
        assert!(ExportLogsServiceRequest::decode(&deepest[..]).is_ok());
        assert_eq!(check(&nested(25, map), &LIMITS), Err(ViewError::TooDeep(24)));
        assert_eq!(check(&nested(3, map), &ViewLimits { depth: 2, ..LIMITS }), Err(ViewError::TooDeep(2)));
        assert_eq!(
            check(&nested(25, map), &ViewLimits { depth: 255, ..LIMITS }),
            Err(ViewError::TooDeep(24))
        );
        assert_eq!(check(&nested(3000, map), &LIMITS), Err(ViewError::TooDeep(24)));
    }
}

#[test]
fn an_array_or_map_at_the_deepest_level_may_be_empty_but_not_hold_anything() {
    for field in [5, 6] {
        let replaced = |inner: &[u8]| {
            let mut value = Vec::new();
            crate::proto::put_bytes(&mut value, field, inner);
            for _ in 1..24 {
                let mut outer = Vec::new();
                for field in [2, 1, 6] {
                    outer.clear();
                    crate::proto::put_bytes(&mut outer, field, &value);
                    value.clone_from(&outer);
                }
            }
            for field in [5, 2, 2, 1] {
                let mut outer = Vec::new();
                crate::proto::put_bytes(&mut outer, field, &value);
                value = outer;
            }
            value
        };
        assert!(check(&replaced(b""), &LIMITS).is_ok());
        // One element: an AnyValue is too deep, a KeyValue without a value is not.
        let full = check(&replaced(&[0x0a, 0, 0x0a, 0]), &LIMITS);
        assert_eq!(full.is_ok(), field == 6, "{full:?}");
    }
}

#[test]
fn counts_are_limited() {
    let many = |n| vec![AnyValue::default(); n];
    let body = |n| {
        with_body(AnyValue { value: Some(Any::ArrayValue(ArrayValue { values: many(n) })) }).encode_to_vec()
    };
    assert!(check(&body(1000), &LIMITS).is_ok());
    assert!(matches!(check(&body(1001), &LIMITS), Err(ViewError::TooMany { limit: 1000, .. })));

    let mut request = with_body(AnyValue::default());
    let scope = request.resource_logs[0].scope_logs[0].clone();
    request.resource_logs[0].scope_logs[0].log_records = vec![scope.log_records[0].clone(); 1000];
    assert_eq!(check(&request.encode_to_vec(), &LIMITS).map(|s| s.records), Ok(1000));
    request.resource_logs[0].scope_logs.push(scope);
    assert_eq!(
        check(&request.encode_to_vec(), &LIMITS),
        Err(ViewError::TooMany { what: "records", limit: 1000 })
    );

    let groups = ExportLogsServiceRequest { resource_logs: vec![otlp::ResourceLogs::default(); 1001] };
    assert!(matches!(check(&groups.encode_to_vec(), &LIMITS), Err(ViewError::TooMany { .. })));
}

#[test]
fn the_values_of_one_record_do_not_count_for_the_next() {
    let mut request = with_body(AnyValue::default());
    let record = &mut request.resource_logs[0].scope_logs[0].log_records;
    record[0].attributes = vec![KeyValue::default(); 600];
    record.push(record[0].clone());
    assert!(check(&request.encode_to_vec(), &LIMITS).is_ok());
}

#[test]
fn an_error_says_where() {
    let mut request = with_body(AnyValue { value: Some(Any::StringValue("xx".into())) }).encode_to_vec();
    let at = request.len() - 1;
    request[at] = 0xff;
    let error = check(&request, &LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "AnyValue: field 1 is not UTF-8");
    request.pop();
    let error = check(&request, &LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "ExportLogsServiceRequest: a field is cut off");
}

#[test]
fn the_uid_of_a_record_is_found() {
    let mut request = with_body(AnyValue::default());
    let uid = "0001020304050607feff0123456789ab";
    request.resource_logs[0].scope_logs[0].log_records[0].attributes = vec![
        KeyValue { key: "log.iostream".into(), ..Default::default() },
        KeyValue {
            key: "log.record.uid".into(),
            value: Some(AnyValue { value: Some(Any::StringValue(uid.into())) }),
            key_strindex: 0,
        },
    ];
    let bytes = request.encode_to_vec();
    let (view, _) = LogsRequest::check(&bytes, &LIMITS).unwrap();
    let record = view.resources().flat_map(ResourceView::scopes).flat_map(ScopeView::records).next().unwrap();
    assert_eq!(record.uid().map(|uid| uid.to_string()).as_deref(), Some(uid));
}
