//! What the API server has told, and where to go on: bytes in, pods out.

use std::collections::BTreeMap;
use std::fmt::Write;

use http::StatusCode;
use serde::Deserialize;

use crate::kubelet::client::ClientError;
use crate::kubelet::pods::{self, PodsError};
use crate::pods::PodMeta;
use crate::pods::v1::Pod;

/// More are no node's.
const MOST_PODS: usize = 4096;

/// Why what came is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No list.
    #[error("{0}")]
    List(#[from] PodsError),
    /// No event.
    #[error("an event is not understood: {0}")]
    Event(#[from] serde_json::Error),
    /// The server's word in a watch.
    #[error("the watch ended with {code}: {message}")]
    Status {
        /// As HTTP has them.
        code: u16,
        /// Its reason.
        message: String,
    },
    /// A line of more than 4 MiB.
    #[error("an event is over 4 MiB")]
    Long,
    /// More than 4,096 pods.
    #[error("there are more than {MOST_PODS} pods of one node")]
    Many,
    /// A list without a version: nothing to go on from.
    #[error("a list has no resourceVersion")]
    Version,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A list that is not older than the version that is known, from the server's cache.
    List,
    /// The newest list: the server has forgotten that version, or does not have it yet.
    Newest,
    /// A watch from that version.
    Watch,
}

/// The pods of one node, by the uid that the API server has them by.
#[derive(Debug)]
pub struct Store {
    node: String,
    pods: BTreeMap<String, Pod>,
    version: String,
    next: Next,
}

/// What is in `object` depends on the type: it is read behind it.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct PodEvent {
    object: Pod,
}

#[derive(Deserialize)]
struct StatusEvent {
    object: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

impl Store {
    /// Nothing is known of the node's pods yet.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), pods: BTreeMap::new(), version: String::new(), next: Next::List }
    }

    /// Forgets the pods, but not the version: the next list is not older than what was known.
    pub fn begin_anew(&mut self) {
        self.pods.clear();
        if self.next == Next::Watch {
            self.next = Next::List;
        }
    }

    /// Whether there is a list to watch from.
    pub fn is_listed(&self) -> bool {
        self.next == Next::Watch
    }

    /// What to ask for a list.
    pub fn list_path(&self) -> String {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", encoded(&self.node));
        match self.next {
            Next::Newest => path,
            // 0: whatever the server's cache has.
            Next::List | Next::Watch if self.version.is_empty() => format!("{path}&resourceVersion=0"),
            Next::List | Next::Watch => format!("{path}&resourceVersion={}", encoded(&self.version)),
        }
    }

    /// What to ask for a watch that ends after so many seconds.
    pub fn watch_path(&self, seconds: u64) -> String {
        format!(
            "/api/v1/pods?fieldSelector=spec.nodeName%3D{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            encoded(&self.node),
            encoded(&self.version)
        )
    }

    /// Looks at how a request was answered: a version that the server has forgotten, or does not have yet, is not asked for
    /// again.
    pub fn on_status<T>(&mut self, answer: &Result<T, ClientError>) {
        let Err(ClientError::Status(status, _)) = answer else { return };
        // 504 is "too large resource version" where a list is asked for, else a gateway's word.
        let is_list = self.next == Next::List;
        if *status == StatusCode::GONE || (is_list && *status == StatusCode::GATEWAY_TIMEOUT) {
            self.next = Next::Newest;
        }
    }

    /// Takes a list in the place of all.
    ///
    /// # Errors
    /// It is none, or of more pods than a node has; what is known stays.
    pub fn list(&mut self, json: &[u8]) -> Result<(), StoreError> {
        let list = pods::list(json)?;
        if list.items.len() > MOST_PODS {
            return Err(StoreError::Many);
        }
        if list.metadata.resource_version.is_empty() {
            return Err(StoreError::Version);
        }
        self.pods.clear();
        for pod in list.items {
            self.put(pod);
        }
        self.version = list.metadata.resource_version;
        self.next = Next::Watch;
        Ok(())
    }

    /// Takes an event; whether a pod changed.
    ///
    /// # Errors
    /// It is none, or the server's last word. After one that is not understood the list is made again: what it said is missing.
    pub fn event(&mut self, line: &[u8]) -> Result<bool, StoreError> {
        let taken = self.take(line);
        if taken.is_err() {
            let is_gone = matches!(taken, Err(StoreError::Status { code: 410 | 504, .. }));
            self.next = if is_gone { Next::Newest } else { Next::List };
        }
        taken
    }

    fn take(&mut self, line: &[u8]) -> Result<bool, StoreError> {
        let kind: Kind = serde_json::from_slice(line)?;
        if kind.kind == "ERROR" {
            let Status { code, message } = serde_json::from_slice::<StatusEvent>(line)?.object;
            return Err(StoreError::Status { code, message: message.chars().take(300).collect() });
        }
        let pod = serde_json::from_slice::<PodEvent>(line)?.object;
        let version = pod.metadata.resource_version.clone();
        let changed = match kind.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                if self.pods.len() >= MOST_PODS && !self.pods.contains_key(&pod.metadata.uid) {
                    return Err(StoreError::Many);
                }
                self.put(pod)
            }
            "DELETED" => self.pods.remove(&pod.metadata.uid).is_some(),
            // BOOKMARK, and what there may be one day.
            _ => false,
        };
        if !version.is_empty() {
            self.version = version;
        }
        Ok(changed)
    }

    fn put(&mut self, pod: Pod) -> bool {
        let uid = pod.metadata.uid.clone();
        if uid.is_empty() || pod.spec.node_name != self.node {
            return self.pods.remove(&uid).is_some();
        }
        self.pods.insert(uid, pods::kept(pod));
        true
    }

    /// The pods as the index has them.
    pub fn metas(&self) -> impl Iterator<Item = PodMeta> {
        self.pods.values().map(pods::meta)
    }

    /// The pods in full.
    pub fn states(&self) -> Vec<Pod> {
        self.pods.values().cloned().collect()
    }
}

/// A value of a query: all but what needs no care as `%XX`.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests;
