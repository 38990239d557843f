//! What sinks refused for good, kept for people: `data_dir/dead-letter/<sink>/<Unix ms>-<n>.ndjson`.
//!
//! One JSON object a line: `time`, `sink`, `code` and `reason` of the refusal, `received`, the `frame`'s place in the
//! queue, and what was refused: a log record as `request`, an OTLP/JSON `ExportLogsServiceRequest` of that one record
//! (to be posted to `/v1/logs` as it is), with its number in the frame as `record`; data points and spans as the
//! `request` of all that were refused for the same reason, up to 256 KiB of them a line, with their `signal`, their
//! count as `records` and the number of the first as `record`; a frame that cannot be read as `payload`, in base64,
//! with its `codec`.
//!
//! Lines are durable when [`Shelf::put`] returns. All sinks together stay within `max_bytes`: when there is more, the
//! oldest files go first, whosever they are, and what was in them is counted. Files end at an eighth of that, or at
//! 16 MiB. A file is never appended to by a later process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use prost::Message;
use serde_json::{Value, json};

use super::batch::{Refusal, Unit};
use super::select::select;
use crate::queue::{Entry, Position, Signal};
use crate::time;

const FILE_BYTES: u64 = 16 << 20;
/// Most bytes of the points or spans of a line, as protobuf.
const GROUP_BYTES: usize = 256 << 10;
const SUFFIX: &str = ".ndjson";

/// The dead letters of all sinks.
pub struct DeadLetters {
    dir: PathBuf,
    max_bytes: u64,
    files: Mutex<Files>,
    bytes: AtomicU64,
    dropped: AtomicU64,
    next: AtomicU64,
}

/// In the order in which they were begun.
type Files = BTreeMap<(u64, u64), Kept>;

struct Kept {
    path: PathBuf,
    bytes: u64,
}

/// One sink's place among them.
pub struct Shelf {
    letters: Arc<DeadLetters>,
    dir: PathBuf,
    open: Mutex<Option<Open>>,
}

struct Open {
    key: (u64, u64),
    file: File,
    bytes: u64,
}

impl DeadLetters {
    /// Looks at what is there.
    ///
    /// # Errors
    /// A directory that is there but cannot be listed.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Arc<Self>> {
        let mut files = BTreeMap::new();
        for sink in list(dir)? {
            for path in list(&sink)? {
                let Some(key) = key(&path) else { continue };
                let bytes = fs::metadata(&path)?.len();
                files.insert(key, Kept { path, bytes });
            }
        }
        let bytes = files.values().map(|kept| kept.bytes).sum();
        let letters = Self {
            files: Mutex::default(),
            dir: dir.to_owned(),
            max_bytes,
            bytes: AtomicU64::new(bytes),
            dropped: AtomicU64::new(0),
            next: AtomicU64::new(0),
        };
        letters.make_room(&mut files);
        *letters.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        Ok(Arc::new(letters))
    }

    /// The place of the sink `name`.
    pub fn shelf(self: &Arc<Self>, name: &str) -> Shelf {
        Shelf { letters: Arc::clone(self), dir: self.dir.join(name), open: Mutex::default() }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lines that were deleted to keep within the bound, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn make_room(&self, files: &mut Files) {
        while self.bytes() > self.max_bytes
            && let Some((_, kept)) = files.pop_first()
        {
            let lines = fs::read(&kept.path).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
            if let Err(error) = fs::remove_file(&kept.path) {
                tracing::warn!(path = %kept.path.display(), %error, "an old file of dead letters stays");
            }
            tracing::warn!(path = %kept.path.display(), lines, "the oldest dead letters are deleted: dead_letter.max_bytes");
            self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            self.bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
        }
    }
}

impl Shelf {
    /// Appends whole lines; they are durable when this returns. Blocks.
    ///
    /// # Errors
    /// What the disk said; then none of it is there.
    pub fn put(&self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        // Held throughout, so that no other sink's need for room deletes the file that is written to. Refusals are rare.
        let mut files = self.letters.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let most = FILE_BYTES.min(self.letters.max_bytes / 8);
        if open.as_ref().is_some_and(|open| open.bytes >= most || !files.contains_key(&open.key)) {
            *open = None;
        }
        let target = match &mut *open {
            Some(target) => target,
            none => none.insert(self.create(&mut files)?),
        };
        let written = target.file.write_all(lines).and_then(|()| target.file.sync_data());
        if let Err(error) = written {
            // What is half there must not be read as a line; the next try begins a file.
            let _ = target.file.set_len(target.bytes);
            *open = None;
            return Err(error);
        }
        let added = lines.len() as u64;
        target.bytes += added;
        if let Some(kept) = files.get_mut(&target.key) {
            kept.bytes += added;
        }
        self.letters.bytes.fetch_add(added, Ordering::Relaxed);
        self.letters.make_room(&mut files);
        Ok(())
    }

    fn create(&self, files: &mut Files) -> io::Result<Open> {
        fs::create_dir_all(&self.dir)?;
        let key = (now_ms(), self.letters.next.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.join(format!("{:013}-{}{SUFFIX}", key.0, key.1));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        for dir in
            [Some(self.dir.as_path()), self.dir.parent(), self.letters.dir.parent()].into_iter().flatten()
        {
            File::open(dir)?.sync_all()?;
        }
        files.insert(key, Kept { path, bytes: 0 });
        Ok(Open { key, file, bytes: 0 })
    }
}

/// Lines for refused records of a batch.
pub fn lines(sink: &str, units: &[Unit], refusals: &[Refusal]) -> Vec<u8> {
    let mut out = Vec::new();
    for unit in units {
        let range = unit.first..unit.first + unit.records;
        let mut refused = refusals.iter().filter(|refusal| range.contains(&refusal.record)).peekable();
        if refused.peek().is_none() {
            continue;
        }
        if unit.signal != Signal::Logs {
            grouped(sink, unit, refused, &mut out);
            continue;
        }
        let request = ExportLogsServiceRequest::decode(&unit.bytes[..]).unwrap_or_default();
        for refusal in refused {
            let number = refusal.record - unit.first;
            let mut line = head(sink, &refusal.code, &refusal.reason, unit.received_unix_nano, unit.position);
            line["record"] = number.into();
            line["request"] = alone(&request, number).and_then(|one| serde_json::to_value(one).ok()).into();
            push(&line, &mut out);
        }
    }
    out
}

/// Lines for data points or spans that were refused, each with all that were refused for one reason.
fn grouped<'r>(sink: &str, unit: &Unit, refused: impl Iterator<Item = &'r Refusal>, out: &mut Vec<u8>) {
    let mut reasons: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for Refusal { record, code, reason } in refused {
        reasons.entry((code, reason)).or_default().push(*record);
    }
    for ((code, reason), mut records) in reasons {
        records.sort_unstable();
        let mut left = records.as_slice();
        while let Some(first) = left.first() {
            let (request, taken) = select(unit, left, GROUP_BYTES, usize::MAX, true);
            let mut line = head(sink, code, reason, unit.received_unix_nano, unit.position);
            line["signal"] = unit.signal.name().into();
            line["record"] = (first - unit.first).into();
            line["records"] = taken.len().into();
            line["request"] = content(unit.signal, &request).unwrap_or_default();
            push(&line, out);
            // One is taken in any case; what is not there would be another request's.
            left = left.get(taken.len().max(1)..).unwrap_or_default();
        }
    }
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
    let mut line = head(sink, "unreadable", reason, entry.frame.received_unix_nano, entry.position);
    line["signal"] = entry.frame.signal.name().into();
    line["records"] = entry.frame.records.into();
    line["codec"] = format!("{:?}", entry.frame.codec).to_lowercase().into();
    let mut payload = Vec::new();
    crate::json::write_base64(&entry.frame.payload, &mut payload);
    line["payload"] = String::from_utf8_lossy(&payload).trim_matches('"').into();
    push(&line, &mut out);
    out
}

fn head(sink: &str, code: &str, reason: &str, received_unix_nano: u64, at: Position) -> Value {
    json!({
        "time": time::format(now_ms() * 1_000_000),
        "sink": sink,
        "code": code,
        "reason": reason,
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

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        // Not there yet, or a file that somebody put beside the directories.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// When a file was begun, and its number then: files go in this order.
fn key(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let (ms, number) = name.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path) -> Vec<String> {
        let mut files: Vec<PathBuf> =
            list(dir).unwrap().iter().flat_map(|sink| list(sink).unwrap()).collect();
        files.sort_by_key(|path| key(path));
        files
            .iter()
            .flat_map(|f| fs::read_to_string(f).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn all_sinks_together_stay_within_the_bound_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead-letter");
        for life in 0..2_u64 {
            let letters = DeadLetters::open(&path, 8000).unwrap();
            let shelves = [letters.shelf("a"), letters.shelf("b")];
            for n in 0..100 {
                let line = format!("{{\"life\":{life},\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(100));
                shelves[n % 2].put(line.as_bytes()).unwrap();
                assert!(letters.bytes() <= 8000, "{}", letters.bytes());
            }
            let kept = read(&path);
            assert!(kept.len() > 40, "{}", kept.len());
            let newest = format!("\"life\":{life},\"n\":99");
            assert!(kept.iter().any(|line| line.contains(&newest)));
            assert!(kept.iter().all(|line| line.contains(&format!("\"life\":{life}"))), "the oldest went");
            assert!(letters.dropped() > 0);
            let on_disk: u64 = list(&path)
                .unwrap()
                .iter()
                .flat_map(|s| list(s).unwrap())
                .map(|f| fs::metadata(f).unwrap().len())
                .sum();
            assert_eq!(on_disk, letters.bytes());
        }
    }
}
