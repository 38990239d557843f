//! Copies: a file is copied under a rotated name, and then emptied (logrotate's `copytruncate`).
//!
//! A rotated file that was never written to under a live name, and that a known one begins with, is a copy of it. While the known one has
//! its bytes, the copy is not read: it is listed under its lineage, and that is all. When the known one is emptied, what is known of it (name,
//! positions, cuts, what is on its way) goes on in the copy, as if the file had been renamed, and what is written from then on is another
//! file. So a record has one name, whichever of the two it was read from, and nothing is settled in one that only the other has.
//!
//! What is emptied waits for its copy until the directory was listed, and for [`GRACE`] more, since the copy may be renamed or compressed just
//! then. What no copy has by then, and what was written behind the copying and not read, is lost, and counted. While a line or a record is open in it, what
//! was written since waits too: its end may be in the copy, and what follows the emptying is none.
//!
//! A runtime's entries begin with a stamp, so in the kubelet's directories two files that begin alike have one name, and none of this
//! is needed. Memory: about 150 bytes a copy.

use std::io;
use std::time::Instant;

use super::core::{Core, Now};
use super::discover::Listed;
use super::fs::LogFs;
use super::ledger::Lost;
use super::lineage::{Lineage, LineageId};
use super::open::read_file;
use super::reconcile::Files;
use super::tail::{CHECK_BYTES, FileId, Handle};
use super::twins::hash;
use super::visit::GRACE;

/// Bytes that are compared from the beginning.
const COMPARED: usize = 64 << 10;
/// The same of a compressed file, of whose end nothing is known before: it takes a tenth of a second to decode them.
const COMPARED_GZ: u64 = 16 << 20;

/// A copy that is not read.
pub struct Copy<F> {
    /// Its lineage.
    pub lineage: LineageId,
    /// What it is a copy of.
    of: FileId,
    /// Held open, so that its inode is nobody else's.
    handle: Option<Handle<F>>,
    suffix: Option<String>,
    plain: Option<(u64, u64)>,
    gz: Option<(u64, u64)>,
    /// Uncompressed.
    size: u64,
}

impl<F> Copy<F> {
    /// Its inodes.
    pub fn nodes(&self) -> impl Iterator<Item = (u64, u64)> + use<F> {
        self.plain.into_iter().chain(self.gz)
    }
}

/// What a rotated file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// A copy of this one.
    From(FileId),
    /// What it may be a copy of has no name yet.
    Perhaps,
    /// A file of its own.
    No,
}

impl<F: LogFs> Core<F> {
    /// Takes the copies that are known out of a listing.
    pub(super) fn list_copies(&mut self, id: LineageId, listing: &mut Files) {
        self.copies.retain_mut(|copy| {
            if copy.lineage != id {
                return true;
            }
            let is_it = |listed: &Listed| {
                let nodes = || listed.plain.iter().chain(&listed.gz).map(|stat| stat.node);
                nodes().any(|node| copy.nodes().any(|known| known == node))
            };
            let Some((suffix, listed)) = listing.iter_mut().find(|(_, listed)| is_it(listed)) else {
                return false;
            };
            copy.suffix.clone_from(suffix);
            (copy.plain, copy.gz) = (listed.plain.map(|stat| stat.node), listed.gz.map(|stat| stat.node));
            copy.size = listed.plain.map_or(copy.size, |stat| stat.size);
            (listed.plain, listed.gz) = (None, None);
            true
        });
    }

    /// What a file is a copy of that has no name yet, and begins like this.
    pub(super) fn copied_from(&mut self, id: FileId, now: Now) -> io::Result<Copied> {
        let Some(file) = self.files.get(&id).filter(|file| !file.was_live) else {
            return Ok(Copied::No);
        };
        let of = file.lineage;
        let mates = self.lineages.get(&of).map(|lineage| lineage.files.clone()).unwrap_or_default();
        let mut found = Copied::No;
        for mate in mates.into_iter().rev().filter(|mate| *mate != id) {
            let Some(known) = self.files.get(&mate).filter(|known| known.aside.is_none()) else { continue };
            if known.emptied.is_none() {
                if known.suffix.is_some() || self.ensure_open(mate).is_err() {
                    continue;
                }
                let is_beginning = self.is_beginning_of(id, mate)?;
                if is_beginning && self.files.get(&mate).is_some_and(|mate| mate.identity.is_none()) {
                    self.identify(mate, false, now)?;
                }
                if self.files.get(&mate).is_some_and(|mate| mate.identity.is_none()) {
                    if is_beginning {
                        found = Copied::Perhaps;
                    }
                    continue;
                }
                // Asked last: what was compared is what is known. If it was emptied before, it is of what comes next, perhaps.
                if self.is_as_read(mate)? {
                    if is_beginning {
                        return Ok(Copied::From(mate));
                    }
                    continue;
                }
                self.truncated(of, mate, now);
                found = Copied::Perhaps;
            }
            if self.is_of_emptied(id, mate)? {
                return Ok(Copied::From(mate));
            }
        }
        Ok(found)
    }

    /// Whether all of a file, as far as it is there, is what another one begins with.
    fn is_beginning_of(&mut self, id: FileId, mate: FileId) -> io::Result<bool> {
        let size = self.size_of(id)?;
        if size > self.size_of(mate)? {
            return Ok(false);
        }
        // How long a compressed one is, and how it ends, is known when it is decoded.
        let is_gz = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Gz(_))));
        let most = if is_gz { COMPARED_GZ } else { COMPARED as u64 };
        let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
        let mut at = 0;
        while at < most {
            let len = read_file::<F>(&self.files, &mut self.gz, id, &mut left, at)?;
            let of = read_file::<F>(&self.files, &mut self.gz, mate, &mut right, at)?;
            if (len == 0 && at == 0) || len > of || left[..len] != right[..len] {
                return Ok(false);
            }
            if len < COMPARED {
                return Ok(true);
            }
            at += len as u64;
        }
        if is_gz || size <= COMPARED as u64 {
            return Ok(true);
        }
        let (left, right) = (&mut left[..CHECK_BYTES], &mut right[..CHECK_BYTES]);
        let at = size - CHECK_BYTES as u64;
        let len = read_file::<F>(&self.files, &mut self.gz, id, left, at)?;
        let of = read_file::<F>(&self.files, &mut self.gz, mate, right, at)?;
        Ok(len == left.len() && of == len && left == right)
    }

    /// Whether a file still has what was read of it.
    pub(super) fn is_as_read(&mut self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(false) };
        let (read, check, proof) = (file.read, file.check, file.proof);
        if !self.begins_as_before(id)? || !self.is_proved(id, proof)? {
            return Ok(false);
        }
        self.has_before(id, read, check)
    }

    /// Whether an open file is still the one that is known: by its first bytes, and where others may begin like it, by all that is known of
    /// it. Of a compressed one, and a copy that is shorter than what was read, nothing more is known.
    pub(super) fn is_still_known(&mut self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(true) };
        let is_whole = matches!(file.handle, Some(Handle::Plain(_))) && !file.is_copy;
        if is_whole && self.tells_apart(file.lineage) {
            self.is_as_read(id)
        } else {
            self.begins_as_before(id)
        }
    }

    /// Whether a file has bytes with this checksum before a place.
    fn has_before(&mut self, id: FileId, at: u64, check: Option<u32>) -> io::Result<bool> {
        let mut bytes = [0; CHECK_BYTES];
        let bytes = &mut bytes[..usize::try_from(at).unwrap_or(CHECK_BYTES).min(CHECK_BYTES)];
        let len = read_file::<F>(&self.files, &mut self.gz, id, bytes, at - bytes.len() as u64)?;
        Ok(len == bytes.len() && check.is_none_or(|check| crc32fast::hash(bytes) == check))
    }

    /// Whether a file is a copy of one that was emptied: of that are known its beginning, and the last bytes that were read.
    fn is_of_emptied(&mut self, id: FileId, mate: FileId) -> io::Result<bool> {
        let Some(known) = self.files.get(&mate) else { return Ok(false) };
        let (read, check, proof) = (known.read, known.check, known.proof);
        let size = self.size_of(id)?;
        let is_gz = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Gz(_))));
        if !self.begins_like(id, mate)? || !self.is_proved(id, proof)? {
            return Ok(false);
        }
        // To look at that place of a compressed one is to decode it up to there.
        let is_far = is_gz && read > COMPARED_GZ;
        Ok(is_far || size < read || self.has_before(id, read, check)?)
    }

    /// Whether a file begins with what another one is named by.
    fn begins_like(&mut self, id: FileId, mate: FileId) -> io::Result<bool> {
        let Some((known, identity)) = self.files.get(&mate).and_then(|mate| Some((mate, mate.identity?)))
        else {
            return Ok(false);
        };
        let (of, salt) = (known.lineage, known.salt);
        let Some(format) = self.lineages.get(&of).map(|lineage| lineage.format) else { return Ok(false) };
        let naming = self.naming_of(id, format)?;
        let head = naming.bytes().get(..usize::from(identity.head_len));
        let Some((head, lineage)) = head.zip(self.lineages.get(&of)) else { return Ok(false) };
        let (uid, container) = (&lineage.pod.uid, &lineage.container);
        Ok(hash(format, uid, container, lineage.restart, salt, head) == identity.alike)
    }

    /// A file that was found turns out to be a copy: it is not read.
    pub(super) fn set_copy(&mut self, id: FileId, of: FileId) {
        let size = self.size_of(id).unwrap_or(0);
        let Some(file) = self.files.get_mut(&id) else { return };
        let (lineage, handle, suffix) = (file.lineage, file.handle.take(), file.suffix.clone());
        tracing::debug!(copy = file.name, "a log file is a copy of one that is known");
        self.copies.push(Copy { lineage, of, handle, suffix, plain: file.plain, gz: file.gz, size });
        // The next listing says whether it is needed.
        self.dirty_places.extend(self.lineages.get(&lineage).map(Lineage::place));
        self.remove_file(id);
    }

    /// Files of a lineage that were emptied go on in their copies.
    pub(super) fn go_on_in_copies(&mut self, id: LineageId) {
        if self.copies.is_empty() {
            return;
        }
        for file in self.lineages.get(&id).map(|lineage| lineage.files.clone()).unwrap_or_default() {
            if self.files.get(&file).is_some_and(|file| file.emptied.is_some()) {
                self.go_on_in_copy(file);
            }
        }
    }

    /// A file that has no name any more goes on in the longest of its copies; false if there is none.
    pub(super) fn go_on_in_copy(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return false };
        let Some(lineage) = self.lineages.get(&file.lineage) else { return false };
        let copies = self.copies.iter().enumerate().filter(|(_, copy)| copy.of == id);
        let Some((at, _)) = copies.max_by_key(|(_, copy)| copy.size) else { return false };
        let copy = self.copies.swap_remove(at);
        file.name = lineage.file_name(copy.suffix.as_deref(), copy.plain.is_none());
        (file.suffix, file.plain, file.gz) = (copy.suffix, copy.plain, copy.gz);
        (file.handle, file.emptied, file.is_copy) = (copy.handle, None, true);
        (file.superseded, file.nameless, file.ended) = (None, None, false);
        let lineage = file.lineage;
        self.gz.forget(id);
        self.prove_copy(id);
        self.dirty_files.insert(id);
        self.wake(lineage);
        true
    }

    /// Of a file that goes on in a copy: what was written behind the copying, before it was emptied, is nowhere any more, but for what
    /// is on its way.
    pub(super) fn lose_what_no_copy_has(&mut self, id: FileId) {
        let Some(file) = self.files.get(&id).filter(|file| file.is_copy && file.aside.is_none()) else {
            return;
        };
        let seen = file.seen;
        if !matches!(file.handle, Some(Handle::Plain(_))) {
            return;
        }
        if let Ok(size) = self.size_of(id)
            && size < seen
        {
            let lost = self.lose_behind(id, size, Lost::Truncated);
            if lost > 0 {
                self.drop_unfinished(id, Lost::Truncated);
            }
            self.say_emptied(id, lost);
        }
    }

    /// What was emptied, and has no copy by now.
    pub(super) fn give_up_emptied(&mut self, now: Instant) {
        let is_due = |since: Instant| now.saturating_duration_since(since) >= GRACE;
        let due: Vec<FileId> = self
            .files
            .iter()
            .filter(|(_, file)| file.emptied.is_some_and(is_due))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let before = self.files.get(&id).map_or(0, |file| file.pending());
            self.give_up(id, Lost::Truncated, now);
            let after = self.files.get(&id).map_or(0, |file| file.pending());
            self.say_emptied(id, before - after);
        }
    }

    /// Notes which of these files were emptied; whether the copy of one of them may turn up.
    pub(super) fn wait_for_copies(&mut self, files: impl Iterator<Item = FileId>, now: Now) -> bool {
        let mut waits = false;
        for id in files {
            let Some(lineage) = self.files.get(&id).map(|file| file.lineage) else { continue };
            if self.tells_apart(lineage) && matches!(self.is_still_known(id), Ok(false)) {
                self.truncated(lineage, id, now);
            }
            waits |= self.files.get(&id).is_some_and(|file| file.emptied.is_some());
        }
        waits
    }

    fn say_emptied(&self, id: FileId, lost_bytes: u64) {
        let Some(file) = self.files.get(&id).filter(|_| lost_bytes > 0) else { return };
        let Some(lineage) = self.lineages.get(&file.lineage) else { return };
        tracing::warn!(
            path = lineage.path(&lineage.file_name(None, false)),
            lost_bytes,
            "a log file was emptied before it was read, and no copy has all of it: counted as truncated. Rotation \
             that renames (logrotate's create) loses nothing"
        );
    }
}
