//! The attributes that a sender's resources get, encoded once for each container.

use std::collections::BTreeMap;

use sonde_wire::attrs::{AttrSet, AttrSetBuilder, keys};
use sonde_wire::enrich::Said;

use crate::logs::resource::{self, Node};
use crate::pods::PodMeta;

/// Who sent a request, as far as its address tells.
#[derive(Debug)]
pub(super) enum Sender {
    /// A pod.
    Pod(Box<Pod>),
    /// Somebody on this node, or behind an address that hides who it is.
    Node(AttrSet),
}

/// A pod that sends.
#[derive(Debug)]
pub(super) struct Pod {
    namespace: String,
    name: String,
    uid: String,
    /// For a resource that names no container, or none that the pod has.
    any: AttrSet,
    /// For one that names this container.
    containers: BTreeMap<String, AttrSet>,
}

impl Sender {
    /// One that no pod is known of.
    pub fn of_node(node: &Node) -> Self {
        Self::Node(about(node).build())
    }

    /// A pod. `running` are its containers without those that have ended before the others began.
    pub fn of_pod(node: &Node, pod: &PodMeta, running: &[&str]) -> Self {
        let set = |named: Option<&str>| {
            let mut set = about(node)
                .str(keys::NAMESPACE_NAME, &pod.namespace)
                .str(keys::POD_NAME, &pod.name)
                .str(keys::POD_UID, &pod.uid);
            if let Some(name) = named {
                set = set.str(keys::CONTAINER_NAME, name);
            }
            resource::workload(set, node, pod, named).build()
        };
        let only = match running {
            [only] => Some(*only),
            _ => None,
        };
        let containers = running.iter().map(|name| ((*name).to_owned(), set(Some(name)))).collect();
        Self::Pod(Box::new(Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            any: set(only),
            containers,
        }))
    }

    /// What a resource that says this of itself gets. One that names another pod gets nothing: it is not the sender's, or not
    /// honest, and of two pods' attributes no picture comes that is true of one.
    pub fn attributes(&self, said: Said<'_>) -> AttrSet {
        match self {
            Self::Node(set) => set.clone(),
            Self::Pod(pod) => {
                let own = [
                    (keys::POD_UID, &pod.uid),
                    (keys::POD_NAME, &pod.name),
                    (keys::NAMESPACE_NAME, &pod.namespace),
                ];
                if own.iter().any(|(key, own)| said.text(key).is_some_and(|other| other != own.as_str())) {
                    return AttrSet::default();
                }
                // A container that is named and is none of the pod's is left alone with its name.
                match said.text(keys::CONTAINER_NAME) {
                    Some(named) => pod.containers.get(named).unwrap_or(&pod.any).clone(),
                    None => pod.any.clone(),
                }
            }
        }
    }

    /// The label `sender`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "pod",
            Self::Node(_) => "node",
        }
    }
}

fn about(node: &Node) -> AttrSetBuilder {
    let mut set = AttrSet::builder();
    if !node.cluster.is_empty() {
        set = set.str(keys::CLUSTER_NAME, &node.cluster);
    }
    set.str(keys::NODE_NAME, &node.name)
}
