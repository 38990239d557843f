//! Connections to every address behind one name.
//!
//! The addresses are shuffled once and the first `spread` healthy ones are used in turn, so that many agents spread
//! over many receivers while each holds few connections. An address that fails is passed over for a while (a
//! backoff) and the next is tried at once; when its time has passed it is used again. The name is looked up again
//! every 30 seconds while it is used, and at once when no address is healthy.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use bytes::buf::Chain;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::dial::{DialError, Dialer};
use super::hint;
use super::names::Names;
use super::spoken::{Listened, Spoken};
use crate::backoff::Backoff;

const CONNECT: Duration = Duration::from_secs(5);
const LOOK_UP: Duration = Duration::from_secs(5);
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
/// When no address is healthy, so many are tried for one request.
const LAST_CHANCES: usize = 3;
const HEADER_BYTES: u32 = 64 << 10;

/// A request's bytes: a prefix such as gRPC's, and the message.
pub type Body = Full<Chain<Bytes, Bytes>>;

/// The protocol on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One request at a time on each connection.
    Http1,
    /// All requests to an address share a connection.
    Http2,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// At most what the pool was told to read.
    pub body: Bytes,
    /// Trailers, if there were any.
    pub trailers: HeaderMap,
}

impl Reply {
    /// Its `Retry-After` (RFC 9110 section 10.2.3: seconds or a date) as a duration from `now`.
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
    }
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The name has no address, or none could be connected to: nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// The connection broke or the time was up after the request may have been read.
    #[error("{reason} ({address})")]
    Unknown {
        /// The address that it happened with.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// All connections to one endpoint.
pub struct Pool {
    dialer: Dialer,
    names: Box<dyn Names>,
    version: Version,
    spread: usize,
    answer_bytes: usize,
    routes: Mutex<Routes>,
    turn: AtomicUsize,
    refreshing: AtomicBool,
}

#[derive(Default)]
struct Routes {
    list: Vec<Arc<Route>>,
    looked_up: Option<Instant>,
}

/// One address.
struct Route {
    address: SocketAddr,
    health: Mutex<Health>,
    shared: tokio::sync::Mutex<Option<(http2::SendRequest<Body>, Spoken)>>,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
}

#[derive(Default)]
struct Health {
    backoff: Backoff,
    avoid_until: Option<Instant>,
}

enum Link {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>, Spoken),
}

impl Pool {
    /// Nothing is connected before the first call. `spread` = addresses in use at a time; an answer's body of more
    /// than `answer_bytes` is a broken one.
    pub fn new(
        dialer: Dialer,
        names: Box<dyn Names>,
        version: Version,
        spread: usize,
        answer_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            names,
            version,
            spread: spread.max(1),
            answer_bytes,
            routes: Mutex::default(),
            turn: AtomicUsize::new(0),
            refreshing: AtomicBool::new(false),
        })
    }

    /// Sends a request and reads the answer, within `deadline` from the moment it is sent.
    pub async fn call<B: Clone + Into<Body>>(
        self: &Arc<Self>,
        request: &Request<B>,
        deadline: Duration,
    ) -> Result<(SocketAddr, Reply), CallError> {
        let mut last = "no address".to_owned();
        for route in self.candidates().await? {
            // Twice: a connection that the receiver closed while it was idle shows only when it is used.
            for _ in 0..2 {
                let mut link = match self.link(&route).await {
                    Ok(link) => link,
                    Err(error) => {
                        last = format!("{}: {}", route.address, with_hint(error.to_string()));
                        route.failed();
                        break;
                    }
                };
                let answered =
                    tokio::time::timeout(deadline, exchange(&mut link, outgoing(request), self.answer_bytes))
                        .await;
                let reason = match answered {
                    Ok(Ok(reply)) => {
                        route.give_back(link);
                        route.worked();
                        return Ok((route.address, reply));
                    }
                    Ok(Err(Broken { sent: false, reason })) => {
                        last = format!("{}: {reason}", route.address);
                        route.drop_shared().await;
                        continue;
                    }
                    Ok(Err(Broken { sent: true, reason })) => reason,
                    Err(_) => format!("no answer within {} s", deadline.as_secs_f32()),
                };
                route.drop_shared().await;
                route.failed();
                return Err(CallError::Unknown { address: route.address, reason });
            }
        }
        Err(CallError::NotSent(last))
    }

    /// The receiver at this address pushes back: the next requests go elsewhere for a while if they can.
    pub fn avoid(&self, address: SocketAddr) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.list.iter().find(|route| route.address == address) {
            route.failed();
        }
    }

    /// Addresses that are not passed over just now.
    pub fn healthy(&self) -> usize {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        routes.list.iter().filter(|route| route.avoided_until(now).is_none()).count()
    }

    async fn candidates(self: &Arc<Self>) -> Result<Vec<Arc<Route>>, CallError> {
        let now = Instant::now();
        let (known, stale) = {
            let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            let stale = routes.looked_up.is_none_or(|at| now.duration_since(at) > LOOK_UP_AGAIN);
            (!routes.list.is_empty(), stale)
        };
        if !known {
            self.refresh().await.map_err(CallError::NotSent)?;
        } else if (stale || self.healthy() == 0) && !self.refreshing.swap(true, Ordering::AcqRel) {
            // Beside the request: a name server that hangs delays nothing while addresses are known.
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = pool.refresh().await {
                    tracing::debug!(error, "the receiver's name could not be looked up again");
                }
                pool.refreshing.store(false, Ordering::Release);
            });
        }
        let list = self.routes.lock().unwrap_or_else(PoisonError::into_inner).list.clone();
        Ok(order(&list, self.spread, self.turn.fetch_add(1, Ordering::Relaxed)))
    }

    /// Looks the name up again; routes to addresses that stay keep what is known of them.
    pub async fn refresh(&self) -> Result<(), String> {
        let endpoint = self.dialer.endpoint();
        let found: Vec<SocketAddr> = if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
            vec![SocketAddr::new(ip, endpoint.port)]
        } else {
            let lookup = self.names.look_up(&endpoint.host, endpoint.port);
            match tokio::time::timeout(LOOK_UP, lookup).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Err(format!("{}: {error}", endpoint.host)),
                Err(_) => return Err(format!("{}: no answer of the name server", endpoint.host)),
            }
        };
        if found.is_empty() {
            return Err(format!("{}: the name has no address", endpoint.host));
        }
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.looked_up = Some(Instant::now());
        routes.list.retain(|route| found.contains(&route.address));
        for address in found {
            if routes.list.iter().all(|route| route.address != address) {
                let at = shuffled(routes.list.len() + 1);
                routes.list.insert(at, Arc::new(Route::new(address)));
            }
        }
        Ok(())
    }

    async fn link(&self, route: &Route) -> Result<Link, DialError> {
        match self.version {
            Version::Http1 => {
                while let Some(mut idle) = route.pop_idle() {
                    if !idle.is_closed() && idle.ready().await.is_ok() {
                        return Ok(Link::Http1(idle));
                    }
                }
                let io = TokioIo::new(self.dialer.dial(route.address, CONNECT).await?);
                let mut builder = http1::Builder::new();
                builder.max_buf_size(HEADER_BYTES as usize);
                let (sender, connection) = builder.handshake(io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Link::Http1(sender))
            }
            Version::Http2 => {
                let mut shared = route.shared.lock().await;
                if let Some((sender, spoken)) = shared.as_mut()
                    && !sender.is_closed()
                    && sender.ready().await.is_ok()
                {
                    return Ok(Link::Http2(sender.clone(), spoken.clone()));
                }
                *shared = None;
                let (stream, spoken) = Listened::new(self.dialer.dial(route.address, CONNECT).await?);
                let io = TokioIo::new(stream);
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .max_header_list_size(HEADER_BYTES)
                    .initial_stream_window_size(HEADER_BYTES)
                    .initial_connection_window_size(4 * HEADER_BYTES)
                    .max_send_buf_size(1 << 20)
                    // Only while requests wait: grpc-go counts pings on an idle connection as abuse.
                    .keep_alive_interval(Duration::from_secs(20))
                    .keep_alive_timeout(Duration::from_secs(10))
                    .keep_alive_while_idle(false);
                let handshake = tokio::time::timeout(CONNECT, builder.handshake(io));
                let (sender, connection) = handshake.await.map_err(|_| DialError::Slow)??;
                tokio::spawn(async move { drop(connection.await) });
                *shared = Some((sender.clone(), spoken.clone()));
                Ok(Link::Http2(sender, spoken))
            }
        }
    }
}

impl Route {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            health: Mutex::default(),
            shared: tokio::sync::Mutex::new(None),
            idle: Mutex::default(),
        }
    }

    fn avoided_until(&self, now: Instant) -> Option<Instant> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.avoid_until.filter(|until| *until > now)
    }

    fn failed(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = health.backoff.next(None);
        health.avoid_until = Some(Instant::now() + wait);
    }

    fn worked(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.backoff.reset();
        health.avoid_until = None;
    }

    fn pop_idle(&self) -> Option<http1::SendRequest<Body>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, link: Link) {
        if let Link::Http1(sender) = link
            && !sender.is_closed()
        {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
    }

    /// Requests that still run on the connection keep it alive; new ones get a new connection.
    async fn drop_shared(&self) {
        *self.shared.lock().await = None;
    }
}

/// Healthy ones first: the first `spread` of them in turn, then the rest; when none is healthy, those whose time
/// has come soonest.
fn order(list: &[Arc<Route>], spread: usize, turn: usize) -> Vec<Arc<Route>> {
    let now = Instant::now();
    let mut healthy: Vec<_> =
        list.iter().filter(|route| route.avoided_until(now).is_none()).cloned().collect();
    if healthy.is_empty() {
        let mut waiting = list.to_vec();
        waiting.sort_by_key(|route| route.avoided_until(now));
        waiting.truncate(LAST_CHANCES);
        return waiting;
    }
    let used = spread.min(healthy.len());
    healthy[..used].rotate_left(turn % used);
    healthy
}

/// A place in `0..n`, different in each process.
fn shuffled(n: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    usize::try_from(RandomState::new().hash_one(n) % (n as u64)).unwrap_or(0)
}

fn outgoing<B: Clone + Into<Body>>(request: &Request<B>) -> Request<Body> {
    request.clone().map(Into::into)
}

struct Broken {
    sent: bool,
    reason: String,
}

async fn exchange(link: &mut Link, request: Request<Body>, answer_bytes: usize) -> Result<Reply, Broken> {
    let answered = match link {
        Link::Http1(sender) => sender.try_send_request(request).await,
        Link::Http2(sender, _) => sender.try_send_request(request).await,
    };
    let response = answered.map_err(|error| {
        let sent = error.message().is_none();
        let reason = chain(error.error());
        let silent = matches!(link, Link::Http2(_, spoken) if !spoken.get());
        Broken { sent, reason: if silent { format!("{reason} ({})", hint::NOT_HTTP2) } else { reason } }
    })?;
    read(response, answer_bytes).await.map_err(|reason| Broken { sent: true, reason })
}

async fn read(response: Response<Incoming>, answer_bytes: usize) -> Result<Reply, String> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, answer_bytes).collect().await.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
}

/// An error with its causes: hyper's own text leaves them out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    with_hint(text)
}

fn with_hint(error: String) -> String {
    match hint::of_connection(&error) {
        Some(hint) => format!("{error} ({hint})"),
        None => error,
    }
}
