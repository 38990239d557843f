//! What is kept of a namespace: the sum over the nodes that tell of it.

use std::collections::HashMap;

use super::node::{Counters, Use};
use super::ring::{Slot, SumRing};
use super::sample::{NamespaceSample, PHASES};

/// A namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    /// Cores.
    pub cpu: SumRing,
    /// Bytes.
    pub memory: SumRing,
    /// Bytes a second.
    pub receive: SumRing,
    /// Bytes a second.
    pub transmit: SumRing,
    /// What each node's part is, by the node's name.
    parts: HashMap<Box<str>, Part>,
}

/// A node's part of a namespace.
#[derive(Debug, Default)]
struct Part {
    heard: u64,
    /// The last slot that it was added to.
    slot: Slot,
    now: Use,
    last: NamespaceSample,
    counters: Counters,
}

/// A namespace now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// What its pods use.
    pub now: Use,
    /// CPU requests, cores.
    pub cpu_request_cores: f64,
    /// Memory requests, bytes.
    pub memory_request_bytes: f64,
    /// Pods by [`PHASES`].
    pub phases: [u64; PHASES.len()],
    /// Nodes that tell of it.
    pub nodes: usize,
    /// When the newest sample came, Unix seconds.
    pub heard: u64,
}

impl Namespace {
    /// Takes a node's newest sample.
    pub fn update(&mut self, node: &str, sample: &NamespaceSample, now: u64, slot: Slot) {
        let part = match self.parts.get_mut(node) {
            Some(part) => part,
            None => self.parts.entry(node.into()).or_default(),
        };
        let counted = [sample.cpu_seconds, sample.receive_bytes, sample.transmit_bytes];
        part.now = part.counters.using(sample.time, counted, sample.memory_bytes);
        (part.last, part.heard) = (*sample, now);
        let after = std::mem::replace(&mut part.slot, slot);
        let rings = [
            (&mut self.cpu, part.now.cpu),
            (&mut self.memory, part.now.memory),
            (&mut self.receive, part.now.receive),
            (&mut self.transmit, part.now.transmit),
        ];
        for (ring, value) in rings {
            if let Some(value) = value {
                ring.add(after, slot, value);
            }
        }
    }

    /// Forgets nodes that were not heard of since; false when none is left.
    pub fn forget(&mut self, before: u64) -> bool {
        self.parts.retain(|_, part| part.heard >= before);
        !self.parts.is_empty()
    }

    /// The sum over the nodes for which `is_fresh` says that their newest sample still tells of now.
    pub fn sum(&self, mut is_fresh: impl FnMut(&str) -> bool) -> Sum {
        let mut sum = Sum::default();
        for (_, part) in self.parts.iter().filter(|(node, _)| is_fresh(node)) {
            add(&mut sum.now.cpu, part.now.cpu);
            add(&mut sum.now.memory, part.now.memory);
            add(&mut sum.now.receive, part.now.receive);
            add(&mut sum.now.transmit, part.now.transmit);
            sum.cpu_request_cores += part.last.cpu_request_cores;
            sum.memory_request_bytes += part.last.memory_request_bytes;
            for (all, one) in sum.phases.iter_mut().zip(part.last.phases) {
                *all += u64::from(one);
            }
            sum.nodes += 1;
            sum.heard = sum.heard.max(part.heard);
        }
        sum
    }
}

fn add(sum: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0.0) + value);
    }
}
