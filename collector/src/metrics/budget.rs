//! What may be kept, in numbers of things: when it is used up, what is new has no history, or is left out, and is
//! counted. Nothing that is kept is thrown out for it.

use super::ring::{Ring, Slot};

/// Bounds; other values are for tests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Histories, 720 bytes each.
    pub rings: usize,
    /// Pods, those that are gone for less than an hour included.
    pub pods: usize,
    /// Nodes.
    pub nodes: usize,
    /// Namespaces.
    pub namespaces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rings: 1 << 17, pods: 50_000, nodes: 5_000, namespaces: 2_000 }
    }
}

/// What is used of the limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    rings: usize,
    pods: usize,
    /// Values without a history, and pods, nodes and namespaces that were left out, each time that they came.
    pub refused: u64,
}

impl Budget {
    /// Nothing is used.
    pub fn new(limits: Limits) -> Self {
        Self { limits, rings: 0, pods: 0, refused: 0 }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Histories in use.
    pub fn rings(&self) -> usize {
        self.rings
    }

    /// Pods in use.
    pub fn pods(&self) -> usize {
        self.pods
    }

    /// Whether one more pod may be kept; then it counts.
    pub fn pod(&mut self) -> bool {
        let room = self.pods < self.limits.pods;
        if room {
            self.pods += 1;
        } else {
            self.refused += 1;
        }
        room
    }

    /// A pod was forgotten.
    pub fn pod_is_gone(&mut self) {
        self.pods = self.pods.saturating_sub(1);
    }

    /// Puts a value that is known into a history, which may have to be made for it.
    pub fn put(&mut self, ring: &mut Ring, slot: Slot, value: Option<f64>) {
        let Some(value) = value else { return };
        if ring.is_empty() {
            if self.rings >= self.limits.rings {
                self.refused += 1;
                return;
            }
            self.rings += 1;
        }
        ring.set(slot, value);
    }

    /// A history was forgotten.
    pub fn release(&mut self, ring: &Ring) {
        self.rings -= usize::from(!ring.is_empty()).min(self.rings);
    }
}
