//! The lines of dead letters: a refused record, or some, as one JSON object.

use std::cmp::Ordering;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use prost::Message;
use serde_json::{Value, json};

use super::now_ms;
use crate::deliver::batch::{Refusal, Unit, Why};
use crate::deliver::select::select;
use crate::queue::{Entry, Position, Signal};
use crate::time;

/// Most bytes of the points or spans of a line, and of the log records that are decoded at a time, as protobuf.
const GROUP_BYTES: usize = 256 << 10;
/// And how many.
const GROUP_RECORDS: usize = 4096;
/// Bytes of lines that are made before they are kept.
const SOME_BYTES: usize = 1 << 20;

/// Lines for refused records of a batch, some at a time.
///
/// Memory: 16 bytes a refusal; [`GROUP_BYTES`] of records as protobuf and decoded, and [`SOME_BYTES`] of lines, or one
/// record with its resource, decoded and as JSON.
pub struct Lines {
    sink: String,
    units: Arc<[Unit]>,
    /// By their place in the batch; data points and spans of a unit by their reason first.
    refusals: Vec<Refusal>,
    /// The first that has no line yet.
    next: usize,
    /// Log records from there on, without the others of their unit.
    part: Option<Part>,
}

/// Some refused log records of a unit, decoded.
struct Part {
    request: ExportLogsServiceRequest,
    /// How many, and how many of them have a line.
    records: usize,
    done: usize,
}

impl Lines {
    /// Lines for `refusals` of the batch of `units`. Sorts.
    pub fn new(sink: String, units: Arc<[Unit]>, mut refusals: Vec<Refusal>) -> Self {
        refusals.sort_unstable_by(|a, b| {
            let (of_a, of_b) = (place(&units, a.record), place(&units, b.record));
            of_a.cmp(&of_b)
                .then_with(|| if is_grouped(&units, of_a) { a.why.cmp(&b.why) } else { Ordering::Equal })
                .then_with(|| a.record.cmp(&b.record))
        });
        Self { sink, units, refusals, next: 0, part: None }
    }

    /// The next ones, about [`SOME_BYTES`]; none at the end.
    pub fn some(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < SOME_BYTES && self.one(&mut out) {}
        out
    }

    /// Writes a line; false at the end.
    fn one(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(first) = self.refusals.get(self.next) else { return false };
        let at = place(&self.units, first.record);
        let Some(unit) = self.units.get(at) else { return false };
        let number = first.record - unit.first;
        let mut line = head(&self.sink, &first.why, unit.received_unix_nano, unit.position);
        line["record"] = number.into();
        if is_grouped(&self.units, at) {
            let (request, taken) = self.select(unit, |other| other.why == first.why);
            line["signal"] = unit.signal.name().into();
            line["records"] = taken.into();
            line["request"] = content(unit.signal, &request).unwrap_or_default();
            // One is taken in any case; what is not there would be another request's.
            self.next += taken.max(1);
        } else {
            let mut part = match self.part.take() {
                Some(part) => part,
                None => {
                    let (request, records) = self.select(unit, |_| true);
                    let request = ExportLogsServiceRequest::decode(&request[..]).unwrap_or_default();
                    Part { request, records, done: 0 }
                }
            };
            let one = alone(&part.request, part.done);
            line["request"] = one.and_then(|one| serde_json::to_value(one).ok()).into();
            part.done += 1;
            self.part = (part.done < part.records).then_some(part);
            self.next += 1;
        }
        push(&line, out);
        true
    }

    /// A request of the next refused records of a unit that are `like` the first, and how many those are.
    fn select(&self, unit: &Unit, like: impl Fn(&Refusal) -> bool) -> (Vec<u8>, usize) {
        let end = unit.first + unit.records;
        let next = self.refusals.get(self.next..).unwrap_or_default().iter();
        let next = next.take_while(|other| other.record < end && like(other)).take(GROUP_RECORDS);
        let records: Vec<usize> = next.map(|refusal| refusal.record).collect();
        let (request, taken) = select(unit, &records, GROUP_BYTES, usize::MAX, true);
        (request, taken.len())
    }
}

/// The place of the unit that a record is in.
fn place(units: &[Unit], record: usize) -> usize {
    units.partition_point(|unit| unit.first + unit.records <= record)
}

/// Whether what is refused of a unit for one reason shares lines.
fn is_grouped(units: &[Unit], place: usize) -> bool {
    units.get(place).is_some_and(|unit| unit.signal != Signal::Logs)
}

/// A request as OTLP/JSON; the text says why it cannot be read.
pub fn content(signal: Signal, request: &[u8]) -> Result<Value, String> {
    let json = match signal {
        Signal::Logs => ExportLogsServiceRequest::decode(request).map(serde_json::to_value),
        Signal::Metrics => ExportMetricsServiceRequest::decode(request).map(serde_json::to_value),
        Signal::Traces => ExportTraceServiceRequest::decode(request).map(serde_json::to_value),
    };
    match json {
        Ok(Ok(json)) => Ok(json),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The line for a frame that cannot be read.
pub fn unreadable(sink: &str, entry: &Entry, reason: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let why = Why { code: "unreadable".to_owned(), reason: reason.to_owned() };
    let mut line = head(sink, &why, entry.frame.received_unix_nano, entry.position);
    line["signal"] = entry.frame.signal.name().into();
    line["records"] = entry.frame.records.into();
    line["codec"] = format!("{:?}", entry.frame.codec).to_lowercase().into();
    let mut payload = Vec::new();
    crate::json::write_base64(&entry.frame.payload, &mut payload);
    line["payload"] = String::from_utf8_lossy(&payload).trim_matches('"').into();
    push(&line, &mut out);
    out
}

fn head(sink: &str, why: &Why, received_unix_nano: u64, at: Position) -> Value {
    json!({
        "time": time::format(now_ms() * 1_000_000),
        "sink": sink,
        "code": why.code,
        "reason": why.reason,
        "received": time::format(received_unix_nano),
        "frame": {"segment": at.segment, "offset": at.offset},
    })
}

fn push(line: &Value, out: &mut Vec<u8>) {
    // Writing JSON into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

/// A request of the record with this number alone.
fn alone(request: &ExportLogsServiceRequest, mut number: usize) -> Option<ExportLogsServiceRequest> {
    for resource in &request.resource_logs {
        for scope in &resource.scope_logs {
            let Some(record) = scope.log_records.get(number) else {
                number -= scope.log_records.len();
                continue;
            };
            let scope = ScopeLogs {
                scope: scope.scope.clone(),
                log_records: vec![record.clone()],
                schema_url: scope.schema_url.clone(),
            };
            let resource = ResourceLogs {
                resource: resource.resource.clone(),
                scope_logs: vec![scope],
                schema_url: resource.schema_url.clone(),
            };
            return Some(ExportLogsServiceRequest { resource_logs: vec![resource] });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;
    use crate::store::tests::text;

    /// A request of so many records, all of one resource of 2 KiB.
    fn unit(first: usize, records: usize) -> Unit {
        let record = |n: usize| LogRecord {
            time_unix_nano: n as u64,
            body: Some(AnyValue { value: Some(any_value::Value::StringValue(format!("line {n}"))) }),
            ..LogRecord::default()
        };
        let log_records = (first..first + records).map(record).collect();
        let resource = ResourceLogs {
            resource: Some(Resource {
                attributes: vec![text("k", &"v".repeat(2048))],
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        };
        let bytes = Bytes::from(ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec());
        let position = Position { segment: 1, offset: first as u64 };
        Unit {
            signal: Signal::Logs,
            position,
            received_unix_nano: 1,
            bytes,
            first,
            records,
            came: None,
            resend: false,
        }
    }

    #[test]
    fn what_is_refused_becomes_lines_some_at_a_time_and_each_record_has_its_own() {
        const RECORDS: usize = 10_000;
        let units: Arc<[Unit]> = [unit(0, RECORDS), unit(RECORDS, 3)].into();
        let why = Arc::new(Why { code: "400".to_owned(), reason: "no".to_owned() });
        let refused: Vec<usize> = (0..RECORDS + 3).filter(|record| record % 7 != 3).collect();
        // In whatever order they came.
        let refusals = refused.iter().rev().map(|record| Refusal { record: *record, why: Arc::clone(&why) });
        let mut lines = Lines::new("es".to_owned(), units, refusals.collect());
        let (mut found, mut pieces) = (Vec::new(), 0);
        loop {
            let some = lines.some();
            if some.is_empty() {
                break;
            }
            assert!(some.len() < SOME_BYTES + 4096, "{} bytes at a time", some.len());
            pieces += 1;
            for line in some.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n') {
                let line: Value = serde_json::from_slice(line).unwrap();
                let resources = line["request"]["resourceLogs"].as_array().unwrap();
                let records = resources[0]["scopeLogs"][0]["logRecords"].as_array().unwrap();
                assert_eq!((resources.len(), records.len()), (1, 1));
                assert_eq!(resources[0]["resource"]["attributes"][0]["key"], "k");
                let unit = if line["frame"]["offset"] == 0 { 0 } else { RECORDS };
                let record = unit + usize::try_from(line["record"].as_u64().unwrap()).unwrap();
                assert_eq!(records[0]["body"]["stringValue"], format!("line {record}"));
                found.push(record);
            }
        }
        assert_eq!(found, refused);
        assert!(pieces > 15, "{pieces}");
    }
}
