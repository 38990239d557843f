//! What shows that a plain file is the one that a state is of.
//!
//! A runtime's first line has a stamp, so a file is what its first line says. A plain file's may be a heading that each file of its kind
//! begins with. So a plain file is named by its first KiB; and by as much as there was, and the time, if a second passed and that was
//! less. One that was deleted and made anew, emptied and written anew, or moved up while no agent ran, is told from
//! the known one by checksums over its first 4 KiB and over the last bytes before the place that it was read to. Of the first
//! KiB nothing is sent that the checksum on disk does not cover: whatever is found after a kill, what was sent of a file is
//! found with it.
//!
//! Cost: at most two small reads a second for a file that is being read; while it is shorter than a KiB, a write of the state each time that it is
//! found grown.

use std::io;

use sonde_wire::uid::FIRST_ENTRY_BYTES;

use super::core::Core;
use super::format::Format;
use super::fs::{LogFile, LogFs};
use super::open::read_file;
use super::tail::{CHECK_BYTES, FileId, Handle};

/// Bytes from the beginning.
pub const PROVED: usize = 4096;

/// Checksums over parts of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Bytes from the beginning, at most [`PROVED`].
    pub head_len: u16,
    /// Over them.
    pub head: u32,
    /// Where the file was read to.
    pub at: u64,
    /// Over the last [`CHECK_BYTES`] before that.
    pub tail: u32,
}

impl Proof {
    /// Of a file that begins like this, and is not read yet.
    pub fn of(beginning: &[u8]) -> Self {
        let head = &beginning[..beginning.len().min(PROVED)];
        let head_len = u16::try_from(head.len()).unwrap_or(u16::MAX);
        Self { head_len, head: crc32fast::hash(head), ..Self::default() }
    }

    /// Whether a file that begins like this may be the one.
    pub fn fits(&self, beginning: &[u8]) -> bool {
        let head = beginning.get(..usize::from(self.head_len));
        head.is_some_and(|head| crc32fast::hash(head) == self.head)
    }
}

impl<F: LogFs> Core<F> {
    /// Brings a plain file's proof up to where it is read.
    pub(super) fn prove(&mut self, id: FileId) {
        let Some(file) = self.files.get(&id) else { return };
        let Some(Handle::Plain(handle)) = &file.handle else { return };
        let is_plain =
            self.lineages.get(&file.lineage).is_some_and(|lineage| lineage.format == Format::Plain);
        let mut proof = file.proof.unwrap_or_default();
        if !is_plain || file.identity.is_none() || proof.at >= file.read {
            return;
        }
        let mut bytes = [0; PROVED];
        let head = &mut bytes[..usize::try_from(file.read).unwrap_or(PROVED).min(PROVED)];
        // It may have been emptied since it was read.
        if usize::from(proof.head_len) < head.len() {
            if handle.read_at(head, 0).ok() != Some(head.len()) || !proof.fits(head) {
                return;
            }
            proof = Proof { at: proof.at, tail: proof.tail, ..Proof::of(head) };
        }
        let back = CHECK_BYTES.min(usize::try_from(file.read).unwrap_or(CHECK_BYTES));
        let tail = &mut bytes[..back];
        let is_read = handle.read_at(tail, file.read - back as u64).ok() == Some(back);
        let checksum = crc32fast::hash(tail);
        // Asked last: what was read before was of the file that is known.
        let is_it = self.begins_as_before(id).is_ok_and(|is_it| is_it);
        if !is_read || !is_it || file.check.is_some_and(|check| check != checksum) {
            return;
        }
        (proof.at, proof.tail) = (file.read, checksum);
        if let Some(file) = self.files.get_mut(&id) {
            file.proof = Some(proof);
        }
    }

    /// Before a plain file is read on whose first KiB is not proved yet: what there is of it goes to disk first, together with that of others,
    /// unless the disk takes nothing. Whether it has to wait for that.
    pub(super) fn prove_first(&mut self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(false) };
        let Some(proof) = file.proof.filter(|proof| usize::from(proof.head_len) < FIRST_ENTRY_BYTES) else {
            return Ok(false);
        };
        let mut bytes = [0; PROVED];
        let len = read_file::<F>(&self.files, &mut self.gz, id, &mut bytes, 0)?;
        // What does not begin as it did is another file's: what is read says so.
        if len <= usize::from(proof.head_len) || !proof.fits(&bytes[..len]) {
            return Ok(false);
        }
        let Proof { head_len, head, .. } = Proof::of(&bytes[..len]);
        if let Some(file) = self.files.get_mut(&id) {
            file.proof = Some(Proof { head_len, head, ..proof });
            file.unsaved = true;
        }
        self.dirty_files.insert(id);
        Ok(true)
    }

    /// A copy that is shorter than what was read of its original is proved by what it has.
    pub(super) fn prove_copy(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let (Some(Handle::Plain(handle)), Some(proof)) = (&file.handle, file.proof) else { return };
        let Ok(size) = handle.stat().map(|stat| stat.size) else { return };
        if size >= proof.at.max(u64::from(proof.head_len)) {
            return;
        }
        let mut bytes = [0; PROVED];
        let head = &mut bytes[..usize::try_from(size).unwrap_or(PROVED).min(PROVED)];
        let is_read = handle.read_at(head, 0).ok() == Some(head.len());
        let (of_head, at) = (Proof::of(head), proof.at.min(size));
        let tail = &mut bytes[..usize::try_from(at).unwrap_or(CHECK_BYTES).min(CHECK_BYTES)];
        if is_read && handle.read_at(tail, at - tail.len() as u64).ok() == Some(tail.len()) {
            file.proof = Some(Proof { at, tail: crc32fast::hash(tail), ..of_head });
        }
    }

    /// Whether a file of which less was read than is proved still begins like that. The beginning that is compared with every window is shorter,
    /// and of files that begin alike it is the same.
    pub(super) fn begins_as_proved(&mut self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(true) };
        let Some(proof) = file.proof.filter(|proof| file.read < u64::from(proof.head_len)) else {
            return Ok(true);
        };
        if !matches!(file.handle, Some(Handle::Plain(_))) {
            return Ok(true);
        }
        let mut bytes = [0; PROVED];
        let len = read_file::<F>(&self.files, &mut self.gz, id, &mut bytes, 0)?;
        Ok(proof.fits(&bytes[..len]))
    }

    /// How many bytes of a window that begins at `base` the proof of a file allows to be looked at.
    pub(super) fn proved_below(&self, id: FileId, base: u64) -> usize {
        match self.files.get(&id).and_then(|file| file.proof) {
            Some(proof) if usize::from(proof.head_len) < FIRST_ENTRY_BYTES => {
                usize::try_from(u64::from(proof.head_len).saturating_sub(base)).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        }
    }

    /// Whether a file is the one that a proof is of. One that is shorter is not: where its end was lost, and what was
    /// written since, nobody knows. But a copy is, of as many bytes as a proof begins with: who wrote between copying and emptying was read
    /// before that.
    pub(super) fn is_proved(&mut self, id: FileId, proof: Option<Proof>) -> io::Result<bool> {
        let Some(proof) = proof else { return Ok(true) };
        let mut bytes = [0; PROVED];
        let len = read_file::<F>(&self.files, &mut self.gz, id, &mut bytes, 0)?;
        if !proof.fits(&bytes[..len]) {
            return Ok(false);
        }
        let is_plain = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Plain(_))));
        if !is_plain {
            // Nobody writes into it: what it begins with says it.
            return Ok(true);
        }
        let is_rotated = self.files.get(&id).is_some_and(|file| !file.was_live && !file.is_reused);
        if is_rotated && usize::from(proof.head_len) == PROVED && self.size_of(id)? < proof.at {
            return Ok(true);
        }
        let back = usize::try_from(proof.at.min(CHECK_BYTES as u64)).unwrap_or(CHECK_BYTES);
        let bytes = &mut bytes[..back];
        let len = read_file::<F>(&self.files, &mut self.gz, id, bytes, proof.at - back as u64)?;
        Ok(len == back && crc32fast::hash(bytes) == proof.tail)
    }
}
