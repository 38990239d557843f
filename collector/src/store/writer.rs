//! The store's only writer.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::{Duration, Instant};

use sonde_wire::view::LogsRequest;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::{Index, IndexWriter, TantivyDocument};

use super::block::{self, Packer};
use super::origin::Origin;
use super::pending::{self, Chunk, GroupKey};
use super::row::{self, Row};
use super::seen::Seen;
use super::slice::{self, Commit, Fields, Slice};
use super::{Shared, StoreError, StoreOptions, record, text};
use crate::queue::Position;

/// tantivy's least is 15 MB; it grows to this only while a commit is made.
const INDEX_HEAP_BYTES: usize = 16_000_000;
/// How often retention looks, beside each commit.
const RETENTION_PERIOD_MS: u64 = 10_000;

/// The store's only writer: takes requests, commits, deletes what is too old.
pub struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    options: StoreOptions,
    packer: Packer,
    seen: Seen,
    /// Origins of the uncommitted records, each once.
    origins: HashSet<Arc<Origin>>,
    /// The newest slice, which commits go to; `None` before the first.
    newest: Option<(u64, PathBuf)>,
    /// It, opened for writing; `None` after an error.
    active: Option<Active>,
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

struct Active {
    dir: PathBuf,
    index: Index,
    writer: IndexWriter,
    fields: Fields,
    blocks: Arc<File>,
    commit: Commit,
    suspect: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        options: StoreOptions,
        newest_on_disk: u64,
    ) -> Result<Self, StoreError> {
        let packer = Packer::new().map_err(|e| StoreError::io(&dir, e))?;
        let slices = Arc::clone(&shared.state().slices);
        let newest = slices.last().map(|slice| (slice.id, slice.dir.clone()));
        let last = slices.iter().map(|slice| &slice.commit).max_by_key(|commit| commit.number);
        let committed = last.map(Commit::cursor).unwrap_or_default();
        Ok(Self {
            shared,
            dir,
            options,
            packer,
            seen: Seen::default(),
            origins: HashSet::new(),
            newest,
            active: None,
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

    /// Whether it is time to commit.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let bytes = self.shared.state().pending.bytes();
        let age =
            Duration::from_millis(self.oldest_pending_ms.map_or(0, |since| now_ms.saturating_sub(since)));
        self.cursor != self.committed
            && (bytes >= self.options.commit_bytes || age >= self.options.commit_interval)
    }

    /// Whether so much is uncommitted that nothing more may be taken.
    pub fn is_full(&self) -> bool {
        self.shared.state().pending.bytes() >= 2 * self.options.commit_bytes
    }

    /// Commits what was taken; gives the queue's position up to which all is on disk. After an error nothing has
    /// changed for readers, and the next call tries anew.
    pub fn commit(&mut self, now_ms: u64) -> Result<Position, StoreError> {
        if self.cursor == self.committed {
            return Ok(self.committed);
        }
        let started = Instant::now();
        // Twice only where an earlier try turns out to have reached the disk.
        while self.cursor != self.committed {
            if let Err(error) = self.try_commit(now_ms) {
                // Whatever state the index writer is in, it is let go; the slice is opened again at its last commit.
                self.active = None;
                self.shared.counters.commit_errors.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        }
        self.shared.counters.on_commit(started.elapsed());
        self.retain(now_ms);
        Ok(self.committed)
    }

    fn try_commit(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let number = self.commits + 1;
        self.open_active(now_ms)?;
        let Some((id, _)) = self.newest.clone() else { return Ok(()) };
        let Some(mut active) = self.active.take() else { return Ok(()) };
        // An earlier try may have reached the disk although its answer was an error: then what it wrote is done, and
        // what was taken since is left.
        if active.commit.number != number {
            let groups: Vec<(GroupKey, Vec<Arc<Chunk>>)> = {
                let state = self.shared.state();
                state.pending.groups().map(|(key, chunks)| (key.clone(), chunks.clone())).collect()
            };
            let cursor = self.cursor;
            self.tried = groups.iter().map(|(key, chunks)| (key.clone(), chunks.len())).collect();
            active.write(&mut self.packer, &groups, number, cursor, now_ms)?;
        }
        slice::sync_dir(&active.dir.join("index")).map_err(|e| StoreError::io(&active.dir, e))?;
        let slice = active.slice(id)?;
        {
            let mut state = self.shared.state();
            let others = state.slices.iter().filter(|other| other.id != id).cloned();
            state.slices = others.chain([Arc::new(slice)]).collect();
            state.pending.remove(&self.tried);
            self.seen.on_commit(state.pending.groups());
            if state.pending.records() == 0 {
                self.origins = HashSet::new();
            }
        }
        self.tried.clear();
        self.committed = active.commit.cursor();
        self.commits = number;
        self.oldest_pending_ms = (self.cursor != self.committed).then_some(now_ms);
        self.active = Some(active);
        Ok(())
    }

    /// Makes the slice that the next commit goes to ready: the newest, or a new one when that is large or old.
    fn open_active(&mut self, now_ms: u64) -> Result<(), StoreError> {
        if self.active.is_none()
            && let Some((_, dir)) = &self.newest
        {
            self.active = Some(Active::open(dir)?);
        }
        let slice_age = u64::try_from(self.options.slice_age.as_millis()).unwrap_or(u64::MAX);
        let stays = self.active.as_ref().is_some_and(|active| {
            let age = now_ms.saturating_sub(active.commit.begun_ms);
            let bytes = active.commit.blocks_bytes + slice::disk_bytes(&active.dir.join("index"));
            // A try that reached the disk must be seen by the commit that repeats it.
            active.commit.number > self.commits
                || active.commit.records == 0
                || (age < slice_age && bytes < self.options.slice_bytes)
        });
        if !stays {
            self.begin_slice(now_ms)?;
        }
        Ok(())
    }

    /// Ends the newest slice and begins another.
    fn begin_slice(&mut self, now_ms: u64) -> Result<(), StoreError> {
        if let (Some(active), Some((id, dir))) = (self.active.take(), self.newest.clone()) {
            let Active { index, writer, blocks, suspect, .. } = active;
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
        let mut active = Active::open(&dir)?;
        active.commit.begun_ms = now_ms;
        self.newest = Some((id, dir));
        self.active = Some(active);
        Ok(())
    }

    /// Housekeeping: retention, and slices that readers found damaged. To be called every second or so.
    pub fn tick(&mut self, now_ms: u64) {
        let suspects: Vec<Arc<Slice>> = {
            let state = self.shared.state();
            state.slices.iter().filter(|slice| slice.suspect.load(Ordering::Relaxed)).cloned().collect()
        };
        for slice in suspects {
            self.let_go(&slice);
            set_aside(&self.dir, &slice.dir, "its index cannot be searched");
            self.shared.counters.damaged.fetch_add(1, Ordering::Relaxed);
        }
        if now_ms.saturating_sub(self.retained_ms) >= RETENTION_PERIOD_MS {
            self.retain(now_ms);
        }
    }

    /// Deletes the oldest slices while they are too old or too many.
    fn retain(&mut self, now_ms: u64) {
        self.retained_ms = now_ms;
        let retention = u64::try_from(self.options.retention.as_millis()).unwrap_or(u64::MAX);
        loop {
            let slices = Arc::clone(&self.shared.state().slices);
            let Some(oldest) = slices.first() else { return };
            let bytes: u64 = slices.iter().map(|slice| slice.bytes).sum();
            let too_old = now_ms.saturating_sub(oldest.commit.committed_ms) > retention;
            let newest = self.newest.as_ref().is_some_and(|(id, _)| *id == oldest.id);
            if newest && too_old && oldest.commit.records > 0 {
                // The cursor is in the newest slice: it goes on in an empty one.
                if let Err(error) = self.move_on(now_ms) {
                    tracing::error!(%error, "cannot begin a slice in place of one that is too old");
                    return;
                }
                continue;
            }
            if newest || !(too_old || bytes > self.options.max_bytes) {
                return;
            }
            self.let_go(oldest);
            tracing::info!(dir = %oldest.dir.display(), bytes = oldest.bytes, records = oldest.commit.records,
                "slice deleted: retention");
            remove(&self.dir, &oldest.dir);
        }
    }

    /// Begins a slice that holds nothing but the cursor.
    fn move_on(&mut self, now_ms: u64) -> Result<(), StoreError> {
        if self.active.is_none()
            && let Some((_, dir)) = &self.newest
        {
            self.active = Some(Active::open(dir)?);
        }
        let committed = self.committed;
        let number = self.commits + 1;
        self.tried.clear();
        let result = self.begin_slice(now_ms).and_then(|()| {
            let (Some(active), Some((id, _))) = (&mut self.active, &self.newest) else { return Ok(()) };
            active.write(&mut self.packer, &[], number, committed, now_ms)?;
            slice::sync_dir(&active.dir.join("index")).map_err(|e| StoreError::io(&active.dir, e))?;
            let slice = active.slice(*id)?;
            let mut state = self.shared.state();
            state.slices = state.slices.iter().cloned().chain([Arc::new(slice)]).collect();
            Ok(())
        });
        if result.is_ok() {
            self.commits = number;
        } else {
            self.active = None;
        }
        result
    }

    /// Takes a slice out of what readers see.
    fn let_go(&mut self, slice: &Arc<Slice>) {
        if self.newest.as_ref().is_some_and(|(id, _)| *id == slice.id) {
            self.newest = None;
            self.active = None;
        }
        let mut state = self.shared.state();
        state.slices = state.slices.iter().filter(|other| other.id != slice.id).cloned().collect();
        drop(state);
        self.seen.forget_places();
    }
}

impl Active {
    /// Opens the slice in `dir` for writing, at its last commit.
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let index_error = |e| StoreError::index(dir, e);
        let io_error = |e| StoreError::io(dir, e);
        let index = Index::open_in_dir(dir.join("index")).map_err(index_error)?;
        let payload = index.load_metas().map_err(index_error)?.payload;
        let commit = match payload {
            Some(payload) => serde_json::from_str(&payload).map_err(|e| StoreError::Damaged {
                dir: dir.to_owned(),
                what: format!("its commit is unreadable: {e}"),
            })?,
            None => Commit { min_time: u64::MAX, ..Commit::default() },
        };
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .memory_budget_per_thread(INDEX_HEAP_BYTES)
            .num_merge_threads(1)
            .build();
        let writer: IndexWriter = index.writer_with_options(options).map_err(index_error)?;
        let mut policy = LogMergePolicy::default();
        // Documents are blocks: a few hundred a commit.
        policy.set_min_layer_size(256);
        writer.set_merge_policy(Box::new(policy));
        let blocks = OpenOptions::new().read(true).write(true).open(dir.join("blocks")).map_err(io_error)?;
        let (_, fields) = slice::schema();
        let (dir, blocks) = (dir.to_owned(), Arc::new(blocks));
        Ok(Self { dir, index, writer, fields, blocks, commit, suspect: Arc::default() })
    }

    /// Writes the groups as blocks and commits them with the cursor. `self.commit` moves when that is done.
    fn write(
        &mut self,
        packer: &mut Packer,
        groups: &[(GroupKey, Vec<Arc<Chunk>>)],
        number: u64,
        cursor: Position,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let dir = self.dir.clone();
        let io_error = |e| StoreError::io(&dir, e);
        let index_error = |e| StoreError::index(&dir, e);
        let mut commit = self.commit.clone();
        if commit.begun_ms == 0 {
            commit.begun_ms = now_ms;
        }
        (commit.number, commit.committed_ms) = (number, now_ms);
        (commit.segment, commit.offset) = (cursor.segment, cursor.offset);
        // What an earlier try left behind the last commit is overwritten.
        self.blocks.set_len(commit.blocks_bytes).map_err(io_error)?;
        let mut file = &*self.blocks;
        file.seek(SeekFrom::Start(commit.blocks_bytes)).map_err(io_error)?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let mut packed = Vec::new();
        let mut words = Words::default();
        for (key, chunks) in groups {
            let records = pending::sorted(chunks);
            for records in cut(&records) {
                packer.pack(&key.origin, records.iter().copied(), &mut packed).map_err(io_error)?;
                out.write_all(&packed).map_err(io_error)?;
                let document = self.document(key, records, &packed, &mut commit, &mut words);
                self.writer.add_document(document).map_err(index_error)?;
            }
        }
        out.flush().map_err(io_error)?;
        drop(out);
        reached("blocks written").map_err(io_error)?;
        self.blocks.sync_data().map_err(io_error)?;
        reached("blocks durable").map_err(io_error)?;
        let payload = serde_json::to_string(&commit).map_err(|e| io_error(e.into()))?;
        let mut prepared = self.writer.prepare_commit().map_err(index_error)?;
        prepared.set_payload(&payload);
        reached("index prepared").map_err(io_error)?;
        prepared.commit().map_err(index_error)?;
        reached("index committed").map_err(io_error)?;
        self.commit = commit;
        Ok(())
    }

    /// The index document of one block; counts the block into `commit`.
    fn document(
        &self,
        key: &GroupKey,
        records: &[&[u8]],
        packed: &[u8],
        commit: &mut Commit,
        words: &mut Words,
    ) -> TantivyDocument {
        let (mut min_time, mut max_time, mut severity) = (u64::MAX, 0, 0);
        let (mut min_offset, mut max_offset) = (u64::MAX, 0);
        words.clear();
        for (row, _) in records.iter().filter_map(|bytes| Row::decode(bytes)) {
            (min_time, max_time) = (min_time.min(row.time), max_time.max(row.time));
            severity = severity.max(row.severity);
            let offset = row::uid_offset(&row.uid);
            (min_offset, max_offset) = (min_offset.min(offset), max_offset.max(offset));
            words.add(row.body);
        }
        let fields = &self.fields;
        let mut document = TantivyDocument::new();
        for (field, name) in fields.names.iter().zip(&key.origin.names) {
            if let Some(name) = name {
                document.add_text(*field, slice::name_term(name));
            }
        }
        if let Some(file) = &key.file {
            document.add_text(fields.file, slice::file_term(file));
        }
        document.add_text(fields.tokens, words.distinct());
        document.add_u64(fields.at, commit.blocks_bytes);
        document.add_u64(fields.len, packed.len() as u64);
        document.add_u64(fields.records, records.len() as u64);
        document.add_u64(fields.min_time, min_time);
        document.add_u64(fields.max_time, max_time);
        document.add_u64(fields.severity, u64::from(severity));
        document.add_u64(fields.min_offset, min_offset);
        document.add_u64(fields.max_offset, max_offset);
        commit.blocks_bytes += packed.len() as u64;
        commit.blocks += 1;
        commit.records += records.len() as u64;
        (commit.min_time, commit.max_time) = (commit.min_time.min(min_time), commit.max_time.max(max_time));
        document
    }

    fn slice(&self, id: u64) -> Result<Slice, StoreError> {
        let (blocks, suspect) = (Arc::clone(&self.blocks), Arc::clone(&self.suspect));
        Slice::at_commit(id, &self.dir, &self.index, blocks, suspect)?.ok_or_else(|| StoreError::Damaged {
            dir: self.dir.clone(),
            what: "its commit is gone".to_owned(),
        })
    }
}

/// A step at which the process may die or the disk may fail; tests stop here.
#[cfg(not(test))]
fn reached(_: &'static str) -> std::io::Result<()> {
    Ok(())
}
#[cfg(test)]
use super::tests::reached;

/// The distinct tokens of a block's bodies.
#[derive(Default)]
struct Words {
    folded: String,
    distinct: HashSet<Box<str>>,
}

impl Words {
    fn clear(&mut self) {
        self.distinct.clear();
    }

    fn add(&mut self, body: &[u8]) {
        let Ok(body) = std::str::from_utf8(body) else { return };
        self.folded.clear();
        text::fold_into(body, &mut self.folded);
        for token in text::tokens(&self.folded) {
            let token = text::cut(token);
            if !self.distinct.contains(token) {
                self.distinct.insert(token.into());
            }
        }
    }

    fn distinct(&self) -> String {
        let mut joined = String::with_capacity(self.distinct.iter().map(|word| word.len() + 1).sum());
        for word in &self.distinct {
            joined.push_str(word);
            joined.push(' ');
        }
        joined
    }
}

/// Cuts sorted records into blocks.
fn cut<'a, 'r>(records: &'a [&'r [u8]]) -> impl Iterator<Item = &'a [&'r [u8]]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|record| {
            bytes += record.len();
            bytes <= block::ROWS_BYTES
        });
        let (block, after) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// The directory of a slice.
pub fn slice_name(id: u64) -> String {
    format!("slice-{id:010}")
}

/// Moves a slice that cannot be used to `damaged/`, where people can look at it.
pub fn set_aside(store: &Path, slice: &Path, what: &str) {
    let damaged = store.join("damaged");
    let name = slice.file_name().unwrap_or_default();
    let to = (0..1000)
        .map(|n| damaged.join(format!("{}.{n}", name.to_string_lossy())))
        .find(|to| !to.exists())
        .unwrap_or_else(|| damaged.join(name));
    let moved = fs::create_dir_all(&damaged).and_then(|()| fs::rename(slice, &to));
    match moved {
        Ok(()) => {
            tracing::error!(slice = %slice.display(), to = %to.display(), what, "damaged slice set aside")
        }
        Err(error) => {
            tracing::error!(slice = %slice.display(), what, %error, "damaged slice cannot be set aside")
        }
    }
}

/// Deletes a slice's directory; a crash in between leaves `drop-…`, which the next start deletes.
fn remove(store: &Path, slice: &Path) {
    let gone = store.join(format!("drop-{}", slice.file_name().unwrap_or_default().to_string_lossy()));
    let removed = fs::rename(slice, &gone)
        .and_then(|()| reached("slice unnamed"))
        .and_then(|()| fs::remove_dir_all(&gone));
    if let Err(error) = removed {
        tracing::error!(slice = %slice.display(), %error, "cannot delete a slice");
    }
}
