//! Requests to the nodes of a cluster: in turn over those that work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::Full;
use sonde_daemon::backoff::Backoff;
use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::names::System;
use sonde_daemon::client::pool::{Body, CallError, Pool, Reply, Version};
use sonde_daemon::tls;

use super::PORTS;
use crate::config::Sink;
use crate::sinks::SinkError;
use crate::sinks::login::{Login, tls_options};

/// From the moment that a request is sent to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is read of an answer: 4096 items with more than three kilobytes each.
const ANSWER_BYTES: usize = 16 << 20;
/// Addresses behind one name that are used at a time.
const SPREAD: usize = 4;

/// The nodes of a cluster.
pub struct Client {
    nodes: Vec<Node>,
    turn: AtomicUsize,
    login: Login,
}

struct Node {
    endpoint: Endpoint,
    pool: Arc<Pool>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    backoff: Backoff,
    avoid_until: Option<Instant>,
}

/// What is sent with a request.
#[derive(Clone, Default)]
pub struct Content {
    /// The body.
    pub bytes: Bytes,
    /// It is gzip.
    pub gzip: bool,
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Full::new(Bytes::new().chain(content.bytes))
    }
}

impl Client {
    /// Reads secrets and TLS files; connects to nothing.
    pub fn build(sink: &Sink) -> Result<Self, SinkError> {
        let tls = sink.tls.clone().unwrap_or_default();
        let nodes = sink.endpoints.iter().flatten().map(|url| {
            let endpoint = Endpoint::parse(url, PORTS)?;
            let tls =
                if endpoint.tls { Some(tls::Client::new(tls_options(&tls, tls::HTTP1))?) } else { None };
            let pool = Pool::new(
                Dialer::new(endpoint.clone(), tls)?,
                Box::new(System),
                Version::Http1,
                SPREAD,
                ANSWER_BYTES,
            );
            Ok(Node { endpoint, pool, health: Mutex::default() })
        });
        let nodes = nodes.collect::<Result<Vec<_>, SinkError>>()?;
        Ok(Self { nodes, turn: AtomicUsize::new(0), login: Login::build(sink)? })
    }

    /// Sends a request to one node; to the next one where nothing was sent.
    pub async fn call(&self, method: Method, path: &str, content: Content) -> Result<Reply, CallError> {
        let mut last = CallError::NotSent("no endpoint".to_owned());
        for node in self.candidates() {
            let request = self.request(node, &method, path, content.clone());
            match node.pool.call(&request, DEADLINE).await {
                Ok((address, reply)) => {
                    if matches!(reply.status.as_u16(), 408 | 429 | 502 | 503 | 504) {
                        node.pool.avoid(address);
                        node.failed();
                    } else {
                        node.worked();
                    }
                    return Ok(reply);
                }
                Err(error) => {
                    node.failed();
                    let sent = matches!(error, CallError::Unknown { .. });
                    last = error;
                    if sent {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Nodes that work, in turn, and behind them those whose time comes soonest.
    fn candidates(&self) -> Vec<&Node> {
        let now = Instant::now();
        let (mut good, mut bad): (Vec<&Node>, Vec<&Node>) =
            self.nodes.iter().partition(|node| node.avoided_until().is_none_or(|until| until <= now));
        if !good.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % good.len();
            good.rotate_left(turn);
        }
        bad.sort_by_key(|node| node.avoided_until());
        good.extend(bad);
        good
    }

    fn request(&self, node: &Node, method: &Method, path: &str, content: Content) -> Request<Content> {
        let ndjson = path.contains("_bulk");
        let (empty, gzip) = (content.bytes.is_empty(), content.gzip);
        let mut request = Request::new(content);
        *request.method_mut() = method.clone();
        // Paths are made of names that were checked.
        *request.uri_mut() = format!("{}{path}", node.endpoint.path).parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("sonde-collector/", env!("CARGO_PKG_VERSION"))),
        );
        if let Ok(host) = HeaderValue::from_str(&node.endpoint.authority()) {
            headers.insert(HOST, host);
        }
        if !empty {
            let kind = if ndjson { "application/x-ndjson" } else { "application/json" };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(value) = self.login.header() {
            headers.insert(AUTHORIZATION, value);
        }
        request
    }
}

impl Node {
    fn avoided_until(&self) -> Option<Instant> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).avoid_until
    }

    fn failed(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = health.backoff.next(None);
        health.avoid_until = Some(Instant::now() + wait);
    }

    fn worked(&self) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = Health::default();
    }
}
