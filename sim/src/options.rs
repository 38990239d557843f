use std::path::PathBuf;
use std::time::Duration;

use crate::pods::{PodSpec, default_pods};

/// What the node is made of and how it behaves. [`SimOptions::new`] gives the demo's node; change what differs.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The node's root directory; made when absent. Must not hold another node's files.
    pub dir: PathBuf,
    /// Content, uids and container ids are a function of it.
    pub seed: u64,
    /// The node's name in the kubelet's answers.
    pub node_name: String,
    /// How fast all containers together write.
    pub rate: Rate,
    /// The writers fall silent after this many lines, all containers together.
    pub max_lines: Option<u64>,
    /// The writers fall silent after this many log bytes: the bound of the node's disk use (with compression the
    /// archive takes about a tenth of it).
    pub max_bytes: u64,
    /// The pods that run from the start.
    pub pods: Vec<PodSpec>,
    /// The kubelet's log rotation.
    pub rotation: Rotation,
    /// Period at which a pod that lives for one second is started and, alternately, a container restarted.
    pub churn: Option<Duration>,
    /// Time from a container's last write to the deletion of its files (a real kubelet: 2.25 s).
    pub delete_delay: Duration,
    /// Whether a write may end in the middle of an entry, as a reader of a busy file sees it.
    pub torn_writes: bool,
    /// Bearer token that the kubelet's endpoint asks for.
    pub kubelet_token: Option<String>,
}

impl SimOptions {
    /// The demo's node below `dir`: fourteen pods in five namespaces, 5,000 lines a second.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            seed: 1,
            node_name: "sim-node-1".to_owned(),
            rate: Rate::PerSecond(5000),
            max_lines: None,
            max_bytes: 8 << 30,
            pods: default_pods(1),
            rotation: Rotation::default(),
            churn: Some(Duration::from_secs(5)),
            delete_delay: Duration::from_millis(2250),
            torn_writes: true,
            kubelet_token: None,
        }
    }
}

/// How fast all containers together write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Lines a second; 0 = silence.
    PerSecond(u64),
    /// As fast as one thread can.
    Burst,
}

/// The kubelet's log rotation.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `containerLogMaxSize`: a file that is larger at a check is rotated.
    pub max_bytes: u64,
    /// `containerLogMonitorInterval`.
    pub check_interval: Duration,
    /// Rotate each file that has bytes at this period, whatever its size.
    pub period: Option<Duration>,
    /// `containerLogMaxFiles`: files of one container, the live one included; at least 2.
    pub max_files: usize,
    /// Shortest and longest time between the rename and the new file; the writer writes into the renamed file
    /// meanwhile.
    pub gap: (Duration, Duration),
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: 512 << 10,
            check_interval: Duration::from_secs(1),
            period: None,
            max_files: 5,
            gap: (Duration::from_millis(5), Duration::from_millis(400)),
        }
    }
}
