//! Rows of a page as OTLP metrics: which of them, since when, with which attributes. Pure.
//!
//! Names, labels and values are those of the page, so that what a receiver keeps is what a scrape would have brought.
//! Not all that the pages show is pushed: what is drawn and alerted on is a sixth of it ([`is_pushed`]).

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{Cell, Family, Kind, Sink, Value};
use sonde_wire::metrics::{MetricsEncoder, Number, Shape, Span};

/// What all rows of a sample have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
    /// When it was read.
    pub at: SystemTime,
    /// When our own counting began.
    pub began: SystemTime,
}

/// Families that are pushed whole, beside [`PREFIXES`].
const NAMES: [&str; 48] = [
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_memory_rss",
    "container_memory_working_set_bytes",
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_oom_events_total",
    "container_spec_cpu_quota",
    "container_spec_memory_limit_bytes",
    "container_start_time_seconds",
    "kube_pod_container_resource_limits",
    "kube_pod_container_resource_requests",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_status_ready",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_running",
    "kube_pod_container_status_terminated_reason",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_info",
    "kube_pod_init_container_status_restarts_total",
    "kube_pod_init_container_status_waiting_reason",
    "kube_pod_deletion_timestamp",
    "kube_pod_start_time",
    "kube_pod_status_phase",
    "kube_pod_status_ready",
    "kube_pod_status_reason",
    "machine_cpu_cores",
    "machine_memory_bytes",
    "node_boot_time_seconds",
    "node_cpu_seconds_total",
    "node_disk_io_time_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_files",
    "node_filesystem_files_free",
    "node_filesystem_free_bytes",
    "node_filesystem_readonly",
    "node_filesystem_size_bytes",
    "node_network_receive_bytes_total",
    "node_network_receive_drop_total",
    "node_network_receive_errs_total",
    "node_network_transmit_bytes_total",
    "node_network_transmit_drop_total",
    "node_network_transmit_errs_total",
    "node_uname_info",
];

const PREFIXES: [&str; 4] = ["node_load", "node_memory_", "node_pressure_", "sonde_namespace_"];

/// Whether a family is pushed.
pub(super) fn is_pushed(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Adds what is pushed of a section's rows.
pub(super) fn put(rows: &Sink, about: &About<'_>, encoder: &mut MetricsEncoder) {
    let starts = Starts::of(rows, about);
    let time = nanos(about.at);
    for family in rows.families().filter(|family| is_pushed(family.name())) {
        let shape = match family.kind() {
            Kind::Counter => Shape::Sum,
            Kind::Gauge | Kind::Untyped => Shape::Gauge,
            Kind::Histogram => Shape::Histogram,
        };
        let mut rows = family.rows().peekable();
        if rows.peek().is_none() {
            continue;
        }
        let mut metric = encoder.metric(family.name(), family.help(), shape);
        for (labels, cell) in rows {
            let start = if shape == Shape::Gauge { 0 } else { starts.of_row(labels.clone()).min(time) };
            let span = Span { start, time };
            let has = |key: &str| labels.clone().any(|(own, _): (&str, &str)| own == key);
            let ours = [("cluster", about.cluster), ("node", about.node)];
            let attributes = labels.clone().chain(ours.into_iter().filter(|(key, _)| !has(key)));
            match cell {
                Cell::Plain(value) => metric.point(attributes, span, number(*value)),
                Cell::Buckets(all) => metric.histogram(attributes, span, all.sum, &all.each),
            }
        }
    }
}

fn number(value: Value) -> Number {
    match value {
        Value::U64(value) => match i64::try_from(value) {
            Ok(value) => Number::Int(value),
            // Beyond 2^63 only a double can say it.
            #[allow(clippy::cast_precision_loss)]
            Err(_) => Number::Double(value as f64),
        },
        Value::I64(value) => Number::Int(value),
        Value::F64(value) => Number::Double(value),
    }
}

/// Since when the counters of a section count.
struct Starts<'a> {
    /// Nanoseconds by the label `id` of a cgroup or `uid` of a pod.
    rows: HashMap<&'a str, u64>,
    /// Of all others: the node's boot where the section tells it, else our own start.
    others: u64,
}

impl<'a> Starts<'a> {
    fn of(rows: &'a Sink, about: &About<'_>) -> Self {
        let mut starts = Self { rows: HashMap::new(), others: nanos(about.began) };
        for family in rows.families() {
            match family.name() {
                "node_boot_time_seconds" => {
                    if let Some((_, cell)) = family.rows().next() {
                        starts.others = seconds(cell);
                    }
                }
                "container_start_time_seconds" => starts.learn(family, "id"),
                "kube_pod_start_time" => starts.learn(family, "uid"),
                _ => {}
            }
        }
        starts
    }

    fn learn(&mut self, family: Family<'a>, key: &str) {
        for (mut labels, cell) in family.rows() {
            if let Some((_, value)) = labels.find(|(own, _)| *own == key) {
                self.rows.insert(value, seconds(cell));
            }
        }
    }

    fn of_row<'l>(&self, mut labels: impl Iterator<Item = (&'l str, &'l str)>) -> u64 {
        let named = labels.find(|(key, _)| *key == "id" || *key == "uid");
        match named {
            // A cgroup without a start has counted since nobody knows when.
            Some((_, value)) => self.rows.get(value).copied().unwrap_or(0),
            None => self.others,
        }
    }
}

/// Seconds since the epoch as nanoseconds; 0 = not known.
fn seconds(cell: &Cell) -> u64 {
    let since = match cell {
        Cell::Plain(Value::U64(value)) => Some(Duration::from_secs(*value)),
        Cell::Plain(Value::I64(value)) => u64::try_from(*value).ok().map(Duration::from_secs),
        Cell::Plain(Value::F64(value)) => Duration::try_from_secs_f64(*value).ok(),
        Cell::Buckets(..) => None,
    };
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
