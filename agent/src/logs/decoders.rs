//! Whose compressed files are decoded now. A decoder only goes forward, so one that gives way to another file's has to
//! begin anew: with more containers at it than decoders live, each would decode its file from the start for each window.
//! So as many containers as there are decoders have a turn, which ends with the file, and the others wait in line.
//!
//! Only the lines that stand behind a compressed file, in its own container, wait for a turn. Those of other containers
//! are read in between: a turn goes on one window ([`super::core::QUANTUM`]) at a time, as any other reading does.

use std::collections::VecDeque;

use super::core::Core;
use super::fs::LogFs;
use super::gz;
use super::lineage::LineageId;
use super::tail::FileId;

/// Turns, and the line for them.
#[derive(Debug, Default)]
pub struct Decoders {
    busy: Vec<(LineageId, FileId)>,
    waiting: VecDeque<LineageId>,
}

impl<F: LogFs> Core<F> {
    /// Whether it is this container's turn to decode; if not, it is in line from now on.
    pub(super) fn may_decode(&mut self, id: LineageId, file: FileId) -> bool {
        let (files, lineages) = (&self.files, &self.lineages);
        let decoders = &mut self.decoders;
        // Who has a turn is in the queue of those to be read; who is not has nothing to decode any more.
        decoders.busy.retain(|(other, file)| {
            let is_due = *other == id || lineages.get(other).is_some_and(|other| other.queued);
            is_due && files.get(file).is_some_and(|file| file.aside.is_none())
        });
        if let Some((_, decoded)) = decoders.busy.iter_mut().find(|(other, _)| *other == id) {
            *decoded = file;
            return true;
        }
        if !decoders.waiting.contains(&id) {
            decoders.waiting.push_back(id);
        }
        decoders.waiting.retain(|other| lineages.contains_key(other));
        let free = gz::ALIVE.saturating_sub(decoders.busy.len());
        let has_turn = decoders.waiting.iter().take(free).any(|other| *other == id);
        if has_turn {
            decoders.waiting.retain(|other| *other != id);
            decoders.busy.push((id, file));
        }
        has_turn
    }

    /// Nothing is to be read of the file now.
    pub(super) fn end_decoding(&mut self, file: FileId) {
        let before = self.decoders.busy.len();
        self.decoders.busy.retain(|(_, decoded)| *decoded != file);
        if self.decoders.busy.len() == before {
            return;
        }
        let free = gz::ALIVE.saturating_sub(self.decoders.busy.len());
        let next: Vec<LineageId> = self.decoders.waiting.iter().take(free).copied().collect();
        for id in next {
            self.wake(id);
        }
    }

    /// The container did not ask for a turn although it could: it needs none.
    pub(super) fn leave_line(&mut self, id: LineageId) {
        self.decoders.waiting.retain(|other| *other != id);
    }
}
