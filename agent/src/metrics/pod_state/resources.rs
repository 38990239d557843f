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

/// A resource's label and unit. Native resources of no known kind have none.
fn resource_of(name: &str) -> Option<(String, &'static str)> {
    let clean = || name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    match name {
        "cpu" => Some((clean(), "core")),
        "memory" | "storage" | "ephemeral-storage" => Some((clean(), "byte")),
        _ if name.starts_with("hugepages-") => Some((clean(), "byte")),
        _ if name.starts_with("attachable-volumes-") => Some((clean(), "byte")),
        _ if name.contains('/') && !name.starts_with("kubernetes.io/") => Some((clean(), "integer")),
        _ => None,
    }
}
