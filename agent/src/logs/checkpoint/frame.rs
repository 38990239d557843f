//! The bytes of `positions`: frames and entries.

use sonde_wire::logs::Stream;
use sonde_wire::uid::FileHash;

use super::{Cut, Entry, FileKey, FileState, Found, State};
use crate::logs::ledger::{Row, RowKey};
use crate::logs::proof::Proof;

const MAGIC: [u8; 4] = *b"\xf5SP1";
/// With plain files.
pub(super) const VERSION: u8 = 3;
/// What has no plain files in it is written as this version, which earlier agents read.
pub(super) const WITHOUT_FILES: u8 = 2;
/// What has no multi-line rules in it either is written as this one.
pub(super) const WITHOUT_RULES: u8 = 1;
const FRAME_HEAD: usize = 12;

/// One frame with all entries.
pub(super) fn frame(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEAD];
    let version = |entry: &Entry| match entry {
        Entry::File(_, state) if state.salt != 0 || state.proof.is_some() => VERSION,
        Entry::Begun(_) => VERSION,
        Entry::File(_, state) if !state.rules.is_empty() => WITHOUT_FILES,
        _ => WITHOUT_RULES,
    };
    bytes.push(entries.iter().map(version).max().unwrap_or(WITHOUT_RULES));
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
pub(super) fn read(bytes: &[u8]) -> State {
    let found = if bytes.is_empty() { Found::Empty } else { Found::State };
    let mut state = State { found, ..State::default() };
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
        state.stopped = false;
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

pub(super) fn apply(state: &mut State, payload: &[u8]) -> Option<()> {
    state.stopped = false;
    let (version, rest) = payload.split_first()?;
    if !(WITHOUT_RULES..=VERSION).contains(version) {
        if *version > VERSION {
            state.found = Found::Newer;
        }
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
            Entry::Stopped => state.stopped = true,
            Entry::Begun(path) => {
                state.begun.insert(path);
            }
        }
    }
    Some(())
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::File(key, file) => {
            let is_plain = file.salt != 0 || file.proof.is_some();
            out.push(match (is_plain, file.rules.is_empty()) {
                (true, _) => 8,
                (false, false) => 7,
                (false, true) => 6,
            });
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
            put(out, u64::from(file.node.is_some()));
            let (device, inode) = file.node.unwrap_or_default();
            put(out, device);
            put(out, inode);
            if is_plain || !file.rules.is_empty() {
                put(out, file.rules.len() as u64);
                for (from, spec) in &file.rules {
                    put(out, *from);
                    put_str(out, spec);
                }
            }
            if is_plain {
                put(out, file.salt);
                put(out, u64::from(file.proof.is_some()));
                let Proof { head_len, head, at, tail } = file.proof.unwrap_or_default();
                for value in [u64::from(head_len), u64::from(head), at, u64::from(tail)] {
                    put(out, value);
                }
            }
        }
        // A file of no pod, which earlier agents pass over.
        Entry::Stopped => {
            let key = FileKey {
                pod_dir: String::new(),
                container: String::new(),
                restart: 0,
                hash: FileHash([0; 10]),
            };
            write_entry(out, &Entry::File(key, FileState::default()));
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
        Entry::Begun(path) => {
            out.push(9);
            put_str(out, path);
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
            // 1 is the same without its inode, 6 without rules, 7 without salt and proof.
            tag @ (1 | 6..=8) => {
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
                        3 => Some(Stream::Unknown),
                        _ => return None,
                    };
                    cuts.push(Cut { offset, stream });
                }
                let mut node = None;
                if tag >= 6 {
                    let is_known = self.int()? != 0;
                    node = Some((self.int()?, self.int()?)).filter(|_| is_known);
                }
                let mut rules = Vec::new();
                if tag >= 7 {
                    for _ in 0..self.int()? {
                        rules.push((self.int()?, self.text()?));
                    }
                }
                let (mut salt, mut proof) = (0, None);
                if tag == 8 {
                    salt = self.int()?;
                    let is_known = self.int()? != 0;
                    let (head_len, head) = (u16::try_from(self.int()?).ok()?, self.small()?);
                    proof = Some(Proof { head_len, head, at: self.int()?, tail: self.small()? })
                        .filter(|_| is_known);
                }
                if key.pod_dir.is_empty() {
                    return Some(Entry::Stopped);
                }
                let state =
                    FileState { head_len, seen, settled, cuts, cutoff, salt, proof, name, node, rules };
                Entry::File(key, state)
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
            9 => Entry::Begun(self.text()?),
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

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.int()?).ok()
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }
}
