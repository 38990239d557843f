//! The demo's own judge: every line of the log files against every record of the store's export.
//!
//! A line is known by what a reader of the page would call it: namespace, pod, container, stream, the runtime's stamp
//! and the text. Nothing here is the agent's code, and record ids play no part (`tests/verify.py` checks those).

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

/// How many examples of each kind a report shows.
const EXAMPLES: usize = 3;

/// Every line of a tree of log files.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    known: HashMap<u128, Line>,
    files: Vec<PathBuf>,
    /// Lines read; more than `known` holds where two are alike in everything.
    pub(crate) read: u64,
}

#[derive(Debug)]
struct Line {
    file: usize,
    offset: u64,
    written: u32,
    stored: u32,
}

/// What the comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) in_files: u64,
    pub(crate) in_store: u64,
    pub(crate) missing: u64,
    pub(crate) twice: u64,
    pub(crate) unknown: u64,
    pub(crate) examples: Vec<String>,
}

impl Report {
    pub(crate) fn agrees(&self) -> bool {
        self.missing == 0 && self.twice == 0 && self.unknown == 0
    }
}

#[derive(Debug, Deserialize)]
struct Record<'a> {
    time: &'a str,
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    stream: Option<String>,
    body: Option<String>,
}

/// The pod and container of a directory.
#[derive(Debug, Hash)]
struct Owner<'a> {
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
}

impl Lines {
    /// Reads `<root>/<namespace>_<pod>_<uid>/<container>/<restart>.log[.<suffix>][.gz]`.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut lines = Self::default();
        for pod_dir in sorted(root)? {
            let name = file_name(&pod_dir);
            let mut parts = name.split('_');
            let (Some(namespace), Some(pod)) = (parts.next(), parts.next()) else { continue };
            for container_dir in sorted(&pod_dir)? {
                let container = file_name(&container_dir);
                let owner = Owner { namespace, pod, container: &container };
                for chain in chains(&container_dir)? {
                    lines.read_chain(&owner, &chain)?;
                }
            }
        }
        Ok(lines)
    }

    /// The files of one run of a container, oldest first; a line may begin in one and end in the next.
    fn read_chain(&mut self, owner: &Owner<'_>, chain: &[PathBuf]) -> anyhow::Result<()> {
        let mut open: HashMap<Vec<u8>, Begun> = HashMap::new();
        for path in chain {
            let file = self.files.len();
            self.files.push(path.clone());
            let mut reader = open_log(path)?;
            let mut offset = 0;
            let mut entry = Vec::new();
            loop {
                entry.clear();
                let length =
                    reader.read_until(b'\n', &mut entry).with_context(|| path.display().to_string())?;
                if length == 0 || entry.pop() != Some(b'\n') {
                    break;
                }
                let mut fields = entry.splitn(4, |&byte| byte == b' ');
                let (Some(stamp), Some(stream), Some(tag), Some(text)) =
                    (fields.next(), fields.next(), fields.next(), fields.next())
                else {
                    bail!("{} has an entry at {offset} that is not the runtime's", path.display());
                };
                let begun = open.entry(stream.to_vec()).or_insert_with(|| Begun {
                    file,
                    offset,
                    stamp: stamp.to_vec(),
                    text: Vec::new(),
                });
                begun.text.extend_from_slice(text);
                if tag == b"F"
                    && let Some(whole) = open.remove(stream)
                {
                    self.add(owner, stream, &whole);
                }
                offset += length as u64;
            }
        }
        Ok(())
    }

    fn add(&mut self, owner: &Owner<'_>, stream: &[u8], line: &Begun) {
        let (stamp, stream) = (String::from_utf8_lossy(&line.stamp), String::from_utf8_lossy(stream));
        let key = key(owner, &stream, &stamp, &String::from_utf8_lossy(&line.text));
        let entry = self.known.entry(key).or_insert(Line {
            file: line.file,
            offset: line.offset,
            written: 0,
            stored: 0,
        });
        entry.written += 1;
        self.read += 1;
    }

    /// Takes the export, one JSON record a line.
    pub(crate) fn compare(mut self, mut export: impl BufRead) -> anyhow::Result<Report> {
        let mut report = Report { in_files: self.read, ..Report::default() };
        let mut text = String::new();
        let mut unknown = 0;
        loop {
            text.clear();
            if export.read_line(&mut text).context("the store's export")? == 0 {
                break;
            }
            let record: Record<'_> = serde_json::from_str(&text)
                .with_context(|| format!("export line {}", report.in_store + 1))?;
            report.in_store += 1;
            // What has no name is compared as if it were empty, and found nowhere.
            let name = |field: Option<String>| field.unwrap_or_default();
            let (namespace, pod, container) =
                (name(record.namespace), name(record.pod), name(record.container));
            let (stream, body) = (name(record.stream), name(record.body));
            let owner = Owner { namespace: &namespace, pod: &pod, container: &container };
            let Some(line) = self.known.get_mut(&key(&owner, &stream, record.time, &body)) else {
                report.unknown += 1;
                if unknown < EXAMPLES {
                    unknown += 1;
                    report.examples.push(format!(
                        "not in the files: {namespace}/{pod}/{container} {} {}",
                        record.time,
                        short(&body)
                    ));
                }
                continue;
            };
            line.stored += 1;
        }
        self.judge(&mut report);
        Ok(report)
    }

    fn judge(&self, report: &mut Report) {
        let (mut missing, mut twice) = (0, 0);
        for line in self.known.values() {
            let (lost, extra) =
                (line.written.saturating_sub(line.stored), line.stored.saturating_sub(line.written));
            report.missing += u64::from(lost);
            report.twice += u64::from(extra);
            let (shown, what) =
                if lost > 0 { (&mut missing, "not stored") } else { (&mut twice, "stored twice") };
            if lost + extra > 0 && *shown < EXAMPLES {
                *shown += 1;
                let text = self.entry_at(line).unwrap_or_else(|error| error.to_string());
                report.examples.push(format!(
                    "{what}: {} offset {}: {}",
                    self.files[line.file].display(),
                    line.offset,
                    short(&text)
                ));
            }
        }
    }

    fn entry_at(&self, line: &Line) -> anyhow::Result<String> {
        let path = &self.files[line.file];
        let mut bytes = Vec::new();
        if is_gz(path) {
            let mut reader = open_log(path)?;
            io::copy(&mut reader.by_ref().take(line.offset), &mut io::sink())?;
            reader.take(400).read_to_end(&mut bytes)?;
        } else {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(line.offset))?;
            file.take(400).read_to_end(&mut bytes)?;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// A line whose first fragment has been read.
struct Begun {
    file: usize,
    offset: u64,
    stamp: Vec<u8>,
    text: Vec<u8>,
}

/// 128 bits of two independent hashes: among ten million lines two are confused with a chance of 10^-25.
fn key(owner: &Owner<'_>, stream: &str, stamp: &str, text: &str) -> u128 {
    // The files cut trailing zeros of the fraction, the API does not.
    let (second, fraction) =
        stamp.trim_end_matches('Z').split_once('.').unwrap_or((stamp.trim_end_matches('Z'), ""));
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, owner, stream, second, fraction.trim_end_matches('0'), text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// The runs of a container, each with its files, oldest first: rotated ones by the time in their names, the live one
/// last.
fn chains(dir: &Path) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let mut files: Vec<(u32, String, PathBuf)> = Vec::new();
    for path in sorted(dir)? {
        let name = file_name(&path);
        let Some((restart, rest)) = name.split_once(".log") else { continue };
        let suffix = rest.strip_suffix(".gz").unwrap_or(rest).to_owned();
        let restart = restart.parse().with_context(|| path.display().to_string())?;
        // `~` sorts behind every digit.
        files.push((restart, if suffix.is_empty() { "~".to_owned() } else { suffix }, path));
    }
    files.sort();
    let mut chains: Vec<Vec<PathBuf>> = Vec::new();
    let mut last = None;
    for (restart, _, path) in files {
        if last != Some(restart) {
            chains.push(Vec::new());
            last = Some(restart);
        }
        if let Some(chain) = chains.last_mut() {
            chain.push(path);
        }
    }
    Ok(chains)
}

fn open_log(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    if is_gz(path) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 18, file)))
}

fn is_gz(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "gz")
}

fn sorted(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn short(text: &str) -> String {
    let start: String = text.chars().take(120).collect();
    format!("{start:?}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
