//! The collector as a whole: made of its parts, run, and taken down.

mod deliveries;
mod open;
mod queues;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use sonde_daemon::health::Health;
use sonde_daemon::http::{self, BindError, Bound, Limits};
use sonde_daemon::lock::{Lock, LockError};
use sonde_daemon::page::{Build, Page, Process, Section, Source};
use sonde_daemon::secret::{SecretError, Tokens};
use sonde_daemon::shutdown::{self, Shutdown};
use sonde_daemon::tls::{self, TlsError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::deliveries::{Deliveries, TURN, watch_over};
use self::open::{Other, StoreSink};
pub use self::queues::Queues;
use crate::config::Config;
use crate::deliver::ack::{Acks, Required};
use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::lane;
use crate::deliver::store::StoreOptions as DeliverOptions;
use crate::front::Front;
use crate::metrics::Metrics;
use crate::queue::{QueueError, Signal};
use crate::receive::{self, AccountsError, Patience, Receiver, Reply, Settings};
use crate::sinks::SinkError;
use crate::store::StoreError;
use crate::{api, deliver, page, stats};

/// The name in locks and on the command line.
pub const PROGRAM: &str = "sonde-collector";

/// Connections of readers.
const READERS: usize = 256;
/// What those have to end in, at the end of a stop.
const READERS_END: Duration = Duration::from_millis(500);

/// Why the collector cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// `data_dir` is not ours.
    #[error("data_dir: {0}")]
    Lock(#[from] LockError),
    /// The queue cannot be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// An address is not to be had.
    #[error("listen.{key}: {source}")]
    Bind {
        /// Which.
        key: &'static str,
        /// Why.
        source: BindError,
    },
    /// A token file cannot be used.
    #[error("{key}: {source}")]
    Secret {
        /// Which.
        key: &'static str,
        /// Why.
        source: SecretError,
    },
    /// Service accounts cannot be told.
    #[error("auth.otlp.kubernetes: {0}")]
    Accounts(#[from] AccountsError),
    /// The certificate cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// A drain was stopped.
    #[error("the queue is not empty: {bytes} bytes are left")]
    NotDrained {
        /// What the sink that is furthest behind has still to take.
        bytes: u64,
    },
    /// The directory of dead letters cannot be read.
    #[error("data_dir/dead-letter: {0}")]
    DeadLetter(std::io::Error),
    /// A sink cannot be made.
    #[error("sink {name}: {source}")]
    Sink {
        /// Which.
        name: String,
        /// Why.
        source: SinkError,
    },
    /// The runtime failed.
    #[error("{0}")]
    Runtime(#[from] std::io::Error),
}

/// A collector, ready to run: everything is open and bound, nothing is answered yet.
pub struct App {
    config: Config,
    _lock: Lock,
    queues: Queues,
    store: Option<StoreSink>,
    others: Vec<Other>,
    letters: Arc<DeadLetters>,
    receiver: Receiver,
    acks: Vec<(Signal, Acks)>,
    metrics: Metrics,
    readers: Option<Tokens>,
    tls: Option<Arc<tls::Server>>,
    grpc: Bound,
    http: Bound,
    pages: Bound,
}

impl App {
    /// Locks the data directory, opens and recovers queue and store, binds the sockets. Blocks.
    ///
    /// # Errors
    /// The first part that cannot be had.
    pub fn build(config: Config) -> Result<Self, AppError> {
        let lock = Lock::take(&config.data_dir, PROGRAM)?;
        open::warn_volatile(&config.data_dir);
        let tls = open::server_tls(&config.tls)?;
        let senders = open::senders(&config.auth.otlp)?;
        let readers = open::tokens("auth.http.token_file", &config.auth.http.token_file)?;
        let queues = Queues::open(&config)?;
        let letters = DeadLetters::open(&config.data_dir.join("dead-letter"), config.dead_letter.max_bytes.0)
            .map_err(AppError::DeadLetter)?;
        let store = open::store(&config)?;
        let others = open::others(&config)?;
        let settings = Settings {
            request_bytes: open::request_bytes(&config),
            in_flight_bytes: config.limits.in_flight.0,
            patience: Patience::default(),
        };
        let metrics = Metrics::default();
        let acks = open::acks(&config, &queues);
        let receiver =
            Receiver::new(settings, senders, open::intakes(&config, &queues, &acks), metrics.clone());
        let bind = |key, address: &str| http::bind(address).map_err(|source| AppError::Bind { key, source });
        let grpc = bind("otlp_grpc", &config.listen.otlp_grpc)?;
        let http = bind("otlp_http", &config.listen.otlp_http)?;
        let pages = bind("http", &config.listen.http)?;
        Ok(Self {
            config,
            _lock: lock,
            queues,
            store,
            others,
            letters,
            receiver,
            acks,
            metrics,
            readers,
            tls,
            grpc,
            http,
            pages,
        })
    }

    /// From now on nothing is taken: every sender is asked to come again. Gives the queues, to see how much is left.
    pub fn drain(&self) -> Queues {
        self.receiver.drain();
        self.queues.clone()
    }

    /// Answers until `shutdown` asks to stop, then takes no more, ends what is under way, commits, and closes the
    /// queue, all within the grace that `shutdown` gives. What could not be delivered stays in the queue.
    ///
    /// # Errors
    /// A listener that the runtime cannot take over, a thread that cannot be started.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AppError> {
        tracing::info!(
            otlp_grpc = %self.grpc.addr(), otlp_http = %self.http.addr(), http = %self.pages.addr(),
            tls = self.tls.is_some(), data_dir = %self.config.data_dir.display(), "listening"
        );
        let health = Health::new();
        let ready = health.readiness("recovery");
        let (stop_delivery, delivery_stops) = watch::channel(false);
        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(Build { prefix: "sonde_collector", version: env!("CARGO_PKG_VERSION") }),
            Box::new(Process),
            self.receiver.source(),
            self.metrics.source(),
            stats::letters_source(Arc::clone(&self.letters)),
        ];
        for (signal, queue) in self.queues.iter() {
            let most = self.config.queue.max_bytes_of(signal);
            sources.push(stats::queue_source(signal, queue.clone(), most));
        }
        let mut deliveries = Deliveries::default();
        let mut logs = api::without_store();
        if let Some(StoreSink { name, store, writer }) = self.store {
            let options = DeliverOptions {
                sink: name.clone(),
                request_bytes: open::request_bytes(&self.config),
                cluster: self.config.cluster.clone(),
            };
            let heartbeat = health.heartbeat("delivery", TURN);
            let (shelf, stop, beat) = (self.letters.shelf(&name), delivery_stops.clone(), heartbeat.clone());
            let delivery = deliver::store::start(self.queues.logs(), writer, options, shelf, stop, beat)?;
            sources.push(stats::store_source(name.clone(), store.clone(), Arc::clone(delivery.numbers())));
            sources.push(delivery.canaries().source(name.clone()));
            logs = api::router(store);
            let required = Required { settled: delivery.committed(), starved: Arc::default() };
            deliveries.note(&self.config, Signal::Logs, &name, required);
            deliveries.store = Some((delivery, heartbeat));
        }
        for Other { signal, sink, destination } in self.others {
            // It was opened because a sink takes the signal.
            let Some(queue) = self.queues.get(signal) else { continue };
            let options = open::lane_options(&self.config, signal, &sink, destination.in_flight());
            let heartbeat = health.heartbeat("delivery", TURN);
            let shelf = self.letters.shelf(&sink.name);
            let lane = lane::start(queue, destination, options, shelf, delivery_stops.clone(), heartbeat);
            sources.push(stats::lane_source(sink.name.clone(), signal, Arc::clone(lane.numbers())));
            if signal == Signal::Logs {
                sources.push(lane.canaries().source(sink.name.clone()));
            }
            let required = Required { settled: lane.settled(), starved: lane.starved() };
            deliveries.note(&self.config, signal, &sink.name, required);
            deliveries.lanes.push(lane);
        }
        for (signal, acks) in &self.acks {
            acks.require(deliveries.required(*signal));
            sources.push(acks.source(*signal));
        }
        drop(delivery_stops);
        for (signal, queue) in self.queues.iter() {
            deliver::forget_all_but(queue, &deliveries.names(signal));
        }
        let own = Page::new(vec![Section::new(None, sources)], true);
        let anonymous = self.config.auth.http.anonymous;
        let routes = page::router().merge(logs).merge(api::metrics::router(self.metrics));
        let front = Front::new(health.clone(), own, self.readers, anonymous, routes);
        // Readers are served until all else has ended.
        let (stop_pages, pages_stop) = shutdown::channel();
        let answer = move |request| Arc::clone(&front).answer(request);
        let limits = Limits { connections: READERS, ..Limits::default() };
        let pages = tokio::spawn(http::serve_pages(self.pages, limits, pages_stop, answer));

        let options = {
            let limits = &self.config.limits;
            receive::options(limits.connections, limits.connection_age.0, self.tls.clone())
        };
        let mut senders = JoinSet::new();
        let receiver = self.receiver.clone();
        let grpc = service_fn(move |request: Request<Incoming>| {
            let receiver = receiver.clone();
            async move { Ok::<Response<Reply>, Infallible>(receive::serve_grpc(&receiver, request).await) }
        });
        senders.spawn(http::serve(self.grpc, options.clone(), shutdown.clone(), grpc));
        let receiver = self.receiver.clone();
        let http = service_fn(move |request: Request<Incoming>| {
            let receiver = receiver.clone();
            async move { Ok::<Response<Reply>, Infallible>(receive::serve_http(&receiver, request).await) }
        });
        senders.spawn(http::serve(self.http, options, shutdown.clone(), http));
        ready.set(true);

        let stopped = tokio::select! {
            _ = shutdown.wait() => Ok(()),
            Some(ended) = senders.join_next() => ended.map_err(std::io::Error::other).and_then(|result| result),
            () = watch_over(&health, &self.queues, &deliveries) => Err(std::io::Error::other("a delivery ended")),
        };
        ready.set(false);
        self.receiver.drain();
        for (_, acks) in &self.acks {
            // The other half is for what is left to do then.
            acks.end_by(Instant::now() + shutdown.remaining().unwrap_or_default() / 2);
        }
        let end = async {
            while senders.join_next().await.is_some() {}
            stop_delivery.send_replace(true);
            deliveries.join().await;
            self.queues.close().await;
        };
        // Without a stop that was asked for, something failed: there is nothing to wait for.
        let left = shutdown.remaining().unwrap_or_default();
        if tokio::time::timeout(left, end).await.is_err() {
            tracing::warn!("not all ended in time; what was acknowledged is on disk");
        }
        stop_pages.fire(READERS_END.min(shutdown.remaining().unwrap_or_default()));
        let _ = pages.await;
        Ok(stopped?)
    }
}
