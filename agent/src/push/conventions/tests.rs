use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use prost::Message;

use super::*;
use crate::config::Config;
use crate::metrics::Sources;
use crate::metrics::tests::{recorded, recorded_pods};

/// By resource (`node`, `pod` or `container` and its names): metric, unit, shape, attributes, value.
type Said = BTreeMap<String, Vec<(String, String, &'static str, String, f64)>>;

fn text(attributes: &[KeyValue]) -> String {
    let one = |pair: &KeyValue| {
        let Some(Any::StringValue(text)) = pair.value.clone().unwrap().value else { panic!("no string") };
        format!("{}={text}", pair.key)
    };
    attributes.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[allow(clippy::cast_precision_loss)]
fn said(bytes: &[u8]) -> Said {
    let request = ExportMetricsServiceRequest::decode(bytes).unwrap();
    let mut said = Said::new();
    for resource in &request.resource_metrics[1..] {
        let scope = &resource.scope_metrics[0];
        assert_eq!(scope.scope.as_ref().unwrap().name, CONVENTIONS_SCOPE);
        let name = text(&resource.resource.as_ref().unwrap().attributes);
        for metric in &scope.metrics {
            let (shape, points) = match metric.data.as_ref().unwrap() {
                Data::Gauge(gauge) => ("gauge", &gauge.data_points),
                Data::Sum(sum) if sum.is_monotonic => ("counter", &sum.data_points),
                Data::Sum(sum) => ("updown", &sum.data_points),
                other => panic!("{other:?}"),
            };
            for point in points {
                let value = match point.value.unwrap() {
                    Value::AsInt(value) => value as f64,
                    Value::AsDouble(value) => value,
                };
                let row = (metric.name.clone(), metric.unit.clone(), shape, text(&point.attributes), value);
                said.entry(name.clone()).or_default().push(row);
            }
        }
    }
    said
}

/// Two pushes of the recorded node.
fn pushed(config: &Config) -> [Said; 2] {
    let (_dir, paths) = recorded();
    let sources =
        Sources::new(&config.metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default()).unwrap();
    let node = sources.sections().node.unwrap().sample();
    let mut conventions = Conventions::new(&config.metrics);
    let first = sources.sampler().sample().unwrap();
    // Ten seconds after, and every cgroup has used five more.
    let mut second = (*first).clone();
    second.at = first.at + std::time::Duration::from_secs(10);
    for row in &mut second.rows {
        row.cgroup.cpu.as_mut().unwrap().usage_seconds += 5.0;
    }
    [first, Arc::new(second)].map(|sample| {
        let mut encoder = MetricsEncoder::new(Vec::new(), &AttrSet::default(), "s", "1");
        conventions.learn(&node, sample.at);
        conventions.put(Some(&sample), ("lab", "lab-node-1"), &mut encoder);
        said(&encoder.finish())
    })
}

/// Unit, shape and values of a metric at a resource, with the attributes of each point.
fn of<'s>(said: &'s Said, resource: &str, metric: &str) -> Vec<(&'s str, &'s str, &'s str, f64)> {
    let rows =
        said.iter().find(|(name, _)| name.contains(resource)).unwrap_or_else(|| panic!("{resource}")).1;
    let rows = rows.iter().filter(|row| row.0 == metric);
    rows.map(|row| (row.1.as_str(), row.2, row.3.as_str(), row.4)).collect()
}

/// Name, instrument and unit of every metric of the conventions that is not deprecated; its head says whence.
const REGISTRY: &str = include_str!("registry.csv");

#[test]
fn every_metric_is_in_the_conventions_registry_with_its_instrument_and_unit_and_not_deprecated() {
    let registry: BTreeMap<&str, (&str, &str)> = REGISTRY
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let [name, instrument, unit] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            (name, (instrument, unit))
        })
        .collect();
    assert!(registry.len() > 150);
    let [_, second] = pushed(&Config::default());
    let metrics: BTreeMap<&str, (&str, &str)> = second
        .values()
        .flatten()
        .map(|(name, unit, shape, ..)| {
            (name.as_str(), (if *shape == "updown" { "updowncounter" } else { shape }, unit.as_str()))
        })
        .collect();
    assert!(metrics.len() > 40, "{metrics:?}");
    for (name, known) in metrics {
        assert_eq!(registry.get(name), Some(&known), "{name}");
    }
}

const NODE: &str = "k8s.cluster.name=lab k8s.node.name=lab-node-1";

#[test]
fn node_pods_and_containers_have_the_conventions_names_units_and_resources() {
    let [first, second] = pushed(&Config::default());
    let node = first.keys().find(|name| name.as_str() == NODE).expect("the node's resource");
    let modes: Vec<&str> = of(&first, node, "system.cpu.time").iter().map(|point| point.2).collect();
    assert_eq!(modes.len(), 7, "each mode once: {modes:?}");
    assert_eq!(of(&first, node, "system.cpu.logical.count"), [("{cpu}", "updown", "", 2.0)]);
    let memory: f64 = of(&first, node, "system.memory.usage").iter().map(|point| point.3).sum();
    assert_eq!(of(&first, node, "system.memory.limit"), [("By", "updown", "", memory)], "the states add up");
    let io = of(&first, node, "system.network.io");
    assert!(
        io.iter().any(|point| point.2 == "network.interface.name=eth0 network.io.direction=receive"),
        "{io:?}"
    );
    assert!(
        !of(&first, node, "system.disk.io").is_empty() && !of(&first, node, "k8s.node.cpu.time").is_empty()
    );
    assert_eq!(of(&first, node, "system.disk.io_time")[0].2.split(' ').count(), 1, "no empty attribute");

    let pod = "k8s.pod.name=db-0 k8s.pod.uid=";
    let bytes = of(&first, pod, "k8s.pod.memory.working_set");
    assert!(
        bytes.len() == 1 && bytes[0].3 > 0.0 && (bytes[0].0, bytes[0].1) == ("By", "updown"),
        "{bytes:?}"
    );
    let phases = of(&first, pod, "k8s.pod.status.phase");
    assert_eq!(phases.len(), 5);
    assert!(
        phases.iter().all(|point| point.3 == f64::from(point.2 == "k8s.pod.status.phase=Running")),
        "{phases:?}"
    );
    assert!(of(&first, pod, "k8s.pod.network.io").len() >= 2);
    assert!(of(&first, pod, "k8s.pod.cpu.usage").is_empty(), "no average of one sample");
    assert_eq!(of(&second, pod, "k8s.pod.cpu.usage"), [("{cpu}", "gauge", "", 0.5)]);

    let containers: Vec<&String> = first.keys().filter(|name| name.contains("k8s.container.name=")).collect();
    assert!(containers.len() > 20, "{containers:?}");
    let running = containers.iter().find(|name| name.contains("db-0")).unwrap();
    assert!(running.contains("container.id="), "{running}");
    assert_eq!(of(&second, running, "container.cpu.usage"), [("{cpu}", "gauge", "", 0.5)]);
    assert_eq!(
        of(&first, running, "k8s.container.memory.limit.desired"),
        [("By", "updown", "", 67_108_864.0)]
    );
    assert_eq!(of(&first, running, "k8s.container.cpu.request.desired"), [("{cpu}", "updown", "", 0.05)]);
    assert_eq!(of(&first, running, "k8s.container.ready"), [("{container}", "updown", "", 1.0)]);
    let states: f64 = of(&first, running, "k8s.container.status.state").iter().map(|point| point.3).sum();
    assert_eq!(states, 1.0);
    let pulling = containers.iter().find(|name| name.contains("k8s.pod.name=nopull")).unwrap();
    let waiting = of(&first, pulling, "k8s.container.status.state");
    assert!(waiting.iter().any(|point| point.2.ends_with("=waiting") && point.3 == 1.0), "{waiting:?}");
}

#[test]
fn what_is_dropped_by_name_is_not_pushed_under_it() {
    let mut config = Config::default();
    config.metrics.drop = vec!["k8s\\.pod\\..*".into()];
    let [first, _] = pushed(&config);
    let names: Vec<&str> = first.values().flatten().map(|row| row.0.as_str()).collect();
    assert!(names.iter().all(|name| !name.starts_with("k8s.pod.")) && names.contains(&"container.cpu.time"));
}
