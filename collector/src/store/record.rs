//! From a received request to what is stored.
//!
//! What has no member of its own in the API's records goes into `attributes`, and nothing is lost when two things
//! have the same name: a record's own attributes keep their names; fields of the record that are not attributes
//! (`trace_id`, `span_id`, `trace_flags`, `event_name`, `severity_text`, `observed_time`,
//! `otel.dropped_attributes_count`) then get `record.` before theirs; attributes of the resource and what is known
//! of the scope (`otel.scope.name`, `otel.scope.version`, `otel.scope.attributes`) get `resource.`. Of one key
//! given twice in one list the first counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sonde_wire::uid::RecordUid;
use sonde_wire::view::{AnyValueView, LogsRequest, RecordView, ResourceView, ScopeView};

use super::origin::{NAME_KEYS, Origin};
use super::row::{BodyKind, Row, Stream};
use crate::json::{self, Nested, write_map, write_value};
use crate::{severity, time};

/// Walks the records of a request that has passed `wire`'s check. `received` (Unix nanoseconds) stands in for the
/// time of a record without one. Equal origins are made one through `known`.
pub fn read(
    request: LogsRequest<'_>,
    received: u64,
    known: &mut HashSet<Arc<Origin>>,
    mut take: impl FnMut(&Arc<Origin>, &Row<'_>),
) {
    let mut reader = Reader::default();
    for resource in request.resources() {
        for scope in resource.scopes() {
            let keys = origin_keys(&resource);
            let mut origins: Vec<(Vec<usize>, Arc<Origin>)> = Vec::new();
            for record in scope.records() {
                reader.read(&record, &keys);
                let place = match origins.iter().position(|(clashes, _)| *clashes == reader.clashes) {
                    Some(place) => place,
                    None => {
                        let origin = origin(&resource, &scope, &keys, &reader.clashes);
                        let origin = known.get(&origin).cloned().unwrap_or_else(|| Arc::new(origin));
                        known.insert(Arc::clone(&origin));
                        // Senders clash in one way or not at all; who clashes in ever new ways pays for it in time.
                        origins.truncate(7);
                        origins.push((reader.clashes.clone(), origin));
                        origins.len() - 1
                    }
                };
                take(&origins[place].1, &reader.row(&record, received));
            }
        }
    }
}

const SCOPE_KEYS: [&str; 3] = ["otel.scope.name", "otel.scope.version", "otel.scope.attributes"];
const DROPPED: &str = "otel.dropped_attributes_count";
const UID: &str = "log.record.uid";
const STREAM: &str = "log.iostream";

/// The names in the origin's attributes, with a number for each.
fn origin_keys<'a>(resource: &ResourceView<'a>) -> HashMap<&'a str, usize> {
    let mut keys = HashMap::new();
    for key in resource.attributes().map(|(key, _)| key).chain(SCOPE_KEYS) {
        let number = keys.len();
        keys.entry(key).or_insert(number);
    }
    keys
}

/// What the records have in common; names in `clashes` are taken by the records' own attributes.
fn origin(
    resource: &ResourceView<'_>,
    scope: &ScopeView<'_>,
    keys: &HashMap<&str, usize>,
    clashes: &[usize],
) -> Origin {
    let mut names = [const { None }; 5];
    let mut out = Vec::new();
    let mut written = HashSet::new();
    let mut member = |key: &str, out: &mut Vec<u8>| {
        let number = keys.get(key).copied().unwrap_or(usize::MAX);
        let first = written.insert(number);
        if first {
            write_key(if clashes.contains(&number) { "resource." } else { "" }, key, out);
        }
        first
    };
    for (key, value) in resource.attributes() {
        if let (Some(at), AnyValueView::Str(name)) = (NAME_KEYS.iter().position(|name| *name == key), &value)
            && names[at].is_none()
        {
            names[at] = Some((*name).to_owned());
        } else if member(key, &mut out) {
            write_value(&value, Nested::Plain, &mut out);
        }
    }
    for (key, text) in [(SCOPE_KEYS[0], scope.name), (SCOPE_KEYS[1], scope.version)] {
        if !text.is_empty() && member(key, &mut out) {
            json::write_str(text, &mut out);
        }
    }
    if scope.attributes().next().is_some() && member(SCOPE_KEYS[2], &mut out) {
        write_map(scope.attributes(), Nested::Plain, &mut out);
    }
    // The writers above write UTF-8 only.
    Origin { names, attributes: String::from_utf8(out).unwrap_or_default() }
}

/// Reads one record after the other; keeps its buffers.
#[derive(Default)]
struct Reader<'a> {
    body: Vec<u8>,
    attributes: Vec<u8>,
    uid: Option<[u8; 16]>,
    stream: Option<Stream>,
    observed: u64,
    severity: u8,
    /// Names of the record's own attributes.
    own: HashSet<&'a str>,
    /// Numbers of the origin's names that are among them, sorted.
    clashes: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, record: &RecordView<'a>, origin_keys: &HashMap<&str, usize>) {
        self.attributes.clear();
        self.own.clear();
        self.clashes.clear();
        self.uid = None;
        self.stream = None;
        for (key, value) in record.attributes() {
            match (key, value.as_str()) {
                (STREAM, Some("stdout")) if self.stream.is_none() => self.stream = Some(Stream::Stdout),
                (STREAM, Some("stderr")) if self.stream.is_none() => self.stream = Some(Stream::Stderr),
                (UID, Some(text)) if self.uid.is_none() && RecordUid::parse(text).is_some() => {
                    self.uid = RecordUid::parse(text).map(uid_bytes);
                }
                _ => {
                    if self.own.insert(key) {
                        self.clashes.extend(origin_keys.get(key));
                        write_key("", key, &mut self.attributes);
                        write_value(&value, Nested::Plain, &mut self.attributes);
                    }
                }
            }
        }
        self.clashes.sort_unstable();
        self.read_fields(record);
        self.body.clear();
        if !matches!(record.body, AnyValueView::Empty | AnyValueView::Str(_)) {
            write_value(&record.body, Nested::Plain, &mut self.body);
        }
    }

    /// Fields of the record that the API shows among the attributes.
    fn read_fields(&mut self, record: &RecordView<'_>) {
        let named =
            u8::try_from(record.severity_number).ok().filter(|number| severity::name(*number).is_some());
        self.severity = named.or_else(|| severity::number(record.severity_text)).unwrap_or(0);
        if !record.severity_text.is_empty() && Some(record.severity_text) != severity::name(self.severity) {
            self.field("severity_text");
            json::write_str(record.severity_text, &mut self.attributes);
        }
        if named.is_none() && record.severity_number != 0 {
            self.field("severity_number");
            json::write_display(record.severity_number, &mut self.attributes);
        }
        if let Some(id) = record.trace_id {
            self.field("trace_id");
            json::write_hex(&id, &mut self.attributes);
        }
        if let Some(id) = record.span_id {
            self.field("span_id");
            json::write_hex(&id, &mut self.attributes);
        }
        if record.flags != 0 {
            self.field("trace_flags");
            json::write_display(record.flags, &mut self.attributes);
        }
        if !record.event_name.is_empty() {
            self.field("event_name");
            json::write_str(record.event_name, &mut self.attributes);
        }
        if record.dropped_attributes_count != 0 {
            self.field(DROPPED);
            json::write_display(record.dropped_attributes_count, &mut self.attributes);
        }
        // Nearly every record has it, so it is kept as a number; only beside an attribute of that name as text.
        self.observed = record.observed_time_unix_nano;
        if self.observed != 0 && self.own.contains("observed_time") {
            self.field("observed_time");
            json::write_str(&time::format(self.observed), &mut self.attributes);
            self.observed = 0;
        }
    }

    fn field(&mut self, key: &str) {
        let prefix = if self.own.contains(key) { "record." } else { "" };
        write_key(prefix, key, &mut self.attributes);
    }

    fn row<'r>(&'r self, record: &RecordView<'r>, received: u64) -> Row<'r> {
        let (kind, body) = match &record.body {
            AnyValueView::Empty => (BodyKind::None, &[][..]),
            AnyValueView::Str(text) => (BodyKind::Text, text.as_bytes()),
            _ => (BodyKind::Json, self.body.as_slice()),
        };
        let times = [record.time_unix_nano, record.observed_time_unix_nano, received];
        Row {
            time: times.into_iter().find(|time| *time != 0).unwrap_or(0),
            observed: self.observed,
            uid: self.uid.unwrap_or_default(),
            has_uid: self.uid.is_some(),
            stream: self.stream.unwrap_or(Stream::None),
            kind,
            severity: self.severity,
            body,
            attributes: &self.attributes,
        }
    }
}

fn uid_bytes(uid: RecordUid) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..10].copy_from_slice(&uid.file.0);
    bytes[10..].copy_from_slice(&uid.offset.to_be_bytes()[2..]);
    bytes
}

/// Starts a member of an object, with the comma before it where one is due.
fn write_key(prefix: &str, key: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(prefix.as_bytes());
    json::write_escaped(key.as_bytes(), out);
    out.extend_from_slice(b"\":");
}
