//! What is kept of a node and of its pods: the newest sample, the counters that rates need, an hour of history.

use std::collections::HashMap;

use super::budget::Budget;
use super::rate::Counter;
use super::ring::{Ring, Slot};
use super::sample::{ContainerSample, NodeSample, PodSample};

/// An hour of what moves.
#[derive(Debug, Default)]
pub struct Graphs {
    /// Cores.
    pub cpu: Ring,
    /// Bytes.
    pub memory: Ring,
    /// Bytes a second.
    pub receive: Ring,
    /// Bytes a second.
    pub transmit: Ring,
}

/// What moves, now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Cores.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<f64>,
    /// Bytes a second.
    pub receive: Option<f64>,
    /// Bytes a second.
    pub transmit: Option<f64>,
}

/// Counters behind [`Use`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    cpu: Counter,
    receive: Counter,
    transmit: Counter,
}

/// A node.
#[derive(Debug, Default)]
pub struct Node {
    /// When its newest sample came, Unix seconds by our clock.
    pub heard: u64,
    /// Time between its last two samples, seconds; 0 = there was one.
    pub interval: u64,
    /// What it uses.
    pub now: Use,
    /// What does not move, as it was told last.
    pub facts: NodeFacts,
    /// Its history.
    pub graphs: Graphs,
    /// Its pods, and those that have been gone for less than an hour.
    pub pods: HashMap<PodName, Pod>,
    counters: Counters,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// CPUs.
    pub cpus: u32,
    /// Memory of the machine, bytes.
    pub memory: Option<f64>,
    /// Load of a minute.
    pub load1: Option<f64>,
    /// Size of the root file system, bytes.
    pub filesystem: Option<f64>,
    /// What of it is in use, bytes.
    pub filesystem_used: Option<f64>,
    /// Boot, Unix seconds.
    pub boot_time: Option<f64>,
    /// Kernel release.
    pub kernel: Box<str>,
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub pod: Box<str>,
}

/// A pod.
#[derive(Debug, Default)]
pub struct Pod {
    /// When a sample last had it, Unix seconds by our clock.
    pub seen: u64,
    /// Uid, empty where it is not known.
    pub uid: Box<str>,
    /// What `kubectl` calls its status.
    pub state: Box<str>,
    /// Whether it is ready, where it is known.
    pub ready: Option<bool>,
    /// Start, Unix seconds.
    pub start_time: Option<f64>,
    /// Kind and name of what made it.
    pub owner: (Box<str>, Box<str>),
    /// Restarts of all its containers.
    pub restarts: f64,
    /// What it uses.
    pub now: Use,
    /// CPU limit where every container has one, cores.
    pub cpu_limit: Option<f64>,
    /// Memory limit where every container has one, bytes.
    pub memory_limit: Option<f64>,
    /// Its history.
    pub graphs: Graphs,
    /// History of its restarts.
    pub restarts_graph: Ring,
    /// History of its readiness: 1, 0.
    pub ready_graph: Ring,
    /// Its containers.
    pub containers: HashMap<Box<str>, Container>,
    counters: Counters,
}

/// A container.
#[derive(Debug, Default)]
pub struct Container {
    /// When a sample last had it, Unix seconds by our clock.
    pub seen: u64,
    /// Restarts.
    pub restarts: f64,
    /// Whether it is ready, where it is known.
    pub ready: Option<bool>,
    /// Why it waits or has ended; empty while it runs.
    pub reason: Box<str>,
    /// Why it ended the last time.
    pub last_reason: Box<str>,
    /// What it uses; no network, that is the pod's.
    pub now: Use,
    /// History of CPU, cores.
    pub cpu: Ring,
    /// History of memory, bytes.
    pub memory: Ring,
    counter: Counter,
}

/// Most containers of a pod.
const MOST_CONTAINERS: usize = 64;
/// Longest text that is kept; Kubernetes' names have 253 bytes at most.
const LONGEST: usize = 253;

impl Node {
    /// Takes the newest sample; `now` is our clock in Unix seconds.
    pub fn update(&mut self, sample: &NodeSample<'_>, now: u64, slot: Slot, budget: &mut Budget) {
        if self.heard > 0 {
            self.interval = now.saturating_sub(self.heard).max(1);
        }
        self.heard = now;
        let memory = match (sample.memory_bytes, sample.memory_available_bytes) {
            (Some(all), Some(available)) => Some(all - available),
            _ => None,
        };
        let counted = [sample.cpu_seconds, sample.receive_bytes, sample.transmit_bytes];
        self.now = self.counters.using(sample.time, counted, memory);
        let root = sample.filesystem_bytes;
        self.facts = NodeFacts {
            cpus: sample.cpus,
            memory: sample.memory_bytes,
            load1: sample.load1,
            filesystem: root,
            filesystem_used: root.zip(sample.filesystem_available_bytes).map(|(all, free)| all - free),
            boot_time: sample.boot_time,
            kernel: cut(sample.kernel),
        };
        self.graphs.put(slot, &self.now, budget);
        for ((namespace, name), pod) in &sample.pods {
            let name = PodName { namespace: cut(namespace), pod: cut(name) };
            let kept = match self.pods.get_mut(&name) {
                Some(kept) => kept,
                None if budget.pod() => self.pods.entry(name).or_default(),
                None => continue,
            };
            kept.update(pod, now, slot, budget);
        }
    }

    /// Forgets pods and containers that have been gone for an hour.
    pub fn forget(&mut self, before: u64, budget: &mut Budget) {
        self.pods.retain(|_, pod| {
            let keep = pod.seen >= before;
            if !keep {
                pod.release(budget);
            } else {
                pod.containers.retain(|_, container| {
                    let keep = container.seen >= before;
                    if !keep {
                        container.release(budget);
                    }
                    keep
                });
            }
            keep
        });
    }

    /// Gives back what it holds of the budget.
    pub fn release(&self, budget: &mut Budget) {
        self.graphs.release(budget);
        self.pods.values().for_each(|pod| pod.release(budget));
    }
}

impl Pod {
    fn update(&mut self, sample: &PodSample<'_>, now: u64, slot: Slot, budget: &mut Budget) {
        if &*self.uid != sample.uid && !sample.uid.is_empty() {
            // Another pod of the same name: its counters begin anew.
            self.counters = Counters::default();
            self.uid = cut(sample.uid);
        }
        self.seen = now;
        self.state = cut(&state_of(sample));
        self.ready = sample.ready;
        self.start_time = sample.start_time;
        self.owner = (cut(sample.owner.0), cut(sample.owner.1));
        let sum = |of: fn(&ContainerSample<'_>) -> Option<f64>| {
            let known: Vec<f64> = sample.containers.values().filter_map(of).collect();
            (!known.is_empty()).then(|| known.iter().sum())
        };
        self.restarts =
            sample.init_restarts + sample.containers.values().map(|one| one.restarts).sum::<f64>();
        let whole = |of: fn(&ContainerSample<'_>) -> Option<f64>| {
            sample.containers.values().map(of).sum::<Option<f64>>().filter(|limit| *limit > 0.0)
        };
        self.cpu_limit = whole(|container| container.cpu_limit);
        self.memory_limit = whole(|container| container.memory_limit);
        // The pod's own cgroup also has what its ended containers used.
        let cpu = sample.cpu_seconds.or_else(|| sum(|container| container.cpu_seconds));
        let memory = sample.memory_bytes.or_else(|| sum(|container| container.memory_bytes));
        self.now =
            self.counters.using(sample.time, [cpu, sample.receive_bytes, sample.transmit_bytes], memory);
        self.graphs.put(slot, &self.now, budget);
        budget.put(&mut self.restarts_graph, slot, Some(self.restarts));
        budget.put(&mut self.ready_graph, slot, self.ready.map(f64::from));
        for (name, container) in &sample.containers {
            let room = self.containers.len() < MOST_CONTAINERS;
            let kept = match self.containers.get_mut(*name) {
                Some(kept) => kept,
                None if room => self.containers.entry(cut(name)).or_default(),
                None => continue,
            };
            kept.update(container, sample.time, now, slot, budget);
        }
    }

    fn release(&self, budget: &mut Budget) {
        budget.pod_is_gone();
        self.graphs.release(budget);
        budget.release(&self.restarts_graph);
        budget.release(&self.ready_graph);
        self.containers.values().for_each(|container| container.release(budget));
    }
}

impl Container {
    fn update(&mut self, sample: &ContainerSample<'_>, time: u64, now: u64, slot: Slot, budget: &mut Budget) {
        self.seen = now;
        self.restarts = sample.restarts;
        self.ready = sample.ready;
        self.reason = cut(sample.reason);
        self.last_reason = cut(sample.last_reason);
        self.now.cpu = self.counter.rate(time, sample.cpu_seconds);
        self.now.memory = sample.memory_bytes;
        budget.put(&mut self.cpu, slot, self.now.cpu);
        budget.put(&mut self.memory, slot, self.now.memory);
    }

    fn release(&self, budget: &mut Budget) {
        budget.release(&self.cpu);
        budget.release(&self.memory);
    }
}

impl Counters {
    /// CPU time and bytes received and sent, as they are counted; and memory.
    pub fn using(
        &mut self,
        time: u64,
        [cpu, receive, transmit]: [Option<f64>; 3],
        memory: Option<f64>,
    ) -> Use {
        Use {
            cpu: self.cpu.rate(time, cpu),
            memory,
            receive: self.receive.rate(time, receive),
            transmit: self.transmit.rate(time, transmit),
        }
    }
}

impl Graphs {
    fn put(&mut self, slot: Slot, now: &Use, budget: &mut Budget) {
        budget.put(&mut self.cpu, slot, now.cpu);
        budget.put(&mut self.memory, slot, now.memory);
        budget.put(&mut self.receive, slot, now.receive);
        budget.put(&mut self.transmit, slot, now.transmit);
    }

    fn release(&self, budget: &mut Budget) {
        for ring in [&self.cpu, &self.memory, &self.receive, &self.transmit] {
            budget.release(ring);
        }
    }
}

/// A pod's status as `kubectl get pods` shows it (kubernetes `pkg/printers/internalversion`, `printPod`), as far as
/// the metrics tell; empty where they do not.
fn state_of(pod: &PodSample<'_>) -> String {
    if pod.deleted {
        return "Terminating".to_owned();
    }
    if !pod.reason.is_empty() {
        return pod.reason.to_owned();
    }
    if !matches!(pod.init_reason, "" | "PodInitializing") {
        return format!("Init:{}", pod.init_reason);
    }
    // Of several the first by name, so that it does not change from sample to sample.
    let mut reasons: Vec<_> = pod
        .containers
        .iter()
        .filter(|(_, one)| !one.reason.is_empty())
        .map(|(name, one)| (name, one.reason))
        .collect();
    reasons.sort_unstable();
    let telling = reasons.iter().find(|(_, reason)| *reason != "Completed");
    match (pod.phase, telling) {
        ("Succeeded", _) => "Completed".to_owned(),
        (_, Some((_, reason))) => (*reason).to_owned(),
        (phase, None) => phase.to_owned(),
    }
}

/// As much of a text as is kept.
pub fn cut(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_what_kubectl_says() {
        let container = |reason| ContainerSample { reason, ..ContainerSample::default() };
        let pod = |phase, reasons: &[&'static str]| PodSample {
            phase,
            containers: ["a", "b"].into_iter().zip(reasons.iter().map(|reason| container(reason))).collect(),
            ..PodSample::default()
        };
        assert_eq!(state_of(&pod("Running", &[""])), "Running");
        assert_eq!(state_of(&pod("Running", &["", "CrashLoopBackOff"])), "CrashLoopBackOff");
        assert_eq!(state_of(&pod("Running", &["Completed", ""])), "Running", "a sidecar that is done");
        assert_eq!(state_of(&pod("Pending", &["ContainerCreating"])), "ContainerCreating");
        assert_eq!(state_of(&pod("Succeeded", &["Completed"])), "Completed");
        assert_eq!(state_of(&pod("Failed", &["Error"])), "Error");
        assert_eq!(state_of(&PodSample { reason: "Evicted", ..pod("Failed", &[]) }), "Evicted");
        assert_eq!(state_of(&PodSample { deleted: true, ..pod("Running", &[""]) }), "Terminating");
        let init = PodSample { init_reason: "ImagePullBackOff", ..pod("Pending", &["PodInitializing"]) };
        assert_eq!(state_of(&init), "Init:ImagePullBackOff");
        assert_eq!(state_of(&PodSample::default()), "");
    }
}
