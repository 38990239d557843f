//! Which log files there are: listings of directories that changed, compared with what is known.
//!
//! An event only marks a directory; the listing decides. So a lost or late event costs time, never a file.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use sonde_wire::uid::FileHash;

use super::core::{Core, LineageKey, Now, row_of};
use super::fs::{LogFs, Place, Stat};
use super::identity::fit;
use super::join::Joiner;
use super::ledger::{Account, Excluded, Lost, RowKey};
use super::lineage::{FIRST_LOOK, Lineage, LineageId};
use super::pod_path::{self, PodDir};
use super::tail::{Aside, FileId, Handle, TailFile};

/// A pod's directory.
pub struct PodEntry {
    pod: PodDir,
    watched: bool,
    mtime: u64,
    containers: BTreeMap<Arc<str>, ContainerEntry>,
}

/// A container's directory.
#[derive(Default)]
pub struct ContainerEntry {
    watched: bool,
    mtime: u64,
    lineages: BTreeMap<u32, LineageId>,
}

/// A file of one rotation as a listing shows it.
#[derive(Debug, Default)]
struct Listed {
    plain: Option<Stat>,
    gz: Option<Stat>,
}

type Listing = BTreeMap<u32, BTreeMap<Option<String>, Listed>>;

/// The part of a path below a directory.
fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    path.strip_prefix(dir)?.strip_prefix('/')
}

impl<F: LogFs> Core<F> {
    /// Everything is to be listed again.
    pub(super) fn mark_all_dirty(&mut self) {
        self.dirty_places.insert(Place::Root);
        for (pod, entry) in &self.dirs {
            self.dirty_places.insert(Place::Pod(pod.clone()));
            for container in entry.containers.keys() {
                self.dirty_places.insert(Place::Container(pod.clone(), container.clone()));
            }
        }
    }

    /// Directories that are not watched are to be listed again when their time of change moved.
    pub(super) fn check_unwatched(&mut self) {
        if !self.root_watched && self.mtime_of("") != self.root_mtime {
            self.dirty_places.insert(Place::Root);
        }
        let mut unwatched = Vec::new();
        for (pod, entry) in &self.dirs {
            if !entry.watched {
                unwatched.push((Place::Pod(pod.clone()), pod.to_string(), entry.mtime));
            }
            for (container, inner) in &entry.containers {
                if !inner.watched {
                    unwatched.push((
                        Place::Container(pod.clone(), container.clone()),
                        format!("{pod}/{container}"),
                        inner.mtime,
                    ));
                }
            }
        }
        for (place, path, mtime) in unwatched {
            if self.mtime_of(&path) != mtime {
                self.dirty_places.insert(place);
            }
        }
    }

    fn mtime_of(&mut self, path: &str) -> u64 {
        self.fs.stat(path).map_or(0, |stat| stat.mtime_nanos)
    }

    /// Lists what is marked. New directories are marked on the way, outer before inner.
    pub(super) fn look(&mut self, now: Now) {
        while let Some(place) = self.dirty_places.pop_first() {
            match place {
                Place::Root => self.look_root(),
                Place::Pod(pod) => self.look_pod(&pod, now),
                Place::Container(pod, container) => self.look_container(&pod, &container, now),
            }
        }
    }

    fn look_root(&mut self) {
        if !self.root_watched {
            self.root_watched = self.fs.watch("", Place::Root);
            self.root_mtime = self.mtime_of("");
        }
        let names = match self.fs.list("") {
            Ok(names) => {
                self.unreadable.remove("");
                self.forget_unreadable("", &names);
                names
            }
            Err(error) => {
                if self.unreadable.insert(String::new()) {
                    tracing::warn!(%error, "cannot list the pod log directory");
                }
                if error.kind() == io::ErrorKind::NotFound {
                    self.root_watched = false;
                    Vec::new()
                } else {
                    return;
                }
            }
        };
        for pod in self.dirs.keys() {
            if !names.iter().any(|name| **name == **pod) {
                self.dirty_places.insert(Place::Pod(pod.clone()));
            }
        }
        for name in names {
            if self.dirs.contains_key(name.as_str()) {
                continue;
            }
            let Some(pod) = pod_path::pod_dir(&name) else { continue };
            let key: Arc<str> = name.into();
            self.dirs
                .insert(key.clone(), PodEntry { pod, watched: false, mtime: 0, containers: BTreeMap::new() });
            self.dirty_places.insert(Place::Pod(key));
        }
    }

    fn look_pod(&mut self, pod: &Arc<str>, now: Now) {
        let Some(entry) = self.dirs.get(pod) else { return };
        if !entry.watched {
            let watched = self.fs.watch(pod, Place::Pod(pod.clone()));
            let mtime = self.mtime_of(pod);
            if let Some(entry) = self.dirs.get_mut(pod) {
                (entry.watched, entry.mtime) = (watched, mtime);
            }
        }
        let listed = self.fs.list(pod);
        let is_gone = matches!(&listed, Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory));
        let names = match listed {
            Ok(names) => {
                self.unreadable.remove(&**pod);
                self.forget_unreadable(pod, &names);
                names
            }
            Err(_) if is_gone => {
                self.unreadable.remove(&**pod);
                self.forget_unreadable(pod, &[]);
                Vec::new()
            }
            Err(error) => {
                self.say_unreadable(pod, &error);
                return;
            }
        };
        let Some(entry) = self.dirs.get_mut(pod) else { return };
        let mut changed: Vec<Arc<str>> = Vec::new();
        for container in entry.containers.keys() {
            if !names.iter().any(|name| **name == **container) {
                changed.push(container.clone());
            }
        }
        for name in names {
            if pod_path::is_container(&name) && !entry.containers.contains_key(name.as_str()) {
                let container: Arc<str> = name.into();
                entry.containers.insert(container.clone(), ContainerEntry::default());
                changed.push(container);
            }
        }
        for container in changed {
            self.look_container(pod, &container, now);
        }
        if is_gone {
            let has_lineages = self
                .dirs
                .get(pod)
                .is_some_and(|entry| entry.containers.values().any(|inner| !inner.lineages.is_empty()));
            if let Some(entry) = self.dirs.get_mut(pod) {
                entry.watched = false;
            }
            if !has_lineages {
                self.dirs.remove(pod);
            }
        }
    }

    fn look_container(&mut self, pod: &Arc<str>, container: &Arc<str>, now: Now) {
        let dir = format!("{pod}/{container}");
        let Some(inner) = self.dirs.get(pod).and_then(|entry| entry.containers.get(container)) else {
            return;
        };
        if !inner.watched {
            let watched = self.fs.watch(&dir, Place::Container(pod.clone(), container.clone()));
            let mtime = self.mtime_of(&dir);
            if let Some(inner) = self.container_entry(pod, container) {
                (inner.watched, inner.mtime) = (watched, mtime);
            }
        }
        let listing = match self.list_container(&dir) {
            Ok(listing) => {
                self.unreadable.remove(&dir);
                listing
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.unreadable.remove(&dir);
                self.forget_unreadable(&dir, &[]);
                if let Some(inner) = self.container_entry(pod, container) {
                    inner.watched = false;
                }
                Listing::new()
            }
            Err(error) => {
                self.say_unreadable(&dir, &error);
                return;
            }
        };
        for restart in listing.keys() {
            let known = self
                .container_entry(pod, container)
                .is_some_and(|inner| inner.lineages.contains_key(restart));
            if !known {
                self.add_lineage(pod, container, *restart, now.mono);
            }
        }
        let Some(inner) = self.container_entry(pod, container) else { return };
        let lineages: Vec<(u32, LineageId)> =
            inner.lineages.iter().map(|(restart, id)| (*restart, *id)).collect();
        let mut empty = BTreeMap::new();
        let mut listing = listing;
        for (restart, id) in lineages {
            let files = listing.get_mut(&restart).unwrap_or(&mut empty);
            self.reconcile(id, files, now);
        }
    }

    fn container_entry(&mut self, pod: &Arc<str>, container: &Arc<str>) -> Option<&mut ContainerEntry> {
        self.dirs.get_mut(pod)?.containers.get_mut(container)
    }

    fn list_container(&mut self, dir: &str) -> io::Result<Listing> {
        let mut listing = Listing::new();
        let names = self.fs.list(dir)?;
        self.forget_unreadable(dir, &names);
        for name in names {
            let Some(parsed) = pod_path::log_name(&name) else { continue };
            // Gone since: the next event or listing will say so.
            let path = format!("{dir}/{name}");
            let stat = match self.fs.stat(&path) {
                Ok(stat) if stat.regular => stat,
                Ok(_) => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        self.say_unreadable(&path, &error);
                    }
                    continue;
                }
            };
            let listed = listing.entry(parsed.restart).or_default().entry(parsed.suffix).or_default();
            if parsed.gz {
                listed.gz = Some(stat);
            } else {
                listed.plain = Some(stat);
            }
        }
        Ok(listing)
    }

    /// Drops what could not be read below a directory and is no longer there.
    fn forget_unreadable(&mut self, dir: &str, names: &[String]) {
        self.unreadable.retain(|path| {
            let below = if dir.is_empty() { Some(path.as_str()) } else { below(path, dir) };
            let Some(below) = below.filter(|below| !below.is_empty()) else { return true };
            let name = below.split('/').next().unwrap_or(below);
            names.iter().any(|shown| shown == name)
        });
    }

    fn say_unreadable(&mut self, path: &str, error: &io::Error) {
        if self.unreadable.insert(path.to_owned()) {
            tracing::warn!(path, %error, "cannot read below the pod log directory: tried again at each listing");
        }
    }

    fn add_lineage(&mut self, pod_dir: &Arc<str>, container: &Arc<str>, restart: u32, now: Instant) {
        let Some(entry) = self.dirs.get_mut(pod_dir) else { return };
        let pod = entry.pod.clone();
        let id = LineageId(self.next_lineage);
        self.next_lineage += 1;
        if let Some(inner) = entry.containers.get_mut(container) {
            inner.lineages.insert(restart, id);
        }
        let row = RowKey {
            namespace: pod.namespace.clone(),
            pod: pod.pod.clone(),
            container: container.to_string(),
        };
        self.ledger.set_alive(&row, true, now);
        let excluded = !self.settings.filter.admits(&pod, container);
        let lineage = Lineage {
            pod_dir: pod_dir.clone(),
            pod,
            container: container.clone(),
            restart,
            files: Vec::new(),
            joiner: Joiner::default(),
            row,
            excluded,
            attributes: None,
            hold_until: None,
            due: None,
            queued: false,
            period: FIRST_LOOK,
        };
        self.lineages.insert(id, lineage);
    }

    /// Brings a lineage in line with what its directory shows.
    fn reconcile(&mut self, id: LineageId, listing: &mut BTreeMap<Option<String>, Listed>, now: Now) {
        let Some(lineage) = self.lineages.get(&id) else { return };
        let known = lineage.files.clone();
        let excluded = lineage.excluded;
        let mut named: Vec<FileId> = Vec::new();
        let mut changed = false;
        // By inode first: a rename is the common change.
        for (suffix, listed) in listing.iter_mut() {
            let plain_node = listed.plain.map(|stat| stat.node);
            let gz_node = listed.gz.map(|stat| stat.node);
            let found = self.find_node(&known, &named, plain_node, gz_node);
            if let Some(found) = found {
                changed |= self.files.get(&found).is_some_and(|file| {
                    let grown = listed.plain.is_some_and(|stat| stat.size != file.seen);
                    grown || file.suffix != *suffix || file.plain != plain_node || file.gz != gz_node
                });
                self.set_names(found, suffix.as_deref(), plain_node, gz_node);
                if !self.unreadable.is_empty()
                    && let Some((lineage, file)) = self.lineages.get(&id).zip(self.files.get(&found))
                {
                    self.unreadable.remove(&lineage.path(&file.name));
                }
                named.push(found);
                (listed.plain, listed.gz) = (None, None);
            }
        }
        // Those without a name come before whatever is new.
        for file in known {
            if named.contains(&file) {
                if excluded && let Some(size) = self.excluded_size(file) {
                    self.settle_excluded(file, size, now);
                }
            } else if let Some(known) = self.files.get_mut(&file) {
                changed |= known.is_named();
                (known.plain, known.gz) = (None, None);
                if excluded {
                    self.remove_file(file);
                }
            }
        }
        // The live file last: the state of an unfinished first line is an older file's before it is this one's.
        let rotated = listing.iter().filter(|(suffix, _)| suffix.is_some());
        for (suffix, listed) in rotated.chain(listing.iter().filter(|(suffix, _)| suffix.is_none())) {
            let Some(stat) = listed.plain.or(listed.gz) else { continue };
            changed = true;
            let gz_only = listed.plain.is_none();
            let plain_node = listed.plain.map(|stat| stat.node);
            let gz_node = listed.gz.map(|stat| stat.node);
            if excluded {
                let file = self.insert(id, suffix.clone(), plain_node, gz_node, now);
                if let Some(file) = self.files.get_mut(&file) {
                    file.aside = Some(Aside::Rule);
                }
                named.push(file);
                self.settle_excluded(file, stat.size, now);
                continue;
            }
            let compressed_from =
                if gz_only { self.find_compressed(id, &named, suffix.as_deref(), now) } else { None };
            if let Some(found) = compressed_from {
                self.set_names(found, suffix.as_deref(), None, gz_node);
                named.push(found);
                continue;
            }
            let file = self.insert(id, suffix.clone(), plain_node, gz_node, now);
            if let Err(error) = self.ensure_open(file) {
                let path = self
                    .lineages
                    .get(&id)
                    .map(|lineage| lineage.path(&lineage.file_name(suffix.as_deref(), gz_only)));
                self.remove_file(file);
                if error.kind() != io::ErrorKind::NotFound {
                    self.say_unreadable(&path.unwrap_or_default(), &error);
                }
                continue;
            }
            if let Some(path) = self
                .lineages
                .get(&id)
                .map(|lineage| lineage.path(&lineage.file_name(suffix.as_deref(), gz_only)))
            {
                self.unreadable.remove(&path);
            }
            named.push(file);
            let identified =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.identify(file, false, now)));
            match identified {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "cannot identify a log file yet"),
                Err(_) => self.set_aside(file),
            }
        }
        if !changed {
            return;
        }
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.period = FIRST_LOOK;
        }
        self.wake(id);
    }

    /// The known file with one of these inodes.
    fn find_node(
        &self,
        known: &[FileId],
        named: &[FileId],
        plain: Option<(u64, u64)>,
        gz: Option<(u64, u64)>,
    ) -> Option<FileId> {
        let free = || {
            known
                .iter()
                .copied()
                .filter(|id| !named.contains(id))
                .filter_map(|id| Some((id, self.files.get(&id)?)))
        };
        let by_plain = plain.and_then(|node| free().find(|(_, file)| file.plain == Some(node)));
        let by_gz = || gz.and_then(|node| free().find(|(_, file)| file.gz == Some(node)));
        // A listing taken during a rename shows the file nowhere; while it is open, its inode is its own.
        let by_handle = || {
            free().filter(|(_, file)| !file.is_named()).find(|(_, file)| {
                let (Some(Handle::Plain(handle) | Handle::Gz(handle)), true) =
                    (&file.handle, file.aside.is_none())
                else {
                    return false;
                };
                super::fs::LogFile::stat(&**handle)
                    .is_ok_and(|stat| Some(stat.node) == plain || Some(stat.node) == gz)
            })
        };
        by_plain.or_else(by_gz).or_else(by_handle).map(|(id, _)| id)
    }

    /// The file of a lineage that a new compressed file was made from.
    fn find_compressed(
        &mut self,
        id: LineageId,
        named: &[FileId],
        suffix: Option<&str>,
        now: Now,
    ) -> Option<FileId> {
        let lineage = self.lineages.get(&id)?;
        let candidates: Vec<FileId> = lineage
            .files
            .iter()
            .copied()
            .filter(|file| {
                !named.contains(file)
                    && self.files.get(file).is_some_and(|file| file.aside != Some(Aside::Gone))
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let path = lineage.path(&lineage.file_name(suffix, true));
        let key = (lineage.pod.uid.clone(), lineage.container.clone(), lineage.restart);
        let file = Arc::new(self.fs.open(&path).ok()?);
        let head = self.head_of_gz(FileId(u32::MAX), &file)?;
        let fits = candidates.into_iter().rev().filter_map(|candidate| {
            // Found when it was empty, and not visited since (every slot was taken): its first entry is there by now.
            if self.files.get(&candidate).is_some_and(|file| file.identity.is_none()) {
                let _ = self.identify(candidate, true, now);
            }
            let identity = self.files.get(&candidate)?.identity?;
            let len = usize::from(identity.head_len);
            let fit = fit(&head, len)?;
            let is_same = FileHash::new(&key.0, &key.1, key.2, &head[..len]) == identity.hash;
            is_same.then_some((fit, candidate))
        });
        // Of those that fit alike, the oldest.
        fits.max_by_key(|(fit, _)| *fit).map(|(_, candidate)| candidate)
    }

    fn set_names(
        &mut self,
        id: FileId,
        suffix: Option<&str>,
        plain: Option<(u64, u64)>,
        gz: Option<(u64, u64)>,
    ) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            let name = lineage.file_name(suffix, plain.is_none());
            if file.name != name {
                file.name = name;
            }
        }
        file.suffix = suffix.map(str::to_owned);
        file.plain = plain;
        file.gz = gz;
    }

    fn insert(
        &mut self,
        lineage: LineageId,
        suffix: Option<String>,
        plain: Option<(u64, u64)>,
        gz: Option<(u64, u64)>,
        now: Now,
    ) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        let name = self
            .lineages
            .get(&lineage)
            .map(|lineage| lineage.file_name(suffix.as_deref(), plain.is_none()))
            .unwrap_or_default();
        let mut file = TailFile::new(lineage, &name, suffix, now.mono);
        (file.plain, file.gz) = (plain, gz);
        let at = self.chain_position(lineage, file.suffix.as_deref());
        self.files.insert(id, file);
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.files.insert(at, id);
        }
        id
    }

    /// Known files keep their order; a new one comes behind all of them but those that are still there under a later
    /// name.
    fn chain_position(&self, lineage: LineageId, suffix: Option<&str>) -> usize {
        let Some(lineage) = self.lineages.get(&lineage) else { return 0 };
        let mut at = lineage.files.len();
        while at > 0 {
            let Some(before) = self.files.get(&lineage.files[at - 1]) else { break };
            if !before.is_named() || pod_path::order(before.suffix.as_deref(), suffix).is_le() {
                break;
            }
            at -= 1;
        }
        at
    }

    fn excluded_size(&mut self, id: FileId) -> Option<u64> {
        let file = self.files.get(&id)?;
        let path = self.lineages.get(&file.lineage)?.path(&file.name);
        self.fs.stat(&path).ok().map(|stat| stat.size)
    }

    fn settle_excluded(&mut self, id: FileId, size: u64, now: Now) {
        self.note_size(id, size, now);
        self.settle(id, 0, size, Account::Excluded(Excluded::Rule));
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

    /// States of an earlier process whose files are not there: what they had unread is lost. A lineage with a file that
    /// could not be identified yet keeps its states.
    pub(super) fn give_up_ghosts(&mut self, now: Instant) {
        let keys: Vec<LineageKey> = self.restored.keys().cloned().collect();
        for key in keys {
            let lineage = self
                .dirs
                .get(&key.0)
                .and_then(|entry| entry.containers.get(&key.1))
                .and_then(|inner| inner.lineages.get(&key.2));
            let files = lineage
                .and_then(|id| self.lineages.get(id))
                .map(|lineage| lineage.files.as_slice())
                .unwrap_or_default();
            let may_come = files.iter().any(|file| {
                self.files.get(file).is_some_and(|file| file.identity.is_none() && file.seen > 0)
            });
            let prefix = format!("{}/{}", key.0, key.1);
            let hidden = self
                .unreadable
                .iter()
                .any(|path| path.is_empty() || **path == *key.0 || path.starts_with(&prefix));
            if may_come || hidden {
                continue;
            }
            let is_rotated = !files.is_empty();
            for (file, state) in self.restored.remove(&key).unwrap_or_default() {
                let settled: u64 = state.settled.iter().map(|(start, end)| end - start).sum();
                let lost = state.seen.saturating_sub(settled);
                let reason = if is_rotated { Lost::RotatedUnread } else { Lost::DeletedUnread };
                if let Some(row) = row_of(&file) {
                    self.ledger.settle(&row, lost, Account::Lost(reason));
                    self.ledger.set_alive(&row, is_rotated, now);
                }
                if lost > 0 && is_rotated {
                    self.gaps += 1;
                    self.gaps_dirty = true;
                }
                self.gone.push(file);
            }
        }
    }

    /// Removes what is over: files without a name whose bytes are settled, lineages without files, pods without those.
    pub(super) fn sweep(&mut self, now: Instant) {
        if !self.restored.is_empty() {
            self.give_up_ghosts(now);
        }
        let over: Vec<FileId> = self
            .files
            .iter()
            .filter(|(_, file)| {
                !file.is_named() && file.pending() == 0 && (file.is_drained() || file.aside.is_some())
            })
            .filter(|(_, file)| {
                file.handle.is_none()
                    || file.aside == Some(Aside::Gone)
                    || now.saturating_duration_since(file.grown) >= super::visit::GRACE
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if self.outbox.ranges().any(|range| range.file == id) {
                continue;
            }
            self.mark_gone(id);
            self.remove_file(id);
        }
        let empty: Vec<LineageId> =
            self.lineages.iter().filter(|(_, lineage)| lineage.files.is_empty()).map(|(id, _)| *id).collect();
        for id in empty {
            let Some(lineage) = self.lineages.remove(&id) else { continue };
            if let Some(entry) = self.dirs.get_mut(&lineage.pod_dir)
                && let Some(inner) = entry.containers.get_mut(&lineage.container)
            {
                inner.lineages.remove(&lineage.restart);
                let is_dead = !self.lineages.values().any(|other| other.row == lineage.row);
                self.ledger.set_alive(&lineage.row, !is_dead, now);
            }
            self.dirty_places.insert(Place::Pod(lineage.pod_dir.clone()));
            self.dirty_places.insert(Place::Container(lineage.pod_dir, lineage.container));
        }
    }

    /// The state of a file is not needed any more.
    fn mark_gone(&mut self, id: FileId) {
        let Some(file) = self.files.get(&id) else { return };
        let (Some(identity), Some(lineage)) = (file.identity, self.lineages.get(&file.lineage)) else {
            return;
        };
        if file.kept {
            self.gone.push(super::checkpoint::FileKey {
                pod_dir: lineage.pod_dir.to_string(),
                container: lineage.container.to_string(),
                restart: lineage.restart,
                hash: identity.hash,
            });
        }
    }

    /// Whether a compressed copy can stand in for a file's handle.
    pub(super) fn reopen_compressed(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return false };
        if file.plain.is_some() || file.gz.is_none() || matches!(file.handle, Some(Handle::Gz(_))) {
            return false;
        }
        file.handle = None;
        self.ensure_open(id).is_ok()
    }
}
