//! Files of one lineage that begin with the same bytes.
//!
//! A runtime's entries begin with a stamp, so two files that begin alike are one, whatever they are called. Docker's stamp
//! comes last, and a plain line may have none: there, two files that begin alike are two, unless one is a copy ([`super::copies`]).
//! The later one gets a salt into its name, which is kept with its position.

use sonde_wire::uid::FileHash;

use super::core::{Core, LineageKey, Now};
use super::format::Format;
use super::fs::LogFs;
use super::layout::Layout;
use super::lineage::LineageId;
use super::tail::FileId;

/// The name of a file's contents, by the bytes of [`super::naming`], or as many of them as an identity is over.
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
        (_, 0) => FileHash::of_named(pod_uid, container, restart, head),
        (_, salt) => FileHash::of_named(&format!("{pod_uid}/{salt:x}"), container, restart, head),
    }
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
                is_same && hash_of(len, mate.salt) == known.alike
            })
        })
    }

    /// Inodes of the files that an earlier process knew of a lineage whose files are told apart.
    pub(super) fn nodes_of_earlier(&self, id: LineageId) -> Vec<(u64, u64)> {
        let Some(lineage) = self.lineages.get(&id).filter(|_| self.tells_apart(id)) else {
            return Vec::new();
        };
        let key = (lineage.pod_dir.clone(), lineage.container.clone(), lineage.restart);
        self.restored.get(&key).into_iter().flatten().filter_map(|(_, state)| state.node).collect()
    }

    /// What tells a plain file from all others that begin like it: nothing, if its first KiB is there, and no file is known that begins
    /// like that: then it has the same name for a process that has lost its state. Else the time of now.
    pub(super) fn salt_of(
        &self,
        id: FileId,
        lineage: &LineageKey,
        is_common: bool,
        hash_of: &dyn Fn(u64) -> FileHash,
        now: Now,
    ) -> u64 {
        let is_taken = |salt: u64| {
            let hash = hash_of(salt);
            let mut others = self.files.iter().filter(|(other, _)| **other != id);
            others.any(|(_, other)| other.identity.is_some_and(|known| known.hash == hash))
                || self.restored.get(lineage).into_iter().flatten().any(|(key, _)| key.hash == hash)
        };
        let is_reused = self.files.get(&id).is_some_and(|file| file.is_reused);
        if !is_common && !is_reused && !is_taken(0) {
            return 0;
        }
        (now.wall_nanos.max(1)..).find(|salt| !is_taken(*salt)).unwrap_or(u64::MAX)
    }
}
