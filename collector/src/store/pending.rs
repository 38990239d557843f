//! The newest records: taken from the queue, not yet committed, searched as they are.

use std::collections::HashMap;
use std::sync::Arc;

use super::origin::Origin;
use super::row::Row;

/// Bytes that a chunk and a group are counted as beyond their rows.
const CHUNK_BYTES: usize = 160;
const GROUP_BYTES: usize = 320;

/// Records of one origin and one file that came together, in the order in which they came.
#[derive(Debug)]
pub struct Chunk {
    /// What they have in common.
    pub origin: Arc<Origin>,
    /// `row::rows`.
    pub rows: Vec<u8>,
    /// How many.
    pub records: u32,
    /// Smallest time, Unix nanoseconds.
    pub min_time: u64,
    /// Largest time.
    pub max_time: u64,
    /// Largest severity.
    pub severity: u8,
}

/// What a block is made of: records of one origin, and of one file where they have a uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// What they have in common.
    pub origin: Arc<Origin>,
    /// Their file.
    pub file: Option<[u8; 10]>,
}

/// All uncommitted records, by what their blocks will be.
#[derive(Default)]
pub struct Pending {
    groups: HashMap<GroupKey, Vec<Arc<Chunk>>>,
    bytes: usize,
    records: u64,
}

impl Chunk {
    /// An empty chunk.
    pub fn new(origin: Arc<Origin>) -> Self {
        Self { origin, rows: Vec::new(), records: 0, min_time: u64::MAX, max_time: 0, severity: 0 }
    }

    /// Appends a record.
    pub fn push(&mut self, row: &Row<'_>) {
        row.encode(&mut self.rows);
        self.records += 1;
        self.min_time = self.min_time.min(row.time);
        self.max_time = self.max_time.max(row.time);
        self.severity = self.severity.max(row.severity);
    }
}

impl Pending {
    /// Adds what came in one request.
    pub fn push(&mut self, key: GroupKey, chunk: Arc<Chunk>) {
        // 8 bytes a record: its offset among the uncommitted ones (`super::seen`).
        self.bytes += chunk.rows.len() + CHUNK_BYTES + 8 * chunk.records as usize;
        self.records += u64::from(chunk.records);
        let origin_bytes = key.origin.size();
        self.groups
            .entry(key)
            .or_insert_with(|| {
                self.bytes += GROUP_BYTES + origin_bytes;
                Vec::new()
            })
            .push(chunk);
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records held.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The groups.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupKey, &Vec<Arc<Chunk>>)> {
        self.groups.iter()
    }

    /// Lets go what has been committed: of each of these groups so many of its first chunks.
    pub fn remove(&mut self, committed: &HashMap<GroupKey, usize>) {
        for (key, chunks) in std::mem::take(self).groups {
            let gone = committed.get(&key).copied().unwrap_or(0);
            for chunk in chunks.into_iter().skip(gone) {
                self.push(key.clone(), chunk);
            }
        }
    }
}
