//! Who is behind an address: the pods of this node by their IPs.
//!
//! - An address is a pod's while the pod lives: one that has ended keeps its address in the kubelet's picture, and another
//!   may have it by then. Of several the newest counts.
//! - Pods in the host's network have the node's address, which says nothing of them. So does whatever a network in between
//!   made of an address.
//! - What is told is up to `kubelet.interval` old. A request from an address that is not known yet waits up to
//!   [`WAIT`] for a new picture, before its body is read, and each address once in [`WAIT_AGAIN`].

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::attributes::Sender;
use crate::logs::resource::Node;
use crate::pods::PodIndex;
use crate::pods::v1;

/// The longest that a request waits for its pod to be known.
const WAIT: Duration = Duration::from_secs(1);
/// Between two looks at the picture while one waits.
const LOOK: Duration = Duration::from_millis(50);
/// An address that nobody knew is not waited for again.
const WAIT_AGAIN: Duration = Duration::from_secs(60);
/// Addresses that are remembered for that; with more of them at once nobody waits.
const STRANGERS: usize = 64;

/// The pods of this node as senders.
pub(super) struct Senders {
    node: Node,
    pods: PodIndex,
    has_teller: bool,
    unknown: Arc<Sender>,
    known: Mutex<Known>,
    strangers: Mutex<VecDeque<(IpAddr, Instant)>>,
}

/// What was made of one picture.
#[derive(Default)]
struct Known {
    picture: Arc<[v1::Pod]>,
    version: u64,
    by_address: HashMap<IpAddr, Place>,
    /// Made when they are asked for.
    senders: HashMap<IpAddr, Arc<Sender>>,
}

/// Who has an address.
#[derive(Clone, Copy)]
enum Place {
    /// The pod at this place in the picture.
    Pod(usize),
    /// The host.
    Host,
}

impl Senders {
    /// Of the pods in `pods`. `has_teller` = a picture that lacks an address may come to have it.
    pub fn new(node: Node, pods: PodIndex, has_teller: bool) -> Self {
        let unknown = Arc::new(Sender::of_node(&node));
        Self { node, pods, has_teller, unknown, known: Mutex::default(), strangers: Mutex::default() }
    }

    /// Who is behind `address` now.
    pub fn find(&self, address: Option<IpAddr>) -> Arc<Sender> {
        let Some(address) = address else { return Arc::clone(&self.unknown) };
        let mut known = self.current();
        let Some(Place::Pod(at)) = known.by_address.get(&address).copied() else {
            return Arc::clone(&self.unknown);
        };
        if let Some(sender) = known.senders.get(&address) {
            return Arc::clone(sender);
        }
        let Some(pod) = known.picture.get(at) else { return Arc::clone(&self.unknown) };
        let Some(meta) = self.pods.get(&pod.metadata.uid) else { return Arc::clone(&self.unknown) };
        let sender = Arc::new(Sender::of_pod(&self.node, &meta, &running(pod)));
        known.senders.insert(address, Arc::clone(&sender));
        sender
    }

    /// Returns when `address` is known, or was waited for.
    pub async fn settle(&self, address: IpAddr) {
        if !self.has_teller || address.is_loopback() || self.is_known(address) || !self.may_wait(address) {
            return;
        }
        self.pods.want();
        let until = Instant::now() + WAIT;
        while Instant::now() < until && !self.is_known(address) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_known(&self, address: IpAddr) -> bool {
        self.current().by_address.contains_key(&address)
    }

    /// Whether nobody waited for `address` of late.
    fn may_wait(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        while strangers.front().is_some_and(|(_, at)| now.duration_since(*at) >= WAIT_AGAIN) {
            strangers.pop_front();
        }
        if strangers.len() >= STRANGERS || strangers.iter().any(|(other, _)| *other == address) {
            return false;
        }
        strangers.push_back((address, now));
        true
    }

    /// What is made of the newest picture.
    fn current(&self) -> MutexGuard<'_, Known> {
        let (picture, version) = (self.pods.states(), self.pods.version());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.picture, &picture) || known.version != version {
            let by_address = by_address(&picture);
            *known = Known { picture, version, by_address, senders: HashMap::new() };
        }
        known
    }
}

/// Who has which address. Of two pods that live the one that was made later; the host's address is nobody's.
fn by_address(pods: &[v1::Pod]) -> HashMap<IpAddr, Place> {
    let mut all = HashMap::new();
    let lives = |pod: &v1::Pod| !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    for (at, pod) in pods.iter().enumerate().filter(|(_, pod)| !pod.spec.host_network && lives(pod)) {
        for address in addresses(pod) {
            // RFC 3339 in UTC without fractions (metav1.Time): as text in the order of time.
            let newer = |other: &v1::Pod| other.metadata.creation_timestamp < pod.metadata.creation_timestamp;
            let other = match all.get(&address) {
                Some(Place::Pod(other)) => pods.get(*other),
                _ => None,
            };
            if other.is_none_or(newer) {
                all.insert(address, Place::Pod(at));
            }
        }
    }
    for pod in pods {
        let own = if pod.spec.host_network { addresses(pod) } else { Vec::new() };
        for address in own.into_iter().chain(pod.status.host_ip.parse().ok()) {
            all.insert(address, Place::Host);
        }
    }
    all
}

fn addresses(pod: &v1::Pod) -> Vec<IpAddr> {
    let status = &pod.status;
    let all = status.pod_ips.iter().map(|ip| &ip.ip).chain([&status.pod_ip]);
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// Containers that may send while the pod runs: its own, and the sidecars among those that are started before them.
fn running(pod: &v1::Pod) -> Vec<&str> {
    let sidecars = pod.spec.init_containers.iter().filter(|each| each.restart_policy == "Always");
    pod.spec.containers.iter().chain(sidecars).map(|each| each.name.as_str()).collect()
}

#[cfg(test)]
mod tests;
