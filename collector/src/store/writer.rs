//! The store's only writer.

mod retention;
mod round;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sonde_wire::view::LogsRequest;
use tantivy::Index;

use super::active::{Active, BlockMaker};
use super::block;
use super::origin::Origin;
use super::pending::{Chunk, GroupKey};
use super::row;
use super::seen::Seen;
use super::slice::{self, Commit, Slice};
use super::{Shared, StoreError, StoreOptions, record};
use crate::queue::Position;
use round::Round;

pub use retention::{remove, set_aside};

/// The store's only writer: takes requests, commits, deletes what is too old.
pub struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    options: StoreOptions,
    maker: BlockMaker,
    seen: Seen,
    /// Origins of the uncommitted records, each once.
    origins: HashSet<Arc<Origin>>,
    /// The newest slice, which commits go to; `None` before the first.
    newest: Option<(u64, PathBuf)>,
    /// It, opened for writing; `None` after an error, and while a commit is under way, which has it.
    active: Option<Active>,
    /// The commit under way, up to its last block; and its end.
    round: Option<Round>,
    finishing: Option<JoinHandle<Result<Active, StoreError>>>,
    /// When it was begun, Unix milliseconds.
    begun_ms: u64,
    /// The same, by the clock that does not jump.
    begun: Instant,
    next_id: u64,
    commits: u64,
    /// All before it has been taken.
    cursor: Position,
    /// All before it is on disk.
    committed: Position,
    oldest_pending_ms: Option<u64>,
    /// What the last try to commit took: how many chunks of each group.
    tried: HashMap<GroupKey, usize>,
    retained_ms: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        options: StoreOptions,
        newest_on_disk: u64,
    ) -> Result<Self, StoreError> {
        let maker = BlockMaker::new().map_err(|e| StoreError::io(&dir, e))?;
        let slices = Arc::clone(&shared.state().slices);
        let newest = slices.last().map(|slice| (slice.id, slice.dir.clone()));
        let last = slices.iter().map(|slice| &slice.commit).max_by_key(|commit| commit.number);
        let committed = last.map(Commit::cursor).unwrap_or_default();
        Ok(Self {
            shared,
            dir,
            options,
            maker,
            seen: Seen::default(),
            origins: HashSet::new(),
            newest,
            active: None,
            round: None,
            finishing: None,
            begun_ms: 0,
            begun: Instant::now(),
            next_id: newest_on_disk + 1,
            commits: last.map_or(0, |commit| commit.number),
            cursor: committed,
            committed,
            oldest_pending_ms: None,
            tried: HashMap::new(),
            retained_ms: 0,
        })
    }

    /// The queue's position up to which all is on disk; the default position where nothing was ever committed.
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// Takes the records of a request that passed `wire`'s check; `next` is the queue's position behind it.
    /// Records that the store has already are counted and left out.
    pub fn ingest(&mut self, request: LogsRequest<'_>, received_unix_nano: u64, next: Position, now_ms: u64) {
        let slices = Arc::clone(&self.shared.state().slices);
        let mut taken: Vec<(GroupKey, Chunk)> = Vec::new();
        let mut previous = None;
        let mut duplicates = 0_u64;
        let seen = &mut self.seen;
        record::read(request, received_unix_nano, &mut self.origins, |origin, row| {
            let file = row.has_uid.then(|| row::uid_file(&row.uid));
            if let Some(file) = &file {
                let offset = row::uid_offset(&row.uid);
                let before = previous.filter(|(other, _)| other == file).map(|(_, offset)| offset);
                previous = Some((*file, offset));
                if !seen.admit(&slices, file, offset, before) {
                    duplicates += 1;
                    return;
                }
            }
            match taken.last_mut() {
                Some((key, chunk))
                    if Arc::ptr_eq(&key.origin, origin)
                        && key.file == file
                        && chunk.rows.len() < block::ROWS_BYTES =>
                {
                    chunk.push(row);
                }
                _ => {
                    let mut chunk = Chunk::new(Arc::clone(origin));
                    chunk.push(row);
                    taken.push((GroupKey { origin: Arc::clone(origin), file }, chunk));
                }
            }
        });
        self.cursor = next;
        self.oldest_pending_ms.get_or_insert(now_ms);
        let chunks: Vec<(GroupKey, Arc<Chunk>)> = taken
            .into_iter()
            .map(|(key, mut chunk)| {
                chunk.rows.shrink_to_fit();
                (key, Arc::new(chunk))
            })
            .collect();
        let delivered: u64 = chunks.iter().map(|(_, chunk)| u64::from(chunk.records)).sum();
        self.shared.counters.delivered.fetch_add(delivered, Ordering::Relaxed);
        self.shared.counters.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        self.shared.tail.push(chunks.iter().map(|(_, chunk)| Arc::clone(chunk)).collect());
        let mut state = self.shared.state();
        for (key, chunk) in chunks {
            state.pending.push(key, chunk);
        }
    }

    /// Moves the position over a frame that holds nothing for the store.
    pub fn skip(&mut self, next: Position, now_ms: u64) {
        self.cursor = next;
        self.oldest_pending_ms.get_or_insert(now_ms);
    }

    /// Whether it is time to commit, or to go on with that.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let bytes = self.shared.state().pending.bytes();
        let old = |since: u64| match now_ms.checked_sub(since) {
            Some(age) => Duration::from_millis(age) >= self.options.commit_interval,
            // The clock was set back: nobody knows how long.
            None => true,
        };
        self.is_committing()
            || self.cursor != self.committed
                && (bytes >= self.options.commit_bytes || self.oldest_pending_ms.is_some_and(old))
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.round.is_some() || self.finishing.is_some()
    }

    /// Whether so much is uncommitted that nothing more may be taken.
    pub fn is_full(&self) -> bool {
        self.shared.state().pending.bytes() >= 2 * self.options.commit_bytes
    }

    /// Commits all that was taken; gives the queue's position up to which all is on disk. After an error nothing
    /// has changed for readers, and the next call tries anew.
    pub fn commit(&mut self, now_ms: u64) -> Result<Position, StoreError> {
        // Twice where a commit was under way, or where an earlier try turns out to have reached the disk.
        while self.cursor != self.committed {
            let result = self.go_on(usize::MAX, Wait::ForTheEnd, now_ms);
            self.on_step(result, now_ms)?;
        }
        Ok(self.committed)
    }

    /// Goes on with a commit for about `bytes` of records, or begins one with what was taken so far; intake may go on
    /// between two steps. The end, which waits for the index and for the disk, is made on a thread of its own. `Some`
    /// when that is done: the queue's position up to which all is on disk. After an error nothing has changed for
    /// readers, and the next call tries anew.
    pub fn commit_step(&mut self, bytes: usize, now_ms: u64) -> Result<Option<Position>, StoreError> {
        if self.cursor == self.committed {
            return Ok(Some(self.committed));
        }
        let result = self.go_on(bytes, Wait::Never, now_ms);
        self.on_step(result, now_ms)
    }

    fn on_step(
        &mut self,
        result: Result<Option<Active>, StoreError>,
        now_ms: u64,
    ) -> Result<Option<Position>, StoreError> {
        match result.and_then(|done| done.map(|active| self.on_durable(active)).transpose()) {
            Ok(None) => Ok(None),
            Ok(Some(())) => {
                self.shared.counters.on_commit(self.begun.elapsed());
                self.retain(now_ms);
                Ok(Some(self.committed))
            }
            Err(error) => {
                // The round is gone and with it the index writer, in whatever state it is; the slice is opened again
                // at its last commit.
                self.shared.counters.commit_errors.fetch_add(1, Ordering::Relaxed);
                self.miss_deleted();
                Err(error)
            }
        }
    }

    /// One step; gives the slice when the commit is durable.
    fn go_on(&mut self, bytes: usize, wait: Wait, now_ms: u64) -> Result<Option<Active>, StoreError> {
        if let Some(thread) = self.finishing.take() {
            if wait == Wait::Never && !thread.is_finished() {
                self.finishing = Some(thread);
                return Ok(None);
            }
            let died = |_| StoreError::io(&self.dir, std::io::Error::other("the end of a commit panicked"));
            return thread.join().map_err(died)?.map(Some);
        }
        let mut round = match self.round.take() {
            Some(round) => round,
            None => self.begin_round(now_ms)?,
        };
        let mut done = 0;
        while let Some(added) = round.add_block(&mut self.maker)? {
            done += added;
            if done >= bytes {
                self.round = Some(round);
                return Ok(None);
            }
        }
        if wait == Wait::ForTheEnd {
            return round.finish().map(Some);
        }
        let thread = thread::Builder::new().name("store commit".to_owned()).spawn(move || round.finish());
        self.finishing = Some(thread.map_err(|e| StoreError::io(&self.dir, e))?);
        Ok(None)
    }

    /// Shows readers what a commit made durable.
    fn on_durable(&mut self, active: Active) -> Result<(), StoreError> {
        let slice = Arc::new(active.slice()?);
        {
            let mut state = self.shared.state();
            let others = state.slices.iter().filter(|other| other.id != slice.id).cloned();
            state.slices = others.chain([Arc::clone(&slice)]).collect();
            state.pending.remove(&self.tried);
            self.seen.on_commit(state.pending.groups());
        }
        self.tried.clear();
        // What nobody else holds is of no uncommitted record.
        self.origins.retain(|origin| Arc::strong_count(origin) > 1);
        self.origins.shrink_to(2 * self.origins.len());
        self.committed = active.commit.cursor();
        self.commits = active.commit.number;
        self.oldest_pending_ms = (self.cursor != self.committed).then_some(self.begun_ms);
        self.active = Some(active);
        Ok(())
    }

    fn begin_round(&mut self, now_ms: u64) -> Result<Round, StoreError> {
        (self.begun_ms, self.begun) = (now_ms, Instant::now());
        let number = self.commits + 1;
        let active = self.open_active(now_ms)?;
        // Then what it wrote is done, and what was taken since is left.
        let written = active.commit.number == number;
        let mut groups = Vec::new();
        let commit = if written {
            active.commit.clone()
        } else {
            let state = self.shared.state();
            groups.extend(state.pending.groups().map(|(key, chunks)| (key.clone(), chunks.clone())));
            drop(state);
            self.tried = groups.iter().map(|(key, chunks)| (key.clone(), chunks.len())).collect();
            active.begin(number, self.cursor, now_ms)?
        };
        let groups = groups.into_iter();
        Ok(Round { active, commit, written, groups, cutting: None })
    }

    /// The slice that the next commit goes to: the newest, or a new one when that is large or old.
    fn open_active(&mut self, now_ms: u64) -> Result<Active, StoreError> {
        let newest = self.open_newest()?;
        let slice_age = u64::try_from(self.options.slice_age.as_millis()).unwrap_or(u64::MAX);
        let stays = |active: &Active| {
            let age = now_ms.saturating_sub(active.commit.begun_ms);
            let bytes = active.commit.blocks_bytes + slice::disk_bytes(&active.dir.join("index"));
            // A try that reached the disk must be seen by the commit that repeats it.
            active.commit.number > self.commits
                || active.commit.records == 0
                || (age < slice_age && bytes < self.options.slice_bytes)
        };
        match newest {
            Some(active) if stays(&active) => Ok(active),
            ended => self.begin_slice(ended, now_ms),
        }
    }

    /// The newest slice, if there is one.
    fn open_newest(&mut self) -> Result<Option<Active>, StoreError> {
        match (self.active.take(), &self.newest) {
            (None, Some((id, dir))) => Active::open(*id, dir).map(Some),
            (active, _) => Ok(active),
        }
    }

    /// Ends a slice, the newest, and begins another.
    fn begin_slice(&mut self, ended: Option<Active>, now_ms: u64) -> Result<Active, StoreError> {
        if let Some(Active { id, dir, index, writer, blocks, suspect, .. }) = ended {
            // Merges that are under way would leave their files behind in a slice that is never written again.
            if let Err(error) = writer.wait_merging_threads() {
                tracing::warn!(dir = %dir.display(), %error, "merging an ended slice failed; it stays as it is");
            }
            if let Some(slice) = Slice::at_commit(id, &dir, &index, blocks, suspect)? {
                let mut state = self.shared.state();
                let slice = Arc::new(slice);
                state.slices = state
                    .slices
                    .iter()
                    .map(|other| Arc::clone(if other.id == id { &slice } else { other }))
                    .collect();
            }
        }
        // Numbers are not used again, also where the rest fails: the directory may have got its name by then. What is
        // never committed to is deleted at the next start.
        let id = self.next_id;
        self.next_id += 1;
        let dir = self.dir.join(slice_name(id));
        let new = self.dir.join(format!("new-{id}"));
        let io_error = |e| StoreError::io(&new, e);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(io_error)?;
        }
        fs::create_dir_all(new.join("index")).map_err(io_error)?;
        File::create(new.join("blocks")).and_then(|file| file.sync_all()).map_err(io_error)?;
        let (schema, _) = slice::schema();
        Index::create_in_dir(new.join("index"), schema).map_err(|e| StoreError::index(&new, e))?;
        for made in [new.join("index"), new.clone()] {
            slice::sync_dir(&made).map_err(io_error)?;
        }
        reached("slice made").map_err(io_error)?;
        fs::rename(&new, &dir).map_err(io_error)?;
        reached("slice named").map_err(io_error)?;
        slice::sync_dir(&self.dir).map_err(|e| StoreError::io(&self.dir, e))?;
        let mut active = Active::open(id, &dir)?;
        active.commit.begun_ms = now_ms;
        self.newest = Some((id, dir));
        Ok(active)
    }
}

/// What a step may wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Never,
    ForTheEnd,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It holds the slice's lock; its outcome is on disk, where the next writer finds it.
        drop(self.finishing.take().map(JoinHandle::join));
    }
}

/// A step at which the process may die or the disk may fail; tests stop here.
#[cfg(not(test))]
pub fn reached(_: &'static str) -> std::io::Result<()> {
    Ok(())
}
#[cfg(test)]
pub use super::tests::reached;

/// The directory of a slice.
pub fn slice_name(id: u64) -> String {
    format!("slice-{id:010}")
}
