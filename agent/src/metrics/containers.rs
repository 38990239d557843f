//! `container_*` and `machine_*`, as the kubelet's `/metrics/cadvisor` (google/cadvisor, lib/metrics/prometheus.go).
//!
//! All six labels stand on every row, blank where there is nothing to say, so that no target label takes their place.
//! No row has a timestamp.

use super::help;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use sonde_daemon::page::{Kind as Type, LabelSet, Sink, Source, Value};

use super::busiest::{self, Busiest};
use super::cgroup::{Cgroup, Kind};
use super::pod_network::Interface;
use super::read::read_once;
use super::sampler::{Names, Row, Sampler};

/// The page's source.
pub(super) struct Containers {
    pub(super) sampler: Arc<Sampler>,
    pub(super) machine: super::machine::Machine,
    pub(super) proc: std::path::PathBuf,
    pub(super) busiest: Mutex<Busiest>,
}

/// A family with one value a cgroup: type, name, and what it is of a cgroup.
struct Column {
    kind: Type,
    name: &'static str,
    value: fn(&Cgroup) -> Option<Value>,
}

const fn counter(name: &'static str, value: fn(&Cgroup) -> Option<Value>) -> Column {
    Column { kind: Type::Counter, name, value }
}

const fn gauge(name: &'static str, value: fn(&Cgroup) -> Option<Value>) -> Column {
    Column { kind: Type::Gauge, name, value }
}

macro_rules! memory {
    ($field:ident) => {
        |cgroup| Some(cgroup.memory?.$field.into())
    };
}

macro_rules! throttled {
    ($field:ident) => {
        // Without a quota there is nothing to be throttled by, and cAdvisor shows no row.
        |cgroup| {
            let cpu = cgroup.cpu?;
            cpu.quota_microseconds.filter(|_| !cpu.no_periods).map(|_| cpu.$field.into())
        }
    };
}

macro_rules! pressure {
    ($resource:ident, $which:ident) => {
        |cgroup| Some(cgroup.pressure?.$resource.$which.into())
    };
}

const COLUMNS: &[Column] = &[
    counter("container_cpu_user_seconds_total", |c| Some(c.cpu?.user_seconds.into())),
    counter("container_cpu_system_seconds_total", |c| Some(c.cpu?.system_seconds.into())),
    counter("container_cpu_cfs_periods_total", throttled!(periods)),
    counter("container_cpu_cfs_throttled_periods_total", throttled!(throttled_periods)),
    counter("container_cpu_cfs_throttled_seconds_total", throttled!(throttled_seconds)),
    counter("container_cpu_cfs_burst_periods_total", throttled!(burst_periods)),
    counter("container_cpu_cfs_burst_seconds_total", throttled!(burst_seconds)),
    gauge("container_memory_usage_bytes", memory!(usage)),
    gauge("container_memory_working_set_bytes", memory!(working_set)),
    gauge("container_memory_rss", memory!(rss)),
    gauge("container_memory_cache", memory!(cache)),
    gauge("container_memory_mapped_file", memory!(mapped_file)),
    gauge("container_memory_swap", memory!(swap)),
    gauge("container_memory_total_active_file_bytes", memory!(active_file)),
    gauge("container_memory_total_inactive_file_bytes", memory!(inactive_file)),
    gauge("container_memory_max_usage_bytes", memory!(peak)),
    gauge("container_memory_kernel_usage", memory!(kernel)),
    counter("container_memory_failcnt", memory!(failures)),
    counter("container_oom_events_total", |c| Some(c.memory?.oom_kills?.into())),
    counter("container_pressure_cpu_waiting_seconds_total", pressure!(cpu, some_seconds)),
    counter("container_pressure_cpu_stalled_seconds_total", pressure!(cpu, full_seconds)),
    counter("container_pressure_memory_waiting_seconds_total", pressure!(memory, some_seconds)),
    counter("container_pressure_memory_stalled_seconds_total", pressure!(memory, full_seconds)),
    counter("container_pressure_io_waiting_seconds_total", pressure!(io, some_seconds)),
    counter("container_pressure_io_stalled_seconds_total", pressure!(io, full_seconds)),
    gauge("container_processes", |c| Some(c.pids.processes.into())),
    gauge("container_threads", |c| Some(c.pids.threads.into())),
    gauge("container_threads_max", |c| Some(c.pids.threads_max.into())),
    gauge("container_start_time_seconds", |c| Some(c.started.floor().into())),
    gauge("container_spec_cpu_period", |c| Some(c.cpu?.period_microseconds.into())),
    gauge("container_spec_cpu_quota", |c| Some(c.cpu?.quota_microseconds?.into())),
    gauge("container_spec_cpu_shares", |c| Some(c.cpu?.shares.into())),
    gauge("container_spec_memory_limit_bytes", |c| Some(c.memory?.limit.unwrap_or(0).into())),
    gauge("container_spec_memory_swap_limit_bytes", |c| Some(c.memory?.swap_limit.unwrap_or(0).into())),
    gauge("container_spec_memory_reservation_limit_bytes", memory!(reservation)),
];

impl Source for Containers {
    fn name(&self) -> &'static str {
        "containers"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        self.machine.show(out);
        let sample = self.sampler.sample()?;
        let rows: Vec<(LabelSet, &Row)> = sample
            .rows
            .iter()
            .filter(|row| row.shown)
            .map(|row| (labels(out, &row.cgroup.id, &row.names), row))
            .collect();
        let mut family = help::counter(out, "container_cpu_usage_seconds_total");
        for (labels, row) in &rows {
            // cAdvisor shows no row while the total is 0.
            if let Some(cpu) = row.cgroup.cpu.filter(|cpu| cpu.usage_seconds > 0.0) {
                family.row_of(*labels, [("cpu", "total")], cpu.usage_seconds);
            }
        }
        for column in COLUMNS {
            let mut family = help::family(out, column.kind, column.name);
            for (labels, row) in &rows {
                if let Some(value) =
                    self.machine.of_root(column.name, &row.cgroup).or_else(|| (column.value)(&row.cgroup))
                {
                    family.row_of(*labels, [], value);
                }
            }
        }
        let mut family = help::counter(out, "container_memory_failures_total");
        for (labels, row) in &rows {
            let Some(memory) = row.cgroup.memory else { continue };
            for scope in ["container", "hierarchy"] {
                for (kind, value) in [("pgfault", memory.pgfault), ("pgmajfault", memory.pgmajfault)] {
                    family.row_of(*labels, [("failure_type", kind), ("scope", scope)], value);
                }
            }
        }
        let mut family = help::gauge(out, "container_last_seen");
        let now = sample.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for (labels, _) in &rows {
            family.row_of(*labels, [], now);
        }
        self.show_io(&rows, out);
        show_networks(&sample, out);
        Ok(())
    }
}

impl Containers {
    fn show_io(&self, rows: &[(LabelSet, &Row)], out: &mut Sink) {
        let devices = device_names(&read_once(&self.proc.join("diskstats")).unwrap_or_default());
        type Cell = fn(&super::cgroup::io::DeviceIo) -> u64;
        let families: [(&str, Cell); 4] = [
            ("container_fs_reads_bytes_total", |io| io.read_bytes),
            ("container_fs_reads_total", |io| io.reads),
            ("container_fs_writes_bytes_total", |io| io.written_bytes),
            ("container_fs_writes_total", |io| io.writes),
        ];
        let mut busiest = self.busiest.lock().unwrap_or_else(PoisonError::into_inner);
        busiest.begin();
        let mut shown = Vec::with_capacity(rows.len());
        for (labels, row) in rows {
            let (id, io) = (&row.cgroup.id, &row.cgroup.io);
            let devices = match &row.names {
                names if names.container.is_empty() => io.iter().collect(),
                // It has its network's rows as well.
                names if names.is_sandbox() => busiest.of(id, io, 1),
                _ => busiest.of(id, io, busiest::MOST),
            };
            shown.push((*labels, devices));
        }
        drop(busiest);
        for (name, value) in families {
            let mut family = help::counter(out, name);
            for (labels, devices_of_row) in &shown {
                for io in devices_of_row {
                    let (major, minor) = io.device;
                    let numbers = || Cow::from(format!("{major}:{minor}"));
                    let device = devices.get(&io.device).map_or_else(numbers, |name| name.as_str().into());
                    family.row_of(*labels, [("device", &*device)], value(io));
                }
            }
        }
    }
}

fn show_networks(sample: &super::sampler::Sample, out: &mut Sink) {
    type Cell = fn(&Interface) -> u64;
    let families: [(&str, Cell); 8] = [
        ("container_network_receive_bytes_total", |interface| interface.receive.bytes),
        ("container_network_receive_errors_total", |interface| interface.receive.errors),
        ("container_network_receive_packets_dropped_total", |interface| interface.receive.dropped),
        ("container_network_receive_packets_total", |interface| interface.receive.packets),
        ("container_network_transmit_bytes_total", |interface| interface.transmit.bytes),
        ("container_network_transmit_errors_total", |interface| interface.transmit.errors),
        ("container_network_transmit_packets_dropped_total", |interface| interface.transmit.dropped),
        ("container_network_transmit_packets_total", |interface| interface.transmit.packets),
    ];
    let mut all = vec![(labels(out, "/", &Names::default()), &sample.node_network)];
    for pod in &sample.pod_networks {
        all.push((labels(out, &pod.id, &pod.names), &pod.interfaces));
    }
    for (name, value) in families {
        let mut family = help::counter(out, name);
        for (labels, interfaces) in &all {
            for interface in *interfaces {
                family.row_of(*labels, [("interface", interface.name.as_str())], value(interface));
            }
        }
    }
}

/// The six labels that stand on every row.
fn labels(out: &mut Sink, id: &str, names: &Names) -> LabelSet {
    out.labels([
        ("container", names.container.as_str()),
        ("id", id),
        ("image", names.image.as_str()),
        ("name", names.name.as_str()),
        ("namespace", names.namespace.as_str()),
        ("pod", names.pod.as_str()),
    ])
}

/// `/dev/<name>` by major and minor number, from `/proc/diskstats`.
fn device_names(diskstats: &str) -> HashMap<(u32, u32), String> {
    diskstats
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((numbers, format!("/dev/{}", words.next()?)))
        })
        .collect()
}

/// Whether a cgroup is the node's own.
pub(super) fn is_root(cgroup: &Cgroup) -> bool {
    cgroup.kind == Kind::Root
}
