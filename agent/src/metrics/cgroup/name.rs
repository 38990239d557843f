//! What a cgroup is, by its name: the kubelet's systemd and cgroupfs drivers, containerd, CRI-O and docker.

/// What a cgroup stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The node.
    Root,
    /// All pods, those of a QoS class, or a service of the system.
    Slice,
    /// A pod.
    Pod {
        /// Its uid as the kubelet has it.
        uid: String,
    },
    /// A container of a pod, or its sandbox.
    Container {
        /// Its pod's uid.
        uid: String,
        /// Its id, 64 hex digits.
        id: String,
    },
}

/// Whether this directory holds the pods: `kubepods`, `kubepods.slice`, or under another root
/// `kubelet-kubepods.slice` (kind).
pub(super) fn is_kubepods(name: &str) -> bool {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    stem == "kubepods" || stem.ends_with("-kubepods")
}

/// Whether this directory under the pods' is one of a QoS class.
pub(super) fn is_qos(name: &str) -> bool {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    ["burstable", "besteffort"]
        .iter()
        .any(|class| stem.strip_suffix(class).is_some_and(|rest| rest.is_empty() || rest.ends_with('-')))
}

/// The uid in a pod's directory: `pod<uid>`, or `kubepods-burstable-pod<uid>.slice` with `_` for `-`. A static pod's
/// uid has no dashes.
pub(super) fn pod_uid(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match stem.strip_prefix("pod") {
        Some(uid) => uid,
        None => stem.rsplit_once("-pod")?.1,
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (uid.len() >= 8 && uid.bytes().all(good)).then(|| uid.replace('_', "-"))
}

/// The container id in a directory of a pod: `<id>`, `cri-containerd-<id>.scope`, `crio-<id>.scope`,
/// `docker-<id>.scope`. Not of conmon, which watches a container, nor of mounts and what containers make themselves.
pub(super) fn container_id(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    if stem.starts_with("crio-conmon-") {
        return None;
    }
    let id = stem.rsplit_once('-').map_or(stem, |(_, id)| id);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The runtime that a container's directory is named after; empty where it is named by the container's id alone.
pub fn runtime(cgroup: &str) -> &str {
    let name = cgroup.rsplit_once('/').map_or(cgroup, |(_, name)| name);
    name.rsplit_once('-').map_or("", |(runtime, _)| runtime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pods_are_found_with_both_drivers_and_under_other_roots() {
        let uid = "468cc3f6-7653-4ecc-a246-4d25c6e2f35c";
        for name in [
            "kubepods-besteffort-pod468cc3f6_7653_4ecc_a246_4d25c6e2f35c.slice",
            "kubepods-pod468cc3f6_7653_4ecc_a246_4d25c6e2f35c.slice",
            "kubelet-kubepods-burstable-pod468cc3f6_7653_4ecc_a246_4d25c6e2f35c.slice",
            "pod468cc3f6-7653-4ecc-a246-4d25c6e2f35c",
        ] {
            assert_eq!(pod_uid(name).as_deref(), Some(uid), "{name}");
        }
        let fixed = "kubepods-burstable-podfc06af0816b5d23d3b29896dde65db18.slice";
        assert_eq!(pod_uid(fixed).as_deref(), Some("fc06af0816b5d23d3b29896dde65db18"));
        for name in ["kubepods.slice", "kubepods-burstable.slice", "pod", "pod/../..", "pods-x.slice"] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
        assert!(
            is_kubepods("kubepods") && is_kubepods("kubelet-kubepods.slice") && !is_kubepods("mykubepods")
        );
        assert!(
            is_qos("burstable") && is_qos("kubelet-kubepods-besteffort.slice") && !is_qos("kubepods.slice")
        );
    }

    #[test]
    fn containers_are_found_by_their_id_and_not_by_their_prefix() {
        let id = "4f".repeat(32);
        for name in ["cri-containerd-{}.scope", "crio-{}.scope", "crio-{}", "docker-{}.scope", "{}"] {
            assert_eq!(container_id(&name.replace("{}", &id)), Some(id.as_str()), "{name}");
        }
        for name in ["crio-conmon-{}.scope", "{}.mount", "x{}", "container", "init.scope", ""] {
            assert_eq!(container_id(&name.replace("{}", &id)), None, "{name}");
        }
    }

    #[test]
    fn a_runtime_is_known_by_the_prefix_of_its_directories() {
        for (id, want) in [
            ("/kubepods.slice/kubepods-pod1.slice/crio-4f4f.scope", "crio"),
            ("/kubepods/pod1/docker-4f4f.scope", "docker"),
            ("/kubepods/pod1/cri-containerd-4f4f.scope", "cri-containerd"),
            ("/kubepods/pod1/4f4f", ""),
        ] {
            assert_eq!(runtime(id), want, "{id}");
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".{0,100}") {
            let _ = (pod_uid(&name), container_id(&name), is_kubepods(&name), is_qos(&name), runtime(&name));
        }
    }
}
