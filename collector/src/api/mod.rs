//! The log API: search, count, and following what comes.
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
//! A query runs on a blocking thread and hands over 64 KiB at a time; it ends when the client goes away or takes
//! nothing for [`STALL`]. At most [`QUERIES`] run at a time and [`FOLLOWERS`] follow; more are answered with 503.

mod body;
mod params;
mod record;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::{Query, Step, Store};
use body::Sender;
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

/// How long found records wait for more, so as to be handed over together.
const PATIENCE: Duration = Duration::from_millis(200);

/// The API's routes over a store.
pub fn router(store: Store) -> Router {
    let api = Api {
        store,
        queries: Arc::new(Semaphore::new(QUERIES)),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
    };
    Router::new()
        .route("/api/v1/logs", get(logs))
        .route("/api/v1/logs/count", get(count))
        .route("/api/v1/logs/tail", get(tail::tail))
        .with_state(api)
}

#[derive(Clone)]
struct Api {
    store: Store,
    queries: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

async fn logs(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.as_deref().unwrap_or_default(), now(), Ask::Records) {
        Ok(params) => params,
        Err(problems) => return refuse(&problems),
    };
    let Some(turn) = turn(&api.queries).await else { return busy() };
    let (sender, body) = body::channel(STALL);
    let run = move || {
        let query = api.store.query(params.filter, params.order);
        stream(query, params.limit, sender);
        drop(turn);
    };
    tokio::task::spawn_blocking(run);
    let mut response = answer(StatusCode::OK, "application/x-ndjson", body);
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("sonde-incomplete"));
    response
}

/// Writes a query's records until there are no more, the limit is reached or nobody takes them.
fn stream(mut query: Query, limit: u64, sender: Sender) {
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut piece = Vec::with_capacity(PIECE_BYTES + 4096);
    let mut sent = Instant::now();
    while left > 0 {
        match query.step(|origin, row| {
            record::write(origin, row, &mut piece);
            piece.push(b'\n');
        }) {
            Step::Record => left -= 1,
            Step::Read if sender.is_closed() => return,
            Step::Read => {}
            Step::End => break,
        }
        // What was found is shown while a long search goes on.
        if piece.len() >= PIECE_BYTES || !piece.is_empty() && sent.elapsed() >= PATIENCE {
            sent = Instant::now();
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES + 4096));
            if !sender.send_blocking(full.into()) {
                return;
            }
        }
    }
    if !piece.is_empty() && !sender.send_blocking(piece.into()) {
        return;
    }
    if query.errors() > 0 {
        sender.end_blocking(HeaderMap::from_iter([(INCOMPLETE, query.errors().into())]));
    }
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
