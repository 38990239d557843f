//! Questions: which records, in which order, out of one snapshot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Store;
use super::filter::{Filter, Sieve};
use super::origin::Origin;
use super::pending::Chunk;
use super::row::{self, Row};
use super::slice::{BlockRef, Slice, Wanted};

/// Unpacked bytes that one query holds at most, beside one block; what is furthest away is let go and read again.
const OPEN_BYTES: usize = 16 << 20;

/// By (time, uid), from the smallest or from the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    Ascending,
    /// The newest first.
    Descending,
}

/// A query over one snapshot, as a merge of all blocks that may hold a match. A source is opened when it is its turn,
/// so what is held at a time are the blocks that overlap.
pub struct Query {
    sieve: Sieve,
    wanted: Wanted,
    order: Order,
    heap: BinaryHeap<Reverse<(Key, Source)>>,
    open_bytes: usize,
    opened: u64,
    /// Blocks and slices that could not be read.
    errors: u64,
}

/// Smaller comes first. For a source that is not open, the least that it may hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: u64,
    uid: [u8; 16],
    /// Sources that are not open come before records with the same key.
    is_record: bool,
    /// Number of the source, so that equal records keep an order.
    source: u64,
}

enum Source {
    Slice(Arc<Slice>),
    Block(Arc<Slice>, BlockRef),
    /// Let go; to be opened again behind so many matches.
    Parked(Arc<Slice>, BlockRef, usize),
    Chunk(Arc<Chunk>),
    Open(Box<Open>),
}

/// Matches of one block or chunk.
struct Open {
    rows: Rows,
    /// Where the matches are in the rows, in the query's order.
    matches: Vec<u32>,
    next: usize,
    source: u64,
    /// Where it can be read again.
    place: Option<(Arc<Slice>, BlockRef)>,
}

enum Rows {
    Block(Arc<Origin>, Vec<u8>),
    Chunk(Arc<Chunk>),
}

/// What a step of a query did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record was handed out.
    Record,
    /// Something was read; more is to come.
    Read,
    /// There is no more.
    End,
}

impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Source {}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Only the key beside it counts.
impl Ord for Source {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Store {
    /// Begins a query over what the store holds now. It keeps this snapshot: slices that are deleted meanwhile
    /// and records that are committed meanwhile stay readable for it.
    pub fn query(&self, filter: Filter, order: Order) -> Query {
        let (slices, chunks) = self.snapshot(&filter);
        let mut query = Query {
            wanted: filter.wanted(),
            sieve: Sieve::new(filter),
            order,
            heap: BinaryHeap::new(),
            open_bytes: 0,
            opened: 0,
            errors: 0,
        };
        query.errors = slices.iter().filter(|slice| slice.lacks(&query.wanted)).count() as u64;
        for slice in slices.iter().filter(|slice| slice.commit.records > 0) {
            let (min, max) = (slice.commit.min_time, slice.commit.max_time);
            query.push_closed(min, max, Source::Slice(Arc::clone(slice)));
        }
        for chunk in chunks {
            query.push_closed(chunk.min_time, chunk.max_time, Source::Chunk(chunk));
        }
        query
    }

    /// How many records fit; `go_on` is asked between blocks, and `None` is the answer where it says no.
    pub fn count(&self, filter: Filter, mut go_on: impl FnMut() -> bool) -> Option<Count> {
        let (slices, chunks) = self.snapshot(&filter);
        let wanted = filter.wanted();
        let mut sieve = Sieve::new(filter);
        let mut count = Count::default();
        for slice in slices.iter() {
            count.errors += u64::from(slice.lacks(&wanted));
            let Some(blocks) = or_count(slice.find(&wanted), &mut count.errors) else { continue };
            for block in blocks {
                if sieve.takes_all(&block) {
                    count.records += u64::from(block.records);
                    continue;
                }
                if !go_on() {
                    return None;
                }
                if let Some(read) = or_count(slice.read(&block), &mut count.errors) {
                    count.records += row::rows(&read.rows).filter(|(_, row)| sieve.takes(row)).count() as u64;
                }
            }
        }
        for chunk in chunks {
            if !go_on() {
                return None;
            }
            count.records += row::rows(&chunk.rows).filter(|(_, row)| sieve.takes(row)).count() as u64;
        }
        Some(count)
    }

    fn snapshot(&self, filter: &Filter) -> (Arc<[Arc<Slice>]>, Vec<Arc<Chunk>>) {
        let state = self.shared.state();
        let chunks = state.pending.groups().filter(|(key, _)| filter.takes_origin(&key.origin));
        let chunks = chunks.flat_map(|(_, chunks)| chunks).filter(|chunk| filter.takes_chunk(chunk));
        (Arc::clone(&state.slices), chunks.cloned().collect())
    }
}

/// An answer to a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Records that fit.
    pub records: u64,
    /// Blocks and slices that could not be read.
    pub errors: u64,
}

impl Query {
    /// Does one piece of work: hands out the next record or reads something.
    pub fn step(&mut self, take: impl FnOnce(&Origin, &Row<'_>)) -> Step {
        let Some(Reverse((key, source))) = self.heap.pop() else { return Step::End };
        match source {
            Source::Open(mut open) => {
                let Some(&at) = open.matches.get(open.next) else { return Step::Read };
                open.next += 1;
                if let Some((row, _)) = open.rows.bytes().get(at as usize..).and_then(Row::decode) {
                    take(open.rows.origin(), &row);
                }
                self.push_open(open);
                return Step::Record;
            }
            Source::Slice(slice) => {
                let found = or_count(slice.find(&self.wanted), &mut self.errors).unwrap_or_default();
                for block in found {
                    self.push_closed(
                        block.min_time,
                        block.max_time,
                        Source::Block(Arc::clone(&slice), block),
                    );
                }
            }
            Source::Chunk(chunk) => self.open(Rows::Chunk(chunk), None, 0, key.source),
            Source::Block(slice, block) => self.read(slice, block, 0, key.source),
            Source::Parked(slice, block, next) => self.read(slice, block, next, key.source),
        }
        if self.open_bytes > OPEN_BYTES {
            self.park(OPEN_BYTES / 2);
        }
        Step::Read
    }

    /// Lets all go that can be read again: what is left are places, and the uncommitted records of its beginning.
    pub fn rest(&mut self) {
        self.park(0);
    }

    /// Bytes that it holds beyond what the store holds anyway, about.
    #[cfg(test)]
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Blocks and slices that could not be read so far.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    fn read(&mut self, slice: Arc<Slice>, block: BlockRef, next: usize, source: u64) {
        if let Some(read) = or_count(slice.read(&block), &mut self.errors) {
            self.open(Rows::Block(Arc::new(read.origin), read.rows), Some((slice, block)), next, source);
        }
    }

    fn open(&mut self, rows: Rows, place: Option<(Arc<Slice>, BlockRef)>, next: usize, source: u64) {
        let mut matches = Vec::new();
        for (at, row) in row::rows(rows.bytes()) {
            if self.sieve.takes(&row) {
                matches.push((row.key(), u32::try_from(at).unwrap_or(u32::MAX)));
            }
        }
        // Rows of a chunk lie as they came, those of a block are sorted already.
        matches.sort_by_key(|(key, _)| *key);
        if self.order == Order::Descending {
            matches.reverse();
        }
        let matches = matches.into_iter().map(|(_, at)| at).collect();
        let open = Box::new(Open { rows, matches, next, source, place });
        self.open_bytes += open.size();
        self.push_open(open);
    }

    fn push_open(&mut self, open: Box<Open>) {
        let row = open.matches.get(open.next).and_then(|at| open.rows.bytes().get(*at as usize..));
        match row.and_then(Row::decode) {
            Some((row, _)) => {
                let key = self.key(row.time, row.uid, true, open.source);
                self.heap.push(Reverse((key, Source::Open(open))));
            }
            None => self.open_bytes -= open.size(),
        }
    }

    fn push_closed(&mut self, min_time: u64, max_time: u64, source: Source) {
        self.opened += 1;
        let key = match self.order {
            Order::Ascending => self.key(min_time, [0; 16], false, self.opened),
            Order::Descending => self.key(max_time, [u8::MAX; 16], false, self.opened),
        };
        self.heap.push(Reverse((key, source)));
    }

    fn key(&self, time: u64, uid: [u8; 16], is_record: bool, source: u64) -> Key {
        match self.order {
            Order::Ascending => Key { time, uid, is_record, source },
            Order::Descending => Key { time: !time, uid: uid.map(|byte| !byte), is_record, source },
        }
    }

    /// Lets the blocks go whose turn is furthest away, until little more than `keep` bytes are open.
    fn park(&mut self, keep: usize) {
        let mut kept = 0;
        let sources = std::mem::take(&mut self.heap).into_sorted_vec();
        // Sorted by `Reverse`: the furthest first.
        for Reverse((key, source)) in sources.into_iter().rev() {
            let source = match source {
                Source::Open(open) if keep == 0 || kept > keep => match open.place.clone() {
                    Some((slice, block)) => {
                        self.open_bytes -= open.size();
                        Source::Parked(slice, block, open.next)
                    }
                    None => Source::Open(open),
                },
                Source::Open(open) => {
                    kept += open.size();
                    Source::Open(open)
                }
                closed => closed,
            };
            self.heap.push(Reverse((key, source)));
        }
    }
}

impl Open {
    /// Bytes that it holds beyond what the store holds anyway.
    fn size(&self) -> usize {
        let rows = if self.place.is_some() { self.rows.bytes().len() } else { 0 };
        rows + 4 * self.matches.len() + 200
    }
}

impl Rows {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Block(_, rows) => rows,
            Self::Chunk(chunk) => &chunk.rows,
        }
    }

    fn origin(&self) -> &Origin {
        match self {
            Self::Block(origin, _) => origin,
            Self::Chunk(chunk) => &chunk.origin,
        }
    }
}

fn or_count<T>(result: Result<T, super::StoreError>, errors: &mut u64) -> Option<T> {
    result
        .inspect_err(|error| {
            *errors += 1;
            tracing::error!(%error, "a part of the store cannot be read; the rest answers");
        })
        .ok()
}
