//! One log file: where it is, how far it is known, read and settled.

use std::sync::Arc;
use std::time::Instant;

use sonde_wire::uid::FileHash;

use super::bindings::Bindings;
use super::checkpoint::{Cut, FileState};
use super::fs::{LogFile, Stat};
use super::lineage::LineageId;
use super::proof::Proof;
use super::spans::Spans;
use super::visit::GRACE;

/// Names a file within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// Bytes before a position that are compared before reading on.
pub const CHECK_BYTES: usize = 64;

/// A file of a lineage.
///
/// Invariants: `settled` never reaches beyond `seen`; `read` never goes back; what lies below `read` is settled, in a
/// batch, or part of an unfinished line.
pub struct TailFile<F> {
    /// Its lineage.
    pub lineage: LineageId,
    /// Suffix of its last known name, without `.gz`; none = the live file.
    pub suffix: Option<String>,
    /// Last known name.
    pub name: String,
    /// Inode of the plain file, while it has a name.
    pub plain: Option<(u64, u64)>,
    /// Inode of the compressed file, while it has a name.
    pub gz: Option<(u64, u64)>,
    /// What a listing showed of it when its inode was known to be its own.
    pub shown: Option<Stat>,
    /// When it is forgotten, a rotation was not seen: newer files were there while it was not.
    pub is_gap: bool,
    /// An earlier process knew it.
    pub is_restored: bool,
    /// The open file.
    pub handle: Option<Handle<F>>,
    /// Tells it from an earlier file of its lineage that begins with the same bytes; 0 = there was none.
    pub salt: u64,
    /// Its inode had other contents before.
    pub is_reused: bool,
    /// It was written to under the name that it has now, or before that: it is nobody's copy.
    pub was_live: bool,
    /// A copy: what is shorter than what was read of it is the copy, not a file that was emptied.
    pub is_copy: bool,
    /// It was emptied then, and its copy may turn up; until then it has neither name nor handle.
    pub emptied: Option<Instant>,
    /// Since when no listing has shown it; one that is taken during a rename or a compression may not.
    pub nameless: Option<Instant>,
    /// Size that was seen before it had an identity, where what is seen then is not counted yet.
    pub unnamed: u64,
    /// What names and proves it has to be on disk before it is read on.
    pub unsaved: bool,
    /// Of a plain file: what shows that it is the same one.
    pub proof: Option<Proof>,
    /// Identity; none = not enough of its first line is there yet.
    pub identity: Option<Identity>,
    /// Largest size seen, uncompressed.
    pub seen: u64,
    /// Next byte to be parsed.
    pub read: u64,
    /// No newline between `read` and here.
    pub scanned: u64,
    /// What is settled.
    pub settled: Spans,
    /// Checksum over the last [`CHECK_BYTES`] before `read`; none = not known.
    pub check: Option<u32>,
    /// Places where the clock ended a record.
    pub cuts: Vec<Cut>,
    /// Records stamped before are left out.
    pub cutoff: u64,
    /// Bytes below may have been sent by an earlier process.
    pub resend_below: u64,
    /// Of a container that is left out: from here on. Bytes below were read before that.
    pub rule_from: u64,
    /// Which multi-line rule holds from where on.
    pub bindings: Bindings,
    /// Version of its lineage's rule that is among them.
    pub bound: u32,
    /// After a failed write: not tried again before.
    pub bind_after: Option<Instant>,
    /// Bytes below may have been sent with the rules that an earlier process kept.
    pub sent_below: u64,
    /// What was settled when it was found has not been passed yet.
    pub unpassed: bool,
    /// When it last grew.
    pub grown: Instant,
    /// A later file of the lineage has bytes, since then.
    pub superseded: Option<Instant>,
    /// Since when there is something not settled.
    pub behind_since: Option<Instant>,
    /// Some of it was read out of its compressed form.
    pub unpacked: bool,
    /// What it is not read for.
    pub aside: Option<Aside>,
    /// A compressed file was read to its end: what it states of its size before that is a hint.
    pub ended: bool,
    /// Whether its state is kept (false for the second of two files with one identity).
    pub kept: bool,
}

/// An open file.
pub enum Handle<F> {
    /// As the runtime wrote it.
    Plain(Arc<F>),
    /// Compressed by the kubelet.
    Gz(Arc<F>),
}

/// What names a file beyond rename and compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Over the first entry: what its records are called by.
    pub hash: FileHash,
    /// What this process would call it by. That is another name where the cluster or the node had another one when it was found: it keeps
    /// the one that it has, and is told from others by this.
    pub alike: FileHash,
    /// Bytes of the first entry.
    pub head_len: u16,
    /// Checksum over the first [`CHECK_BYTES`] of them: the entry's stamp is among them, so a file that was emptied and
    /// written anew has other ones, however alike its lines are.
    pub head: u32,
}

impl Identity {
    /// Of a file that begins with `head`, over its first `head_len` bytes.
    pub fn new(hash: FileHash, head: &[u8], head_len: usize) -> Self {
        let checked = head.get(..head_len.min(CHECK_BYTES)).unwrap_or(head);
        let head_len = u16::try_from(head_len).unwrap_or(u16::MAX);
        Self { hash, alike: hash, head_len, head: crc32fast::hash(checked) }
    }
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Reading it failed inside us.
    Panic,
    /// Its bytes are no longer there.
    Gone,
}

impl<F: LogFile> TailFile<F> {
    /// Bytes of a deleted inode that stay on the disk because it is open; none = it has its name, or is closed.
    pub fn held_bytes(&self) -> Option<u64> {
        let (handle, name) = match self.handle.as_ref()? {
            Handle::Plain(handle) => (handle, self.plain),
            Handle::Gz(handle) => (handle, self.gz),
        };
        if name.is_some() {
            return None;
        }
        Some(handle.stat().map_or(self.seen, |stat| stat.size))
    }
}

impl<F> TailFile<F> {
    /// A file just found.
    pub fn new(lineage: LineageId, name: &str, suffix: Option<String>, now: Instant) -> Self {
        Self {
            lineage,
            was_live: suffix.is_none(),
            suffix,
            name: name.to_owned(),
            plain: None,
            gz: None,
            shown: None,
            is_gap: false,
            is_restored: false,
            handle: None,
            salt: 0,
            is_reused: false,
            is_copy: false,
            emptied: None,
            nameless: None,
            unnamed: 0,
            unsaved: false,
            proof: None,
            identity: None,
            seen: 0,
            read: 0,
            scanned: 0,
            settled: Spans::default(),
            check: None,
            cuts: Vec::new(),
            cutoff: 0,
            resend_below: 0,
            rule_from: 0,
            bindings: Bindings::default(),
            bound: 0,
            bind_after: None,
            sent_below: 0,
            unpassed: false,
            grown: now,
            superseded: None,
            behind_since: None,
            unpacked: false,
            aside: None,
            ended: false,
            kept: true,
        }
    }

    /// Whether it has a name in its directory.
    pub fn is_named(&self) -> bool {
        self.plain.is_some() || self.gz.is_some()
    }

    /// From where on nothing is settled, at `position` or above.
    pub fn settled_from(&self, position: u64) -> u64 {
        self.settled.next_after(position).filter(|span| span.0 <= position).map_or(position, |span| span.1)
    }

    /// Bytes that are not settled.
    pub fn pending(&self) -> u64 {
        self.seen.saturating_sub(self.settled.bytes())
    }

    /// Whether it is renamed, and the runtime has long let go of it.
    pub fn is_out_of_grace(&self, now: Instant) -> bool {
        self.superseded.is_some_and(|since| now.saturating_duration_since(since.max(self.grown)) >= GRACE)
    }

    /// Whether everything there is was parsed, as far as is known.
    pub fn is_drained(&self) -> bool {
        let is_open_end = matches!(self.handle, Some(Handle::Gz(_))) && !self.ended;
        self.read >= self.seen && !is_open_end
    }

    /// Whether it was read as far as an earlier process may have. Of a compressed file that is as far as it goes.
    pub fn is_past_sent(&self) -> bool {
        let is_at_end = self.resend_below == u64::MAX && self.is_drained();
        self.aside.is_some() || self.read >= self.resend_below || is_at_end
    }

    /// Whether there are bytes of it, counted or not.
    pub fn has_bytes(&self) -> bool {
        self.seen > 0 || self.unnamed > 0
    }

    /// Notes the size of a file that has no name yet, and is counted when it has.
    pub fn observe_unnamed(&mut self, size: u64, now: Instant) {
        if size != self.unnamed {
            self.unnamed = size;
            self.grown = now;
        }
        if size > 0 {
            self.behind_since.get_or_insert(now);
        }
    }

    /// Notes a size; gives the bytes that are new.
    pub fn observe(&mut self, size: u64, now: Instant) -> u64 {
        let new = size.saturating_sub(self.seen);
        if new > 0 {
            self.seen = size;
            self.grown = now;
            self.behind_since.get_or_insert(now);
        }
        new
    }

    /// Takes over what an earlier process kept.
    pub fn restore(&mut self, state: &FileState) {
        self.is_restored = true;
        self.seen = state.seen;
        for (start, end) in &state.settled {
            self.settled.insert(*start, *end);
        }
        self.cuts.clone_from(&state.cuts);
        self.cutoff = state.cutoff;
        self.salt = state.salt;
        self.proof = state.proof;
        self.read = self.settled.watermark();
        self.scanned = self.read;
        self.check = None;
        self.unpassed = self.read > 0;
    }

    /// What is kept of it.
    pub fn state(&self, head_len: u16) -> FileState {
        let watermark = self.settled.watermark();
        FileState {
            head_len,
            seen: self.seen,
            settled: self.settled.iter().collect(),
            cuts: self.cuts.iter().filter(|cut| cut.offset > watermark).copied().collect(),
            cutoff: self.cutoff,
            salt: self.salt,
            proof: self.proof,
            name: self.name.clone(),
            node: self.plain.or(self.gz),
            rules: self.bindings.specs(),
        }
    }
}
