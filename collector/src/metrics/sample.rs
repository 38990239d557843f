//! What one request says of nodes and their pods. Pure: it borrows from the request and copies nothing.
//!
//! Names and labels are those of the agent's pages (node_exporter, cAdvisor, kube-state-metrics in its per-node mode,
//! and `sonde_namespace_*`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use sonde_wire::attrs::keys;
use sonde_wire::view::{AnyValueView, Attributes, MetricView, MetricsRequest, PointView};

/// The scope by which our agent is known.
pub const AGENT_SCOPE: &str = "sonde-agent";
/// The scope under which it says the same under the semantic conventions' names, for receivers of others. It is taken and
/// passed over.
pub const CONVENTIONS_SCOPE: &str = "sonde-agent/conventions";

/// One node at one instant; what a request does not say is `None`.
#[derive(Debug, Default)]
pub struct NodeSample<'a> {
    /// When its own points were read by its clock, Unix nanoseconds; pods and namespaces are read by themselves.
    pub time: u64,
    /// CPU time that was not idle, all CPUs.
    pub cpu_seconds: Option<f64>,
    /// CPUs.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory_bytes: Option<f64>,
    /// Memory that could be had.
    pub memory_available_bytes: Option<f64>,
    /// Bytes that physical interfaces received.
    pub receive_bytes: Option<f64>,
    /// Bytes that they sent.
    pub transmit_bytes: Option<f64>,
    /// Load of a minute.
    pub load1: Option<f64>,
    /// Size of the root file system.
    pub filesystem_bytes: Option<f64>,
    /// What of it can be written by anyone.
    pub filesystem_available_bytes: Option<f64>,
    /// When it was booted, Unix seconds.
    pub boot_time: Option<f64>,
    /// Its kernel.
    pub kernel: &'a str,
    /// Pods by namespace and name.
    pub pods: HashMap<(&'a str, &'a str), PodSample<'a>>,
    /// What the pods of a namespace use on this node.
    pub namespaces: HashMap<&'a str, NamespaceSample>,
    /// How many more pods, containers and namespaces the request may tell of.
    room: usize,
}

/// One pod at one instant.
#[derive(Debug, Default)]
pub struct PodSample<'a> {
    /// When its cgroups were read, Unix nanoseconds by the node's clock.
    pub time: u64,
    /// Its uid.
    pub uid: &'a str,
    /// `Running` and the like.
    pub phase: &'a str,
    /// Why it is in that phase, as `Evicted`.
    pub reason: &'a str,
    /// Whether it is ready.
    pub ready: Option<bool>,
    /// It is being deleted.
    pub deleted: bool,
    /// When it was started, Unix seconds.
    pub start_time: Option<f64>,
    /// Kind and name of what made it.
    pub owner: (&'a str, &'a str),
    /// CPU time of the pod's own cgroup.
    pub cpu_seconds: Option<f64>,
    /// Working set of the pod's own cgroup.
    pub memory_bytes: Option<f64>,
    /// Bytes received by all its interfaces.
    pub receive_bytes: Option<f64>,
    /// Bytes sent.
    pub transmit_bytes: Option<f64>,
    /// Why an init container waits or has ended with an error.
    pub init_reason: &'a str,
    /// Restarts of init containers.
    pub init_restarts: f64,
    /// Its containers by name; no sandbox.
    pub containers: HashMap<&'a str, ContainerSample<'a>>,
}

/// One container at one instant.
#[derive(Debug, Default)]
pub struct ContainerSample<'a> {
    /// CPU time.
    pub cpu_seconds: Option<f64>,
    /// Working set.
    pub memory_bytes: Option<f64>,
    /// Restarts.
    pub restarts: f64,
    /// Whether it is ready; `None`: the kubelet does not tell of it.
    pub ready: Option<bool>,
    /// Why it waits, or has ended.
    pub reason: &'a str,
    /// Why it ended the last time.
    pub last_reason: &'a str,
    /// CPU limit, cores.
    pub cpu_limit: Option<f64>,
    /// Memory limit.
    pub memory_limit: Option<f64>,
}

/// One namespace on one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamespaceSample {
    /// When its pods' cgroups were read, Unix nanoseconds by the node's clock.
    pub time: u64,
    /// CPU time since the agent began.
    pub cpu_seconds: Option<f64>,
    /// Working set.
    pub memory_bytes: Option<f64>,
    /// Bytes received since the agent began.
    pub receive_bytes: Option<f64>,
    /// Bytes sent.
    pub transmit_bytes: Option<f64>,
    /// CPU requests, cores.
    pub cpu_request_cores: f64,
    /// Memory requests.
    pub memory_request_bytes: f64,
    /// Pods by phase: pending, running, succeeded, failed, unknown.
    pub phases: [u32; 5],
}

/// Names of [`NamespaceSample::phases`].
pub const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// What a request holds.
#[derive(Debug, Default)]
pub struct Samples<'a> {
    /// By cluster and node.
    pub nodes: HashMap<(&'a str, &'a str), NodeSample<'a>>,
    /// Points of our agents.
    pub taken: u64,
    /// Points of others: nobody uses them.
    pub others: u64,
}

/// Most nodes, pods, containers and namespaces of one request, together: what is beyond them is passed over. A node
/// has a few hundred pods; several nodes may come in one request through a gateway. With less than 400 bytes each,
/// reading a request takes 8 MB at most beside the request.
const MOST: usize = 20_000;

/// Reads a request that was checked.
pub fn read(request: MetricsRequest<'_>) -> Samples<'_> {
    let mut samples = Samples::default();
    let mut room = MOST;
    for resource in request.resources() {
        let text = |key| match resource.attributes().get(key) {
            Some(AnyValueView::Str(text)) => text,
            _ => "",
        };
        let (cluster, node) = (text(keys::CLUSTER_NAME), text(keys::NODE_NAME));
        for scope in resource.scopes() {
            if scope.name() == CONVENTIONS_SCOPE {
                continue;
            }
            let points: u64 = scope.metrics().map(MetricView::count).sum();
            if scope.name() != AGENT_SCOPE || node.is_empty() {
                samples.others += points;
                continue;
            }
            samples.taken += points;
            let Some(sample) = entry(&mut samples.nodes, (cluster, node), &mut room) else { continue };
            sample.room = room;
            for metric in scope.metrics() {
                sample.take(metric);
            }
            room = sample.room;
        }
    }
    samples
}

/// The labels of a point that say whose it is.
#[derive(Clone, Copy, Debug, Default)]
struct Labels<'a> {
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    /// A cgroup's name at the runtime; a pod's own cgroup has none.
    name: &'a str,
    /// The label that a family has beside those.
    own: &'a str,
}

impl<'a> Labels<'a> {
    fn of(attributes: Attributes<'a>, own: &str) -> Self {
        let mut labels = Self::default();
        for (key, value) in attributes {
            let Some(value) = value.as_str() else { continue };
            match key {
                "namespace" => labels.namespace = value,
                "pod" => labels.pod = value,
                "container" => labels.container = value,
                "name" => labels.name = value,
                _ => {}
            }
            if key == own {
                labels.own = value;
            }
        }
        labels
    }
}

impl<'a> NodeSample<'a> {
    fn take(&mut self, metric: MetricView<'a>) {
        let name = metric.name;
        if let Some(rest) = name.strip_prefix("container_") {
            self.each(metric, "", |node, labels, value, point| {
                node.container(rest, labels, value, point.time_unix_nano);
            });
        } else if let Some(rest) = name.strip_prefix("kube_pod_") {
            self.each(metric, own_label(rest), |node, labels, value, point| {
                if rest == "info" {
                    node.pod_info(labels, point);
                } else {
                    node.pod_state(rest, labels, value);
                }
            });
        } else if let Some(rest) = name.strip_prefix("sonde_namespace_") {
            self.each(metric, "phase", |node, labels, value, point| {
                node.namespace(rest, labels, value, point.time_unix_nano);
            });
        } else if let Some(rest) = name.strip_prefix("node_") {
            let own = match rest {
                "cpu_seconds_total" => "mode",
                "filesystem_size_bytes" | "filesystem_avail_bytes" => "mountpoint",
                "uname_info" => "release",
                _ => "device",
            };
            self.each(metric, own, |node, labels, value, point| {
                node.time = node.time.max(point.time_unix_nano);
                node.node(rest, labels.own, value);
            });
        }
    }

    fn each(
        &mut self,
        metric: MetricView<'a>,
        own: &str,
        mut take: impl FnMut(&mut Self, Labels<'a>, f64, PointView<'a>),
    ) {
        for point in metric.points() {
            if let Some(value) = point.value.filter(|value| value.is_finite()) {
                take(self, Labels::of(point.attributes(), own), value, point);
            }
        }
    }

    fn node(&mut self, name: &str, own: &'a str, value: f64) {
        match name {
            "cpu_seconds_total" if own == "idle" => self.cpus += 1,
            "cpu_seconds_total" if own == "iowait" => {}
            "cpu_seconds_total" => add(&mut self.cpu_seconds, value),
            "memory_MemTotal_bytes" => self.memory_bytes = Some(value),
            "memory_MemAvailable_bytes" => self.memory_available_bytes = Some(value),
            "network_receive_bytes_total" if is_physical(own) => add(&mut self.receive_bytes, value),
            "network_transmit_bytes_total" if is_physical(own) => add(&mut self.transmit_bytes, value),
            "filesystem_size_bytes" if own == "/" => self.filesystem_bytes = Some(value),
            "filesystem_avail_bytes" if own == "/" => self.filesystem_available_bytes = Some(value),
            "load1" => self.load1 = Some(value),
            "boot_time_seconds" => self.boot_time = Some(value),
            "uname_info" => self.kernel = own,
            _ => {}
        }
    }

    fn container(&mut self, name: &str, labels: Labels<'a>, value: f64, time: u64) {
        if labels.pod.is_empty() {
            return;
        }
        let Some(pod) = entry(&mut self.pods, (labels.namespace, labels.pod), &mut self.room) else { return };
        pod.time = pod.time.max(time);
        match name {
            // On the sandbox's row, or the pod's.
            "network_receive_bytes_total" => return add(&mut pod.receive_bytes, value),
            "network_transmit_bytes_total" => return add(&mut pod.transmit_bytes, value),
            // A pod without a sandbox carries its network as the container `POD`.
            _ if name.starts_with("network_") || labels.container == "POD" => return,
            _ => {}
        }
        let (cpu, memory) = if !labels.container.is_empty() {
            let Some(container) = entry(&mut pod.containers, labels.container, &mut self.room) else {
                return;
            };
            (&mut container.cpu_seconds, &mut container.memory_bytes)
        } else if labels.name.is_empty() {
            (&mut pod.cpu_seconds, &mut pod.memory_bytes)
        } else {
            return;
        };
        match name {
            // Where a container restarts, its old cgroup may still be there.
            "cpu_usage_seconds_total" => add(cpu, value),
            "memory_working_set_bytes" => add(memory, value),
            _ => {}
        }
    }

    fn pod_info(&mut self, labels: Labels<'a>, point: PointView<'a>) {
        let Some(pod) = entry(&mut self.pods, (labels.namespace, labels.pod), &mut self.room) else { return };
        for (key, value) in point.attributes() {
            let Some(value) = value.as_str() else { continue };
            match key {
                "uid" => pod.uid = value,
                "created_by_kind" => pod.owner.0 = value,
                "created_by_name" => pod.owner.1 = value,
                _ => {}
            }
        }
    }

    fn pod_state(&mut self, name: &str, labels: Labels<'a>, value: f64) {
        if labels.pod.is_empty() {
            return;
        }
        let Some(pod) = entry(&mut self.pods, (labels.namespace, labels.pod), &mut self.room) else { return };
        let is = value > 0.0;
        match name {
            "status_phase" if is => pod.phase = labels.own,
            "status_reason" if is => pod.reason = labels.own,
            "status_ready" if is => pod.ready = Some(labels.own == "true"),
            "deletion_timestamp" => pod.deleted = true,
            "start_time" => pod.start_time = Some(value),
            "init_container_status_waiting_reason" if is => pod.init_reason = labels.own,
            "init_container_status_restarts_total" => pod.init_restarts += value,
            _ if labels.container.is_empty() || name.starts_with("init_") => {}
            _ => {
                let Some(container) = entry(&mut pod.containers, labels.container, &mut self.room) else {
                    return;
                };
                match name {
                    "container_status_restarts_total" => container.restarts = value,
                    "container_status_ready" => container.ready = Some(is),
                    "container_status_waiting_reason" | "container_status_terminated_reason" if is => {
                        container.reason = labels.own;
                    }
                    "container_status_last_terminated_reason" if is => container.last_reason = labels.own,
                    "container_resource_limits" if labels.own == "cpu" => container.cpu_limit = Some(value),
                    "container_resource_limits" if labels.own == "memory" => {
                        container.memory_limit = Some(value);
                    }
                    _ => {}
                }
            }
        }
    }

    fn namespace(&mut self, name: &str, labels: Labels<'a>, value: f64, time: u64) {
        let Some(namespace) = entry(&mut self.namespaces, labels.namespace, &mut self.room) else { return };
        namespace.time = namespace.time.max(time);
        match name {
            "cpu_usage_seconds_total" => namespace.cpu_seconds = Some(value),
            "memory_working_set_bytes" => namespace.memory_bytes = Some(value),
            "network_receive_bytes_total" => namespace.receive_bytes = Some(value),
            "network_transmit_bytes_total" => namespace.transmit_bytes = Some(value),
            "cpu_request_cores" => namespace.cpu_request_cores = value,
            "memory_request_bytes" => namespace.memory_request_bytes = value,
            "pods" => {
                let count = PHASES.iter().position(|phase| *phase == labels.own);
                if let Some(count) = count.and_then(|at| namespace.phases.get_mut(at)) {
                    // A node has a few hundred pods.
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let value = value.clamp(0.0, 1e6) as u32;
                    *count = value;
                }
            }
            _ => {}
        }
    }
}

/// The label that tells the rows of a family of `kube_pod_*` apart.
fn own_label(name: &str) -> &'static str {
    match name {
        "status_phase" => "phase",
        "status_ready" => "condition",
        "container_resource_limits" => "resource",
        _ => "reason",
    }
}

/// Interfaces by which a machine talks to others; those of pods and bridges would count their bytes again.
fn is_physical(device: &str) -> bool {
    const VIRTUAL: [&str; 12] =
        ["lo", "veth", "cali", "lxc", "cni", "flannel", "docker", "br-", "tunl", "vxlan", "kube-", "cilium"];
    !VIRTUAL.iter().any(|prefix| device.starts_with(prefix))
}

fn entry<'m, K: Eq + Hash, V: Default>(
    map: &'m mut HashMap<K, V>,
    key: K,
    room: &mut usize,
) -> Option<&'m mut V> {
    match map.entry(key) {
        Entry::Occupied(there) => Some(there.into_mut()),
        Entry::Vacant(_) if *room == 0 => None,
        Entry::Vacant(new) => {
            *room -= 1;
            Some(new.insert(V::default()))
        }
    }
}

fn add(sum: &mut Option<f64>, value: f64) {
    *sum = Some(sum.unwrap_or(0.0) + value);
}
