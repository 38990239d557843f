//! Where the hierarchy of each controller is mounted: v2, v1, or both at once (hybrid).

use std::path::{Path, PathBuf};

/// Version of a controller's hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A controller whose files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    CpuAcct,
    Memory,
    Io,
    Pids,
}

const CONTROLLERS: [(Controller, &str); 5] = [
    (Controller::Cpu, "cpu"),
    (Controller::CpuAcct, "cpuacct"),
    (Controller::Memory, "memory"),
    (Controller::Io, "blkio"),
    (Controller::Pids, "pids"),
];

/// The hierarchies under one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    unified: Option<PathBuf>,
    /// By the order of `CONTROLLERS`.
    v1: [Option<PathBuf>; 5],
}

impl Layout {
    /// Looks at `root`: it is a v2 hierarchy itself, or has a directory for each v1 hierarchy (`memory`,
    /// `cpu,cpuacct`). A hybrid host's `unified` serves the controllers that have none.
    pub(super) fn detect(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self { unified: Some(root.to_owned()), ..Self::default() };
        }
        let mut layout = Self::default();
        let unified = root.join("unified");
        if unified.join("cgroup.controllers").exists() {
            layout.unified = Some(unified);
        }
        let Ok(directory) = std::fs::read_dir(root) else { return layout };
        let mut names: Vec<_> = directory.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            for part in name.to_string_lossy().split(',') {
                let at = CONTROLLERS.iter().position(|(_, known)| *known == part);
                if let Some(slot) = at.and_then(|at| layout.v1.get_mut(at))
                    && slot.is_none()
                {
                    *slot = Some(root.join(&name));
                }
            }
        }
        layout
    }

    /// Whether there is anything to read.
    pub(super) fn is_empty(&self) -> bool {
        self.unified.is_none() && self.v1.iter().all(Option::is_none)
    }

    pub(super) fn version(&self, controller: Controller) -> Option<Version> {
        if self.v1_root(controller).is_some() {
            return Some(Version::V1);
        }
        self.unified.is_some().then_some(Version::V2)
    }

    /// The hierarchy whose directories are walked. In v1 all have the same ones.
    pub(super) fn tree(&self) -> Option<&Path> {
        [Controller::Memory, Controller::CpuAcct, Controller::Cpu, Controller::Pids, Controller::Io]
            .into_iter()
            .find_map(|controller| self.v1_root(controller))
            .or(self.unified.as_deref())
    }

    /// The root of the hierarchy that has this file: by its prefix, as `memory.stat`.
    pub(super) fn root_of(&self, file: &str) -> Option<&Path> {
        let controller = match file.split_once('.')?.0 {
            "cpu" if !file.ends_with(".pressure") => Controller::Cpu,
            "cpuacct" => Controller::CpuAcct,
            "memory" if !file.ends_with(".pressure") => Controller::Memory,
            "blkio" => Controller::Io,
            "pids" => Controller::Pids,
            "cgroup" => return self.tree(),
            _ => return self.unified.as_deref(),
        };
        self.v1_root(controller).or(self.unified.as_deref())
    }

    fn v1_root(&self, controller: Controller) -> Option<&Path> {
        let at = CONTROLLERS.iter().position(|(known, _)| *known == controller)?;
        self.v1.get(at)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(directories: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in directories {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        root
    }

    #[test]
    fn a_hybrid_host_keeps_its_controllers_on_v1() {
        let root = tree(&["cpu,cpuacct", "memory", "blkio", "pids", "unified", "systemd"]);
        std::fs::write(root.path().join("unified/cgroup.controllers"), "").unwrap();
        let layout = Layout::detect(root.path());
        for controller in [Controller::Cpu, Controller::CpuAcct, Controller::Memory, Controller::Io] {
            assert_eq!(layout.version(controller), Some(Version::V1), "{controller:?}");
        }
        assert_eq!(layout.root_of("cpuacct.usage").unwrap(), root.path().join("cpu,cpuacct"));
        assert_eq!(layout.root_of("cpu.pressure").unwrap(), root.path().join("unified"));
        assert_eq!(layout.tree().unwrap(), root.path().join("memory"));
    }

    #[test]
    fn v2_has_one_root_and_nothing_has_none() {
        let root = tree(&["memory"]);
        std::fs::write(root.path().join("cgroup.controllers"), "cpu").unwrap();
        let layout = Layout::detect(root.path());
        assert_eq!(layout.version(Controller::Memory), Some(Version::V2));
        assert_eq!(layout.root_of("memory.stat"), Some(root.path()));
        assert!(Layout::detect(&root.path().join("none")).is_empty());
    }
}
