//! Where the host's directories are, and what the host calls itself.

use std::path::{Path, PathBuf};

use crate::config::Host;

/// The host's directories as this process sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    /// The host's root: symlinks in the other directories are resolved inside it.
    pub root: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// The root of the cgroup hierarchy.
    pub cgroup: PathBuf,
    /// The kubelet's pod log directory.
    pub pod_logs: PathBuf,
    /// Docker's container directory.
    pub docker_logs: PathBuf,
    /// The kubelet's own directory.
    pub kubelet_dir: PathBuf,
}

impl HostPaths {
    /// A path that is given is taken as it is; one that is not is the root plus its usual place.
    pub fn new(config: &Host) -> Self {
        let place = |given: &Option<PathBuf>, usual: &str| {
            given.clone().unwrap_or_else(|| config.root.join(usual.trim_start_matches('/')))
        };
        Self {
            root: config.root.clone(),
            proc: place(&config.proc, "/proc"),
            sys: place(&config.sys, "/sys"),
            cgroup: place(&config.cgroup, "/sys/fs/cgroup"),
            pod_logs: place(&config.pod_logs, "/var/log/pods"),
            docker_logs: place(&config.docker_logs, "/var/lib/docker/containers"),
            kubelet_dir: place(&config.kubelet_dir, "/var/lib/kubelet"),
        }
    }

    /// The kubelet's serving certificate where it signs its own; it is its own authority.
    pub fn kubelet_certificate(&self) -> PathBuf {
        self.kubelet_dir.join(Path::new("pki/kubelet.crt"))
    }

    /// Where the kubelet tells who is root of its pods (KEP-4188).
    pub fn pods_socket(&self) -> PathBuf {
        self.kubelet_dir.join(Path::new("pods/kubelet.sock"))
    }
}

/// The name by which the kernel knows this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_under_the_root_unless_they_are_given() {
        let usual = HostPaths::new(&Host::default());
        assert_eq!(usual.pod_logs, Path::new("/var/log/pods"));
        let config = Host { root: "/host".into(), pod_logs: Some("/logs".into()), ..Host::default() };
        let paths = HostPaths::new(&config);
        assert_eq!(paths.pod_logs, Path::new("/logs"));
        assert_eq!(paths.cgroup, Path::new("/host/sys/fs/cgroup"));
        assert_eq!(paths.kubelet_certificate(), Path::new("/host/var/lib/kubelet/pki/kubelet.crt"));
        assert_eq!(paths.pods_socket(), Path::new("/host/var/lib/kubelet/pods/kubelet.sock"));
    }
}
