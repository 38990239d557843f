//! What one watch has told: messages in, pods out. Pure.

use std::collections::BTreeMap;

use sonde_wire::proto::{ProtoError, Reader, Value};

use crate::kubelet::pods::{MIRROR, is_foreign, kept, meta};
use crate::pods::PodMeta;
use crate::pods::proto::{self, PodError};
use crate::pods::v1::Pod;

/// More are no node's.
const MOST_PODS: usize = 4096;
/// And all together, as they came, as of the kubelet's `/pods`.
const ALL_BYTES: usize = 32 << 20;

/// Why a message is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is no event.
    #[error("an event is not understood: {0}")]
    Event(#[from] ProtoError),
    /// Its pod is none; the others are not concerned, and what was known of it stays.
    #[error("a pod is not understood: {0}")]
    Pod(PodError),
    /// More than 4,096 pods.
    #[error("there are more than {MOST_PODS} pods of one node")]
    Many,
    /// Of more than 32 MiB.
    #[error("the node's pods are over {} MiB", ALL_BYTES >> 20)]
    Large,
}

/// What an event was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing of use.
    Nothing,
    /// A pod is there, changed or gone.
    Change,
    /// All that there were have been told.
    Complete,
    /// A pod of this other node, passed over.
    Foreign(String),
}

/// `EventType` of k8s.io/kubelet's `pkg/apis/pods/v1alpha1/api.proto`.
mod kind {
    pub const ADDED: u64 = 1;
    pub const MODIFIED: u64 = 2;
    pub const DELETED: u64 = 3;
    pub const INITIAL_SYNC_COMPLETE: u64 = 4;
}

/// The pods of this node by uid, each with its length as it came.
pub struct Store {
    node: String,
    pods: BTreeMap<String, (Pod, usize)>,
    bytes: usize,
}

impl Store {
    /// Of a watch that begins; `node` is this node's name (empty = any).
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), pods: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a `WatchPodsEvent`.
    ///
    /// # Errors
    /// It is none. After [`StoreError::Pod`] the watch goes on, after another one it does not.
    pub fn event(&mut self, message: &[u8]) -> Result<Told, StoreError> {
        let (mut event, mut bytes) = (0, &[][..]);
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field {
                (1, Value::Varint(value)) => event = value,
                (2, Value::Len(value)) => bytes = value,
                _ => {}
            }
        }
        match event {
            kind::INITIAL_SYNC_COMPLETE => Ok(Told::Complete),
            kind::ADDED | kind::MODIFIED => {
                self.put(proto::pod(bytes).map_err(StoreError::Pod)?, bytes.len())
            }
            kind::DELETED => {
                let pod = proto::pod(bytes).map_err(StoreError::Pod)?;
                Ok(if self.remove(&pod.metadata.uid) { Told::Change } else { Told::Nothing })
            }
            // What there may be one day.
            _ => Ok(Told::Nothing),
        }
    }

    fn put(&mut self, pod: Pod, len: usize) -> Result<Told, StoreError> {
        let metadata = &pod.metadata;
        // Of a static pod the kubelet has its own; the mirror would be the same pod once more.
        if metadata.uid.is_empty() || metadata.annotations.contains_key(MIRROR) {
            return Ok(Told::Nothing);
        }
        if is_foreign(&pod, &self.node) {
            self.remove(&metadata.uid);
            return Ok(Told::Foreign(pod.spec.node_name));
        }
        self.remove(&metadata.uid);
        if self.pods.len() >= MOST_PODS {
            return Err(StoreError::Many);
        }
        if self.bytes + len > ALL_BYTES {
            return Err(StoreError::Large);
        }
        self.bytes += len;
        self.pods.insert(metadata.uid.clone(), (kept(pod), len));
        Ok(Told::Change)
    }

    fn remove(&mut self, uid: &str) -> bool {
        let removed = self.pods.remove(uid);
        self.bytes -= removed.as_ref().map_or(0, |(_, len)| *len);
        removed.is_some()
    }

    /// The pods as the index has them.
    pub fn metas(&self) -> impl Iterator<Item = PodMeta> {
        self.pods.values().map(|(pod, _)| meta(pod))
    }

    /// The pods in full.
    pub fn states(&self) -> Vec<Pod> {
        self.pods.values().map(|(pod, _)| pod.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
