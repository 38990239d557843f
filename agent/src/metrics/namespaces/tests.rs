use std::time::{Duration as Span, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::logs::ledger::Intake;
use crate::logs::metrics::Snapshot;
use crate::metrics::cgroup::{Cgroup, cpu::Cpu, memory::Memory, pids::Pids};
use crate::metrics::pod_network::{Interface, Traffic};
use crate::metrics::sampler::{Names, PodNetwork};
use crate::metrics::tests::{families, recorded, recorded_pods};

/// One pod at one instant: namespace, uid, CPU seconds, bytes received, kills.
type Pod = (&'static str, &'static str, u32, u64, u64);

fn sample(second: u64, named: bool, pods: &[Pod]) -> Sample {
    let rows = pods.iter().map(|(namespace, uid, cpu, _, kills)| Row {
        cgroup: Cgroup {
            id: format!("/kubepods/pod{uid}"),
            kind: Kind::Pod { uid: (*uid).to_owned() },
            started: 0.0,
            cpu: Some(Cpu { usage_seconds: f64::from(*cpu), ..Cpu::default() }),
            memory: Some(Memory { working_set: 10, rss: 5, oom_kills: Some(*kills), ..Memory::default() }),
            io: Vec::new(),
            pids: Pids::default(),
            pressure: None,
        },
        names: Names { namespace: (*namespace).to_owned(), ..Names::default() },
        shown: true,
    });
    let networks = pods.iter().map(|(_, uid, _, bytes, _)| PodNetwork {
        uid: (*uid).to_owned(),
        id: format!("/kubepods/pod{uid}/sandbox"),
        names: Names::default(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            receive: Traffic { bytes: *bytes, ..Traffic::default() },
            transmit: Traffic::default(),
        }],
    });
    let known = pods.iter().filter(|_| named).map(|(namespace, uid, ..)| {
        let mut pod = v1::Pod::default();
        (*uid).clone_into(&mut pod.metadata.uid);
        (*namespace).clone_into(&mut pod.metadata.namespace);
        pod
    });
    Sample {
        at: SystemTime::UNIX_EPOCH + Span::from_secs(second),
        rows: rows.collect(),
        node_network: Vec::new(),
        pod_networks: networks.collect(),
        pods: known.collect(),
    }
}

fn used(totals: &Totals, namespace: &str) -> (f64, u64, u64) {
    let used = totals.namespaces.get(namespace).copied().unwrap_or_default();
    (used.counters.cpu_seconds, used.receive.bytes, used.counters.oom_kills)
}

#[test]
fn counters_neither_jump_at_the_start_nor_fall_when_a_pod_ends() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[("shop", "old", 1000, 5000, 3)]));
    assert_eq!(used(&totals, "shop"), (0.0, 0, 0), "it has run for long before");
    totals.advance(&sample(2, true, &[("shop", "old", 1010, 5500, 4), ("shop", "new", 2, 70, 0)]));
    assert_eq!(used(&totals, "shop"), (12.0, 570, 1), "a new pod counts from its first second");
    totals.advance(&sample(3, true, &[("shop", "new", 5, 100, 0)]));
    assert_eq!(used(&totals, "shop"), (15.0, 600, 1));
    totals.advance(&sample(4, true, &[]));
    assert_eq!(used(&totals, "shop"), (15.0, 600, 1));
    totals.advance(&sample(5, true, &[("shop", "new", 1, 10, 0)]));
    assert_eq!(used(&totals, "shop"), (16.0, 610, 1));
}

#[test]
fn a_counter_that_starts_again_is_counted_from_nothing() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[("shop", "a", 100, 900, 0)]));
    totals.advance(&sample(2, true, &[("shop", "a", 7, 40, 0)]));
    assert_eq!(used(&totals, "shop"), (7.0, 40, 0));
}

#[test]
fn what_a_pod_used_before_its_namespace_was_known_is_not_lost() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[]));
    totals.advance(&sample(2, false, &[("shop", "a", 3, 30, 0)]));
    totals.advance(&sample(3, false, &[("shop", "a", 5, 50, 1)]));
    assert_eq!(used(&totals, "shop"), (0.0, 0, 0));
    totals.advance(&sample(4, true, &[("shop", "a", 6, 60, 1)]));
    assert_eq!(used(&totals, "shop"), (6.0, 60, 1));
}

#[test]
fn the_same_sample_counts_once() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[]));
    let second = sample(2, true, &[("shop", "a", 3, 30, 0)]);
    totals.advance(&second);
    totals.advance(&second);
    assert_eq!(used(&totals, "shop"), (3.0, 30, 0));
}

#[test]
fn what_was_read_of_each_namespaces_logs_stands_beside_its_pods_once_the_reader_has_looked() {
    let (_dir, paths) = recorded();
    let logs = LogMetrics::default();
    let namespaces = Arc::new(Namespaces::new(Arc::new(Sampler::new(&paths, recorded_pods())), logs.clone()));
    let shown = || {
        let namespaces = Arc::clone(&namespaces);
        families(&crate::metrics::tests::rendered(move |out| namespaces.collect(out).unwrap()))
    };
    assert!(!shown().contains_key("sonde_namespace_log_bytes_total"), "nothing is known");
    // One whose pods are all gone.
    let gone = ("gone".to_owned(), Intake { bytes: 500, records: 4 });
    logs.publish(Snapshot { namespaces: vec![gone], ..Snapshot::default() }, Vec::new());
    let shown = shown();
    let sum = |name: &str| (shown[name].len(), shown[name].values().sum::<f64>());
    let cpu = shown["sonde_namespace_cpu_usage_seconds_total"].len();
    assert_eq!(sum("sonde_namespace_log_bytes_total"), (cpu + 1, 500.0));
    assert_eq!(sum("sonde_namespace_log_lines_total"), (cpu + 1, 4.0));
}

#[test]
fn the_recorded_nodes_namespaces_add_up_to_its_pods() {
    let (_dir, paths) = recorded();
    let sampler = Arc::new(Sampler::new(&paths, recorded_pods()));
    let sample = sampler.sample().unwrap();
    let pods: u64 = sample
        .rows
        .iter()
        .filter(|row| matches!(row.cgroup.kind, Kind::Pod { .. }) && row.shown)
        .filter_map(|row| Some(row.cgroup.memory?.working_set))
        .sum();
    let namespaces = Namespaces::new(sampler, LogMetrics::default());
    let text = crate::metrics::tests::rendered(move |out| namespaces.collect(out).unwrap());
    let families = families(&text);
    let sum = |name: &str| families[name].values().sum::<f64>();
    #[allow(clippy::cast_precision_loss)]
    let pods = pods as f64;
    assert_eq!(sum("sonde_namespace_memory_working_set_bytes"), pods);
    #[allow(clippy::cast_precision_loss)]
    let count = sample.pods.len() as f64;
    assert_eq!(sum("sonde_namespace_pods"), count);
    assert_eq!(families["sonde_namespace_cpu_usage_seconds_total"].len(), 5);
    assert!(sum("sonde_namespace_cpu_limit_cores") > 0.0);
}

/// What happens to a pod between two samples.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It uses so much, and is started for that where it is not there.
    Uses(u32),
    /// It ends.
    Ends,
    /// It ends, and is there again under the same uid having used so much.
    Again(u32),
    /// Its container is another one, and it uses so much.
    Restarts(u32),
}

/// What a sample sees of a pod.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// The kubelet has told of it.
    named: bool,
    /// Its own cgroup can be read.
    own: bool,
    /// Its container's cgroup can be read.
    container: bool,
    /// Its network can be read.
    network: bool,
}

fn step() -> impl Strategy<Value = (Step, Sight)> {
    let step = prop_oneof![
        6 => (0u32..50).prop_map(Step::Uses),
        1 => Just(Step::Ends),
        1 => (0u32..50).prop_map(Step::Again),
        1 => (0u32..50).prop_map(Step::Restarts),
    ];
    let seen = || prop::bool::weighted(0.8);
    let sight = (seen(), seen(), seen(), seen()).prop_map(|(named, own, container, network)| Sight {
        named,
        own,
        container,
        network,
    });
    (step, sight)
}

/// A pod and what has been seen of it. All its counters stand at `amount`, its container's at `throttled`.
#[derive(Clone, Copy, Debug)]
struct Life {
    amount: u32,
    container: u32,
    throttled: u32,
    /// The last readings of the pod's own counters, the network's and the container's; `None`: none yet, and it is older
    /// than the agent.
    last: [Option<u32>; 3],
    /// What is known to be used, and waits for the pod's name.
    unnamed: [u32; 3],
}

impl Life {
    fn new(amount: u32) -> Self {
        Self { amount, container: 0, throttled: amount, last: [Some(0); 3], unnamed: [0; 3] }
    }

    fn after(then: Option<Self>, step: Step, began: bool) -> Option<Self> {
        let Some(mut life) = then else {
            let (Step::Uses(amount) | Step::Again(amount) | Step::Restarts(amount)) = step else {
                return None;
            };
            return Some(Self::new(amount));
        };
        match step {
            Step::Uses(more) => {
                life.amount += more;
                life.throttled += more;
            }
            Step::Restarts(more) => {
                life.amount += more;
                (life.container, life.throttled) = (life.container + 1, more);
                life.last[2] = (!began).then_some(0);
            }
            Step::Again(amount) => (life.amount, life.throttled) = (amount, amount),
            Step::Ends => return None,
        }
        Some(life)
    }

    /// What is added to the namespace when it is seen so.
    fn seen(&mut self, sight: Sight) -> [u32; 3] {
        let now = [self.amount, self.amount, self.throttled];
        // A network counts once the pod is known, but what it had before the agent is known at once.
        let network = sight.network && (sight.named || self.last[1].is_none());
        for (at, seen) in [sight.own, network, sight.container].into_iter().enumerate() {
            if seen {
                let before = self.last[at].replace(now[at]).unwrap_or(now[at]);
                self.unnamed[at] += if now[at] >= before { now[at] - before } else { now[at] };
            }
        }
        if sight.named { std::mem::take(&mut self.unnamed) } else { [0; 3] }
    }
}

fn seen(second: usize, pods: &[(&'static str, &'static str, Life, Sight)]) -> Sample {
    let all: Vec<Pod> = pods
        .iter()
        .map(|(namespace, uid, life, _)| {
            (*namespace, *uid, life.amount, u64::from(life.amount), u64::from(life.amount))
        })
        .collect();
    let mut sample = sample(second as u64, true, &all);
    let mut containers = Vec::new();
    for ((_, uid, life, sight), row) in pods.iter().zip(&mut sample.rows) {
        let mut container = row.clone();
        container.cgroup.id = format!("/kubepods/pod{uid}/c{}", life.container);
        container.cgroup.kind = Kind::Container { uid: (*uid).to_owned(), id: life.container.to_string() };
        let throttled_seconds = f64::from(life.throttled);
        container.cgroup.cpu =
            sight.container.then(|| Cpu { usage_seconds: 9.0, throttled_seconds, ..Cpu::default() });
        containers.push(container);
        if !sight.own {
            (row.cgroup.cpu, row.cgroup.memory) = (None, None);
        }
    }
    sample.rows.extend(containers);
    let sight = |uid: &str| pods.iter().find(|pod| pod.1 == uid).unwrap().3;
    sample.pod_networks.retain(|network| sight(&network.uid).network);
    sample.pods = sample.pods.iter().filter(|pod| sight(&pod.metadata.uid).named).cloned().collect();
    sample
}

proptest! {
    /// Beside a plain sum of what each pod did while an agent looked.
    #[test]
    fn sums_over_namespaces_equal_the_pods_through_starts_ends_restarts_and_what_is_not_seen_for_once(
        steps in prop::collection::vec((prop::array::uniform4(step()), prop::bool::weighted(0.1)), 1..40)
    ) {
        const PODS: [(&str, &str); 4] = [("x", "a"), ("x", "b"), ("y", "c"), ("z", "d")];
        let mut lives = [Some(Life::new(1000)), None, Some(Life::new(7)), None];
        let (mut totals, mut expected, mut used_at_all) =
            (Totals::default(), BTreeMap::new(), BTreeMap::new());
        for (second, (steps, agent_restarts)) in steps.iter().enumerate() {
            if *agent_restarts {
                (totals, expected, used_at_all) = (Totals::default(), BTreeMap::new(), BTreeMap::new());
            }
            let before: Vec<_> = PODS.iter().map(|(namespace, _)| used(&totals, namespace)).collect();
            let mut there = Vec::new();
            for ((life, (step, sight)), (namespace, uid)) in lives.iter_mut().zip(steps).zip(PODS) {
                *life = Life::after(*life, *step, !totals.begun);
                if let (Step::Uses(amount) | Step::Again(amount) | Step::Restarts(amount), true) =
                    (*step, totals.begun)
                {
                    *used_at_all.entry(namespace).or_insert(0) += amount;
                }
                let Some(life) = life else { continue };
                if !totals.begun {
                    (life.last, life.unnamed) = ([None; 3], [0; 3]);
                }
                there.push((namespace, uid, *life, *sight));
                let sums: &mut [u32; 3] = expected.entry(namespace).or_default();
                for (sum, more) in sums.iter_mut().zip(life.seen(*sight)) {
                    *sum += more;
                }
            }
            totals.advance(&seen(second, &there));
            for ((namespace, _), before) in PODS.iter().zip(before) {
                let now = used(&totals, namespace);
                let [own, network, throttled] = expected.get(namespace).copied().unwrap_or_default();
                prop_assert_eq!(now, (f64::from(own), u64::from(network), u64::from(own)), "{}", namespace);
                let all = totals.namespaces.get(*namespace).copied().unwrap_or_default();
                prop_assert_eq!(all.counters.throttled_seconds, f64::from(throttled), "{}", namespace);
                prop_assert!(now >= before, "{} falls", namespace);
                let most = used_at_all.get(namespace).copied().unwrap_or(0);
                prop_assert!(own.max(network).max(throttled) <= most, "{} jumps", namespace);
            }
        }
    }
}

#[test]
fn pods_that_are_older_than_the_agent_and_known_late_do_not_add_their_lifetimes_traffic() {
    let mut totals = Totals::default();
    let mut first = sample(1, false, &[("shop", "old", 1000, 0, 3)]);
    first.pod_networks.clear();
    totals.advance(&first);
    totals.advance(&sample(2, true, &[("shop", "old", 1001, 5000, 3), ("shop", "new", 1, 70, 0)]));
    assert_eq!(used(&totals, "shop"), (2.0, 70, 0), "a new pod's traffic counts from its first byte");
    totals.advance(&sample(3, true, &[("shop", "old", 1001, 5010, 3), ("shop", "new", 1, 70, 0)]));
    assert_eq!(used(&totals, "shop"), (2.0, 80, 0));
}

#[test]
fn the_hosts_traffic_is_not_a_pods_that_turns_out_to_be_of_the_hosts_network() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[]));
    // Whose network it is cannot be seen from outside before the kubelet tells.
    totals.advance(&sample(2, false, &[("shop", "proxy", 1, 1_000_000, 0)]));
    let mut known = sample(3, true, &[("shop", "proxy", 2, 0, 0)]);
    known.pod_networks.clear();
    totals.advance(&known);
    assert_eq!(used(&totals, "shop"), (2.0, 0, 0));
}

#[test]
fn what_cannot_be_read_for_once_goes_on_from_where_it_was() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[("shop", "one", 1000, 0, 7)]));
    let mut unread = sample(2, true, &[("shop", "one", 0, 0, 0)]);
    (unread.rows[0].cgroup.cpu, unread.rows[0].cgroup.memory) = (None, None);
    totals.advance(&unread);
    totals.advance(&sample(3, true, &[("shop", "one", 1003, 0, 8)]));
    assert_eq!(used(&totals, "shop"), (3.0, 0, 1));
}

#[test]
fn a_kill_of_a_container_is_counted_once_by_its_pods_row() {
    let at = |second, kills: u64| {
        let mut sample = sample(second, true, &[("shop", "one", 5, 0, kills)]);
        let mut container = sample.rows[0].clone();
        container.cgroup.id = "/kubepods/podone/container".to_owned();
        container.cgroup.kind = Kind::Container { uid: "one".to_owned(), id: "c".to_owned() };
        container.cgroup.memory = Some(Memory { oom_kills: Some(kills), ..Memory::default() });
        sample.rows.push(container);
        sample
    };
    let mut totals = Totals::default();
    totals.advance(&at(1, 0));
    totals.advance(&at(2, 1));
    assert_eq!(used(&totals, "shop").2, 1);
}

#[test]
fn a_network_that_is_read_through_another_container_or_not_at_all_for_once_is_not_counted_again() {
    let mut totals = Totals::default();
    totals.advance(&sample(1, true, &[("shop", "one", 0, 5000, 0)]));
    let mut restarted = sample(2, true, &[("shop", "one", 0, 5100, 0)]);
    restarted.pod_networks[0].id = "/kubepods/podone/new".to_owned();
    totals.advance(&restarted);
    let mut unread = sample(3, true, &[("shop", "one", 0, 0, 0)]);
    unread.pod_networks.clear();
    totals.advance(&unread);
    totals.advance(&sample(4, true, &[("shop", "one", 0, 5300, 0)]));
    assert_eq!(used(&totals, "shop").1, 300);
    totals.advance(&sample(5, true, &[]));
    assert!(totals.pods.is_empty(), "a pod that is gone is forgotten");
}
