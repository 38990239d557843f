//! What comes late into a renamed file, while the runtime still writes into it.
//!
//! Of each stream a runtime writes in order, into the renamed file and then into the next one; so a file before is looked at once
//! more behind each reading of a later one, and no line is parsed before one that was written before it. Where an entry comes all
//! the same of whose stream a later one was read, the order in which they were read is no function of the files' bytes: it is made
//! durable before the entry is sent, as a rule of its own from there on (`bindings`), by which each entry is a record and touches no
//! other. A replay obeys it.
//!
//! A renamed file that is read and was quiet for [`super::visit::GRACE`] is not looked at any more. Should a program write on into it all the
//! same, which nobody says, it is looked at again: when a listing shows it larger, and before it is closed or forgotten.

use super::core::{Core, Now};
use super::fs::LogFs;
use super::lineage::LineageId;
use super::tail::{FileId, Handle};

impl<F: LogFs> Core<F> {
    /// Whether a file before this one grew since it was read to its end: the runtime writes on into a renamed file for a moment.
    /// Asked behind the reading: what the window shows of a stream was written behind what that stream wrote before, and is
    /// parsed behind it too.
    pub(super) fn grew_before(&self, lineage: LineageId, id: FileId, now: Now) -> bool {
        let Some(of) = self.lineages.get(&lineage) else { return false };
        if of.files.len() < 2 || of.excluded {
            return false;
        }
        let before = of.files.iter().take_while(|other| **other != id);
        before.filter_map(|other| Some((*other, self.files.get(other)?))).any(|(other, file)| {
            let is_watched = file.aside.is_none()
                && file.identity.is_some()
                && matches!(file.handle, Some(Handle::Plain(_)))
                && !file.is_out_of_grace(now.mono);
            is_watched && self.size_of(other).is_ok_and(|size| size > file.seen)
        })
    }

    /// Of which streams entries in a later file were read already, behind a file that was read to its end before.
    pub(super) fn late_streams(&self, lineage: LineageId, id: FileId) -> [bool; 2] {
        let Some(of) = self.lineages.get(&lineage) else { return [false; 2] };
        if self.files.get(&id).is_none_or(|file| file.superseded.is_none()) {
            return [false; 2];
        }
        let place = |file: FileId| of.files.iter().position(|other| *other == file);
        of.reached.map(|reached| reached.and_then(place).zip(place(id)).is_some_and(|(at, own)| at > own))
    }

    /// Entries from `at` on came late: that is in the state before one of them is sent. Whether it is.
    pub(super) fn mark_late(&mut self, id: FileId, at: u64, now: Now) -> bool {
        let Ok(late) = self.multiline.late() else { return false };
        let Some(file) = self.files.get_mut(&id) else { return false };
        let before = file.bindings.clone();
        file.bindings.set(at, Some(late));
        self.dirty_files.insert(id);
        let done = self.checkpoints.may_write(now.mono) && self.flush(now.mono);
        if !done && let Some(file) = self.files.get_mut(&id) {
            file.bindings = before;
        }
        done
    }

    /// Whether an open file grew long after it was renamed. Then it is read on.
    pub(super) fn has_grown_late(&mut self, id: FileId, now: Now) -> bool {
        let Some(file) = self.files.get(&id) else { return false };
        let is_watched = file.aside.is_none() && file.identity.is_some() && file.is_drained();
        if !is_watched || !matches!(file.handle, Some(Handle::Plain(_))) {
            return false;
        }
        let (lineage, seen) = (file.lineage, file.seen);
        let Ok(size) = self.size_of(id) else { return false };
        if size <= seen || !matches!(self.is_still_known(id), Ok(true)) {
            return false;
        }
        self.note_stated(id, size, now);
        if let Some(file) = self.files.get_mut(&id) {
            file.grown = now.mono;
        }
        self.wake(lineage);
        true
    }
}
