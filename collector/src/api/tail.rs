//! Following: records as server-sent events (WHATWG HTML, "Server-sent events").
//!
//! A record is a message with the record's JSON as its data. A client that is too slow misses records and gets an
//! event `gap` with `{"missed": N}`, the number of records passed over before the filter; the store never waits for
//! it. A comment every 15 seconds keeps proxies from closing a quiet stream.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::body::{self, Sender};
use super::params::{Ask, Params};
use super::{Api, PIECE_BYTES, STALL, answer, busy, now, record, refuse};
use crate::store::{Followed, Follower, Sieve, rows};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn tail(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.as_deref().unwrap_or_default(), now(), Ask::Tail) {
        Ok(params) => params,
        Err(problems) => return refuse(&problems),
    };
    let Ok(place) = api.followers.clone().try_acquire_owned() else { return busy() };
    let follower = api.store.follow();
    let (sender, body) = body::channel(STALL);
    tokio::spawn(async move {
        let complete = tokio::select! {
            complete = follow(follower, Sieve::new(params.filter), params.limit, &sender) => complete,
            () = sender.closed() => false,
        };
        if complete {
            sender.finish();
        }
        drop(place);
    });
    answer(StatusCode::OK, "text/event-stream", body)
}

/// Sends what comes until the limit is reached; false where nobody takes it.
async fn follow(mut follower: Follower, mut sieve: Sieve, limit: u64, sender: &Sender) -> bool {
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut piece = Vec::new();
    // The stream's head goes out at once, so that a client knows it is connected.
    if !sender.send(Bytes::from_static(b": following\n\n")).await {
        return false;
    }
    while left > 0 {
        match tokio::time::timeout(KEEP_ALIVE, follower.next()).await {
            Err(_) => piece.extend_from_slice(b":\n\n"),
            Ok(Followed::Missed(missed)) => {
                piece.extend_from_slice(format!("event: gap\ndata: {{\"missed\": {missed}}}\n\n").as_bytes());
            }
            Ok(Followed::Chunk(chunk)) if sieve.takes_chunk(&chunk) => {
                for (_, row) in rows(&chunk.rows) {
                    if left == 0 || !sieve.takes(&row) {
                        continue;
                    }
                    left -= 1;
                    piece.extend_from_slice(b"data: ");
                    record::write(&chunk.origin, &row, &mut piece);
                    piece.extend_from_slice(b"\n\n");
                    if piece.len() >= PIECE_BYTES && !sender.send(std::mem::take(&mut piece).into()).await {
                        return false;
                    }
                }
            }
            Ok(Followed::Chunk(_)) => {}
        }
        if !piece.is_empty() && !sender.send(std::mem::take(&mut piece).into()).await {
            return false;
        }
    }
    true
}
