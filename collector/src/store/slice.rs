//! A slice: everything that was committed in a span of arrival time, in a directory of its own.
//!
//! - `blocks`: blocks ([`super::block`]) one after the other, only appended to. Its length up to which it counts
//!   is in the index's last commit; what lies beyond was never committed and is cut off when the slice is opened
//!   for writing.
//! - `index/`: a tantivy index with one document a block: terms for names, file and tokens, numbers for the
//!   block's place, times, severity and offsets. The payload of its last commit is a [`Commit`]: the queue's cursor
//!   and the counts, so that data and cursor move in one step.
//!
//! The blocks are beside the index and not in tantivy's document store, so that merging segments does not copy them,
//! a damaged one is seen by its checksum, and a read error is an error and not a signal.
//!
//! - `commit`: the last commit once more, as JSON and its CRC-32 in hex, a line each; written behind the index's commit
//!   and before the queue is told of it. With it a damaged index can be made anew from the blocks ([`super::rebuild`]).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::Column;
use tantivy::query::{AllQuery, BooleanQuery, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{DocId, Index, ReloadPolicy, Score, Searcher, SegmentOrdinal, SegmentReader, Term};

use super::StoreError;
use super::block::{self, Block};
use super::origin::NAMES;
use super::writer::reached;
use crate::queue::Position;

/// Bytes of a name that the index holds; Kubernetes names have at most 253.
const NAME_BYTES: usize = 512;

/// The file with the last commit once more.
const COMMIT_FILE: &str = "commit";
/// More than `meta.json` and `commit` ever have.
const SMALL_BYTES: u64 = 16 << 20;

/// What a slice's last commit says, as JSON in tantivy's payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Grows by one with each commit of the store.
    pub number: u64,
    /// Segment of the queue's cursor: all before it is in the store.
    pub segment: u64,
    /// Offset of the queue's cursor.
    pub offset: u64,
    /// Bytes of `blocks` that count.
    pub blocks_bytes: u64,
    /// Blocks in the slice.
    pub blocks: u64,
    /// Records in the slice.
    pub records: u64,
    /// Smallest time of a record, Unix nanoseconds; `u64::MAX` without one.
    pub min_time: u64,
    /// Largest time of a record, Unix nanoseconds.
    pub max_time: u64,
    /// When the slice was begun, Unix milliseconds.
    pub begun_ms: u64,
    /// When it was last committed to, Unix milliseconds.
    pub committed_ms: u64,
    /// Bytes of `blocks` that were found damaged and are left out of the index.
    #[serde(default)]
    pub lost_bytes: u64,
}

impl Commit {
    /// The queue's cursor.
    pub fn cursor(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }
}

/// The index's fields.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Terms of [`NAMES`].
    pub names: [Field; 5],
    /// The file's hash in hex, for records with a uid.
    pub file: Field,
    /// Distinct tokens, separated by spaces.
    pub tokens: Field,
    /// Numbers of [`BlockRef`] and the offsets.
    pub at: Field,
    /// Length of the block.
    pub len: Field,
    /// Number of records.
    pub records: Field,
    /// Smallest time.
    pub min_time: Field,
    /// Largest time.
    pub max_time: Field,
    /// Largest severity.
    pub severity: Field,
    /// Smallest start offset in the file.
    pub min_offset: Field,
    /// Largest start offset in the file.
    pub max_offset: Field,
}

/// The index's schema.
pub fn schema() -> (Schema, Fields) {
    let mut schema = Schema::builder();
    let indexed = |tokenizer: &str| {
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(tokenizer)
            .set_index_option(IndexRecordOption::Basic)
            .set_fieldnorms(false);
        TextOptions::default().set_indexing_options(indexing)
    };
    let fields = Fields {
        names: NAMES.map(|name| schema.add_text_field(name, indexed("raw"))),
        file: schema.add_text_field("file", indexed("raw")),
        // Tokens are made by `text::tokens`; tantivy's only splits them at the spaces between.
        tokens: schema.add_text_field("tokens", indexed("whitespace")),
        at: schema.add_u64_field("at", FAST),
        len: schema.add_u64_field("len", FAST),
        records: schema.add_u64_field("records", FAST),
        min_time: schema.add_u64_field("min_time", FAST),
        max_time: schema.add_u64_field("max_time", FAST),
        severity: schema.add_u64_field("severity", FAST),
        min_offset: schema.add_u64_field("min_offset", FAST),
        max_offset: schema.add_u64_field("max_offset", FAST),
    };
    (schema.build(), fields)
}

/// A name as the index holds it.
pub fn name_term(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES)]
}

/// A file as the index holds it.
pub fn file_term(file: &[u8; 10]) -> String {
    file.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a block is and what is known of it without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Offset in `blocks`.
    pub at: u64,
    /// Length there.
    pub len: u32,
    /// Records in it.
    pub records: u32,
    /// Smallest time.
    pub min_time: u64,
    /// Largest time.
    pub max_time: u64,
    /// Smallest offset in its file.
    pub min_offset: u64,
    /// Largest offset in its file.
    pub max_offset: u64,
}

/// Which blocks are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Names that must be equal.
    pub names: [Option<String>; 5],
    /// Tokens that must all be in the block, cut ([`super::text::cut`]).
    pub tokens: Vec<String>,
    /// The file that it must be of, in hex.
    pub file: Option<String>,
    /// Smallest time that matters.
    pub since: u64,
    /// Time from which on nothing matters; `u64::MAX` = no bound.
    pub until: u64,
    /// Least severity that matters.
    pub severity: u8,
}

impl Wanted {
    fn in_time(&self, min: u64, max: u64) -> bool {
        max >= self.since && (min < self.until || self.until == u64::MAX)
    }
}

/// A slice at one commit, for reading. Files stay readable while a value of this lives, also when they are deleted.
pub struct Slice {
    /// Its number; later ones are larger.
    pub id: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// What its last commit said.
    pub commit: Commit,
    /// Its size on disk.
    pub bytes: u64,
    /// Set by a reader that found its index damaged.
    pub suspect: Arc<AtomicBool>,
    blocks: Arc<File>,
    searcher: Searcher,
    fields: Fields,
}

impl Slice {
    /// Opens the slice in `dir` at its last commit. `None`: it was never committed to.
    pub fn open(id: u64, dir: &Path) -> Result<Option<Self>, StoreError> {
        // The index takes a directory that cannot be looked into for one that is not there.
        fs::read_dir(dir.join("index"))
            .and_then(|_| reached("slice opened"))
            .map_err(|e| StoreError::io(dir, e))?;
        let index = Index::open_in_dir(dir.join("index")).map_err(|e| StoreError::index(dir, e))?;
        if index.load_metas().map_err(|e| StoreError::index(dir, e))?.payload.is_none() {
            return Ok(None);
        }
        let blocks = File::open(dir.join("blocks")).map_err(|e| StoreError::io(dir, e))?;
        Self::at_commit(id, dir, &index, Arc::new(blocks), Arc::default())
    }

    /// The slice at the index's last commit.
    pub fn at_commit(
        id: u64,
        dir: &Path,
        index: &Index,
        blocks: Arc<File>,
        suspect: Arc<AtomicBool>,
    ) -> Result<Option<Self>, StoreError> {
        let index_error = |e| StoreError::index(dir, e);
        let Some(payload) = index.load_metas().map_err(index_error)?.payload else { return Ok(None) };
        let commit: Commit = serde_json::from_str(&payload).map_err(|e| StoreError::Damaged {
            dir: dir.to_owned(),
            what: format!("its commit is unreadable: {e}"),
        })?;
        let len = blocks.metadata().map_err(|e| StoreError::io(dir, e))?.len();
        if len < commit.blocks_bytes {
            let what = format!("`blocks` has {len} bytes of {}", commit.blocks_bytes);
            return Err(StoreError::Damaged { dir: dir.to_owned(), what });
        }
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(1)
            .try_into()
            .map_err(index_error)?;
        let searcher = reader.searcher();
        if searcher.num_docs() != commit.blocks {
            let what = format!("the index has {} blocks of {}", searcher.num_docs(), commit.blocks);
            return Err(StoreError::Damaged { dir: dir.to_owned(), what });
        }
        let (_, fields) = schema();
        let bytes = disk_bytes(dir);
        Ok(Some(Self { id, dir: dir.to_owned(), commit, bytes, suspect, blocks, searcher, fields }))
    }

    /// The blocks that may hold what is wanted.
    pub fn find(&self, wanted: &Wanted) -> Result<Vec<BlockRef>, StoreError> {
        if self.commit.records == 0 || !wanted.in_time(self.commit.min_time, self.commit.max_time) {
            return Ok(Vec::new());
        }
        let mut terms = Vec::new();
        for (field, name) in self.fields.names.iter().zip(&wanted.names) {
            terms.extend(name.as_ref().map(|name| Term::from_field_text(*field, name_term(name))));
        }
        terms.extend(wanted.file.as_ref().map(|file| Term::from_field_text(self.fields.file, file)));
        terms.extend(wanted.tokens.iter().map(|token| Term::from_field_text(self.fields.tokens, token)));
        let mut clauses: Vec<Box<dyn Query>> = Vec::new();
        for term in terms {
            clauses.push(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
        }
        let query: Box<dyn Query> = match clauses.len() {
            0 => Box::new(AllQuery),
            _ => Box::new(BooleanQuery::intersection(clauses)),
        };
        // A damaged index may make tantivy panic; that must not end more than this slice.
        let search = || self.searcher.search(&query, &Blocks { wanted: wanted.clone() });
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(search)) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                let error = StoreError::index(&self.dir, error);
                if error.is_damage() {
                    self.suspect.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
            Err(_) => {
                self.suspect.store(true, Ordering::Relaxed);
                let what = "its index cannot be searched".to_owned();
                Err(StoreError::Damaged { dir: self.dir.clone(), what })
            }
        }
    }

    /// Reads one block.
    pub fn read(&self, block: &BlockRef) -> Result<Block, StoreError> {
        let damaged = |what: String| {
            // Whether the block is damaged or its place in the index: that is made anew from what is whole.
            self.suspect.store(true, Ordering::Relaxed);
            let what = format!("the block at {}: {what}", block.at);
            StoreError::Damaged { dir: self.dir.clone(), what }
        };
        if block.at.saturating_add(u64::from(block.len)) > self.commit.blocks_bytes {
            return Err(damaged("it would lie behind the end".to_owned()));
        }
        let mut bytes = vec![0; block.len as usize];
        self.blocks.read_exact_at(&mut bytes, block.at).map_err(|e| StoreError::io(&self.dir, e))?;
        block::unpack(&bytes).map_err(|e| damaged(e.to_string()))
    }

    /// Whether a query lacks what was lost of this slice.
    pub fn lacks(&self, wanted: &Wanted) -> bool {
        self.commit.lost_bytes > 0
            && (self.commit.records == 0 || wanted.in_time(self.commit.min_time, self.commit.max_time))
    }

    /// Whether its files were deleted under the running collector.
    pub fn is_gone(&self) -> bool {
        let unlinked = self.blocks.metadata().is_ok_and(|meta| meta.nlink() == 0);
        unlinked || is_missing(&self.dir.join("blocks"))
    }
}

/// The last commit of the slice in `dir` as far as the disk still says it.
pub fn read_commit(dir: &Path) -> Option<Commit> {
    let of_index = || -> Option<Commit> {
        let meta: serde_json::Value =
            serde_json::from_slice(&read_small(&dir.join("index/meta.json"))?).ok()?;
        serde_json::from_str(meta.get("payload")?.as_str()?).ok()
    };
    let saved = || decode_commit(&read_small(&dir.join(COMMIT_FILE))?);
    [of_index(), saved()].into_iter().flatten().max_by_key(|commit| commit.number)
}

/// Says once more, beside the index, what its last commit says; durable when this returns.
pub fn save_commit(dir: &Path, commit: &Commit) -> io::Result<()> {
    let json = serde_json::to_string(commit)?;
    let new = dir.join("commit.new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes())).as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, dir.join(COMMIT_FILE))?;
    sync_dir(dir)
}

fn decode_commit(bytes: &[u8]) -> Option<Commit> {
    let (json, crc) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let crc = u32::from_str_radix(crc.strip_suffix('\n')?, 16).ok()?;
    (crc32fast::hash(json.as_bytes()) == crc).then(|| serde_json::from_str(json).ok())?
}

/// A file that is a few KiB where it is what it should be.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(SMALL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether there is certainly no such file.
pub fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Bytes of all files under a directory; what vanishes meanwhile counts as nothing.
pub fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Makes a directory's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Collects the blocks whose numbers fit.
struct Blocks {
    wanted: Wanted,
}

struct SegmentBlocks {
    wanted: Wanted,
    columns: Columns,
    found: Vec<BlockRef>,
}

struct Columns {
    at: Column,
    len: Column,
    records: Column,
    min_time: Column,
    max_time: Column,
    severity: Column,
    min_offset: Column,
    max_offset: Column,
}

impl Collector for Blocks {
    type Fruit = Vec<BlockRef>;
    type Child = SegmentBlocks;

    fn for_segment(&self, _: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<SegmentBlocks> {
        let fast = segment.fast_fields();
        let columns = Columns {
            at: fast.u64("at")?,
            len: fast.u64("len")?,
            records: fast.u64("records")?,
            min_time: fast.u64("min_time")?,
            max_time: fast.u64("max_time")?,
            severity: fast.u64("severity")?,
            min_offset: fast.u64("min_offset")?,
            max_offset: fast.u64("max_offset")?,
        };
        Ok(SegmentBlocks { wanted: self.wanted.clone(), columns, found: Vec::new() })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(&self, segments: Vec<Vec<BlockRef>>) -> tantivy::Result<Vec<BlockRef>> {
        Ok(segments.concat())
    }
}

impl SegmentCollector for SegmentBlocks {
    type Fruit = Vec<BlockRef>;

    fn collect(&mut self, doc: DocId, _: Score) {
        let value = |column: &Column| column.first(doc).unwrap_or(0);
        let number = |column: &Column| u32::try_from(value(column)).unwrap_or(u32::MAX);
        let (min_time, max_time) = (value(&self.columns.min_time), value(&self.columns.max_time));
        if !self.wanted.in_time(min_time, max_time)
            || value(&self.columns.severity) < u64::from(self.wanted.severity)
        {
            return;
        }
        self.found.push(BlockRef {
            at: value(&self.columns.at),
            len: number(&self.columns.len),
            records: number(&self.columns.records),
            min_time,
            max_time,
            min_offset: value(&self.columns.min_offset),
            max_offset: value(&self.columns.max_offset),
        });
    }

    fn harvest(self) -> Vec<BlockRef> {
        self.found
    }
}
