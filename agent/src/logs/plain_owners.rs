//! Whose a plain file is that has another name than before: an inode, and a name that an earlier process knew, lead to a file that is known,
//! and what it begins with says whether it is that one.
//!
//! Memory: about 100 bytes a file while a directory is listed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::checkpoint::{FileKey, FileState};
use super::core::{Core, LineageKey};
use super::format::Format;
use super::fs::{LogFile, LogFs, Stat};
use super::layout::{FILE, Layout};
use super::naming::Naming;
use super::plain_files::join;
use super::proof::PROVED;
use super::tail::{CHECK_BYTES, FileId, TailFile};
use super::twins::hash;

#[derive(Clone)]
pub(super) enum Owner {
    /// A container.
    Container,
    /// A lineage of plain files.
    Here(Known),
}

/// A lineage of plain files that knows a file.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) dir: Arc<str>,
    pub(super) base: Arc<str>,
    by: By,
}

/// How it is known.
#[derive(Clone, Copy)]
pub(super) enum By {
    File(FileId),
    /// Held open.
    Copy,
    /// An earlier process knew it.
    State,
}

impl<F: LogFs> Core<F> {
    /// Whose these inodes are, of those that have a name.
    pub(super) fn owners(&self, wanted: impl Iterator<Item = (u64, u64)>) -> HashMap<(u64, u64), Owner> {
        let wanted: HashSet<(u64, u64)> = wanted.collect();
        let is_wanted = |file: &TailFile<F::File>| {
            file.plain.is_some_and(|node| wanted.contains(&node))
                || file.gz.is_some_and(|node| wanted.contains(&node))
        };
        let named = self.files.iter().filter(|(_, file)| is_wanted(file));
        let named = named.filter_map(|(id, file)| Some((*id, file, self.lineages.get(&file.lineage)?)));
        let mut owners = HashMap::new();
        // What an earlier process read by another path to the same directory stays that one's.
        for (key, states) in &self.restored {
            if let Some(dir) = key.0.strip_prefix(FILE).filter(|dir| self.plain.is_meant(dir)) {
                let of = Known { dir: dir.into(), base: key.1.clone(), by: By::State };
                owners.extend(
                    states.iter().filter_map(|(_, state)| Some((state.node?, Owner::Here(of.clone())))),
                );
            }
        }
        for (id, file, lineage) in named {
            let owner = match &lineage.layout {
                Layout::Files { dir, base, .. } => {
                    Owner::Here(Known { dir: dir.clone(), base: base.clone(), by: By::File(id) })
                }
                _ => Owner::Container,
            };
            for node in [file.plain, file.gz].into_iter().flatten() {
                owners.insert(node, owner.clone());
            }
        }
        for (of, node) in self.copies.iter().flat_map(|copy| copy.nodes().map(|node| (copy.lineage, node))) {
            if let Some(Layout::Files { dir, base, .. }) =
                self.lineages.get(&of).map(|lineage| &lineage.layout)
            {
                let of = Known { dir: dir.clone(), base: base.clone(), by: By::Copy };
                owners.insert(node, Owner::Here(of));
            }
        }
        owners
    }

    /// Whether a file is known by this name, in this directory.
    pub(super) fn has_name(&self, owner: Option<&Owner>, path: &str, name: &str) -> bool {
        let Some(Owner::Here(Known { dir, by: By::File(id), .. })) = owner else { return false };
        **dir == *path && self.files.get(id).is_some_and(|file| file.name == name)
    }

    /// Files of a directory that an earlier process knew by names which are another file's by their looks.
    pub(super) fn names_kept(&self, path: &str) -> HashMap<String, Known> {
        let mut names = HashMap::new();
        for (key, states) in &self.restored {
            if key.0.strip_prefix(FILE) != Some(path) {
                continue;
            }
            for (_, state) in states {
                let name = state.name.strip_suffix(".gz").unwrap_or(&state.name);
                let of = Known { dir: path.into(), base: key.1.clone(), by: By::State };
                names.insert(name.to_owned(), of);
            }
        }
        names
    }

    /// Whether a file with another one's inode, or the name that it had, is that one. What is open keeps its inode; of any other its
    /// beginning is read.
    pub(super) fn is_owners(&mut self, of: &Known, name: &str, stat: &Stat, gz: bool) -> bool {
        let path = format!("{}{}", join(&of.dir, name), if gz { ".gz" } else { "" });
        match of.by {
            By::Copy => true,
            By::File(id) if self.files.get(&id).is_some_and(|file| file.handle.is_some()) => true,
            By::File(id) => self.is_alike_at(id, &path, *stat, gz).unwrap_or(true),
            By::State => self.is_kept_at(of, &path, gz).unwrap_or(false),
        }
    }

    /// Whether what lies at a path is a file that an earlier process knew in this lineage; none = it cannot be read.
    fn is_kept_at(&mut self, of: &Known, path: &str, gz: bool) -> Option<bool> {
        let key: LineageKey = (format!("{FILE}{}", of.dir).into(), of.base.clone(), 0);
        let uid = self.uid_of(&key.0);
        let opened = Arc::new(self.fs.open(path).ok()?);
        let beginning = if gz {
            Self::head_of_gz(&opened, Format::Plain)?
        } else {
            let mut beginning = vec![0; PROVED];
            let len = opened.read_at(&mut beginning, 0).ok()?;
            beginning.truncate(len);
            beginning
        };
        let naming = Naming::of(Format::Plain, &beginning);
        let is_it = |key: &FileKey, state: &FileState| {
            let head = naming.bytes().get(..usize::from(state.head_len)).filter(|head| !head.is_empty())?;
            // The name may be one of before, by another name of the cluster or the node.
            let Some(proof) = state.proof.filter(|proof| proof.head_len >= state.head_len) else {
                return Some(hash(Format::Plain, &uid, &of.base, 0, state.salt, head) == key.hash);
            };
            let mut tail = [0; CHECK_BYTES];
            let tail = &mut tail[..usize::try_from(proof.at).unwrap_or(CHECK_BYTES).min(CHECK_BYTES)];
            let is_read = gz || opened.read_at(tail, proof.at - tail.len() as u64).ok() == Some(tail.len());
            Some(is_read && proof.fits(&beginning) && (gz || crc32fast::hash(tail) == proof.tail))
        };
        Some(self.restored.get(&key)?.iter().any(|(key, state)| is_it(key, state) == Some(true)))
    }
}
