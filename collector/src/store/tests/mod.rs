//! The store's promises, against a plain list of records.

mod damage;
mod once;
mod retention;
mod search;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::LogsRequest;

use super::*;
use crate::queue::Position;

type Hook = Box<dyn FnMut(&'static str) -> io::Result<()>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Where the writer is; what a test wants to happen there.
pub fn reached(step: &'static str) -> io::Result<()> {
    HOOK.with_borrow_mut(|hook| hook.as_mut().map_or(Ok(()), |hook| hook(step)))
}

fn set_hook(hook: impl FnMut(&'static str) -> io::Result<()> + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// A record as a test writes it down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub time: u64,
    pub uid: Option<(u8, u64)>,
    pub pod: u8,
    pub severity: u8,
    pub body: String,
}

impl Line {
    pub fn new(time: u64, file: u8, offset: u64, body: &str) -> Self {
        Self { time, uid: Some((file, offset)), pod: file, severity: 9, body: body.to_owned() }
    }

    fn uid_text(&self) -> Option<String> {
        self.uid.map(|(file, offset)| format!("{:02x}{}{offset:012x}", file, "5a".repeat(9)))
    }

    fn key(&self) -> (u64, [u8; 16]) {
        let mut uid = [0; 16];
        if let Some((file, offset)) = self.uid {
            uid[..10].fill(0x5a);
            uid[0] = file;
            uid[10..].copy_from_slice(&offset.to_be_bytes()[2..]);
        }
        (self.time, uid)
    }

    fn namespace(&self) -> String {
        format!("ns-{}", self.pod % 2)
    }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

pub fn request(lines: &[Line]) -> Vec<u8> {
    let mut request = ExportLogsServiceRequest::default();
    for line in lines {
        let record = LogRecord {
            time_unix_nano: line.time,
            severity_number: i32::from(line.severity),
            body: Some(AnyValue { value: Some(Value::StringValue(line.body.clone())) }),
            attributes: line
                .uid_text()
                .map(|uid| text("log.record.uid", &uid))
                .into_iter()
                .chain([text("log.iostream", "stdout")])
                .collect(),
            ..LogRecord::default()
        };
        let attributes = vec![
            text("k8s.namespace.name", &line.namespace()),
            text("k8s.pod.name", &format!("pod-{}", line.pod)),
            text("app", "x"),
        ];
        request.resource_logs.push(ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        });
    }
    request.encode_to_vec()
}

/// Small bounds, so that a few records make commits and slices.
pub fn options() -> StoreOptions {
    StoreOptions {
        commit_bytes: 64 << 10,
        commit_interval: Duration::from_millis(50),
        slice_age: Duration::from_secs(1),
        ..StoreOptions::default()
    }
}

pub fn ingest(writer: &mut Writer, lines: &[Line], position: u64, now_ms: u64) {
    let bytes = request(lines);
    let (request, _) = LogsRequest::check(&bytes, &ViewLimits::default()).unwrap();
    writer.ingest(request, 1, Position { segment: 1, offset: position }, now_ms);
}

fn found(store: &Store, filter: Filter, order: Order, limit: usize) -> Vec<((u64, [u8; 16]), String)> {
    let mut query = store.query(filter, order);
    let mut found = Vec::new();
    while found.len() < limit {
        let take = |_: &Origin, row: &Row<'_>| {
            found.push((row.key(), String::from_utf8(row.body.to_vec()).unwrap()));
        };
        if query.step(take) == Step::End {
            break;
        }
    }
    assert_eq!(query.errors(), 0);
    found
}

fn all(store: &Store) -> Vec<((u64, [u8; 16]), String)> {
    let found = found(store, Filter::default(), Order::Ascending, usize::MAX);
    let count = store.count(Filter::default(), || true).unwrap();
    assert_eq!(count, Count { records: found.len() as u64, errors: 0 });
    found
}

fn listed(lines: &[Line]) -> Vec<((u64, [u8; 16]), String)> {
    let mut listed: Vec<_> = lines.iter().map(|line| (line.key(), line.body.clone())).collect();
    listed.sort();
    listed
}

fn lines(file: u8, count: u64) -> Vec<Line> {
    (0..count).map(|n| Line::new(1000 + n, file, n * 10, &format!("line {n} of file {file}"))).collect()
}

/// Copies a store as it is at this moment; once more where the index deleted merged segments meanwhile.
fn copy(from: &Path, to: &Path) {
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    // First what names the others: what it names then is deleted only after it was replaced.
    entries.sort_by_key(|entry| entry.file_name() != "meta.json");
    for entry in entries {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
