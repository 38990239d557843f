//! Bytes that are lost: truncated, removed before they were read, more than may be held open. And files that are over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sonde_wire::logs::Stream;

use super::core::{Core, LineageKey, Now, row_of};
use super::fs::{LogFs, Place};
use super::join::Extent;
use super::layout::{self, DOCKER, FILE, Layout};
use super::ledger::{Account, Lost};
use super::lineage::{Lineage, LineageId};
use super::redo::Redo;
use super::tail::{Aside, FileId, Handle, TailFile};
use super::visit::GRACE;

/// Time between two messages about rotations that were not seen.
const SAY_GAPS: Duration = Duration::from_secs(60);
/// How long after its start a process waits for Docker's directory, if an earlier one read files there.
const AWAY: Duration = Duration::from_secs(600);

impl<F: LogFs> Core<F> {
    /// The file was cut under us: what of it was not read is gone, unless a copy has it, and what it holds now is another file.
    pub(super) fn truncated(&mut self, lineage: LineageId, id: FileId, now: Now) {
        let may_have_copy = self.tells_apart(lineage);
        let Some(file) = self.files.get_mut(&id) else { return };
        let handle = file.handle.take();
        let (plain, gz, suffix, name) =
            (file.plain.take(), file.gz.take(), file.suffix.clone(), file.name.clone());
        if may_have_copy {
            file.emptied = Some(now.mono);
            self.gz.forget(id);
        } else {
            self.give_up(id, Lost::Truncated, now.mono);
        }
        // Its copy was there before; whether anything changes in the directory from now on or not, it is listed.
        self.dirty_places.extend(self.lineages.get(&lineage).map(Lineage::place));
        let new = FileId(self.next_file);
        self.next_file += 1;
        let mut file = TailFile::new(lineage, &name, suffix, now.mono);
        (file.plain, file.gz, file.is_reused) = (plain, gz, true);
        file.handle = handle.filter(|handle| matches!(handle, Handle::Plain(_)));
        self.files.insert(new, file);
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            let at =
                lineage.files.iter().position(|other| *other == id).map_or(lineage.files.len(), |at| at + 1);
            lineage.files.insert(at, new);
        }
    }

    /// Counts as lost what of a file is neither settled nor on its way, and leaves the file aside.
    pub(super) fn give_up(&mut self, id: FileId, reason: Lost, now: Instant) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.aside = Some(Aside::Gone);
        (file.handle, file.emptied) = (None, None);
        file.behind_since.get_or_insert(now);
        self.gz.forget(id);
        self.lose_behind(id, 0, reason);
        self.drop_unfinished(id, reason);
    }

    /// Counts as lost what of a file's bytes from here on is neither settled nor on its way; gives how many.
    pub(super) fn lose_behind(&mut self, id: FileId, from: u64, reason: Lost) -> u64 {
        let Some(file) = self.files.get(&id) else { return 0 };
        // What is in a batch may yet be acknowledged.
        let mut covered = file.settled.clone();
        for range in self.outbox.ranges().filter(|range| range.file == id) {
            covered.insert(range.start, range.end);
        }
        let unread = self.lineages.get(&file.lineage).into_iter().flat_map(|lineage| &lineage.unread);
        let unread = unread.flat_map(|again| &again.extents);
        for extent in
            self.redo.iter().flat_map(Redo::extents).chain(unread).filter(|extent| extent.file == id)
        {
            covered.insert(extent.start, extent.end);
        }
        let mut lost = 0;
        for (start, end) in covered.gaps(file.seen) {
            let start = start.max(from);
            if start < end {
                self.settle(id, start, end, Account::Lost(reason));
                lost += end - start;
            }
        }
        lost
    }

    /// A line that began in a file that is gone cannot be read again; its entries in other files go with it.
    pub(super) fn drop_unfinished(&mut self, id: FileId, reason: Lost) {
        let Some(lineage) = self.files.get(&id).map(|file| file.lineage) else { return };
        let Some(lineage) = self.lineages.get_mut(&lineage) else { return };
        for stream in [Stream::Stdout, Stream::Stderr] {
            for extent in lineage.take_with(stream, id) {
                let file = extent.file;
                if let Some(known) = self.files.get_mut(&file) {
                    let new = known.settled.insert(extent.start, extent.end);
                    self.ledger.settle(&lineage.row, new, Account::Lost(reason));
                }
                self.dirty_files.insert(file);
            }
        }
    }

    /// An error of our own at a file: what was unfinished before, and has entries in that file or was in work, is lost, also its entries
    /// in other files. Nobody would send it any more, and to read it again might end alike.
    pub(super) fn lose_open(&mut self, id: LineageId, at: FileId, before: &[Extent]) {
        let Some(lineage) = self.lineages.get_mut(&id) else { return };
        let streams = [Stream::Stdout, Stream::Stderr];
        let mut lost: Vec<Extent> =
            streams.into_iter().flat_map(|stream| lineage.take_with(stream, at)).collect();
        let is_open = |extent: &Extent| {
            let covers = |open: &Extent| {
                open.file == extent.file && open.start <= extent.start && open.end >= extent.end
            };
            lineage.open_extents().any(covers)
        };
        lost.extend(before.iter().copied().filter(|extent| !is_open(extent)));
        for extent in lost {
            self.settle(extent.file, extent.start, extent.end, Account::Lost(Lost::RotatedUnread));
        }
    }

    /// Bytes of deleted files are held open only up to the limit; what is settled goes first, and then the oldest. Of a rotated file
    /// that was read and settled, and whose compressed copy has its name, none are.
    pub(super) fn limit_pinned(&mut self, now: Now) {
        let held: Vec<(FileId, u64)> =
            self.files.iter().filter_map(|(id, file)| Some((*id, file.held_bytes()?))).collect();
        let (mut pinned, mut over) = (Vec::new(), Vec::new());
        for (id, bytes) in &held {
            let has_grown = self.has_grown_late(*id, now);
            let Some(file) = self.files.get(id) else { continue };
            let is_settled = !has_grown && file.pending() == 0 && file.is_drained();
            if is_settled && file.is_named() && file.is_out_of_grace(now.mono) {
                over.push(*id);
            } else {
                pinned.push((!is_settled, file.grown, *id, *bytes));
            }
        }
        over.into_iter().for_each(|id| self.close(id));
        let mut total: u64 = pinned.iter().map(|(.., bytes)| bytes).sum();
        if total <= self.settings.pinned_deleted {
            return;
        }
        pinned.sort_unstable();
        for (is_unsettled, _, id, bytes) in pinned {
            if total <= self.settings.pinned_deleted {
                return;
            }
            total -= bytes;
            if !is_unsettled && self.files.get(&id).is_some_and(TailFile::is_named) {
                self.close(id);
            } else if !self.reopen_compressed(id) {
                if is_unsettled {
                    tracing::warn!(
                        bytes,
                        "more bytes of deleted log files than may be held open: the oldest are lost"
                    );
                }
                self.note_undecoded(id, now);
                self.give_up(id, Lost::PinnedLimit, now.mono);
            }
        }
    }

    /// Of a compressed file that was not decoded to its end, what it states of its size is all that is known of what is lost with it.
    fn note_undecoded(&mut self, id: FileId, now: Now) {
        let is_undecoded =
            |file: &TailFile<F::File>| matches!(file.handle, Some(Handle::Gz(_))) && !file.ended;
        let is_excluded = self.files.get(&id).is_some_and(|file| self.is_excluded(file.lineage));
        if !is_excluded
            && self.files.get(&id).is_some_and(is_undecoded)
            && let Ok(size) = self.size_of(id)
        {
            self.note_size(id, size, now);
        }
    }

    /// States of an earlier process whose files are not there: what they had unread is lost. A lineage with a file that
    /// could not be identified yet keeps its states.
    pub(super) fn give_up_ghosts(&mut self, now: Instant) {
        // Whose files are there may not be known yet.
        if self.docker.has_unnamed() {
            return;
        }
        let keys: Vec<LineageKey> = self.restored.keys().cloned().collect();
        let mut files_of: HashMap<LineageKey, Vec<FileId>> = HashMap::new();
        for lineage in self.lineages.values() {
            let key = (lineage.pod_dir.clone(), lineage.container.clone(), lineage.restart);
            if self.restored.contains_key(&key) {
                files_of.entry(key).or_default().extend(&lineage.files);
            }
        }
        for key in keys {
            let files = files_of.get(&key).map(Vec::as_slice).unwrap_or_default();
            let may_come = files.iter().any(|file| {
                self.files.get(file).is_some_and(|file| {
                    let may_have_bytes = file.has_bytes() || !file.is_drained();
                    file.identity.is_none() && file.aside.is_none() && may_have_bytes
                })
            });
            let prefix = format!("{}/{}", key.0, key.1);
            let hidden = self.unreadable.iter().any(|path| {
                let is_file = key.0.strip_prefix(FILE).is_some_and(|dir| path.starts_with(dir));
                let of_pod = **path == *key.0 || path.starts_with(&prefix) || path.starts_with(DOCKER);
                path.is_empty() || of_pod || is_file
            });
            // The listing may have been taken during a rename or a compression.
            let is_early = key.0.starts_with(FILE) && now.saturating_duration_since(self.started) < GRACE;
            // Docker's directory is there later than the agent, where it is a mount of its own; but not much later.
            let is_away = !self.docker.is_present()
                && now.saturating_duration_since(self.started) < AWAY
                && self.restored.get(&key).is_some_and(|states| {
                    states.iter().any(|(_, state)| layout::is_dockers_name(&state.name))
                });
            let is_away = is_away && !key.0.starts_with(FILE);
            if may_come || hidden || is_early || is_away {
                continue;
            }
            let is_rotated = !files.is_empty();
            let is_new = |file: &FileId| self.files.get(file).is_some_and(|file| !file.is_restored);
            let has_newer = files.iter().any(is_new);
            let newest = self.newest.get(&key).copied();
            for (file, state) in self.restored.remove(&key).unwrap_or_default() {
                let settled: u64 = state.settled.iter().map(|(start, end)| end - start).sum();
                let lost = state.seen.saturating_sub(settled);
                let reason = if is_rotated { Lost::RotatedUnread } else { Lost::DeletedUnread };
                if let Some(row) = row_of(&file) {
                    self.ledger.settle(&row, lost, Account::Lost(reason));
                    self.ledger.set_alive(&row, is_rotated, now);
                }
                // The newest file that was known is not there and others came: there may have been more between them.
                let is_overtaken =
                    !key.0.starts_with(FILE) && has_newer && newest.is_some_and(|newest| newest == file.hash);
                if is_rotated && (lost > 0 || is_overtaken) {
                    self.note_gap(&format!("{prefix}/{}", state.name), now);
                }
                self.gone.push(file);
            }
        }
    }

    /// Removes what is over: files without a name whose bytes are settled, lineages without files, pods without those.
    pub(super) fn sweep(&mut self, now: Now) {
        self.give_up_emptied(now.mono);
        if !self.restored.is_empty() {
            self.give_up_ghosts(now.mono);
        } else if !self.newest.is_empty() {
            self.newest = HashMap::new();
        }
        let over: Vec<FileId> = self
            .files
            .iter()
            .filter(|(_, file)| {
                let is_over = file.is_drained() || file.aside.is_some();
                !file.is_named() && file.emptied.is_none() && file.pending() == 0 && is_over
            })
            .filter(|(_, file)| {
                // Where its name in the state is all that tells it from others, it may turn up again.
                let since = file.nameless.filter(|_| self.tells_apart(file.lineage));
                since.is_none_or(|since| now.mono.saturating_duration_since(since) >= GRACE)
            })
            .filter(|(_, file)| {
                // A listing in the middle of a rename shows a file nowhere.
                let since = file.nameless.map_or(file.grown, |since| since.max(file.grown));
                file.aside == Some(Aside::Gone) || now.mono.saturating_duration_since(since) >= GRACE
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if self.outbox.ranges().any(|range| range.file == id) {
                continue;
            }
            // Its copy keeps its state.
            if self.has_grown_late(id, now) || self.go_on_in_copy(id) {
                continue;
            }
            self.mark_gone(id);
            let gap = self.files.get(&id).filter(|file| file.is_gap);
            let path = gap.and_then(|file| Some(self.lineages.get(&file.lineage)?.path(&file.name)));
            if let Some(path) = path {
                self.note_gap(&path, now.mono);
            }
            self.remove_file(id);
        }
        let empty: Vec<LineageId> =
            self.lineages.iter().filter(|(_, lineage)| lineage.files.is_empty()).map(|(id, _)| *id).collect();
        for id in empty {
            let Some(lineage) = self.lineages.remove(&id) else { continue };
            self.copies.retain(|copy| copy.lineage != id);
            let is_dead = !self.lineages.values().any(|other| other.row == lineage.row);
            self.ledger.set_alive(&lineage.row, !is_dead, now.mono);
            self.dirty_places.insert(lineage.place());
            match lineage.layout {
                Layout::Docker(id) => self.docker.forget(&id),
                Layout::Files { dir, base, .. } => self.plain.forget(&dir, &base),
                Layout::Pods => {
                    if let Some(entry) = self.dirs.get_mut(&lineage.pod_dir)
                        && let Some(inner) = entry.containers.get_mut(&lineage.container)
                    {
                        inner.lineages.remove(&lineage.restart);
                    }
                    self.dirty_places.insert(Place::Pod(lineage.pod_dir));
                }
            }
        }
    }

    /// Counts a rotation that was not seen: lines behind this file may have come and gone. That is said once a minute at most.
    fn note_gap(&mut self, path: &str, now: Instant) {
        self.gaps += 1;
        self.gaps_dirty = true;
        if self.said_gap.is_none_or(|at| now.saturating_duration_since(at) >= SAY_GAPS) {
            self.said_gap = Some(now);
            tracing::warn!(
                path,
                gaps = self.gaps,
                "a log file was rotated away unseen: lines between it and the next one that is there may be lost"
            );
        }
    }

    /// Forgets a file.
    pub(super) fn remove_file(&mut self, id: FileId) {
        self.gz.forget(id);
        self.dirty_files.remove(&id);
        let Some(file) = self.files.remove(&id) else { return };
        if let Some(lineage) = self.lineages.get_mut(&file.lineage) {
            lineage.files.retain(|other| *other != id);
        }
    }

    /// The state of a file is not needed any more.
    fn mark_gone(&mut self, id: FileId) {
        let Some(file) = self.files.get(&id) else { return };
        let (Some(identity), Some(lineage)) = (file.identity, self.lineages.get(&file.lineage)) else {
            return;
        };
        let key = super::checkpoint::FileKey {
            pod_dir: lineage.pod_dir.to_string(),
            container: lineage.container.to_string(),
            restart: lineage.restart,
            hash: identity.hash,
        };
        if file.kept {
            self.gone.push(key);
        }
    }
}
