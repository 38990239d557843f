//! `kube_pod_*` of the pods bound to this node, as kube-state-metrics in its per-node mode
//! (kubernetes/kube-state-metrics, internal/store/pod.go).

mod resources;

use std::borrow::Cow;

use super::help;
use sonde_daemon::page::{Kind as Type, Rows, Sink, Source, Value};

use crate::kubelet::pods::SOURCE;
use crate::pods::PodIndex;
use crate::pods::v1::{Condition, Container, ContainerStatus, OwnerReference, Pod, Quantity, unix_seconds};
use resources::show_resources;

/// The page's source.
pub(super) struct PodState {
    pub(super) index: PodIndex,
}

impl Source for PodState {
    fn name(&self) -> &'static str {
        "pod_state"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        show(&self.index.states(), out);
        Ok(())
    }
}

/// Everything that is known of these pods.
pub(super) fn show(pods: &[Pod], out: &mut Sink) {
    show_pods(pods, out);
    show_phases(pods, out);
    show_conditions(pods, out);
    show_specs(pods, out);
    for group in [Group::APP, Group::INIT] {
        show_statuses(pods, &group, out);
        show_resources(pods, &group, out);
    }
}

fn put<'l>(
    rows: &mut Rows<'_>,
    pod: &'l Pod,
    extra: impl IntoIterator<Item = (&'l str, &'l str)>,
    value: impl Into<Value>,
) {
    let meta = &pod.metadata;
    let base =
        [("namespace", meta.namespace.as_str()), ("pod", meta.name.as_str()), ("uid", meta.uid.as_str())];
    rows.row(base.into_iter().chain(extra), value);
}

/// A gauge with one row a pod at most.
fn each(out: &mut Sink, pods: &[Pod], name: &str, value: impl Fn(&Pod) -> Option<i64>) {
    let mut rows = help::gauge(out, name);
    for pod in pods {
        if let Some(value) = value(pod) {
            put(&mut rows, pod, [], value);
        }
    }
}

/// A gauge of 1 with one more label, for pods that have it.
fn info(out: &mut Sink, pods: &[Pod], name: &str, label: &str, value: impl Fn(&Pod) -> &str) {
    let mut rows = help::gauge(out, name);
    for pod in pods {
        let value = value(pod);
        if !value.is_empty() {
            put(&mut rows, pod, [(label, value)], 1u64);
        }
    }
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Who owns a pod. Of a static pod the kubelet has no owner, and the API server's mirror of it has the node.
fn owners(pod: &Pod) -> Cow<'_, [OwnerReference]> {
    if pod.metadata.annotations.contains_key(SOURCE) && pod.metadata.owner_references.is_empty() {
        let (kind, name) = ("Node".to_owned(), pod.spec.node_name.clone());
        return Cow::Owned(vec![OwnerReference { kind, name, controller: Some(true) }]);
    }
    Cow::Borrowed(&pod.metadata.owner_references)
}

fn show_pods(pods: &[Pod], out: &mut Sink) {
    let mut rows = help::gauge(out, "kube_pod_info");
    for pod in pods {
        let (spec, status) = (&pod.spec, &pod.status);
        let owners = owners(pod);
        let owner = owners.iter().find(|owner| owner.controller == Some(true));
        let labels = [
            ("host_ip", status.host_ip.as_str()),
            ("pod_ip", status.pod_ip.as_str()),
            ("node", spec.node_name.as_str()),
            ("created_by_kind", owner.map_or("", |owner| owner.kind.as_str())),
            ("created_by_name", owner.map_or("", |owner| owner.name.as_str())),
            ("priority_class", spec.priority_class_name.as_str()),
            ("host_network", truth(spec.host_network)),
        ];
        put(&mut rows, pod, labels, 1u64);
    }
    let mut rows = help::gauge(out, "kube_pod_owner");
    for pod in pods {
        let owners = owners(pod);
        if owners.is_empty() {
            put(&mut rows, pod, [("owner_kind", ""), ("owner_name", ""), ("owner_is_controller", "")], 1u64);
        }
        for owner in owners.iter() {
            let labels = [
                ("owner_kind", owner.kind.as_str()),
                ("owner_name", owner.name.as_str()),
                ("owner_is_controller", truth(owner.controller == Some(true))),
            ];
            put(&mut rows, pod, labels, 1u64);
        }
    }
    let mut rows = help::gauge(out, "kube_pod_ips");
    for pod in pods {
        for address in &pod.status.pod_ips {
            let family = if address.ip.contains(':') { "6" } else { "4" };
            put(&mut rows, pod, [("ip", address.ip.as_str()), ("ip_family", family)], 1u64);
        }
    }
    each(out, pods, "kube_pod_created", |pod| unix_seconds(&pod.metadata.creation_timestamp));
    each(out, pods, "kube_pod_deletion_timestamp", |pod| unix_seconds(&pod.metadata.deletion_timestamp));
    each(out, pods, "kube_pod_start_time", |pod| unix_seconds(&pod.status.start_time));
    each(out, pods, "kube_pod_completion_time", |pod| {
        let ends = pod.status.container_statuses.iter().filter_map(|status| status.state.terminated.as_ref());
        ends.filter_map(|end| unix_seconds(&end.finished_at)).max()
    });
}

const PHASES: [&str; 5] = ["Pending", "Succeeded", "Failed", "Unknown", "Running"];
/// Reasons that kube-state-metrics knows by name.
const REASONS: [&str; 8] = [
    "Evicted",
    "NodeAffinity",
    "NodeLost",
    "PreemptionByScheduler",
    "SchedulingGated",
    "Shutdown",
    "TerminationByKubelet",
    "UnexpectedAdmissionError",
];

fn show_phases(pods: &[Pod], out: &mut Sink) {
    let mut rows = help::gauge(out, "kube_pod_status_phase");
    for pod in pods.iter().filter(|pod| !pod.status.phase.is_empty()) {
        for phase in PHASES {
            put(&mut rows, pod, [("phase", phase)], u64::from(phase == pod.status.phase));
        }
    }
    info(out, pods, "kube_pod_status_qos_class", "qos_class", |pod| &pod.status.qos_class);
    info(out, pods, "kube_pod_status_reason", "reason", |pod| match pod.status.reason.as_str() {
        "" => "",
        reason if REASONS.contains(&reason) => reason,
        _ => "Other",
    });
}

fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p Condition> {
    pod.status.conditions.iter().find(|condition| condition.kind == kind)
}

fn show_conditions(pods: &[Pod], out: &mut Sink) {
    for (name, kind) in [("kube_pod_status_ready", "Ready"), ("kube_pod_status_scheduled", "PodScheduled")] {
        let mut rows = help::gauge(out, name);
        for pod in pods {
            let Some(condition) = condition(pod, kind) else { continue };
            for status in ["true", "false", "unknown"] {
                let is = condition.status.eq_ignore_ascii_case(status);
                put(&mut rows, pod, [("condition", status)], u64::from(is));
            }
        }
    }
    let since = |pod: &Pod, kind: &str, wanted: &str| {
        let condition = condition(pod, kind).filter(|condition| condition.status == wanted)?;
        unix_seconds(&condition.last_transition_time)
    };
    each(out, pods, "kube_pod_status_ready_time", |pod| since(pod, "Ready", "True"));
    each(out, pods, "kube_pod_status_container_ready_time", |pod| since(pod, "ContainersReady", "True"));
    each(out, pods, "kube_pod_status_initialized_time", |pod| since(pod, "Initialized", "True"));
    each(out, pods, "kube_pod_status_scheduled_time", |pod| since(pod, "PodScheduled", "True"));
    each(out, pods, "kube_pod_status_unscheduled_time", |pod| since(pod, "PodScheduled", "False"));
    each(out, pods, "kube_pod_status_unschedulable", |pod| {
        condition(pod, "PodScheduled").filter(|condition| condition.status == "False").map(|_| 1)
    });
    let mut rows = help::gauge(out, "kube_pod_status_disruption_reason");
    for pod in pods {
        if let Some(target) = condition(pod, "DisruptionTarget").filter(|c| c.status == "True") {
            put(&mut rows, pod, [("reason", target.reason.as_str())], 1u64);
        }
    }
}

fn show_specs(pods: &[Pod], out: &mut Sink) {
    info(out, pods, "kube_pod_restart_policy", "type", |pod| &pod.spec.restart_policy);
    let mut rows = help::gauge(out, "kube_pod_service_account");
    for pod in pods {
        // Of a static pod too, which has none.
        put(&mut rows, pod, [("service_account", pod.spec.service_account_name.as_str())], 1u64);
    }
    info(out, pods, "kube_pod_scheduler", "name", |pod| &pod.spec.scheduler_name);
    info(out, pods, "kube_pod_runtimeclass_name_info", "runtimeclass_name", |pod| {
        &pod.spec.runtime_class_name
    });
    for (name, resource) in
        [("kube_pod_overhead_cpu_cores", "cpu"), ("kube_pod_overhead_memory_bytes", "memory")]
    {
        let mut rows = help::gauge(out, name);
        for pod in pods {
            if let Some(Quantity(value)) = pod.spec.overhead.get(resource) {
                put(&mut rows, pod, [], *value);
            }
        }
    }
    let mut rows = help::gauge(out, "kube_pod_tolerations");
    for pod in pods {
        let tolerations = &pod.spec.tolerations;
        for (at, toleration) in tolerations.iter().enumerate() {
            // The API server takes one twice; a row is there once.
            if tolerations.iter().take(at).any(|other| other == toleration) {
                continue;
            }
            let seconds = toleration.toleration_seconds.map(|seconds| seconds.to_string());
            let labels = [
                ("key", toleration.key.as_str()),
                ("operator", toleration.operator.as_str()),
                ("value", toleration.value.as_str()),
                ("effect", toleration.effect.as_str()),
                ("toleration_seconds", seconds.as_deref().unwrap_or_default()),
            ];
            // Only those that are set.
            put(&mut rows, pod, labels.into_iter().filter(|(_, value)| !value.is_empty()), 1u64);
        }
    }
    for (name, read_only) in [
        ("kube_pod_spec_volumes_persistentvolumeclaims_info", false),
        ("kube_pod_spec_volumes_persistentvolumeclaims_readonly", true),
    ] {
        let mut rows = help::gauge(out, name);
        for pod in pods {
            for volume in &pod.spec.volumes {
                // A claim that is made for the pod is named after both.
                let made = format!("{}-{}", pod.metadata.name, volume.name);
                let (claim, is_read_only, ephemeral) =
                    match (&volume.persistent_volume_claim, &volume.ephemeral) {
                        (Some(claim), _) => (claim.claim_name.as_str(), claim.read_only, "false"),
                        (None, Some(_)) => (made.as_str(), false, "true"),
                        (None, None) => continue,
                    };
                let value = u64::from(!read_only || is_read_only);
                let labels = [
                    ("volume", volume.name.as_str()),
                    ("persistentvolumeclaim", claim),
                    ("ephemeral", ephemeral),
                ];
                put(&mut rows, pod, labels, value);
            }
        }
    }
}

/// App containers, or init containers: the same shapes under two prefixes.
struct Group {
    prefix: &'static str,
    init: bool,
}

impl Group {
    const APP: Self = Self { prefix: "kube_pod_container", init: false };
    const INIT: Self = Self { prefix: "kube_pod_init_container", init: true };

    fn statuses<'p>(&self, pod: &'p Pod) -> &'p [ContainerStatus] {
        if self.init { &pod.status.init_container_statuses } else { &pod.status.container_statuses }
    }

    fn containers<'p>(&self, pod: &'p Pod) -> &'p [Container] {
        if self.init { &pod.spec.init_containers } else { &pod.spec.containers }
    }

    /// A family with a row for each status for which there is a value.
    fn family(
        &self,
        out: &mut Sink,
        pods: &[Pod],
        (kind, name): (Type, &str),
        value: impl Fn(&ContainerStatus) -> Option<i64>,
    ) {
        let mut rows = help::family(out, kind, &format!("{}_{name}", self.prefix));
        for pod in pods {
            for status in self.statuses(pod) {
                if let Some(value) = value(status) {
                    put(&mut rows, pod, [("container", status.name.as_str())], value);
                }
            }
        }
    }

    /// A family of 1 with the reason, for each status that has one.
    fn reason(
        &self,
        out: &mut Sink,
        pods: &[Pod],
        name: &str,
        reason: impl Fn(&ContainerStatus) -> Option<&str>,
    ) {
        let mut rows = help::gauge(out, &format!("{}_{name}", self.prefix));
        for pod in pods {
            for status in self.statuses(pod) {
                if let Some(reason) = reason(status) {
                    put(&mut rows, pod, [("container", status.name.as_str()), ("reason", reason)], 1u64);
                }
            }
        }
    }
}

fn show_statuses(pods: &[Pod], group: &Group, out: &mut Sink) {
    let mut rows = help::gauge(out, &format!("{}_info", group.prefix));
    for pod in pods {
        for status in group.statuses(pod) {
            let spec = group.containers(pod).iter().find(|container| container.name == status.name);
            let labels = [
                ("container", status.name.as_str()),
                ("image_spec", spec.map_or("", |spec| spec.image.as_str())),
                ("image", status.image.as_str()),
                ("image_id", status.image_id.as_str()),
                ("container_id", status.container_id.as_str()),
            ];
            let policy = spec.map_or("", |spec| spec.restart_policy.as_str());
            put(
                &mut rows,
                pod,
                labels.into_iter().chain(group.init.then_some(("restart_policy", policy))),
                1u64,
            );
        }
    }
    type Cell = fn(&ContainerStatus) -> Option<i64>;
    let gauges: [(&str, Cell); 7] = [
        ("status_running", |status| Some(i64::from(status.state.running.is_some()))),
        ("status_waiting", |status| Some(i64::from(status.state.waiting.is_some()))),
        ("status_terminated", |status| Some(i64::from(status.state.terminated.is_some()))),
        ("status_ready", |status| Some(i64::from(status.ready))),
        ("state_started", |status| {
            let (running, ended) = (status.state.running.as_ref(), status.state.terminated.as_ref());
            unix_seconds(running.map(|run| &run.started_at).or(ended.map(|end| &end.started_at))?)
        }),
        ("status_last_terminated_exitcode", |status| Some(status.last_state.terminated.as_ref()?.exit_code)),
        ("status_last_terminated_timestamp", |status| {
            unix_seconds(&status.last_state.terminated.as_ref()?.finished_at)
        }),
    ];
    for (name, value) in gauges {
        group.family(out, pods, (Type::Gauge, name), value);
    }
    group.family(out, pods, (Type::Counter, "status_restarts_total"), |status| {
        Some(status.restart_count.max(0))
    });
    group.reason(out, pods, "status_waiting_reason", |status| {
        Some(status.state.waiting.as_ref()?.reason.as_str())
    });
    group.reason(out, pods, "status_terminated_reason", |status| {
        Some(status.state.terminated.as_ref()?.reason.as_str())
    });
    group.reason(out, pods, "status_last_terminated_reason", |status| {
        Some(status.last_state.terminated.as_ref()?.reason.as_str())
    });
}

#[cfg(test)]
mod tests;
