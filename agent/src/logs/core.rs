//! The reader without its thread: state, and one turn of the loop. Time, file system and state store are passed in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sonde_wire::uid::FileHash;

use super::LogsError;
use super::checkpoint::{Checkpoints, Entry, FileKey, FileState, Found, Store};
use super::copies::Copy;
use super::decoders::Decoders;
use super::discover::PodEntry;
use super::docker_dirs::DockerDirs;
use super::filter::Filter;
use super::fs::{LogFs, Place};
use super::gz::GzPool;
use super::join::Extent;
use super::layout;
use super::ledger::{Ledger, RowKey};
use super::limits::Limits;
use super::lineage::{LAST_LOOK, Lineage, LineageId};
use super::metrics::Records;
use super::multiline::Rules;
use super::odd::OddNames;
use super::outbox::Outbox;
use super::plain_files::PlainFiles;
use super::redact::Redactor;
use super::redo::{Redo, Refused};
use super::resource::Node;
use super::tail::{Aside, FileId, TailFile};
use super::visit::Visit;
use crate::config::{self, Parse, ReadExisting};
use crate::pods::PodIndex;

/// Bytes of one visit to a lineage, and of the read buffer.
pub const QUANTUM: usize = 128 << 10;
/// Visits of one turn, between two looks at the inbox.
const VISITS: usize = 16;
/// Time between two writes of the state.
const FLUSH: Duration = Duration::from_secs(1);
/// Time between two listings of everything.
const RESCAN: Duration = Duration::from_secs(60);
/// The same where changes are not noticed.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(10);
/// Looks fall on multiples of this, so that many live files share a wake-up.
const GRID: Duration = Duration::from_millis(50);

/// What the core is told once.
pub struct Settings {
    /// For resource attributes.
    pub node: Node,
    /// Containers to read.
    pub filter: Filter,
    /// What of the files found at the first start is read.
    pub read_existing: ReadExisting,
    /// Longest body, bytes.
    pub max_line: usize,
    /// Fields out of bodies.
    pub parse: Parse,
    /// Bytes of deleted files that may be held open.
    pub pinned_deleted: u64,
    /// Bytes a second.
    pub limits: config::Limits,
    /// Plain files to read.
    pub files: Vec<config::FileRule>,
    /// Whether a new container may wait for its pod to be known.
    pub wait_for_metadata: bool,
}

/// Both clocks, read once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For periods.
    pub mono: Instant,
    /// For records, nanoseconds since the epoch.
    pub wall_nanos: u64,
}

/// Container and restart, as the state names them.
pub type LineageKey = (Arc<str>, Arc<str>, u32);

/// Everything the reader knows.
pub struct Core<F: LogFs> {
    pub(super) fs: F,
    pub(super) settings: Settings,
    pub(super) pods: PodIndex,
    pub(super) files: HashMap<FileId, TailFile<F::File>>,
    pub(super) lineages: HashMap<LineageId, Lineage>,
    /// Copies of files, which are not read while what they are of has its bytes.
    pub(super) copies: Vec<Copy<F::File>>,
    pub(super) dirs: BTreeMap<Arc<str>, PodEntry>,
    pub(super) docker: DockerDirs,
    pub(super) plain: PlainFiles,
    pub(super) dirty_places: BTreeSet<Place>,
    pub(super) root_watched: bool,
    pub(super) root_mtime: u64,
    pub(super) ready: VecDeque<LineageId>,
    pub(super) timers: BinaryHeap<Reverse<(Instant, LineageId)>>,
    pub(super) outbox: Outbox,
    pub(super) redactor: Redactor,
    pub(super) limits: Limits,
    pub(super) ledger: Ledger,
    pub(super) checkpoints: Checkpoints,
    /// States of an earlier process whose files were not found yet.
    pub(super) restored: HashMap<LineageKey, Vec<(FileKey, FileState)>>,
    /// Of each lineage that an earlier process knew, its newest file.
    pub(super) newest: HashMap<LineageKey, FileHash>,
    pub(super) dirty_files: HashSet<FileId>,
    pub(super) gone: Vec<FileKey>,
    pub(super) folded: Vec<RowKey>,
    pub(super) gz: GzPool<F::File>,
    pub(super) decoders: Decoders,
    pub(super) buffer: Vec<u8>,
    pub(super) joined: Vec<u8>,
    pub(super) side: Vec<u8>,
    pub(super) redo: VecDeque<Redo>,
    /// Refused batches that wait for a copy of one of their files.
    pub(super) refused: VecDeque<Refused>,
    pub(super) cuts_due: Vec<LineageId>,
    pub(super) next_cuts: Instant,
    pub(super) multiline: Rules,
    /// Lineages with files that wait for their rule to be in the state.
    pub(super) unbound: Vec<LineageId>,
    /// The earlier process wrote all that it had read, and this one wrote nothing since.
    pub(super) was_stopped: bool,
    pub(super) first_start: bool,
    pub(super) discovered: bool,
    pub(super) current: Option<FileId>,
    /// Windows that were read.
    pub(super) windows: u64,
    pub(super) records: Records,
    pub(super) invalid_utf8: u64,
    pub(super) gaps: u64,
    pub(super) gaps_dirty: bool,
    pub(super) said_gap: Option<Instant>,
    pub(super) set_aside: u64,
    /// Files that were read on from within after they had been compressed.
    pub(super) compressed_resumes: u64,
    pub(super) unreadable: BTreeSet<String>,
    pub(super) odd: OddNames,
    pub(super) next_file: u32,
    pub(super) next_lineage: u32,
    pub(super) started: Instant,
    next_rescan: Option<Instant>,
    next_dir_check: Instant,
    next_flush: Instant,
    stopping: bool,
}

impl<F: LogFs> Core<F> {
    /// Restores what an earlier process kept.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        fs: F,
        settings: Settings,
        pods: PodIndex,
        redactor: Redactor,
        multiline: Rules,
        outbox: Outbox,
        store: Box<dyn Store>,
        now: Instant,
    ) -> io::Result<Self> {
        let (checkpoints, state) = Checkpoints::open(store)?;
        let mut ledger = Ledger::default();
        for (key, row) in &state.rows {
            ledger.restore(key.clone(), *row, now);
        }
        let mut pending: BTreeMap<RowKey, u64> = BTreeMap::new();
        let mut restored: HashMap<LineageKey, Vec<(FileKey, FileState)>> = HashMap::new();
        for (key, file) in state.files {
            let Some(row) = row_of(&key) else { continue };
            let settled: u64 = file.settled.iter().map(|(start, end)| end - start).sum();
            *pending.entry(row).or_default() += file.seen.saturating_sub(settled);
            let lineage = (Arc::from(key.pod_dir.as_str()), Arc::from(key.container.as_str()), key.restart);
            restored.entry(lineage).or_default().push((key, file));
        }
        let newest_of = |states: &Vec<(FileKey, FileState)>| {
            let newest =
                states.iter().max_by(|(_, left), (_, right)| layout::order_of_names(&left.name, &right.name));
            newest.map(|(key, _)| key.hash)
        };
        let newest =
            restored.iter().filter_map(|(key, states)| Some((key.clone(), newest_of(states)?))).collect();
        ledger.reconcile(&pending);
        let limits = Limits::new(&settings.limits, now);
        let plain = PlainFiles::new(&settings.files, state.begun);
        Ok(Self {
            fs,
            settings,
            pods,
            files: HashMap::new(),
            lineages: HashMap::new(),
            copies: Vec::new(),
            dirs: BTreeMap::new(),
            docker: DockerDirs::default(),
            plain,
            dirty_places: BTreeSet::new(),
            root_watched: false,
            root_mtime: 0,
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            outbox,
            redactor,
            limits,
            ledger,
            checkpoints,
            restored,
            newest,
            dirty_files: HashSet::new(),
            gone: Vec::new(),
            folded: Vec::new(),
            gz: GzPool::new(),
            buffer: vec![0; QUANTUM + super::tail::CHECK_BYTES],
            joined: Vec::new(),
            side: Vec::new(),
            redo: VecDeque::new(),
            refused: VecDeque::new(),
            cuts_due: Vec::new(),
            next_cuts: now,
            multiline,
            unbound: Vec::new(),
            was_stopped: state.stopped,
            first_start: state.found == Found::Nothing,
            discovered: false,
            current: None,
            windows: 0,
            decoders: Decoders::default(),
            records: Records::default(),
            invalid_utf8: 0,
            gaps: state.gaps,
            gaps_dirty: false,
            said_gap: None,
            set_aside: 0,
            compressed_resumes: 0,
            unreadable: BTreeSet::new(),
            odd: OddNames::default(),
            next_file: 0,
            next_lineage: 0,
            started: now,
            next_rescan: None,
            next_dir_check: now,
            next_flush: now,
            stopping: false,
        })
    }

    /// One turn: look where something changed, read what is due, send what is full or old enough, write the state.
    pub fn turn(&mut self, now: Now) {
        self.notice(now);
        if !self.stopping {
            self.run_timers(now.mono);
            self.run_redo(now);
            // While refused records wait for a slot nothing new is read, or it would take each slot first.
            if self.redo.is_empty() {
                self.run_visits(now);
            }
            self.save_bindings(now);
            self.run_cuts(now);
        }
        self.outbox.seal_due(now.mono);
        if now.mono >= self.next_flush {
            if self.is_blocked() {
                self.note_sizes_of_waiting(now);
            }
            self.limit_pinned(now);
            self.limits.say(now.mono);
            self.close_drained();
            self.sweep(now);
            self.flush(now.mono);
            self.next_flush = now.mono + FLUSH;
        }
    }

    /// Whether nothing can be read until a slot is free.
    fn is_blocked(&self) -> bool {
        !self.outbox.has_slot() && (self.outbox.is_full() || !self.redo.is_empty())
    }

    /// When the next turn has something to do; none = now.
    pub fn next_turn(&self) -> Option<Instant> {
        let blocked = self.is_blocked();
        let has_work = !self.ready.is_empty() || !self.dirty_places.is_empty() || !self.cuts_due.is_empty();
        if !self.stopping && !blocked && has_work {
            return None;
        }
        // A reader that stops looks at no file any more.
        let timer = self.timers.peek().map(|Reverse((at, _))| *at).filter(|_| !self.stopping);
        let watched = self.root_watched;
        let times = [
            timer,
            self.outbox.due(),
            self.next_rescan,
            self.plain.next_listing(),
            (blocked || self.needs_flush()).then_some(self.next_flush),
            (!watched || self.docker.has_unnamed() || self.plain.has_unwatched())
                .then_some(self.next_dir_check),
        ];
        times.into_iter().flatten().min().or(Some(self.next_flush + FLUSH))
    }

    /// No more reading: what is open is sealed as soon as a slot is free.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.outbox.seal();
    }

    /// Whether everything sealed is settled.
    pub fn is_settled(&mut self) -> bool {
        self.outbox.seal() && self.outbox.unsettled() == 0
    }

    /// Writes all that changed, now; and that this was all, if it is: an earlier process that was killed may have sent what
    /// this one has not come to yet.
    pub fn finish(&mut self, now: Instant) {
        let is_past = self.restored.is_empty() && self.files.values().all(TailFile::is_past_sent);
        // What the state said before, it says still if nothing was written since.
        let is_all = is_past || self.was_stopped;
        if self.flush(now) && is_all {
            self.checkpoints.write(&[Entry::Stopped], false, now);
        }
    }

    /// Directories that changed, files that grew, and the regular looks.
    fn notice(&mut self, now: Now) {
        let changes = self.fs.changes();
        for id in changes.files {
            if let Some(lineage) = self.files.get(&id).map(|file| file.lineage) {
                self.wake(lineage);
            }
        }
        for place in changes.places {
            if !self.plain.must_wait(&place, now.mono) {
                self.dirty_places.insert(place);
            }
        }
        self.dirty_places.extend(self.plain.take_due(now.mono));
        if changes.overflow || self.next_rescan.is_none_or(|at| now.mono >= at) {
            self.mark_all_dirty();
            let all_watched = self.root_watched && self.unreadable.is_empty();
            self.next_rescan = Some(now.mono + if all_watched { RESCAN } else { RESCAN_UNWATCHED });
        } else if now.mono >= self.next_dir_check {
            self.check_unwatched();
        }
        if now.mono >= self.next_dir_check {
            self.next_dir_check = now.mono + Duration::from_secs(1);
        }
        self.look(now);
        if !self.unreadable.is_empty() {
            let soon = now.mono + RESCAN_UNWATCHED;
            self.next_rescan = self.next_rescan.map(|at| at.min(soon));
        }
        if !self.discovered {
            self.discovered = true;
            self.next_flush = now.mono;
            self.plain.begin();
            if self.first_start && !self.files.is_empty() {
                tracing::warn!(
                    files = self.files.len(),
                    "no read positions are kept here, and there are log files: a first start, or the positions were \
                     removed. They are read as logs.read_existing says; what the collector has already it drops"
                );
            }
            self.give_up_ghosts(now.mono);
        }
    }

    /// Puts a lineage into the queue.
    pub(super) fn wake(&mut self, id: LineageId) {
        if let Some(lineage) = self.lineages.get_mut(&id)
            && !lineage.queued
        {
            lineage.queued = true;
            lineage.due = None;
            self.ready.push_back(id);
        }
    }

    fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if self.lineages.get(&id).is_some_and(|lineage| lineage.due == Some(at)) {
                self.wake(id);
            }
        }
    }

    pub(super) fn look_again(&mut self, id: LineageId, at: Instant) {
        if let Some(lineage) = self.lineages.get_mut(&id)
            && !lineage.queued
        {
            let at = on_grid(self.started, at);
            lineage.due = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    fn run_visits(&mut self, now: Now) {
        for _ in 0..VISITS {
            if self.outbox.is_full() && !self.outbox.seal() {
                return;
            }
            let Some(id) = self.ready.pop_front() else { return };
            if let Some(lineage) = self.lineages.get_mut(&id) {
                lineage.queued = false;
            } else {
                continue;
            }
            let visit = self.visit_caught(id, now);
            if visit != Visit::Waits {
                self.leave_line(id);
            }
            match visit {
                Visit::More => self.wake(id),
                // Behind the others: with requests smaller than a window it would be blocked, and first, for ever.
                Visit::Blocked => {
                    self.wake(id);
                    return;
                }
                // The end of another's turn wakes it; to look again all the same is cheap, and safe.
                Visit::Waits => self.look_again(id, now.mono + LAST_LOOK),
                Visit::Later(at) => self.look_again(id, at),
                Visit::Asleep => {}
            }
        }
    }

    /// A panic of our own costs the one file it happened at.
    fn visit_caught(&mut self, id: LineageId, now: Now) -> Visit {
        let mark = self.outbox.mark();
        let open: Vec<Extent> =
            self.lineages.get(&id).into_iter().flat_map(Lineage::open_extents).copied().collect();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.visit(id, now)));
        if let Ok(visit) = caught {
            return visit;
        }
        self.outbox.rewind(&mark);
        self.buffer.resize(QUANTUM + super::tail::CHECK_BYTES, 0);
        if let Some(file) = self.current.take() {
            self.set_aside(file);
            self.lose_open(id, file, &open);
        }
        Visit::Later(now.mono + Duration::from_secs(1))
    }

    /// Leaves a file alone for good after an error of our own.
    pub(super) fn set_aside(&mut self, id: FileId) {
        self.gz.forget(id);
        if let Some(file) = self.files.get_mut(&id) {
            file.aside = Some(Aside::Panic);
            self.set_aside += 1;
            tracing::error!(file = %file.name, "a log file is set aside after an error of our own");
        }
    }
}

/// The next point of the grid.
fn on_grid(started: Instant, at: Instant) -> Instant {
    let since = at.saturating_duration_since(started).as_millis();
    let points = u32::try_from(since.div_ceil(GRID.as_millis())).unwrap_or(u32::MAX);
    started + GRID * points
}

/// The ledger row of a file of an earlier process.
pub(super) fn row_of(key: &FileKey) -> Option<RowKey> {
    super::layout::row_of(&key.pod_dir, &key.container)
}

/// Turns an error of the state store into the reader's.
pub(super) fn state_error(path: &std::path::Path, source: io::Error) -> LogsError {
    LogsError::State { path: path.to_owned(), source }
}
