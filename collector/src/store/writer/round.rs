//! A commit under way.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::active::{Active, BlockMaker};
use crate::store::cutting::Cutting;
use crate::store::pending::{Chunk, GroupKey};
use crate::store::slice::Commit;

/// A commit under way: what was uncommitted when it began, block by block.
pub(super) struct Round {
    pub active: Active,
    /// What it will say.
    pub commit: Commit,
    /// That has happened already: an earlier try reached the disk although its answer was an error.
    pub written: bool,
    pub groups: std::vec::IntoIter<(GroupKey, Vec<Arc<Chunk>>)>,
    pub cutting: Option<Cutting>,
}

impl Round {
    /// Makes all that was added durable.
    pub fn finish(self) -> Result<Active, StoreError> {
        let Self { mut active, commit, written, .. } = self;
        if !written {
            active.finish(commit)?;
        }
        active.sync()?;
        Ok(active)
    }

    /// Adds the next block; gives the bytes of its records, `None` when all blocks are added.
    pub fn add_block(&mut self, maker: &mut BlockMaker) -> Result<Option<usize>, StoreError> {
        loop {
            let cutting = match &mut self.cutting {
                Some(cutting) => cutting,
                None => match self.groups.next() {
                    Some((key, chunks)) => self.cutting.insert(Cutting::new(key, chunks)),
                    None => return Ok(None),
                },
            };
            let (key, records) = cutting.next_block();
            if !records.is_empty() {
                self.active.add(maker, key, &records, &mut self.commit)?;
                return Ok(Some(records.iter().map(|record| record.len()).sum()));
            }
            self.cutting = None;
        }
    }
}
