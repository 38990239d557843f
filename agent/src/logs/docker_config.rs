//! What Docker's `config.v2.json` says of a container: whose it is (moby, `container/container.go`; the labels are those that
//! the kubelet's Docker runtimes set: kubernetes `pkg/kubelet/dockershim/naming.go`, cri-dockerd).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::pod_path::{self, PodDir};

/// Most bytes of the file that are read: some ten KiB are usual.
pub const LIMIT: usize = 1 << 20;

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Pod.
    pub pod: PodDir,
    /// Container; of a pod's sandbox, `POD`.
    pub container: String,
    /// Restart count.
    pub restart: u32,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default, rename = "Name")]
    name: String,
    #[serde(default, rename = "Config")]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default, rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Reads the file; none if it is not whole, or says of no pod.
pub fn owner(bytes: &[u8]) -> Option<Owner> {
    let container: Container = serde_json::from_slice(bytes).ok()?;
    let labels = container.config?.labels?;
    let label = |key: &str| labels.get(&format!("io.kubernetes.{key}")).map(String::as_str);
    let (namespace, name, uid) = (label("pod.namespace")?, label("pod.name")?, label("pod.uid")?);
    // By the pod path's rules: what is no name there is none here.
    let pod = pod_path::pod_dir(&format!("{namespace}_{name}_{uid}"))?;
    let of_container = label("container.name").filter(|name| pod_path::is_container(name))?;
    let is_whole = pod.namespace == namespace && pod.pod == name && pod.uid == uid;
    let restart = labels
        .get("annotation.io.kubernetes.container.restartCount")
        .or_else(|| labels.get("io.kubernetes.container.restartCount"))
        .map(String::as_str)
        // `/k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`
        .or_else(|| container.name.strip_prefix("/k8s_")?.rsplit('_').next())
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    is_whole.then(|| Owner { pod, container: of_container.to_owned(), restart })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(labels: &str) -> Option<Owner> {
        owner(format!(r#"{{"ID":"ab","Name":"/k8s_app_web_shop_u1_4","Config":{{"Hostname":"h","Labels":{labels}}},"State":{{}}}}"#).as_bytes())
    }

    #[test]
    fn the_labels_say_whose_container_it_is() {
        let labels = |more: &str| {
            format!(
                r#"{{"io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.name":"web","io.kubernetes.pod.uid":"u1","io.kubernetes.container.name":"app"{more}}}"#
            )
        };
        let owner = config(&labels(r#","annotation.io.kubernetes.container.restartCount":"3""#)).unwrap();
        assert_eq!((owner.pod.namespace.as_str(), owner.pod.pod.as_str()), ("shop", "web"));
        assert_eq!((owner.pod.uid.as_str(), owner.container.as_str(), owner.restart), ("u1", "app", 3));
        // Without the annotation, by the attempt in the container's name.
        assert_eq!(config(&labels("")).unwrap().restart, 4);
    }

    #[test]
    fn without_all_of_them_or_with_names_that_are_none_there_is_no_pod() {
        for labels in [
            "null",
            "{}",
            r#"{"io.kubernetes.pod.name":"web"}"#,
            r#"{"io.kubernetes.pod.namespace":"a_b","io.kubernetes.pod.name":"c","io.kubernetes.pod.uid":"d","io.kubernetes.container.name":"e"}"#,
            r#"{"io.kubernetes.pod.namespace":"../x","io.kubernetes.pod.name":"c","io.kubernetes.pod.uid":"d","io.kubernetes.container.name":"e"}"#,
            r#"{"io.kubernetes.pod.namespace":"a","io.kubernetes.pod.name":"c","io.kubernetes.pod.uid":"d","io.kubernetes.container.name":"e/f"}"#,
        ] {
            assert_eq!(config(labels), None, "{labels}");
        }
        assert_eq!(owner(b"{\"Config\":{\"Lab"), None);
        assert_eq!(owner(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = owner(&bytes);
        }
    }
}
