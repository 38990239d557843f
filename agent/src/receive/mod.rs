//! OTLP of the apps on this node: logs, metrics and traces over gRPC and HTTP, with the Kubernetes attributes of the
//! sending pod added, passed on to `export.endpoint` while the app waits for the answer.
//!
//! A request passes these stations: its head → its body within limits, in memory that was reserved first
//! ([`sonde_daemon::receive`]) → decompressed, given its attributes and compressed again on one thread ([`work`]) → the
//! receiver, once ([`forward`]), whose answer is the app's. So an app is acknowledged when our receiver has acknowledged, and
//! nothing is kept for one that is away: the app is told to come again.
//!
//! Whose a request is says the address that it comes from, and nothing else ([`senders`]). What an app says of itself is
//! never overwritten, as with the OpenTelemetry Collector's `k8sattributes`: an app that claims to be another pod is
//! believed, and gets none of our attributes.
//!
//! It is in nobody's way: a thread and a runtime of its own, connections of its own to the receiver, and memory of its own.
//!
//! # Memory
//! - all bodies under way: `receive.limits.in_flight`. A request of `n` bytes after decompression takes at most `4 n`: it
//!   may become twice as long with attributes ([`GROWTH`]), and is compressed beside that
//! - the one thread that decompresses: 8.5 MiB
//! - each connection, of which each of the two addresses has at most `receive.limits.connections`: 64 KiB sent ahead, and [`STREAMS`] × 8 KiB of headers over HTTP/2; 16 KiB over
//!   HTTP/1
//! - the compressor: its buffer stays as large as the largest request was, at most [`GROWTH`] × `receive.limits.request`
//! - attributes of the pods that have sent: about 1 KiB for each container

mod attributes;
mod forward;
mod grpc;
mod http;
mod metrics;
mod relay;
mod senders;
mod work;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::{Request, Response};
use sonde_daemon::client::otlp::Service;
use sonde_daemon::http::{self as server, BindError, Bound, Http2, Limits, Options, Peer};
use sonde_daemon::page::{self, Source};
use sonde_daemon::receive::Bounds;
use sonde_daemon::receive::admission::Admission;
use sonde_daemon::receive::decoders::Decoders;
use sonde_daemon::receive::gather::{Gathered, Patience};
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::shutdown::Shutdown;
use sonde_wire::response::PartialSuccess;
use tokio::sync::Semaphore;

use self::forward::Forward;
use self::metrics::Metrics;
use self::relay::NotTaken;
use self::senders::Senders;
use crate::config::{self, Config};
use crate::export::ExportError;
use crate::logs::resource::Node;
use crate::pods::PodIndex;

/// Threads that decompress, splice and compress.
const WORKERS: usize = 1;
/// Requests that wait for the receiver at a time; another is told to come again.
const UNDER_WAY: usize = 64;
/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 8;
/// With attributes a request may become so many times as long as a request may be.
const GROWTH: usize = 2;

/// The addresses that are ours; where there is none, nothing is listened on.
#[derive(Debug, Default)]
pub struct Listeners {
    grpc: Option<Bound>,
    http: Option<Bound>,
}

/// The receiver of apps, ready to run.
pub struct Receive {
    listeners: Listeners,
    connections: usize,
    receiver: Receiver,
}

/// Takes requests, whatever connection they come by. Cheap to clone.
#[derive(Clone)]
struct Receiver(Arc<Shared>);

struct Shared {
    bounds: Bounds,
    senders: Senders,
    forward: Forward,
    under_way: Semaphore,
    metrics: Metrics,
}

impl Listeners {
    /// Listens where the configuration says.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub fn bind(config: &config::Receive) -> Result<Self, BindError> {
        let bind = |addr: &str| if addr.is_empty() { Ok(None) } else { server::bind(addr).map(Some) };
        Ok(Self { grpc: bind(&config.otlp_grpc)?, http: bind(&config.otlp_http)? })
    }

    /// Where gRPC and HTTP are listened on.
    pub fn addrs(&self) -> [Option<SocketAddr>; 2] {
        [&self.grpc, &self.http].map(|bound| bound.as_ref().map(Bound::addr))
    }
}

impl Receive {
    /// Reads the token and TLS files of the export; connects to nothing. `has_teller` = somebody tells of pods.
    ///
    /// # Errors
    /// As the exporter's.
    pub fn build(
        config: &Config,
        listeners: Listeners,
        pods: PodIndex,
        has_teller: bool,
    ) -> Result<Option<Self>, ExportError> {
        if listeners.addrs() == [None, None] {
            return Ok(None);
        }
        let node = Node {
            cluster: config.cluster.clone(),
            name: config.node.name.clone(),
            labels: config.pods.labels.clone(),
        };
        let senders = Senders::new(node, pods, has_teller);
        let forward = Forward::build(&config.export)?;
        let connections = config.receive.limits.connections;
        let receiver = Receiver::new(&config.receive.limits, Patience::default(), senders, forward);
        Ok(Some(Self { listeners, connections, receiver }))
    }

    /// Where gRPC and HTTP are listened on.
    pub fn addrs(&self) -> [Option<SocketAddr>; 2] {
        self.listeners.addrs()
    }

    /// Its numbers.
    pub fn source(&self) -> Box<dyn Source> {
        let receiver = self.receiver.clone();
        page::source("receive", move |out| {
            receiver.0.metrics.collect(receiver.0.bounds.admission.used_bytes(), out);
            Ok(())
        })
    }

    /// Serves until the stop, on a thread of its own; what is under way then ends by the deadline.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(self, shutdown: Shutdown) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("receive".to_owned()).spawn(move || {
            // One thread more than the workers, for a name server.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(WORKERS + 1)
                .build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(self.run(shutdown));
                    // A name server that hangs must not keep a process that is done.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "apps cannot send here: no runtime"),
            }
        })
    }

    async fn run(self, shutdown: Shutdown) {
        let Self { listeners, connections, receiver } = self;
        let options = options(connections);
        let grpc = async {
            let Some(bound) = listeners.grpc else { return Ok(()) };
            let receiver = receiver.clone();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let receiver = receiver.clone();
                async move { Ok::<Response<_>, std::convert::Infallible>(grpc::serve(&receiver, request).await) }
            });
            server::serve(bound, options.clone(), shutdown.clone(), service).await
        };
        let http = async {
            let Some(bound) = listeners.http else { return Ok(()) };
            let receiver = receiver.clone();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let receiver = receiver.clone();
                async move { Ok::<Response<_>, std::convert::Infallible>(http::serve(&receiver, request).await) }
            });
            server::serve(bound, options.clone(), shutdown.clone(), service).await
        };
        if let Err(error) = tokio::try_join!(grpc, http) {
            tracing::error!(%error, "apps cannot send here");
        }
    }
}

/// Bounds of a listener: each connection may make us hold little.
fn options(connections: usize) -> Options {
    let limits = Limits {
        connections,
        // Between two exports of an app a connection rests; this is also how long it may take to say hello.
        header_timeout: Duration::from_secs(90),
        ..Limits::default()
    };
    let http2 = Http2 {
        max_concurrent_streams: STREAMS,
        stream_window: 64 << 10,
        connection_window: 64 << 10,
        max_frame_size: 16 << 10,
        max_header_list_size: 8 << 10,
        ..Http2::default()
    };
    Options { limits, http2, ..Options::default() }
}

impl Receiver {
    fn new(limits: &config::ReceiveLimits, patience: Patience, senders: Senders, forward: Forward) -> Self {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let bounds = Bounds {
            request_bytes: bytes(limits.request.0),
            patience,
            admission: Admission::new(limits.in_flight.0),
            decoders: Decoders::new(WORKERS),
        };
        let under_way = Semaphore::new(UNDER_WAY);
        Self(Arc::new(Shared { bounds, senders, forward, under_way, metrics: Metrics::default() }))
    }

    /// Gives `body` the attributes of who sent it, passes it on, and returns when the receiver has answered.
    async fn take(
        &self,
        service: Service,
        body: Gathered,
        from: Option<IpAddr>,
        resend: bool,
    ) -> Result<PartialSuccess, NotTaken> {
        let shared = &self.0;
        shared.forward.ready(service)?;
        let Ok(_turn) = shared.under_way.try_acquire() else {
            return Err(Refusal::new(Reason::Overload, "too many requests wait for the receiver").into());
        };
        let sender = shared.senders.find(from);
        shared.metrics.sender(sender.kind());
        let (client, limit) = (Arc::clone(shared.forward.client(service)), shared.bounds.request_bytes);
        let work = move || work::prepare(body, limit, &sender, &client);
        let prepared = shared.bounds.decoders.run(work).await??;
        let raw_bytes = prepared.came_bytes;
        let partial = shared.forward.send(service, prepared, resend).await?;
        shared.metrics.taken(service, raw_bytes, partial.rejected);
        Ok(partial)
    }

    /// Waits, before anything of a request is held, until it is known whose it is; see [`Senders::settle`].
    async fn peer(&self, peer: Option<Peer>) -> Option<IpAddr> {
        let address = peer.map(|peer| peer.0.ip().to_canonical())?;
        self.0.senders.settle(address).await;
        Some(address)
    }
}
