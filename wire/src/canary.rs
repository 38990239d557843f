//! The canary: a synthetic record that an agent sends with its users' lines, to measure how long the way takes and whether
//! all arrives. This is its form, and how it is told from users' records and taken out of a request.
//!
//! A canary is a log record in a scope named [`SCOPE`], with the three attributes of [`keys`] and a time. A record in that scope
//! without them is somebody's data and stays it: nothing is taken from a request that is not a canary in every part.
//!
//! Canaries of a run (one life of an agent) are numbered from 1, and one is sent only when the one before it was acknowledged.
//! So a receiver that answers after it has queued a request has them in their order, and a number that is not there was
//! acknowledged and lost, or acknowledged by another receiver.

use std::borrow::Cow;

use crate::attrs::{AttrSet, RecordAttrs, keys as resource};
use crate::logs::{LogRecord, Stream};
use crate::proto::{Value, put_bytes, raw_fields};
use crate::uid::{FileHash, RecordUid};
use crate::view::{AnyValueView, LogsRequest, RecordView};

/// Name of the scope of canaries.
pub const SCOPE: &str = "sonde.canary";
/// The record's body, for who finds one in a system that does not know canaries.
pub const BODY: &str =
    "sonde: a synthetic record that measures delay and loss; it is not from an application";
/// Longest name of a node, bytes: that of a DNS subdomain, which the names of Kubernetes' nodes are.
pub const NODE_BYTES: usize = 253;

/// The attributes of a canary.
pub mod keys {
    /// The node's name, a string.
    pub const NODE: &str = "sonde.canary.node";
    /// The run's name, an integer: when the agent started, Unix nanoseconds.
    pub const RUN: &str = "sonde.canary.run";
    /// The number in the run, an integer from 1.
    pub const NUMBER: &str = "sonde.canary.number";
}

// resource_logs of ExportLogsServiceRequest, scope_logs of ResourceLogs, scope and log_records of ScopeLogs, name of
// InstrumentationScope (logs_service.proto, logs.proto, common.proto).
const GROUP: u8 = 1;
const RESOURCE: u8 = 1;
const SCOPE_LOGS: u8 = 2;
const SCOPE_FIELD: u8 = 1;
const RECORDS: u8 = 2;
const NAME: u8 = 1;

/// One canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The node's name, at most [`NODE_BYTES`], not empty.
    pub node: Box<str>,
    /// Which life of its agent.
    pub run: i64,
    /// Its number there, from 1.
    pub number: i64,
    /// When it was written, by the node's clock; Unix nanoseconds, not 0.
    pub written_unix_nano: u64,
}

impl Canary {
    /// The `ExportLogsServiceRequest` with this one record; `cluster` is `k8s.cluster.name`, empty = none.
    #[must_use]
    pub fn request(&self, cluster: &str) -> Vec<u8> {
        let mut of = AttrSet::builder();
        for (name, value) in [(resource::CLUSTER_NAME, cluster), (resource::NODE_NAME, &*self.node)] {
            if !value.is_empty() {
                of = of.str(name, value);
            }
        }
        let mut attributes = RecordAttrs::default();
        attributes.str(keys::NODE, &self.node);
        attributes.int(keys::RUN, self.run);
        attributes.int(keys::NUMBER, self.number);
        let file = FileHash::of_bytes(SCOPE, format!("{}/{}", self.node, self.run).as_bytes());
        let mut encoder = crate::logs::LogEncoder::default();
        encoder.push(&LogRecord {
            time_unix_nano: self.written_unix_nano,
            observed_time_unix_nano: self.written_unix_nano,
            severity_number: 0,
            severity_text: "",
            body: BODY,
            trace_id: None,
            span_id: None,
            stream: Stream::Unknown,
            uid: RecordUid { file, offset: self.number.cast_unsigned() },
            truncated: false,
            malformed: false,
            attributes: attributes.bytes(),
        });
        let (mut scope, mut name) = (Vec::new(), Vec::new());
        put_bytes(&mut name, NAME, SCOPE.as_bytes());
        put_bytes(&mut scope, SCOPE_FIELD, &name);
        // The encoder knows no scopes: what it wrote is one group with one scope without a name.
        inner(&encoder.take(), &[GROUP, SCOPE_LOGS], &mut |records| scope.extend_from_slice(records));
        let (mut group, mut request) = (Vec::new(), Vec::new());
        put_bytes(&mut group, RESOURCE, of.build().bytes());
        put_bytes(&mut group, SCOPE_LOGS, &scope);
        put_bytes(&mut request, GROUP, &group);
        request
    }

    /// The canary that a record in a scope of this name is.
    #[must_use]
    pub fn read(scope: &str, record: &RecordView<'_>) -> Option<Self> {
        if scope != SCOPE || record.time_unix_nano == 0 {
            return None;
        }
        let (mut node, mut run, mut number) = (None, None, None);
        for (key, value) in record.attributes() {
            match (key, value) {
                (keys::NODE, AnyValueView::Str(name)) => node = Some(name),
                (keys::RUN, AnyValueView::Int(value)) => run = Some(value),
                (keys::NUMBER, AnyValueView::Int(value)) => number = Some(value),
                _ => {}
            }
        }
        let node = node.filter(|name| !name.is_empty() && name.len() <= NODE_BYTES)?;
        let number = number.filter(|number| *number > 0)?;
        Some(Self { node: node.into(), run: run?, number, written_unix_nano: record.time_unix_nano })
    }
}

/// What the fields that `path` leads to hold, each.
fn inner(message: &[u8], path: &[u8], take: &mut impl FnMut(&[u8])) {
    let Some((first, rest)) = path.split_first() else { return take(message) };
    for (field, value, _) in raw_fields(message) {
        if let Value::Len(contents) = value
            && field == u32::from(*first)
        {
            inner(contents, rest, take);
        }
    }
}

/// `request`, which passed the check of [`crate::view`], without the canaries in it, and those. Costs a walk over the scopes;
/// a request with a canary is copied. What it gives passes the check too; without any record left it is empty.
#[must_use]
pub fn take_out(request: &[u8]) -> (Cow<'_, [u8]>, Vec<Canary>) {
    let mut scopes = LogsRequest::trusted(request).resources().flat_map(|group| group.scopes());
    if !scopes.any(|scope| scope.name == SCOPE) {
        return (Cow::Borrowed(request), Vec::new());
    }
    let (mut canaries, mut out) = (Vec::new(), Vec::with_capacity(request.len()));
    for (field, value, raw) in raw_fields(request) {
        match value {
            Value::Len(group) if field == u32::from(GROUP) => of_group(group, raw, &mut out, &mut canaries),
            _ => out.extend_from_slice(raw),
        }
    }
    if canaries.is_empty() { (Cow::Borrowed(request), canaries) } else { (Cow::Owned(out), canaries) }
}

/// Writes a `ResourceLogs` without its canaries; one that has nothing else is left out.
fn of_group(group: &[u8], raw: &[u8], out: &mut Vec<u8>, canaries: &mut Vec<Canary>) {
    let before = canaries.len();
    let (mut left, mut any) = (Vec::new(), false);
    for (field, value, raw) in raw_fields(group) {
        match value {
            Value::Len(scope) if field == u32::from(SCOPE_LOGS) => {
                any |= of_scope(scope, raw, &mut left, canaries);
            }
            _ => left.extend_from_slice(raw),
        }
    }
    if canaries.len() == before {
        out.extend_from_slice(raw);
    } else if any {
        put_bytes(out, GROUP, &left);
    }
}

/// The same of a `ScopeLogs`; says whether anything is left of it.
fn of_scope(scope: &[u8], raw: &[u8], out: &mut Vec<u8>, canaries: &mut Vec<Canary>) -> bool {
    let view = LogsRequest::scope(scope);
    let before = canaries.len();
    let mut records = view.records();
    let (mut left, mut any) = (Vec::new(), false);
    for (field, value, raw) in raw_fields(scope) {
        let is_record = field == u32::from(RECORDS) && matches!(value, Value::Len(_));
        let canary = if is_record { records.next() } else { None };
        match canary.and_then(|record| Canary::read(view.name, &record)) {
            Some(canary) => canaries.push(canary),
            None => {
                any |= is_record;
                left.extend_from_slice(raw);
            }
        }
    }
    if canaries.len() == before {
        out.extend_from_slice(raw);
        return true;
    }
    if any {
        put_bytes(out, SCOPE_LOGS, &left);
    }
    any
}

#[cfg(test)]
mod tests;
