//! `dead-letter ls` and `replay`: what sinks refused for good, `data_dir/dead-letter/<sink>/*.ndjson`, one JSON object a
//! line with `code`, `reason` and, where it is a record, the OTLP/JSON `request` of it, of data points and spans with
//! their `signal`.
//!
//! A replay hands the requests to the running collector as a sender would: every sink of the signal gets them again. Log records
//! are marked as sent before, and sinks that tell them by their uid know what they have; points and spans are not, since a
//! mark would make of a point that is refused once more one that is there. How far it came is kept beside each file, so that
//! a replay that was stopped goes on where it was. A file goes when all of it was taken, but for each sink's newest, the one
//! that the collector may be writing to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sonde_daemon::args::FAILED;

use super::post::Receiver;
use super::{ToolError, size};
use crate::queue::Signal;

/// What stands behind the name of a file for the file that says how far it was replayed.
const REPLAYED: &str = "replayed";

/// The letters of one sink by file, oldest first.
fn files(dir: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, ToolError> {
    let mut sinks = BTreeMap::new();
    for sink in list(dir)? {
        let mut letters = if sink.is_dir() { list(&sink)? } else { Vec::new() };
        letters.retain(|path| path.extension().is_some_and(|ending| ending == "ndjson"));
        // By when they were begun, and by their number then.
        letters.sort_by_key(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let (begun, number) = name.split_once('-').unwrap_or((&name, "0"));
            (begun.parse::<u64>().unwrap_or(0), number.parse::<u64>().unwrap_or(0), name.clone())
        });
        if !letters.is_empty() {
            sinks.insert(sink.file_name().unwrap_or_default().to_string_lossy().into_owned(), letters);
        }
    }
    Ok(sinks)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, ToolError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(ToolError::read(dir.display())),
    }
}

/// Lists what there is, by sink and by the code of the refusal.
///
/// # Errors
/// A directory or file that cannot be read, an output that cannot be written.
pub fn ls(dir: &Path, as_json: bool, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
    let mut sinks = Vec::new();
    for (sink, paths) in files(dir)? {
        let (mut bytes, mut letters, mut codes) = (0, 0_u64, BTreeMap::<String, (u64, String)>::new());
        for path in &paths {
            let file = File::open(path).map_err(ToolError::read(path.display()))?;
            for line in BufReader::new(file).split(b'\n') {
                let line = line.map_err(ToolError::read(path.display()))?;
                (bytes, letters) = (bytes + line.len() as u64 + 1, letters + 1);
                let letter: Value = serde_json::from_slice(&line).unwrap_or_default();
                let text = |key: &str| letter[key].as_str().unwrap_or("?").to_owned();
                let code = codes.entry(text("code")).or_default();
                *code = (code.0 + 1, text("reason"));
            }
        }
        if !as_json {
            writeln!(out, "{sink}: {letters} letters, {} in {} files", size(bytes), paths.len())?;
            for (code, (count, last)) in &codes {
                writeln!(out, "  {code}: {count}, the last: {last}")?;
            }
        }
        let codes: Vec<Value> = codes
            .into_iter()
            .map(|(code, (letters, last))| json!({"code": code, "letters": letters, "last_reason": last}))
            .collect();
        sinks.push(
            json!({"sink": sink, "files": paths.len(), "bytes": bytes, "letters": letters, "codes": codes}),
        );
    }
    if as_json {
        writeln!(out, "{}", json!({"dir": dir.display().to_string(), "sinks": sinks}))?;
    } else if sinks.is_empty() {
        writeln!(out, "no dead letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a replay did.
#[derive(Default)]
struct Replayed {
    letters: u64,
    /// Those that hold no request that could be sent.
    unreadable: u64,
    /// Why it stopped.
    stopped: Option<String>,
}

/// Sends the letters of one sink or of all to a running collector, oldest first; stops at the first that it does not
/// take, and then the code is 1.
///
/// # Errors
/// As [`ls`].
pub fn replay(
    dir: &Path,
    only: Option<&str>,
    receiver: &mut Receiver,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, ToolError> {
    let mut replayed = Replayed::default();
    let sinks = files(dir)?.into_iter().filter(|(sink, _)| only.is_none_or(|only| only == sink));
    'all: for (_, paths) in sinks {
        for (n, path) in paths.iter().enumerate() {
            let done = replay_file(path, receiver, &mut replayed).map_err(ToolError::read(path.display()))?;
            if replayed.stopped.is_some() {
                break 'all;
            }
            if done && n + 1 < paths.len() {
                let marker = marker(path);
                fs::remove_file(path)
                    .and_then(|()| forget(&marker))
                    .map_err(ToolError::read(path.display()))?;
            }
        }
    }
    let Replayed { letters, unreadable, stopped } = replayed;
    if as_json {
        writeln!(out, "{}", json!({"replayed": letters, "not_replayable": unreadable, "stopped": stopped}))?;
    } else {
        writeln!(out, "{letters} letters replayed")?;
        if unreadable > 0 {
            writeln!(out, "{unreadable} hold no request that could be sent; they stay")?;
        }
        if let Some(why) = &stopped {
            writeln!(out, "stopped: {why}")?;
        }
    }
    Ok(if stopped.is_some() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Sends what of a file was not sent yet; whether the file may go.
fn replay_file(path: &Path, receiver: &mut Receiver, replayed: &mut Replayed) -> io::Result<bool> {
    let marker = marker(path);
    let mut at = match fs::read_to_string(&marker) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(at))?;
    let (mut line, mut whole) = (Vec::new(), true);
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line)?;
        // A line without its end is still being written.
        if line.last() != Some(&b'\n') {
            return Ok(whole && read == 0);
        }
        let letter: Value = serde_json::from_slice(&line).unwrap_or_default();
        if letter["request"].is_object() {
            // Without a signal it is of logs.
            let signal = letter["signal"].as_str().unwrap_or("logs");
            let signal = Signal::ALL.into_iter().find(|one| one.name() == signal).unwrap_or(Signal::Logs);
            if let Err(why) = receiver.send(signal, letter["request"].to_string().as_bytes()) {
                replayed.stopped = Some(format!("{} at byte {at}: {why}", path.display()));
                return Ok(false);
            }
            replayed.letters += 1;
        } else {
            replayed.unreadable += 1;
            whole = false;
        }
        at += read as u64;
        fs::write(&marker, format!("{at}\n"))?;
    }
}

fn marker(path: &Path) -> PathBuf {
    path.with_extension(format!("ndjson.{REPLAYED}"))
}

fn forget(marker: &Path) -> io::Result<()> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
