//! The file that is written to, and those that it was before.
//!
//! `path` is the file of now. When it has `max_bytes`, or is older than `max_age` at a write, it becomes
//! `<path>.<UTC stamp>-<n>`, and with `compression` `….gz` or `….zst` soon after; of those the newest `max_files` stay.
//!
//! # Invariants
//! 1. Between two batches the file ends with a whole line that is durable. A batch that fails is cut off again; where
//!    even that fails, it is cut off before anything else is written.
//! 2. What a crash leaves of a batch that was under way has not moved the queue's cursor: at the next start the file is cut
//!    behind its last whole line, and before the first byte that no line has (a NUL of a block that was never written).
//! 3. A compressed file has its name only when it is whole and durable; the plain one goes after that.
//! 4. A file that somebody else moves or deletes is noticed at the next batch, and a new one begun; one that somebody else cuts
//!    short or appends to is noticed by its length, and gone on with behind its last whole line.
//! 5. The names of rotated files are in the order in which they were rotated, also when the clock was set back.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use super::before::{Before, Mark};
use crate::config::{Compression, Sink};
use crate::time;

const DEFAULT_BYTES: u64 = 100 << 20;
/// Rotated files that stay where the configuration names no number.
pub const DEFAULT_FILES: usize = 10;
/// Age at which the file is rotated where the configuration names none.
pub const DEFAULT_AGE: Duration = Duration::from_secs(86_400);
/// What every line begins with.
const BEGIN: &[u8] = b"{\"time\":\"";
/// How far back a crash may have torn the file: a batch is much less.
const TORN: u64 = 64 << 20;

/// Where it is, and when it is rotated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file of now.
    pub path: PathBuf,
    /// Bytes after which it is rotated.
    pub max_bytes: u64,
    /// Age at which it is rotated.
    pub max_age: Duration,
    /// Rotated files that stay.
    pub max_files: usize,
    /// Of rotated files; [`Compression::Auto`] = none.
    pub compression: Compression,
}

impl Options {
    /// As configured.
    pub fn of(sink: &Sink) -> Self {
        Self {
            path: sink.path.clone().unwrap_or_default(),
            max_bytes: sink.max_bytes.map_or(DEFAULT_BYTES, |size| size.0),
            max_age: sink.max_age.map_or(DEFAULT_AGE, |age| age.0),
            max_files: sink.max_files.unwrap_or(DEFAULT_FILES),
            compression: sink.compression.unwrap_or(Compression::None),
        }
    }
}

/// What a disk does that may fail; a test has others.
pub trait Disk: Send {
    /// Writes all of it.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Makes it durable.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The machine's.
pub struct RealDisk;

impl Disk for RealDisk {}

/// The file, and the way to it.
pub struct Target {
    options: Options,
    disk: Box<dyn Disk>,
    open: Option<Open>,
    /// Lines that come again may be among these; `None` before the first batch, and when it is too late for that.
    before: Option<Before>,
    /// That was never looked up.
    first: bool,
}

struct Open {
    file: File,
    /// Bytes in it.
    len: u64,
    /// Of those, durable or to be cut off.
    sound: u64,
    since: SystemTime,
    /// Device and inode.
    id: (u64, u64),
}

impl Target {
    /// Opens nothing.
    pub fn new(options: Options, disk: Box<dyn Disk>) -> Self {
        Self { options, disk, open: None, before: None, first: true }
    }

    /// Before a batch: the file is there, ours, whole, and not due.
    pub fn begin(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            let mut len = open.file.metadata()?.len();
            // Of a batch that failed, or whose task was dropped.
            if open.len != open.sound && len > open.sound {
                open.file.set_len(open.sound)?;
                len = open.sound;
            }
            open.len = open.sound;
            let path = self.options.path.display();
            let there = fs::metadata(&self.options.path).ok().map(|there| (there.dev(), there.ino()));
            if there != Some(open.id) {
                tracing::info!(%path, "the file is gone from its path, a new one is begun");
                self.open = None;
            } else if len != open.sound {
                let (was, bytes) = (open.sound, len);
                tracing::warn!(%path, was, bytes, "somebody else has changed the file; it goes on behind its last whole line");
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open = Some(open_file(&self.options.path)?);
            tidy(&self.options);
        }
        if self.first {
            self.before = Some(Before::read(&newest(&self.options.path)));
            self.first = false;
        }
        let old = self.open.as_ref().is_some_and(|open| {
            open.len > 0 && open.since.elapsed().is_ok_and(|age| age >= self.options.max_age)
        });
        if old { self.rotate() } else { Ok(()) }
    }

    /// Whether a line is in the file, while that is known.
    pub fn look_up(&self, line: &[u8]) -> Option<(Mark, bool)> {
        self.before.as_ref().map(|before| before.look_up(line))
    }

    /// These lines are durable.
    pub fn remember(&mut self, marks: &HashSet<Mark>) {
        self.before.take_if(|before| !before.add(marks));
    }

    /// Whether so many bytes belong into the next file.
    pub fn is_full(&self, more: usize) -> bool {
        self.open.as_ref().is_some_and(|open| open.len > 0 && open.len + more as u64 > self.options.max_bytes)
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        let written = self.disk.write(&mut open.file, lines);
        match written {
            Ok(()) => {
                open.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// After a batch: all of it is durable.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        match self.disk.sync(&open.file) {
            Ok(()) => {
                open.sound = open.len;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Takes back what is not durable.
    fn failed(&mut self, error: io::Error) -> io::Error {
        if let Some(open) = &mut self.open {
            // Not what was counted: a part of the last write may be there.
            open.len = match open.file.set_len(open.sound) {
                Ok(()) => open.sound,
                Err(_) => u64::MAX,
            };
        }
        error
    }

    /// The file of now gets its name of later; only between [`Self::end`] and the next write.
    pub fn rotate(&mut self) -> io::Result<()> {
        let to = next_name(&self.options.path, SystemTime::now())?;
        fs::rename(&self.options.path, &to)?;
        self.open = None;
        self.open = Some(open_file(&self.options.path)?);
        tidy(&self.options);
        Ok(())
    }
}

/// Opens the file for appending, cuts off what a crash has torn, and takes its lock.
fn open_file(path: &Path) -> io::Result<Open> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is written to by another process", path.display()),
        )
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    let sound = sound_len(&mut file, meta.len())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    if sound < meta.len() {
        tracing::warn!(path = %path.display(), bytes = meta.len() - sound, "the end of the file was torn and is cut off; its records come again");
        file.set_len(sound)?;
    }
    // A process before this one may have been killed between its last write and its fsync.
    file.sync_data()?;
    File::open(dir)?.sync_all()?;
    let since = meta.created().or_else(|_| meta.modified()).unwrap_or_else(|_| SystemTime::now());
    Ok(Open { file, len: sound, sound, since, id: (meta.dev(), meta.ino()) })
}

/// The length up to which the file is whole lines.
fn sound_len(file: &mut File, len: u64) -> io::Result<u64> {
    let start = len.saturating_sub(TORN);
    let mut begin = [0; BEGIN.len()];
    let head = usize::try_from(len).unwrap_or(usize::MAX).min(BEGIN.len());
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut begin[..head])?;
    if begin[..head] != BEGIN[..head] && begin[..head] != [0; BEGIN.len()][..head] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is there and holds something else"));
    }
    file.seek(SeekFrom::Start(start))?;
    let (mut at, mut sound, mut chunk) = (start, None, vec![0; 64 << 10]);
    loop {
        let read = file.read(&mut chunk)?;
        let bytes = &chunk[..read];
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(read);
        if let Some(line) = bytes[..end].iter().rposition(|byte| *byte == b'\n') {
            sound = Some(at + line as u64 + 1);
        }
        at += read as u64;
        if read == 0 || end < read {
            break;
        }
    }
    match sound {
        Some(sound) => Ok(sound),
        None if start == 0 => Ok(0),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "has no line in its last 64 MiB")),
    }
}

const ENDS: [&str; 3] = ["", ".gz", ".zst"];
const TEMP: &str = ".tmp";

/// Compresses what is to be, and deletes the oldest. What cannot be done now is done the next time.
fn tidy(options: &Options) {
    let wanted = match options.compression {
        Compression::Gzip => ENDS[1],
        Compression::Zstd => ENDS[2],
        Compression::Auto | Compression::None => ENDS[0],
    };
    let Ok(mut rotated) = rotated(&options.path) else { return };
    while rotated.len() > options.max_files {
        let (name, ends) = rotated.remove(0);
        for end in ends {
            remove(&with_end(&name, &end));
        }
    }
    for (name, ends) in rotated {
        ends.iter().filter(|end| end.ends_with(TEMP)).for_each(|end| remove(&with_end(&name, end)));
        let plain = ends.iter().any(String::is_empty);
        let packed = ends.iter().any(|end| ENDS[1..].contains(&end.as_str()));
        if plain && packed {
            remove(&name);
        } else if plain
            && !wanted.is_empty()
            && let Err(error) = compress(&name, wanted)
        {
            tracing::warn!(path = %name.display(), %error, "a rotated file stays as it is for now");
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a file that should go stays");
    }
}

fn compress(plain: &Path, end: &str) -> io::Result<()> {
    let (temp, packed) = (with_end(plain, &format!("{end}{TEMP}")), with_end(plain, end));
    let mut from = File::open(plain)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temp)?;
    let written = if end == ENDS[1] {
        let mut gzip = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
        io::copy(&mut from, &mut gzip)?;
        gzip.finish()?
    } else {
        let mut zstd = zstd::stream::write::Encoder::new(to, 1)?;
        io::copy(&mut from, &mut zstd)?;
        zstd.finish()?
    };
    written.sync_all()?;
    fs::rename(&temp, &packed)?;
    File::open(plain.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    fs::remove_file(plain)
}

/// Rotated files, oldest first: each name without its end, and the ends that there are.
fn rotated(path: &Path) -> io::Result<Vec<(PathBuf, Vec<String>)>> {
    let name = file_name(path);
    let mut found: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    for entry in names {
        let Some(rest) = entry.strip_prefix(&format!("{name}.")) else { continue };
        // Only what has the form that we give.
        let (stem, end) = rest.split_at_checked(STAMP_LEN).unwrap_or(("", rest));
        let known = end.is_empty() || ENDS[1..].contains(&end.strip_suffix(TEMP).unwrap_or(end));
        if !is_stamp(stem) || !known {
            continue;
        }
        let whole = path.with_file_name(format!("{name}.{stem}"));
        match found.last_mut().filter(|(last, _)| *last == whole) {
            Some((_, ends)) => ends.push(end.to_owned()),
            None => found.push((whole, vec![end.to_owned()])),
        }
    }
    Ok(found)
}

/// The file of now and those before it, newest first.
fn newest(path: &Path) -> Vec<PathBuf> {
    let older = rotated(path).unwrap_or_default().into_iter().rev().filter_map(|(name, ends)| {
        let end = ends.iter().find(|end| ENDS.contains(&end.as_str()))?;
        Some(with_end(&name, end))
    });
    std::iter::once(path.to_owned()).chain(older).collect()
}

/// `20261121T070000Z-000`.
const STAMP_LEN: usize = 20;

fn is_stamp(text: &str) -> bool {
    text.len() == STAMP_LEN
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            16 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

fn stamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = time::format(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

/// Nanoseconds of a stamp's second; `None` where no clock shows that.
fn parse_stamp(text: &str) -> Option<u64> {
    let at = |from, to| text.get(from..to);
    let (date, day, hour) = (at(0, 4)?, at(6, 8)?, at(9, 11)?);
    let text = format!("{date}-{}-{day}T{hour}:{}:{}Z", at(4, 6)?, at(11, 13)?, at(13, 15)?);
    time::parse_any(&text).and_then(|nanos| u64::try_from(nanos).ok())
}

/// What comes behind a rotated file's stamp and number.
fn behind(stem: &str) -> Option<String> {
    let (last, number) = stem.split_once('-')?;
    let second = Duration::from_nanos(parse_stamp(last)?);
    match number.parse::<u32>().ok()? {
        number @ ..999 => Some(format!("{last}-{:03}", number + 1)),
        _ => Some(format!("{}-000", stamp(UNIX_EPOCH + second + Duration::from_secs(1)))),
    }
}

/// The name of a file that is rotated now: behind those of all that were, where the clock was set back too.
fn next_name(path: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let name = file_name(path);
    let stems =
        rotated(path)?.into_iter().rev().map(|(whole, _)| file_name(&whole).split_off(name.len() + 1));
    let next = format!("{}-000", stamp(now));
    let behind = stems.filter_map(|stem| Some((behind(&stem)?, stem))).find(|(behind, stem)| behind > stem);
    let stem = behind.map_or(next.clone(), |(behind, _)| behind.max(next));
    Ok(path.with_file_name(format!("{name}.{stem}")))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(end);
    text.into()
}
