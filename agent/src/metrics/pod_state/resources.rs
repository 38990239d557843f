//! `kube_pod_container_resource_*` and those of init containers.

use sonde_daemon::page::Sink;

use super::{Group, put};
use crate::metrics::help;
use crate::pods::v1::{Pod, Quantity};

pub(super) fn show_resources(pods: &[Pod], group: &Group, out: &mut Sink) {
    for which in ["requests", "limits"] {
        let mut rows = help::gauge(out, &format!("{}_resource_{which}", group.prefix));
        for pod in pods {
            for container in group.containers(pod) {
                let resources = &container.resources;
                let map = if which == "requests" { &resources.requests } else { &resources.limits };
                for (resource, Quantity(value)) in map {
                    let Some((resource, unit)) = resource_of(resource) else { continue };
                    let labels = [
                        ("container", container.name.as_str()),
                        ("node", pod.spec.node_name.as_str()),
                        ("resource", resource.as_str()),
                        ("unit", unit),
                    ];
                    put(&mut rows, pod, labels, *value);
                }
            }
        }
    }
}

/// A resource's label and unit. Native resources of no known kind have none, and what has `kubernetes.io/` anywhere in its name is
/// native (kube-state-metrics, internal/store/utils.go, `isExtendedResourceName`).
fn resource_of(name: &str) -> Option<(String, &'static str)> {
    let clean = || name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    match name {
        "cpu" => Some((clean(), "core")),
        "memory" | "storage" | "ephemeral-storage" => Some((clean(), "byte")),
        _ if name.starts_with("hugepages-") => Some((clean(), "byte")),
        _ if name.starts_with("attachable-volumes-") => Some((clean(), "byte")),
        _ if name.contains("kubernetes.io/") || name.starts_with("requests.") => None,
        _ if name.contains('/') => Some((clean(), "integer")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_those_that_kube_state_metrics_knows_a_unit_of() {
        for (name, expected) in [
            ("cpu", Some(("cpu", "core"))),
            ("ephemeral-storage", Some(("ephemeral_storage", "byte"))),
            ("hugepages-2Mi", Some(("hugepages_2Mi", "byte"))),
            ("attachable-volumes-aws-ebs", Some(("attachable_volumes_aws_ebs", "byte"))),
            ("nvidia.com/gpu", Some(("nvidia_com_gpu", "integer"))),
            ("kubernetes.io/batch-cpu", None),
            ("batch.kubernetes.io/cpu", None),
            ("requests.example.com/x", None),
            ("pods", None),
        ] {
            let known = resource_of(name);
            assert_eq!(known.as_ref().map(|(label, unit)| (label.as_str(), *unit)), expected, "{name}");
        }
    }
}
