//! The API of what agents push: nodes, namespaces, pods, and their last hour.
//!
//! | path | answer |
//! |---|---|
//! | `/api/v1/nodes` | `{"now", "nodes": […]}` |
//! | `/api/v1/namespaces` | `{"now", "namespaces": […]}` |
//! | `/api/v1/pods` | `{"now", "pods": […]}`, at most `limit` of those that match |
//! | `/api/v1/history` | `{"now", "step_seconds", "end", "series": {…}}` of one node, namespace, pod or container |
//!
//! `now` and all other times are Unix seconds of this collector. A list says in `matched` how many match and in `total`
//! how many there are; rows are sorted by `sort` and `order`, then by name. What is not known is `null`.
//! `age_seconds` is how long ago the newest sample came; `stale` says that it is too old to tell of now.
//!
//! A row has `history` only with `points`: the last `span` as so many averages, the newest last.

mod ask;
mod list;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::{answer, problem, refuse};
use crate::metrics::ring::{Ring, SLOTS, STEP, Slot, SumRing, slot_of};
use crate::metrics::{Graphs, Metrics, State as Kept, unix_seconds};
use ask::{Ask, Kind};

/// The API's routes over what is kept.
pub fn router(metrics: Metrics) -> Router {
    let list = |kind| {
        get(move |State(metrics): State<Metrics>, RawQuery(query): RawQuery| async move {
            lists(&metrics, kind, query.as_deref().unwrap_or_default()).await
        })
    };
    Router::new()
        .route("/api/v1/nodes", list(Kind::Nodes))
        .route("/api/v1/namespaces", list(Kind::Namespaces))
        .route("/api/v1/pods", list(Kind::Pods))
        .route("/api/v1/history", get(history))
        .with_state(metrics)
}

async fn lists(metrics: &Metrics, kind: Kind, query: &str) -> Response {
    let ask = match Ask::parse(query, kind) {
        Ok(ask) => ask,
        Err(problems) => return refuse(&problems),
    };
    let metrics = metrics.clone();
    blocking(move || {
        let now = unix_seconds();
        metrics.look(|kept| list::list(kept, &ask, now))
    })
    .await
}

async fn history(State(metrics): State<Metrics>, RawQuery(query): RawQuery) -> Response {
    let ask = match Ask::parse(query.as_deref().unwrap_or_default(), Kind::History) {
        Ok(ask) => ask,
        Err(problems) => return refuse(&problems),
    };
    match tokio::task::spawn_blocking(move || metrics.look(|kept| one(kept, &ask, unix_seconds()))).await {
        Ok(Some(found)) => json_answer(&found),
        Ok(None) => problem(StatusCode::NOT_FOUND, "nothing of that name was seen in the last hour"),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made"),
    }
}

async fn blocking(make: impl FnOnce() -> Value + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(make).await {
        Ok(value) => json_answer(&value),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made"),
    }
}

fn json_answer(value: &Value) -> Response {
    answer(StatusCode::OK, "application/json", (value.to_string() + "\n").into())
}

/// The history of the one thing that is asked for; `None`: it is not known.
fn one(kept: &Kept, ask: &Ask, now: u64) -> Option<Value> {
    let mut series = Map::new();
    // The slot that is not over yet has what came so far.
    let end = slot_of(now);
    let window = Window { end, points: SLOTS, slots: 1 };
    let fits = |cluster: &str| ask.cluster.as_deref().is_none_or(|wanted| wanted == cluster);
    if let Some(name) = &ask.pod {
        let namespace = ask.namespace.as_deref().unwrap_or_default();
        let pods = kept
            .nodes()
            .filter(|((cluster, node), _)| {
                fits(cluster) && ask.node.as_deref().is_none_or(|wanted| wanted == &**node)
            })
            .flat_map(|(_, node)| &node.pods)
            .filter(|(own, _)| &*own.namespace == namespace && &*own.pod == name.as_str());
        let pod = pods.map(|(_, pod)| pod).max_by_key(|pod| pod.seen)?;
        if let Some(name) = &ask.container {
            let container = pod.containers.get(name.as_str())?;
            series.insert("cpu_cores".to_owned(), window.of(|slot| container.cpu.get(slot)));
            series.insert("memory_bytes".to_owned(), window.of(|slot| container.memory.get(slot)));
        } else {
            put_graphs(&mut series, &pod.graphs, window);
            series.insert("restarts".to_owned(), window.of(|slot| pod.restarts_graph.get(slot)));
            series.insert("ready".to_owned(), window.of(|slot| pod.ready_graph.get(slot)));
        }
    } else if let Some(name) = &ask.namespace {
        let mut found =
            kept.namespaces().filter(|((cluster, own), _)| fits(cluster) && &**own == name.as_str());
        let (_, namespace) = found.next()?;
        // Of the slot that is not over yet some nodes' parts are missing.
        let window = Window { end: end - 1, ..window };
        put_sums(&mut series, namespace, window);
    } else {
        let name = ask.node.as_deref()?;
        let mut found = kept.nodes().filter(|((cluster, own), _)| fits(cluster) && &**own == name);
        put_graphs(&mut series, &found.next()?.1.graphs, window);
    }
    Some(json!({ "now": now, "step_seconds": STEP, "end": (u64::from(end) + 1) * STEP, "series": series }))
}

fn put_graphs(series: &mut Map<String, Value>, graphs: &Graphs, window: Window) {
    let rings: [(&str, &Ring); 4] = [
        ("cpu_cores", &graphs.cpu),
        ("memory_bytes", &graphs.memory),
        ("receive_bytes_per_second", &graphs.receive),
        ("transmit_bytes_per_second", &graphs.transmit),
    ];
    for (name, ring) in rings {
        series.insert(name.to_owned(), window.of(|slot| ring.get(slot)));
    }
}

fn put_sums(series: &mut Map<String, Value>, namespace: &crate::metrics::Namespace, window: Window) {
    let rings: [(&str, &SumRing); 4] = [
        ("cpu_cores", &namespace.cpu),
        ("memory_bytes", &namespace.memory),
        ("receive_bytes_per_second", &namespace.receive),
        ("transmit_bytes_per_second", &namespace.transmit),
    ];
    for (name, ring) in rings {
        series.insert(name.to_owned(), window.of(|slot| ring.get(slot)));
    }
}

/// The slots of a graph: `points` groups of `slots`, the last of which ends with `end`.
#[derive(Clone, Copy, Debug)]
struct Window {
    end: Slot,
    points: usize,
    slots: usize,
}

impl Window {
    /// The averages of what is known of each group.
    fn of(self, value: impl Fn(Slot) -> Option<f32>) -> Value {
        let slots = u32::try_from(self.slots).unwrap_or(1);
        let groups = u32::try_from(self.points).unwrap_or(0);
        let group = |back: u32| {
            let (mut sum, mut count) = (0.0, 0u32);
            for slot in 0..slots {
                if let Some(value) = self.end.checked_sub(back * slots + slot).and_then(&value) {
                    sum += f64::from(value);
                    count += 1;
                }
            }
            if count == 0 { Value::Null } else { number(sum / f64::from(count)) }
        };
        Value::Array((0..groups).rev().map(group).collect())
    }
}

/// Three digits: more are not kept.
fn number(value: f64) -> Value {
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    // Whole numbers without a point: most are bytes.
    #[allow(clippy::cast_possible_truncation)]
    if rounded.fract() == 0.0 && rounded.abs() < 1e15 { json!(rounded as i64) } else { json!(rounded) }
}
