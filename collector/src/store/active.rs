//! The newest slice, open for writing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, atomic::AtomicBool};

use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::{Index, IndexWriter, TantivyDocument};

use super::StoreError;
use super::block::Packer;
use super::pending::GroupKey;
use super::row::{self, Row};
use super::slice::{self, Commit, Fields, Slice};
use super::words::Words;
use super::writer::reached;
use crate::queue::Position;

/// tantivy's least is 15 MB; it grows to this only while a commit is made.
const INDEX_HEAP_BYTES: usize = 16_000_000;

/// The newest slice, open for writing. After an error it is let go and opened again at its last commit.
pub struct Active {
    /// Its number.
    pub id: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// Its index.
    pub index: Index,
    /// The index's writer.
    pub writer: IndexWriter,
    /// Its blocks.
    pub blocks: Arc<File>,
    /// What its last commit says.
    pub commit: Commit,
    /// Shared with its readers.
    pub suspect: Arc<AtomicBool>,
    fields: Fields,
}

/// Makes blocks; keeps its buffers.
pub struct BlockMaker {
    packer: Packer,
    packed: Vec<u8>,
    words: Words,
}

impl BlockMaker {
    /// Fails where the compression context cannot be had.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { packer: Packer::new()?, packed: Vec::new(), words: Words::default() })
    }
}

impl Active {
    /// Opens the slice in `dir` for writing, at its last commit.
    pub fn open(id: u64, dir: &Path) -> Result<Self, StoreError> {
        let index_error = |e| StoreError::index(dir, e);
        let io_error = |e| StoreError::io(dir, e);
        let index = Index::open_in_dir(dir.join("index")).map_err(index_error)?;
        let payload = index.load_metas().map_err(index_error)?.payload;
        let blocks = OpenOptions::new().read(true).write(true).open(dir.join("blocks")).map_err(io_error)?;
        let commit = match payload {
            Some(payload) => serde_json::from_str(&payload).map_err(|e| StoreError::Damaged {
                dir: dir.to_owned(),
                what: format!("its commit is unreadable: {e}"),
            })?,
            None => Commit { min_time: u64::MAX, ..Commit::default() },
        };
        Self::over(id, dir, index, blocks, commit)
    }

    /// The slice in `dir` with this index, which says `commit`.
    ///
    /// # Errors
    /// The index's.
    pub fn over(id: u64, dir: &Path, index: Index, blocks: File, commit: Commit) -> Result<Self, StoreError> {
        let index_error = |e| StoreError::index(dir, e);
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
        let (_, fields) = slice::schema();
        let (dir, blocks) = (dir.to_owned(), Arc::new(blocks));
        Ok(Self { id, dir, index, writer, fields, blocks, commit, suspect: Arc::default() })
    }

    /// What the next commit will say as long as it holds nothing new. What an earlier try left behind the last one
    /// is cut off.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&self, number: u64, cursor: Position, now_ms: u64) -> Result<Commit, StoreError> {
        let mut commit = self.commit.clone();
        if commit.begun_ms == 0 {
            commit.begun_ms = now_ms;
        }
        (commit.number, commit.committed_ms) = (number, now_ms);
        (commit.segment, commit.offset) = (cursor.segment, cursor.offset);
        self.blocks.set_len(commit.blocks_bytes).map_err(|e| StoreError::io(&self.dir, e))?;
        Ok(commit)
    }

    /// Writes one block and counts it into `commit`.
    ///
    /// # Errors
    /// The disk's or the index's.
    pub fn add(
        &mut self,
        maker: &mut BlockMaker,
        key: &GroupKey,
        records: &[&[u8]],
        commit: &mut Commit,
    ) -> Result<(), StoreError> {
        let BlockMaker { packer, packed, words } = maker;
        let io_error = |e| StoreError::io(&self.dir, e);
        packer.pack(&key.origin, records.iter().copied(), packed).map_err(io_error)?;
        self.blocks.write_all_at(packed, commit.blocks_bytes).map_err(io_error)?;
        let len = packed.len() as u64;
        self.add_written(key, records, len, words, commit)
    }

    /// Adds a block of `len` bytes to the index that `blocks` has already where `commit` ends.
    ///
    /// # Errors
    /// The index's.
    pub fn add_written(
        &mut self,
        key: &GroupKey,
        records: &[&[u8]],
        len: u64,
        words: &mut Words,
        commit: &mut Commit,
    ) -> Result<(), StoreError> {
        let document = self.document(key, records, len, words, commit);
        self.writer.add_document(document).map_err(|e| StoreError::index(&self.dir, e))?;
        Ok(())
    }

    /// Makes what was added since [`Self::begin`] durable, together with what `commit` says.
    ///
    /// # Errors
    /// The disk's or the index's. It may have happened nevertheless.
    pub fn finish(&mut self, commit: Commit) -> Result<(), StoreError> {
        let io_error = |e| StoreError::io(&self.dir, e);
        let index_error = |e| StoreError::index(&self.dir, e);
        reached("blocks written").map_err(io_error)?;
        self.blocks.sync_data().map_err(io_error)?;
        if self.blocks.metadata().map_err(io_error)?.nlink() == 0 {
            return Err(io_error(std::io::Error::new(std::io::ErrorKind::NotFound, "`blocks` was deleted")));
        }
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

    /// Makes the names of the index's files durable, and says the commit once more beside them.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> Result<(), StoreError> {
        let io_error = |e| StoreError::io(&self.dir, e);
        slice::sync_dir(&self.dir.join("index")).map_err(io_error)?;
        slice::save_commit(&self.dir, &self.commit).map_err(io_error)?;
        reached("commit saved").map_err(io_error)
    }

    /// The index document of one block of `len` bytes; counts the block into `commit`.
    fn document(
        &self,
        key: &GroupKey,
        records: &[&[u8]],
        len: u64,
        words: &mut Words,
        commit: &mut Commit,
    ) -> TantivyDocument {
        let (mut min_time, mut max_time, mut severity) = (u64::MAX, 0, 0);
        let (mut min_offset, mut max_offset) = (u64::MAX, 0);
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
        document.add_text(fields.tokens, words.take());
        document.add_u64(fields.at, commit.blocks_bytes);
        document.add_u64(fields.len, len);
        document.add_u64(fields.records, records.len() as u64);
        document.add_u64(fields.min_time, min_time);
        document.add_u64(fields.max_time, max_time);
        document.add_u64(fields.severity, u64::from(severity));
        document.add_u64(fields.min_offset, min_offset);
        document.add_u64(fields.max_offset, max_offset);
        commit.blocks_bytes += len;
        commit.blocks += 1;
        commit.records += records.len() as u64;
        (commit.min_time, commit.max_time) = (commit.min_time.min(min_time), commit.max_time.max(max_time));
        document
    }

    /// The slice at its last commit, for readers.
    ///
    /// # Errors
    /// Where it is not what was written.
    pub fn slice(&self) -> Result<Slice, StoreError> {
        let (blocks, suspect) = (Arc::clone(&self.blocks), Arc::clone(&self.suspect));
        Slice::at_commit(self.id, &self.dir, &self.index, blocks, suspect)?.ok_or_else(|| {
            StoreError::Damaged { dir: self.dir.clone(), what: "its commit is gone".to_owned() }
        })
    }
}
