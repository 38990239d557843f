//! One pass over cgroups and network namespaces: what pages, namespaces and the push all read.
//!
//! A sample is made when it is asked for and shared for a second, so that pages that are scraped together tell of
//! the same instant. It names each cgroup by the pods that are known; a container that is not known yet is held back
//! for a while rather than shown without a name.

mod naming;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::cgroup::{Cgroup, Kind, Reader};
use super::pod_network::{self, Interface};
use crate::host::HostPaths;
use crate::pods::{PodIndex, v1};
pub use naming::Names;
use naming::{LogPods, Naming, SANDBOX, log_pods};

/// How long one sample serves.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Handles of cgroup files that are kept open, and the part of all files that may be open: the log reader needs
/// most of them.
const HANDLES: usize = 8192;
const PART_OF_FILES: u64 = 4;

/// Everything at one instant.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was made.
    pub at: SystemTime,
    /// The cgroups in the order of their ids.
    pub rows: Vec<Row>,
    /// Interfaces of the node.
    pub node_network: Vec<Interface>,
    /// Interfaces of each pod that has a network of its own.
    pub pod_networks: Vec<PodNetwork>,
    /// The pods as the kubelet last told.
    pub pods: Arc<[v1::Pod]>,
}

/// A cgroup with its names.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its numbers.
    pub cgroup: Cgroup,
    /// Its names.
    pub names: Names,
    /// It is to be shown; a row that is held back has numbers, but no names yet, or a name, but no numbers just now.
    pub shown: bool,
}

/// The network of a pod.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// The pod's uid.
    pub uid: String,
    /// Cgroup whose row carries it: the sandbox, or the pod where it has none.
    pub id: String,
    /// That row's names.
    pub names: Names,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

/// Makes samples.
pub struct Sampler {
    proc: PathBuf,
    pod_logs: PathBuf,
    index: PodIndex,
    state: Mutex<State>,
}

struct State {
    reader: Reader,
    /// When a container was first seen without a name.
    nameless: HashMap<String, Instant>,
    /// Pods that the kubelet does not tell of, by uid.
    log_pods: LogPods,
    last: Option<(Instant, Arc<Sample>)>,
}

impl Sampler {
    /// Reads this host's cgroups and processes, and names them by the pods of `index`.
    pub fn new(paths: &HostPaths, index: PodIndex) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / PART_OF_FILES;
        let handles = usize::try_from(limit).unwrap_or(HANDLES).min(HANDLES);
        let reader = Reader::new(paths.cgroup.clone(), handles);
        let state = State { reader, nameless: HashMap::new(), log_pods: LogPods::new(), last: None };
        let (proc, pod_logs) = (paths.proc.clone(), paths.pod_logs.clone());
        Self { proc, pod_logs, index, state: Mutex::new(state) }
    }

    /// The sample of this second.
    ///
    /// # Errors
    /// When there is no cgroup hierarchy.
    pub fn sample(&self) -> Result<Arc<Sample>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((at, sample)) = &state.last
            && now.duration_since(*at) < SHARED_FOR
        {
            return Ok(Arc::clone(sample));
        }
        let cgroups = state.reader.read()?;
        let at = SystemTime::now();
        let pods = self.index.states();
        let state = &mut *state;
        let naming = Naming::new(&pods);
        if naming.misses(&cgroups, &state.log_pods) {
            state.log_pods = log_pods(&self.pod_logs);
        }
        let named = naming.name(cgroups, &state.log_pods, &mut state.nameless, now);
        if named.wanted {
            self.index.want();
        }
        let sample = Sample {
            at,
            pod_networks: self.pod_networks(&named.rows, &pods),
            node_network: pod_network::read_node(&self.proc),
            rows: named.rows,
            pods,
        };
        let sample = Arc::new(sample);
        state.last = Some((Instant::now(), Arc::clone(&sample)));
        Ok(sample)
    }

    /// The last sample; `None` where there is none, and while one is being made, which may hang.
    pub fn last(&self) -> Option<Arc<Sample>> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        state.last.as_ref().map(|(_, sample)| Arc::clone(sample))
    }

    /// One reading a pod, from a process of its sandbox or of any of its containers.
    fn pod_networks(&self, rows: &[Row], pods: &[v1::Pod]) -> Vec<PodNetwork> {
        let mut pods_rows: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            match &row.cgroup.kind {
                Kind::Pod { uid } | Kind::Container { uid, .. } => {
                    pods_rows.entry(uid).or_default().push(row)
                }
                _ => {}
            }
        }
        let host: HashSet<&str> =
            pods.iter().filter(|pod| pod.spec.host_network).map(|pod| pod.metadata.uid.as_str()).collect();
        let mut networks = Vec::new();
        for (uid, rows) in pods_rows {
            if host.contains(uid) {
                continue;
            }
            let is_container = |row: &&&Row| matches!(row.cgroup.kind, Kind::Container { .. });
            let sandbox = rows.iter().find(|row| is_container(row) && row.names.is_sandbox());
            let processes = sandbox.into_iter().chain(rows.iter().filter(is_container));
            let Some((pid, interfaces)) = processes
                .filter_map(|row| row.cgroup.pids.one)
                .find_map(|pid| Some((pid, pod_network::read(&self.proc, pid)?)))
            else {
                continue;
            };
            let Some(carrier) = sandbox.or_else(|| rows.first()) else { continue };
            if !carrier.shown || pod_network::is_host(&self.proc, pid) == Some(true) {
                continue;
            }
            let mut names = carrier.names.clone();
            if sandbox.is_none() {
                SANDBOX.clone_into(&mut names.container);
            }
            networks.push(PodNetwork {
                uid: uid.to_owned(),
                id: carrier.cgroup.id.clone(),
                names,
                interfaces,
            });
        }
        networks
    }
}

#[cfg(test)]
mod tests;
