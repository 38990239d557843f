//! What the pods use, as a function of what they write: the truth behind the cgroup files and the network counters.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::container::Resources;
use crate::kubelet::{PodStatus, State};
use crate::logfile::LogFile;
use crate::node::{Running, Shared};

/// CPU time of a line.
pub(crate) const MICROS_A_LINE: u64 = 20;
/// Most page cache that a container's log keeps.
const MOST_CACHE: u64 = 64 << 20;
/// Memory of a pod's sandbox.
pub(crate) const SANDBOX_BYTES: u64 = 256 << 10;

/// What an instance of a container, or a whole pod, has used and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Use {
    /// CPU time, microseconds.
    pub cpu_micros: u64,
    /// Time throttled, microseconds.
    pub throttled_micros: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Page cache, bytes; half of it is inactive.
    pub cache_bytes: u64,
    /// Lines written.
    pub log_lines: u64,
    /// Bytes of log files written.
    pub log_bytes: u64,
}

/// Counters of one direction of a pod's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// What a pod uses at one instant. Counters count what ended containers used, too.
#[derive(Clone, Debug, Serialize)]
pub struct PodLoad {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub pod: String,
    /// Uid.
    pub uid: String,
    /// `spec.hostNetwork`: its network is the node's.
    pub host_network: bool,
    /// The kubelet's phase.
    pub phase: String,
    /// All containers and the sandbox.
    #[serde(flatten)]
    pub used: Use,
    /// Bytes of memory that are no inactive page cache.
    pub working_set_bytes: u64,
    /// What it received.
    pub receive: Traffic,
    /// What it sent.
    pub transmit: Traffic,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Its containers.
    pub containers: Vec<ContainerLoad>,
}

/// A container of a pod.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerLoad {
    /// Name.
    pub container: String,
    /// Restart count.
    pub restarts: u32,
    /// Why it waits, where it does.
    pub waiting: Option<&'static str>,
    /// Why its last instance ended, where one did.
    pub last_end: Option<&'static str>,
    /// What the instance that runs uses; none: none runs.
    pub running: Option<Use>,
    /// Thousandths of a core.
    pub cpu_request_millis: u64,
    /// Thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Bytes.
    pub memory_request_bytes: u64,
    /// Bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// What the ended containers of a pod used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    pub(crate) used: Use,
    pub(crate) oom_kills: u64,
}

impl Use {
    /// A line costs 20 µs and 16 bytes (up to 1 MiB), and a byte of log keeps a byte of page cache, up to 64 MiB.
    pub(crate) fn of(log: &LogFile, resources: &Resources) -> Self {
        let (log_lines, log_bytes) =
            (log.total_lines.load(Ordering::Relaxed), log.total_bytes.load(Ordering::Relaxed));
        let cpu_micros = 1000 + log_lines * MICROS_A_LINE;
        Self {
            cpu_micros,
            throttled_micros: resources.cpu_limit_millis.map_or(0, |_| cpu_micros / 10),
            rss_bytes: (8 << 20) + ((log_lines * 16) & 0xf_f000),
            cache_bytes: log_bytes.min(MOST_CACHE) & !4095,
            log_lines,
            log_bytes,
        }
    }

    /// The half of the cache that the kernel may drop is not in it.
    pub(crate) fn working_set_bytes(&self) -> u64 {
        self.rss_bytes + self.cache_bytes - self.cache_bytes / 2
    }

    /// Adds all of it.
    fn add(&mut self, more: &Self) {
        self.add_ended(more);
        self.rss_bytes += more.rss_bytes;
        self.cache_bytes += more.cache_bytes;
    }

    /// Adds what an ended container leaves behind: its counters.
    pub(crate) fn add_ended(&mut self, more: &Self) {
        self.cpu_micros += more.cpu_micros;
        self.throttled_micros += more.throttled_micros;
        self.log_lines += more.log_lines;
        self.log_bytes += more.log_bytes;
    }
}

/// Each line answers a request: one packet in, two out. Some are dropped, some are damaged.
pub(crate) fn traffic(lines: u64) -> (Traffic, Traffic) {
    let received = Traffic { bytes: lines * 400, packets: lines, errors: lines / 200, dropped: lines / 100 };
    let sent = Traffic { bytes: lines * 1400, packets: lines * 2, errors: lines / 400, dropped: lines / 50 };
    (received, sent)
}

/// What each pod uses now.
pub(crate) fn of_pods(shared: &Shared) -> Vec<PodLoad> {
    let pods = shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
    let running = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
    let past = shared.past.lock().unwrap_or_else(PoisonError::into_inner);
    pods.iter()
        .map(|pod| of_pod(pod, &running, past.get(&pod.spec.uid).copied().unwrap_or_default()))
        .collect()
}

fn of_pod(pod: &PodStatus, running: &[Running], past: Past) -> PodLoad {
    let spec = &pod.spec;
    let mut used = Use { rss_bytes: SANDBOX_BYTES, ..past.used };
    let mut containers = Vec::new();
    for (index, (container, status)) in spec.containers.iter().zip(&pod.containers).enumerate() {
        let resources = &container.resources;
        let now = running
            .iter()
            .find(|running| running.pod_uid == spec.uid && running.container == index)
            .map(|running| Use::of(&running.log, resources));
        if let Some(now) = &now {
            used.add(now);
        }
        containers.push(ContainerLoad {
            container: container.name.clone(),
            restarts: status.restart,
            waiting: match status.state {
                State::Waiting(reason) => Some(reason),
                State::Running => None,
            },
            last_end: status.last.as_ref().map(|last| last.reason),
            running: now,
            cpu_request_millis: resources.cpu_request_millis,
            cpu_limit_millis: resources.cpu_limit_millis,
            memory_request_bytes: resources.memory_request_bytes,
            memory_limit_bytes: resources.memory_limit_bytes,
        });
    }
    let (receive, transmit) = traffic(if spec.host_network { 0 } else { used.log_lines });
    PodLoad {
        namespace: spec.namespace.clone(),
        pod: spec.name.clone(),
        uid: spec.uid.clone(),
        host_network: spec.host_network,
        phase: pod.phase().to_owned(),
        working_set_bytes: used.working_set_bytes(),
        used,
        receive,
        transmit,
        oom_kills: past.oom_kills,
        containers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_an_ended_container_stay_with_its_pod_and_its_memory_does_not() {
        let ended = Use {
            cpu_micros: 5,
            throttled_micros: 1,
            rss_bytes: 7,
            cache_bytes: 9,
            log_lines: 2,
            log_bytes: 3,
        };
        let mut pod = Use::default();
        pod.add_ended(&ended);
        assert_eq!(pod, Use { rss_bytes: 0, cache_bytes: 0, ..ended });
        pod.add(&ended);
        assert_eq!((pod.cpu_micros, pod.rss_bytes, pod.cache_bytes), (10, 7, 9));
        assert_eq!(Use { rss_bytes: 10, cache_bytes: 9, ..ended }.working_set_bytes(), 15);
    }
}
