//! What is known of the pods on this node: one writer (who `teller` says), many readers.

pub mod proto;
pub mod v1;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A pod as the log and metrics parts see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodMeta {
    /// The uid that log paths and cgroups carry: of a static pod, the kubelet's configuration hash.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations that Sonde reads (`sonde.io/*`, `resource.opentelemetry.io/*`).
    pub annotations: BTreeMap<String, String>,
    /// Workload chain, nearest first: for a Deployment's pod `[("ReplicaSet", "web-69b9"), ("Deployment", "web")]`.
    pub owners: Vec<Owner>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Containers of all kinds.
    pub containers: Vec<ContainerMeta>,
}

/// A workload that a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `Deployment`, `ReplicaSet`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMeta {
    /// Name in the pod's spec.
    pub name: String,
    /// Id without the runtime's scheme; empty when it never started.
    pub id: String,
    /// `status.restartCount`.
    pub restart_count: u32,
    /// Image as the spec names it.
    pub image: String,
}

/// Namespace and name of a persistent volume claim.
pub type Claim = (String, String);

/// Space and inodes of a volume's file system, as `kubelet_volume_stats_*` have them. Bytes and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Its size.
    pub capacity_bytes: u64,
    /// What may still be written by who is not root.
    pub available_bytes: u64,
    /// What is taken.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Of those free.
    pub inodes_free: u64,
    /// Of those taken.
    pub inodes_used: u64,
}

/// The pods of this node by uid. Cheap to clone; a lookup never waits for the network.
#[derive(Clone, Default)]
pub struct PodIndex {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pods: RwLock<HashMap<String, Arc<PodMeta>>>,
    states: RwLock<Arc<[v1::Pod]>>,
    version: AtomicU64,
    wanted: tokio::sync::Notify,
    volumes: RwLock<Arc<BTreeMap<Claim, VolumeStats>>>,
    volumes_wanted: AtomicBool,
}

impl PodIndex {
    /// The pod with this uid, if it is known.
    pub fn get(&self, uid: &str) -> Option<Arc<PodMeta>> {
        self.shared.pods.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Grows by one with each change; a reader that keeps what it derived compares it.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Asks the writer to look again soon, for a pod that is not known yet. Never waits.
    pub fn want(&self) {
        self.shared.wanted.notify_one();
    }

    /// Returns when somebody asked with [`PodIndex::want`].
    pub async fn wanted(&self) {
        self.shared.wanted.notified().await;
    }

    /// Puts a new picture in place of the old one. Pods that did not change stay the same allocation, and when none
    /// did the version stays.
    pub fn replace(&self, pods: impl IntoIterator<Item = PodMeta>) {
        let mut current = self.shared.pods.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        let mut new = HashMap::with_capacity(current.len());
        for pod in pods {
            let same = current.get(&pod.uid).filter(|old| ***old == pod).cloned();
            changed |= same.is_none();
            new.insert(pod.uid.clone(), same.unwrap_or_else(|| Arc::new(pod)));
        }
        changed |= new.len() != current.len();
        *current = new;
        drop(current);
        if changed {
            self.shared.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The last picture in full, for the metrics of pods. Their conditions move without moving the version.
    pub fn states(&self) -> Arc<[v1::Pod]> {
        Arc::clone(&self.shared.states.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a new picture in place of the old one.
    pub fn replace_states(&self, pods: Vec<v1::Pod>) {
        *self.shared.states.write().unwrap_or_else(PoisonError::into_inner) = pods.into();
    }

    /// What the writer was told of volumes; asks it to go on telling. Empty until it has.
    pub fn volumes(&self) -> Arc<BTreeMap<Claim, VolumeStats>> {
        self.shared.volumes_wanted.store(true, Ordering::Relaxed);
        Arc::clone(&self.shared.volumes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anybody has asked for volumes since the last time.
    pub fn volumes_wanted(&self) -> bool {
        self.shared.volumes_wanted.swap(false, Ordering::Relaxed)
    }

    /// Puts a new picture of the volumes in place of the old one.
    pub fn replace_volumes(&self, volumes: BTreeMap<Claim, VolumeStats>) {
        *self.shared.volumes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(volumes);
    }

    /// Pods that are known.
    pub fn len(&self) -> usize {
        self.shared.pods.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, name: &str) -> PodMeta {
        PodMeta { uid: uid.into(), name: name.into(), ..PodMeta::default() }
    }

    #[test]
    fn the_version_moves_only_when_something_changed() {
        let index = PodIndex::default();
        index.replace([pod("a", "1"), pod("b", "2")]);
        let (version, a) = (index.version(), index.get("a").unwrap());
        index.replace([pod("b", "2"), pod("a", "1")]);
        assert_eq!(index.version(), version);
        assert!(Arc::ptr_eq(&a, &index.get("a").unwrap()));
        for (pods, left) in
            [(vec![pod("a", "1"), pod("b", "3")], 2), (vec![pod("a", "1")], 1), (vec![pod("c", "1")], 1)]
        {
            let before = index.version();
            index.replace(pods);
            assert_eq!((index.version(), index.len()), (before + 1, left));
        }
    }
}
