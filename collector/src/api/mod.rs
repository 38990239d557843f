//! The API: logs are searched, counted and followed here, metrics in [`metrics`].
//!
//! | path | answer |
//! |---|---|
//! | `/api/v1/logs` | records as NDJSON, streamed in the order of (time, uid) |
//! | `/api/v1/logs/count` | `{"count": N}` |
//! | `/api/v1/logs/tail` | records as server-sent events, as they come |
//!
//! All take the parameters of [`params`]. What is wrong with them is answered with 400 and
//! `{"errors": [{"parameter": …, "problem": …}]}`, all problems at once.
//!
//! Where a part of the store cannot be read (it is damaged), the rest answers, and `sonde-incomplete: N` says how many
//! parts are missing: a header of a count, a trailer of the records (to `TE: trailers`). The collector's log names
//! them.
//!
//! A query works on a blocking thread and hands over 64 KiB at a time. At most [`QUERIES`] work at a time; one whose
//! client does not take what it has found neither works nor holds a thread or blocks, and others go on in its turn.
//! At most [`ANSWERS`](answers::ANSWERS) are under way: where there are more, the one is given up whose client has taken
//! nothing for longest, if that is over a second, and else the new one is answered with 503. One ends when its client
//! goes away or takes nothing for [`STALL`]; an answer that is given up breaks off, so that it does not look complete.
//! At most [`FOLLOWERS`] follow; more are answered with 503.
//!
//! Memory: [`QUERIES`] times what a query holds, and for each answer two pieces of 64 KiB, about 100 bytes a block of
//! the slices that it is in, and the uncommitted records of its beginning (shared, see [`crate::store`]).

mod answers;
mod body;
mod logs;
pub mod metrics;
pub(crate) mod params;
pub(crate) mod record;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::Store;
use answers::Answers;
use params::{Ask, Params, Problem};

/// Queries that run at a time.
const QUERIES: usize = 8;
/// Clients that follow at a time.
const FOLLOWERS: usize = 64;
/// How long a query waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How long a client may take nothing before its query is ended.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that are handed over at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How many blocks or slices an answer lacks because they cannot be read.
const INCOMPLETE: HeaderName = HeaderName::from_static("sonde-incomplete");

/// The API's routes over a store.
pub fn router(store: Store) -> Router {
    let api = Api {
        store,
        queries: Arc::new(Semaphore::new(QUERIES)),
        answers: Arc::default(),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
    };
    Router::new()
        .route("/api/v1/logs", get(logs::logs))
        .route("/api/v1/logs/count", get(count))
        .route("/api/v1/logs/tail", get(tail::tail))
        .with_state(api)
}

/// The API's routes of a collector without a store: they say so.
pub fn without_store() -> Router {
    let none = || async {
        let what = "this collector has no store: records are where its sinks put them (or configure a sink of type store)";
        problem(StatusCode::NOT_FOUND, what)
    };
    Router::new()
        .route("/api/v1/logs", get(none))
        .route("/api/v1/logs/count", get(none))
        .route("/api/v1/logs/tail", get(none))
}

#[derive(Clone)]
struct Api {
    store: Store,
    queries: Arc<Semaphore>,
    answers: Arc<Answers>,
    followers: Arc<Semaphore>,
}

async fn count(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.as_deref().unwrap_or_default(), now(), Ask::Count) {
        Ok(params) => params,
        Err(problems) => return refuse(&problems),
    };
    let Some(turn) = turn(&api.queries).await else { return busy() };
    let (answer_to, answered) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let count = api.store.count(params.filter, || !answer_to.is_closed());
        let _ = answer_to.send(count);
        drop(turn);
    });
    match answered.await {
        Ok(Some(count)) => {
            let json = format!("{{\"count\": {}}}\n", count.records);
            let mut response = answer(StatusCode::OK, "application/json", json.into());
            if count.errors > 0 {
                response.headers_mut().insert(INCOMPLETE, count.errors.into());
            }
            response
        }
        _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "the query ended early"),
    }
}

async fn turn(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(TURN, Arc::clone(of).acquire_owned()).await.ok()?.ok()
}

fn refuse(problems: &[Problem]) -> Response {
    let errors: Vec<_> = problems
        .iter()
        .map(|problem| serde_json::json!({"parameter": problem.parameter, "problem": problem.what}))
        .collect();
    let json = serde_json::json!({"errors": errors}).to_string();
    answer(StatusCode::BAD_REQUEST, "application/json", (json + "\n").into())
}

fn busy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "too many queries at a time; try again")
}

fn problem(status: StatusCode, what: &str) -> Response {
    let json = serde_json::json!({"errors": [{"problem": what}]}).to_string();
    answer(status, "application/json", (json + "\n").into())
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
