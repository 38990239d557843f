//! Records as the body of a `_bulk` request, a bounded piece at a time.
//!
//! The body is gzip, written document by document: in memory are one document, and what is compressed of at most
//! [`BYTES`] (or of one document that is larger).

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sonde_wire::attrs::keys;
use sonde_wire::view::{AnyValueView, LogsRequest, RecordView};

use super::document::Writer;
use crate::deliver::batch::{State, Unit};
use crate::time;

/// Bytes of a body before compression. Servers take 100 MiB by default, some proxies one.
pub const BYTES: usize = 4 << 20;
/// Documents of a body: bounds the answer, which may say a kilobyte about each.
pub const DOCUMENTS: usize = 4096;

/// A `_bulk` body.
pub struct Bulk {
    /// gzip.
    pub body: Bytes,
    /// The record behind each action, by its number in the batch.
    pub records: Vec<usize>,
    /// The `_id` of each.
    pub ids: Vec<String>,
    /// Bytes before compression.
    pub bytes: usize,
}

/// How much goes into a body.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Bytes before compression; one document always goes.
    pub bytes: usize,
    /// Documents.
    pub documents: usize,
}

impl Piece {
    /// After a success: back towards the default.
    pub fn doubled(self) -> Self {
        Self { bytes: (self.bytes * 2).min(BYTES), documents: (self.documents * 2).min(DOCUMENTS) }
    }
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: BYTES, documents: DOCUMENTS }
    }
}

/// The next unsettled records from number `from` on; `None` when there are none.
pub fn encode(
    units: &[Unit],
    states: &[State],
    from: usize,
    piece: Piece,
    writer: &Writer,
    collector: &str,
) -> Option<Bulk> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(64 << 10), Compression::fast());
    let (mut records, mut ids, mut bytes, mut line) = (Vec::new(), Vec::new(), 0, Vec::new());
    'all: for unit in units.iter().filter(|unit| unit.first + unit.records > from) {
        let mut number = unit.first;
        for resource in LogsRequest::trusted(&unit.bytes).resources() {
            for scope in resource.scopes() {
                let mut common = None;
                for record in scope.records() {
                    let this = number;
                    number += 1;
                    if this < from || !states.get(this).is_some_and(|state| state.is_open()) {
                        continue;
                    }
                    let common = common.get_or_insert_with(|| writer.common(&resource, &scope));
                    let id = id(&record, unit, this - unit.first, collector);
                    line.clear();
                    line.extend_from_slice(b"{\"create\":{\"_id\":\"");
                    line.extend_from_slice(id.as_bytes());
                    line.extend_from_slice(b"\"}}\n");
                    writer.write(
                        &record,
                        common,
                        time::of_record(&record, unit.received_unix_nano),
                        &mut line,
                    );
                    line.push(b'\n');
                    if !ids.is_empty() && (bytes + line.len() > piece.bytes || ids.len() >= piece.documents) {
                        break 'all;
                    }
                    bytes += line.len();
                    // Writing into a Vec cannot fail.
                    let _ = gzip.write_all(&line);
                    records.push(this);
                    ids.push(id);
                }
            }
        }
    }
    if ids.is_empty() {
        return None;
    }
    let body = Bytes::from(gzip.finish().unwrap_or_default());
    Some(Bulk { body, records, ids, bytes })
}

/// The name of a record's document: 12 hex digits of its milliseconds, so that what is written together lies
/// together in the index, and its uid. The time of a line that the runtime did not stamp is when it was read, which
/// another reading changes: there the digits are 0.
///
/// A record without a uid is named by its place in this collector's queue.
pub fn id(record: &RecordView<'_>, unit: &Unit, number: usize, collector: &str) -> String {
    let millis = time::of_record(record, unit.received_unix_nano) / 1_000_000;
    match record.uid() {
        Some(uid) => {
            let millis = if is_stamped(record) { millis } else { 0 };
            let hex = uid.hex();
            format!("{millis:012x}{}", String::from_utf8_lossy(&hex))
        }
        None => {
            let at = unit.position;
            format!("{millis:012x}-{collector}-{:x}-{:x}-{number:x}", at.segment, at.offset)
        }
    }
}

/// A record that may be at the destination: what to look for, and where not to.
pub struct Wanted {
    /// The record's number in the batch.
    pub record: usize,
    /// Its document's name.
    pub id: String,
    /// It cannot have been sent before this, Unix milliseconds.
    pub written_ms: u64,
}

/// Every record in doubt.
pub fn in_doubt(units: &[Unit], states: &[State], collector: &str) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for unit in units {
        let requests = LogsRequest::trusted(&unit.bytes);
        let records =
            requests.resources().flat_map(|resource| resource.scopes()).flat_map(|scope| scope.records());
        for (number, record) in records.enumerate() {
            let this = unit.first + number;
            if states.get(this) != Some(&State::InDoubt) {
                continue;
            }
            let times = [record.time_unix_nano, record.observed_time_unix_nano, unit.received_unix_nano];
            let earliest = times.into_iter().filter(|time| *time != 0).min().unwrap_or(0);
            let written_ms = if is_stamped(&record) { earliest / 1_000_000 } else { 0 };
            wanted.push(Wanted { record: this, id: id(&record, unit, number, collector), written_ms });
        }
    }
    wanted
}

/// Whether the record's time is part of the file that it came from.
fn is_stamped(record: &RecordView<'_>) -> bool {
    record.time_unix_nano != 0
        && !matches!(record.attributes().get(keys::MALFORMED), Some(AnyValueView::Bool(true)))
}

#[cfg(test)]
mod tests;
