use proptest::prelude::*;
use sonde_wire::attrs::AttrSet;
use sonde_wire::metrics::{MetricsEncoder, Number, Shape, Span};
use sonde_wire::view::check_metrics;

use super::*;

/// A time far from the epoch, at the beginning of a slot.
pub(crate) const NOW: u64 = 1_800_000_000;

/// Rows as an agent pushes them: family, labels, value.
pub(crate) type Rows<'a> = Vec<(&'a str, Vec<(&'a str, &'a str)>, f64)>;

/// A push of a node, read at `time` by its own clock.
pub(crate) fn request(node: &str, scope: &str, time: u64, rows: &Rows<'_>) -> Vec<u8> {
    let resource = AttrSet::builder().str("k8s.cluster.name", "c").str("k8s.node.name", node).build();
    let mut encoder = MetricsEncoder::new(Vec::new(), &resource, scope, "1");
    for (name, labels, value) in rows {
        let shape = if name.ends_with("_total") { Shape::Sum } else { Shape::Gauge };
        let span = Span { start: 0, time: time * 1_000_000_000 };
        encoder.metric(name, "", shape).point(labels.iter().copied(), span, Number::Double(*value));
    }
    encoder.finish()
}

fn push(metrics: &Metrics, node: &str, at: u64, rows: &Rows<'_>) -> Taken {
    let bytes = request(node, sample::AGENT_SCOPE, at, rows);
    check_metrics(&bytes, &Default::default()).unwrap();
    metrics.take(MetricsRequest::trusted(&bytes), at)
}

/// A node with one pod of two containers that has used `cpu` seconds.
pub(crate) fn node<'a>(pod: &'a str, cpu: f64) -> Rows<'a> {
    let pod_labels = || vec![("namespace", "shop"), ("pod", pod), ("uid", "u1")];
    let with = |more: &[(&'a str, &'a str)]| [&pod_labels()[..], more].concat();
    vec![
        ("node_cpu_seconds_total", vec![("cpu", "0"), ("mode", "idle")], 1000.0),
        ("node_cpu_seconds_total", vec![("cpu", "0"), ("mode", "iowait")], cpu * 5.0),
        ("node_cpu_seconds_total", vec![("cpu", "0"), ("mode", "user")], cpu),
        ("node_cpu_seconds_total", vec![("cpu", "1"), ("mode", "idle")], 1000.0),
        ("node_cpu_seconds_total", vec![("cpu", "1"), ("mode", "system")], cpu),
        ("node_memory_MemTotal_bytes", vec![], 8e9),
        ("node_memory_MemAvailable_bytes", vec![], 6e9),
        ("node_network_receive_bytes_total", vec![("device", "eth0")], cpu * 100.0),
        ("node_network_receive_bytes_total", vec![("device", "veth1a2b")], cpu * 7000.0),
        ("kube_pod_info", with(&[("created_by_kind", "ReplicaSet"), ("created_by_name", "web")]), 1.0),
        ("kube_pod_status_phase", with(&[("phase", "Pending")]), 0.0),
        ("kube_pod_status_phase", with(&[("phase", "Running")]), 1.0),
        ("kube_pod_status_ready", with(&[("condition", "true")]), 1.0),
        ("kube_pod_status_ready", with(&[("condition", "false")]), 0.0),
        ("kube_pod_container_status_ready", with(&[("container", "app")]), 1.0),
        ("kube_pod_container_status_restarts_total", with(&[("container", "app")]), 3.0),
        ("kube_pod_container_status_restarts_total", with(&[("container", "side")]), 1.0),
        ("kube_pod_container_resource_limits", with(&[("container", "app"), ("resource", "memory")]), 2e9),
        ("container_cpu_usage_seconds_total", with(&[("id", "/p")]), cpu * 3.0),
        (
            "container_cpu_usage_seconds_total",
            with(&[("id", "/p/s"), ("name", "s"), ("image", "pause")]),
            9.0,
        ),
        (
            "container_cpu_usage_seconds_total",
            with(&[("id", "/p/a"), ("name", "a"), ("container", "app")]),
            cpu,
        ),
        ("container_memory_working_set_bytes", with(&[("id", "/p")]), 5e8),
        (
            "container_memory_working_set_bytes",
            with(&[("id", "/p/a"), ("name", "a"), ("container", "app")]),
            4e8,
        ),
        ("container_network_receive_bytes_total", with(&[("name", "s"), ("interface", "eth0")]), cpu * 10.0),
        ("container_network_receive_bytes_total", with(&[("name", "s"), ("interface", "net1")]), cpu * 10.0),
        ("container_network_receive_errors_total", with(&[("container", "POD"), ("interface", "eth0")]), 1.0),
        ("container_cpu_usage_seconds_total", vec![("id", "/")], 77.0),
        ("sonde_namespace_cpu_usage_seconds_total", vec![("namespace", "shop")], cpu * 3.0),
        ("sonde_namespace_memory_working_set_bytes", vec![("namespace", "shop")], 5e8),
        ("sonde_namespace_pods", vec![("namespace", "shop"), ("phase", "Running")], 1.0),
    ]
}

/// Two pushes ten seconds apart, in which the node's CPUs worked `cpu` seconds each.
pub(crate) fn pushed(pod: &str, cpu: f64) -> Metrics {
    let metrics = Metrics::default();
    push(&metrics, "n1", NOW, &node(pod, 100.0));
    push(&metrics, "n1", NOW + 10, &node(pod, 100.0 + cpu));
    metrics
}

#[test]
fn two_samples_make_rates_and_a_state() {
    pushed("web", 5.0).look(|state| {
        let (key, node) = state.nodes().next().unwrap();
        assert_eq!((&*key.0, &*key.1), ("c", "n1"));
        assert_eq!(node.now.cpu, Some(1.0), "two CPUs half busy; waiting for a disk is idle");
        assert_eq!((node.facts.cpus, node.now.memory), (2, Some(2e9)));
        assert_eq!(node.now.receive, Some(50.0), "not what pods sent to each other");
        let (name, pod) = node.pods.iter().next().unwrap();
        assert_eq!((&*name.namespace, &*name.pod), ("shop", "web"));
        assert_eq!((&*pod.state, pod.ready, pod.restarts), ("Running", Some(true), 4.0));
        assert_eq!(pod.now, Use { cpu: Some(1.5), memory: Some(5e8), receive: Some(10.0), transmit: None });
        assert_eq!((&*pod.owner.0, &*pod.uid), ("ReplicaSet", "u1"));
        assert_eq!(pod.memory_limit, None, "one container has none");
        assert_eq!(pod.containers.len(), 2, "the sandbox is none");
        assert_eq!(pod.containers["app"].now.cpu, Some(0.5));
        let (key, namespace) = state.namespaces().next().unwrap();
        let sum = state.sum(&key.0, namespace, NOW + 12);
        assert_eq!((sum.now.cpu, sum.now.memory, sum.phases[1]), (Some(1.5), Some(5e8), 1));
    });
}

#[test]
fn a_node_that_is_not_heard_of_is_stale_and_counts_in_no_sum() {
    pushed("web", 5.0).look(|state| {
        let ((_, node), (key, namespace)) =
            (state.nodes().next().unwrap(), state.namespaces().next().unwrap());
        for (after, stale) in [(10, false), (30, false), (41, true)] {
            assert_eq!(node.is_stale(NOW + 10 + after), stale, "{after}");
            let sum = state.sum(&key.0, namespace, NOW + 10 + after);
            assert_eq!((sum.nodes, sum.now.cpu.is_some()), if stale { (0, false) } else { (1, true) });
        }
    });
}

#[test]
fn a_pod_that_is_gone_has_its_history_for_an_hour_and_then_nothing() {
    let metrics = pushed("old", 1.0);
    push(&metrics, "n1", NOW + 20, &node("new", 5.0));
    metrics.look(|state| {
        let node = state.nodes().next().unwrap().1;
        let of = |name: &str| node.pods.iter().find(|(own, _)| &*own.pod == name).unwrap().1;
        assert!(node.has(of("new")) && !node.has(of("old")));
        assert!(of("old").graphs.cpu.get(slot_of(NOW + 10)).is_some());
        assert_eq!(state.budget.pods(), 2);
    });
    let before = metrics.look(|state| state.budget.rings());
    push(&metrics, "n1", NOW + 10 + KEPT + 60, &node("new", 9.0));
    metrics.look(|state| {
        assert_eq!((state.budget.pods(), state.nodes().next().unwrap().1.pods.len()), (1, 1));
        assert!(state.budget.rings() < before);
    });
    push(&metrics, "n2", NOW + 3 * KEPT, &vec![]);
    metrics.look(|state| {
        let names: Vec<_> = state.nodes().map(|(key, _)| &*key.1).collect();
        assert_eq!((names, state.namespaces().count()), (vec!["n2"], 0));
        assert_eq!((state.budget.pods(), state.budget.rings()), (0, 0), "all is given back");
    });
}

#[test]
fn what_does_not_fit_is_counted_and_left_out() {
    let limits = Limits { rings: 9, pods: 2, nodes: 1, namespaces: 1 };
    let metrics = Metrics::new(limits);
    for pod in ["a", "b", "c"] {
        for at in [NOW, NOW + 10] {
            push(&metrics, "n1", at, &node(pod, at as f64 - NOW as f64));
        }
    }
    push(&metrics, "n2", NOW + 20, &node("d", 1.0));
    push(&metrics, "n1", NOW + 20, &vec![("sonde_namespace_pods", vec![("namespace", "other")], 1.0)]);
    metrics.look(|state| {
        assert_eq!((state.nodes.len(), state.namespaces.len()), (1, 1));
        assert_eq!((state.budget.pods(), state.budget.rings()), (2, 9));
        assert!(state.budget.refused > 4, "{}", state.budget.refused);
    });
}

#[test]
fn one_request_cannot_tell_of_more_than_its_room() {
    let names: Vec<String> = (0..30_000).map(|n| format!("p{n}")).collect();
    let rows =
        names.iter().map(|name| ("kube_pod_start_time", vec![("namespace", "x"), ("pod", &**name)], 1.0));
    let bytes = request("n", sample::AGENT_SCOPE, NOW, &rows.collect());
    let samples = sample::read(MetricsRequest::trusted(&bytes));
    assert_eq!(samples.taken, 30_000);
    assert_eq!(samples.nodes.values().map(|node| node.pods.len()).sum::<usize>(), 19_999);
}

#[test]
fn what_the_agent_says_under_the_conventions_names_is_passed_over_and_not_refused() {
    let bytes = request("n1", sample::CONVENTIONS_SCOPE, NOW, &node("web", 1.0));
    let samples = sample::read(MetricsRequest::trusted(&bytes));
    assert!(samples.nodes.is_empty());
    assert_eq!((samples.taken, samples.others), (0, 0));
}

#[test]
fn metrics_of_others_are_nobodys() {
    let metrics = Metrics::default();
    let rows = node("web", 1.0);
    for (node, scope) in [("n1", "io.opentelemetry.runtime"), ("", sample::AGENT_SCOPE)] {
        let bytes = request(node, scope, NOW, &rows);
        let taken = metrics.take(MetricsRequest::trusted(&bytes), NOW);
        assert_eq!(taken, Taken { taken: 0, rejected: rows.len() as u64 });
    }
    metrics.look(|state| assert_eq!(state.nodes().count() + state.namespaces().count(), 0));
}

#[test]
fn a_thousand_pods_have_ten_thousand_histories() {
    let names: Vec<String> = (0..1000).map(|n| format!("web-{n}")).collect();
    let metrics = Metrics::default();
    for at in [NOW, NOW + 10] {
        let rows: Rows<'_> = names
            .iter()
            .flat_map(|name| {
                let mut rows = node(name, at as f64);
                let both =
                    [("container", "side"), ("name", "b"), ("namespace", "shop"), ("pod", name.as_str())];
                rows.push(("container_cpu_usage_seconds_total", both.to_vec(), at as f64));
                rows.push(("container_memory_working_set_bytes", both.to_vec(), 1.0));
                let sent = [("namespace", "shop"), ("pod", name.as_str())];
                rows.push(("container_network_transmit_bytes_total", sent.to_vec(), at as f64));
                rows
            })
            .collect();
        push(&metrics, "n1", at, &rows);
    }
    metrics.look(|state| {
        let of_the_node = 3;
        assert_eq!(state.budget.rings(), 10 * 1000 + of_the_node, "7.2 MB, as the module's head says");
        assert_eq!(state.budget.refused, 0);
    });
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c]", "\\PC{0,5}", Just("x".repeat(5000))]
}

proptest! {
    /// Whatever is pushed, in whatever order of time: nothing panics, and what is used is what is counted.
    #[test]
    fn hostile_samples_are_taken_or_left(
        pushes in prop::collection::vec(
            (names(), 0u64..20_000, prop::collection::vec(
                (prop::sample::select(vec![
                    "kube_pod_info", "kube_pod_status_phase", "container_cpu_usage_seconds_total",
                    "container_memory_working_set_bytes", "sonde_namespace_pods", "node_cpu_seconds_total",
                    "sonde_namespace_cpu_usage_seconds_total", "kube_pod_container_status_restarts_total",
                ]), names(), names(), names(), prop_oneof![any::<f64>(), 0.0..1e6]), 0..12)), 1..12),
    ) {
        let metrics = Metrics::new(Limits { rings: 20, pods: 5, nodes: 3, namespaces: 3 });
        for (node, time, rows) in &pushes {
            let rows = rows.iter().map(|(family, a, b, c, value)| {
                (*family, vec![("namespace", a.as_str()), ("pod", b), ("container", c), ("phase", c), ("mode", c)], *value)
            });
            let bytes = request(node, sample::AGENT_SCOPE, *time, &rows.collect());
            check_metrics(&bytes, &Default::default()).unwrap();
            metrics.take(MetricsRequest::trusted(&bytes), NOW + time);
        }
        metrics.look(|state| {
            let pods: usize = state.nodes().map(|(_, node)| node.pods.len()).sum();
            let used = |ring: &ring::Ring| usize::from(!ring.is_empty());
            let of = |graphs: &Graphs| [&graphs.cpu, &graphs.memory, &graphs.receive, &graphs.transmit].map(used).iter().sum::<usize>();
            let rings: usize = state.nodes().map(|(_, node)| {
                of(&node.graphs) + node.pods.values().map(|pod| {
                    of(&pod.graphs) + used(&pod.restarts_graph) + used(&pod.ready_graph)
                        + pod.containers.values().map(|one| used(&one.cpu) + used(&one.memory)).sum::<usize>()
                }).sum::<usize>()
            }).sum();
            prop_assert_eq!((state.budget.pods(), state.budget.rings()), (pods, rings));
            prop_assert!(pods <= 5 && rings <= 20 && state.nodes.len() <= 3 && state.namespaces.len() <= 3);
            Ok(())
        })?;
    }
}
