//! Cgroups: one pass over the tree, every number of it read at one instant.

pub mod cpu;
mod files;
pub mod io;
mod kills;
mod layout;
pub mod memory;
mod name;
pub mod pids;
pub mod pressure;
mod walk;

use std::path::PathBuf;

use files::{Budget, Files, relative};
use kills::Kills;
use layout::{Controller, Layout, Version};
pub use name::{Kind, runtime};
use walk::Tree;

/// One cgroup at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Cgroup {
    /// Path from the hierarchy's root, as `/kubepods.slice`.
    pub id: String,
    /// What it stands for.
    pub kind: Kind,
    /// Seconds since 1970 when it was made.
    pub started: f64,
    /// CPU.
    pub cpu: Option<cpu::Cpu>,
    /// Memory.
    pub memory: Option<memory::Memory>,
    /// Block devices.
    pub io: Vec<io::DeviceIo>,
    /// Tasks.
    pub pids: pids::Pids,
    /// Pressure.
    pub pressure: Option<pressure::Pressures>,
}

/// Reads the tree, and keeps what makes the next reading cheap.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    layout: Layout,
    tree: Tree,
    budget: Budget,
    buffer: Vec<u8>,
    ticks: u64,
    stale: Vec<String>,
    kills: Kills,
}

impl Reader {
    /// A reader of the hierarchies under `root`, which keeps at most `handles` files open.
    pub fn new(root: PathBuf, handles: usize) -> Self {
        Self {
            root,
            layout: Layout::default(),
            tree: Tree::default(),
            budget: Budget { left: handles, keep: false },
            buffer: Vec::new(),
            ticks: sonde_daemon::memory::clock_ticks_per_second(),
            stale: Vec::new(),
            kills: Kills::default(),
        }
    }

    /// Every cgroup that is there, by id, also one of which nothing can be read just now.
    ///
    /// # Errors
    /// When there is no hierarchy.
    pub fn read(&mut self) -> Result<Vec<Cgroup>, String> {
        if self.layout.is_empty() {
            self.layout = Layout::detect(&self.root);
        }
        let Some(root) = self.layout.tree().map(PathBuf::from) else {
            return Err(format!("{}: no cgroup hierarchy", self.root.display()));
        };
        self.budget.keep = files::is_cgroupfs(&root);
        let stale = std::mem::take(&mut self.stale);
        let before: usize = self.tree.nodes.values().map(|node| node.handles.open()).sum();
        self.tree.walk(&root, self.budget.keep, &stale);
        let after: usize = self.tree.nodes.values().map(|node| node.handles.open()).sum();
        self.budget.left += before - after;
        let mut cgroups = Vec::with_capacity(self.tree.nodes.len());
        for (id, node) in &mut self.tree.nodes {
            let files = Files {
                layout: &self.layout,
                path: relative(id),
                handles: &mut node.handles,
                budget: &mut self.budget,
                buffer: &mut self.buffer,
                directory: None,
                gone: false,
            };
            let cgroup = Cgroup {
                id: id.clone(),
                kind: node.kind.clone(),
                started: node.started,
                cpu: None,
                memory: None,
                io: Vec::new(),
                pids: pids::Pids::default(),
                pressure: None,
            };
            match sample(files, self.ticks, cgroup) {
                Some(cgroup) => cgroups.push(cgroup),
                None => self.stale.extend(id.rsplit_once('/').map(|(parent, _)| parent.to_owned())),
            }
        }
        self.kills.add(&mut cgroups);
        Ok(cgroups)
    }
}

impl Cgroup {
    /// Nothing of it could be read.
    pub fn is_blank(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none()
    }
}

/// Fills a cgroup; `None`: it vanished meanwhile.
fn sample(mut files: Files<'_>, ticks: u64, mut cgroup: Cgroup) -> Option<Cgroup> {
    let root = cgroup.kind == Kind::Root;
    let version = |controller| files.layout.version(controller);
    let (cpu, memory, io) =
        (version(Controller::CpuAcct), version(Controller::Memory), version(Controller::Io));
    cgroup.cpu = match cpu {
        Some(Version::V1) => cpu::read_v1(&mut files, ticks),
        Some(Version::V2) => cpu::read_v2(&mut files),
        None => None,
    };
    cgroup.memory = match memory {
        Some(Version::V1) => memory::read_v1(&mut files, root),
        Some(Version::V2) => memory::read_v2(&mut files),
        None => None,
    };
    cgroup.io = match io {
        Some(Version::V1) => io::read_v1(&mut files),
        Some(Version::V2) => io::read_v2(&mut files),
        None => Vec::new(),
    };
    cgroup.pids = pids::read(&mut files);
    cgroup.pressure = pressure::read(&mut files);
    (!files.gone).then_some(cgroup)
}

/// Lines of a flat-keyed file, `key value`; others are passed over.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests;
