use std::time::{Duration as Span, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::logs::ledger::Intake;
use crate::logs::metrics::Snapshot;
use crate::metrics::cgroup::{Cgroup, cpu::Cpu, memory::Memory, pids::Pids};
use crate::metrics::pod_network::Interface;
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
            memory: Some(Memory { working_set: 10, rss: 5, oom_kills: *kills, ..Memory::default() }),
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
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![6 => (0u32..50).prop_map(Step::Uses), 1 => Just(Step::Ends), 1 => (0u32..50).prop_map(Step::Again)]
}

proptest! {
    /// Beside a plain sum of what each pod did while an agent looked.
    #[test]
    fn sums_over_namespaces_equal_the_pods_through_starts_ends_and_agent_restarts(
        steps in prop::collection::vec((prop::array::uniform4(step()), prop::bool::weighted(0.1)), 1..40)
    ) {
        const PODS: [(&str, &str); 4] = [("x", "a"), ("x", "b"), ("y", "c"), ("z", "d")];
        let mut pods = [Some(1000), None, Some(7), None];
        let (mut totals, mut expected) = (Totals::default(), BTreeMap::new());
        for (second, (steps, agent_restarts)) in steps.iter().enumerate() {
            if *agent_restarts {
                (totals, expected) = (Totals::default(), BTreeMap::new());
            }
            let before: Vec<_> = PODS.iter().map(|(namespace, _)| used(&totals, namespace)).collect();
            for ((pod, step), (namespace, _)) in pods.iter_mut().zip(steps).zip(PODS) {
                let (now, more) = match (*pod, *step) {
                    (_, Step::Ends) => (None, 0),
                    // A counter that has grown all the same cannot be told from one that went on.
                    (Some(then), Step::Again(amount)) if amount >= then => (Some(amount), amount - then),
                    (_, Step::Again(amount)) => (Some(amount), amount),
                    (then, Step::Uses(amount)) => (Some(then.unwrap_or(0) + amount), amount),
                };
                *pod = now;
                if totals.begun {
                    *expected.entry(namespace).or_insert(0) += more;
                }
            }
            let there = pods.iter().zip(PODS).filter_map(|(pod, (namespace, uid))| {
                pod.map(|amount| (namespace, uid, amount, u64::from(amount), u64::from(amount)))
            });
            totals.advance(&sample(second as u64, true, &there.collect::<Vec<Pod>>()));
            for ((namespace, _), before) in PODS.iter().zip(before) {
                let (now, want) = (used(&totals, namespace), expected.get(namespace).copied().unwrap_or(0));
                prop_assert_eq!(now, (f64::from(want), u64::from(want), u64::from(want)), "{}", namespace);
                prop_assert!(now >= before, "{} falls", namespace);
            }
        }
    }
}

#[test]
fn a_kill_of_a_container_is_counted_once_by_its_pods_row() {
    let at = |second, kills: u64| {
        let mut sample = sample(second, true, &[("shop", "one", 5, 0, kills)]);
        let mut container = sample.rows[0].clone();
        container.cgroup.id = "/kubepods/podone/container".to_owned();
        container.cgroup.kind = Kind::Container { uid: "one".to_owned(), id: "c".to_owned() };
        container.cgroup.memory = Some(Memory { oom_kills: kills, ..Memory::default() });
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
    assert!(totals.interfaces.is_empty(), "a pod that is gone is forgotten");
}
