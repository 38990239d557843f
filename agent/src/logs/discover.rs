//! Which log files there are: listings of directories that changed, compared with what is known. Here those of the pod log
//! directory; [`super::docker_dirs`] has Docker's, [`super::plain_files`] the rules'.
//!
//! An event only marks a directory; the listing decides. So a lost or late event costs time, never a file.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::core::{Core, Now};
use super::docker_config::Owner;
use super::format::Format;
use super::fs::{LogFs, Place, Stat};
use super::join::Joiner;
use super::layout::{self, DOCKER, Layout};
use super::limits::Quota;
use super::lineage::{FIRST_LOOK, Lineage, LineageId};
use super::odd::{self, Oddity};
use super::pod_path::{self, PodDir};
use crate::config::Parse;

/// A pod's directory.
pub struct PodEntry {
    pod: PodDir,
    watched: bool,
    mtime: u64,
    pub(super) containers: BTreeMap<Arc<str>, ContainerEntry>,
}

/// A container's directory.
#[derive(Default)]
pub struct ContainerEntry {
    watched: bool,
    mtime: u64,
    pub(super) lineages: BTreeMap<u32, LineageId>,
}

/// A file of one rotation as a listing shows it.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) plain: Option<Stat>,
    pub(super) gz: Option<Stat>,
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
        self.dirty_places.extend(self.docker.places(true));
        self.dirty_places.extend(self.plain.places());
        for (pod, entry) in &self.dirs {
            self.dirty_places.insert(Place::Pod(pod.clone()));
            for container in entry.containers.keys() {
                self.dirty_places.insert(Place::Container(pod.clone(), container.clone()));
            }
        }
    }

    /// Directories that are not watched are to be listed again when their time of change moved.
    pub(super) fn check_unwatched(&mut self) {
        self.check_docker();
        self.check_files();
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

    pub(super) fn mtime_of(&mut self, path: &str) -> u64 {
        self.fs.stat(path).map_or(0, |stat| stat.mtime_nanos)
    }

    /// Lists what is marked. New directories are marked on the way, outer before inner.
    pub(super) fn look(&mut self, now: Now) {
        while let Some(place) = self.dirty_places.pop_first() {
            match place {
                Place::DockerRoot => self.look_docker_root(),
                Place::Docker(id) => self.look_docker(&id, now),
                Place::Root => self.look_root(now),
                Place::Pod(pod) => self.look_pod(&pod, now),
                Place::Files => self.look_files(),
                Place::Dir(dir) => self.look_dir(&dir, now),
                Place::Container(pod, container) => self.look_container(&pod, &container, now),
            }
        }
    }

    fn look_root(&mut self, now: Now) {
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
        self.odd.note_unknown("", &names, Oddity::NotAPod, odd::is_pod, now.mono);
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
                self.odd.note_unknown(pod, &names, Oddity::NotAContainer, pod_path::is_container, now.mono);
                self.odd.leads_somewhere(&format!("/{pod}"));
                names
            }
            Err(_) if is_gone => {
                // It was never there, but for its name.
                if self.dirs.get(pod).is_some_and(|entry| entry.containers.is_empty()) {
                    self.odd.note_nowhere("", pod, now.mono);
                }
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
        let listing = match self.list_container(pod, container, &dir, now.mono) {
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

    fn list_container(
        &mut self,
        pod: &Arc<str>,
        container: &Arc<str>,
        dir: &str,
        now: Instant,
    ) -> io::Result<Listing> {
        let mut listing = Listing::new();
        let names = self.fs.list(dir)?;
        self.forget_unreadable(dir, &names);
        self.odd.note_unknown(dir, &names, Oddity::NotALog, odd::is_log, now);
        for name in names {
            let Some(parsed) = pod_path::log_name(&name) else { continue };
            // Gone since: the next event or listing will say so.
            let path = format!("{dir}/{name}");
            let stat = match self.fs.stat(&path) {
                Ok(stat) if stat.regular => {
                    self.odd.leads_somewhere(&path);
                    stat
                }
                Ok(_) => {
                    self.odd.note(Oddity::NotAFile, dir, &name, now);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.odd.note_nowhere(dir, &name, now);
                    continue;
                }
                Err(error) => {
                    self.say_unreadable(&path, &error);
                    continue;
                }
            };
            let owner = || Owner {
                pod: pod_path::pod_dir(pod).unwrap_or_default(),
                container: container.to_string(),
                restart: parsed.restart,
            };
            if self.is_dockers(stat.node, owner) {
                continue;
            }
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
    pub(super) fn forget_unreadable(&mut self, dir: &str, names: &[String]) {
        self.unreadable.retain(|path| {
            if dir.is_empty() && (path.starts_with(DOCKER) || path.starts_with('/')) {
                return true;
            }
            let below = if dir.is_empty() { Some(path.as_str()) } else { below(path, dir) };
            let Some(below) = below.filter(|below| !below.is_empty()) else { return true };
            let name = below.split('/').next().unwrap_or(below);
            names.iter().any(|shown| shown == name)
        });
    }

    pub(super) fn say_unreadable(&mut self, path: &str, error: &io::Error) {
        if self.unreadable.insert(path.to_owned()) {
            tracing::warn!(path, %error, "cannot read a log file or directory: tried again at each listing");
        }
    }

    fn add_lineage(&mut self, pod_dir: &Arc<str>, container: &Arc<str>, restart: u32, now: Instant) {
        let Some(entry) = self.dirs.get(pod_dir) else { return };
        let pod = entry.pod.clone();
        let id = self.make_lineage(pod_dir.clone(), pod, container, restart, Layout::Pods, now);
        if let Some(inner) = self.container_entry(pod_dir, container) {
            inner.lineages.insert(restart, id);
        }
    }

    /// A lineage without files.
    pub(super) fn make_lineage(
        &mut self,
        dir: Arc<str>,
        pod: PodDir,
        container: &str,
        restart: u32,
        layout: Layout,
        now: Instant,
    ) -> LineageId {
        let id = LineageId(self.next_lineage);
        self.next_lineage += 1;
        let row = layout::row_of(&dir, container).unwrap_or_default();
        self.ledger.set_alive(&row, true, now);
        // Who asks for a file wants it.
        let is_file = matches!(layout, Layout::Files { .. });
        let ruled_out = !is_file && !self.settings.filter.admits(&pod, &row.container);
        let redact = self.redactor.rules_for(&pod, &row.container);
        let lineage = Lineage {
            layout,
            format: Format::Cri,
            pod_dir: dir,
            pod,
            container: container.into(),
            restart,
            files: Vec::new(),
            unread: VecDeque::new(),
            unread_since: None,
            reached: [None; 2],
            joiner: Joiner::default(),
            groups: None,
            rule: None,
            rule_version: 0,
            wish: None,
            row,
            ruled_out,
            excluded: ruled_out,
            parse: self.settings.parse == Parse::Auto,
            quota: Quota::default(),
            redact,
            attributes: None,
            hold_until: None,
            due: None,
            queued: false,
            period: FIRST_LOOK,
        };
        self.lineages.insert(id, lineage);
        id
    }
}
