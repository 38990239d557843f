//! The reader of journals without its thread: state, and one turn of the loop. Time, directories and the state store are
//! passed in.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::{Duration, Instant};

use sonde_wire::attrs::{AttrSet, RecordAttrs};

use super::dirs::Dirs;
use super::entry::Fields;
use super::file::{Journal, Scratch};
use super::format::Header;
use super::metrics::{Counts, Snapshot};
use super::outgoing::Outgoing;
use super::pages::{JournalId, Pages};
use crate::config::{Parse, ReadExisting};
use crate::logs::checkpoint::{Checkpoints, Entry, FileKey, FileState, Found, Store};
use crate::logs::core::Now;
use crate::logs::fs::LogFile;
use crate::logs::ledger::Ledger;
use crate::logs::redact::Redactor;
use crate::logs::resource::Node;

/// Time between two looks at the headers of the journals that are written to.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two listings of the directories.
const LIST: Duration = Duration::from_secs(5);
/// Time between two writes of the state.
const FLUSH: Duration = Duration::from_secs(1);

/// What the core is told once.
pub struct Settings {
    /// For resource attributes.
    pub node: Node,
    /// Units to read, `*` globs; empty = all.
    pub units: Vec<String>,
    /// Entries with a greater priority number are left out.
    pub priority: u8,
    /// What of the journals found at the first start is read.
    pub read_existing: ReadExisting,
    /// Longest body, bytes.
    pub max_line: usize,
    /// Fields out of bodies.
    pub parse: Parse,
    /// Bytes of deleted journals that may be held open.
    pub pinned_deleted: u64,
}

/// Where one journal stands. Sequence numbers grow within a file, so a position is the number of the next entry.
pub(super) struct Known<F> {
    pub(super) id: JournalId,
    /// Open while there may be more to read.
    pub(super) journal: Option<Journal<F>>,
    /// Within the host's root.
    pub(super) path: String,
    /// None = nothing has its name any more.
    pub(super) node: Option<(u64, u64)>,
    /// The last listing did not have it: a listing during which it is renamed may pass it by.
    pub(super) is_missed: bool,
    pub(super) file_id: [u8; 16],
    pub(super) stream: Stream,
    pub(super) head_realtime: u64,
    /// One past the last entry that was seen.
    pub(super) tail: u64,
    /// All entries below are settled.
    pub(super) settled: u64,
    /// All entries below were read.
    pub(super) read: u64,
    /// All entries below are in the ledger.
    pub(super) counted: u64,
    /// Entries below may have been sent by an earlier process.
    pub(super) resend_below: u64,
    /// Sequence number of its first entry; 0 = it had none yet.
    pub(super) head: u64,
    /// When its contents last changed, at the last listing.
    pub(super) mtime_nanos: u64,
    /// Since when the disk does not give what comes next.
    pub(super) failing: Option<Instant>,
    /// Nothing is written to it any more, and it was read to its end.
    pub(super) is_finished: bool,
    pub(super) is_dirty: bool,
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It is no journal, as long as it was last changed then.
    Unlike(u64),
    /// It could not be opened or read.
    Failed,
    /// Another one has the same id.
    Copy,
}

/// Journals that go on where another ends: directory and name without what rotation added, and the first ten bytes of the
/// sequence numbers' id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) seqnum_id: [u8; 10],
}

/// Everything the reader of journals knows.
pub struct Core<D: Dirs> {
    pub(super) dirs: D,
    pub(super) settings: Settings,
    /// In the order of their first entries' times.
    pub(super) files: Vec<Known<D::File>>,
    pub(super) pages: Pages,
    pub(super) scratch: Scratch,
    pub(super) fields: Fields,
    pub(super) attributes: RecordAttrs,
    pub(super) resources: HashMap<(String, String, String), AttrSet>,
    pub(super) out: Outgoing,
    pub(super) redactor: Redactor,
    pub(super) ledger: Ledger,
    pub(super) rows: BTreeSet<String>,
    pub(super) checkpoints: Checkpoints,
    /// States of an earlier process whose journals were not found yet.
    pub(super) restored: HashMap<String, (FileKey, FileState)>,
    /// One past the last entry of each stream.
    pub(super) ends: HashMap<Stream, u64>,
    /// What is not read, by inode.
    pub(super) passed_over: HashMap<(u64, u64), Passed>,
    pub(super) gone: Vec<FileKey>,
    pub(super) counts: Counts,
    pub(super) first_start: bool,
    pub(super) listed: bool,
    pub(super) is_busy: bool,
    /// Which stream was read last.
    pub(super) served: Option<Stream>,
    pub(super) next_id: u32,
    next_list: Instant,
    next_look: Instant,
    next_flush: Instant,
    stopping: bool,
}

impl<D: Dirs> Core<D> {
    /// Restores what an earlier process kept.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn new(
        dirs: D,
        settings: Settings,
        redactor: Redactor,
        out: Outgoing,
        store: Box<dyn Store>,
        now: Instant,
    ) -> io::Result<Self> {
        let (checkpoints, state) = Checkpoints::open(store)?;
        let mut ledger = Ledger::default();
        let mut rows = BTreeSet::new();
        for (key, row) in state.rows {
            rows.insert(key.container.clone());
            ledger.restore(key, row, now);
        }
        // What was read and not acknowledged is read again, and counted then.
        ledger.reconcile(&Default::default());
        let mut ends = HashMap::new();
        for (key, file) in &state.files {
            let end: &mut u64 = ends.entry(Stream::of_key(key)).or_default();
            *end = (*end).max(file.seen);
        }
        let restored =
            state.files.into_iter().map(|(key, file)| (key.container.clone(), (key, file))).collect();
        Ok(Self {
            dirs,
            settings,
            files: Vec::new(),
            pages: Pages::default(),
            scratch: Scratch::default(),
            fields: Fields::default(),
            attributes: RecordAttrs::default(),
            resources: HashMap::new(),
            out,
            redactor,
            ledger,
            rows,
            checkpoints,
            restored,
            ends,
            passed_over: HashMap::new(),
            gone: Vec::new(),
            counts: Counts::default(),
            first_start: state.found == Found::Nothing,
            listed: false,
            is_busy: false,
            served: None,
            next_id: 0,
            next_list: now,
            next_look: now,
            next_flush: now,
            stopping: false,
        })
    }

    /// One turn: look where something is new, read what there is, send what is full or old enough, write the state.
    pub fn turn(&mut self, now: Now) {
        if !self.stopping {
            if now.mono >= self.next_list {
                self.list(now);
                self.next_list = now.mono + LIST;
            }
            if now.mono >= self.next_look {
                if self.look() {
                    // A journal was rotated: what goes on is another file.
                    self.next_list = now.mono;
                }
                self.next_look = now.mono + LOOK;
            }
            self.read(now);
        }
        if self.out.is_due(now.mono) {
            self.seal();
        }
        self.settle_idle();
        self.close_finished();
        if now.mono >= self.next_flush {
            self.flush(now.mono);
            self.next_flush = now.mono + FLUSH;
        }
    }

    /// When the next turn has something to do; none = now.
    pub fn next_turn(&self) -> Option<Instant> {
        if self.is_busy && !self.stopping {
            return None;
        }
        let look = (!self.stopping).then_some(self.next_look.min(self.next_list));
        let flush = self.needs_flush().then_some(self.next_flush);
        [look, flush, self.out.due()].into_iter().flatten().min().or(Some(self.next_flush + FLUSH))
    }

    /// No more reading: what is open is sealed as soon as it can be.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.is_busy = false;
        self.seal();
    }

    /// Whether everything that was read is settled.
    pub fn is_settled(&mut self) -> bool {
        self.seal();
        self.out.is_idle()
    }

    /// Writes all that changed, now.
    pub fn finish(&mut self, now: Instant) {
        self.settle_idle();
        self.flush(now);
    }

    /// Looks at the headers of those that may grow; whether one of them was rotated.
    fn look(&mut self) -> bool {
        let mut is_rotated = false;
        let mut replaced = Vec::new();
        for known in &mut self.files {
            let Some(journal) = &mut known.journal else { continue };
            let before = journal.header().archived;
            match journal.refresh(&mut self.pages) {
                Ok(is_new) => {
                    if is_new {
                        let header = *journal.header();
                        if known.is_replaced(&header) {
                            replaced.push(known.id);
                            continue;
                        }
                        known.see(header);
                        let end = self.ends.entry(known.stream.clone()).or_default();
                        *end = (*end).max(known.tail);
                        is_rotated |= header.archived && !before;
                    }
                }
                Err(error) => {
                    // It is no journal any more, or the disk fails: what was seen of it can still be tried.
                    tracing::debug!(path = %known.path, %error, "a journal's header cannot be read");
                }
            }
        }
        for known in self.files.extract_if(.., |known| replaced.contains(&known.id)) {
            tracing::warn!(path = known.path, "a journal was overwritten with another one");
            let (key, state) = known.state();
            self.restored.insert(key.container.clone(), (key, state));
            is_rotated = true;
        }
        is_rotated
    }

    fn needs_flush(&self) -> bool {
        self.files.iter().any(|known| known.is_dirty) || !self.gone.is_empty() || self.checkpoints.failing()
    }

    fn flush(&mut self, now: Instant) {
        let all = self.checkpoints.wants_all();
        if (!all && !self.needs_flush() && !self.ledger.is_dirty()) || !self.checkpoints.may_write(now) {
            return;
        }
        let mut entries: Vec<Entry> = Vec::new();
        if !all {
            entries.extend(self.gone.iter().cloned().map(Entry::Gone));
        }
        for known in self.files.iter().filter(|known| all || known.is_dirty) {
            let (key, state) = known.state();
            entries.push(Entry::File(key, state));
        }
        if all {
            entries
                .extend(self.restored.values().map(|(key, state)| Entry::File(key.clone(), state.clone())));
            entries.extend(self.ledger.rows().map(|(key, row)| Entry::Row(key.clone(), *row)));
        } else {
            entries.extend(self.ledger.dirty_rows().map(|(key, row)| Entry::Row(key.clone(), *row)));
        }
        if self.checkpoints.write(&entries, all, now) {
            self.gone.clear();
            self.ledger.clear_dirty();
            for known in &mut self.files {
                known.is_dirty = false;
            }
        }
    }

    /// What `/metrics/self` shows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            rows: self.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect(),
            counts: self.counts,
            records: crate::logs::metrics::Records { sent: self.out.sent(), ..self.out.records() },
            redacted: self.redactor.times(),
            files: self.files.iter().filter(|known| known.node.is_some()).count() as u64,
            unread: self.files.iter().filter_map(|known| Some(known.journal.as_ref()?.unread())).sum(),
            state_errors: self.checkpoints.errors(),
        }
    }
}

impl<F: LogFile> Known<F> {
    /// What its header says by now.
    pub(super) fn see(&mut self, header: Header) {
        if self.head == 0 {
            (self.head, self.head_realtime) = (header.head_seqnum, header.head_realtime);
        }
        if header.tail_seqnum >= self.tail {
            self.tail = header.tail_seqnum.saturating_add(1);
            self.is_dirty = true;
        }
    }

    /// Whether such a header is that of another journal in the same file, or of an older state of this one.
    fn is_replaced(&self, header: &Header) -> bool {
        header.file_id != self.file_id || header.tail_seqnum.saturating_add(1) < self.tail
    }

    /// All entries below are somebody's else, or were dealt with before.
    pub(super) fn begin_at(&mut self, seqnum: u64) {
        (self.settled, self.read, self.counted) = (seqnum, seqnum, seqnum);
    }

    /// What is kept of it.
    pub(super) fn state(&self) -> (FileKey, FileState) {
        let key = FileKey {
            pod_dir: self.stream.name.clone(),
            container: hex(&self.file_id),
            restart: 0,
            hash: sonde_wire::uid::FileHash(self.stream.seqnum_id),
        };
        let settled = vec![(self.head, self.settled.max(self.head))];
        let state = FileState {
            head_len: 0,
            seen: self.tail,
            settled,
            cuts: Vec::new(),
            cutoff: 0,
            salt: 0,
            proof: None,
            name: self.path.clone(),
            node: self.node,
            rules: Vec::new(),
        };
        (key, state)
    }

    /// The key of what is kept of it.
    pub(super) fn key(&self) -> FileKey {
        self.state().0
    }

    /// Whether nobody writes to it any more.
    pub(super) fn is_final(&self) -> bool {
        self.node.is_none()
            || self.path.ends_with('~')
            || self.journal.as_ref().is_none_or(|journal| journal.header().archived)
    }
}

impl Stream {
    fn of_key(key: &FileKey) -> Self {
        Self { name: key.pod_dir.clone(), seqnum_id: key.hash.0 }
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
