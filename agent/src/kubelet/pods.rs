//! The kubelet's `/pods` as the pods of this node. Pure: bytes in, pods out.
//!
//! The answer is a Kubernetes `v1.PodList`; only what Sonde uses is read, unknown fields and nulls are passed over.
//! `metadata.uid` there is the uid that log directories and cgroups carry, also of a static pod (its configuration
//! hash; the mirror pod in the API server has another).

use std::collections::BTreeMap;

use crate::pods::v1::{ContainerStatus, OwnerReference, Pod, PodList};
use crate::pods::{ContainerMeta, Owner, PodMeta};

/// Annotations that Sonde reads; the others are not kept.
const ANNOTATIONS: [&str; 2] = ["sonde.io/", "resource.opentelemetry.io/"];

/// Whence the kubelet has a pod: `api`, or of a static one `file` or `http`, and only those are kept.
pub(crate) const SOURCE: &str = "kubernetes.io/config.source";
/// On the mirror of a static pod, the uid by which the kubelet knows it (`kubernetes.io/config.mirror` of
/// pkg/kubelet/types/pod_update.go).
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// One answer of the kubelet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// The pods bound to this node.
    pub pods: Vec<PodMeta>,
    /// The same pods with all that `kube_pod_*` needs.
    pub states: Vec<Pod>,
    /// Pods that were refused because they name another node.
    pub foreign: usize,
    /// A node that such a pod names.
    pub foreign_node: String,
}

/// Why an answer is no pod list.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// Not JSON of the expected shape.
    #[error("the answer is no pod list: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but of something else.
    #[error("the answer is a `{0}` (expected a PodList)")]
    Kind(String),
}

/// Reads a list.
///
/// # Errors
/// It is none.
pub fn list(json: &[u8]) -> Result<PodList, PodsError> {
    let list: PodList = serde_json::from_slice(json)?;
    if list.kind == "PodList" { Ok(list) } else { Err(PodsError::Kind(list.kind)) }
}

/// Reads an answer; `node` is this node's name (empty = any).
pub fn parse(json: &[u8], node: &str) -> Result<Picture, PodsError> {
    let list = list(json)?;
    let mut picture = Picture::default();
    for pod in list.items {
        if pod.metadata.uid.is_empty() {
            continue;
        }
        if is_foreign(&pod, node) {
            picture.foreign += 1;
            picture.foreign_node = pod.spec.node_name;
            continue;
        }
        let pod = kept(pod);
        picture.pods.push(meta(&pod));
        picture.states.push(pod);
    }
    Ok(picture)
}

/// Whether a pod names another node than this one (empty = any).
pub(super) fn is_foreign(pod: &Pod, node: &str) -> bool {
    !node.is_empty() && !pod.spec.node_name.is_empty() && pod.spec.node_name != node
}

/// The workload chain above a pod, nearest first, from names alone: no API server is asked.
///
/// A Deployment's ReplicaSet is `<deployment>-<pod-template-hash>`; a CronJob's Job is `<cronjob>-<minutes since
/// 1970>` (kubernetes/pkg/controller/cronjob, `getJobName`), which today has eight digits. Eight digits that are a
/// date such as 20261120 would be the year 2008 in minutes and are not taken for it.
fn owners(references: &[OwnerReference], labels: &BTreeMap<String, String>) -> Vec<Owner> {
    let Some(first) = references.iter().find(|r| r.controller == Some(true)).or(references.first()) else {
        return Vec::new();
    };
    let mut chain = vec![Owner { kind: first.kind.clone(), name: first.name.clone() }];
    match first.kind.as_str() {
        "ReplicaSet" => {
            let hash = labels.get("pod-template-hash").map_or("", String::as_str);
            let deployment = first.name.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-'));
            if let Some(name) = deployment.filter(|name| !hash.is_empty() && !name.is_empty()) {
                chain.push(Owner { kind: "Deployment".to_owned(), name: name.to_owned() });
            }
        }
        "Job" => {
            if let Some((name, minutes)) = first.name.rsplit_once('-')
                && !name.is_empty()
                && minutes.len() == 8
                && minutes.bytes().all(|b| b.is_ascii_digit())
                && minutes >= "23000000"
            {
                chain.push(Owner { kind: "CronJob".to_owned(), name: name.to_owned() });
            }
        }
        _ => {}
    }
    chain
}

/// A pod without what is not read of it, under the uid that log directories and cgroups carry. Of a static pod the API server has
/// a mirror with a uid of its own, and the other one in an annotation.
pub fn kept(mut pod: Pod) -> Pod {
    let metadata = &mut pod.metadata;
    if let Some(uid) = metadata.annotations.get(MIRROR).filter(|uid| !uid.is_empty()) {
        metadata.uid.clone_from(uid);
    }
    metadata.annotations.retain(|key, value| {
        ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)) || (key == SOURCE && value != "api")
    });
    pod
}

/// What the index has of a pod.
pub fn meta(pod: &Pod) -> PodMeta {
    let (metadata, spec, status) = (&pod.metadata, &pod.spec, &pod.status);
    // Names are unique over all kinds of containers of a pod.
    let statuses: BTreeMap<&str, &ContainerStatus> =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flatten()
            .map(|status| (status.name.as_str(), status))
            .collect();
    let containers = [&spec.init_containers, &spec.containers, &spec.ephemeral_containers]
        .into_iter()
        .flatten()
        .map(|container| {
            let known = statuses.get(container.name.as_str());
            ContainerMeta {
                id: known.map(|s| bare_id(&s.container_id).to_owned()).unwrap_or_default(),
                restart_count: known.and_then(|s| u32::try_from(s.restart_count).ok()).unwrap_or(0),
                name: container.name.clone(),
                image: container.image.clone(),
            }
        })
        .collect();
    PodMeta {
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
        owners: owners(&metadata.owner_references, &metadata.labels),
        host_network: spec.host_network,
        containers,
    }
}

/// `containerd://4f…` without the runtime's scheme.
fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, bare)| bare)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &[u8] = include_bytes!("../../../tests/fixtures/kubelet/pods.json");

    fn recorded() -> Picture {
        parse(RECORDED, "lab-node-1").unwrap()
    }

    fn pod<'a>(picture: &'a Picture, name: &str) -> &'a PodMeta {
        picture.pods.iter().find(|pod| pod.name == name).unwrap()
    }

    fn chain(pod: &PodMeta) -> Vec<(&str, &str)> {
        pod.owners.iter().map(|o| (o.kind.as_str(), o.name.as_str())).collect()
    }

    #[test]
    fn a_recorded_answer_gives_every_pod_of_the_node() {
        let picture = recorded();
        assert_eq!((picture.pods.len(), picture.foreign), (29, 0));
        let web = pod(&picture, "web-69b97f555c-nvk2f");
        assert_eq!(web.uid, "f3b8617d-f939-41a3-9ebc-93ea72f24a30");
        assert_eq!(web.namespace, "shop");
        assert_eq!(web.labels["tier"], "front");
        assert!(web.annotations.is_empty(), "only our own annotations are kept");
        assert_eq!(web.containers.len(), 1);
        assert_eq!(web.containers[0].image, "lab.local/labgen:1.0");
        assert!(web.containers[0].id.starts_with("45ff254f"));
        assert!(pod(&picture, "node-agent-v2pnz").host_network);
    }

    #[test]
    fn a_static_pod_carries_the_uid_of_its_log_directory() {
        // pods/kube-system_static-web-lab-node-1_fc06af0816b5d23d3b29896dde65db18/web/0.log in the same recording
        assert_eq!(pod(&recorded(), "static-web-lab-node-1").uid, "fc06af0816b5d23d3b29896dde65db18");
    }

    #[test]
    fn workloads_are_found_from_names_alone() {
        let picture = recorded();
        let of = |name| chain(pod(&picture, name));
        assert_eq!(of("web-69b97f555c-nvk2f"), [("ReplicaSet", "web-69b97f555c"), ("Deployment", "web")]);
        assert_eq!(of("tick-29919882-z2jd7"), [("Job", "tick-29919882"), ("CronJob", "tick")]);
        assert_eq!(of("good-lptbh"), [("Job", "good")]);
        assert_eq!(of("db-0"), [("StatefulSet", "db")]);
        assert_eq!(of("legacy-r5qp2"), [("ReplicationController", "legacy")]);
        assert_eq!(of("bigline"), []);
    }

    #[test]
    fn a_job_named_after_a_date_is_no_cron_job() {
        for (job, cron) in [
            ("tick-29919882", true),
            ("report-20261120", false),
            ("report-2026112", false),
            ("-29919882", false),
            ("tick-2991988x", false),
        ] {
            let job = OwnerReference { kind: "Job".into(), name: job.into(), controller: Some(true) };
            assert_eq!(owners(std::slice::from_ref(&job), &BTreeMap::new()).len() == 2, cron, "{}", job.name);
        }
    }

    #[test]
    fn containers_of_all_kinds_carry_id_and_restarts() {
        let picture = recorded();
        let pod = pod(&picture, "initpod");
        let seen: Vec<_> = pod.containers.iter().map(|c| (c.name.as_str(), c.restart_count)).collect();
        assert_eq!(seen, [("init-a", 1), ("init-b", 0), ("native-sidecar", 0), ("main", 0)]);
        assert!(pod.containers.iter().all(|c| c.id.len() == 64));
        let ephemeral = br#"{"kind":"PodList","items":[{"metadata":{"uid":"u"},
            "spec":{"ephemeralContainers":[{"name":"debug","image":"b"}]},
            "status":{"ephemeralContainerStatuses":[{"name":"debug","containerID":"cri-o://ab","restartCount":-1}]}}]}"#;
        let got = parse(ephemeral, "n").unwrap().pods.remove(0).containers.remove(0);
        let want =
            ContainerMeta { name: "debug".into(), id: "ab".into(), restart_count: 0, image: "b".into() };
        assert_eq!(got, want);
    }

    #[test]
    fn pods_of_another_node_are_refused_and_said() {
        let picture = parse(RECORDED, "other").unwrap();
        assert_eq!(picture.pods.len(), 0);
        assert_eq!((picture.foreign, picture.foreign_node.as_str()), (29, "lab-node-1"));
    }

    #[test]
    fn nulls_and_unknown_fields_are_passed_over() {
        let json =
            br#"{"kind":"PodList","items":[{"metadata":{"uid":"u","labels":null,"ownerReferences":null,
            "x":[1]},"spec":null,"status":{"containerStatuses":null}},{"metadata":null}],"new":{}}"#;
        let picture = parse(json, "n").unwrap();
        assert_eq!(picture.pods, [PodMeta { uid: "u".into(), ..PodMeta::default() }]);
    }

    #[test]
    fn something_else_is_an_error_and_not_an_empty_node() {
        for body in [&b""[..], b"Unauthorized", b"[]", b"{}", b"{\"kind\":\"Status\"}", b"<html>"] {
            assert!(parse(body, "n").is_err(), "{:?}", String::from_utf8_lossy(body));
        }
        assert!(parse(&RECORDED[..RECORDED.len() / 2], "n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0..RECORDED.len(), noise in prop::collection::vec(any::<u8>(), 0..8)) {
            let mut body = RECORDED[..4096.min(RECORDED.len())].to_vec();
            let at = at % body.len();
            body.splice(at..at, noise);
            let _ = parse(&body, "n");
        }
    }
}
