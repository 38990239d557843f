//! A log record as a document.
//!
//! Both layouts hold everything a record has; a template's `dynamic: strict` refuses none of it, because what is not
//! known by name goes where any name may stand: `attributes` and `resource.attributes` in layout otel, `labels` in
//! layout ecs.
//!
//! What Elasticsearch would refuse is written so that it does not: names with an empty part between dots (`.a`,
//! `a..b`) get `_` there, a name that is there twice counts once (the first), in `labels` dots become underscores and
//! values end at [`LABEL_BYTES`].

use std::collections::HashSet;

use sonde_wire::attrs::keys;
use sonde_wire::view::{AnyValueView, Attributes, RecordView, ResourceView, ScopeView};

use crate::config::{DataStream, Layout};
use crate::store::{json, severity, time};

/// Longest value in `labels`: a term of Lucene has at most 32,766 bytes, and OpenSearch's `flat_object` refuses the
/// document that has more.
const LABEL_BYTES: usize = 8 << 10;

const OWNERS: [&str; 6] = ["deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"];
const POD_ANNOTATION: &str = "k8s.pod.annotation.";

/// Writes the documents of one stream.
#[derive(Clone, Debug)]
pub struct Writer {
    layout: Layout,
    /// `"data_stream":{…}`, and for ecs `"event.dataset"`'s value.
    data_stream: String,
    dataset: String,
}

/// What the records of one resource and scope have in common, written once.
pub struct Common {
    otel: Vec<u8>,
    ecs: Ecs,
}

/// Parts of an ecs document that come from the resource.
#[derive(Default)]
struct Ecs {
    /// Members of the document, each with a comma before it.
    members: Vec<u8>,
    /// Members of `labels` with their names.
    labels: Vec<(String, Vec<u8>)>,
}

impl Writer {
    /// For documents of this layout in this stream.
    pub fn new(layout: Layout, stream: &DataStream) -> Self {
        let dataset = dataset(layout, stream);
        let mut text = b"\"data_stream\":{\"type\":\"logs\",\"dataset\":".to_vec();
        json::write_str(&dataset, &mut text);
        text.extend_from_slice(b",\"namespace\":");
        json::write_str(&stream.namespace, &mut text);
        text.push(b'}');
        Self { layout, data_stream: String::from_utf8(text).unwrap_or_default(), dataset }
    }

    /// What the records below have in common.
    pub fn common(&self, resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Common {
        match self.layout {
            Layout::Otel => Common { otel: otel_common(resource, scope), ecs: Ecs::default() },
            Layout::Ecs => Common { otel: Vec::new(), ecs: ecs_common(resource, scope) },
        }
    }

    /// Appends the document of a record, on one line without its end.
    pub fn write(&self, record: &RecordView<'_>, common: &Common, unix_nano: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"@timestamp\":\"");
        out.extend_from_slice(time::format(unix_nano).as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.data_stream.as_bytes());
        match self.layout {
            Layout::Otel => write_otel(record, common, out),
            Layout::Ecs => self.write_ecs(record, &common.ecs, out),
        }
        out.push(b'}');
    }

    fn write_ecs(&self, record: &RecordView<'_>, common: &Ecs, out: &mut Vec<u8>) {
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
        json::write_str(&self.dataset, out);
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
}

/// `data_stream.dataset` of a layout.
pub fn dataset(layout: Layout, stream: &DataStream) -> String {
    match layout {
        Layout::Otel => format!("{}.otel", stream.dataset),
        Layout::Ecs => stream.dataset.clone(),
    }
}

/// A record's time: the source's, else when it was observed, else when we received it.
pub fn unix_nano(record: &RecordView<'_>, received: u64) -> u64 {
    let times = [record.time_unix_nano, record.observed_time_unix_nano, received];
    times.into_iter().find(|time| *time != 0).unwrap_or(0)
}

fn write_otel(record: &RecordView<'_>, common: &Common, out: &mut Vec<u8>) {
    if record.observed_time_unix_nano != 0 {
        out.extend_from_slice(b",\"observed_timestamp\":\"");
        out.extend_from_slice(time::format(record.observed_time_unix_nano).as_bytes());
        out.push(b'"');
    }
    if record.severity_number != 0 {
        out.extend_from_slice(b",\"severity_number\":");
        json::write_display(record.severity_number, out);
    }
    if !record.severity_text.is_empty() {
        out.extend_from_slice(b",\"severity_text\":");
        json::write_str(record.severity_text, out);
    }
    write_ids(record, [b",\"trace_id\":", b",\"span_id\":"], b"", out);
    if !record.event_name.is_empty() {
        out.extend_from_slice(b",\"event_name\":");
        json::write_str(record.event_name, out);
    }
    if record.flags != 0 {
        out.extend_from_slice(b",\"flags\":");
        json::write_display(record.flags, out);
    }
    write_dropped(record.dropped_attributes_count, out);
    out.extend_from_slice(b",\"attributes\":");
    write_attributes(record.attributes(), out);
    match &record.body {
        AnyValueView::Empty => {}
        body => {
            out.extend_from_slice(b",\"body\":{\"text\":");
            write_text(body, out);
            if let AnyValueView::Map(map) = body {
                out.extend_from_slice(b",\"structured\":");
                write_map(map.clone(), out);
            }
            out.push(b'}');
        }
    }
    out.extend_from_slice(&common.otel);
}

fn otel_common(resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Vec<u8> {
    let mut out = b",\"resource\":{\"attributes\":".to_vec();
    write_attributes(resource.attributes(), &mut out);
    write_dropped(resource.dropped_attributes_count, &mut out);
    if !resource.schema_url.is_empty() {
        out.extend_from_slice(b",\"schema_url\":");
        json::write_str(resource.schema_url, &mut out);
    }
    out.push(b'}');
    let mut object = Object::new("scope");
    for (name, text) in [("name", scope.name), ("version", scope.version), ("schema_url", scope.schema_url)] {
        if !text.is_empty() {
            json::write_str(text, object.member(name, &mut out));
        }
    }
    if scope.attributes().next().is_some() {
        write_attributes(scope.attributes(), object.member("attributes", &mut out));
    }
    if scope.dropped_attributes_count != 0 {
        json::write_display(
            scope.dropped_attributes_count,
            object.member("dropped_attributes_count", &mut out),
        );
    }
    object.end(&mut out);
    out
}

fn ecs_common(resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Ecs {
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
            _ => match (key.strip_prefix(keys::POD_LABEL), key.strip_prefix(POD_ANNOTATION), owner(key)) {
                (Some(name), _, _) => label(name, &value, &mut pod_labels),
                (_, Some(name), _) => label(name, &value, &mut annotations),
                (_, _, Some(kind)) => owners.push((kind, *text)),
                _ => label(key, &value, &mut labels),
            },
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
    Ecs { members: out, labels }
}

/// `container.id`, `container.image.name`, `container.image.tag`.
fn write_container(parts: &[(&str, AnyValueView<'_>)], out: &mut Vec<u8>) {
    let mut object = Object::new("container");
    if let Some((_, id)) = parts.iter().find(|(name, _)| *name == "id") {
        write_value(id, object.member("id", out));
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
            write_value(value, start);
        }
        start.push(b'}');
    }
    object.end(out);
}

fn write_labels(record: &RecordView<'_>, common: &Ecs, has_uid: bool, out: &mut Vec<u8>) {
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
            write_value(value, &mut inner);
            let inner = String::from_utf8(inner).unwrap_or_default();
            json::write_str(&inner[..inner.floor_char_boundary(LABEL_BYTES)], &mut text);
        }
        _ => write_value(value, &mut text),
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

fn write_ids(record: &RecordView<'_>, starts: [&[u8]; 2], end: &[u8], out: &mut Vec<u8>) {
    let ids = [record.trace_id.as_ref().map(|id| &id[..]), record.span_id.as_ref().map(|id| &id[..])];
    for (start, id) in starts.into_iter().zip(ids) {
        if let Some(id) = id {
            out.extend_from_slice(start);
            json::write_hex(id, out);
            out.extend_from_slice(end);
        }
    }
}

fn write_dropped(count: u32, out: &mut Vec<u8>) {
    if count != 0 {
        out.extend_from_slice(b",\"dropped_attributes_count\":");
        json::write_display(count, out);
    }
}

/// The body as text: a string as it is, anything else as JSON.
fn write_text(body: &AnyValueView<'_>, out: &mut Vec<u8>) {
    match body {
        AnyValueView::Empty => out.extend_from_slice(b"\"\""),
        AnyValueView::Str(text) => json::write_str(text, out),
        other => {
            let mut text = Vec::new();
            write_value(other, &mut text);
            json::write_str(&String::from_utf8_lossy(&text), out);
        }
    }
}

/// Attributes as a flat object: maps become names with dots, as Elasticsearch's own `otel` documents have them.
fn write_attributes(attributes: Attributes<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut written = HashSet::new();
    flatten("", attributes, &mut written, out);
    out.push(b'}');
}

fn flatten(prefix: &str, attributes: Attributes<'_>, written: &mut HashSet<String>, out: &mut Vec<u8>) {
    for (key, value) in attributes {
        let name = safe(prefix, key);
        if let AnyValueView::Map(map) = value {
            flatten(&name, map, written, out);
            continue;
        }
        if written.contains(&name) {
            continue;
        }
        if !written.is_empty() {
            out.push(b',');
        }
        json::write_str(&name, out);
        out.push(b':');
        write_value(&value, out);
        written.insert(name);
    }
}

/// A name that Elasticsearch takes: no part between dots is empty.
fn safe(prefix: &str, key: &str) -> String {
    let mut name = String::with_capacity(prefix.len() + key.len() + 1);
    name.push_str(prefix);
    for part in key.split('.') {
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(if part.trim().is_empty() { "_" } else { part });
    }
    name
}

/// A value as JSON; a map inside a list as the text of its JSON, so that no list holds objects.
fn write_value(value: &AnyValueView<'_>, out: &mut Vec<u8>) {
    match value {
        AnyValueView::Empty => out.extend_from_slice(b"null"),
        AnyValueView::Str(text) => json::write_str(text, out),
        AnyValueView::Bool(value) => json::write_display(value, out),
        AnyValueView::Int(value) => json::write_display(value, out),
        AnyValueView::Double(value) => json::write_f64(*value, out),
        AnyValueView::Bytes(bytes) => json::write_base64(bytes, out),
        AnyValueView::Map(map) => write_map(map.clone(), out),
        AnyValueView::Array(values) => {
            out.push(b'[');
            for (nth, value) in values.clone().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                match value {
                    AnyValueView::Map(_) | AnyValueView::Array(_) => write_text(&value, out),
                    scalar => write_value(&scalar, out),
                }
            }
            out.push(b']');
        }
    }
}

fn write_map(map: Attributes<'_>, out: &mut Vec<u8>) {
    let mut written = HashSet::new();
    out.push(b'{');
    for (key, value) in map {
        if !written.insert(key) {
            continue;
        }
        if written.len() > 1 {
            out.push(b',');
        }
        json::write_str(key, out);
        out.push(b':');
        write_value(&value, out);
    }
    out.push(b'}');
}

/// An object that is written only if it has a member.
struct Object {
    name: &'static str,
    begun: bool,
}

impl Object {
    fn new(name: &'static str) -> Self {
        Self { name, begun: false }
    }

    /// Begins a member; its value is written to what is returned.
    fn member<'o>(&mut self, name: &str, out: &'o mut Vec<u8>) -> &'o mut Vec<u8> {
        if self.begun {
            out.push(b',');
        } else {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(self.name.as_bytes());
            out.extend_from_slice(b"\":{");
        }
        self.begun = true;
        json::write_str(name, out);
        out.push(b':');
        out
    }

    fn end(self, out: &mut Vec<u8>) {
        if self.begun {
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests;
