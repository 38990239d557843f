use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::limits::ViewLimits;
use crate::view::check;

const LIMITS: ViewLimits =
    ViewLimits { records: u32::MAX, groups: u32::MAX, values: u32::MAX, depth: ViewLimits::MAX_DEPTH };

fn canary(number: i64) -> Canary {
    Canary { node: "node-a".into(), run: 1_700_000_000_000_000_001, number, written_unix_nano: 17 }
}

fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, any_value::Value::IntValue(value))
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.to_owned()))
}

fn record(canary: &Canary) -> LogRecord {
    LogRecord {
        time_unix_nano: canary.written_unix_nano,
        attributes: vec![
            int(keys::NUMBER, canary.number),
            text("other", "x"),
            text(keys::NODE, &canary.node),
            int(keys::RUN, canary.run),
        ],
        ..LogRecord::default()
    }
}

fn scope(name: &str, log_records: Vec<LogRecord>) -> ScopeLogs {
    let scope = Some(InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() });
    ScopeLogs { scope, log_records, ..ScopeLogs::default() }
}

#[test]
fn what_the_agent_writes_is_a_request_that_others_read_and_that_we_read_back() {
    let bytes = canary(3).request("east");
    assert_eq!(check(&bytes, &LIMITS).unwrap().records, 1);
    let request = ExportLogsServiceRequest::decode(&*bytes).unwrap();
    let group = &request.resource_logs[0];
    let resource: Vec<_> = group.resource.as_ref().unwrap().attributes.clone();
    assert_eq!(resource, [text("k8s.cluster.name", "east"), text("k8s.node.name", "node-a")]);
    let logs = &group.scope_logs[0];
    assert_eq!((logs.scope.as_ref().unwrap().name.as_str(), logs.log_records.len()), (SCOPE, 1));
    assert_eq!(logs.log_records[0].time_unix_nano, 17);
    let (left, canaries) = take_out(&bytes);
    assert_eq!((&*left, canaries), (&b""[..], vec![canary(3)]));
}

#[test]
fn a_record_that_is_a_canary_but_for_one_part_is_somebodys_data() {
    let whole = record(&canary(1));
    let mut odd = vec![LogRecord { time_unix_nano: 0, ..whole.clone() }];
    for gone in [0, 2, 3] {
        let mut without = whole.clone();
        without.attributes.remove(gone);
        odd.push(without);
    }
    for (at, other) in [
        (0, int(keys::NUMBER, 0)),
        (0, int(keys::NUMBER, -1)),
        (0, text(keys::NUMBER, "1")),
        (2, text(keys::NODE, "")),
        (2, text(keys::NODE, &"n".repeat(NODE_BYTES + 1))),
        (3, text(keys::RUN, "1")),
    ] {
        let mut changed = whole.clone();
        changed.attributes[at] = other;
        odd.push(changed);
    }
    let group = |name: &str, records: Vec<LogRecord>| ResourceLogs {
        scope_logs: vec![scope(name, records)],
        ..ResourceLogs::default()
    };
    let resource_logs = vec![group(SCOPE, odd), group("sonde.canary.not", vec![whole])];
    let bytes = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    assert_eq!(take_out(&bytes), (Cow::Borrowed(&*bytes), Vec::new()));
}

fn scopes() -> impl Strategy<Value = Vec<(bool, Vec<Option<i64>>)>> {
    prop::collection::vec((any::<bool>(), prop::collection::vec(prop::option::of(1..9_i64), 0..5)), 0..4)
}

proptest! {
    #[test]
    fn exactly_the_canaries_are_taken_out_wherever_they_are(
        groups in prop::collection::vec((scopes(), any::<bool>()), 0..4)
    ) {
        let (mut all, mut expected, mut canaries) = (Vec::new(), Vec::new(), Vec::new());
        for (scopes, named) in groups {
            let resource = named.then(|| Resource { attributes: vec![text("a", "b")], ..Resource::default() });
            let (mut with, mut without, mut any_canary) = (Vec::new(), Vec::new(), false);
            for (ours, records) in scopes {
                let name = if ours { SCOPE } else { "app" };
                // One that looks like a canary in another scope is data.
                let made = |number: &Option<i64>| number.map_or_else(LogRecord::default, |n| record(&canary(n)));
                with.push(scope(name, records.iter().map(made).collect()));
                let taken: Vec<i64> = records.iter().flatten().copied().filter(|_| ours).collect();
                let stays: Vec<_> = records.iter().filter(|n| !ours || n.is_none()).map(made).collect();
                if taken.is_empty() || !stays.is_empty() {
                    without.push(scope(name, stays));
                }
                any_canary |= !taken.is_empty();
                canaries.extend(taken.into_iter().map(canary));
            }
            let group = |scope_logs| ResourceLogs { resource: resource.clone(), scope_logs, schema_url: "s".to_owned() };
            if !any_canary || !without.is_empty() {
                expected.push(group(without));
            }
            all.push(group(with));
        }
        let bytes = ExportLogsServiceRequest { resource_logs: all }.encode_to_vec();
        let (left, found) = take_out(&bytes);
        prop_assert_eq!(found, canaries);
        prop_assert!(check(&left, &LIMITS).is_ok());
        prop_assert_eq!(ExportLogsServiceRequest::decode(&*left).unwrap().resource_logs, expected);
    }

    #[test]
    fn any_bytes_that_pass_the_check_pass_it_again(bytes: Vec<u8>) {
        let _ = take_out(&bytes);
        if check(&bytes, &LIMITS).is_ok() {
            prop_assert!(check(&take_out(&bytes).0, &LIMITS).is_ok());
        }
    }
}
