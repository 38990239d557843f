//! Lists of nodes, namespaces and pods as JSON: filtered, sorted, and cut before anything is written.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::Window;
use super::ask::{Ask, Kind, Sort};
use crate::metrics::ring::slot_of;
use crate::metrics::sample::PHASES;
use crate::metrics::{Graphs, Key, Namespace, Node, Pod, PodName, State as Kept, Sum, Use};

/// The list that is asked for.
pub fn list(kept: &Kept, ask: &Ask, now: u64) -> Value {
    match ask.kind {
        Kind::Nodes => nodes(kept, ask, now),
        Kind::Namespaces => namespaces(kept, ask, now),
        _ => pods(kept, ask, now),
    }
}

fn nodes(kept: &Kept, ask: &Ask, now: u64) -> Value {
    let rows: Vec<(&Key, &Node, usize)> = kept
        .nodes()
        .map(|(key, node)| (key, node, node.pods.values().filter(|pod| node.has(pod)).count()))
        .collect();
    let total = rows.len();
    let keep = |(key, node, _): &(&Key, &Node, usize)| {
        ask.fits(&key.0, Some(&key.1), None)
            && ask.has_words(&[&key.0, &key.1])
            && (!ask.problem || node.is_stale(now))
    };
    let order = |a: &(&Key, &Node, usize), b: &(&Key, &Node, usize)| match ask.sort {
        Sort::State => a.1.is_stale(now).cmp(&b.1.is_stale(now)),
        Sort::Age => by_number(a.1.facts.boot_time.map(|at| -at), b.1.facts.boot_time.map(|at| -at)),
        Sort::Pods => a.2.cmp(&b.2),
        Sort::Name | Sort::Node | Sort::Restarts => Ordering::Equal,
        _ => by_use(ask.sort, &a.1.now, &b.1.now),
    };
    let (matched, rows) = ask.choose(rows, keep, order, |row| row.0.clone());
    let rows: Vec<Value> =
        rows.into_iter().map(|(key, node, pods)| node_row(key, node, pods, ask, now)).collect();
    json!({ "now": now, "total": total, "matched": matched, "nodes": rows })
}

fn node_row(key: &Key, node: &Node, pods: usize, ask: &Ask, now: u64) -> Value {
    let facts = &node.facts;
    let mut row = Map::new();
    put(&mut row, "cluster", json!(key.0));
    put(&mut row, "name", json!(key.1));
    put(&mut row, "age_seconds", json!(now.saturating_sub(node.heard)));
    put(&mut row, "stale", json!(node.is_stale(now)));
    put(&mut row, "pods", json!(pods));
    put_use(&mut row, &node.now);
    put(&mut row, "cpu_capacity_cores", json!(facts.cpus));
    put(&mut row, "memory_capacity_bytes", whole(facts.memory));
    put(&mut row, "load1", json!(facts.load1));
    put(&mut row, "filesystem_bytes", whole(facts.filesystem_used));
    put(&mut row, "filesystem_capacity_bytes", whole(facts.filesystem));
    put(&mut row, "boot_time", whole(facts.boot_time));
    put(&mut row, "kernel", json!(facts.kernel));
    put_history(&mut row, &node.graphs, ask, now);
    Value::Object(row)
}

fn namespaces(kept: &Kept, ask: &Ask, now: u64) -> Value {
    type Row<'k> = (&'k Key, &'k Namespace, Sum);
    let rows: Vec<Row<'_>> =
        kept.namespaces().map(|(key, one)| (key, one, kept.sum(&key.0, one, now))).collect();
    let total = rows.len();
    let keep =
        |(key, _, _): &Row<'_>| ask.fits(&key.0, None, Some(&key.1)) && ask.has_words(&[&key.0, &key.1]);
    let order = |a: &Row<'_>, b: &Row<'_>| match ask.sort {
        Sort::Pods => running(&a.2).cmp(&running(&b.2)),
        Sort::Cpu | Sort::Memory | Sort::Network => by_use(ask.sort, &a.2.now, &b.2.now),
        _ => Ordering::Equal,
    };
    let (matched, rows) = ask.choose(rows, keep, order, |row| row.0.clone());
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|(key, namespace, sum)| {
            let mut row = Map::new();
            put(&mut row, "cluster", json!(key.0));
            put(&mut row, "name", json!(key.1));
            put(
                &mut row,
                "age_seconds",
                if sum.nodes > 0 { json!(now.saturating_sub(sum.heard)) } else { Value::Null },
            );
            put(&mut row, "stale", json!(sum.nodes == 0));
            put(&mut row, "nodes", json!(sum.nodes));
            let phases = PHASES.iter().zip(sum.phases);
            let phases: Map<String, Value> =
                phases.map(|(phase, count)| (phase.to_ascii_lowercase(), json!(count))).collect();
            put(&mut row, "pods", Value::Object(phases));
            put_use(&mut row, &sum.now);
            put(&mut row, "cpu_request_cores", cores(Some(sum.cpu_request_cores)));
            put(&mut row, "memory_request_bytes", whole(Some(sum.memory_request_bytes)));
            if ask.points > 0 {
                // Of the slot that is not over yet some nodes' parts are missing.
                let window = Window { end: slot_of(now) - 1, points: ask.points, slots: ask.slots };
                let cpu = window.of(|slot| namespace.cpu.get(slot));
                let memory = window.of(|slot| namespace.memory.get(slot));
                put(&mut row, "history", json!({ "cpu_cores": cpu, "memory_bytes": memory }));
            }
            Value::Object(row)
        })
        .collect();
    json!({ "now": now, "total": total, "matched": matched, "namespaces": rows })
}

fn running(sum: &Sum) -> u64 {
    sum.phases.iter().sum()
}

/// A pod with where it is.
struct PodRow<'k> {
    node_key: &'k Key,
    node: &'k Node,
    name: &'k PodName,
    pod: &'k Pod,
}

fn pods(kept: &Kept, ask: &Ask, now: u64) -> Value {
    let rows: Vec<PodRow<'_>> = kept
        .nodes()
        .flat_map(|(node_key, node)| {
            node.pods.iter().filter(|(_, pod)| node.has(pod)).map(move |(name, pod)| PodRow {
                node_key,
                node,
                name,
                pod,
            })
        })
        .collect();
    let total = rows.len();
    let troubled = rows.iter().filter(|row| row.pod.is_troubled()).count();
    let keep = |row: &PodRow<'_>| {
        ask.fits(&row.node_key.0, Some(&row.node_key.1), Some(&row.name.namespace))
            && (!ask.problem || row.pod.is_troubled())
            && ask.has_words(&[&row.name.namespace, &row.name.pod, &row.node_key.1, &row.pod.state])
    };
    let order = |a: &PodRow<'_>, b: &PodRow<'_>| match ask.sort {
        Sort::State => {
            let key = |row: &PodRow<'_>| (row.pod.is_troubled(), row.pod.state.clone());
            key(a).cmp(&key(b))
        }
        Sort::Restarts => a.pod.restarts.total_cmp(&b.pod.restarts),
        Sort::Age => by_number(a.pod.start_time.map(|at| -at), b.pod.start_time.map(|at| -at)),
        Sort::Node => a.node_key.cmp(b.node_key),
        Sort::Name | Sort::Pods => Ordering::Equal,
        _ => by_use(ask.sort, &a.pod.now, &b.pod.now),
    };
    let (matched, rows) = ask.choose(rows, keep, order, |row| (row.name.clone(), row.node_key.clone()));
    let rows: Vec<Value> = rows.iter().map(|row| pod_row(row, ask, now)).collect();
    json!({ "now": now, "total": total, "troubled": troubled, "matched": matched, "pods": rows })
}

fn pod_row(PodRow { node_key, node, name, pod }: &PodRow<'_>, ask: &Ask, now: u64) -> Value {
    let mut row = Map::new();
    put(&mut row, "cluster", json!(node_key.0));
    put(&mut row, "node", json!(node_key.1));
    put(&mut row, "namespace", json!(name.namespace));
    put(&mut row, "name", json!(name.pod));
    put(&mut row, "uid", json!(pod.uid));
    put(&mut row, "age_seconds", json!(now.saturating_sub(node.heard)));
    put(&mut row, "stale", json!(node.is_stale(now)));
    put(&mut row, "state", if pod.state.is_empty() { Value::Null } else { json!(pod.state) });
    put(&mut row, "problem", json!(pod.is_troubled()));
    put(&mut row, "ready", json!(pod.ready));
    let ready = pod.containers.values().filter(|one| one.seen == pod.seen && one.ready == Some(true)).count();
    let containers = pod.containers.values().filter(|one| one.seen == pod.seen).count();
    put(&mut row, "ready_containers", json!(ready));
    put(&mut row, "restarts", whole(Some(pod.restarts)));
    put(&mut row, "start_time", whole(pod.start_time));
    let (kind, owner) = &pod.owner;
    put(
        &mut row,
        "owner",
        if kind.is_empty() { Value::Null } else { json!({ "kind": kind, "name": owner }) },
    );
    put_use(&mut row, &pod.now);
    put(&mut row, "cpu_limit_cores", cores(pod.cpu_limit));
    put(&mut row, "memory_limit_bytes", whole(pod.memory_limit));
    let mut parts: Vec<_> = pod.containers.iter().filter(|(_, one)| one.seen == pod.seen).collect();
    parts.sort_by_key(|(name, _)| *name);
    let parts: Vec<Value> = parts
        .into_iter()
        .map(|(name, one)| {
            json!({
                "name": name,
                "ready": one.ready,
                "restarts": whole(Some(one.restarts)),
                "reason": if one.reason.is_empty() { Value::Null } else { json!(one.reason) },
                "last_reason": if one.last_reason.is_empty() { Value::Null } else { json!(one.last_reason) },
                "cpu_cores": cores(one.now.cpu),
                "memory_bytes": whole(one.now.memory),
            })
        })
        .collect();
    put(&mut row, "container_count", json!(containers));
    put(&mut row, "containers", Value::Array(parts));
    put_history(&mut row, &pod.graphs, ask, now);
    Value::Object(row)
}

impl Ask {
    fn fits(&self, cluster: &str, node: Option<&str>, namespace: Option<&str>) -> bool {
        let is = |wanted: &Option<String>, own: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| own.is_none_or(|own| own == wanted))
        };
        is(&self.cluster, Some(cluster)) && is(&self.node, node) && is(&self.namespace, namespace)
    }

    fn has_words(&self, texts: &[&str]) -> bool {
        self.words.iter().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word.as_str())))
    }

    /// The rows that match, how many there are, and of those the ones that were asked for, in order.
    fn choose<R, K: Ord>(
        &self,
        mut rows: Vec<R>,
        keep: impl Fn(&R) -> bool,
        order: impl Fn(&R, &R) -> Ordering,
        name: impl Fn(&R) -> K,
    ) -> (usize, Vec<R>) {
        rows.retain(keep);
        let matched = rows.len();
        rows.sort_by_cached_key(name);
        // What is sorted by name from its end is its rows the other way round.
        if self.descending && matches!(self.sort, Sort::Name) {
            rows.reverse();
        }
        rows.sort_by(|a, b| if self.descending { order(b, a) } else { order(a, b) });
        (matched, rows.into_iter().skip(self.offset).take(self.limit).collect())
    }
}

impl Pod {
    /// Whether somebody should look at it.
    pub fn is_troubled(&self) -> bool {
        match &*self.state {
            "" | "Completed" | "Terminating" => false,
            "Running" => self.ready == Some(false),
            // A pod that is starting is well for a while; whoever must know how long has alerts.
            "Pending" | "ContainerCreating" | "PodInitializing" => false,
            _ => true,
        }
    }
}

fn by_use(sort: Sort, a: &Use, b: &Use) -> Ordering {
    let key = |one: &Use| match sort {
        Sort::Cpu => one.cpu,
        Sort::Memory => one.memory,
        _ => one.receive.zip(one.transmit).map(|(receive, transmit)| receive + transmit),
    };
    by_number(key(a), key(b))
}

/// What is not known is less than anything.
fn by_number(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.unwrap_or(f64::NEG_INFINITY))
}

fn put(row: &mut Map<String, Value>, key: &str, value: Value) {
    row.insert(key.to_owned(), value);
}

fn put_use(row: &mut Map<String, Value>, now: &Use) {
    put(row, "cpu_cores", cores(now.cpu));
    put(row, "memory_bytes", whole(now.memory));
    put(row, "receive_bytes_per_second", whole(now.receive));
    put(row, "transmit_bytes_per_second", whole(now.transmit));
}

fn put_history(row: &mut Map<String, Value>, graphs: &Graphs, ask: &Ask, now: u64) {
    if ask.points > 0 {
        let window = Window { end: slot_of(now), points: ask.points, slots: ask.slots };
        let cpu = window.of(|slot| graphs.cpu.get(slot));
        let memory = window.of(|slot| graphs.memory.get(slot));
        put(row, "history", json!({ "cpu_cores": cpu, "memory_bytes": memory }));
    }
}

fn whole(value: Option<f64>) -> Value {
    // Bytes and seconds, far below 2^63; beyond it the conversion stops at the largest number.
    #[allow(clippy::cast_possible_truncation)]
    value.filter(|value| value.is_finite()).map_or(Value::Null, |value| json!(value.round() as i64))
}

/// Cores to the tenth of a thousandth.
fn cores(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |value| json!((value * 1e4).round() / 1e4))
}
