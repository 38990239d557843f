//! A small HTTP server: bound before anything runs, bounded in every dimension, drained at the stop.
//!
//! [`serve_pages`] is HTTP/1 for scrapes and probes; [`serve`] speaks HTTP/1 and HTTP/2 (told apart by the first
//! bytes, so also without TLS) with every window and limit in the caller's hand, for OTLP.

mod stream;

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::log::RateLimit;
use crate::shutdown::Shutdown;
use crate::tls;
use stream::Guarded;

/// How long a client whose handshake failed may take to read why, and how much it may have sent meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// An address that is ours: connections queue from here on, and are answered once it is served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}")]
pub struct BindError {
    addr: String,
    source: io::Error,
}

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// Time for the TLS handshake, for the first bytes, and for the head of each request, idle time included.
    pub header_timeout: Duration,
    /// Bytes of a request's head (HTTP/1).
    pub header_bytes: usize,
    /// A peer that takes no byte of an answer for so long is cut off.
    pub stall_timeout: Duration,
}

/// HTTP/2's own bounds.
#[derive(Clone, Debug)]
pub struct Http2 {
    /// Requests under way on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes that a peer may send ahead on one request.
    pub stream_window: u32,
    /// Bytes that a peer may send ahead on one connection: what a connection can make us hold.
    pub connection_window: u32,
    /// Bytes of one frame, 16 KiB to 16 MiB - 1.
    pub max_frame_size: u32,
    /// Bytes of a request's headers.
    pub max_header_list_size: u32,
    /// A ping after so long; a peer that does not answer within `keep_alive_timeout` is cut off.
    pub keep_alive_interval: Duration,
    /// See `keep_alive_interval`.
    pub keep_alive_timeout: Duration,
}

/// What [`serve`] needs to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bounds of the server.
    pub limits: Limits,
    /// HTTP/2's own bounds.
    pub http2: Http2,
    /// TLS; `None` = plain text.
    pub tls: Option<Arc<tls::Server>>,
    /// A connection that is so old (give or take a tenth, so that not all go at once) is told to end: HTTP/2 by GOAWAY, HTTP/1
    /// by `Connection: close` in its next answer, so that no request is lost on the way. Its client connects again, and may meet a
    /// replica that is newer. `None` = never.
    pub max_age: Option<Duration>,
}

/// The other end of the connection; in the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Default for Limits {
    /// 256 connections, 10 s for a head of at most 16 KiB, 30 s without taking a byte.
    fn default() -> Self {
        Self {
            connections: 256,
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 << 10,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Http2 {
    /// 32 requests a connection, 256 KiB a request and 512 KiB a connection sent ahead, 16 KiB of headers.
    fn default() -> Self {
        Self {
            max_concurrent_streams: 32,
            stream_window: 256 << 10,
            connection_window: 512 << 10,
            max_frame_size: 64 << 10,
            max_header_list_size: 16 << 10,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
        }
    }
}

/// Listens on `addr`: `127.0.0.1:8080`, `[::]:9464` (IPv6 and IPv4; IPv4 alone where IPv6 is off), `:9464` (the
/// same), or a name with a port. Port 0 takes a free one.
///
/// # Errors
/// Names the address and what the system said.
pub fn bind(addr: &str) -> Result<Bound, BindError> {
    let fail = |source| BindError { addr: addr.to_owned(), source };
    let full = if addr.starts_with(':') { format!("[::]{addr}") } else { addr.to_owned() };
    let addrs: Vec<SocketAddr> = full.to_socket_addrs().map_err(fail)?.collect();
    let listener = match (TcpListener::bind(&addrs[..]), addrs.first()) {
        (Err(error), Some(first))
            if first.is_ipv6() && first.ip().is_unspecified() && is_without_ipv6(&error) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, first.port())).map_err(fail)?
        }
        (result, _) => result.map_err(fail)?,
    };
    listener.set_nonblocking(true).map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    Ok(Bound { listener, addr })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

impl Bound {
    /// The address, with the port that was taken.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Serves HTTP/1 until the stop: no new connections from then on, those under way end by the deadline.
///
/// # Errors
/// When the runtime cannot take the listener over.
pub async fn serve_pages<H, F, B>(
    bound: Bound,
    limits: Limits,
    shutdown: Shutdown,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let options = Options { limits, ..Options::default() };
    accept(bound, Arc::new(options), Protocols { http2: false }, shutdown, service).await
}

/// Serves HTTP/1 and HTTP/2, with or without TLS, until the stop; see [`serve_pages`].
///
/// # Errors
/// When the runtime cannot take the listener over.
pub async fn serve<S, B>(bound: Bound, options: Options, shutdown: Shutdown, service: S) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    accept(bound, Arc::new(options), Protocols { http2: true }, shutdown, service).await
}

/// A short plain-text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[derive(Clone, Copy)]
struct Protocols {
    http2: bool,
}

async fn accept<S, B>(
    bound: Bound,
    options: Arc<Options>,
    protocols: Protocols,
    shutdown: Shutdown,
    service: S,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    static COMPLAINTS: RateLimit = RateLimit::new(Duration::from_secs(10));
    let listener = tokio::net::TcpListener::from_std(bound.listener)?;
    let slots = Arc::new(Semaphore::new(options.limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    // Dropped with this future, it ends what is left of the connections.
    let mut connections = JoinSet::new();
    let mut stop = pin!(shutdown.wait());
    let deadline = loop {
        let next = async {
            // Never closed, so it cannot fail.
            let permit = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (permit, stream, peer))
        };
        let accepted = tokio::select! {
            deadline = &mut stop => break deadline,
            accepted = next => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((permit, stream, peer)) => {
                let connection =
                    Connection { options: Arc::clone(&options), protocols, peer, _permit: permit };
                connections.spawn(connection.run(stream, shutdown.clone(), service.clone()));
            }
            Err(error) => {
                // Out of files, most often: wait for some to be closed rather than spin.
                if let Some(suppressed) = COMPLAINTS.allow() {
                    tracing::warn!(%error, suppressed, addr = %bound.addr, "a connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout_at(Instant::from_std(deadline), all).await.is_err() {
        tracing::warn!(addr = %bound.addr, "connections that were still open at the deadline were cut off");
    }
    Ok(())
}

struct Connection {
    options: Arc<Options>,
    protocols: Protocols,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run<S, B>(self, stream: TcpStream, shutdown: Shutdown, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Answers are written whole; waiting for more to send only delays them. A failure costs just that.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.options.tls else {
            return self.speak(stream, shutdown, service).await;
        };
        let handshake = tokio_rustls::TlsAcceptor::from(tls.config()).accept(stream).into_fallible();
        match timeout(self.options.limits.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.speak(stream, shutdown, service).await,
            Ok(Err((error, stream))) => {
                tracing::debug!(peer = %self.peer, %error, "TLS handshake failed");
                let _ = timeout(LINGER, linger(stream)).await;
            }
            Err(_) => tracing::debug!(peer = %self.peer, "TLS handshake took too long"),
        }
    }

    async fn speak<I, S, B>(self, io: I, shutdown: Shutdown, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limits = &self.options.limits;
        let mut io = Guarded::new(io, limits.stall_timeout);
        let mut is_http2 = false;
        if self.protocols.http2 {
            let first = tokio::select! {
                first = timeout(limits.header_timeout, io.starts_as_http2()) => first,
                _ = shutdown.wait() => return,
            };
            let Ok(Ok(answer)) = first else { return };
            is_http2 = answer;
        }
        let peer = Peer(self.peer);
        let old = self.options.max_age.map(|age| Instant::now() + spread_out(age));
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let answered = service.call(request);
            async move {
                let mut response = answered.await?;
                if !is_http2 && old.is_some_and(|old| old <= Instant::now()) {
                    // Said with an answer, so that it never crosses with a request.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, S::Error>(response)
            }
        });
        let io = TokioIo::new(io);
        let result = if is_http2 {
            let ended = async {
                tokio::select! {
                    _ = shutdown.wait() => {}
                    () = reached(old) => {}
                }
            };
            until(ended, http2_builder(&self.options.http2).serve_connection(io, service)).await
        } else {
            let ended = async {
                shutdown.wait().await;
            };
            until(ended, http1_builder(limits).serve_connection(io, service)).await
        };
        if let Err(error) = result {
            tracing::debug!(peer = %self.peer, %error, "connection ended");
        }
    }
}

/// Runs a connection; from `ended` on it takes no new request.
async fn until<C: GracefulConnection>(
    ended: impl Future<Output = ()>,
    connection: C,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = ended => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// `None` = never.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// `age`, give or take a tenth of it.
fn spread_out(age: Duration) -> Duration {
    let parts = u32::try_from(RandomState::new().hash_one(age) % 201).unwrap_or_default();
    age.saturating_mul(900 + parts) / 1000
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A client may close its side after its request and still wait for the answer.
        .half_close(true)
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes)
        // hyper's least.
        .max_buf_size(limits.header_bytes.max(8192));
    builder
}

fn http2_builder(bounds: &Http2) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_concurrent_streams)
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .max_frame_size(bounds.max_frame_size)
        .max_header_list_size(bounds.max_header_list_size)
        .keep_alive_interval(bounds.keep_alive_interval)
        .keep_alive_timeout(bounds.keep_alive_timeout);
    builder
}

/// Lets the peer read the alert that was written: to close under what it has sent by then (in TLS 1.3 a client speaks before
/// its certificate was looked at) would reset the connection, and the alert with it.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let _ = tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests;
