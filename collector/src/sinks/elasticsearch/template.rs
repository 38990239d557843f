//! What we install: an index template for the stream, and where the server has such a thing a lifecycle. Pure.
//!
//! Both kinds of server get the same fields; how names that are not known before are held differs. Elasticsearch maps
//! them as they come, each a keyword, in an object without sub-objects (`subobjects: false`), so that `app` and
//! `app.kubernetes.io/name` may both be there. OpenSearch has no such thing: what is not named here is kept in the
//! document and not searched. Sources: Elasticsearch's `otel@mappings` and `semconv-resource-to-ecs@mappings` for the
//! names of layout otel; ECS 9 and Beats' `kubernetes` processor for those of layout ecs.

use serde_json::{Value, json};
use sonde_daemon::units::Interval;

use super::document;
use crate::config::{DataStream, Layout};

/// Raised with each change of what is installed.
pub const VERSION: u64 = 1;
/// Above Elasticsearch's own templates (100 to 200).
const PRIORITY: u64 = 300;
/// Who installed a template; one that says something else is somebody's own.
const OWNER: &str = "sonde";
/// The same of a policy, which has no place for it.
const DESCRIPTION: &str = "container logs, as Sonde's collector writes them";

/// What kind of server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Elasticsearch of this major and minor version; 0 where it does not say.
    Elasticsearch(u32, u32),
    /// OpenSearch.
    OpenSearch,
}

/// The name of a stream's template, and of its policy.
pub fn name(layout: Layout, stream: &DataStream) -> String {
    format!("sonde-logs-{}", document::dataset(layout, stream))
}

/// The name of the stream itself.
pub fn stream_name(layout: Layout, stream: &DataStream) -> String {
    format!("logs-{}-{}", document::dataset(layout, stream), stream.namespace)
}

fn pattern(layout: Layout, stream: &DataStream) -> String {
    format!("logs-{}-*", document::dataset(layout, stream))
}

/// What a template that is there means for ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is as ours; or ours, and to be replaced. And the `data_retention` that it gives.
    Ours(Option<String>),
    /// See above.
    Replaceable(Option<String>),
    /// Somebody else's, or newer: it stays.
    Other,
}

/// Compares the answer about a template with ours.
pub fn compare(existing: &Value, ours: &Value) -> Existing {
    let template = &existing["index_templates"][0]["index_template"];
    let version = template["version"].as_u64().unwrap_or(0);
    if template["_meta"]["managed_by"] != OWNER || version > VERSION {
        return Existing::Other;
    }
    let retention = template["template"]["lifecycle"]["data_retention"].as_str().map(str::to_owned);
    // Servers write the rest in their own way; this they keep as it is.
    if version == VERSION && template["_meta"] == ours["_meta"] {
        Existing::Ours(retention)
    } else {
        Existing::Replaceable(retention)
    }
}

/// A retention in Elasticsearch's words.
pub fn age(retention: Interval) -> String {
    format!("{}s", retention.0.as_secs())
}

/// Whether the server has a lifecycle of data streams that we can set. It is generally available from 8.14 on.
pub fn has_lifecycle(flavour: Flavour) -> bool {
    matches!(flavour, Flavour::Elasticsearch(major, minor) if (major, minor) >= (8, 14))
}

/// The index template.
pub fn template(layout: Layout, stream: &DataStream, flavour: Flavour, retention: Option<Interval>) -> Value {
    let properties = match layout {
        Layout::Otel => otel(flavour),
        Layout::Ecs => ecs(flavour),
    };
    let mut settings = json!({"index.auto_expand_replicas": "0-1"});
    let mut template = json!({
        "mappings": {
            "dynamic": "strict",
            "date_detection": false,
            "properties": properties,
            "_meta": {"managed_by": OWNER, "version": VERSION},
        },
    });
    match flavour {
        Flavour::Elasticsearch(..) if has_lifecycle(flavour) => {
            template["lifecycle"] = lifecycle(retention);
            // Attributes of others may have any number of names; the thousandth is kept and not searched.
            settings["index.mapping.total_fields.ignore_dynamic_beyond_limit"] = true.into();
            template["mappings"]["dynamic_templates"] = keywords();
        }
        Flavour::Elasticsearch(..) => {
            settings["index.lifecycle.name"] = "logs".into();
            template["mappings"]["dynamic_templates"] = keywords();
        }
        Flavour::OpenSearch => {}
    }
    template["settings"] = settings;
    json!({
        "index_patterns": [pattern(layout, stream)],
        "data_stream": {},
        "priority": PRIORITY,
        "version": VERSION,
        "_meta": {
            "managed_by": OWNER,
            "description": DESCRIPTION,
            "retention": retention.map_or("none".to_owned(), age),
        },
        "template": template,
    })
}

/// The lifecycle of a data stream; without `data_retention` it only rolls over.
pub fn lifecycle(retention: Option<Interval>) -> Value {
    retention.map_or_else(|| json!({}), |retention| json!({"data_retention": age(retention)}))
}

/// The backing indices that a policy is for.
pub fn backing_pattern(layout: Layout, stream: &DataStream) -> String {
    format!(".ds-{}", pattern(layout, stream))
}

/// Whether a policy that is there is ours and keeps records for another time.
pub fn policy_differs(existing: &Value, ours: &Value) -> bool {
    fn kept(policy: &Value) -> &Value {
        &policy["policy"]["states"][0]["transitions"][0]["conditions"]["min_rollover_age"]
    }
    is_our_policy(existing) && kept(existing) != kept(ours)
}

/// Whether we have written a policy that is there.
pub fn is_our_policy(existing: &Value) -> bool {
    existing["policy"]["description"] == DESCRIPTION
}

/// OpenSearch's lifecycle (Index State Management): a new backing index each day or 30 GiB, old ones go.
pub fn policy(layout: Layout, stream: &DataStream, retention: Option<Interval>) -> Value {
    let mut states = vec![json!({
        "name": "open",
        "actions": [{"rollover": {"min_index_age": "1d", "min_primary_shard_size": "30gb"}}],
        "transitions": [],
    })];
    if let Some(age) = retention {
        let days = age.0.as_secs().div_ceil(86_400).max(1);
        states[0]["transitions"] =
            json!([{"state_name": "old", "conditions": {"min_rollover_age": format!("{days}d")}}]);
        states.push(json!({"name": "old", "actions": [{"delete": {}}], "transitions": []}));
    }
    json!({"policy": {
        "description": DESCRIPTION,
        "default_state": "open",
        "states": states,
        "ism_template": [{"index_patterns": [pattern(layout, stream)], "priority": PRIORITY}],
    }})
}

/// What comes by any name is a keyword: the first value of a name must not decide that later ones are refused.
fn keywords() -> Value {
    let kinds = ["string", "long", "double", "boolean"];
    let each = kinds.map(|kind| json!({kind: {"match_mapping_type": kind, "mapping": keyword()}}));
    Value::Array(each.to_vec())
}

fn keyword() -> Value {
    json!({"type": "keyword", "ignore_above": 1024})
}

fn text() -> Value {
    json!({"type": "match_only_text"})
}

fn alias(path: &str) -> Value {
    json!({"type": "alias", "path": path})
}

/// Attributes with known names; others as the server can.
fn attributes(flavour: Flavour, known: &[(&str, Value)]) -> Value {
    let mut object = match flavour {
        Flavour::Elasticsearch(..) => json!({"type": "object", "dynamic": true, "subobjects": false}),
        Flavour::OpenSearch => json!({"type": "object", "dynamic": false}),
    };
    for (name, mapping) in known {
        match flavour {
            Flavour::Elasticsearch(..) => object["properties"][*name] = mapping.clone(),
            Flavour::OpenSearch => {
                let mut at = &mut object;
                for part in name.split('.') {
                    at = &mut at["properties"][part];
                }
                *at = mapping.clone();
            }
        }
    }
    if flavour == Flavour::OpenSearch {
        close(&mut object);
    }
    object
}

/// Every object on the way takes what is not known to it without looking.
fn close(object: &mut Value) {
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
        object["dynamic"] = false.into();
    }
}

/// A bag of names with a keyword each.
fn bag(flavour: Flavour) -> Value {
    match flavour {
        Flavour::Elasticsearch(..) => json!({"type": "flattened", "ignore_above": 1024}),
        Flavour::OpenSearch => json!({"type": "flat_object"}),
    }
}

fn data_stream() -> Value {
    json!({"properties": {"type": keyword(), "dataset": keyword(), "namespace": keyword()}})
}

fn otel(flavour: Flavour) -> Value {
    let mut resource: Vec<(&str, Value)> = [
        "k8s.cluster.name",
        "k8s.node.name",
        "k8s.namespace.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "k8s.container.name",
        "k8s.deployment.name",
        "k8s.replicaset.name",
        "k8s.statefulset.name",
        "k8s.daemonset.name",
        "k8s.job.name",
        "k8s.cronjob.name",
        "container.id",
        "container.image.name",
        "container.image.tags",
        "service.name",
    ]
    .map(|name| (name, keyword()))
    .to_vec();
    resource.push(("k8s.container.restart_count", json!({"type": "long"})));
    if flavour == Flavour::OpenSearch {
        // Labels clash (`app`, `app.kubernetes.io/name`); here nothing looks at them.
        resource.push(("k8s.pod.label", json!({"type": "object", "enabled": false})));
        resource.push(("k8s.pod.annotation", json!({"type": "object", "enabled": false})));
    }
    let record = [
        ("log.iostream", keyword()),
        ("log.record.uid", keyword()),
        ("log.truncated", json!({"type": "boolean"})),
        ("log.malformed", json!({"type": "boolean"})),
    ];
    let structured = match flavour {
        Flavour::Elasticsearch(..) => json!({"type": "flattened", "ignore_above": 1024}),
        Flavour::OpenSearch => json!({"type": "object", "enabled": false}),
    };
    let from = |name: &str| alias(&format!("resource.attributes.{name}"));
    json!({
        "@timestamp": {"type": "date_nanos"},
        "observed_timestamp": {"type": "date_nanos"},
        "data_stream": data_stream(),
        "severity_number": {"type": "long"},
        "severity_text": keyword(),
        "trace_id": keyword(),
        "span_id": keyword(),
        "event_name": keyword(),
        "flags": {"type": "long"},
        "dropped_attributes_count": {"type": "long"},
        "attributes": attributes(flavour, &record),
        "body": {"properties": {"text": text(), "structured": structured}},
        "resource": {"properties": {
            "attributes": attributes(flavour, &resource),
            "schema_url": keyword(),
            "dropped_attributes_count": {"type": "long"},
        }},
        "scope": {"properties": {
            "name": keyword(),
            "version": keyword(),
            "schema_url": keyword(),
            "attributes": attributes(flavour, &[]),
            "dropped_attributes_count": {"type": "long"},
        }},
        "message": alias("body.text"),
        "kubernetes": {"properties": {
            "namespace": from("k8s.namespace.name"),
            "node": {"properties": {"name": from("k8s.node.name")}},
            "pod": {"properties": {"name": from("k8s.pod.name"), "uid": from("k8s.pod.uid")}},
            "container": {"properties": {"name": from("k8s.container.name")}},
            "deployment": {"properties": {"name": from("k8s.deployment.name")}},
        }},
    })
}

fn ecs(flavour: Flavour) -> Value {
    let name = || json!({"properties": {"name": keyword()}});
    let id = || json!({"properties": {"id": keyword()}});
    json!({
        "@timestamp": {"type": "date_nanos"},
        "data_stream": data_stream(),
        "message": text(),
        "stream": keyword(),
        "log": {"properties": {"level": keyword(), "offset": {"type": "long"}}},
        "event": {"properties": {
            "id": keyword(), "dataset": keyword(), "action": keyword(), "created": {"type": "date_nanos"},
        }},
        "trace": id(),
        "span": id(),
        "service": name(),
        "orchestrator": {"properties": {"cluster": name()}},
        "container": {"properties": {
            "id": keyword(),
            "image": {"properties": {"name": keyword(), "tag": keyword()}},
        }},
        "kubernetes": {"properties": {
            "namespace": keyword(),
            "node": name(),
            "pod": {"properties": {"name": keyword(), "uid": keyword()}},
            "container": name(),
            "deployment": name(),
            "replicaset": name(),
            "statefulset": name(),
            "daemonset": name(),
            "job": name(),
            "cronjob": name(),
            "labels": bag(flavour),
            "annotations": bag(flavour),
        }},
        "labels": bag(flavour),
    })
}
