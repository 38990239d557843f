//! Which records a query asks for.

use super::origin::Origin;
use super::pending::Chunk;
use super::row::Row;
use super::slice::{BlockRef, Wanted};
use super::text::{Matcher, Needle};

/// Which records are asked for; the default is all of them.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Names that must be equal, as [`super::NAMES`].
    pub names: [Option<String>; 5],
    /// Least severity number; 0 = any, also none.
    pub severity: u8,
    /// What must occur in the body.
    pub needles: Vec<Needle>,
    /// Smallest time, Unix nanoseconds.
    pub since: u64,
    /// The time before which a record must lie; `u64::MAX` = no bound.
    pub until: u64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { names: [const { None }; 5], severity: 0, needles: Vec::new(), since: 0, until: u64::MAX }
    }
}

impl Filter {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            names: self.names.clone(),
            tokens: self.needles.iter().flat_map(Needle::tokens).collect(),
            file: None,
            since: self.since,
            until: self.until,
            severity: self.severity,
        }
    }

    pub(super) fn takes_origin(&self, origin: &Origin) -> bool {
        self.names.iter().zip(&origin.names).all(|(wanted, name)| wanted.is_none() || wanted == name)
    }

    fn in_time(&self, time: u64) -> bool {
        // A time of `u64::MAX` is a time too, and no bound takes it.
        self.since <= time && (time < self.until || self.until == u64::MAX)
    }

    pub(super) fn takes_chunk(&self, chunk: &Chunk) -> bool {
        chunk.max_time >= self.since
            && (chunk.min_time < self.until || self.until == u64::MAX)
            && chunk.severity >= self.severity
            && self.takes_origin(&chunk.origin)
    }
}

/// A filter with what it needs to decide on rows.
pub struct Sieve {
    filter: Filter,
    matcher: Matcher,
}

impl Sieve {
    /// Of a filter.
    pub fn new(filter: Filter) -> Self {
        let matcher = Matcher::new(&filter.needles);
        Self { filter, matcher }
    }

    /// Whether a chunk may hold what is asked for.
    pub fn takes_chunk(&self, chunk: &Chunk) -> bool {
        self.filter.takes_chunk(chunk)
    }

    /// Whether a record of an origin that fits is asked for.
    pub fn takes(&mut self, row: &Row<'_>) -> bool {
        self.filter.in_time(row.time)
            && row.severity >= self.filter.severity
            && (self.matcher.is_empty() || self.matcher.matches(row.body))
    }

    /// Whether all records of a block fit that is known to be of the right names.
    pub(super) fn takes_all(&self, block: &BlockRef) -> bool {
        self.matcher.is_empty()
            && self.filter.severity == 0
            && self.filter.in_time(block.min_time)
            && self.filter.in_time(block.max_time)
    }
}
