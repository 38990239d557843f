//! Files of one lineage that begin with the same bytes: a copy of one that is known, or another file.
//!
//! A runtime's entries begin with a stamp, so two files that begin alike are one, whatever they are called. Docker's stamp
//! comes last, and a plain line may have none: there, the file that is written to is never a copy, and a rotated one is if its bytes are
//! those of the known file (logrotate's `copytruncate`). A copy has the name of what it is a copy of, and is read
//! from where that is settled. Another file gets a salt into its name, which is kept with its position.

use std::io;

use sonde_wire::uid::FileHash;

use super::core::Core;
use super::core::Now;
use super::format::Format;
use super::fs::LogFs;
use super::layout::Layout;
use super::ledger::Account;
use super::lineage::LineageId;
use super::open::read_file;
use super::tail::{CHECK_BYTES, FileId, Handle, Identity};

/// Bytes that are compared from the beginning.
const COMPARED: usize = 64 << 10;

/// The name of a file's contents.
pub fn hash(
    format: Format,
    pod_uid: &str,
    container: &str,
    restart: u32,
    salt: u64,
    head: &[u8],
) -> FileHash {
    match (format, salt) {
        (Format::Plain, _) => {
            let named = format!("{pod_uid}\0{container}\0{salt:x}\0");
            FileHash::of_bytes("file", &[named.as_bytes(), head].concat())
        }
        (_, 0) => FileHash::new(pod_uid, container, restart, head),
        (_, salt) => FileHash::new(&format!("{pod_uid}/{salt:x}"), container, restart, head),
    }
}

/// What a file that begins as known ones do is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// A copy of this one.
    From(FileId),
    /// It is shorter, and may become one.
    Perhaps,
    /// Another file.
    No,
}

impl<F: LogFs> Core<F> {
    /// Whether files of a lineage that begin alike may be different ones.
    pub(super) fn tells_apart(&self, lineage: LineageId) -> bool {
        self.lineages.get(&lineage).is_some_and(|lineage| lineage.layout != Layout::Pods)
    }

    /// Whether a known file has a first entry of this length that these bytes are.
    pub(super) fn begins_alike(
        &self,
        mate: FileId,
        format: Format,
        head_len: usize,
        hash_of: &dyn Fn(usize, u64) -> FileHash,
    ) -> bool {
        self.files.get(&mate).is_some_and(|mate| {
            mate.identity.is_some_and(|known| {
                let len = usize::from(known.head_len);
                let is_same = len == head_len || (format == Format::Plain && len < head_len);
                is_same && hash_of(len, mate.salt) == known.hash
            })
        })
    }

    /// What a file is a copy of.
    pub(super) fn copied_from(&mut self, id: FileId, alike: &[FileId], size: u64) -> io::Result<Copied> {
        let mut found = Copied::No;
        for mate in alike {
            match self.is_copy(id, *mate, size)? {
                Some(true) => return Ok(Copied::From(*mate)),
                Some(false) => {}
                None => found = Copied::Perhaps,
            }
        }
        Ok(found)
    }

    /// Whether a file that begins as a known one does is a copy of it; none = it is shorter, and may become one.
    pub(super) fn is_copy(&mut self, id: FileId, of: FileId, size: u64) -> io::Result<Option<bool>> {
        let Some((file, known)) = self.files.get(&id).zip(self.files.get(&of)) else {
            return Ok(Some(false));
        };
        if file.suffix.is_none() || known.gz.is_some() {
            return Ok(Some(false));
        }
        let (read, check, proof) = (known.read, known.check, known.proof);
        let back = read.min(CHECK_BYTES as u64);
        let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
        let left_len = read_file::<F>(&self.files, &mut self.gz, id, &mut left, 0)?;
        if self.is_intact(of, read, check)? {
            // What is there says it.
            let right_len = read_file::<F>(&self.files, &mut self.gz, of, &mut right, 0)?;
            let both = left_len.min(right_len);
            return Ok(match left[..both] == right[..both] {
                true if left_len < right_len => None,
                is_same => Some(is_same),
            });
        }
        // What was copied was emptied since: what is known of it are its beginning, and its last bytes that were read.
        let Some(check) = check.filter(|_| size >= read && back > 0) else {
            return Ok(if size < read { None } else { Some(false) });
        };
        if proof.is_some_and(|proof| !proof.fits(&left[..left_len])) {
            return Ok(Some(false));
        }
        let before = &mut right[..usize::try_from(back).unwrap_or(0)];
        let len = read_file::<F>(&self.files, &mut self.gz, id, before, read - back)?;
        Ok(Some(len == before.len() && crc32fast::hash(before) == check))
    }

    /// Whether an open file still has what was read of it.
    fn is_intact(&mut self, id: FileId, read: u64, check: Option<u32>) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(false) };
        if !matches!(file.handle, Some(Handle::Plain(_))) || !self.begins_as_before(id)? {
            return Ok(false);
        }
        let mut bytes = [0; CHECK_BYTES];
        let bytes = &mut bytes[..usize::try_from(read).unwrap_or(CHECK_BYTES).min(CHECK_BYTES)];
        let len = read_file::<F>(&self.files, &mut self.gz, id, bytes, read - bytes.len() as u64)?;
        Ok(len == bytes.len() && check.is_none_or(|check| crc32fast::hash(bytes) == check))
    }

    /// A copy goes on where what it was made from is settled.
    pub(super) fn adopt_copy(&mut self, id: FileId, of: FileId, head: &[u8], size: u64, now: Now) -> bool {
        let Some(known) = self.files.get(&of) else { return false };
        let Some(identity) = known.identity else { return false };
        let (salt, proof, settled, cutoff) =
            (known.salt, known.proof, known.settled.watermark(), known.cutoff);
        let head_len = usize::from(identity.head_len);
        if let Some(file) = self.files.get_mut(&id) {
            file.identity = Some(Identity::new(identity.hash, head, head_len));
            (file.salt, file.proof, file.cutoff, file.kept) = (salt, proof, cutoff, false);
            file.settled.insert(0, settled);
            (file.read, file.scanned) = (settled, settled);
            file.resend_below = size;
            // What was seen of it before it was known for a copy is settled twice, as it was seen twice.
            let twice = file.seen.min(settled);
            file.seen = file.seen.max(settled);
            if let Some(lineage) = self.lineages.get(&file.lineage) {
                self.ledger.settle(&lineage.row, twice, Account::Acked);
            }
        }
        self.note_stated(id, size, now);
        true
    }

    /// Inodes of the files that an earlier process knew of a lineage whose files are told apart.
    pub(super) fn nodes_of_earlier(&self, id: LineageId) -> Vec<(u64, u64)> {
        let Some(lineage) = self.lineages.get(&id).filter(|_| self.tells_apart(id)) else {
            return Vec::new();
        };
        let key = (lineage.pod_dir.clone(), lineage.container.clone(), lineage.restart);
        self.restored.get(&key).into_iter().flatten().filter_map(|(_, state)| state.node).collect()
    }

    /// How much of a file its copies have.
    pub(super) fn copied_below(&self, id: FileId) -> u64 {
        let Some(file) = self.files.get(&id) else { return 0 };
        let Some(lineage) = self.lineages.get(&file.lineage) else { return 0 };
        let copies = lineage.files.iter().filter(|mate| **mate != id).filter_map(|mate| self.files.get(mate));
        let of_it = copies.filter(|mate| {
            !mate.kept && mate.identity.map(|known| known.hash) == file.identity.map(|known| known.hash)
        });
        of_it.map(|copy| copy.seen).max().unwrap_or(0)
    }

    /// The copy of a file that is over keeps its state; false if there is none.
    pub(super) fn inherit(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.get(&id) else { return false };
        let (identity, lineage) = (file.identity, file.lineage);
        let mates = self.lineages.get(&lineage).map(|lineage| lineage.files.clone()).unwrap_or_default();
        let copy = mates.into_iter().find(|mate| {
            *mate != id
                && self.files.get(mate).is_some_and(|mate| {
                    !mate.kept && mate.identity.map(|known| known.hash) == identity.map(|known| known.hash)
                })
        });
        if let Some(file) = copy.and_then(|copy| self.files.get_mut(&copy)) {
            file.kept = true;
        }
        self.dirty_files.extend(copy);
        copy.is_some()
    }
}
