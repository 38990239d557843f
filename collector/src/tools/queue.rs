//! `queue ls`, `verify` and `dump`: a look at the files, whoever has them open.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sonde_daemon::args::FAILED;

use super::{ToolError, content, size};
use crate::queue::inspect::{Found, Inspection};
use crate::queue::{Cursor, Entry, Position, Signal};
use crate::time;

/// The directories of the queues that are looked at.
pub struct Dirs(Vec<(Signal, PathBuf)>);

impl Dirs {
    /// That of one signal, or of all: of logs in any case, of the others where they are there.
    pub fn of(data_dir: &Path, only: Option<Signal>) -> Self {
        let all = Signal::ALL.into_iter().map(|signal| (signal, data_dir.join(signal.directory())));
        let wanted = |(signal, dir): &(Signal, PathBuf)| match only {
            Some(only) => *signal == only,
            None => *signal == Signal::Logs || dir.exists(),
        };
        Self(all.filter(wanted).collect())
    }

    /// Names each queue where there are several.
    fn title(&self, signal: Signal, out: &mut dyn Write) -> io::Result<()> {
        if self.0.len() > 1 { writeln!(out, "{}:", signal.name()) } else { Ok(()) }
    }
}

fn inspect(dir: &Path) -> Result<Inspection, ToolError> {
    let what = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("no queue in {} (is `data_dir` of --config the collector's?)", dir.display())
        }
        _ => dir.display().to_string(),
    };
    Inspection::of(dir).map_err(|error| ToolError::Read { what: what(&error), source: error })
}

/// Lists segments and cursors.
///
/// # Errors
/// A directory that cannot be read, an output that cannot be written.
pub fn ls(dirs: &Dirs, as_json: bool, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
    for (signal, dir) in &dirs.0 {
        let queue = inspect(dir)?;
        if as_json {
            writeln!(out, "{}", overview(*signal, dir, &queue))?;
        } else {
            dirs.title(*signal, out)?;
            list(&queue, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(queue: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{:<20}  {:>10}  {:<30}  state", "segment", "size", "begun")?;
    for segment in &queue.segments {
        let begun = segment.created_unix_nano.map_or_else(|| "?".to_owned(), time::format);
        let state = match (segment.created_unix_nano, segment.sealed_end) {
            (None, _) => "header damaged",
            (_, Some(_)) => "sealed",
            (_, None) => "open, or left open by a crash",
        };
        writeln!(out, "{:020}  {:>10}  {begun:<30}  {state}", segment.number, size(segment.bytes))?;
    }
    let total = queue.segments.iter().map(|segment| segment.bytes).sum();
    writeln!(out, "{} segments, {}", queue.segments.len(), size(total))?;
    if queue.set_aside > 0 {
        writeln!(
            out,
            "{} damaged segments were set aside, {}",
            queue.set_aside,
            size(queue.set_aside_bytes)
        )?;
    }
    if queue.cursors_damaged {
        writeln!(out, "the cursor file is damaged")?;
    }
    for Cursor { name, position } in &queue.cursors {
        let Position { segment, offset } = position;
        let behind = size(queue.bytes_from(*position));
        writeln!(out, "sink {name}: at {segment}:{offset}, at most {behind} behind")?;
    }
    Ok(())
}

fn overview(signal: Signal, dir: &Path, queue: &Inspection) -> Value {
    let segments: Vec<Value> = queue
        .segments
        .iter()
        .map(|segment| {
            json!({"number": segment.number, "bytes": segment.bytes, "sealed": segment.sealed_end.is_some(),
                "created": segment.created_unix_nano.map(time::format)})
        })
        .collect();
    let cursors: Vec<Value> = queue
        .cursors
        .iter()
        .map(|Cursor { name, position }| {
            json!({"sink": name, "segment": position.segment, "offset": position.offset,
                "bytes_behind_at_most": queue.bytes_from(*position)})
        })
        .collect();
    json!({
        "signal": signal.name(), "dir": dir.display().to_string(), "segments": segments, "cursors": cursors,
        "cursor_file_damaged": queue.cursors_damaged,
        "set_aside": {"segments": queue.set_aside, "bytes": queue.set_aside_bytes},
        "missing": {"segments": queue.missing.0, "bytes_at_least": queue.missing.1},
    })
}

/// Reads all frames and says what is damaged; then the code is 1.
///
/// # Errors
/// As [`ls`].
pub fn verify(dirs: &Dirs, as_json: bool, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
    let mut whole = true;
    for (signal, dir) in &dirs.0 {
        if !as_json {
            dirs.title(*signal, out)?;
        }
        whole &= verify_one(*signal, dir, as_json, out)?;
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn verify_one(signal: Signal, dir: &Path, as_json: bool, out: &mut dyn Write) -> Result<bool, ToolError> {
    let queue = inspect(dir)?;
    let mut total = Found::default();
    let mut segments = Vec::new();
    let mut whole = !queue.cursors_damaged && queue.missing.0 == 0;
    for segment in &queue.segments {
        let number = segment.number;
        let found = match queue.walk(number, Position::default(), |_| ControlFlow::Continue(())) {
            // A running collector is done with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(ToolError::read(format!("segment {number}")))?,
        };
        whole &= found.damaged.is_empty() && !found.header_damaged;
        total.frames += found.frames;
        total.records += found.records;
        total.payload_bytes += found.payload_bytes;
        if as_json {
            segments.push(report(number, &found));
        } else {
            show(number, &found, out)?;
        }
    }
    let Found { frames, records, payload_bytes, .. } = total;
    if as_json {
        let mut all = overview(signal, dir, &queue);
        all["segments"] = segments.into();
        all["whole"] = whole.into();
        writeln!(out, "{all}")?;
    } else {
        if queue.cursors_damaged {
            writeln!(
                out,
                "the cursor file is damaged: sinks without a position of their own begin at the oldest frame"
            )?;
        }
        let (missing, bytes) = queue.missing;
        if missing > 0 {
            writeln!(
                out,
                "{missing} segments are gone that a sink was not done with: at least {}",
                size(bytes)
            )?;
        }
        let verdict = if whole { "whole" } else { "damaged" };
        let payload = size(payload_bytes);
        writeln!(out, "{frames} frames, {records} records, {payload} of requests: {verdict}")?;
    }
    Ok(whole)
}

fn show(number: u64, found: &Found, out: &mut dyn Write) -> io::Result<()> {
    let Found { frames, records, torn_bytes, .. } = found;
    write!(out, "{number:020}  {frames} frames, {records} records")?;
    if *torn_bytes > 0 {
        write!(out, ", {} not acknowledged (a write under way, or cut off)", size(*torn_bytes))?;
    }
    writeln!(out)?;
    if found.header_damaged {
        writeln!(out, "  damaged: its header, so that nothing in it can be read")?;
    }
    for (from, to, frames) in &found.damaged {
        writeln!(out, "  damaged: {frames} frames at least, from {from} to {to}")?;
    }
    Ok(())
}

fn report(number: u64, found: &Found) -> Value {
    let damaged: Vec<Value> = found
        .damaged
        .iter()
        .map(|(from, to, frames)| json!({"from": from, "to": to, "frames_at_least": frames}))
        .collect();
    json!({"number": number, "frames": found.frames, "records": found.records,
        "payload_bytes": found.payload_bytes, "damaged": damaged, "header_damaged": found.header_damaged,
        "not_acknowledged_bytes": found.torn_bytes})
}

/// What of the frames is printed.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// The first one.
    pub from: Position,
    /// How many at most; 0 = all.
    pub limit: u64,
    /// For programs.
    pub json: bool,
    /// With the request itself.
    pub content: bool,
}

/// Prints frames, oldest first.
///
/// # Errors
/// As [`ls`].
pub fn dump(dirs: &Dirs, dump: Dump, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
    let mut left = if dump.limit == 0 { u64::MAX } else { dump.limit };
    for (_, dir) in &dirs.0 {
        if left > 0 {
            left = dump_one(dir, dump, left, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints at most `left` frames of a queue; how many may follow.
fn dump_one(dir: &Path, dump: Dump, mut left: u64, out: &mut dyn Write) -> Result<u64, ToolError> {
    let queue = inspect(dir)?;
    let mut written = Ok(());
    for segment in queue.segments.iter().filter(|segment| segment.number >= dump.from.segment) {
        let found = queue.walk(segment.number, dump.from, |entry| {
            written = print(&entry, dump, out);
            left -= 1;
            if left == 0 || written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ToolError::Read { what: format!("segment {}", segment.number), source });
            }
            Ok(_) => std::mem::replace(&mut written, Ok(()))?,
        }
        if left == 0 {
            break;
        }
    }
    Ok(left)
}

fn print(entry: &Entry, dump: Dump, out: &mut dyn Write) -> io::Result<()> {
    let (Position { segment, offset }, frame) = (entry.position, &entry.frame);
    let received = time::format(frame.received_unix_nano);
    let (signal, codec) = (frame.signal.name(), format!("{:?}", frame.codec).to_lowercase());
    let bytes = frame.payload.len();
    if !dump.json && !dump.content {
        let resend = if frame.resend { "  resend" } else { "" };
        let records = frame.records;
        return writeln!(
            out,
            "{segment}:{offset}  {received}  {signal}  {codec}  {bytes} B  {records} records{resend}"
        );
    }
    let mut line = json!({"position": format!("{segment}:{offset}"), "received": received, "signal": signal,
        "codec": codec, "bytes": bytes, "uncompressed_bytes": frame.uncompressed_len, "records": frame.records,
        "resend": frame.resend});
    if dump.content {
        match content::request(frame) {
            Ok(request) => line["request"] = request,
            Err(error) => line["unreadable"] = error.into(),
        }
    }
    writeln!(out, "{line}")
}
