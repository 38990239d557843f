//! A simulated Kubernetes node: pods that write CRI logs, a kubelet that rotates them and serves `/pods`, a cgroup v2
//! tree that moves. The demo, the tests and the benches run on it; it shares no code with the agent or the collector.
//!
//! Everything lives below one directory that looks like a host's root (`var/log/pods`, `sys/fs/cgroup`, `proc`), so an
//! agent is pointed at it with `host.root`. What rotation or the end of a pod deletes is copied to `archive/` before,
//! under the same relative names: archive and live files together are the truth that a verifier compares with.
//!
//! How rotation, restarts and deletion look was recorded from a real kubelet 1.36 with containerd 2.1.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cgroup;
mod clock;
mod container;
mod content;
mod cri;
mod engine;
mod error;
mod keeper;
mod kubelet;
mod load;
mod logfile;
mod machine;
mod node;
mod options;
mod pods;
mod random;
mod rotation;
mod writer;

pub use container::{ContainerSpec, End, Fate, Resources};
pub use content::Profile;
pub use cri::MAX_CONTENT_BYTES;
pub use error::SimError;
pub use load::{ContainerLoad, PodLoad, Traffic, Use};
pub use node::{SimNode, Stats, Truth};
pub use options::{Rate, Rotation, SimOptions};
pub use pods::{Owner, PodSpec, default_pods, troubled_pods};
