//! Which file is which: by its first entry, never by its inode alone.

use std::io;
use std::sync::Arc;

use sonde_wire::uid::{self, FIRST_ENTRY_BYTES, FileHash};

use super::checkpoint::{FileKey, FileState};
use super::core::{Core, Now};
use super::format;
use super::fs::LogFs;
use super::gz::{self, GzPool};
use super::layout::Layout;
use super::ledger::{Account, Excluded, Lost};
use super::open::read_file;
use super::tail::{FileId, Handle, Identity};
use crate::config::ReadExisting;

/// How long a file without a whole first entry stays quiet before what is there is taken for its first entry.
pub const UNFINISHED_HEAD: std::time::Duration = std::time::Duration::from_secs(10);

/// How well an identity over the first `head_len` bytes suits a file that begins with `head`; the best is the greatest,
/// none = not at all. One over the whole first entry goes before one that was taken while the entry was unfinished:
/// those few bytes may begin other files too, and none at all begin every file.
pub(super) fn fit(head: &[u8], head_len: usize) -> Option<usize> {
    if head.is_empty() {
        return None;
    }
    let whole = uid::first_entry(head).unwrap_or(head).len();
    (head_len == whole || (1..whole).contains(&head_len)).then_some(head_len)
}

impl<F: LogFs> Core<F> {
    /// Reads a file's first entry and finds what is known of it; false if its first entry is not whole yet. With
    /// `force`, what is there is the first entry: nothing more will come, or has not for long.
    pub(super) fn identify(&mut self, id: FileId, force: bool, now: Now) -> io::Result<bool> {
        self.ensure_open(id)?;
        let mut head = [0u8; FIRST_ENTRY_BYTES];
        let len = read_file::<F>(&self.files, &mut self.gz, id, &mut head, 0)?;
        let head = &head[..len];
        if head.is_empty() {
            self.note_empty_gz(id);
        }
        let Some(file) = self.files.get(&id) else { return Ok(false) };
        let of = file.lineage;
        let Some(lineage) = self.lineages.get_mut(&of) else { return Ok(false) };
        if lineage.layout == Layout::Pods && !head.is_empty() {
            // A link to Docker's file, where Docker's directory is not the one that we were told of.
            lineage.format = format::of_head(head);
        }
        let (pod_dir, container, restart) =
            (lineage.pod_dir.clone(), lineage.container.clone(), lineage.restart);
        let pod_uid = lineage.pod.uid.clone();
        let mates = lineage.files.clone();
        let size = self.size_of(id)?;

        let hash_of = |len: usize| FileHash::new(&pod_uid, &container, restart, &head[..len]);
        let node = self.files.get(&id).and_then(|file| file.plain);
        if let Some((key, state)) =
            self.take_restored(&(pod_dir, container.clone(), restart), head, node, &hash_of)
        {
            self.adopt(id, &key, &state, head, size, now);
            return Ok(true);
        }
        let head_len = match uid::first_entry(head) {
            Some(entry) => entry.len(),
            None if force && !head.is_empty() => head.len(),
            None => return Ok(false),
        };
        let identity = Identity::new(hash_of(head_len), head, head_len);
        let twin = mates.iter().any(|mate| {
            *mate != id
                && self.files.get(mate).is_some_and(|mate| {
                    mate.kept && mate.identity.is_some_and(|known| known.hash == identity.hash)
                })
        });
        if let Some(file) = self.files.get_mut(&id) {
            file.identity = Some(identity);
            file.kept = !twin;
        }
        self.note_stated(id, size, now);
        if !self.discovered {
            self.start_existing(id, size, now)?;
        }
        if self.is_excluded(of) {
            self.leave_out(of, id, false, now)?;
        }
        self.dirty_files.insert(id);
        Ok(true)
    }

    /// The beginning of a compressed file.
    pub(super) fn head_of_gz(file: &Arc<F::File>) -> Option<Vec<u8>> {
        let mut head = vec![0u8; FIRST_ENTRY_BYTES];
        let len = GzPool::head(file, &mut head).ok()?;
        head.truncate(len);
        Some(head)
    }

    /// Uncompressed size; of a compressed file, what it states, which may be nonsense.
    pub(super) fn size_of(&self, id: FileId) -> io::Result<u64> {
        use super::fs::LogFile;
        match self.files.get(&id).and_then(|file| file.handle.as_ref()) {
            Some(Handle::Plain(file)) => Ok(file.stat()?.size),
            Some(Handle::Gz(file)) => {
                let compressed = file.stat()?.size;
                // No text is stored in less than a thousandth of its length, and hardly in more than its length.
                let stated = gz::stated_size(&**file, compressed).map_or(0, u64::from);
                Ok(if stated / 1032 <= compressed { stated } else { compressed })
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn take_restored(
        &mut self,
        lineage: &super::core::LineageKey,
        head: &[u8],
        node: Option<(u64, u64)>,
        hash_of: &dyn Fn(usize) -> FileHash,
    ) -> Option<(FileKey, FileState)> {
        let whole = uid::first_entry(head).unwrap_or(head).len();
        let states = self.restored.get_mut(lineage)?;
        let (_, at) = states
            .iter()
            .enumerate()
            .filter_map(|(at, (key, state))| {
                let len = usize::from(state.head_len);
                // A few bytes without a stamp's end may begin another file too: it must be the same inode. A compressed
                // copy has another one.
                let is_same = len == whole || node.is_none() || state.node.is_none() || state.node == node;
                Some((fit(head, len)?, at)).filter(|_| is_same && hash_of(len) == key.hash)
            })
            .max()?;
        let found = states.swap_remove(at);
        if states.is_empty() {
            self.restored.remove(lineage);
        }
        Some(found)
    }

    /// Goes on where an earlier process was.
    fn adopt(&mut self, id: FileId, key: &FileKey, state: &FileState, head: &[u8], size: u64, now: Now) {
        let discovered = self.discovered;
        let Some(file) = self.files.get_mut(&id) else { return };
        file.identity = Some(Identity::new(key.hash, head, usize::from(state.head_len)));
        // What the file has lost since (a power cut, a truncation that left its first line).
        let mut state = state.clone();
        let plain = matches!(file.handle, Some(Handle::Plain(_)));
        let shrunk = plain && size < state.seen;
        file.restore(&state);
        file.sent_below = match plain {
            _ if self.was_stopped => state.seen,
            true => size.max(state.seen),
            false => u64::MAX,
        };
        if !discovered {
            file.resend_below = if plain { size.max(state.seen) } else { u64::MAX };
        }
        if file.pending() > 0 {
            file.behind_since = Some(now.mono);
        }
        if shrunk {
            let lost: u64 = file
                .settled
                .gaps(state.seen)
                .iter()
                .map(|(start, end)| end.saturating_sub((*start).max(size)))
                .sum();
            let row = self.lineages.get(&file.lineage).map(|lineage| lineage.row.clone());
            state.settled.retain(|(start, _)| *start < size);
            for span in &mut state.settled {
                span.1 = span.1.min(size);
            }
            state.seen = size;
            file.settled = super::spans::Spans::default();
            file.restore(&state);
            if let Some(row) = row {
                self.ledger.settle(&row, lost, Account::Lost(Lost::Truncated));
            }
        }
        let is_as_stated =
            state.seen > 0 && self.stated_end(id).map(u64::from) == Some(state.seen & u64::from(u32::MAX));
        if let Some(file) = self.files.get_mut(&id) {
            file.ended = is_as_stated;
            file.rule_from = state.seen;
        }
        self.adopt_rules(id, &state.rules);
        self.dirty_files.insert(id);
        self.note_stated(id, size, now);
    }

    /// Size modulo 2^32 as a compressed file states it.
    fn stated_end(&self, id: FileId) -> Option<u32> {
        match self.files.get(&id)?.handle.as_ref()? {
            Handle::Gz(file) => gz::stated_size(&**file, super::fs::LogFile::stat(&**file).ok()?.size),
            Handle::Plain(_) => None,
        }
    }

    /// `logs.read_existing`, for a file that was there at the first start.
    fn start_existing(&mut self, id: FileId, size: u64, now: Now) -> io::Result<()> {
        let is_gz = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Gz(_))));
        if let Some(file) = self.files.get_mut(&id) {
            file.resend_below = if is_gz { u64::MAX } else { size };
        }
        if !self.first_start {
            return Ok(());
        }
        match self.settings.read_existing {
            ReadExisting::All => {}
            ReadExisting::None if is_gz => self.skip_gz(id, size, now),
            ReadExisting::None => {
                let end = self.last_line_end(id, size)?;
                self.skip_to(id, end);
            }
            ReadExisting::Within(age) => {
                let cutoff =
                    now.wall_nanos.saturating_sub(u64::try_from(age.0.as_nanos()).unwrap_or(u64::MAX));
                let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
                file.cutoff = cutoff;
                let mtime = match &file.handle {
                    Some(Handle::Plain(handle) | Handle::Gz(handle)) => {
                        super::fs::LogFile::stat(&**handle)?.mtime_nanos
                    }
                    None => return Ok(()),
                };
                // Not one line in it can be younger than its last write.
                if mtime != 0 && mtime < cutoff {
                    if is_gz { self.skip_gz(id, size, now) } else { self.skip_to(id, size) }
                }
            }
        }
        Ok(())
    }

    /// Leaves out a whole compressed file. It is not decoded for its size: what it states has to do.
    fn skip_gz(&mut self, id: FileId, size: u64, now: Now) {
        self.note_size(id, size, now);
        self.skip_to(id, size);
        if let Some(file) = self.files.get_mut(&id) {
            file.ended = true;
            file.superseded = Some(now.mono);
        }
    }

    fn skip_to(&mut self, id: FileId, end: u64) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let bytes = file.settled.insert(0, end);
        file.read = end;
        file.scanned = end;
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            self.ledger.settle(&lineage.row, bytes, Account::Excluded(Excluded::Old));
        }
    }

    /// Where the last whole line ends, looking back at most one quantum.
    fn last_line_end(&mut self, id: FileId, size: u64) -> io::Result<u64> {
        let len = (super::core::QUANTUM as u64).min(size);
        let mut tail = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = read_file::<F>(&self.files, &mut self.gz, id, &mut tail, size - len)?;
        let newline = memchr::memrchr(b'\n', &tail[..read]);
        Ok(newline.map_or(size, |at| size - len + at as u64 + 1))
    }

    /// Counts what is new of a file by its size. Of a compressed file nothing is counted before it is decoded.
    pub(super) fn note_stated(&mut self, id: FileId, size: u64, now: Now) {
        let is_counted = |file: &super::tail::TailFile<F::File>| {
            // What is left out is counted as it is settled.
            !matches!(file.handle, Some(Handle::Gz(_))) && !self.is_excluded(file.lineage)
        };
        if self.files.get(&id).is_some_and(is_counted) {
            self.note_size(id, size, now);
        }
    }

    /// Not one byte could be decoded: there is none, or all of them are lost.
    fn note_empty_gz(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if file.ended || !matches!(file.handle, Some(Handle::Gz(_))) {
            return;
        }
        file.ended = true;
        if let Some(damage) = self.gz.damage(id) {
            self.say_damaged(id, &damage, 0);
            if let Some(file) = self.files.get_mut(&id) {
                file.aside = Some(super::tail::Aside::Gone);
            }
        }
    }

    pub(super) fn say_damaged(&mut self, id: FileId, damage: &gz::Damage, decoded: u64) {
        self.set_aside += 1;
        let Some(file) = self.files.get(&id) else { return };
        let Some(lineage) = self.lineages.get(&file.lineage) else { return };
        tracing::warn!(
            path = lineage.path(&file.name),
            namespace = lineage.pod.namespace,
            pod = lineage.pod.pod,
            container = %lineage.container,
            error = damage.error,
            decoded_bytes = decoded,
            compressed_bytes_behind = damage.unread,
            "a compressed log file is damaged: what could be decoded is shipped, the rest is lost"
        );
    }

    /// Counts what is new of a file.
    pub(super) fn note_size(&mut self, id: FileId, size: u64, now: Now) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let new = file.observe(size, now.mono);
        if new > 0 {
            if let Some(lineage) = self.lineages.get(&file.lineage) {
                self.ledger.observe(&lineage.row, new);
            }
            self.dirty_files.insert(id);
        }
    }

    /// Looks at the sizes of the open files that wait to be read: while the receiver is away they grow all the same, and nobody else
    /// would say by how much. One `fstat` of each.
    pub(super) fn note_sizes_of_waiting(&mut self, now: Now) {
        let waiting = self.ready.iter().filter_map(|id| self.lineages.get(id));
        let files: Vec<FileId> = waiting
            .filter(|lineage| !lineage.excluded)
            .flat_map(|lineage| lineage.files.iter().copied())
            .filter(|id| {
                let is_plain = |file: &super::tail::TailFile<F::File>| {
                    file.aside.is_none() && matches!(file.handle, Some(Handle::Plain(_)))
                };
                self.files.get(id).is_some_and(is_plain)
            })
            .collect();
        for id in files {
            if let Ok(size) = self.size_of(id) {
                self.note_stated(id, size, now);
            }
        }
    }

    /// Looks at every file's size and reads nothing.
    #[cfg(test)]
    pub(super) fn note_sizes_for_test(&mut self, now: Now) {
        let ids: Vec<FileId> = self.files.keys().copied().collect();
        for id in ids {
            if let Ok(size) = self.size_of(id) {
                self.note_stated(id, size, now);
            }
        }
    }
}
