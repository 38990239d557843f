//! `node_*`: one collector a file, with node_exporter's names, labels and types (prometheus/node_exporter, collector/).
//!
//! The parsers are our own, not those of the `procfs` crate: those fail as a whole where one line is odd, and make
//! an owned struct of a file of which a few numbers are wanted.

mod arp;
mod bonding;
mod conntrack;
mod cpu;
mod disk_info;
mod diskstats;
mod edac;
mod entropy;
mod filefd;
mod filesystem;
mod hwmon;
mod identity;
mod ipvs;
mod loadavg;
mod mdadm;
mod meminfo;
mod netclass;
mod netdev;
mod netstat;
mod pressure;
mod rapl;
mod schedstat;
mod sockstat;
mod softnet;
mod stat;
pub(crate) mod systemd;
mod textfile;
mod thermal;
mod time;
mod timex;
mod udp_queues;
mod uname;
mod vmstat;

pub(super) use filesystem::unescape;

use crate::metrics::help;
use regex::Regex;
use sonde_daemon::page::{Sink, Source, source};

use crate::config::NodeMetrics;
use crate::host::HostPaths;

/// Why the collectors cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {error}")]
pub struct PatternError {
    key: &'static str,
    error: Box<regex::Error>,
}

impl PatternError {
    pub(super) fn new(key: &'static str, error: regex::Error) -> Self {
        Self { key, error: Box::new(error) }
    }
}

/// What is left out: a pattern, where there is one.
#[derive(Clone, Debug)]
struct Exclude(Option<Regex>);

impl Exclude {
    fn new(key: &'static str, pattern: &str) -> Result<Self, PatternError> {
        if pattern.is_empty() {
            return Ok(Self(None));
        }
        Regex::new(pattern).map(|regex| Self(Some(regex))).map_err(|error| PatternError::new(key, error))
    }

    fn is_match(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(name))
    }
}

/// The collectors that are not switched off.
///
/// # Errors
/// When a pattern cannot be compiled.
pub(crate) fn sources(
    config: &NodeMetrics,
    paths: &HostPaths,
    node: &str,
) -> Result<Vec<Box<dyn Source>>, PatternError> {
    let (proc, sys) = (&paths.proc, &paths.sys);
    let disks = Exclude::new("metrics.node.disk_exclude", &config.disk_exclude)?;
    let devices = Exclude::new("metrics.node.netdev_exclude", &config.netdev_exclude)?;
    let mounts = Exclude::new("metrics.node.mount_exclude", &config.mount_exclude)?;
    let types = Exclude::new("metrics.node.fs_exclude", &config.fs_exclude)?;
    let mut all = vec![
        arp::collector(proc),
        bonding::collector(sys),
        conntrack::collector(proc),
        cpu::collector(proc),
        diskstats::collector(proc, disks, disk_info::Database::new(&paths.root, sys)),
        identity::dmi(sys),
        edac::collector(sys),
        entropy::collector(proc),
        filefd::collector(proc),
        Box::new(filesystem::Filesystem::new(paths, mounts, types)),
        Box::new(hwmon::Hwmon::new(sys)),
        ipvs::collector(proc),
        loadavg::collector(proc),
        mdadm::collector(proc),
        meminfo::collector(proc),
        netdev::collector(proc, devices.clone()),
        netstat::collector(proc),
        identity::nvme(sys),
        identity::os(&paths.root),
        pressure::collector(proc),
        rapl::collector(sys),
        schedstat::collector(proc),
        identity::selinux(sys, &paths.root),
        sockstat::collector(proc),
        softnet::collector(proc),
        stat::collector(proc),
        Box::new(thermal::Thermal::new(sys)),
        time::collector(sys),
        timex::collector(),
        udp_queues::collector(proc),
        uname::collector(paths, node),
        vmstat::collector(proc),
        Box::new(textfile::Textfile::new(&config.textfile_dir)),
    ];
    all.extend(netclass::collectors(sys, devices));
    if config.enable.iter().any(|name| name == systemd::NAME) {
        all.push(Box::new(systemd::Systemd::new(&paths.root)));
    }
    all.retain(|collector| !config.disable.iter().any(|name| name == collector.name()));
    all.push(source("build", build_info));
    Ok(all)
}

/// What `metrics.node.disable` can name, but for [`systemd::NAME`].
pub(crate) const COLLECTORS: [&str; 35] = [
    "arp",
    "bonding",
    "conntrack",
    "cpu",
    "diskstats",
    "dmi",
    "edac",
    "entropy",
    "filefd",
    "filesystem",
    "hwmon",
    "ipvs",
    "loadavg",
    "mdadm",
    "meminfo",
    "netclass",
    "netclass_link",
    "netdev",
    "netstat",
    "nvme",
    "os",
    "pressure",
    "rapl",
    "schedstat",
    "selinux",
    "sockstat",
    "softnet",
    "stat",
    "textfile",
    "thermal_zone",
    "time",
    "timex",
    "udp_queues",
    "uname",
    "vmstat",
];

/// Collectors of node_exporter 1.10 that are on there and not here: to leave them out is no mistake.
const ELSEWHERE: [&str; 17] = [
    "bcache",
    "btrfs",
    "cpufreq",
    "exec",
    "fibrechannel",
    "infiniband",
    "kernel_hung",
    "netisr",
    "nfs",
    "nfsd",
    "powersupplyclass",
    "tapestats",
    "thermal",
    "watchdog",
    "xfs",
    "zfs",
    "swap",
];

/// Whether a collector of ours or of node_exporter's is called so.
pub(crate) fn is_collector(name: &str) -> bool {
    name == systemd::NAME || COLLECTORS.contains(&name) || ELSEWHERE.contains(&name)
}

/// node_exporter's dashboards take their variables from this family.
fn build_info(out: &mut Sink) -> Result<(), String> {
    let labels = [
        ("branch", ""),
        ("goarch", ""),
        ("goos", std::env::consts::OS),
        ("goversion", ""),
        ("revision", "sonde"),
        ("tags", ""),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    help::gauge(out, "node_exporter_build_info").row(labels, 1u64);
    Ok(())
}

#[cfg(test)]
mod tests;
