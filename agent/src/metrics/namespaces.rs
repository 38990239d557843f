//! `sonde_namespace_*`: what the pods of each namespace use on this node.
//!
//! The counters are `totals`'.

mod totals;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{Sink, Source, Value};

use super::cgroup::Kind;
use super::namespace_logs;
use super::sampler::{Row, Sample, Sampler};
use crate::logs::metrics::LogMetrics;
use crate::pods::v1;
use totals::{Totals, Used};

/// The page's source.
pub(super) struct Namespaces {
    sampler: Arc<Sampler>,
    logs: LogMetrics,
    totals: Mutex<Totals>,
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

impl Source for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        // Locked first: an older sample after a newer one would look as if every counter had started again.
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = self.sampler.sample()?;
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
        let mut family = out.counter(name, help);
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
        let mut family = out.gauge(name, help);
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
