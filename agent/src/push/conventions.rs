//! The push under the names of OpenTelemetry's semantic conventions (1.44: docs/system/{k8s,container,system}-metrics.md), for
//! receivers that know those: `k8s.node.*` and `system.*` of the node, `k8s.pod.*` of each pod, `k8s.container.*` and
//! `container.*` of each container, each with its own resource. The same samples as the pages', so the same instants.
//!
//! Memory: a number for each cgroup of pods, for the averages of `*.cpu.usage`; what `learn` took of the node's page (some
//! hundred numbers).

mod node;

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use regex::RegexSet;
use sonde_daemon::page::Sink;
use sonde_wire::attrs::{AttrSet, AttrSetBuilder, keys};
use sonde_wire::metrics::{MetricsEncoder, Number, Shape, Span};

use self::node::NodePage;
use super::CONVENTIONS_SCOPE;
use crate::config;
use crate::metrics::cgroup::Kind;
use crate::metrics::cgroup::memory::Memory;
use crate::metrics::dropped;
use crate::metrics::pod_network::Interface;
use crate::metrics::sampler::{Row, Sample};
use crate::pods::v1;

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
const STATES: [&str; 3] = ["running", "waiting", "terminated"];
const DIRECTION: &str = "network.io.direction";
const INTERFACE: &str = "network.interface.name";

/// What is kept from one push to the next.
pub(super) struct Conventions {
    drop: RegexSet,
    page: NodePage,
    /// CPU seconds by cgroup, and when they were read.
    used: HashMap<String, (SystemTime, f64)>,
}

/// Writes points of one instant.
struct Out<'e> {
    encoder: &'e mut MetricsEncoder,
    drop: &'e RegexSet,
    time: u64,
}

impl Out<'_> {
    /// Puts a metric, unless it has no points or the configuration drops it.
    fn put<'l, const N: usize>(
        &mut self,
        (name, unit, shape): (&str, &str, Shape),
        start: u64,
        points: impl IntoIterator<Item = ([(&'l str, &'l str); N], Number)>,
    ) {
        let mut points = points.into_iter().peekable();
        if points.peek().is_none() || self.drop.is_match(name) {
            return;
        }
        let span =
            Span { start: if shape == Shape::Sum { start.min(self.time) } else { 0 }, time: self.time };
        let mut metric = self.encoder.metric_in(name, "", unit, shape);
        for (attributes, value) in points {
            metric.point(attributes, span, value);
        }
    }

    fn one(&mut self, name: (&str, &str, Shape), start: u64, value: Option<Number>) {
        self.put(name, start, value.map(|value| ([], value)));
    }
}

impl Conventions {
    /// A pattern that is none was said when the sources were made.
    pub(super) fn new(config: &config::Metrics) -> Self {
        let drop = dropped(config).unwrap_or_default();
        Self { drop, page: NodePage::default(), used: HashMap::new() }
    }

    /// Takes what a section has of the node.
    pub(super) fn learn(&mut self, rows: &Sink, at: SystemTime) {
        self.page.learn(rows, at);
    }

    /// Adds everything to a request.
    pub(super) fn put(
        &mut self,
        sample: Option<&Sample>,
        (cluster, node): (&str, &str),
        encoder: &mut MetricsEncoder,
    ) {
        let page = std::mem::take(&mut self.page);
        let of_node = || {
            let named = AttrSet::builder();
            let named = if cluster.is_empty() { named } else { named.str(keys::CLUSTER_NAME, cluster) };
            named.str(keys::NODE_NAME, node)
        };
        encoder.resource(&of_node().build(), CONVENTIONS_SCOPE, env!("CARGO_PKG_VERSION"));
        let boot = page.boot();
        page.put(&mut Out { encoder, drop: &self.drop, time: page.time() });
        let Some(sample) = sample else { return };
        let mut used = HashMap::new();
        let mut usage = |row: &Row| {
            let seconds = row.cgroup.cpu?.usage_seconds;
            used.insert(row.cgroup.id.clone(), (sample.at, seconds));
            let (before, then) = self.used.get(&row.cgroup.id)?;
            let passed = sample.at.duration_since(*before).ok()?.as_secs_f64();
            (passed > 0.0 && seconds >= *then).then(|| (seconds - then) / passed)
        };
        let mut out = Out { encoder, drop: &self.drop, time: nanos(sample.at) };
        if let Some(root) = sample.rows.iter().find(|row| row.cgroup.kind == Kind::Root) {
            put_use(&mut out, "k8s.node", root, boot, usage(root));
        }
        put_network(&mut out, "k8s.node", boot, &sample.node_network);
        for pod in pods_of(sample) {
            out.encoder.resource(&pod.name(of_node()).build(), CONVENTIONS_SCOPE, env!("CARGO_PKG_VERSION"));
            pod.put(&mut out, &mut usage);
            for (name, container) in &pod.containers {
                out.encoder.resource(
                    &container.name(pod.name(of_node()), name),
                    CONVENTIONS_SCOPE,
                    env!("CARGO_PKG_VERSION"),
                );
                container.put(&mut out, &mut usage);
            }
        }
        self.used = used;
    }
}

/// A pod: what its cgroups and the kubelet say of it.
#[derive(Default)]
struct Pod<'a> {
    uid: &'a str,
    namespace: &'a str,
    pod: &'a str,
    row: Option<&'a Row>,
    interfaces: &'a [Interface],
    known: Option<&'a v1::Pod>,
    containers: BTreeMap<&'a str, Container<'a>>,
}

#[derive(Default)]
struct Container<'a> {
    row: Option<&'a Row>,
    spec: Option<&'a v1::Container>,
    status: Option<&'a v1::ContainerStatus>,
}

/// Every pod that is known or has a cgroup, by uid.
fn pods_of(sample: &Sample) -> impl Iterator<Item = Pod<'_>> {
    let mut pods: BTreeMap<&str, Pod<'_>> = BTreeMap::new();
    for known in sample.pods.iter() {
        let (spec, status) = (&known.spec, &known.status);
        let mut containers: BTreeMap<&str, Container<'_>> = BTreeMap::new();
        for spec in
            [&spec.init_containers, &spec.containers, &spec.ephemeral_containers].into_iter().flatten()
        {
            containers.entry(&spec.name).or_default().spec = Some(spec);
        }
        let statuses = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        for status in statuses.into_iter().flatten() {
            containers.entry(&status.name).or_default().status = Some(status);
        }
        let (uid, namespace, pod) = (&known.metadata.uid, &known.metadata.namespace, &known.metadata.name);
        let pod = Pod { uid, namespace, pod, known: Some(known), containers, ..Pod::default() };
        pods.insert(uid, pod);
    }
    for row in sample.rows.iter().filter(|row| row.shown && !row.names.pod.is_empty()) {
        let (Kind::Pod { uid } | Kind::Container { uid, .. }) = &row.cgroup.kind else { continue };
        let pod = pods.entry(uid).or_default();
        (pod.uid, pod.namespace, pod.pod) = (uid, &row.names.namespace, &row.names.pod);
        match &row.cgroup.kind {
            Kind::Pod { .. } => pod.row = Some(row),
            _ if !row.names.container.is_empty() && !row.names.is_sandbox() => {
                pod.containers.entry(&row.names.container).or_default().row = Some(row);
            }
            _ => {}
        }
    }
    for network in &sample.pod_networks {
        if let Some(pod) = pods.get_mut(network.uid.as_str()) {
            pod.interfaces = &network.interfaces;
        }
    }
    pods.into_values()
}

impl Pod<'_> {
    fn name(&self, node: AttrSetBuilder) -> AttrSetBuilder {
        node.str(keys::NAMESPACE_NAME, self.namespace)
            .str(keys::POD_NAME, self.pod)
            .str(keys::POD_UID, self.uid)
    }

    fn put(&self, out: &mut Out<'_>, usage: &mut impl FnMut(&Row) -> Option<f64>) {
        let started = self.known.and_then(|pod| v1::unix_seconds(&pod.status.start_time));
        let start = started.and_then(|seconds| u64::try_from(seconds).ok()).map_or(0, |s| s * 1_000_000_000);
        if let Some(row) = self.row {
            put_use(out, "k8s.pod", row, start, usage(row));
        }
        put_network(out, "k8s.pod", start, self.interfaces);
        if start > 0 {
            out.one(("k8s.pod.uptime", "s", Shape::Gauge), 0, Some(since(start, out.time)));
        }
        let phase = self.known.map_or("", |pod| pod.status.phase.as_str());
        if !phase.is_empty() {
            let points =
                PHASES.map(|each| ([("k8s.pod.status.phase", each)], Number::Int(i64::from(each == phase))));
            out.put(("k8s.pod.status.phase", "{pod}", Shape::UpDown), 0, points);
        }
    }
}

impl Container<'_> {
    fn name(&self, pod: AttrSetBuilder, name: &str) -> AttrSet {
        let mut named = pod.str(keys::CONTAINER_NAME, name);
        if let Some(Kind::Container { id, .. }) = self.row.map(|row| &row.cgroup.kind) {
            named = named.str(keys::CONTAINER_ID, id);
        }
        named.build()
    }

    fn put(&self, out: &mut Out<'_>, usage: &mut impl FnMut(&Row) -> Option<f64>) {
        if let Some(row) = self.row {
            let start = nanos_of(row.cgroup.started);
            put_use(out, "container", row, start, usage(row));
            let sum = |of: fn(&crate::metrics::cgroup::io::DeviceIo) -> u64| {
                whole(row.cgroup.io.iter().map(of).fold(0, u64::saturating_add))
            };
            if !row.cgroup.io.is_empty() {
                let points = [
                    ([("disk.io.direction", "read")], sum(|io| io.read_bytes)),
                    ([("disk.io.direction", "write")], sum(|io| io.written_bytes)),
                ];
                out.put(("container.disk.io", "By", Shape::Sum), start, points);
            }
            if start > 0 {
                out.one(("container.uptime", "s", Shape::Gauge), 0, Some(since(start, out.time)));
            }
        }
        if let Some(spec) = self.spec {
            for (what, of) in [("limit", &spec.resources.limits), ("request", &spec.resources.requests)] {
                for (resource, unit) in [("cpu", "{cpu}"), ("memory", "By")] {
                    let value = of.get(resource).map(|quantity| Number::Double(quantity.0));
                    let name = format!("k8s.container.{resource}.{what}.desired");
                    out.one((&name, unit, Shape::UpDown), 0, value);
                }
            }
        }
        if let Some(status) = self.status {
            let restarts = Some(Number::Int(status.restart_count));
            out.one(("k8s.container.restart.count", "{restart}", Shape::UpDown), 0, restarts);
            let ready = Some(Number::Int(i64::from(status.ready)));
            out.one(("k8s.container.ready", "{container}", Shape::UpDown), 0, ready);
            let state = &status.state;
            let now = [state.running.is_some(), state.waiting.is_some(), state.terminated.is_some()];
            let points = STATES.iter().zip(now);
            let points =
                points.map(|(each, now)| ([("k8s.container.status.state", *each)], Number::Int(now.into())));
            out.put(("k8s.container.status.state", "{container}", Shape::UpDown), 0, points);
        }
    }
}

/// CPU and memory of a cgroup. `usage`: CPUs in use since the push before.
fn put_use(out: &mut Out<'_>, of: &str, row: &Row, start: u64, usage: Option<f64>) {
    let name = |end: &str| format!("{of}.{end}");
    let cpu = row.cgroup.cpu.map(|cpu| Number::Double(cpu.usage_seconds));
    out.one((&name("cpu.time"), "s", Shape::Sum), start, cpu);
    out.one((&name("cpu.usage"), "{cpu}", Shape::Gauge), 0, usage.map(Number::Double));
    let Some(memory) = row.cgroup.memory else { return };
    type Column = (&'static str, fn(&Memory) -> u64);
    let columns: [Column; 3] = [
        ("memory.usage", |memory| memory.usage),
        ("memory.working_set", |memory| memory.working_set),
        ("memory.rss", |memory| memory.rss),
    ];
    // v1 has only the usage of its root.
    let columns = if row.cgroup.kind == Kind::Root && memory.rss == 0 { &columns[..1] } else { &columns[..] };
    for (end, value) in columns {
        out.one((&name(end), "By", Shape::UpDown), 0, Some(whole(value(&memory))));
    }
    if let Some(limit) = memory.limit {
        let available = whole(limit.saturating_sub(memory.working_set));
        out.one((&name("memory.available"), "By", Shape::UpDown), 0, Some(available));
    }
}

fn put_network(out: &mut Out<'_>, of: &str, start: u64, interfaces: &[Interface]) {
    type Column = (&'static str, &'static str, fn(&crate::metrics::pod_network::Traffic) -> u64);
    let columns: [Column; 2] =
        [("io", "By", |traffic| traffic.bytes), ("errors", "{error}", |traffic| traffic.errors)];
    for (end, unit, value) in columns {
        let points = interfaces.iter().flat_map(|interface| {
            [("receive", &interface.receive), ("transmit", &interface.transmit)].map(
                |(direction, traffic)| {
                    ([(INTERFACE, interface.name.as_str()), (DIRECTION, direction)], whole(value(traffic)))
                },
            )
        });
        out.put((&format!("{of}.network.{end}"), unit, Shape::Sum), start, points);
    }
}

fn whole(value: u64) -> Number {
    Number::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Seconds since 1970 as nanoseconds; 0 = not known.
fn nanos_of(seconds: f64) -> u64 {
    let since = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

/// Seconds between two instants in nanoseconds.
fn since(start: u64, now: u64) -> Number {
    Number::Double(std::time::Duration::from_nanos(now.saturating_sub(start)).as_secs_f64())
}

#[cfg(test)]
mod tests;
