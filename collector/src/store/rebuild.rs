//! A slice's index made anew from its blocks: what is lost is only what is damaged itself.
//!
//! The blocks are read one after the other; where one does not check, the next is looked for by its magic, and what lies
//! between is left out, counted in the commit ([`Commit::lost_bytes`]) and said with every answer that lacks it. Cursor
//! and counts come from what the slice still says of its last commit ([`slice::read_commit`]). Where it says nothing,
//! its records are found again, but the cursor is another slice's.
//!
//! The new index is made beside the old one and takes its name at the end; a crash before that leaves a slice that is
//! made anew once more. Memory: an index writer (16 MB), one block.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use memchr::memmem;
use tantivy::Index;

use super::StoreError;
use super::active::Active;
use super::block::{self, Block};
use super::pending::GroupKey;
use super::row;
use super::slice::{self, Commit, Slice};
use super::words::Words;

/// What is read at once where a block is looked for.
const WINDOW: usize = 64 << 10;
/// What is stepped over where the disk refuses to read.
const DISK_BLOCK: u64 = 4096;

/// Makes the index of the slice in `dir` anew; nobody else has it open for writing.
///
/// # Errors
/// The disk's or the index's; [`StoreError::Damaged`] where no block is whole.
pub fn rebuild(id: u64, dir: &Path) -> Result<Slice, StoreError> {
    let io_error = |e| StoreError::io(dir, e);
    let blocks = File::open(dir.join("blocks")).map_err(io_error)?;
    let meta = blocks.metadata().map_err(io_error)?;
    let last = slice::read_commit(dir);
    let len = last.as_ref().map_or(meta.len(), |last| last.blocks_bytes.min(meta.len()));
    let new = dir.join("index.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(io_error)?;
    }
    fs::create_dir(&new).map_err(io_error)?;
    let (schema, _) = slice::schema();
    let index = Index::create_in_dir(&new, schema).map_err(|e| StoreError::index(dir, e))?;
    let reader = blocks.try_clone().map_err(io_error)?;
    let mut active = Active::over(id, dir, index, blocks, Commit::default())?;
    let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_ms = u64::try_from(modified.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let mut commit = Commit {
        min_time: u64::MAX,
        max_time: 0,
        blocks: 0,
        records: 0,
        ..last.clone().unwrap_or(Commit {
            begun_ms: modified_ms,
            committed_ms: modified_ms,
            ..Commit::default()
        })
    };
    let mut words = Words::default();
    let mut whole = 0;
    walk(&reader, len, |at, block, block_len| {
        commit.blocks_bytes = at;
        whole += block_len;
        add(&mut active, block, block_len, &mut words, &mut commit)
    })?;
    commit.blocks_bytes = len;
    // Also what is missing at the end.
    let promised = last.as_ref().map_or(len, |last| last.blocks_bytes);
    commit.lost_bytes = commit.lost_bytes.max(promised - whole);
    if commit.blocks == 0 && last.is_none_or(|last| last.records > 0) {
        let what = "no block is whole".to_owned();
        return Err(StoreError::Damaged { dir: dir.to_owned(), what });
    }
    active.finish(commit.clone())?;
    active.writer.wait_merging_threads().map_err(|e| StoreError::index(dir, e))?;
    slice::sync_dir(&new).map_err(io_error)?;
    slice::save_commit(dir, &commit).map_err(io_error)?;
    swap(dir, &new).map_err(io_error)?;
    Slice::open(id, dir)?
        .ok_or_else(|| StoreError::Damaged { dir: dir.to_owned(), what: "its new index is gone".to_owned() })
}

/// Gives the new index the old one's name.
fn swap(dir: &Path, new: &Path) -> std::io::Result<()> {
    let (index, old) = (dir.join("index"), dir.join("index.old"));
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    if index.exists() {
        fs::rename(&index, &old)?;
    }
    fs::rename(new, &index)?;
    slice::sync_dir(dir)?;
    if old.exists() { fs::remove_dir_all(&old) } else { Ok(()) }
}

fn add(
    active: &mut Active,
    block: Block,
    len: u64,
    words: &mut Words,
    commit: &mut Commit,
) -> Result<(), StoreError> {
    let first = row::rows(&block.rows).next();
    let file = first.and_then(|(_, row)| row.has_uid.then(|| row::uid_file(&row.uid)));
    let rows = row::rows(&block.rows).filter_map(|(at, row)| block.rows.get(at..at + row.size()));
    let records: Vec<&[u8]> = rows.collect();
    let key = GroupKey { origin: Arc::new(block.origin), file };
    active.add_written(&key, &records, len, words, commit)
}

/// Hands over every block that checks, with its place and its length.
pub(super) fn walk(
    file: &File,
    len: u64,
    mut each: impl FnMut(u64, Block, u64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut at = 0;
    while at < len {
        match read(file, at, len) {
            Some((block, block_len)) => {
                each(at, block, block_len)?;
                at += block_len;
            }
            None => at = next_magic(file, at + 1, len),
        }
    }
    Ok(())
}

/// The block at `at`, if there is one that checks.
fn read(file: &File, at: u64, len: u64) -> Option<(Block, u64)> {
    let mut head = [0; block::HEADER_BYTES];
    file.read_exact_at(&mut head, at).ok()?;
    // Memory is taken for what the file can hold.
    let block_len = block::length(&head).filter(|block_len| at.saturating_add(*block_len) <= len)?;
    let mut bytes = vec![0; usize::try_from(block_len).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some((block::unpack(&bytes).ok()?, block_len))
}

/// Where the next block may begin, from `at` on; `len` where none does.
fn next_magic(file: &File, mut at: u64, len: u64) -> u64 {
    let finder = memmem::Finder::new(&block::MAGIC);
    let mut window = vec![0; WINDOW];
    while at + block::HEADER_BYTES as u64 <= len {
        let most = usize::try_from(len - at).unwrap_or(WINDOW).min(WINDOW);
        match file.read_exact_at(&mut window[..most], at) {
            Ok(()) => match finder.find(&window[..most]) {
                Some(hit) => return at + hit as u64,
                None => at += most as u64 - (block::MAGIC.len() as u64 - 1),
            },
            Err(_) => at = (at / DISK_BLOCK + 1) * DISK_BLOCK,
        }
    }
    len
}
