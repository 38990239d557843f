//! The pods of a node: what they are, and what the kubelet says about them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::container::{ContainerSpec, End, Fate};
use crate::content::Profile;
use crate::random::Random;

/// A pod to run.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The uid of log paths and cgroups: a UUID, of a static pod 32 hex digits.
    pub uid: String,
    /// What controls it.
    pub owner: Owner,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Its containers.
    pub containers: Vec<ContainerSpec>,
}

/// What controls a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nothing.
    None,
    /// A ReplicaSet with this name (of a Deployment: `<deployment>-<hash>`).
    ReplicaSet(String),
    /// A StatefulSet.
    StatefulSet(String),
    /// A DaemonSet.
    DaemonSet(String),
    /// A Job.
    Job(String),
    /// A file of the kubelet: a static pod.
    File,
}

impl PodSpec {
    /// A pod with one container `main` that writes `profile`; its uid is a function of the names.
    pub fn new(namespace: &str, name: &str, profile: Profile) -> Self {
        let mut random = Random::named(0, &format!("{namespace}/{name}"));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: random.uuid(),
            owner: Owner::None,
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            host_network: false,
            containers: vec![ContainerSpec::new("main", profile)],
        }
    }

    /// Name of its log directory: `<namespace>_<name>_<uid>`.
    pub fn log_dir(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }
}

/// The demo's pods: Deployments, a StatefulSet with a restarted container, a hostNetwork DaemonSet, a static pod.
pub fn default_pods(seed: u64) -> Vec<PodSpec> {
    let mut random = Random::named(seed, "pods");
    let mut pods = Vec::new();
    for _ in 0..3 {
        let web = [ContainerSpec::new("web", Profile::Mixed).weight(4)];
        pods.push(deployment(&mut random, "shop", "web", &web));
    }
    for _ in 0..2 {
        let mut main = ContainerSpec::new("api", Profile::Json).weight(4);
        main.resources.cpu_limit_millis = Some(500);
        let api = [main, ContainerSpec::new("sidecar", Profile::Logfmt).weight(2)];
        pods.push(deployment(&mut random, "shop", "api", &api));
    }
    pods.push(deployment(&mut random, "shop", "legacy", &[ContainerSpec::new("legacy", Profile::Crlf)]));
    for ordinal in 0..2 {
        let mut db = pod(&mut random, "data", &format!("db-{ordinal}"), "db");
        db.owner = Owner::StatefulSet("db".to_owned());
        db.containers = vec![ContainerSpec::new("db", Profile::Logfmt).weight(3)];
        db.containers[0].restarts = ordinal;
        pods.push(db);
    }
    let mut bigline = pod(&mut random, "data", "bigline", "bigline");
    bigline.containers = vec![ContainerSpec::new("big", Profile::Big)];
    bigline.containers[0].weight = 0;
    pods.push(bigline);
    let mut shapes = pod(&mut random, "batch", "shapes", "shapes");
    shapes.containers = [
        ("java", Profile::Java),
        ("python", Profile::Python),
        ("gopanic", Profile::Go),
        ("ansi", Profile::Ansi),
        ("invalid", Profile::InvalidUtf8),
        ("unicode", Profile::Unicode),
    ]
    .map(|(name, profile)| ContainerSpec::new(name, profile))
    .to_vec();
    pods.push(shapes);
    pods.push(deployment(
        &mut random,
        "payments",
        "ledger",
        &[ContainerSpec::new("ledger", Profile::Json).weight(3)],
    ));
    pods.push(deployment(
        &mut random,
        "kube-system",
        "coredns",
        &[ContainerSpec::new("coredns", Profile::Plain)],
    ));
    let mut agent = pod(&mut random, "kube-system", "node-agent-x7k2p", "node-agent");
    agent.owner = Owner::DaemonSet("node-agent".to_owned());
    agent.host_network = true;
    agent.containers = vec![ContainerSpec::new("agent", Profile::Klog).weight(2)];
    pods.push(agent);
    let mut fixed = pod(&mut random, "kube-system", "static-web-sim-node-1", "static-web");
    fixed.owner = Owner::File;
    fixed.uid = random.hex(32);
    fixed.containers = vec![ContainerSpec::new("web", Profile::Klog)];
    pods.push(fixed);
    pods
}

/// Pods that do not just run, for who wants to see it: one crash-loops, one is OOM-killed again and again, one waits for
/// its image, and one does its job and ends.
pub fn troubled_pods(seed: u64) -> Vec<PodSpec> {
    let mut random = Random::named(seed, "trouble");
    let (after, back_off) = (Duration::from_secs(4), Duration::from_secs(8));
    [
        ("shop", "crash", Fate::Ends { after, how: End::Error, back_off }),
        ("batch", "greedy", Fate::Ends { after: 2 * after, how: End::OomKilled, back_off: 2 * back_off }),
        ("payments", "typo", Fate::NoImage),
        ("batch", "report", Fate::Completes { after: after / 2 }),
    ]
    .map(|(namespace, name, fate)| {
        let mut trouble = pod(&mut random, namespace, name, name);
        trouble.containers = vec![ContainerSpec { fate, ..ContainerSpec::new(name, Profile::Plain) }];
        trouble
    })
    .to_vec()
}

/// A pod that lives for a second, as a CronJob's: the `number`th of its kind.
pub(crate) fn short_lived_pod(seed: u64, number: u64) -> PodSpec {
    let mut random = Random::named(seed, &format!("tick-{number}"));
    let job = format!("tick-{}", 29_919_880 + number);
    let name = format!("{job}-{}", random.hex(5));
    let mut tick = pod(&mut random, "batch", &name, "tick");
    tick.owner = Owner::Job(job);
    tick.containers = vec![ContainerSpec::new("tick", Profile::Mixed)];
    tick
}

fn pod(random: &mut Random, namespace: &str, name: &str, app: &str) -> PodSpec {
    let mut pod = PodSpec::new(namespace, name, Profile::Plain);
    pod.uid = random.uuid();
    pod.labels = BTreeMap::from([
        ("app".to_owned(), app.to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), namespace.to_owned()),
    ]);
    pod
}

fn deployment(random: &mut Random, namespace: &str, name: &str, containers: &[ContainerSpec]) -> PodSpec {
    let hash = Random::named(7, name).hex(10);
    let mut new = pod(random, namespace, &format!("{name}-{hash}-{}", random.clone().hex(5)), name);
    new.labels.insert("pod-template-hash".to_owned(), hash.clone());
    new.owner = Owner::ReplicaSet(format!("{name}-{hash}"));
    new.containers = containers.to_vec();
    new
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_default_node_is_as_varied_as_promised() {
        let pods = default_pods(1);
        let namespaces: HashSet<_> = pods.iter().map(|pod| &pod.namespace).collect();
        let dirs: HashSet<_> = pods.iter().map(PodSpec::log_dir).collect();
        assert!(namespaces.len() >= 3 && pods.len() >= 12, "{} pods", pods.len());
        assert_eq!(dirs.len(), pods.len(), "every pod has its own directory");
        assert!(pods.iter().any(|pod| pod.host_network));
        assert!(pods.iter().any(|pod| pod.owner == Owner::File && pod.uid.len() == 32));
        assert!(pods.iter().any(|pod| pod.containers.len() > 1));
        assert!(pods.iter().any(|pod| pod.containers.iter().any(|container| container.restarts == 1)));
    }
}
