//! Which records are in the store already: exactly once by uid, with little to look up.
//!
//! A uid names a file and an offset in it. For each file that is being written, *spans* of offsets are kept such
//! that every record of the file that the store has lies within one of them: a record outside all spans is new, and
//! in the usual case (files read from their start to their end, requests that overtake each other a little) that
//! decides. A record within a span may be new or not: it is looked up among the uncommitted offsets of its file, then
//! in the committed blocks whose offsets enclose it. Those are found by the file's term, and a block is decoded once
//! for all its records, so a file that is sent again as a whole costs one decode a block.
//!
//! Nothing of this is stored: a file that is not known here is looked up in the index. Memory: [`FILES_MAX`] files of
//! about 300 bytes, [`CACHED_OFFSETS_MAX`] + [`CACHED_BLOCKS_MAX`] entries of 8 and 80 bytes, and 8 bytes for each
//! uncommitted record (counted with those), some 20 where it came behind a later one of its file.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::pending::{Chunk, GroupKey};
use super::slice::{BlockRef, Slice, Wanted, file_term};
use super::{block, row};

/// Files remembered between commits; beyond it the longest untouched go.
const FILES_MAX: usize = 50_000;
/// Spans a file; beyond it the two lowest become one, which only costs look-ups.
const SPANS_MAX: usize = 8;
/// Offsets of decoded blocks that are kept.
const CACHED_OFFSETS_MAX: usize = 1 << 20;
/// Places of blocks that are kept.
const CACHED_BLOCKS_MAX: usize = 200_000;

/// A file's hash, the first part of a uid.
pub type FileHash = [u8; 10];

/// What the store has, file by file.
#[derive(Default)]
pub struct Seen {
    files: HashMap<FileHash, File>,
    /// Counts commits, to tell when a file was last touched.
    commits: u64,
    blocks: HashMap<FileHash, Arc<[Place]>>,
    cached_blocks: usize,
    offsets: HashMap<(u64, u64), Arc<[u64]>>,
    cached_offsets: usize,
}

struct File {
    /// Sorted, apart from each other, both ends included.
    spans: Vec<(u64, u64)>,
    /// Offsets of uncommitted records, each greater than those that came before it.
    rising: Vec<u64>,
    /// And those that came behind a greater one.
    others: BTreeSet<u64>,
    touched: u64,
}

/// Where a committed block of a file is.
struct Place {
    slice: Arc<Slice>,
    block: BlockRef,
    /// Largest offset in this block or one before it in the list.
    max_so_far: u64,
}

impl Seen {
    /// Whether a record is new; if so, it is taken for uncommitted from now on.
    ///
    /// `previous` is the offset of the record of the same file before it in the same request.
    pub fn admit(
        &mut self,
        slices: &[Arc<Slice>],
        hash: &FileHash,
        offset: u64,
        previous: Option<u64>,
    ) -> bool {
        let commits = self.commits;
        let file = match self.files.get_mut(hash) {
            Some(file) => file,
            None => {
                let spans = spans_of(slices, hash);
                self.files.entry(*hash).or_insert(File::new(spans))
            }
        };
        file.touched = commits;
        if file.spans.iter().any(|&(from, to)| from <= offset && offset <= to) {
            if file.is_pending(offset) || self.committed(slices, hash, offset) {
                return false;
            }
            // Borrowed again: the look-up needed all of `self`.
            if let Some(file) = self.files.get_mut(hash) {
                file.insert_pending(offset);
            }
            return true;
        }
        cover(&mut file.spans, previous.filter(|&from| from < offset).unwrap_or(offset), offset);
        file.insert_pending(offset);
        true
    }

    /// Whether a committed block has this record. A block or an index that cannot be read has none: its records are
    /// lost to readers, so storing one again doubles nothing.
    fn committed(&mut self, slices: &[Arc<Slice>], hash: &FileHash, offset: u64) -> bool {
        let places = match self.blocks.get(hash) {
            Some(places) => Arc::clone(places),
            None => {
                let places: Arc<[Place]> = places_of(slices, hash).into();
                if self.cached_blocks + places.len() > CACHED_BLOCKS_MAX {
                    self.blocks.clear();
                    self.cached_blocks = 0;
                }
                self.cached_blocks += places.len();
                self.blocks.insert(*hash, Arc::clone(&places));
                places
            }
        };
        let end = places.partition_point(|place| place.block.min_offset <= offset);
        for place in places[..end].iter().rev() {
            if place.max_so_far < offset {
                break;
            }
            if place.block.max_offset >= offset && self.offsets(place).binary_search(&offset).is_ok() {
                return true;
            }
        }
        false
    }

    fn offsets(&mut self, place: &Place) -> Arc<[u64]> {
        let key = (place.slice.id, place.block.at);
        if let Some(offsets) = self.offsets.get(&key) {
            return Arc::clone(offsets);
        }
        let offsets: Arc<[u64]> = match place.slice.read(&place.block) {
            Ok(block) => block::offsets(&block).into(),
            Err(error) => {
                tracing::error!(%error, "a block cannot be read; its records are taken for missing");
                Arc::default()
            }
        };
        if self.cached_offsets + offsets.len() > CACHED_OFFSETS_MAX {
            self.offsets.clear();
            self.cached_offsets = 0;
        }
        self.cached_offsets += offsets.len();
        self.offsets.insert(key, Arc::clone(&offsets));
        offsets
    }

    /// What was uncommitted is in a slice now, but for `left`.
    pub fn on_commit<'a>(&mut self, left: impl Iterator<Item = (&'a GroupKey, &'a Vec<Arc<Chunk>>)>) {
        for file in self.files.values_mut() {
            (file.rising, file.others) = (Vec::new(), BTreeSet::new());
        }
        for (key, chunks) in left {
            let Some(file) = key.file.and_then(|hash| self.files.get_mut(&hash)) else { continue };
            file.touched = self.commits + 1;
            for chunk in chunks {
                row::rows(&chunk.rows).for_each(|(_, row)| file.insert_pending(row::uid_offset(&row.uid)));
            }
        }
        if self.files.len() > FILES_MAX {
            let mut touched: Vec<u64> = self.files.values().map(|file| file.touched).collect();
            let middle = touched.len() / 2;
            let (_, oldest_kept, _) = touched.select_nth_unstable(middle);
            let oldest_kept = *oldest_kept;
            self.files.retain(|_, file| file.touched > oldest_kept || !file.rising.is_empty());
        }
        self.commits += 1;
        self.forget_places();
    }

    /// Slices were added or dropped: places are looked up again.
    pub fn forget_places(&mut self) {
        self.blocks.clear();
        self.cached_blocks = 0;
        self.offsets.clear();
        self.cached_offsets = 0;
    }
}

impl File {
    fn new(spans: Vec<(u64, u64)>) -> Self {
        Self { spans, rising: Vec::new(), others: BTreeSet::new(), touched: 0 }
    }

    fn insert_pending(&mut self, offset: u64) {
        if self.rising.last().is_none_or(|last| *last < offset) {
            self.rising.push(offset);
        } else {
            self.others.insert(offset);
        }
    }

    fn is_pending(&self, offset: u64) -> bool {
        self.rising.binary_search(&offset).is_ok() || self.others.contains(&offset)
    }
}

fn places_of(slices: &[Arc<Slice>], hash: &FileHash) -> Vec<Place> {
    let wanted = Wanted { file: Some(file_term(hash)), until: u64::MAX, ..Wanted::default() };
    let mut places = Vec::new();
    for slice in slices {
        match slice.find(&wanted) {
            Ok(blocks) => {
                places.extend(blocks.into_iter().map(|block| Place {
                    slice: Arc::clone(slice),
                    block,
                    max_so_far: 0,
                }));
            }
            Err(error) => {
                tracing::error!(%error, "a slice cannot be searched; its records are taken for missing")
            }
        }
    }
    places.sort_by_key(|place| place.block.min_offset);
    let mut max_so_far = 0;
    for place in &mut places {
        max_so_far = place.block.max_offset.max(max_so_far);
        place.max_so_far = max_so_far;
    }
    places
}

fn spans_of(slices: &[Arc<Slice>], hash: &FileHash) -> Vec<(u64, u64)> {
    let mut spans = Vec::new();
    for place in places_of(slices, hash) {
        cover(&mut spans, place.block.min_offset, place.block.max_offset);
    }
    spans
}

/// Makes `from..=to` part of the spans, which stay sorted, apart and at most [`SPANS_MAX`].
fn cover(spans: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    let first = spans.partition_point(|&(_, end)| end < from);
    let last = spans.partition_point(|&(start, _)| start <= to);
    let merged = spans[first..last].iter().fold((from, to), |(a, b), &(c, d)| (a.min(c), b.max(d)));
    spans.splice(first..last, [merged]);
    if spans.len() > SPANS_MAX {
        let second = spans.remove(1);
        spans[0].1 = second.1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Were each of them put before all others, this would take minutes.
    #[test]
    fn a_large_request_whose_offsets_fall_is_taken_as_one_whose_offsets_rise() {
        const RECORDS: u64 = 1 << 20;
        let mut seen = Seen::default();
        let mut previous = None;
        for offset in (0..RECORDS).rev() {
            assert!(seen.admit(&[], &[1; 10], offset, previous));
            previous = Some(offset);
        }
        assert!((0..RECORDS).step_by(1000).all(|offset| !seen.admit(&[], &[1; 10], offset, None)));
    }

    proptest! {
        #[test]
        fn every_covered_offset_lies_in_a_span(ranges in prop::collection::vec((0u64..500, 0u64..40), 1..40)) {
            let mut spans = Vec::new();
            for &(from, len) in &ranges {
                cover(&mut spans, from, from + len);
                prop_assert!(spans.len() <= SPANS_MAX);
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0), "{spans:?}");
            }
            for (from, len) in ranges {
                prop_assert!(spans.iter().any(|&(a, b)| a <= from && from + len <= b));
            }
        }

        #[test]
        fn an_uncommitted_record_is_new_once(requests in prop::collection::vec((0u64..300, 1u64..30), 1..60)) {
            let mut seen = Seen::default();
            let mut model = HashSet::new();
            for (start, count) in requests {
                let mut previous = None;
                for offset in (start..start + count).map(|n| n * 7) {
                    prop_assert_eq!(seen.admit(&[], &[1; 10], offset, previous), model.insert(offset));
                    previous = Some(offset);
                }
            }
        }
    }
}
