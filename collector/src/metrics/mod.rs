//! What agents push: the newest sample of every node, and an hour of history for the page and the API.
//!
//! Nothing of it is durable: an agent pushes again within seconds, and the page says how old each sample is. Time is
//! this collector's own, so that a node whose clock is wrong is not shown as stale; rates are made of differences of
//! the node's clock.
//!
//! # Memory
//! At most ([`Limits`]): 131,072 histories of 720 bytes (94 MB), 50,000 pods of about 1 KB with their containers'
//! facts (50 MB), 2,000 namespaces of 5.8 KB (12 MB) and 250 bytes for each node that tells of one. A thousand pods
//! of two containers have 10,000 histories: 7.2 MB, and 1 MB of facts (measured: 5,000 pods with four histories each,
//! 27 MB). What does not fit has no history, or is left
//! out, and counts in `sonde_collector_metrics_refused_total`.
//!
//! Pods, containers and nodes are forgotten when they have been gone for an hour.

mod budget;
mod namespace;
mod node;
mod rate;
pub mod ring;
pub mod sample;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{self, Sink, Source};
use sonde_wire::view::MetricsRequest;

pub use budget::Limits;
pub use namespace::{Namespace, Sum};
pub use node::{Container, Graphs, Node, NodeFacts, Pod, PodName, Use};

use budget::Budget;
use ring::slot_of;
use sample::Samples;

/// How long what is gone is kept, seconds.
pub const KEPT: u64 = 3600;
/// A sample is stale when it is older than this many of its node's intervals, and this many seconds.
const STALE_INTERVALS: u64 = 3;
const STALE: u64 = 30;

/// A cluster, and a node or a namespace of it.
pub type Key = (Box<str>, Box<str>);

/// The newest of everything. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<State>>);

/// What is kept, to be looked at.
#[derive(Debug)]
pub struct State {
    nodes: BTreeMap<Key, Node>,
    namespaces: BTreeMap<Key, Namespace>,
    budget: Budget,
    swept: u64,
    points: u64,
    others: u64,
    samples: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Points that were used.
    pub taken: u64,
    /// Points of others than our agents, which are not kept here.
    pub rejected: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Metrics {
    /// Nothing is known.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            budget: Budget::new(limits),
            swept: 0,
            points: 0,
            others: 0,
            samples: 0,
        })))
    }

    /// Takes a request that was checked; `now` is the time in Unix seconds.
    pub fn take(&self, request: MetricsRequest<'_>, now: u64) -> Taken {
        let samples = sample::read(request);
        self.lock().take(&samples, now)
    }

    /// Counts points of others that nobody takes: neither this, nor a sink.
    pub fn rejected(&self, points: u64) {
        if points > 0 {
            self.lock().others += points;
        }
    }

    /// Looks at what is kept. Senders wait meanwhile, so be short.
    pub fn look<T>(&self, with: impl FnOnce(&State) -> T) -> T {
        with(&self.lock())
    }

    /// Its numbers, for `/metrics`.
    pub fn source(&self) -> Box<dyn Source> {
        let metrics = self.clone();
        page::source("metrics", move |out| {
            metrics.lock().show(out);
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nodes by cluster and name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Key, &Node)> {
        self.nodes.iter()
    }

    /// Namespaces by cluster and name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Key, &Namespace)> {
        self.namespaces.iter()
    }

    /// A namespace now: the sum over nodes that are not stale.
    pub fn sum(&self, cluster: &str, namespace: &Namespace, now: u64) -> Sum {
        let mut key: Key = (cluster.into(), Box::default());
        namespace.sum(|node| {
            key.1 = node.into();
            self.nodes.get(&key).is_some_and(|node| !node.is_stale(now))
        })
    }

    fn take(&mut self, samples: &Samples<'_>, now: u64) -> Taken {
        self.points += samples.taken;
        let slot = slot_of(now);
        for ((cluster, name), sample) in &samples.nodes {
            self.samples += 1;
            let key = (node::cut(cluster), node::cut(name));
            if !self.nodes.contains_key(&key) && self.nodes.len() >= self.budget.limits().nodes {
                self.budget.refused += 1;
                continue;
            }
            for (namespace, part) in &sample.namespaces {
                let key = (node::cut(cluster), node::cut(namespace));
                if !self.namespaces.contains_key(&key)
                    && self.namespaces.len() >= self.budget.limits().namespaces
                {
                    self.budget.refused += 1;
                    continue;
                }
                self.namespaces.entry(key).or_default().update(name, part, now, slot);
            }
            self.nodes.entry(key).or_default().update(sample, now, slot, &mut self.budget);
        }
        self.sweep(now);
        Taken { taken: samples.taken, rejected: samples.others }
    }

    /// Forgets what has been gone for an hour; once a minute.
    fn sweep(&mut self, now: u64) {
        if now.saturating_sub(self.swept) < 60 {
            return;
        }
        self.swept = now;
        let before = now.saturating_sub(KEPT);
        let budget = &mut self.budget;
        self.nodes.retain(|_, node| {
            node.forget(before, budget);
            let keep = node.heard >= before;
            if !keep {
                node.release(budget);
            }
            keep
        });
        self.namespaces.retain(|_, namespace| namespace.forget(before));
    }

    fn show(&self, out: &mut Sink) {
        let help = "Samples of nodes that were taken.";
        out.counter("sonde_collector_metrics_samples_total", help).row([], self.samples);
        let help = "Data points that came: of our agents, and of others that no sink takes.";
        let mut rows = out.counter("sonde_collector_metrics_points_total", help);
        rows.row([("outcome", "taken")], self.points).row([("outcome", "rejected")], self.others);
        let help = "Values without a history, and things left out, for want of room.";
        out.counter("sonde_collector_metrics_refused_total", help).row([], self.budget.refused);
        let help = "What is kept of nodes, pods and namespaces, in things.";
        let mut rows = out.gauge("sonde_collector_metrics_kept", help);
        for (kind, count) in [
            ("node", self.nodes.len()),
            ("namespace", self.namespaces.len()),
            ("pod", self.budget.pods()),
            ("history", self.budget.rings()),
        ] {
            rows.row([("kind", kind)], count);
        }
    }
}

impl Node {
    /// Whether its newest sample is too old to tell of now.
    pub fn is_stale(&self, now: u64) -> bool {
        now.saturating_sub(self.heard) > STALE.max(self.interval.saturating_mul(STALE_INTERVALS)).min(KEPT)
    }

    /// Whether a pod was in its newest sample.
    pub fn has(&self, pod: &Pod) -> bool {
        pod.seen == self.heard
    }
}

/// Seconds since the epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
