//! A container: what it writes, what it may use, and what becomes of it.

use std::time::Duration;

use crate::content::Profile;

/// A container to run.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// What it writes.
    pub profile: Profile,
    /// Its share of the node's lines, relative to the other containers.
    pub weight: u32,
    /// Restart count at the start; above 0 the logs of the instances before it exist.
    pub restarts: u32,
    /// What it requests and may use.
    pub resources: Resources,
    /// What becomes of it.
    pub fate: Fate,
}

/// `resources` of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_request_millis: u64,
    /// Thousandths of a core. A container with a limit is throttled for a tenth of the time that it uses.
    pub cpu_limit_millis: Option<u64>,
    /// Bytes.
    pub memory_request_bytes: u64,
    /// Bytes.
    pub memory_limit_bytes: Option<u64>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request_millis: 10,
            cpu_limit_millis: None,
            memory_request_bytes: 16 << 20,
            memory_limit_bytes: Some(128 << 20),
        }
    }
}

/// What becomes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs until it is ended from outside.
    Runs,
    /// It ends by itself, and the kubelet starts it again after its back-off, for ever.
    Ends {
        /// How long an instance lives.
        after: Duration,
        /// How it ends.
        how: End,
        /// How long the kubelet waits before the next instance (a real one: 10 s, doubled up to 5 minutes).
        back_off: Duration,
    },
    /// It ends well after this long, and stays ended, as a Job's.
    Completes {
        /// How long it lives.
        after: Duration,
    },
    /// Its image cannot be had: it never starts.
    NoImage,
}

/// How a container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With exit code 1.
    Error,
    /// The kernel kills it for want of memory.
    OomKilled,
}

impl End {
    /// The kubelet's reason and exit code.
    pub(crate) fn told(self) -> (&'static str, i32) {
        match self {
            Self::Error => ("Error", 1),
            Self::OomKilled => ("OOMKilled", 137),
        }
    }
}

impl ContainerSpec {
    /// A container with weight 1 that never restarted, has a memory limit, and runs.
    pub fn new(name: &str, profile: Profile) -> Self {
        Self {
            name: name.to_owned(),
            image: format!("registry.example/sim/{name}:1.4.2"),
            profile,
            weight: 1,
            restarts: 0,
            resources: Resources::default(),
            fate: Fate::Runs,
        }
    }

    pub(crate) fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}
