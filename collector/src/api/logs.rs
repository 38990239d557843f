//! A search: records as NDJSON, made while they are sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::answers::Place;
use super::body::{self, Sender, Sent};
use super::params::{Ask, Params};
use super::{Api, INCOMPLETE, PIECE_BYTES, STALL, answer, busy, now, record, refuse};
use crate::store::{Query, Step};

/// How long found records wait for more, so as to be handed over together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long a query that works waits for its client; then it rests.
const AT_WORK: Duration = Duration::from_millis(50);

/// `GET /api/v1/logs`.
pub async fn logs(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.as_deref().unwrap_or_default(), now(), Ask::Records) {
        Ok(params) => params,
        Err(problems) => return refuse(&problems),
    };
    let Some(place) = api.answers.place().await else { return busy() };
    let (sender, body) = body::channel(STALL);
    tokio::spawn(stream(api, params, place, sender));
    let mut response = answer(StatusCode::OK, "application/x-ndjson", body);
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("sonde-incomplete"));
    response
}

/// Works while the client takes what comes, and rests while it does not.
async fn stream(api: Api, params: Params, place: Place, sender: Sender) {
    let left = if params.limit == 0 { u64::MAX } else { params.limit };
    let mut search = None;
    let sender = Arc::new(sender);
    loop {
        // There is always a turn sometime: who has one works.
        let Ok(turn) = Arc::clone(&api.queries).acquire_owned().await else { return };
        let (resumed, store, filter) = (search.take(), api.store.clone(), params.filter.clone());
        let (order, to) = (params.order, Arc::clone(&sender));
        let work = move || {
            let mut search = resumed.unwrap_or_else(|| Search::new(store.query(filter, order), left));
            let ended = search.work(&to);
            drop((to, turn));
            (search, ended)
        };
        // An error is a panic, which is in the log.
        let Ok((mut resting, ended)) = tokio::task::spawn_blocking(work).await else { return };
        match ended {
            Work::NotTaken(piece) => {
                resting.query.rest();
                if place.wait(sender.send(piece)).await != Some(true) {
                    return;
                }
            }
            Work::Done => {
                let Ok(sender) = Arc::try_unwrap(sender) else { return };
                match resting.query.errors() {
                    0 => sender.finish(),
                    errors => sender.finish_with(HeaderMap::from_iter([(INCOMPLETE, errors.into())])).await,
                }
                return;
            }
            Work::Gone => return,
        }
        search = Some(resting);
    }
}

/// A query on its way.
struct Search {
    query: Query,
    /// Records that may still be sent.
    left: u64,
    piece: Vec<u8>,
    sent: Instant,
    /// All was found.
    ended: bool,
}

/// Why a query stopped working.
enum Work {
    /// The client does not take this piece yet.
    NotTaken(Bytes),
    /// All was handed over.
    Done,
    /// The client is gone.
    Gone,
}

impl Search {
    fn new(query: Query, left: u64) -> Self {
        let piece = Vec::with_capacity(PIECE_BYTES + 4096);
        Self { query, left, piece, sent: Instant::now(), ended: false }
    }

    /// Writes records until there are no more, the limit is reached or the client does not take them.
    fn work(&mut self, sender: &Sender) -> Work {
        loop {
            self.ended |= self.left == 0;
            if !self.ended {
                let piece = &mut self.piece;
                match self.query.step(|origin, row| {
                    record::write(origin, row, piece);
                    piece.push(b'\n');
                }) {
                    Step::Record => self.left -= 1,
                    Step::Read if sender.is_closed() => return Work::Gone,
                    Step::Read => {}
                    Step::End => self.ended = true,
                }
            }
            if self.piece.is_empty() {
                if self.ended {
                    return Work::Done;
                }
                continue;
            }
            // What was found is shown while a long search goes on.
            if self.ended || self.piece.len() >= PIECE_BYTES || self.sent.elapsed() >= TOGETHER {
                self.sent = Instant::now();
                let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES + 4096));
                match sender.offer_blocking(full.into(), AT_WORK) {
                    Sent::Yes => {}
                    Sent::NotYet(piece) => return Work::NotTaken(piece),
                    Sent::Gone => return Work::Gone,
                }
            }
        }
    }
}
