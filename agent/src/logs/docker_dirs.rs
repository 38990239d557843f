//! Docker's container directory: which containers have logs there, and whose they are.
//!
//! A container is named by its labels as the pod path would name it, so key, uid and ledger row are the same under either
//! name. What the pod log directory links to here is read here, once, with its rotations, which have no link; a container without labels
//! gets the name of the link, and without one within a second that of its id.
//!
//! Memory: about 300 bytes a container, and for the first second 32 a file of one without labels.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Now};
use super::discover::Listed;
use super::docker_config::{self, Owner};
use super::format::Format;
use super::fs::{LogFile, LogFs, Place};
use super::layout::{self, DOCKER, Layout};
use super::lineage::LineageId;
use super::odd::Oddity;
use super::pod_path::PodDir;

/// How long a container without labels waits for a link to its log.
const NAME_WAIT: Duration = Duration::from_secs(1);

/// What is known of Docker's directory.
#[derive(Default)]
pub struct DockerDirs {
    watched: bool,
    mtime: u64,
    present: bool,
    containers: BTreeMap<Arc<str>, Entry>,
    /// Whose file an inode is.
    nodes: HashMap<(u64, u64), Arc<str>>,
    /// Sizes in the first listing of those whose container has no name yet.
    first: HashMap<(u64, u64), u64>,
}

struct Entry {
    watched: bool,
    mtime: u64,
    since: Instant,
    lineage: Option<LineageId>,
    /// The pod path that links to it.
    link: Option<Owner>,
    nodes: Vec<(u64, u64)>,
}

type Listing = BTreeMap<Option<String>, Listed>;

impl DockerDirs {
    /// Whether Docker's directory is there.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// Whether a container waits for its name.
    pub fn has_unnamed(&self) -> bool {
        self.containers.values().any(|entry| entry.lineage.is_none() && !entry.nodes.is_empty())
    }

    /// The directories to be listed again: all, or those that have no name yet.
    pub fn places(&self, all: bool) -> impl Iterator<Item = Place> + '_ {
        let is_meant = move |entry: &Entry| all || (entry.lineage.is_none() && !entry.nodes.is_empty());
        let containers = self.containers.iter().filter(move |(_, entry)| is_meant(entry));
        containers.map(|(id, _)| Place::Docker(id.clone())).chain(all.then_some(Place::DockerRoot))
    }

    /// The uncompressed size that a file had in the first listing, if its container had no name then.
    pub fn take_first(&mut self, node: (u64, u64)) -> Option<u64> {
        self.first.remove(&node)
    }

    /// A lineage is over.
    pub fn forget(&mut self, id: &str) {
        if let Some(entry) = self.containers.get_mut(id) {
            entry.lineage = None;
        }
    }

    fn set_nodes(&mut self, id: &Arc<str>, nodes: Vec<(u64, u64)>) {
        let Some(entry) = self.containers.get_mut(id) else { return };
        for node in std::mem::replace(&mut entry.nodes, nodes) {
            if self.nodes.get(&node) == Some(id) {
                self.nodes.remove(&node);
            }
        }
        for node in &entry.nodes {
            self.nodes.insert(*node, id.clone());
        }
    }
}

fn path_of(id: &str) -> String {
    format!("{DOCKER}/{id}")
}

impl<F: LogFs> Core<F> {
    /// Whether a file in the pod log directory is one of Docker's; its name there is kept for whom has no other.
    pub(super) fn is_dockers(&mut self, node: (u64, u64), owner: impl FnOnce() -> Owner) -> bool {
        let Some(id) = self.docker.nodes.get(&node).cloned() else { return false };
        if let Some(entry) = self.docker.containers.get_mut(&id)
            && entry.lineage.is_none()
        {
            entry.link = Some(owner());
            self.dirty_places.insert(Place::Docker(id));
        }
        true
    }

    /// Directories that are not watched are to be listed again when their time of change moved. Docker's own is looked for
    /// once a listing of everything where there is none.
    pub(super) fn check_docker(&mut self) {
        if self.docker.present && !self.docker.watched && self.mtime_of(DOCKER) != self.docker.mtime {
            self.dirty_places.insert(Place::DockerRoot);
        }
        let unwatched: Vec<(Arc<str>, u64)> = self
            .docker
            .containers
            .iter()
            .filter(|(_, entry)| !entry.watched)
            .map(|(id, entry)| (id.clone(), entry.mtime))
            .collect();
        for (id, mtime) in unwatched {
            if self.mtime_of(&path_of(&id)) != mtime {
                self.dirty_places.insert(Place::Docker(id));
            }
        }
        self.dirty_places.extend(self.docker.places(false));
    }

    pub(super) fn look_docker_root(&mut self) {
        if !self.docker.watched {
            self.docker.watched = self.fs.watch(DOCKER, Place::DockerRoot);
            self.docker.mtime = self.mtime_of(DOCKER);
        }
        let names = match self.fs.list(DOCKER) {
            Ok(names) => {
                self.docker.present = true;
                self.unreadable.remove(DOCKER);
                self.forget_unreadable(DOCKER, &names);
                names
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                (self.docker.present, self.docker.watched) = (false, false);
                self.unreadable.remove(DOCKER);
                Vec::new()
            }
            Err(error) => {
                self.say_unreadable(DOCKER, &error);
                return;
            }
        };
        for id in self.docker.containers.keys() {
            if !names.iter().any(|name| **name == **id) {
                self.dirty_places.insert(Place::Docker(id.clone()));
            }
        }
        for name in names {
            if layout::is_docker_id(&name) && !self.docker.containers.contains_key(name.as_str()) {
                self.dirty_places.insert(Place::Docker(name.into()));
            }
        }
    }

    pub(super) fn look_docker(&mut self, id: &Arc<str>, now: Now) {
        let dir = path_of(id);
        let entry = self.docker.containers.entry(id.clone()).or_insert_with(|| Entry {
            watched: false,
            mtime: 0,
            since: now.mono,
            lineage: None,
            link: None,
            nodes: Vec::new(),
        });
        if !entry.watched {
            let watched = self.fs.watch(&dir, Place::Docker(id.clone()));
            let mtime = self.mtime_of(&dir);
            if let Some(entry) = self.docker.containers.get_mut(id) {
                (entry.watched, entry.mtime) = (watched, mtime);
            }
        }
        let (mut listing, is_gone) = match self.list_docker(id, &dir, now.mono) {
            Ok(listing) => {
                self.unreadable.remove(&dir);
                (listing, false)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.unreadable.remove(&dir);
                self.forget_unreadable(&dir, &[]);
                (Listing::new(), true)
            }
            Err(error) => {
                self.say_unreadable(&dir, &error);
                return;
            }
        };
        let nodes = listing.values().flat_map(|listed| [listed.plain, listed.gz]).flatten();
        let nodes = nodes.map(|stat| stat.node).collect();
        self.docker.set_nodes(id, nodes);
        if !listing.is_empty() {
            self.name_container(id, now);
        }
        if !self.discovered && self.docker.containers.get(id).is_some_and(|entry| entry.lineage.is_none()) {
            for listed in listing.values() {
                // What a compressed file holds does not grow.
                self.docker.first.extend(listed.plain.map(|stat| (stat.node, stat.size)));
                self.docker.first.extend(listed.gz.map(|stat| (stat.node, u64::MAX)));
            }
        }
        let Some(entry) = self.docker.containers.get_mut(id) else { return };
        entry.watched &= !is_gone;
        match entry.lineage {
            Some(lineage) => self.reconcile(lineage, &mut listing, now),
            None if is_gone => {
                self.docker.containers.remove(id);
            }
            None => {}
        }
    }

    fn list_docker(&mut self, id: &str, dir: &str, now: Instant) -> io::Result<Listing> {
        let mut listing = Listing::new();
        let names = self.fs.list(dir)?;
        self.forget_unreadable(dir, &names);
        for name in names {
            let Some(parsed) = layout::docker_name(id, &name) else { continue };
            let path = format!("{dir}/{name}");
            let stat = match self.fs.stat(&path) {
                Ok(stat) if stat.regular => stat,
                Ok(_) => {
                    self.odd.note(Oddity::NotAFile, dir, &name, now);
                    continue;
                }
                // Gone since: the next event or listing will say so.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.say_unreadable(&path, &error);
                    continue;
                }
            };
            let listed = listing.entry(parsed.suffix).or_default();
            if parsed.gz {
                listed.gz = Some(stat);
            } else {
                listed.plain = Some(stat);
            }
        }
        Ok(listing)
    }

    /// Makes the lineage of a container's log: by its labels, by a link to it, or by its id.
    fn name_container(&mut self, id: &Arc<str>, now: Now) {
        let Some(entry) = self.docker.containers.get(id).filter(|entry| entry.lineage.is_none()) else {
            return;
        };
        let (since, link) = (entry.since, entry.link.clone());
        let owner = self.read_owner(id).or(link);
        if owner.is_none() && now.mono.saturating_duration_since(since) < NAME_WAIT {
            return;
        }
        let lineage = match owner {
            Some(Owner { pod, container, restart }) => {
                let dir: Arc<str> = format!("{}_{}_{}", pod.namespace, pod.pod, pod.uid).into();
                match self.of_pods(&dir, &container, restart) {
                    Some(known) => known,
                    None => {
                        self.make_lineage(dir, pod, &container, restart, Layout::Docker(id.clone()), now.mono)
                    }
                }
            }
            None => {
                let pod = PodDir { namespace: String::new(), pod: String::new(), uid: id.to_string() };
                let dir: Arc<str> = format!("{DOCKER}{id}").into();
                self.make_lineage(dir, pod, "", 0, Layout::Docker(id.clone()), now.mono)
            }
        };
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.layout = Layout::Docker(id.clone());
            lineage.format = Format::Docker;
        }
        if let Some(entry) = self.docker.containers.get_mut(id) {
            entry.lineage = Some(lineage);
        }
    }

    /// A lineage that was read through a link, before Docker's directory was there to be read: it goes on here.
    fn of_pods(&mut self, dir: &str, container: &str, restart: u32) -> Option<LineageId> {
        let inner = self.dirs.get_mut(dir)?.containers.get_mut(container)?;
        inner.lineages.remove(&restart)
    }

    fn read_owner(&mut self, id: &str) -> Option<Owner> {
        let file = self.fs.open(&format!("{}/config.v2.json", path_of(id))).ok()?;
        let mut bytes = vec![0; usize::try_from(file.stat().ok()?.size).ok()?.min(docker_config::LIMIT)];
        let read = file.read_at(&mut bytes, 0).ok()?;
        docker_config::owner(&bytes[..read])
    }
}
