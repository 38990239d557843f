//! The way between an agent and a collector, or a collector and a sink, which can fail: a TCP proxy whose connections are
//! refused, lose the answers, are slow, break in the middle of a request, or end at somebody who has no time, or no sense.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong with the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: every byte is passed on.
    #[default]
    None,
    /// Nobody listens: connections are refused.
    Refused,
    /// Requests arrive; what the receiver says to them is lost, and at the end the connections with it.
    Muted,
    /// So many bytes a second and direction, each connection.
    Slow {
        /// Not 0.
        bytes_per_second: u64,
    },
    /// Every request is answered that it is to come again: `RESOURCE_EXHAUSTED` with a `RetryInfo`, `UNAVAILABLE`, or the
    /// statuses 503 and 429 with and without a hint, by turns.
    Overloaded,
    /// Each connection breaks when so many bytes of requests were passed on.
    Cut {
        /// From the start of the connection.
        after_bytes: u64,
    },
    /// Every request is answered with something that is no answer, by turns: a web page with status 200, JSON that is cut off,
    /// an empty body, an empty object, results of somebody else's documents, a proxy's 502. Over HTTP only.
    Nonsense,
    /// The sabotage that a comparison must find: the next request with logs is said to be stored, and thrown away.
    Lying,
}

/// A listening port in front of another one, which is on 127.0.0.1. Dropped, it ends with its connections.
pub struct Link {
    /// Where it listens.
    pub port: u16,
    fault: watch::Sender<Fault>,
    upstream: Arc<AtomicU16>,
    lies: Arc<AtomicU64>,
}

impl Link {
    /// In front of nobody yet; OTLP comes over HTTP/1.1 if `http`, else over gRPC.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(http: bool) -> anyhow::Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), http)
    }

    /// The same on an address of one's own.
    ///
    /// # Errors
    /// The address is taken, or no thread.
    pub fn at(address: SocketAddr, http: bool) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (fault, seen) = watch::channel(Fault::None);
        let (upstream, lies) = (Arc::default(), Arc::default());
        let way = Way {
            upstream: Arc::clone(&upstream),
            http,
            fault: seen,
            answers: Arc::default(),
            lies: Arc::clone(&lies),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("link".to_owned()).spawn(move || {
            // Ends when the sender is gone. A port that cannot be had again is seen by the agent, as an outage without end.
            let _ = runtime.block_on(way.serve(listener));
        })?;
        Ok(Self { port, fault, upstream, lies })
    }

    /// New connections go to this port.
    pub fn forward_to(&self, port: u16) {
        self.upstream.store(port, Ordering::SeqCst);
    }

    /// From now on this is wrong. Open connections take part in it where they can, and break where they cannot.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Requests that were said to be stored and are not.
    pub fn lies(&self) -> u64 {
        self.lies.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Way {
    upstream: Arc<AtomicU16>,
    http: bool,
    fault: watch::Receiver<Fault>,
    /// Requests that were answered here.
    answers: Arc<AtomicU64>,
    lies: Arc<AtomicU64>,
}

/// The sender is gone.
struct Ended;

impl Way {
    async fn serve(mut self, first: std::net::TcpListener) -> Result<(), io::Error> {
        let address = first.local_addr()?;
        let mut listener = Some(TcpListener::from_std(first)?);
        loop {
            let fault = *self.fault.borrow_and_update();
            if fault == Fault::Refused {
                listener = None;
            } else if listener.is_none() {
                listener = Some(listen_again(address).await?);
            }
            tokio::select! {
                changed = self.fault.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                client = accept(listener.as_ref()) => {
                    tokio::spawn(self.clone().connection(client));
                }
            }
        }
    }

    async fn connection(mut self, client: TcpStream) {
        let fault = *self.fault.borrow_and_update();
        let breaks = self.clone().breaks(fault);
        match fault {
            Fault::Refused => {}
            Fault::Overloaded | Fault::Lying | Fault::Nonsense => {
                tokio::select! {
                    () = self.answer_all(client) => {}
                    _ = breaks => {}
                }
            }
            Fault::None | Fault::Muted | Fault::Slow { .. } | Fault::Cut { .. } => {
                // Where nobody listens behind us, the connection breaks as soon as it is made.
                let upstream = self.upstream.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
                let (client_in, client_out) = client.into_split();
                let (server_in, server_out) = server.into_split();
                tokio::select! {
                    _ = pump(client_in, server_out, self.fault.clone(), false) => {}
                    _ = pump(server_in, client_out, self.fault.clone(), true) => {}
                    _ = breaks => {}
                }
            }
        }
    }

    /// Until the fault changes in a way that connections do not survive: what is lost of answers is lost for good, and who
    /// answers in the receiver's place does so from a connection's start.
    async fn breaks(mut self, mut fault: Fault) -> Result<(), Ended> {
        let bytes_are_whole = |fault| matches!(fault, Fault::None | Fault::Slow { .. });
        let passes_bytes_on =
            |fault| bytes_are_whole(fault) || matches!(fault, Fault::Muted | Fault::Cut { .. });
        loop {
            self.fault.changed().await.map_err(|_| Ended)?;
            let now = *self.fault.borrow_and_update();
            if now != fault && !(bytes_are_whole(fault) && passes_bytes_on(now)) {
                return Ok(());
            }
            fault = now;
        }
    }

    async fn answer_all(&self, client: TcpStream) {
        let way = self.clone();
        let service = service_fn(move |request| {
            let way = way.clone();
            async move { Ok::<_, Infallible>(way.answer(request).await) }
        });
        // A connection that breaks is the client's to see.
        let io = TokioIo::new(client);
        if self.http {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        } else {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let is_logs = request.uri().path().to_ascii_lowercase().contains("logs");
        let number = self.answers.fetch_add(1, Ordering::SeqCst);
        let fault = *self.fault.borrow();
        let lies = fault == Fault::Lying && is_logs;
        // Some are refused before they have said what they want.
        if lies || !number.is_multiple_of(3) {
            let _ = request.into_body().collect().await;
        }
        if lies && self.lies.fetch_add(1, Ordering::SeqCst) == 0 {
            return taken(self.http);
        }
        if fault == Fault::Nonsense {
            return nonsense(number);
        }
        overloaded(self.http, number)
    }
}

type Answer = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn listen_again(address: SocketAddr) -> Result<TcpListener, io::Error> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 1000 => tries += 1,
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return pending().await };
    loop {
        if let Ok((client, _)) = listener.accept().await {
            return client;
        }
    }
}

/// Passes bytes on as the fault of the moment lets them, until one end is closed or the connection is cut.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fault: watch::Receiver<Fault>,
    are_answers: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let read = from.read(&mut buffer).await?;
        let mut bytes = &buffer[..read];
        if read == 0 {
            return Ok(());
        }
        let now = *fault.borrow();
        match now {
            Fault::Muted if are_answers => continue,
            Fault::Slow { bytes_per_second } => {
                // In small steps: the fault may end on the way.
                while !bytes.is_empty() && *fault.borrow() == now {
                    let (step, rest) = bytes.split_at(bytes.len().min(1024));
                    let millis = step.len() as u64 * 1000 / bytes_per_second.max(1);
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    to.write_all(step).await?;
                    bytes = rest;
                }
            }
            Fault::Cut { after_bytes } if !are_answers => {
                let left = usize::try_from(after_bytes.saturating_sub(passed)).unwrap_or(usize::MAX);
                if left < bytes.len() {
                    to.write_all(&bytes[..left]).await?;
                    return Ok(());
                }
            }
            _ => {}
        }
        to.write_all(bytes).await?;
        passed += read as u64;
    }
}

/// `google.rpc.Status` with code 8 and a `RetryInfo` of 100 ms; without one, `RESOURCE_EXHAUSTED` means never.
const EXHAUSTED_WITH_HINT: &str =
    "CAgaMwoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIHCgUQgMLXLw==";

fn overloaded(http: bool, number: u64) -> Response<Answer> {
    let exhausted: &[(&str, &str)] =
        &[("grpc-status", "8"), ("grpc-status-details-bin", EXHAUSTED_WITH_HINT)];
    let (status, headers): (u16, &[(&str, &str)]) = match (http, number % 4) {
        (false, 0 | 1) => (200, exhausted),
        (false, 2) => (200, &[("grpc-status", "14")]),
        (false, _) => (503, &[]),
        (true, 0) => (503, &[]),
        (true, 1) => (503, &[("retry-after", "1")]),
        (true, 2) => (429, &[]),
        (true, _) => (429, &[("retry-after", "1")]),
    };
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    if status == 200 {
        set(response.headers_mut(), "content-type", "application/grpc");
    }
    headers.iter().for_each(|(name, value)| set(response.headers_mut(), name, value));
    response
}

/// Nothing that a server would say to a request.
fn nonsense(number: u64) -> Response<Answer> {
    const FOREIGN: &str =
        r#"{"errors":false,"items":[{"create":{"_id":"of somebody else","_index":"i","status":201}}]}"#;
    let (status, body) = [
        (200, "<html><body>Welcome</body></html>"),
        (200, r#"{"errors":false,"items":[{"create":{"_id":"0"#),
        (200, ""),
        (200, "{}"),
        (200, FOREIGN),
        (502, "<html><body>Bad Gateway</body></html>"),
    ][usize::try_from(number % 6).unwrap_or(0)];
    let mut response = Response::new(Full::from(body).boxed());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}

/// "All of it is stored."
fn taken(http: bool) -> Response<Answer> {
    if http {
        let mut response = Response::new(Full::default().boxed());
        set(response.headers_mut(), "content-type", "application/x-protobuf");
        return response;
    }
    // An empty message, uncompressed.
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async {
        let mut trailers = HeaderMap::new();
        set(&mut trailers, "grpc-status", "0");
        Some(Ok(trailers))
    });
    let mut response = Response::new(body.boxed());
    set(response.headers_mut(), "content-type", "application/grpc");
    response
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
