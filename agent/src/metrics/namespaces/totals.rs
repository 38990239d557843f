//! Counters of each namespace: they start at 0 with the agent and add up the differences between samples, each pod's by
//! itself. So they do not fall when a pod ends, do not jump when the agent starts beside pods that have run for weeks, and
//! count a new pod from its first second.
//!
//! What was there in the first sample has run before: its first reading counts nothing, whenever that is. What cannot be
//! read goes on from where it was, for as long as its cgroup is there.
//!
//! Memory: some numbers for each pod, container and interface of the last sample, and for each namespace seen since the
//! start.

use std::collections::{BTreeMap, HashMap};
use std::ops::Sub;
use std::time::SystemTime;

use super::{entry, pods_of};
use crate::metrics::cgroup::Kind;
use crate::metrics::pod_network::{Interface, Traffic};
use crate::metrics::sampler::{Row, Sample};

/// What is kept between samples.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Whether a sample has been taken.
    pub(super) begun: bool,
    /// The instant of the last sample, which may be asked for twice.
    last: Option<SystemTime>,
    /// The pods that have a cgroup, by uid.
    pub(super) pods: HashMap<String, Pod>,
    pub(super) namespaces: BTreeMap<String, Used>,
}

/// A pod's last readings. `None`: it has run before counting began, and was not read yet.
#[derive(Debug)]
pub(super) struct Pod {
    cpu_seconds: Option<f64>,
    oom_kills: Option<u64>,
    /// Seconds throttled by cgroup of its containers.
    throttled: HashMap<String, Option<f64>>,
    /// Received and sent, by name. Not by the cgroup that it was read through: that may be another one in each sample.
    interfaces: Option<HashMap<String, (Traffic, Traffic)>>,
    /// What it used before its namespace was known.
    unnamed: Used,
}

/// Counters of cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) cpu_seconds: f64,
    pub(super) throttled_seconds: f64,
    pub(super) oom_kills: u64,
}

/// What was used since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    pub(super) counters: Counters,
    pub(super) receive: Traffic,
    pub(super) transmit: Traffic,
}

impl Totals {
    /// Adds what was used since the last sample.
    pub(super) fn advance(&mut self, sample: &Sample) {
        if self.last == Some(sample.at) {
            return;
        }
        self.last = Some(sample.at);
        let namespaces: HashMap<&str, &str> = sample
            .pods
            .iter()
            .map(|pod| (pod.metadata.uid.as_str(), pod.metadata.namespace.as_str()))
            .collect();
        let networks: HashMap<&str, &[Interface]> =
            sample.pod_networks.iter().map(|pod| (pod.uid.as_str(), pod.interfaces.as_slice())).collect();
        let mut before = std::mem::take(&mut self.pods);
        for (uid, rows) in pods_of(&sample.rows) {
            let mut pod = before.remove(uid).unwrap_or_else(|| Pod::new(self.begun));
            let namespace = namespaces.get(uid);
            let mut used = Used { counters: pod.read(&rows, self.begun), ..Used::default() };
            if let Some(interfaces) = networks.get(uid) {
                (used.receive, used.transmit) = pod.read_network(interfaces, namespace.is_some());
            }
            pod.unnamed.add(&used);
            if let Some(namespace) = namespace {
                entry(&mut self.namespaces, namespace).add(&std::mem::take(&mut pod.unnamed));
            }
            self.pods.insert(uid.to_owned(), pod);
        }
        self.begun = true;
    }
}

impl Pod {
    /// `new`: it was not there when counting began, so all that it has used counts.
    fn new(new: bool) -> Self {
        Self {
            cpu_seconds: new.then_some(0.0),
            oom_kills: new.then_some(0),
            throttled: HashMap::new(),
            interfaces: new.then(HashMap::new),
            unnamed: Used::default(),
        }
    }

    /// What its cgroups used since the last reading, each counter taken where it is whole: CPU and kills at the pod,
    /// which remembers the containers that are gone; throttling at the containers, which have the quotas.
    fn read(&mut self, rows: &[&Row], begun: bool) -> Counters {
        let mut used = Counters::default();
        let own = rows.iter().find(|row| matches!(row.cgroup.kind, Kind::Pod { .. }));
        if let Some(own) = own.map(|row| &row.cgroup) {
            used.cpu_seconds = step(&mut self.cpu_seconds, own.cpu.map(|cpu| cpu.usage_seconds));
            used.oom_kills = step(&mut self.oom_kills, own.memory.and_then(|memory| memory.oom_kills));
        }
        let mut before = std::mem::take(&mut self.throttled);
        for row in rows.iter().filter(|row| matches!(row.cgroup.kind, Kind::Container { .. })) {
            let mut last = before.remove(&row.cgroup.id).unwrap_or(begun.then_some(0.0));
            let now = row.cgroup.cpu.filter(|cpu| !cpu.no_periods).map(|cpu| cpu.throttled_seconds);
            used.throttled_seconds += step(&mut last, now);
            self.throttled.insert(row.cgroup.id.clone(), last);
        }
        used
    }

    /// What it received and sent since the last reading. Before the pod is known it is not counted, but at once when it
    /// is: until then it may be of the host's network, which cannot always be seen from outside.
    fn read_network(&mut self, interfaces: &[Interface], known: bool) -> (Traffic, Traffic) {
        let mut used = (Traffic::default(), Traffic::default());
        let now = interfaces.iter().map(|each| (each.name.clone(), (each.receive, each.transmit)));
        match &mut self.interfaces {
            Some(_) if !known => {}
            None => self.interfaces = Some(now.collect()),
            Some(last) => {
                let now: HashMap<_, _> = now.collect();
                for (name, now) in &now {
                    let before = last.get(name).copied().unwrap_or_default();
                    add_traffic(&mut used.0, &since_traffic(&now.0, &before.0));
                    add_traffic(&mut used.1, &since_traffic(&now.1, &before.1));
                }
                *last = now;
            }
        }
        used
    }
}

/// What a counter grew by, and its new last reading.
fn step<T: Copy + Default + PartialOrd + Sub<Output = T>>(last: &mut Option<T>, now: Option<T>) -> T {
    let Some(now) = now else { return T::default() };
    let before = last.replace(now).unwrap_or(now);
    since(now, before)
}

/// The difference; a counter that fell has started again.
fn since<T: Copy + PartialOrd + Sub<Output = T>>(now: T, before: T) -> T {
    if now >= before { now - before } else { now }
}

fn since_traffic(now: &Traffic, before: &Traffic) -> Traffic {
    Traffic {
        bytes: since(now.bytes, before.bytes),
        packets: since(now.packets, before.packets),
        errors: since(now.errors, before.errors),
        dropped: since(now.dropped, before.dropped),
    }
}

fn add_traffic(into: &mut Traffic, more: &Traffic) {
    into.bytes += more.bytes;
    into.packets += more.packets;
    into.errors += more.errors;
    into.dropped += more.dropped;
}

impl Used {
    fn add(&mut self, more: &Self) {
        self.counters.cpu_seconds += more.counters.cpu_seconds;
        self.counters.throttled_seconds += more.counters.throttled_seconds;
        self.counters.oom_kills += more.counters.oom_kills;
        add_traffic(&mut self.receive, &more.receive);
        add_traffic(&mut self.transmit, &more.transmit);
    }
}
