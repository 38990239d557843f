//! Names of cgroups: which pod and container each is of, and under which names cAdvisor shows it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Row;
use crate::metrics::cgroup::{Cgroup, Kind, runtime};
use crate::pods::v1;

/// How long a container without a name is held back: longer than the kubelet's period.
pub(super) const HELD_BACK: Duration = Duration::from_secs(15);
/// Most pods that are named by their log directories.
const MOST_LOG_PODS: usize = 10_000;

/// cAdvisor's labels beside `id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container; of a sandbox `POD` with docker and CRI-O, else empty.
    pub container: String,
    /// Name at the runtime: the container's id with containerd, `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>` with
    /// docker and CRI-O.
    pub name: String,
    /// Image.
    pub image: String,
}

/// The image that sandboxes are shown with.
const PAUSE: &str = "pause";
/// The container that sandboxes are shown with where the runtime names them.
pub(super) const SANDBOX: &str = "POD";

impl Names {
    /// They are a sandbox's.
    pub fn is_sandbox(&self) -> bool {
        self.image == PAUSE && matches!(self.container.as_str(), "" | SANDBOX)
    }
}

/// Namespace and name of pods by uid, from the names of their log directories.
pub(super) type LogPods = HashMap<String, (String, String)>;

/// A container's names and start, by its id.
struct Known<'a> {
    container: &'a str,
    image: &'a str,
    started: Option<i64>,
    restarts: i64,
    runtime: &'a str,
}

/// Names cgroups by pods.
pub(super) struct Naming<'a> {
    pods: HashMap<&'a str, &'a v1::Pod>,
    containers: HashMap<&'a str, Known<'a>>,
    /// The runtime of each pod that has a container, by uid, and one of them.
    runtimes: HashMap<&'a str, &'a str>,
    runtime: &'a str,
}

pub(super) struct Named {
    pub(super) rows: Vec<Row>,
    /// Something is not known yet.
    pub(super) wanted: bool,
}

impl<'a> Naming<'a> {
    pub(super) fn new(pods: &'a [v1::Pod]) -> Self {
        let mut containers = HashMap::new();
        let mut runtimes = HashMap::new();
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
                let (runtime, bare) = status.container_id.split_once("://").unwrap_or_default();
                if bare.is_empty() {
                    continue;
                }
                runtimes.entry(pod.metadata.uid.as_str()).or_insert(runtime);
                let spec_image = images.get(status.name.as_str()).copied().unwrap_or_default();
                let known = Known {
                    container: &status.name,
                    image: if status.image.is_empty() { spec_image } else { &status.image },
                    started: status.state.running.as_ref().and_then(|run| v1::unix_seconds(&run.started_at)),
                    restarts: status.restart_count,
                    runtime,
                };
                containers.insert(bare, known);
            }
        }
        let runtime = runtimes.values().min().copied().unwrap_or_default();
        let pods = pods.iter().map(|pod| (pod.metadata.uid.as_str(), pod)).collect();
        Self { pods, containers, runtimes, runtime }
    }

    /// Whether there is a pod that nobody knows.
    pub(super) fn misses(&self, cgroups: &[Cgroup], log_pods: &LogPods) -> bool {
        cgroups.iter().any(|cgroup| match &cgroup.kind {
            Kind::Pod { uid } => !self.pods.contains_key(uid.as_str()) && !log_pods.contains_key(uid),
            _ => false,
        })
    }

    pub(super) fn name(
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
                        if names_containers(runtime(&cgroup.id), container.runtime) {
                            names.name = kube_name(&names, uid, container.restarts);
                        }
                        if let Some(started) = container.started {
                            // Seconds of this century.
                            #[allow(clippy::cast_precision_loss)]
                            let started = started as f64;
                            cgroup.started = started;
                        }
                    } else if known && sandboxes.contains(id) {
                        PAUSE.clone_into(&mut names.image);
                        let scheme = self.runtimes.get(uid.as_str()).unwrap_or(&self.runtime);
                        if names_containers(runtime(&cgroup.id), scheme) {
                            SANDBOX.clone_into(&mut names.container);
                            // Which attempt it is nobody tells; it is the first but for sandboxes that were made anew.
                            names.name = kube_name(&names, uid, 0);
                        }
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

/// Whether cAdvisor shows a runtime's containers under the names that the runtime gives them, and not under their ids:
/// docker's and CRI-O's handlers do, containerd's does not (google/cadvisor, lib/container/*/handler.go, `Aliases`).
/// `prefix` is of the cgroup's name; where that has none, the scheme of a container's id in the pod's status tells.
fn names_containers(prefix: &str, scheme: &str) -> bool {
    matches!(if prefix.is_empty() { scheme } else { prefix }, "docker" | "crio" | "cri-o")
}

/// The name that docker's shim and CRI-O give a container: Mirantis/cri-dockerd, core/naming.go, `makeContainerName`.
fn kube_name(names: &Names, uid: &str, attempt: i64) -> String {
    format!("k8s_{}_{}_{}_{uid}_{attempt}", names.container, names.pod, names.namespace)
}

fn name_by_logs(log_pods: &LogPods, uid: &str, names: &mut Names) -> bool {
    let Some((namespace, pod)) = log_pods.get(uid) else { return false };
    namespace.clone_into(&mut names.namespace);
    pod.clone_into(&mut names.pod);
    true
}

/// `<namespace>_<pod>_<uid>`; neither name can have a `_`.
pub(super) fn log_pods(directory: &Path) -> LogPods {
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
