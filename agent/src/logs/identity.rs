//! Which file is which: by its first entry, never by its inode alone.

use std::io;
use std::sync::Arc;

use sonde_wire::uid::{FIRST_ENTRY_BYTES, FileHash};

use super::checkpoint::{FileKey, FileState};
use super::copies::Copied;
use super::core::{Core, Now};
use super::docker;
use super::format::{self, Format};
use super::fs::LogFs;
use super::gz::{self, GzPool};
use super::layout::Layout;
use super::ledger::{Account, Lost};
use super::naming::Naming;
use super::open::read_file;
use super::proof::{PROVED, Proof};
use super::tail::{FileId, Handle, Identity};
use super::twins::hash;

/// How long a file without a whole first entry stays quiet before what is there is taken for its first entry.
pub const UNFINISHED_HEAD: std::time::Duration = std::time::Duration::from_secs(10);

/// For how long a plain file's first bytes wait for more of them, so that it is told from others that begin alike.
const SHORT_HEAD: std::time::Duration = std::time::Duration::from_secs(1);

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
        let format = lineage.format;
        let is_first = self.first_start || self.plain.is_new(&lineage.layout);
        let mates = lineage.files.clone();
        let naming = Naming::read_behind(format, head, &mut |buffer, offset| {
            read_file::<F>(&self.files, &mut self.gz, id, buffer, offset)
        })?;
        let size = self.size_of(id)?;

        let hash_of =
            |len: usize, salt: u64| hash(format, &pod_uid, &container, restart, salt, &naming.bytes()[..len]);
        let node = self.files.get(&id).and_then(|file| file.plain);
        if let Some((key, state)) = self.take_restored(
            id,
            &(pod_dir.clone(), container.clone(), restart),
            format,
            &naming,
            node,
            &hash_of,
        )? {
            let alike = hash_of(usize::from(state.head_len), state.salt);
            let identity = Identity::new(key.hash, head, usize::from(state.head_len));
            self.adopt(id, Identity { alike, ..identity }, &state, size, now);
            return Ok(true);
        }
        if self.tells_apart(of) {
            match self.copied_from(id, now)? {
                Copied::From(mate) => {
                    self.set_copy(id, mate);
                    return Ok(false);
                }
                Copied::Perhaps => {
                    self.look_again(of, now.mono + SHORT_HEAD / 5);
                    return Ok(false);
                }
                Copied::No => {}
            }
            // Emptied since its beginning was read, it is neither what it was nor what it will be.
            let mut again = [0u8; FIRST_ENTRY_BYTES];
            let len = read_file::<F>(&self.files, &mut self.gz, id, &mut again, 0)?;
            if !again[..len].starts_with(head) {
                self.look_again(of, now.mono + SHORT_HEAD / 5);
                return Ok(false);
            }
        }
        let (head_len, is_whole) = (naming.bytes().len(), naming.is_whole);
        if head.is_empty() || (format != Format::Plain && !is_whole && !force) {
            return Ok(false);
        }
        let alike: Vec<FileId> = mates
            .iter()
            .copied()
            .filter(|mate| *mate != id && self.begins_alike(*mate, format, head_len, &hash_of))
            .collect();
        let is_told_apart = !alike.is_empty() && self.tells_apart(of);
        // Nobody writes into a compressed one; and what is there at the start is read in its order.
        let may_grow = self.discovered
            && self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Plain(_))));
        if !is_whole && !force && may_grow {
            self.note_unnamed(id, size, now);
            let since = self.files.get(&id).and_then(|file| file.behind_since);
            if since.is_none_or(|since| now.mono.saturating_duration_since(since) < SHORT_HEAD) {
                self.look_again(of, now.mono + SHORT_HEAD / 5);
                return Ok(false);
            }
        }
        let key = (pod_dir, container.clone(), restart);
        let salt = match format {
            Format::Plain => {
                let is_same = |mate: &FileId| self.head_len_of(*mate) == Some(head_len);
                let is_common = !is_whole || alike.iter().any(is_same);
                self.salt_of(id, &key, is_common, &|salt| hash_of(head_len, salt), now)
            }
            _ if is_told_apart => now.wall_nanos,
            _ => 0,
        };
        let identity = Identity::new(hash_of(head_len, salt), head, head_len);
        let twin = mates.iter().any(|mate| {
            *mate != id
                && self.files.get(mate).is_some_and(|mate| {
                    mate.kept && mate.identity.is_some_and(|known| known.hash == identity.hash)
                })
        });
        if let Some(file) = self.files.get_mut(&id) {
            file.identity = Some(identity);
            file.salt = salt;
            file.proof = (format == Format::Plain).then(|| Proof::of(head));
            file.kept = !twin;
            // Its records are called by it: it is on disk before they are sent, unless the disk takes nothing.
            file.unsaved = salt != 0 || format == Format::Plain;
        }
        self.note_stated(id, size, now);
        if let Some(size) = self.size_at_start(id, size) {
            self.start_existing(id, is_first, size, now)?;
        }
        if self.is_excluded(of) {
            self.leave_out(of, id, false, now)?;
        }
        self.dirty_files.insert(id);
        Ok(true)
    }

    /// The beginning of a compressed file, as much of it as names and proves it.
    pub(super) fn head_of_gz(file: &Arc<F::File>, format: Format) -> Option<Vec<u8>> {
        let read = |len: usize| {
            let mut head = vec![0u8; len];
            let read = GzPool::head(file, &mut head).ok()?;
            head.truncate(read);
            Some(head)
        };
        let head = read(PROVED)?;
        let is_longer = head.len() == PROVED && memchr::memchr(b'\n', &head).is_none();
        if format == Format::Docker && is_longer { read(docker::MAX_ENTRY + 1) } else { Some(head) }
    }

    /// What names an open file.
    pub(super) fn naming_of(&mut self, id: FileId, format: Format) -> io::Result<Naming> {
        Naming::read(format, &mut |buffer, offset| {
            read_file::<F>(&self.files, &mut self.gz, id, buffer, offset)
        })
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

    /// What an earlier process knew of a file that begins like this, the best fitting first.
    fn take_restored(
        &mut self,
        id: FileId,
        lineage: &super::core::LineageKey,
        format: Format,
        naming: &Naming,
        node: Option<(u64, u64)>,
        hash_of: &dyn Fn(usize, u64) -> FileHash,
    ) -> io::Result<Option<(FileKey, FileState)>> {
        let Some(states) = self.restored.get(lineage) else { return Ok(None) };
        // The names of cluster and node are part of a plain file's, and may be others by now: what proves it says which it is.
        let is_proof_enough =
            |state: &FileState| state.proof.is_some_and(|proof| proof.head_len >= state.head_len.max(1));
        let mut fitting: Vec<_> = states
            .iter()
            .enumerate()
            .filter_map(|(at, (key, state))| {
                let len = usize::from(state.head_len);
                // A few bytes without a stamp's end may begin another file too: it must be the same inode. A compressed
                // copy has another one. A plain file is proved.
                let is_whole = naming.is_for_good(len) || format == Format::Plain;
                let is_same = is_whole || node.is_none() || state.node.is_none() || state.node == node;
                // An inode keeps its number where its device gets another.
                let number = |node: Option<(u64, u64)>| node.map(|(_, number)| number);
                let is_other = number(node).zip(number(state.node)).is_some_and(|(one, other)| one != other);
                let is_same = is_same && !(naming.was_named_by(len) && is_other);
                // Of those that begin alike, the one with its inode.
                let is_node = node.is_some() && state.node == node;
                Some((naming.fit(len)?, is_node, at, state.proof))
                    .filter(|_| is_same && (hash_of(len, state.salt) == key.hash || is_proof_enough(state)))
            })
            .collect();
        fitting.sort_unstable_by_key(|(fit, is_node, at, _)| std::cmp::Reverse((*fit, *is_node, *at)));
        for (_, _, at, proof) in fitting {
            if !self.is_proved(id, proof)? {
                continue;
            }
            let Some(states) = self.restored.get_mut(lineage) else { break };
            let found = states.swap_remove(at);
            if states.is_empty() {
                self.restored.remove(lineage);
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    fn head_len_of(&self, id: FileId) -> Option<usize> {
        self.files.get(&id)?.identity.map(|identity| usize::from(identity.head_len))
    }

    /// Goes on where an earlier process was.
    fn adopt(&mut self, id: FileId, identity: Identity, state: &FileState, size: u64, now: Now) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.identity = Some(identity);
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
        // Whenever it is found: what an earlier process knew of it that one may have sent.
        file.resend_below = if plain { size.max(state.seen) } else { u64::MAX };
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
            // A copy: from now on it is known by what it has.
            self.prove_copy(id);
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

    /// How long a file was that was there when this process began; none = it was not.
    fn size_at_start(&mut self, id: FileId, size: u64) -> Option<u64> {
        let node = self.files.get(&id).and_then(|file| file.plain.or(file.gz));
        let listed = node.and_then(|node| self.docker.take_first(node));
        if self.discovered { listed.map(|listed| listed.min(size)) } else { Some(size) }
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

    /// Notes the size of a file without an identity. Where another may have its bytes, they are counted when that is known.
    pub(super) fn note_unnamed(&mut self, id: FileId, size: u64, now: Now) {
        let Some(lineage) = self.files.get(&id).map(|file| file.lineage) else { return };
        if !self.tells_apart(lineage) {
            self.note_stated(id, size, now);
        } else if let Some(file) = self.files.get_mut(&id) {
            file.observe_unnamed(size, now.mono);
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
    /// would say by how much. One `fstat` of each, and a look at the beginning of those that grew.
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
            let Ok(size) = self.size_of(id) else { continue };
            let file = self.files.get(&id);
            if file.is_some_and(|file| file.identity.is_none()) {
                self.note_unnamed(id, size, now);
                continue;
            }
            // Of one that was emptied, what is there now is another file's: the next visit says so.
            let has_grown = file.is_some_and(|file| size > file.seen);
            if has_grown && matches!(self.is_still_known(id), Ok(true)) {
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
