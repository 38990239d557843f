//! A group of uncommitted records on its way into blocks.

use std::sync::Arc;

use super::block;
use super::pending::{Chunk, GroupKey};
use super::row::{self, Row};

/// One group's records in (time, uid) order, block after block; equal ones as they came.
pub struct Cutting {
    key: GroupKey,
    chunks: Vec<Arc<Chunk>>,
    /// Number of the chunk and offset in it.
    places: Vec<(u32, u32)>,
    next: usize,
}

impl Cutting {
    /// Begins with a group.
    pub fn new(key: GroupKey, chunks: Vec<Arc<Chunk>>) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut places = Vec::new();
        for (n, chunk) in chunks.iter().enumerate() {
            places.extend(row::rows(&chunk.rows).map(|(at, row)| (row.key(), (number(n), number(at)))));
        }
        places.sort_by_key(|(key, _)| *key);
        let places = places.into_iter().map(|(_, place)| place).collect();
        Self { key, chunks, places, next: 0 }
    }

    /// The group, and the records of its next block, each as its bytes; none at the end.
    pub fn next_block(&mut self) -> (&GroupKey, Vec<&[u8]>) {
        let first = self.next;
        let mut bytes = 0;
        while let Some(record) = self.record(self.next) {
            bytes += record.len();
            if bytes > block::ROWS_BYTES && self.next > first {
                break;
            }
            self.next += 1;
        }
        (&self.key, (first..self.next).filter_map(|n| self.record(n)).collect())
    }

    fn record(&self, n: usize) -> Option<&[u8]> {
        let &(chunk, at) = self.places.get(n)?;
        let bytes = self.chunks.get(chunk as usize)?.rows.get(at as usize..)?;
        let (row, _) = Row::decode(bytes)?;
        bytes.get(..row.size())
    }
}
