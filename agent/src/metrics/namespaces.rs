//! `sonde_namespace_*`: what the pods of each namespace use on this node.
//!
//! Counters start at 0 with the agent and add up the differences between samples, each pod's by itself. So they do
//! not fall when a pod ends, do not jump when the agent starts beside pods that have run for weeks, and count a new
//! pod from its first second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{Sink, Source, Value};

use super::cgroup::Kind;
use super::namespace_logs;
use super::pod_network::Traffic;
use super::sampler::{Row, Sample, Sampler};
use crate::logs::metrics::LogMetrics;
use crate::pods::v1;

/// The page's source.
pub(super) struct Namespaces {
    sampler: Arc<Sampler>,
    logs: LogMetrics,
    totals: Mutex<Totals>,
}

/// What is kept between samples.
#[derive(Debug, Default)]
struct Totals {
    /// Whether a sample has been taken: what is in the first one has run before.
    begun: bool,
    /// The instant of the last sample, which may be asked for twice.
    last: Option<std::time::SystemTime>,
    /// Each cgroup's last counters.
    cgroups: HashMap<String, Counters>,
    /// Each interface's last counters, by its pod's uid and its name. Not by the cgroup that it was read through: that
    /// may be another one in each sample.
    interfaces: HashMap<(String, String), (Traffic, Traffic)>,
    /// What a pod used before its namespace was known.
    unnamed: HashMap<String, Used>,
    namespaces: BTreeMap<String, Used>,
}

/// Counters of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counters {
    cpu_seconds: f64,
    throttled_seconds: f64,
    oom_kills: u64,
}

/// What was used since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Used {
    counters: Counters,
    receive: Traffic,
    transmit: Traffic,
}

/// What is in use now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Now {
    working_set_bytes: u64,
    rss_bytes: u64,
    containers: u64,
    phases: [u64; 5],
    cpu_request_cores: f64,
    cpu_limit_cores: f64,
    memory_request_bytes: f64,
    memory_limit_bytes: f64,
}

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

impl Namespaces {
    pub(super) fn new(sampler: Arc<Sampler>, logs: LogMetrics) -> Self {
        Self { sampler, logs, totals: Mutex::default() }
    }
}

impl Totals {
    /// Adds what was used since the last sample.
    fn advance(&mut self, sample: &Sample) {
        if self.last == Some(sample.at) {
            return;
        }
        self.last = Some(sample.at);
        let namespaces: HashMap<&str, &str> = sample
            .pods
            .iter()
            .map(|pod| (pod.metadata.uid.as_str(), pod.metadata.namespace.as_str()))
            .collect();
        let mut used: HashMap<&str, Used> = HashMap::new();
        let mut cgroups = HashMap::with_capacity(self.cgroups.len());
        for (uid, rows) in pods_of(&sample.rows) {
            let into = used.entry(uid).or_default();
            for (row, counters) in counters_of(&rows) {
                let fresh = Counters::default();
                let before = match self.cgroups.get(&row.cgroup.id) {
                    Some(before) => before,
                    None if self.begun => &fresh,
                    None => &counters,
                };
                into.counters.add(&counters.since(before));
                cgroups.insert(row.cgroup.id.clone(), counters);
            }
        }
        let mut interfaces = HashMap::with_capacity(self.interfaces.len());
        for pod in &sample.pod_networks {
            let into = used.entry(&pod.uid).or_default();
            for interface in &pod.interfaces {
                let now = (interface.receive, interface.transmit);
                let key = (pod.uid.clone(), interface.name.clone());
                let fresh = Default::default();
                let before = match self.interfaces.get(&key) {
                    Some(before) => before,
                    None if self.begun => &fresh,
                    None => &now,
                };
                add_traffic(&mut into.receive, &since_traffic(&now.0, &before.0));
                add_traffic(&mut into.transmit, &since_traffic(&now.1, &before.1));
                interfaces.insert(key, now);
            }
        }
        // A pod whose network could not be read this time goes on from where it was.
        for (key, last) in self.interfaces.drain() {
            if used.contains_key(key.0.as_str()) {
                interfaces.entry(key).or_insert(last);
            }
        }
        // Pods without a namespace keep what they used until they have one, or are gone.
        let mut unnamed = HashMap::new();
        for (uid, mut used) in used {
            if let Some(before) = self.unnamed.remove(uid) {
                used.add(&before);
            }
            match namespaces.get(uid) {
                Some(namespace) => entry(&mut self.namespaces, namespace).add(&used),
                None => {
                    unnamed.insert(uid.to_owned(), used);
                }
            }
        }
        (self.unnamed, self.cgroups, self.interfaces, self.begun) = (unnamed, cgroups, interfaces, true);
    }
}

/// Rows of each pod, its own first.
fn pods_of(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut pods: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Kind::Pod { uid } | Kind::Container { uid, .. } = &row.cgroup.kind {
            pods.entry(uid).or_default().push(row);
        }
    }
    pods
}

/// The counters of a pod, each taken where it is whole: CPU and kills at the pod, which remembers the containers
/// that are gone; throttling at the containers, which have the quotas.
fn counters_of<'r>(rows: &[&'r Row]) -> Vec<(&'r Row, Counters)> {
    let of = |row: &Row| Counters {
        cpu_seconds: row.cgroup.cpu.map_or(0.0, |cpu| cpu.usage_seconds),
        throttled_seconds: 0.0,
        oom_kills: row.cgroup.memory.map_or(0, |memory| memory.oom_kills),
    };
    let own = rows.iter().find(|row| matches!(row.cgroup.kind, Kind::Pod { .. })).map(|row| of(row));
    let whole = own.is_some();
    rows.iter()
        .map(|row| {
            let container = matches!(row.cgroup.kind, Kind::Container { .. });
            let mut counters = match own {
                Some(own) if !container => own,
                _ if whole => Counters::default(),
                _ => of(row),
            };
            if container {
                counters.throttled_seconds = row.cgroup.cpu.map_or(0.0, |cpu| cpu.throttled_seconds);
            }
            (*row, counters)
        })
        .collect()
}

/// Gauges of each namespace.
fn now(sample: &Sample) -> BTreeMap<String, Now> {
    let mut namespaces: BTreeMap<String, Now> = BTreeMap::new();
    for pod in sample.pods.iter() {
        let now = entry(&mut namespaces, &pod.metadata.namespace);
        if let Some(at) = PHASES.iter().position(|phase| *phase == pod.status.phase)
            && let Some(count) = now.phases.get_mut(at)
        {
            *count += 1;
        }
        now.containers += running(pod);
        if !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            for container in &pod.spec.containers {
                let of = |map: &BTreeMap<String, v1::Quantity>, name| map.get(name).map_or(0.0, |q| q.0);
                let (requests, limits) = (&container.resources.requests, &container.resources.limits);
                now.cpu_request_cores += of(requests, "cpu");
                now.memory_request_bytes += of(requests, "memory");
                now.cpu_limit_cores += of(limits, "cpu");
                now.memory_limit_bytes += of(limits, "memory");
            }
        }
    }
    for rows in pods_of(&sample.rows).values() {
        let Some(namespace) = rows.iter().map(|row| &row.names.namespace).find(|name| !name.is_empty())
        else {
            continue;
        };
        let own = rows.iter().filter(|row| matches!(row.cgroup.kind, Kind::Pod { .. }));
        let own: Vec<_> = own.filter_map(|row| row.cgroup.memory).collect();
        let memory =
            if own.is_empty() { rows.iter().filter_map(|row| row.cgroup.memory).collect() } else { own };
        let now = entry(&mut namespaces, namespace);
        for memory in memory {
            now.working_set_bytes += memory.working_set;
            now.rss_bytes += memory.rss;
        }
    }
    namespaces
}

/// Containers of a pod that run.
pub(super) fn running(pod: &v1::Pod) -> u64 {
    let status = &pod.status;
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .filter(|status| status.state.running.is_some())
        .count() as u64
}

fn entry<'m, T: Default>(map: &'m mut BTreeMap<String, T>, key: &str) -> &'m mut T {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), T::default());
    }
    map.entry(key.to_owned()).or_default()
}

impl Counters {
    /// The difference; a counter that fell has started again.
    fn since(&self, before: &Self) -> Self {
        let seconds = |now: f64, before: f64| if now >= before { now - before } else { now };
        Self {
            cpu_seconds: seconds(self.cpu_seconds, before.cpu_seconds),
            throttled_seconds: seconds(self.throttled_seconds, before.throttled_seconds),
            oom_kills: since(self.oom_kills, before.oom_kills),
        }
    }

    fn add(&mut self, more: &Self) {
        self.cpu_seconds += more.cpu_seconds;
        self.throttled_seconds += more.throttled_seconds;
        self.oom_kills += more.oom_kills;
    }
}

impl Used {
    fn add(&mut self, more: &Self) {
        self.counters.add(&more.counters);
        add_traffic(&mut self.receive, &more.receive);
        add_traffic(&mut self.transmit, &more.transmit);
    }
}

fn since(now: u64, before: u64) -> u64 {
    if now >= before { now - before } else { now }
}

fn since_traffic(now: &Traffic, before: &Traffic) -> Traffic {
    Traffic {
        bytes: since(now.bytes, before.bytes),
        packets: since(now.packets, before.packets),
        errors: since(now.errors, before.errors),
        dropped: since(now.dropped, before.dropped),
    }
}

fn add_traffic(into: &mut Traffic, more: &Traffic) {
    into.bytes += more.bytes;
    into.packets += more.packets;
    into.errors += more.errors;
    into.dropped += more.dropped;
}

impl Source for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let sample = self.sampler.sample()?;
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.advance(&sample);
        let now = now(&sample);
        // A namespace has all its rows from the first, and keeps its counters when its last pod is gone.
        for namespace in now.keys() {
            entry(&mut totals.namespaces, namespace);
        }
        show_used(&totals.namespaces, out);
        namespace_logs::show(&self.logs, totals.namespaces.keys(), out);
        show_now(&now, out);
        Ok(())
    }
}

fn show_used(namespaces: &BTreeMap<String, Used>, out: &mut Sink) {
    type Cell = fn(&Used) -> Value;
    const FAMILIES: [(&str, &str, Cell); 11] = [
        ("sonde_namespace_cpu_usage_seconds_total", "CPU time.", |used| used.counters.cpu_seconds.into()),
        ("sonde_namespace_cpu_throttled_seconds_total", "Time throttled by CPU limits.", |used| {
            used.counters.throttled_seconds.into()
        }),
        ("sonde_namespace_oom_kills_total", "Processes killed for want of memory.", |used| {
            used.counters.oom_kills.into()
        }),
        ("sonde_namespace_network_receive_bytes_total", "Bytes received.", |used| used.receive.bytes.into()),
        ("sonde_namespace_network_receive_packets_total", "Packets received.", |used| {
            used.receive.packets.into()
        }),
        ("sonde_namespace_network_receive_errors_total", "Receive errors.", |used| {
            used.receive.errors.into()
        }),
        ("sonde_namespace_network_receive_dropped_total", "Packets dropped on receipt.", |used| {
            used.receive.dropped.into()
        }),
        ("sonde_namespace_network_transmit_bytes_total", "Bytes sent.", |used| used.transmit.bytes.into()),
        ("sonde_namespace_network_transmit_packets_total", "Packets sent.", |used| {
            used.transmit.packets.into()
        }),
        ("sonde_namespace_network_transmit_errors_total", "Transmit errors.", |used| {
            used.transmit.errors.into()
        }),
        ("sonde_namespace_network_transmit_dropped_total", "Packets dropped on sending.", |used| {
            used.transmit.dropped.into()
        }),
    ];
    for (name, help, value) in FAMILIES {
        let help = format!("{help} Pods of this namespace on this node, since the agent's start.");
        let mut family = out.counter(name, &help);
        for (namespace, used) in namespaces {
            family.row([("namespace", namespace.as_str())], value(used));
        }
    }
}

fn show_now(namespaces: &BTreeMap<String, Now>, out: &mut Sink) {
    type Cell = fn(&Now) -> Value;
    const FAMILIES: [(&str, &str, Cell); 7] = [
        ("sonde_namespace_memory_working_set_bytes", "Memory without inactive page cache.", |now| {
            now.working_set_bytes.into()
        }),
        ("sonde_namespace_memory_rss_bytes", "Anonymous memory.", |now| now.rss_bytes.into()),
        ("sonde_namespace_containers", "Running containers.", |now| now.containers.into()),
        ("sonde_namespace_cpu_request_cores", "CPU requested.", |now| now.cpu_request_cores.into()),
        ("sonde_namespace_cpu_limit_cores", "CPU limits.", |now| now.cpu_limit_cores.into()),
        ("sonde_namespace_memory_request_bytes", "Memory requested.", |now| now.memory_request_bytes.into()),
        ("sonde_namespace_memory_limit_bytes", "Memory limits.", |now| now.memory_limit_bytes.into()),
    ];
    for (name, help, value) in FAMILIES {
        let help = format!("{help} Sum over the pods of this namespace on this node.");
        let mut family = out.gauge(name, &help);
        for (namespace, now) in namespaces {
            family.row([("namespace", namespace.as_str())], value(now));
        }
    }
    let mut family = out.gauge("sonde_namespace_pods", "Pods of this namespace on this node, by phase.");
    for (namespace, now) in namespaces {
        for (phase, count) in PHASES.iter().zip(now.phases) {
            family.row([("namespace", namespace.as_str()), ("phase", phase)], count);
        }
    }
}

#[cfg(test)]
mod tests;
