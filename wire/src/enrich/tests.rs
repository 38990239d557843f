use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::limits::ViewLimits;
use crate::proto::put_bytes;
use crate::view;

/// Ours, of which resources may have some already.
fn ours() -> AttrSet {
    AttrSet::builder().str("a", "ours").int("b", 7).str("k8s.pod.name", "web-0").build()
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn own_pairs() -> Vec<KeyValue> {
    vec![
        pair("a", Any::StringValue("ours".to_owned())),
        pair("b", Any::IntValue(7)),
        pair("k8s.pod.name", Any::StringValue("web-0".to_owned())),
    ]
}

fn groups() -> impl Strategy<Value = Vec<ResourceLogs>> {
    let key = prop_oneof![Just("a"), Just("b"), Just("k8s.pod.name"), Just(""), Just("z"), Just("aa")];
    let attributes = prop::collection::vec((key, "[a-z]{0,9}"), 0..5);
    let resource = (attributes, 0u32..3).prop_map(|(pairs, dropped_attributes_count)| Resource {
        attributes: pairs.iter().map(|(key, text)| pair(key, Any::StringValue(text.clone()))).collect(),
        dropped_attributes_count,
        entity_refs: vec![],
    });
    let body = |text: String| LogRecord {
        body: Some(AnyValue { value: Some(Any::StringValue(text)) }),
        ..LogRecord::default()
    };
    let scopes = prop::collection::vec("[ -~]{0,200}", 0..3).prop_map(move |texts| {
        vec![ScopeLogs { log_records: texts.into_iter().map(body).collect(), ..ScopeLogs::default() }]
    });
    let group = (prop::option::of(resource), scopes, "[a-z]{0,5}")
        .prop_map(|(resource, scope_logs, schema_url)| ResourceLogs { resource, scope_logs, schema_url });
    prop::collection::vec(group, 0..5)
}

/// What an implementation does that decodes all of it.
fn decoded(mut groups: Vec<ResourceLogs>) -> Vec<ResourceLogs> {
    for group in &mut groups {
        let there: Vec<String> = group
            .resource
            .iter()
            .flat_map(|resource| resource.attributes.iter().map(|pair| pair.key.clone()))
            .collect();
        let more: Vec<_> = own_pairs().into_iter().filter(|pair| !there.contains(&pair.key)).collect();
        if !more.is_empty() {
            group.resource.get_or_insert_default().attributes.extend(more);
        }
    }
    groups
}

fn enriched(request: &[u8]) -> Result<Vec<u8>, EnrichError> {
    let mut out = Vec::new();
    enrich(request, |_| ours(), &mut out)?;
    assert_eq!(enriched_len(request, usize::MAX, |_| ours()), Ok(out.len()));
    Ok(out)
}

fn request(groups: Vec<ResourceLogs>) -> Vec<u8> {
    ExportLogsServiceRequest { resource_logs: groups }.encode_to_vec()
}

/// One group with this resource.
fn group(attributes: Vec<KeyValue>) -> ResourceLogs {
    ResourceLogs { resource: Some(Resource { attributes, ..Resource::default() }), ..ResourceLogs::default() }
}

#[test]
fn what_is_there_is_never_touched_and_never_added_again() {
    let there = vec![pair("a", Any::BoolValue(true)), pair("z", Any::StringValue("app's".to_owned()))];
    let bytes = enriched(&request(vec![group(there.clone())])).unwrap();
    let got = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
    let attributes = &got.resource_logs[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attributes[..2], there[..]);
    assert_eq!(attributes[2..], own_pairs()[1..]);
}

#[test]
fn nothing_to_add_leaves_every_byte() {
    // A length that is longer than it needs to be, as only a byte-for-byte copy keeps it.
    let inner = request(vec![group(vec![])]);
    let odd = [&[KEY, 0x80 | u8::try_from(inner.len() - 2).unwrap(), 0][..], &inner[2..]].concat();
    let mut out = Vec::new();
    enrich(&odd, |_| AttrSet::default(), &mut out).unwrap();
    assert_eq!(out, odd);
    let all = enriched(&odd).unwrap();
    assert_eq!(enriched(&all).unwrap(), all, "and what has them gets no more");
}

#[test]
fn a_resource_that_is_there_twice_is_one() {
    let half = |name| Resource { attributes: vec![pair(name, Any::IntValue(1))], ..Resource::default() };
    let mut inner = Vec::new();
    put_bytes(&mut inner, 1, &half("a").encode_to_vec());
    put_bytes(&mut inner, 3, b"url");
    put_bytes(&mut inner, 1, &half("b").encode_to_vec());
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 1, &inner);
    let got = ExportLogsServiceRequest::decode(&enriched(&bytes).unwrap()[..]).unwrap();
    let keys: Vec<_> =
        got.resource_logs[0].resource.iter().flat_map(|r| &r.attributes).map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "k8s.pod.name"]);
    assert_eq!(got.resource_logs[0].schema_url, "url");
}

#[test]
fn who_chooses_is_told_what_a_resource_says() {
    let there = vec![
        pair("n", Any::IntValue(1)),
        pair("k8s.pod.uid", Any::StringValue("u1".to_owned())),
        pair("k8s.pod.uid", Any::StringValue("u2".to_owned())),
    ];
    let bytes = request(vec![group(there), group(vec![]), ResourceLogs::default()]);
    let mut seen = Vec::new();
    let mut out = Vec::new();
    let choose = |said: Said<'_>| {
        seen.push([said.text("k8s.pod.uid").map(str::to_owned), said.text("n").map(str::to_owned)]);
        AttrSet::default()
    };
    enrich(&bytes, choose, &mut out).unwrap();
    assert_eq!(seen, [[Some("u1".to_owned()), None], [None, None], [None, None]]);
}

#[test]
fn a_request_of_many_empty_resources_is_refused_before_it_is_made() {
    let bytes = [KEY, 0].repeat(1 << 20);
    assert_eq!(enriched_len(&bytes, 4 << 20, |_| ours()), Err(EnrichError::TooLarge(4 << 20)));
    assert_eq!(enriched_len(&bytes[..4], 4 << 20, |_| AttrSet::default()), Ok(4));
}

#[test]
fn what_is_cut_off_is_refused() {
    let bytes = request(vec![group(vec![pair("z", Any::StringValue("x".repeat(50)))])]);
    for end in 1..bytes.len() {
        assert!(enriched(&bytes[..end]).is_err(), "{end}");
    }
}

proptest! {
    #[test]
    fn it_is_what_comes_of_decoding_all_of_it(groups in groups()) {
        let bytes = enriched(&request(groups.clone())).unwrap();
        let got = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
        prop_assert_eq!(got.resource_logs, decoded(groups));
    }

    #[test]
    fn fields_that_nobody_knows_stay_where_they_are(groups in groups(), field in 9u8..16, noise: Vec<u8>) {
        // At the end of the request, of a group, and of its resource.
        let mut unknown = Vec::new();
        put_bytes(&mut unknown, field, &noise);
        let mut bytes = Vec::new();
        let mut want = Vec::new();
        let mut groups = groups;
        // Behind which prost would write the attributes.
        for resource in groups.iter_mut().filter_map(|group| group.resource.as_mut()) {
            resource.dropped_attributes_count = 0;
        }
        for (plain, rich) in groups.iter().zip(decoded(groups.clone())) {
            for (group, out) in [(plain, &mut bytes), (&rich, &mut want)] {
                let resource = group.resource.as_ref().map(Message::encode_to_vec);
                let rest = ResourceLogs { resource: None, ..group.clone() };
                let mut inner = Vec::new();
                if let Some(resource) = resource {
                    put_bytes(&mut inner, 1, &resource);
                }
                inner.extend(rest.encode_to_vec());
                inner.extend(&unknown);
                put_bytes(out, 1, &inner);
            }
        }
        bytes.extend(&unknown);
        want.extend(&unknown);
        prop_assert_eq!(enriched(&bytes).unwrap(), want);
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_is_taken_stays_what_it_was(
        groups in groups(), at: prop::sample::Index, noise in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut bytes = request(groups);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
        if let Ok(out) = enriched(&bytes) {
            let limits = ViewLimits::default();
            prop_assert_eq!(view::check(&out, &limits).is_ok(), view::check(&bytes, &limits).is_ok());
            prop_assert_eq!(enriched(&out).unwrap(), out);
        }
    }
}
