//! Layout otel: the documents of Elasticsearch's own `otel` mapping.

use std::collections::HashSet;

use sonde_wire::view::{AnyValueView, Attributes, RecordView, ResourceView, ScopeView};

use super::{write_ids, write_text};
use crate::json::{self, Nested, Object, write_map, write_value};
use crate::time;

/// Appends what comes after the stream's members.
pub fn write(record: &RecordView<'_>, common: &[u8], out: &mut Vec<u8>) {
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
                write_map(map.clone(), Nested::Text, out);
            }
            out.push(b'}');
        }
    }
    out.extend_from_slice(common);
}

/// Resource and scope, each member with a comma before it.
pub fn common(resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Vec<u8> {
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

fn write_dropped(count: u32, out: &mut Vec<u8>) {
    if count != 0 {
        out.extend_from_slice(b",\"dropped_attributes_count\":");
        json::write_display(count, out);
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
        write_value(&value, Nested::Text, out);
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
