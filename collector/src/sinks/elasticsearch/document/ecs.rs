//! Layout ecs: the names of the Elastic Common Schema.

use std::collections::HashSet;

use sonde_wire::attrs::keys;
use sonde_wire::view::{AnyValueView, RecordView, ResourceView, ScopeView};

use super::{write_ids, write_text};
use crate::json::{self, Nested, Object, write_value};
use crate::{severity, time};

/// Longest value in `labels`: a term of Lucene has at most 32,766 bytes, and OpenSearch's `flat_object` refuses the
/// document that has more.
pub const LABEL_BYTES: usize = 8 << 10;

const OWNERS: [&str; 6] = ["deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"];
const POD_ANNOTATION: &str = "k8s.pod.annotation.";

/// Parts of an ecs document that come from the resource.
#[derive(Default)]
pub struct Common {
    /// Members of the document, each with a comma before it.
    members: Vec<u8>,
    /// Members of `labels` with their names.
    labels: Vec<(String, Vec<u8>)>,
}

impl Common {
    /// From the resource and the scope.
    pub fn new(resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Self {
        let (mut out, mut labels) = (Vec::new(), Vec::new());
        let (mut pod, mut owners) = (Vec::new(), Vec::new());
        let (mut pod_labels, mut annotations) = (Vec::new(), Vec::new());
        let mut object = Object::new("kubernetes");
        let (mut container, mut service, mut orchestrator) = (Vec::new(), None, None);
        let mut seen = HashSet::new();
        for (key, value) in resource.attributes().filter(|(key, _)| seen.insert(*key)) {
            let AnyValueView::Str(text) = &value else {
                if key == keys::IMAGE_TAGS {
                    container.push(("tag", value));
                } else {
                    label(key, &value, &mut labels);
                }
                continue;
            };
            match key {
                keys::NAMESPACE_NAME => json::write_str(text, object.member("namespace", &mut out)),
                keys::NODE_NAME => named(text, object.member("node", &mut out)),
                keys::CONTAINER_NAME => named(text, object.member("container", &mut out)),
                keys::POD_NAME => pod.push(("name", *text)),
                keys::POD_UID => pod.push(("uid", *text)),
                keys::CONTAINER_ID => container.push(("id", value)),
                keys::IMAGE_NAME => container.push(("name", value)),
                keys::CLUSTER_NAME => orchestrator = Some(*text),
                keys::SERVICE_NAME => service = Some(*text),
                _ => {
                    match (key.strip_prefix(keys::POD_LABEL), key.strip_prefix(POD_ANNOTATION), owner(key)) {
                        (Some(name), _, _) => label(name, &value, &mut pod_labels),
                        (_, Some(name), _) => label(name, &value, &mut annotations),
                        (_, _, Some(kind)) => owners.push((kind, *text)),
                        _ => label(key, &value, &mut labels),
                    }
                }
            }
        }
        if !pod.is_empty() {
            strings(&pod, object.member("pod", &mut out));
        }
        for (kind, name) in owners {
            named(name, object.member(kind, &mut out));
        }
        for (name, list) in [("labels", &pod_labels), ("annotations", &annotations)] {
            if !list.is_empty() {
                bag(list.iter(), object.member(name, &mut out));
            }
        }
        object.end(&mut out);
        write_container(&container, &mut out);
        if let Some(cluster) = orchestrator {
            out.extend_from_slice(b",\"orchestrator\":{\"cluster\":");
            named(cluster, &mut out);
            out.push(b'}');
        }
        if let Some(service) = service {
            out.extend_from_slice(b",\"service\":");
            named(service, &mut out);
        }
        for (name, text) in [("otel.scope.name", scope.name), ("otel.scope.version", scope.version)] {
            if !text.is_empty() {
                label(name, &AnyValueView::Str(text), &mut labels);
            }
        }
        Self { members: out, labels }
    }
}

/// Appends what comes after the stream's members.
pub fn write(record: &RecordView<'_>, common: &Common, dataset: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"message\":");
    write_text(&record.body, out);
    let level = match record.severity_text {
        "" => u8::try_from(record.severity_number).ok().and_then(severity::name).unwrap_or_default(),
        text => text,
    };
    let mut log = Object::new("log");
    if !level.is_empty() {
        json::write_str(level, log.member("level", out));
    }
    let uid = record.uid();
    if let Some(uid) = &uid {
        json::write_display(uid.offset, log.member("offset", out));
    }
    log.end(out);
    out.extend_from_slice(b",\"event\":{\"dataset\":");
    json::write_str(dataset, out);
    if let Some(uid) = &uid {
        out.extend_from_slice(b",\"id\":\"");
        out.extend_from_slice(&uid.hex());
        out.push(b'"');
    }
    if record.observed_time_unix_nano != 0 {
        out.extend_from_slice(b",\"created\":\"");
        out.extend_from_slice(time::format(record.observed_time_unix_nano).as_bytes());
        out.push(b'"');
    }
    if !record.event_name.is_empty() {
        out.extend_from_slice(b",\"action\":");
        json::write_str(record.event_name, out);
    }
    out.push(b'}');
    write_ids(record, [b",\"trace\":{\"id\":", b",\"span\":{\"id\":"], b"}", out);
    out.extend_from_slice(&common.members);
    write_labels(record, common, uid.is_some(), out);
}

/// `container.id`, `container.image.name`, `container.image.tag`.
fn write_container(parts: &[(&str, AnyValueView<'_>)], out: &mut Vec<u8>) {
    let mut object = Object::new("container");
    if let Some((_, id)) = parts.iter().find(|(name, _)| *name == "id") {
        write_value(id, Nested::Text, object.member("id", out));
    }
    if parts.iter().any(|(name, _)| *name != "id") {
        let start = object.member("image", out);
        start.push(b'{');
        for (nth, (name, value)) in parts.iter().filter(|(name, _)| *name != "id").enumerate() {
            if nth > 0 {
                start.push(b',');
            }
            json::write_str(name, start);
            start.push(b':');
            write_value(value, Nested::Text, start);
        }
        start.push(b'}');
    }
    object.end(out);
}

fn write_labels(record: &RecordView<'_>, common: &Common, has_uid: bool, out: &mut Vec<u8>) {
    let mut own = Vec::new();
    for (key, value) in record.attributes() {
        match (key, &value) {
            (keys::IOSTREAM, AnyValueView::Str(stream)) => {
                out.extend_from_slice(b",\"stream\":");
                json::write_str(stream, out);
            }
            (keys::RECORD_UID, _) if has_uid => {}
            _ => label(key, &value, &mut own),
        }
    }
    let inherited = common.labels.iter().filter(|(name, _)| own.iter().all(|(own, _)| own != name));
    let all: Vec<_> = own.iter().chain(inherited).collect();
    if !all.is_empty() {
        out.extend_from_slice(b",\"labels\":");
        bag(all.into_iter(), out);
    }
}

fn owner(key: &str) -> Option<&'static str> {
    let kind = key.strip_prefix("k8s.")?.strip_suffix(".name")?;
    OWNERS.into_iter().find(|known| *known == kind)
}

/// A name and a value for a bag; the first of a name counts.
fn label(key: &str, value: &AnyValueView<'_>, into: &mut Vec<(String, Vec<u8>)>) {
    let name = match key.replace('.', "_") {
        name if name.trim().is_empty() => "_".to_owned(),
        name => name,
    };
    if into.iter().any(|(known, _)| *known == name) {
        return;
    }
    let mut text = Vec::new();
    match value {
        AnyValueView::Str(value) => {
            json::write_str(&value[..value.floor_char_boundary(LABEL_BYTES)], &mut text)
        }
        AnyValueView::Bytes(value) => {
            json::write_base64(&value[..value.len().min(LABEL_BYTES / 2)], &mut text)
        }
        AnyValueView::Map(_) | AnyValueView::Array(_) => {
            let mut inner = Vec::new();
            write_value(value, Nested::Text, &mut inner);
            let inner = String::from_utf8(inner).unwrap_or_default();
            json::write_str(&inner[..inner.floor_char_boundary(LABEL_BYTES)], &mut text);
        }
        _ => write_value(value, Nested::Text, &mut text),
    }
    into.push((name, text));
}

fn bag<'a>(members: impl Iterator<Item = &'a (String, Vec<u8>)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (nth, (name, value)) in members.enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        json::write_str(name, out);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
}

/// `{"name": …}`.
fn named(name: &str, out: &mut Vec<u8>) {
    strings(&[("name", name)], out);
}

fn strings(members: &[(&str, &str)], out: &mut Vec<u8>) {
    out.push(b'{');
    for (nth, (name, value)) in members.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        json::write_str(name, out);
        out.push(b':');
        json::write_str(value, out);
    }
    out.push(b'}');
}
