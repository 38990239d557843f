//! `machine_*`: what the node has, as cAdvisor shows it, and the root row's numbers that the v2 root does not have.

use super::help;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sonde_daemon::page::{Sink, Value};

use super::cgroup::Cgroup;
use super::containers::is_root;
use super::read::{number, read_once};

/// Facts that stay until the next boot.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    cores: u64,
    physical_cores: u64,
    sockets: u64,
    memory_bytes: u64,
    swap_bytes: u64,
    boot_id: String,
    machine_id: String,
    system_uuid: String,
    vmstat: PathBuf,
    meminfo: PathBuf,
}

impl Machine {
    /// Reads `/proc` and the machine's ids; what cannot be read stays 0 or empty.
    pub(super) fn read(proc: &Path, sys: &Path, root: &Path) -> Self {
        let text = |path: PathBuf| read_once(&path).unwrap_or_default();
        let meminfo = text(proc.join("meminfo"));
        let cpuinfo = text(proc.join("cpuinfo"));
        let (physical_cores, sockets) = topology(&cpuinfo);
        let machine_id = text(root.join("etc/machine-id")).trim().to_owned();
        let mut system_uuid = text(sys.join("class/dmi/id/product_uuid")).trim().to_owned();
        if system_uuid.is_empty() {
            // As cAdvisor where the firmware tells none (lib/utils/sysinfo, `GetSystemUUID`).
            system_uuid.clone_from(&machine_id);
        }
        Self {
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u64,
            physical_cores,
            sockets,
            memory_bytes: kibibytes(&meminfo, "MemTotal:"),
            swap_bytes: kibibytes(&meminfo, "SwapTotal:"),
            boot_id: text(proc.join("sys/kernel/random/boot_id")).trim().to_owned(),
            machine_id,
            system_uuid,
            vmstat: proc.join("vmstat"),
            meminfo: proc.join("meminfo"),
        }
    }

    pub(super) fn show(&self, out: &mut Sink) {
        let labels = [
            ("boot_id", self.boot_id.as_str()),
            ("machine_id", self.machine_id.as_str()),
            ("system_uuid", self.system_uuid.as_str()),
        ];
        for (name, value) in [
            ("machine_cpu_cores", self.cores),
            ("machine_cpu_physical_cores", self.physical_cores),
            ("machine_cpu_sockets", self.sockets),
            ("machine_memory_bytes", self.memory_bytes),
            ("machine_swap_bytes", self.swap_bytes),
        ] {
            help::gauge(out, name).row(labels, value);
        }
    }

    /// What the root row shows instead of its cgroup's own number: the machine's memory for a limit, its swap (the v2 root has
    /// no `memory.swap.current`, and v1's `memory.stat` is not read there), and the kills that `/proc/vmstat` counts for the whole node.
    pub(super) fn of_root(&self, family: &str, cgroup: &Cgroup) -> Option<Value> {
        if !is_root(cgroup) {
            return None;
        }
        match family {
            "container_spec_memory_limit_bytes" => Some(self.memory_bytes.into()),
            "container_spec_memory_swap_limit_bytes" => Some(self.swap_bytes.into()),
            "container_memory_swap" => {
                let text = read_once(&self.meminfo).ok()?;
                Some(kibibytes(&text, "SwapTotal:").saturating_sub(kibibytes(&text, "SwapFree:")).into())
            }
            "container_oom_events_total" => {
                let text = read_once(&self.vmstat).ok()?;
                text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(number).map(Into::into)
            }
            _ => None,
        }
    }
}

fn kibibytes(meminfo: &str, key: &str) -> u64 {
    meminfo.lines().find_map(|line| line.strip_prefix(key)).and_then(number).unwrap_or(0).saturating_mul(1024)
}

/// Physical cores and sockets of `/proc/cpuinfo`; one of each where it does not tell, as cAdvisor has it.
fn topology(cpuinfo: &str) -> (u64, u64) {
    let mut sockets = HashSet::new();
    let mut cores = HashSet::new();
    let mut socket = "";
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "physical id" => {
                socket = value.trim();
                sockets.insert(socket);
            }
            "core id" => {
                cores.insert((socket, value.trim()));
            }
            _ => {}
        }
    }
    (cores.len().max(1) as u64, sockets.len().max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_two_sockets_are_told_apart() {
        let one = |socket, core| format!("processor : 0\nphysical id : {socket}\ncore id : {core}\n\n");
        let text: String = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)].map(|(s, c)| one(s, c)).concat();
        assert_eq!(topology(&text), (4, 2));
        assert_eq!(topology("processor : 0\n"), (1, 1));
    }
}
