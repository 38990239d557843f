//! `kubelet_volume_stats_*` (kubernetes/kubernetes, pkg/kubelet/metrics/collectors/volume_stats.go) of the persistent
//! volume claims that pods of this node have mounted.
//!
//! The kubelet mounts a persistent volume at `<kubelet_dir>/pods/<pod uid>/volumes/<plugin>/<volume>`, with `/mount`
//! below it for CSI, and the volume's name is not in the pod. Which claim it is of follows where the pod has one
//! claim and one such mount that are not accounted for yet ([`claims`]). Of all others the kubelet is asked
//! ([`crate::kubelet::volumes`]), whose word is up to two minutes old. Only what is mounted for this process is asked, so an
//! empty mount point is never taken for a volume. A mount that does not answer has no row and costs nothing the next
//! time ([`super::statfs`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{Sink, Source};

use super::help;
use super::node::unescape;
use super::read::Kept;
use super::statfs::{ALL, Prober, Space};
use crate::pods::{Claim, PodIndex, VolumeStats, v1};

/// Most mounts that are looked at.
const MOST: usize = 4096;
/// Volumes of these plugins hold what a pod was given, and belong to no claim.
const NO_CLAIMS: [&str; 6] = [
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~projected",
    "kubernetes.io~downward-api",
    "kubernetes.io~empty-dir",
    "kubernetes.io~git-repo",
];

/// The page's source.
pub(super) struct Volumes {
    kubelet_dir: PathBuf,
    mounts: Kept,
    index: PodIndex,
    prober: Mutex<Prober>,
}

/// A volume that is mounted for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    pod_uid: String,
    volume: String,
    path: PathBuf,
}

impl Volumes {
    pub(super) fn new(kubelet_dir: PathBuf, index: PodIndex) -> Self {
        // Of this process, whatever the host's `/proc` is: only mounts that can be seen from here can be asked.
        let mounts = Kept::new("/proc/self/mountinfo");
        Self { kubelet_dir, mounts, index, prober: Mutex::default() }
    }
}

impl Source for Volumes {
    fn name(&self) -> &'static str {
        "volumes"
    }

    fn patience(&self) -> Option<Duration> {
        Some(ALL * 3)
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let pods = self.index.states();
        if pods.iter().all(|pod| claims_of(pod).next().is_none()) {
            return Ok(());
        }
        // mountinfo has no symbolic links.
        let real = self.kubelet_dir.canonicalize().unwrap_or_else(|_| self.kubelet_dir.clone());
        let mounts = parse(&self.mounts.read()?, &real);
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        let certain = claims(&pods, &mounts);
        let mut others =
            pods.iter().flat_map(full_claims_of).filter(|claim| !certain.contains_key(claim)).peekable();
        let mut stats = BTreeMap::new();
        if others.peek().is_some() {
            let told = self.index.volumes();
            stats.extend(others.filter_map(|claim| told.get(&claim).map(|told| (claim.clone(), *told))));
        }
        let (names, paths): (Vec<Claim>, Vec<PathBuf>) = certain.into_iter().unzip();
        let spaces = names.into_iter().zip(prober.ask(paths));
        stats.extend(spaces.filter_map(|(claim, space)| Some((claim, of_space(&space.ok()?)))));
        show(&stats, out);
        Ok(())
    }
}

/// Volumes that are mounted below the kubelet's directory, each once. Format: proc_pid_mountinfo(5), whose fifth field
/// is the mount point.
fn parse(text: &str, kubelet_dir: &Path) -> Vec<Mount> {
    let pods = kubelet_dir.join("pods");
    let mut seen = HashSet::new();
    text.lines()
        .filter_map(|line| Some(unescape(line.split(' ').nth(4)?)))
        .filter_map(|point| {
            let path = PathBuf::from(point);
            let parts: Vec<&str> =
                path.strip_prefix(&pods).ok()?.iter().filter_map(|part| part.to_str()).collect();
            let (pod_uid, plugin, volume) = match parts[..] {
                [uid, "volumes", plugin, volume] | [uid, "volumes", plugin, volume, "mount"] => {
                    (uid, plugin, volume)
                }
                _ => return None,
            };
            let mount = Mount { pod_uid: pod_uid.to_owned(), volume: volume.to_owned(), path: path.clone() };
            (!NO_CLAIMS.contains(&plugin)).then_some(mount)
        })
        .filter(|mount| seen.insert((mount.pod_uid.clone(), mount.volume.clone())))
        .take(MOST)
        .collect()
}

/// Names of a pod's claims. That of an ephemeral volume is made of the pod's and the volume's.
fn claims_of(pod: &v1::Pod) -> impl Iterator<Item = String> + '_ {
    pod.spec.volumes.iter().filter_map(|volume| {
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
        claim.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.metadata.name, volume.name)))
    })
}

/// The same with their namespace.
fn full_claims_of(pod: &v1::Pod) -> impl Iterator<Item = Claim> + '_ {
    claims_of(pod).map(|name| (pod.metadata.namespace.clone(), name))
}

fn of_space(space: &Space) -> VolumeStats {
    VolumeStats {
        capacity_bytes: space.size,
        available_bytes: space.available,
        used_bytes: space.size.saturating_sub(space.free),
        inodes: space.files,
        inodes_free: space.files_free,
        inodes_used: space.files.saturating_sub(space.files_free),
    }
}

/// Where each claim is mounted, once, however many pods have it. A volume whose claim one pod tells is known in all
/// others, so that of their claims fewer are left.
fn claims(pods: &[v1::Pod], mounts: &[Mount]) -> BTreeMap<Claim, PathBuf> {
    let mut of_pod: HashMap<&str, Vec<&Mount>> = HashMap::new();
    for mount in mounts {
        of_pod.entry(&mount.pod_uid).or_default().push(mount);
    }
    let mut open: Vec<(BTreeSet<Claim>, Vec<&Mount>)> = pods
        .iter()
        .filter_map(|pod| {
            let claims: BTreeSet<Claim> = full_claims_of(pod).collect();
            // A volume that is part of the pod is mounted under the name that it has there.
            let own: HashSet<&str> = pod.spec.volumes.iter().map(|volume| volume.name.as_str()).collect();
            let mut mounts = of_pod.remove(pod.metadata.uid.as_str())?;
            mounts.retain(|mount| !own.contains(mount.volume.as_str()));
            Some((claims, mounts))
        })
        .collect();
    let mut found: BTreeMap<Claim, PathBuf> = BTreeMap::new();
    let mut volumes: HashSet<&str> = HashSet::new();
    loop {
        let before = found.len();
        open.retain_mut(|(claims, mounts)| {
            claims.retain(|claim| !found.contains_key(claim));
            mounts.retain(|mount| !volumes.contains(mount.volume.as_str()));
            if claims.len() == 1
                && let [mount] = mounts[..]
                && let Some(claim) = claims.pop_first()
            {
                volumes.insert(&mount.volume);
                found.insert(claim, mount.path.clone());
            }
            !claims.is_empty() && !mounts.is_empty()
        });
        if found.len() == before {
            return found;
        }
    }
}

fn show(stats: &BTreeMap<Claim, VolumeStats>, out: &mut Sink) {
    type Cell = fn(&VolumeStats) -> u64;
    let families: [(&str, Cell); 6] = [
        ("kubelet_volume_stats_available_bytes", |stats| stats.available_bytes),
        ("kubelet_volume_stats_capacity_bytes", |stats| stats.capacity_bytes),
        ("kubelet_volume_stats_inodes", |stats| stats.inodes),
        ("kubelet_volume_stats_inodes_free", |stats| stats.inodes_free),
        ("kubelet_volume_stats_inodes_used", |stats| stats.inodes_used),
        ("kubelet_volume_stats_used_bytes", |stats| stats.used_bytes),
    ];
    for (name, value) in families {
        let mut rows = help::gauge(out, name);
        for ((namespace, claim), each) in stats {
            rows.row(
                [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim.as_str())],
                value(each),
            );
        }
    }
}

#[cfg(test)]
mod tests;
