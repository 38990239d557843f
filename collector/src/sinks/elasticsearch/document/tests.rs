//! Documents against what the record says.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use sonde_wire::view::LogsRequest;

use super::ecs::LABEL_BYTES;
use super::*;
use crate::store::tests::text;

fn any(value: Any) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: any(value), ..KeyValue::default() }
}

fn document(layout: Layout, resource: Vec<KeyValue>, record: LogRecord) -> Value {
    let scope =
        InstrumentationScope { name: "lib".to_owned(), version: "2".to_owned(), ..Default::default() };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records: vec![record],
                ..Default::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let bytes = request.encode_to_vec();
    let resource = LogsRequest::trusted(&bytes).resources().next().unwrap();
    let scope = resource.scopes().next().unwrap();
    let record = scope.records().next().unwrap();
    let writer = Writer::new(layout, &DataStream::default());
    let mut out = Vec::new();
    writer.write(&record, &writer.common(&resource, &scope), crate::time::of_record(&record, 1), &mut out);
    assert!(!out.contains(&b'\n'), "one line");
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

const UID: &str = "5a5a5a5a5a5a5a5a5a5a00000000002a";

fn pod() -> Vec<KeyValue> {
    vec![
        text("k8s.cluster.name", "east"),
        text("k8s.node.name", "n1"),
        text("k8s.namespace.name", "shop"),
        text("k8s.pod.name", "web-0"),
        text("k8s.pod.uid", "u-1"),
        text("k8s.container.name", "app"),
        attribute("k8s.container.restart_count", Any::IntValue(2)),
        text("k8s.deployment.name", "web"),
        text("k8s.pod.label.app", "web"),
        text("k8s.pod.label.app.kubernetes.io/name", "shop-web"),
        text("container.id", "c1"),
        text("container.image.name", "img"),
        attribute(
            "container.image.tags",
            Any::ArrayValue(ArrayValue { values: vec![any(Any::StringValue("v1".into())).unwrap()] }),
        ),
        text("service.name", "web"),
        text("cloud.region", "x"),
    ]
}

fn line() -> LogRecord {
    LogRecord {
        time_unix_nano: 1_700_000_000_123_456_789,
        observed_time_unix_nano: 1_700_000_001_000_000_000,
        severity_number: 17,
        severity_text: "error".to_owned(),
        body: any(Any::StringValue("it \"broke\"\u{7}".to_owned())),
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        attributes: vec![
            text("log.iostream", "stderr"),
            text("log.record.uid", UID),
            attribute("log.truncated", Any::BoolValue(true)),
        ],
        ..LogRecord::default()
    }
}

#[test]
fn layout_ecs_has_the_contracts_fields() {
    assert_eq!(
        document(Layout::Ecs, pod(), line()),
        json!({
            "@timestamp": "2023-11-14T22:13:20.123456789Z",
            "data_stream": {"type": "logs", "dataset": "kubernetes.container_logs", "namespace": "default"},
            "message": "it \"broke\"\u{7}",
            "stream": "stderr",
            "log": {"level": "error", "offset": 42},
            "event": {
                "id": UID, "dataset": "kubernetes.container_logs", "created": "2023-11-14T22:13:21.000000000Z",
            },
            "trace": {"id": "ab".repeat(16)},
            "span": {"id": "cd".repeat(8)},
            "service": {"name": "web"},
            "orchestrator": {"cluster": {"name": "east"}},
            "container": {"id": "c1", "image": {"name": "img", "tag": ["v1"]}},
            "kubernetes": {
                "namespace": "shop",
                "node": {"name": "n1"},
                "pod": {"name": "web-0", "uid": "u-1"},
                "container": {"name": "app"},
                "deployment": {"name": "web"},
                "labels": {"app": "web", "app_kubernetes_io/name": "shop-web"},
            },
            "labels": {
                "k8s_container_restart_count": 2, "cloud_region": "x", "log_truncated": true,
                "otel_scope_name": "lib", "otel_scope_version": "2",
            },
        })
    );
}

#[test]
fn layout_otel_is_opentelemetrys_own() {
    let document = document(Layout::Otel, pod(), line());
    assert_eq!(document["data_stream"]["dataset"], "kubernetes.container_logs.otel");
    assert_eq!(document["observed_timestamp"], "2023-11-14T22:13:21.000000000Z");
    assert_eq!((&document["severity_number"], &document["severity_text"]), (&17.into(), &"error".into()));
    assert_eq!(document["body"], json!({"text": "it \"broke\"\u{7}"}));
    assert_eq!(document["scope"], json!({"name": "lib", "version": "2"}));
    let attributes = json!({"log.iostream": "stderr", "log.record.uid": UID, "log.truncated": true});
    assert_eq!(document["attributes"], attributes);
    let resource = &document["resource"]["attributes"];
    assert_eq!(resource["k8s.pod.label.app.kubernetes.io/name"], "shop-web");
    assert_eq!(resource["container.image.tags"], json!(["v1"]));
    assert_eq!(resource.as_object().unwrap().len(), pod().len());
}

#[test]
fn a_body_that_is_no_string_is_searched_as_text_and_kept_as_it_is() {
    let map = KeyValueList { values: vec![text("a", "x"), attribute("b.c", Any::IntValue(1))] };
    let body = any(Any::KvlistValue(map));
    let record = LogRecord { body, ..line() };
    let otel = document(Layout::Otel, Vec::new(), record.clone());
    assert_eq!(otel["body"], json!({"text": "{\"a\":\"x\",\"b.c\":1}", "structured": {"a": "x", "b.c": 1}}));
    assert_eq!(document(Layout::Ecs, Vec::new(), record)["message"], "{\"a\":\"x\",\"b.c\":1}");
}

#[test]
fn names_that_a_server_would_refuse_are_written_so_that_it_does_not() {
    let inner = KeyValueList { values: vec![text("b", "1"), text("", "2")] };
    let names = vec![
        text("", "e"),
        text(".a", "1"),
        text("a..b", "2"),
        text("a.", "3"),
        text("twice", "first"),
        text("twice", "second"),
        attribute("m", Any::KvlistValue(inner)),
    ];
    let record = LogRecord { attributes: names.clone(), ..LogRecord::default() };
    let expected =
        json!({"_": "e", "_.a": "1", "a._.b": "2", "a._": "3", "twice": "first", "m.b": "1", "m._": "2"});
    let otel = document(Layout::Otel, names, record.clone());
    assert_eq!(otel["attributes"], expected);
    assert_eq!(otel["resource"]["attributes"], expected);
    let long = "é".repeat(LABEL_BYTES);
    let ecs = document(Layout::Ecs, vec![text("long", &long)], record);
    assert_eq!(ecs["labels"]["twice"], "first");
    assert_eq!(ecs["labels"]["long"].as_str().unwrap().len(), LABEL_BYTES);
}

proptest! {
    #[test]
    fn any_names_and_values_make_one_line_of_json_without_a_name_twice(
        keys in prop::collection::vec("[a.\\PC]{0,6}", 0..6), value: String, number: f64, ecs: bool
    ) {
        let mut attributes: Vec<KeyValue> = keys.iter().map(|key| text(key, &value)).collect();
        attributes.push(attribute("n", Any::DoubleValue(number)));
        let layout = if ecs { Layout::Ecs } else { Layout::Otel };
        let record = LogRecord { attributes: attributes.clone(), body: any(Any::StringValue(value)), ..line() };
        // serde_json takes the last of two members of one name; here there must not be two.
        let read = document(layout, attributes, record);
        prop_assert!(read["@timestamp"].is_string());
    }
}
