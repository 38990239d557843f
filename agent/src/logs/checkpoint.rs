//! Read positions and the ledger on disk.
//!
//! Constraints: what is written was acknowledged (or settled otherwise) before; a file may be torn at its end, damaged
//! in the middle, or unwritable for a while, and the agent starts and works all the same; what is sent twice for that
//! the record uids absorb.
//!
//! Format of `positions`: frames of `magic (4) | length (u32 LE) | CRC-32 of the payload (u32 LE) | payload`. A payload
//! is a format version (1 byte) and entries; all that one write changes is one frame, so positions and ledger agree
//! after any crash. A later entry for the same key replaces an earlier one. The file is appended to with one fsync at
//! most once a second, and rewritten (new file, fsync, rename, fsync of the directory) when it has grown to several
//! times what is live. The magic lets reading go on behind a damaged frame.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sonde_wire::logs::Stream;
use sonde_wire::uid::FileHash;

use super::ledger::{Row, RowKey};

const MAGIC: [u8; 4] = *b"\xf5SP1";
const VERSION: u8 = 1;
const FRAME_HEAD: usize = 12;
const COMPACT_ABOVE: u64 = 1 << 20;
const RETRY: Duration = Duration::from_secs(1);

/// Names a file beyond rename, compression and restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// Name of the pod's directory.
    pub pod_dir: String,
    /// Container.
    pub container: String,
    /// Restart count.
    pub restart: u32,
    /// Of the first entry.
    pub hash: FileHash,
}

/// A place where the clock ended a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// The record ends before this byte.
    pub offset: u64,
    /// The unfinished line of this stream ends there; none = a line without its newline ends there.
    pub stream: Option<Stream>,
}

/// What is kept of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes of the first entry that were hashed.
    pub head_len: u16,
    /// Largest size seen, uncompressed.
    pub seen: u64,
    /// Settled ranges.
    pub settled: Vec<(u64, u64)>,
    /// Above the watermark.
    pub cuts: Vec<Cut>,
    /// Records stamped before are left out (nanoseconds since the epoch), 0 = none are.
    pub cutoff: u64,
    /// Its last known name.
    pub name: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A file's state, whole.
    File(FileKey, FileState),
    /// Nothing needs to be known of the file any more.
    Gone(FileKey),
    /// A ledger row, whole.
    Row(RowKey, Row),
    /// The row is folded into its namespace's.
    Folded(RowKey),
    /// Rotations that were not seen, so far.
    Gaps(u64),
}

/// All that was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Files.
    pub files: HashMap<FileKey, FileState>,
    /// Ledger rows.
    pub rows: BTreeMap<RowKey, Row>,
    /// Rotations that were not seen.
    pub gaps: u64,
    /// Whether there was any state: if not, this is a first start.
    pub existed: bool,
    /// Bytes in the middle that could not be read.
    pub damaged: u64,
}

/// Where frames are kept. `append` and `replace` are durable when they return.
pub trait Store: Send {
    /// All bytes; none if there is nothing yet.
    fn load(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Adds bytes at the end; on failure the end is where it was.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Puts other bytes in the place of all, at once.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Keeps the present bytes under another name, for people.
    fn set_aside(&mut self) -> io::Result<()>;
}

/// The writer of the state.
pub struct Checkpoints {
    store: Box<dyn Store>,
    len: u64,
    compacted_len: u64,
    retry_at: Option<Instant>,
    said: bool,
    must_replace: bool,
    errors: u64,
}

impl Checkpoints {
    /// Reads what there is. A damaged file is set aside, said once, and what is readable of it is used.
    pub fn open(mut store: Box<dyn Store>) -> io::Result<(Self, State)> {
        let bytes = store.load()?;
        let state = bytes.as_deref().map(read).unwrap_or_default();
        let mut must_replace = bytes.is_none();
        if state.damaged > 0 {
            tracing::warn!(
                bytes = state.damaged,
                "read positions are damaged: set aside, what is readable is used"
            );
            if let Err(error) = store.set_aside() {
                tracing::warn!(%error, "cannot set damaged read positions aside");
            }
            must_replace = true;
        }
        let len = bytes.map_or(0, |bytes| bytes.len() as u64);
        Ok((
            Self { store, len, compacted_len: len, retry_at: None, said: false, must_replace, errors: 0 },
            state,
        ))
    }

    /// Whether the next write should be all of the live state rather than changes.
    pub fn wants_all(&self) -> bool {
        self.must_replace || self.len > COMPACT_ABOVE.max(4 * self.compacted_len)
    }

    /// Whether a failed write is to be tried again already.
    pub fn may_write(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| now >= at)
    }

    /// Failed writes so far.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Whether the last write failed.
    pub fn failing(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Writes changes (or, with `all`, the whole live state); durable when it returns true.
    pub fn write(&mut self, entries: &[Entry], all: bool, now: Instant) -> bool {
        let frame = frame(entries);
        let done = if all { self.store.replace(&frame) } else { self.store.append(&frame) };
        match done {
            Ok(()) => {
                self.len = if all { frame.len() as u64 } else { self.len + frame.len() as u64 };
                if all {
                    self.compacted_len = self.len;
                    self.must_replace = false;
                }
                if self.said {
                    tracing::info!("read positions are written again");
                }
                (self.retry_at, self.said) = (None, false);
                true
            }
            Err(error) => {
                self.errors += 1;
                self.retry_at = Some(now + RETRY);
                if !self.said {
                    tracing::error!(%error, "cannot write read positions: shipping goes on, a restart would send again");
                    self.said = true;
                }
                false
            }
        }
    }
}

/// One frame with all entries.
fn frame(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEAD];
    bytes.push(VERSION);
    for entry in entries {
        write_entry(&mut bytes, entry);
    }
    let len = u32::try_from(bytes.len() - FRAME_HEAD).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(&bytes[FRAME_HEAD..]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// All frames of a file that can be read.
fn read(bytes: &[u8]) -> State {
    let mut state = State { existed: true, ..State::default() };
    let mut skipped = 0;
    let mut at = 0;
    while at < bytes.len() {
        if let Some(payload) = frame_at(&bytes[at..]) {
            // What lies before a good frame was not a torn end.
            state.damaged += skipped;
            skipped = 0;
            if apply(&mut state, payload).is_none() {
                state.damaged += payload.len() as u64;
            }
            at += FRAME_HEAD + payload.len();
            continue;
        }
        let next = memchr::memmem::find(&bytes[at + 1..], &MAGIC).map_or(bytes.len(), |found| at + 1 + found);
        skipped += (next - at) as u64;
        at = next;
    }
    // A file without one good frame is not a torn one: the first frame is written before the file has its name.
    if state.files.is_empty() && state.rows.is_empty() && skipped > 0 {
        state.damaged += skipped;
    }
    state
}

fn frame_at(bytes: &[u8]) -> Option<&[u8]> {
    let head: &[u8; FRAME_HEAD] = bytes.first_chunk()?;
    let (magic, rest) = head.split_first_chunk::<4>()?;
    let (len, crc) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let payload = bytes.get(FRAME_HEAD..FRAME_HEAD.checked_add(len)?)?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    (*magic == MAGIC && crc32fast::hash(payload) == crc).then_some(payload)
}

fn apply(state: &mut State, payload: &[u8]) -> Option<()> {
    let (version, rest) = payload.split_first()?;
    if *version != VERSION {
        return None;
    }
    let mut from = Decoder { rest };
    while !from.rest.is_empty() {
        match from.entry()? {
            Entry::File(key, file) => {
                state.files.insert(key, file);
            }
            Entry::Gone(key) => {
                state.files.remove(&key);
            }
            Entry::Row(key, row) => {
                state.rows.insert(key, row);
            }
            Entry::Folded(key) => {
                state.rows.remove(&key);
            }
            Entry::Gaps(gaps) => state.gaps = gaps,
        }
    }
    Some(())
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::File(key, file) => {
            out.push(1);
            write_key(out, key);
            put(out, u64::from(file.head_len));
            put(out, file.seen);
            put(out, file.cutoff);
            put_str(out, &file.name);
            put(out, file.settled.len() as u64);
            for (start, end) in &file.settled {
                put(out, *start);
                put(out, end - start);
            }
            put(out, file.cuts.len() as u64);
            for cut in &file.cuts {
                put(out, cut.offset);
                out.push(match cut.stream {
                    None => 0,
                    Some(Stream::Stdout) => 1,
                    Some(Stream::Stderr) => 2,
                    Some(Stream::Unknown) => 3,
                });
            }
        }
        Entry::Gone(key) => {
            out.push(2);
            write_key(out, key);
        }
        Entry::Row(key, row) => {
            out.push(3);
            write_row_key(out, key);
            let values = [row.observed, row.acked, row.records];
            for value in values.iter().chain(&row.shed).chain(&row.lost).chain(&row.excluded) {
                put(out, *value);
            }
        }
        Entry::Folded(key) => {
            out.push(4);
            write_row_key(out, key);
        }
        Entry::Gaps(gaps) => {
            out.push(5);
            put(out, *gaps);
        }
    }
}

fn write_key(out: &mut Vec<u8>, key: &FileKey) {
    put_str(out, &key.pod_dir);
    put_str(out, &key.container);
    put(out, u64::from(key.restart));
    out.extend_from_slice(&key.hash.0);
}

fn write_row_key(out: &mut Vec<u8>, key: &RowKey) {
    put_str(out, &key.namespace);
    put_str(out, &key.pod);
    put_str(out, &key.container);
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// LEB128.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

struct Decoder<'a> {
    rest: &'a [u8],
}

impl Decoder<'_> {
    fn entry(&mut self) -> Option<Entry> {
        Some(match self.byte()? {
            1 => {
                let key = self.key()?;
                let (head_len, seen, cutoff, name) =
                    (u16::try_from(self.int()?).ok()?, self.int()?, self.int()?, self.text()?);
                let mut settled = Vec::new();
                for _ in 0..self.int()? {
                    let (start, len) = (self.int()?, self.int()?);
                    settled.push((start, start.checked_add(len)?));
                }
                let mut cuts = Vec::new();
                for _ in 0..self.int()? {
                    let offset = self.int()?;
                    let stream = match self.byte()? {
                        0 => None,
                        1 => Some(Stream::Stdout),
                        2 => Some(Stream::Stderr),
                        _ => return None,
                    };
                    cuts.push(Cut { offset, stream });
                }
                Entry::File(key, FileState { head_len, seen, settled, cuts, cutoff, name })
            }
            2 => Entry::Gone(self.key()?),
            3 => {
                let key = self.row_key()?;
                let mut row =
                    Row { observed: self.int()?, acked: self.int()?, records: self.int()?, ..Row::default() };
                for value in row.shed.iter_mut().chain(&mut row.lost).chain(&mut row.excluded) {
                    *value = self.int()?;
                }
                Entry::Row(key, row)
            }
            4 => Entry::Folded(self.row_key()?),
            5 => Entry::Gaps(self.int()?),
            _ => return None,
        })
    }

    fn key(&mut self) -> Option<FileKey> {
        let (pod_dir, container, restart) = (self.text()?, self.text()?, u32::try_from(self.int()?).ok()?);
        let (hash, rest) = self.rest.split_first_chunk::<10>()?;
        self.rest = rest;
        Some(FileKey { pod_dir, container, restart, hash: FileHash(*hash) })
    }

    fn row_key(&mut self) -> Option<RowKey> {
        Some(RowKey { namespace: self.text()?, pod: self.text()?, container: self.text()? })
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.int()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    fn int(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }
}

/// `positions` in the state directory.
pub struct DiskStore {
    dir: PathBuf,
    path: PathBuf,
    file: Option<File>,
    len: u64,
}

impl DiskStore {
    /// In this directory, which exists.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join("positions"), file: None, len: 0 }
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Store for DiskStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut file = match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.len = bytes.len() as u64;
        self.file = Some(file);
        Ok(Some(bytes))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return self.replace(bytes);
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What is half there must not stand before the next frame; if even this fails, reading finds the magic.
            let _ = file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = self.dir.join("positions.new");
        let written = (|| {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()
        })();
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        std::fs::rename(&new, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.len = bytes.len() as u64;
        self.sync_dir()
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        std::fs::copy(&self.path, self.dir.join(format!("positions.corrupt-{seconds}"))).map(drop)
    }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
