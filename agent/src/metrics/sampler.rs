//! One pass over cgroups and network namespaces: what pages, namespaces and the push all read.
//!
//! A sample is made when it is asked for and shared for a second, so that pages that are scraped together tell of
//! the same instant. It names each cgroup by the pods that are known; a container that is not known yet is held back
//! for a while rather than shown without a name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::cgroup::{Cgroup, Kind, Reader};
use super::pod_network::{self, Interface};
use crate::host::HostPaths;
use crate::pods::{PodIndex, v1};

/// How long one sample serves.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// How long a container without a name is held back: longer than the kubelet's period.
const HELD_BACK: Duration = Duration::from_secs(15);
/// Handles of cgroup files that are kept open, and the part of all files that may be open: the log reader needs
/// most of them.
const HANDLES: usize = 8192;
const PART_OF_FILES: u64 = 4;
/// Most pods that are named by their log directories.
const MOST_LOG_PODS: usize = 10_000;

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

/// cAdvisor's labels beside `id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container; empty of a sandbox.
    pub container: String,
    /// Name at the runtime.
    pub name: String,
    /// Image.
    pub image: String,
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

/// Namespace and name of pods by uid, from the names of their log directories.
type LogPods = HashMap<String, (String, String)>;

/// A container's names and start, by its id.
struct Known<'a> {
    container: &'a str,
    image: &'a str,
    started: Option<i64>,
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
            let sandbox = rows.iter().find(|row| is_container(row) && row.names.container.is_empty());
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
                "POD".clone_into(&mut names.container);
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

/// Names cgroups by pods.
struct Naming<'a> {
    pods: HashMap<&'a str, &'a v1::Pod>,
    containers: HashMap<&'a str, Known<'a>>,
}

struct Named {
    rows: Vec<Row>,
    /// Something is not known yet.
    wanted: bool,
}

impl<'a> Naming<'a> {
    fn new(pods: &'a [v1::Pod]) -> Self {
        let mut containers = HashMap::new();
        for pod in pods {
            let (spec, status) = (&pod.spec, &pod.status);
            let images: HashMap<&str, &str> =
                [&spec.init_containers, &spec.containers, &spec.ephemeral_containers]
                    .into_iter()
                    .flatten()
                    .map(|container| (container.name.as_str(), container.image.as_str()))
                    .collect();
            let statuses = [
                &status.init_container_statuses,
                &status.container_statuses,
                &status.ephemeral_container_statuses,
            ];
            for status in statuses.into_iter().flatten() {
                let bare = status.container_id.split_once("://").map_or("", |(_, bare)| bare);
                if bare.is_empty() {
                    continue;
                }
                let spec_image = images.get(status.name.as_str()).copied().unwrap_or_default();
                let known = Known {
                    container: &status.name,
                    image: if status.image.is_empty() { spec_image } else { &status.image },
                    started: status.state.running.as_ref().and_then(|run| v1::unix_seconds(&run.started_at)),
                };
                containers.insert(bare, known);
            }
        }
        Self { pods: pods.iter().map(|pod| (pod.metadata.uid.as_str(), pod)).collect(), containers }
    }

    /// Whether there is a pod that nobody knows.
    fn misses(&self, cgroups: &[Cgroup], log_pods: &LogPods) -> bool {
        cgroups.iter().any(|cgroup| match &cgroup.kind {
            Kind::Pod { uid } => !self.pods.contains_key(uid.as_str()) && !log_pods.contains_key(uid),
            _ => false,
        })
    }

    fn name(
        &self,
        cgroups: Vec<Cgroup>,
        log_pods: &LogPods,
        nameless: &mut HashMap<String, Instant>,
        now: Instant,
    ) -> Named {
        let sandboxes = self.sandboxes(&cgroups);
        let mut still = HashMap::new();
        let mut wanted = false;
        let mut rows = Vec::with_capacity(cgroups.len());
        for mut cgroup in cgroups {
            let mut names = Names::default();
            let mut known = true;
            match &cgroup.kind {
                Kind::Root | Kind::Slice => {}
                Kind::Pod { uid } => {
                    known = self.name_pod(uid, &mut names) || name_by_logs(log_pods, uid, &mut names);
                }
                Kind::Container { uid, id } => {
                    known = self.name_pod(uid, &mut names);
                    if !known {
                        name_by_logs(log_pods, uid, &mut names);
                    }
                    id.clone_into(&mut names.name);
                    if let Some(container) = self.containers.get(id.as_str()) {
                        container.container.clone_into(&mut names.container);
                        container.image.clone_into(&mut names.image);
                        if let Some(started) = container.started {
                            // Seconds of this century.
                            #[allow(clippy::cast_precision_loss)]
                            let started = started as f64;
                            cgroup.started = started;
                        }
                    } else if known && sandboxes.contains(id) {
                        "pause".clone_into(&mut names.image);
                    } else {
                        known = false;
                    }
                }
            }
            let readable = !cgroup.is_blank();
            let mut shown = known && readable;
            if !known {
                wanted = true;
                let since = *nameless.get(&cgroup.id).unwrap_or(&now);
                shown = readable && now.duration_since(since) >= HELD_BACK;
                still.insert(cgroup.id.clone(), since);
            }
            rows.push(Row { cgroup, names, shown });
        }
        *nameless = still;
        Named { rows, wanted }
    }

    fn name_pod(&self, uid: &str, names: &mut Names) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        pod.metadata.namespace.clone_into(&mut names.namespace);
        pod.metadata.name.clone_into(&mut names.pod);
        true
    }

    /// The sandbox of each pod: its id is not in the pod's status, but it was made before all others. Of several
    /// without a name it is the oldest, and only if no container that has one is older: runtimes that do without a
    /// sandbox must not have a new container taken for it.
    fn sandboxes(&self, cgroups: &[Cgroup]) -> HashSet<String> {
        let mut oldest: HashMap<&str, (f64, &str)> = HashMap::new();
        for cgroup in cgroups {
            let Kind::Container { uid, id } = &cgroup.kind else { continue };
            if self.containers.contains_key(id.as_str()) {
                continue;
            }
            let first = oldest.entry(uid).or_insert((cgroup.started, id));
            if cgroup.started < first.0 {
                *first = (cgroup.started, id);
            }
        }
        for cgroup in cgroups {
            let Kind::Container { uid, id } = &cgroup.kind else { continue };
            let named = self.containers.contains_key(id.as_str());
            // Stamps of one instant say nothing of the order.
            if named && oldest.get(uid.as_str()).is_some_and(|(first, _)| cgroup.started + 1.0 < *first) {
                oldest.remove(uid.as_str());
            }
        }
        oldest.into_values().map(|(_, id)| id.to_owned()).collect()
    }
}

fn name_by_logs(log_pods: &LogPods, uid: &str, names: &mut Names) -> bool {
    let Some((namespace, pod)) = log_pods.get(uid) else { return false };
    namespace.clone_into(&mut names.namespace);
    pod.clone_into(&mut names.pod);
    true
}

/// `<namespace>_<pod>_<uid>`; neither name can have a `_`.
fn log_pods(directory: &Path) -> LogPods {
    let Ok(entries) = std::fs::read_dir(directory) else { return LogPods::new() };
    let names =
        entries.flatten().take(MOST_LOG_PODS).filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let mut parts = name.splitn(3, '_').map(str::to_owned);
            let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
            Some((uid, (namespace, pod)))
        })
        .collect()
}

#[cfg(test)]
mod tests;
