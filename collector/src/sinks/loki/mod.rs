//! Grafana Loki, by its own push API: protobuf in snappy's block format, `POST /loki/api/v1/push`.
//!
//! A stream is named by four labels that never change while a container lives (`label_names`), all else is structured
//! metadata. Loki merges entries of one stream with equal time, line and metadata, so what this sink sends again is stored
//! once; what the agent sends again is while the pod's metadata are what they were. Entries of a stream go in the order of the queue, by their times within
//! a request: one batch is under way at a time, since Loki refuses what lies too far behind the newest entry of its
//! stream.
//!
//! What Loki answers is read in [`answer`]. A 400 says that something in the request was refused, and the rest of it
//! may have been stored: it is halved down to the one entry, which is a dead letter with Loki's reason; the others are
//! sent again, and merged there. After a 429 requests are smaller until one is taken, since a burst that is larger than
//! the limit would never be.
//!
//! # Memory
//! For the one batch under way: a request of at most [`push::BYTES`] (or one entry) as it is gathered, as protobuf and as
//! snappy, and an answer of at most 4 MiB.

mod answer;
mod push;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::{Endpoint, EndpointError};
use sonde_daemon::client::names::System;
use sonde_daemon::client::pool::{Body, CallError, Pool, Version};
use sonde_daemon::tls;

use self::answer::Whole;
use self::push::{Piece, Push};
use super::login::{Login, tls_options};
use super::{SinkError, blocking};
use crate::config::{self, LabelNames};
use crate::deliver::{Batch, Sink, Trouble};

/// Ports where an endpoint names none: Loki's own, and that of https.
const PORTS: (u16, u16) = (3100, 443);
/// Batches under way at a time: two of one stream would overtake each other.
pub const IN_FLIGHT: u32 = 1;
const PATH: &str = "/loki/api/v1/push";
/// Addresses behind the endpoint's name that are used at a time.
const SPREAD: usize = 4;
/// From sending a request to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is read of an answer: a refusal may say a few words about each entry.
const ANSWER_BYTES: usize = 4 << 20;

/// The sink.
pub struct Loki {
    pool: Arc<Pool>,
    uri: Uri,
    headers: HeaderMap,
    login: Login,
    names: LabelNames,
    deadline: Duration,
    /// How much the server takes at once, as its last 429s let us guess.
    piece: Mutex<Piece>,
}

/// A body of a request.
#[derive(Clone)]
struct Content(Bytes);

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Full::new(Bytes::new().chain(content.0))
    }
}

/// What came of a request that was answered.
enum Sent {
    /// Its records are settled.
    Settled,
    /// Too much at once, or something in it: code and reason.
    Halve(String, String),
}

/// Reads an endpoint.
///
/// # Errors
/// It is no URL.
pub fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
    Endpoint::parse(url, PORTS)
}

impl Loki {
    /// Reads secrets and TLS files; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink) -> Result<Self, SinkError> {
        Self::with_deadline(sink, DEADLINE)
    }

    fn with_deadline(sink: &config::Sink, deadline: Duration) -> Result<Self, SinkError> {
        let endpoint = endpoint(sink.endpoint.as_deref().unwrap_or_default())?;
        let tls = sink.tls.clone().unwrap_or_default();
        let tls = if endpoint.tls { Some(tls::Client::new(tls_options(&tls, tls::HTTP1))?) } else { None };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = HeaderValue::from_static(concat!("sonde-collector/", env!("CARGO_PKG_VERSION")));
        headers.insert(USER_AGENT, agent);
        if let Ok(host) = HeaderValue::from_str(&endpoint.authority()) {
            headers.insert(HOST, host);
        }
        for (name, value) in sink.headers.iter().flatten() {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        if let Some(tenant) = sink.tenant.as_deref().filter(|tenant| !tenant.is_empty())
            && let Ok(value) = HeaderValue::from_str(tenant)
        {
            headers.insert("x-scope-orgid", value);
        }
        // Who gives the whole path as the endpoint means the place that it is in.
        let place = endpoint.path.strip_suffix(PATH).unwrap_or(&endpoint.path);
        let uri = format!("{place}{PATH}").parse().unwrap_or_default();
        let dialer = Dialer::new(endpoint, tls)?;
        Ok(Self {
            pool: Pool::new(dialer, Box::new(System), Version::Http1, SPREAD, ANSWER_BYTES),
            uri,
            headers,
            login: Login::build(sink)?,
            names: sink.label_names.unwrap_or_default(),
            deadline,
            piece: Mutex::default(),
        })
    }

    async fn next(&self, batch: &Batch, from: usize, piece: Piece) -> Result<Option<Push>, Trouble> {
        let (units, states, names) = (Arc::clone(batch.units()), batch.states().to_vec(), self.names);
        blocking(move || push::encode(&units, &states, from, piece, names)).await
    }

    /// Sends a request and settles what the answer says.
    async fn send(&self, push: &Push, batch: &mut Batch) -> Result<Sent, Trouble> {
        let mut request = Request::new(Content(push.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(value) = self.login.header() {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let answered = self.pool.call(&request, self.deadline).await;
        let (address, reply) =
            answered.map_err(|error: CallError| Trouble::retry("connection", error.to_string()))?;
        match answer::whole(&reply, SystemTime::now()) {
            Whole::Taken => {
                push.records.iter().for_each(|record| batch.delivered(*record));
                Ok(Sent::Settled)
            }
            Whole::Halve(code, reason) => Ok(Sent::Halve(code, reason)),
            Whole::Trouble(trouble) => {
                self.pool.avoid(address);
                Err(trouble)
            }
        }
    }

    fn piece(&self) -> Piece {
        *self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, piece: Piece) -> Piece {
        *self.piece.lock().unwrap_or_else(PoisonError::into_inner) = piece;
        piece
    }
}

impl Sink for Loki {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let (mut from, mut piece) = (0, self.piece());
        while let Some(push) = self.next(batch, from, piece).await? {
            let (first, last) = (push.records[0], push.records[push.records.len() - 1]);
            match self.send(&push, batch).await {
                Ok(Sent::Settled) => {
                    from = last + 1;
                    piece = piece.doubled(self.remember(self.piece().grown()));
                }
                Ok(Sent::Halve(code, reason)) if first == last => {
                    batch.refuse(first, code, reason);
                    from = last + 1;
                }
                Ok(Sent::Halve(..)) => piece = Piece::half_of(&push),
                Err(trouble) => {
                    if trouble.code == answer::TOO_FAST {
                        self.remember(Piece::half_of(&push));
                    }
                    return Err(trouble);
                }
            }
        }
        Ok(())
    }
}
