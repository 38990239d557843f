//! What goes to disk, and when.

use std::time::Instant;

use super::checkpoint::{Entry, FileKey};
use super::core::Core;
use super::fs::LogFs;
use super::tail::FileId;

impl<F: LogFs> Core<F> {
    /// Whether something changed since the last write.
    pub(super) fn needs_flush(&self) -> bool {
        !self.dirty_files.is_empty()
            || !self.gone.is_empty()
            || self.gaps_dirty
            || self.plain.begun_since().next().is_some()
            || self.checkpoints.failing()
    }

    /// Writes what changed (or everything, where the file has grown or is new); whether all is durable now.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let folded = self.ledger.fold(now);
        let all = self.checkpoints.wants_all();
        if !all && !self.needs_flush() && folded.is_empty() && !self.ledger.is_dirty() {
            return true;
        }
        if !self.checkpoints.may_write(now) {
            self.folded.extend(folded);
            return false;
        }
        self.folded.extend(folded);
        let entries = if all { self.live() } else { self.changes() };
        let done = self.checkpoints.write(&entries, all, now);
        if done {
            self.was_stopped = false;
            self.dirty_files.clear();
            self.gone.clear();
            self.folded.clear();
            self.gaps_dirty = false;
            self.plain.begun_is_kept();
            self.ledger.clear_dirty();
        }
        done
    }

    fn changes(&mut self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.gone.iter().cloned().map(Entry::Gone).collect();
        let dirty: Vec<FileId> = self.dirty_files.iter().copied().collect();
        for id in dirty {
            entries.extend(self.entry_of(id));
        }
        entries.extend(self.folded.iter().cloned().map(Entry::Folded));
        entries.extend(self.ledger.dirty_rows().map(|(key, row)| Entry::Row(key.clone(), *row)));
        if self.gaps_dirty {
            entries.push(Entry::Gaps(self.gaps));
        }
        entries.extend(self.plain.begun_since().map(Entry::Begun));
        entries
    }

    fn live(&mut self) -> Vec<Entry> {
        let ids: Vec<FileId> = self.files.keys().copied().collect();
        let mut entries: Vec<Entry> = ids.into_iter().filter_map(|id| self.entry_of(id)).collect();
        for (key, state) in self.restored.values().flatten() {
            entries.push(Entry::File(key.clone(), state.clone()));
        }
        entries.extend(self.ledger.rows().map(|(key, row)| Entry::Row(key.clone(), *row)));
        entries.push(Entry::Gaps(self.gaps));
        entries.extend(self.plain.begun().map(Entry::Begun));
        entries
    }

    fn entry_of(&mut self, id: FileId) -> Option<Entry> {
        self.prove(id);
        let file = self.files.get_mut(&id)?;
        let identity = file.identity.filter(|_| file.kept)?;
        let watermark = file.settled.watermark();
        file.cuts.retain(|cut| cut.offset > watermark);
        file.bindings.prune(watermark);
        let lineage = self.lineages.get(&file.lineage)?;
        let key = FileKey {
            pod_dir: lineage.pod_dir.to_string(),
            container: lineage.container.to_string(),
            restart: lineage.restart,
            hash: identity.hash,
        };
        let mut state = file.state(identity.head_len);
        if file.bound == 0 && file.bind_after.is_none() && lineage.rule_version > 0 {
            // This process has read nothing of it yet: the rule that it will be read with is the one for what comes, or a later
            // process would take it for read with the one before.
            let mut bindings = file.bindings.clone();
            bindings.change(file.read.max(file.sent_below), lineage.rule.as_ref());
            state.rules = bindings.specs();
        }
        if self.settings.wait_for_metadata && lineage.attributes.is_none() {
            // Nothing of it is read before its pod is known, which may want no logs: no later process may take what was
            // only seen for read.
            let settled = state.settled.last().map_or(0, |(_, end)| *end);
            state.seen = state.seen.min(file.rule_from.max(settled));
        }
        Some(Entry::File(key, state))
    }
}
