//! Records as `PushRequest`s (Loki's `pkg/push/push.proto`), one stream and a bounded piece at a time.
//!
//! An entry's line is the record's body. Its structured metadata are the attributes of record, resource and scope, and
//! the record's other fields, with the names that Loki's own OTLP endpoint gives them: what may not stand in a label's
//! name becomes `_`. Of two that get one name, or one of a label, the record's attribute keeps it, and the others get
//! `record_` or `resource_` before theirs; what still clashes then, and what is empty, is left out.
//!
//! Loki merges entries of one stream with equal time, line and structured metadata (`pkg/chunkenc/unordered.go`, and seen).
//! So when the record was observed, which is another time whenever the agent reads it anew, stays out.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use sonde_wire::attrs::keys;
use sonde_wire::proto::{put_bytes, put_uint};
use sonde_wire::view::{AnyValueView, LogsRequest, RecordView, ResourceView, ScopeView};

use crate::config::LabelNames;
use crate::deliver::batch::{State, Unit};
use crate::json::{self, Nested, value_text};
use crate::time;

/// Bytes of a request before compression. Loki's default burst is 6 MB for a tenant.
pub const BYTES: usize = 1 << 20;
/// Entries of a request.
const ENTRIES: usize = 4096;
/// How much later than it came a record may say that it was written: Loki refuses what is more than ten minutes in the
/// future. What is beyond gets the time when it came, which is the same at every try.
const FUTURE_NANOS: u64 = 300 * 1_000_000_000;

/// What a stream is named by: attributes that a container has from its first line on.
const KEYS: [&str; 4] = [keys::CLUSTER_NAME, keys::NAMESPACE_NAME, keys::POD_NAME, keys::CONTAINER_NAME];
/// The one label of what has none of those.
const SERVICE: (&str, &str) = ("service.name", "service_name");

/// A request: entries of one stream. What Loki answers to several is about the last of them only
/// (`pkg/ingester/instance.go`, `Push`: "the returned error only reflects what happened to the last stream"; seen: 204 to a push
/// of which one stream was thrown away).
pub struct Push {
    /// The stream.
    pub labels: String,
    /// Snappy, block format.
    pub body: Bytes,
    /// The records in it, by their numbers in the batch, ascending; never empty.
    pub records: Vec<usize>,
    /// Their times, Unix nanoseconds.
    pub times: Vec<u64>,
    /// Bytes before compression.
    pub bytes: usize,
}

/// How much goes into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes before compression; one entry always goes.
    pub bytes: usize,
    /// Entries.
    pub entries: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: BYTES, entries: ENTRIES }
    }
}

impl Piece {
    /// After a request that was too much.
    pub fn half_of(push: &Push) -> Self {
        Self { bytes: push.bytes / 2, entries: push.records.len() / 2 }
    }

    /// After a success: twice as much, within `most`.
    pub fn doubled(self, most: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_mul(2).clamp(1, most.bytes.max(1)),
            entries: self.entries.saturating_mul(2).clamp(1, most.entries.max(1)),
        }
    }

    /// An eighth more, back towards the default: a step that is too large costs a wait.
    pub fn grown(self) -> Self {
        Self {
            bytes: (self.bytes + self.bytes / 8 + 1).min(BYTES),
            entries: (self.entries + self.entries / 8 + 1).min(ENTRIES),
        }
    }
}

/// The labels' names, by [`KEYS`].
fn names(names: LabelNames) -> [&'static str; 4] {
    match names {
        LabelNames::Otel => ["k8s_cluster_name", "k8s_namespace_name", "k8s_pod_name", "k8s_container_name"],
        LabelNames::Promtail => ["cluster", "namespace", "pod", "container"],
    }
}

/// Entries of one stream.
#[derive(Default)]
struct Stream {
    labels: String,
    /// Time, Unix nanoseconds, and the encoded entry.
    entries: Vec<(u64, Vec<u8>)>,
    records: Vec<usize>,
    bytes: usize,
    full: bool,
}

impl Stream {
    fn push(mut self) -> Push {
        let times = self.entries.iter().map(|(time, _)| *time).collect();
        self.entries.sort_by_key(|(time, _)| *time);
        let mut adapter = Vec::with_capacity(self.bytes);
        put_bytes(&mut adapter, 1, self.labels.as_bytes());
        for (_, entry) in &self.entries {
            put_bytes(&mut adapter, 2, entry);
        }
        drop(self.entries);
        let mut request = Vec::with_capacity(adapter.len() + 8);
        put_bytes(&mut request, 1, &adapter);
        // Fails only beyond 4 GiB; a request is one record or a megabyte.
        let body = snap::raw::Encoder::new().compress_vec(&request).unwrap_or_default();
        Push { labels: self.labels, body: body.into(), records: self.records, times, bytes: request.len() }
    }
}

/// Of each stream its next unsettled records, `piece(labels)` at most.
pub fn encode(
    units: &[Unit],
    states: &[State],
    piece: impl Fn(&str) -> Piece,
    label_names: LabelNames,
) -> Vec<Push> {
    let (mut streams, mut places): (Vec<Stream>, HashMap<String, usize>) = Default::default();
    for unit in units {
        let mut number = unit.first;
        for resource in LogsRequest::trusted(&unit.bytes).resources() {
            for scope in resource.scopes() {
                let mut common = None;
                for record in scope.records() {
                    let this = number;
                    number += 1;
                    if !states.get(this).is_some_and(|state| state.is_open()) {
                        continue;
                    }
                    let (common, place, piece) = common.get_or_insert_with(|| {
                        let common = Common::new(&resource, &scope, names(label_names));
                        let place = *places.entry(common.labels.clone()).or_insert_with(|| {
                            let bytes = common.labels.len() + 12;
                            streams.push(Stream {
                                labels: common.labels.clone(),
                                bytes,
                                ..Stream::default()
                            });
                            streams.len() - 1
                        });
                        let piece = piece(&common.labels);
                        (common, place, piece)
                    });
                    let stream = &mut streams[*place];
                    if stream.full {
                        continue;
                    }
                    let (time, entry) = common.entry(&record, unit.received_unix_nano);
                    let bytes = stream.bytes + entry.len() + 6;
                    stream.full = !stream.records.is_empty()
                        && (bytes > piece.bytes || stream.records.len() >= piece.entries);
                    if !stream.full {
                        stream.bytes = bytes;
                        stream.records.push(this);
                        stream.entries.push((time, entry));
                    }
                }
            }
        }
    }
    streams.into_iter().map(Stream::push).collect()
}

/// What the records of one resource and scope have in common.
struct Common {
    /// As `{a="b", c="d"}`, sorted by name.
    labels: String,
    /// Names of all labels that there may be.
    label_names: [&'static str; 4],
    metadata: Vec<(String, String)>,
}

impl Common {
    fn new(resource: &ResourceView<'_>, scope: &ScopeView<'_>, label_names: [&'static str; 4]) -> Self {
        let text = |key: &str| match resource.attributes().get(key) {
            Some(AnyValueView::Str(text)) if !text.is_empty() => Some(text.to_owned()),
            _ => None,
        };
        let mut labels: Vec<(&str, String)> =
            KEYS.iter().zip(label_names).filter_map(|(key, name)| Some((name, text(key)?))).collect();
        let mut used: Vec<&str> = KEYS.to_vec();
        if labels.is_empty() {
            // Loki takes no stream without a label.
            labels.push((SERVICE.1, text(SERVICE.0).unwrap_or_else(|| "unknown_service".to_owned())));
            used.push(SERVICE.0);
        }
        labels.sort_unstable();
        let mut metadata = Metadata::new(&label_names);
        for (key, value) in resource.attributes() {
            if !(used.contains(&key) && matches!(value, AnyValueView::Str(_))) {
                metadata.add(key, "resource_", &value);
            }
        }
        for (key, text) in [("scope_name", scope.name), ("scope_version", scope.version)] {
            metadata.add(key, "resource_", &AnyValueView::Str(text));
        }
        for (key, value) in scope.attributes() {
            metadata.add(key, "resource_", &value);
        }
        Self { labels: written(&labels), label_names, metadata: metadata.pairs }
    }

    /// A record's time and its `EntryAdapter`.
    fn entry(&self, record: &RecordView<'_>, received: u64) -> (u64, Vec<u8>) {
        let mut metadata = Metadata::new(&self.label_names);
        for (key, value) in record.attributes() {
            metadata.add(key, "record_", &value);
        }
        let said = time::of_record(record, received);
        let future = said > received.saturating_add(FUTURE_NANOS);
        metadata.fields(record);
        if future {
            metadata.text("original_time", &time::format(said));
        }
        for (name, value) in &self.metadata {
            metadata.push(name.clone(), "resource_", value.clone());
        }
        let nanos = if future { received } else { said };
        let mut stamp = Vec::new();
        put_uint(&mut stamp, 1, nanos / 1_000_000_000);
        put_uint(&mut stamp, 2, nanos % 1_000_000_000);
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &stamp);
        put_bytes(&mut out, 2, value_text(&record.body, Nested::Text).as_bytes());
        let mut pair = Vec::new();
        for (name, value) in &metadata.pairs {
            pair.clear();
            put_bytes(&mut pair, 1, name.as_bytes());
            put_bytes(&mut pair, 2, value.as_bytes());
            put_bytes(&mut out, 3, &pair);
        }
        (nanos, out)
    }
}

/// Structured metadata of an entry.
struct Metadata {
    taken: HashSet<String>,
    pairs: Vec<(String, String)>,
}

impl Metadata {
    fn new(labels: &[&str]) -> Self {
        Self { taken: labels.iter().map(|name| (*name).to_owned()).collect(), pairs: Vec::new() }
    }

    fn add(&mut self, key: &str, prefix: &str, value: &AnyValueView<'_>) {
        self.push(normal(key), prefix, value_text(value, Nested::Text));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.push(name.to_owned(), "record_", value.to_owned());
    }

    fn push(&mut self, name: String, prefix: &str, value: String) {
        if value.is_empty() {
            return;
        }
        let name = if self.taken.contains(&name) { format!("{prefix}{name}") } else { name };
        if self.taken.insert(name.clone()) {
            self.pairs.push((name, value));
        }
    }

    /// Fields of the record that are not attributes.
    fn fields(&mut self, record: &RecordView<'_>) {
        self.text("severity_text", record.severity_text);
        for (name, number) in [
            ("severity_number", i64::from(record.severity_number)),
            ("flags", i64::from(record.flags)),
            ("dropped_attributes_count", i64::from(record.dropped_attributes_count)),
        ] {
            if number != 0 {
                self.text(name, &number.to_string());
            }
        }
        let ids = [
            ("trace_id", record.trace_id.as_ref().map(|id| &id[..])),
            ("span_id", record.span_id.as_ref().map(|id| &id[..])),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                let mut hex = Vec::new();
                json::write_hex(id, &mut hex);
                self.text(name, String::from_utf8_lossy(&hex).trim_matches('"'));
            }
        }
        self.text("event_name", record.event_name);
    }
}

/// A key as a label's name, `[a-zA-Z_][a-zA-Z0-9_]*`.
fn normal(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = key.chars().map(plain).collect();
    match name.as_bytes().first() {
        None => "_".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("key_{name}"),
        Some(_) => name,
    }
}

/// Labels as Prometheus writes them, with Go's escapes in the values.
fn written(labels: &[(&str, String)]) -> String {
    let mut out = String::from("{");
    for (number, (name, value)) in labels.iter().enumerate() {
        if number > 0 {
            out.push_str(", ");
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out.push('}');
    out
}
