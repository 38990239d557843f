//! A container's resource attributes (semantic conventions 1.44), encoded once.

use sonde_wire::attrs::{AttrSet, AttrSetBuilder, keys};

use super::filter::glob;
use super::plain_files;
use super::pod_path::PodDir;
use crate::config::FileRule;
use crate::pods::{ContainerMeta, PodMeta};

/// Path of the file that is written to, whatever rotation made of it since (semantic conventions, `log.file.*`).
const FILE_PATH: &str = "log.file.path";
/// Its name.
const FILE_NAME: &str = "log.file.name";
const SERVICE_NAME_ANNOTATION: &str = "resource.opentelemetry.io/service.name";

/// What is the same for all containers of the node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `k8s.cluster.name`; empty = not attached.
    pub cluster: String,
    /// `k8s.node.name`.
    pub name: String,
    /// Label keys that are attached, `*` globs.
    pub labels: Vec<String>,
}

/// What a log file's place says.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Whose it is; without a name, a container that is known by its id alone.
    pub pod: &'a PodDir,
    /// Container.
    pub container: &'a str,
    /// Restart count.
    pub restart: u32,
    /// The runtime's id of the container, where the place says it.
    pub container_id: Option<&'a str>,
    /// Of a plain file: its directory, name, and rule.
    pub file: Option<(&'a str, &'a str, &'a FileRule)>,
}

/// The attributes: namespace, pod, uid, container and restart come from the path or Docker's labels, the rest from the pod
/// where it is known. `meta` belongs to the path's uid; what it says of another restart of the container is not used.
pub fn attributes(node: &Node, source: &Source<'_>, meta: Option<&PodMeta>) -> AttrSet {
    let Source { pod: path, container, restart, container_id, file } = *source;
    let mut set = AttrSet::builder();
    if !node.cluster.is_empty() {
        set = set.str(keys::CLUSTER_NAME, &node.cluster);
    }
    set = set.str(keys::NODE_NAME, &node.name);
    if let Some((dir, name, rule)) = file {
        set = set.str(FILE_PATH, &plain_files::join(dir, name)).str(FILE_NAME, name);
        for (key, value) in &rule.attributes {
            set = set.str(key, value);
        }
        let service = if rule.name.is_empty() { name } else { &rule.name };
        return set.str(keys::SERVICE_NAME, service).build();
    }
    if let Some(id) = container_id {
        set = set.str(keys::CONTAINER_ID, id);
        if path.namespace.is_empty() {
            return set.str(keys::SERVICE_NAME, id).build();
        }
    }
    set = set
        .str(keys::NAMESPACE_NAME, &path.namespace)
        .str(keys::POD_NAME, &path.pod)
        .str(keys::POD_UID, &path.uid)
        .str(keys::CONTAINER_NAME, container)
        .int(keys::RESTART_COUNT, i64::from(restart));
    let meta = meta.filter(|meta| meta.uid == path.uid);
    let Some(meta) = meta else {
        return set.str(keys::SERVICE_NAME, container).build();
    };
    if let Some(found) = meta.containers.iter().find(|found| found.name == container)
        && found.restart_count == restart
        && !found.id.is_empty()
        && container_id.is_none()
    {
        set = set.str(keys::CONTAINER_ID, &found.id);
    }
    workload(set, node, meta, Some(container)).build()
}

/// Adds what a pod's metadata say whichever its container's restart is: the image of `container`, owners, labels, the service.
pub(crate) fn workload(
    mut set: AttrSetBuilder,
    node: &Node,
    meta: &PodMeta,
    container: Option<&str>,
) -> AttrSetBuilder {
    if let Some(found) = meta.containers.iter().find(|found| Some(found.name.as_str()) == container) {
        let (image, tag) = image(found);
        if !image.is_empty() {
            set = set.str(keys::IMAGE_NAME, image);
        }
        if let Some(tag) = tag {
            set = set.str_array(keys::IMAGE_TAGS, [tag]);
        }
    }
    for owner in &meta.owners {
        if let Some(key) = owner_key(&owner.kind) {
            set = set.str(key, &owner.name);
        }
    }
    for (label, value) in &meta.labels {
        if node.labels.iter().any(|pattern| glob(pattern, label)) {
            set = set.str(&format!("{}{label}", keys::POD_LABEL), value);
        }
    }
    set.str(keys::SERVICE_NAME, service_name(meta, container.unwrap_or_default()))
}

/// The conventions' derivation (non-normative/k8s-attributes.md): annotation, two labels, the workload from the outside
/// in, the pod, the container.
fn service_name<'a>(meta: &'a PodMeta, container: &'a str) -> &'a str {
    let annotation = meta.annotations.get(SERVICE_NAME_ANNOTATION);
    let labels = ["app.kubernetes.io/instance", "app.kubernetes.io/name"]
        .into_iter()
        .find_map(|key| meta.labels.get(key));
    let owner = || {
        let order = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "CronJob", "Job"];
        order
            .iter()
            .find_map(|kind| meta.owners.iter().find(|owner| owner.kind == *kind))
            .map(|owner| &owner.name)
    };
    let name = annotation.or(labels).filter(|name| !name.is_empty()).or_else(owner).unwrap_or(&meta.name);
    if name.is_empty() { container } else { name }
}

fn owner_key(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Deployment" => "k8s.deployment.name",
        "ReplicaSet" => "k8s.replicaset.name",
        "StatefulSet" => "k8s.statefulset.name",
        "DaemonSet" => "k8s.daemonset.name",
        "Job" => "k8s.job.name",
        "CronJob" => "k8s.cronjob.name",
        "ReplicationController" => "k8s.replicationcontroller.name",
        _ => return None,
    })
}

/// Name and tag of an image reference; a digest is neither, and a port of the registry is not a tag.
fn image(container: &ContainerMeta) -> (&str, Option<&str>) {
    let reference = container.image.split('@').next().unwrap_or_default();
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !tag.is_empty() => (name, Some(tag)),
        _ => (reference, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Owner;

    fn pod() -> PodMeta {
        PodMeta {
            uid: "u1".into(),
            namespace: "shop".into(),
            name: "web-1".into(),
            labels: [("app", "web"), ("secret", "x"), ("app.kubernetes.io/part-of", "shop")]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
            owners: vec![
                Owner { kind: "ReplicaSet".into(), name: "web-69".into() },
                Owner { kind: "Deployment".into(), name: "web".into() },
            ],
            containers: vec![ContainerMeta {
                name: "app".into(),
                id: "abc".into(),
                restart_count: 1,
                image: "registry:5000/web:2.0@sha256:0".into(),
            }],
            ..PodMeta::default()
        }
    }

    fn render(restart: u32, uid: &str, meta: Option<&PodMeta>) -> String {
        let node = Node {
            cluster: "lab".into(),
            name: "n1".into(),
            labels: vec!["app".into(), "app.kubernetes.io/*".into()],
        };
        let path = PodDir { namespace: "shop".into(), pod: "web-1".into(), uid: uid.into() };
        let source = Source { pod: &path, container: "app", restart, container_id: None, file: None };
        String::from_utf8_lossy(attributes(&node, &source, meta).bytes()).into_owned()
    }

    #[test]
    fn a_known_pod_gives_its_workload_labels_image_and_service() {
        let text = render(1, "u1", Some(&pod()));
        for part in [
            "lab",
            "n1",
            "shop",
            "web-1",
            "u1",
            "container.id",
            "abc",
            "registry:5000/web",
            "2.0",
            "k8s.deployment.name",
            "k8s.pod.label.app",
            "k8s.pod.label.app.kubernetes.io/part-of",
            "service.name",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("secret") && !text.contains("sha256"));
        assert_eq!(service_name(&pod(), "app"), "web");
    }

    #[test]
    fn a_container_id_is_given_only_for_its_own_restart() {
        assert!(!render(0, "u1", Some(&pod())).contains("container.id"));
    }

    #[test]
    fn the_same_name_with_a_new_uid_never_gets_the_old_labels() {
        assert!(!render(1, "u2", Some(&pod())).contains("k8s.pod.label"));
    }

    #[test]
    fn an_unknown_pod_is_named_by_its_path_alone() {
        let text = render(0, "u1", None);
        assert!(
            text.contains("k8s.container.name")
                && text.contains("service.name")
                && !text.contains("deployment")
        );
    }
}
