//! The collector as a whole: made of its parts, run, and taken down.

mod deliveries;

use std::convert::Infallible;
use std::path::Path;
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
use crate::config::{Ack, Config, KubernetesAuth, OtlpAuth, Sink, SinkKind, Tls};
use crate::deliver::ack::{self, Acks, Required};
use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::lane::{self, LaneOptions};
use crate::deliver::store::StoreOptions as DeliverOptions;
use crate::front::Front;
use crate::metrics::Metrics;
use crate::queue::{MinFree, Queue, QueueError, QueueOptions, RealFilesystem};
use crate::receive::{
    self, Accounts, AccountsError, AccountsOptions, Intake, Patience, Receiver, Reply, Senders, Settings,
};
use crate::sinks::{Destination, SinkError};
use crate::store::{Store, StoreError, StoreOptions, Writer};
use crate::{api, deliver, page, stats};

/// The name in locks and on the command line.
pub const PROGRAM: &str = "sonde-collector";

/// Connections of readers.
const READERS: usize = 256;
/// The store's commits where senders wait for them: far less than they wait.
const COMMIT_AWAITED: Duration = Duration::from_secs(2);
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
    queue: Queue,
    store: Option<StoreSink>,
    others: Vec<(Sink, Destination)>,
    letters: Arc<DeadLetters>,
    receiver: Receiver,
    acks: Option<Acks>,
    metrics: Metrics,
    readers: Option<Tokens>,
    tls: Option<Arc<tls::Server>>,
    grpc: Bound,
    http: Bound,
    pages: Bound,
}

/// The embedded store, before it is delivered to.
struct StoreSink {
    name: String,
    store: Store,
    writer: Writer,
}

impl App {
    /// Locks the data directory, opens and recovers queue and store, binds the sockets. Blocks.
    ///
    /// # Errors
    /// The first part that cannot be had.
    pub fn build(config: Config) -> Result<Self, AppError> {
        let lock = Lock::take(&config.data_dir, PROGRAM)?;
        warn_volatile(&config.data_dir);
        let tls = server_tls(&config.tls)?;
        let senders = senders(&config.auth.otlp)?;
        let readers = tokens("auth.http.token_file", &config.auth.http.token_file)?;
        let queue = open_queue(&config)?;
        let letters = DeadLetters::open(&config.data_dir.join("dead-letter"), config.dead_letter.max_bytes.0)
            .map_err(AppError::DeadLetter)?;
        let store = open_store(&config)?;
        let others = open_others(&config)?;
        let settings = Settings {
            request_bytes: request_bytes(&config),
            in_flight_bytes: config.limits.in_flight.0,
            patience: Patience::default(),
        };
        let metrics = Metrics::default();
        let acks = (config.ack == Ack::Delivered).then(|| Acks::new(queue.clone(), ack::PATIENCE));
        let intake: Arc<dyn Intake> = match &acks {
            Some(acks) => Arc::new(acks.clone()),
            None => Arc::new(queue.clone()),
        };
        let receiver = Receiver::new(settings, senders, intake, metrics.clone());
        let bind = |key, address: &str| http::bind(address).map_err(|source| AppError::Bind { key, source });
        let grpc = bind("otlp_grpc", &config.listen.otlp_grpc)?;
        let http = bind("otlp_http", &config.listen.otlp_http)?;
        let pages = bind("http", &config.listen.http)?;
        Ok(Self {
            config,
            _lock: lock,
            queue,
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

    /// From now on nothing is taken: every sender is asked to come again. Gives the queue, to see how much is left.
    pub fn drain(&self) -> Queue {
        self.receiver.drain();
        self.queue.clone()
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
            stats::queue_source(self.queue.clone(), self.config.queue.max_bytes.0),
            stats::letters_source(Arc::clone(&self.letters)),
        ];
        let mut deliveries = Deliveries::default();
        let mut logs = api::without_store();
        let mut names = Vec::new();
        if let Some(StoreSink { name, store, writer }) = self.store {
            let options = DeliverOptions {
                sink: name.clone(),
                request_bytes: request_bytes(&self.config),
                cluster: self.config.cluster.clone(),
            };
            let heartbeat = health.heartbeat("delivery", TURN);
            let (shelf, stop, beat) = (self.letters.shelf(&name), delivery_stops.clone(), heartbeat.clone());
            let delivery = deliver::store::start(&self.queue, writer, options, shelf, stop, beat)?;
            sources.push(stats::store_source(name.clone(), store.clone(), Arc::clone(delivery.numbers())));
            sources.push(delivery.canaries().source(name.clone()));
            logs = api::router(store);
            deliveries.note(
                &self.config,
                &name,
                Required { settled: delivery.committed(), starved: Arc::default() },
            );
            deliveries.store = Some((delivery, heartbeat));
            names.push(name);
        }
        for (sink, destination) in self.others {
            let options = lane_options(&self.config, &sink, destination.in_flight());
            let heartbeat = health.heartbeat("delivery", TURN);
            let shelf = self.letters.shelf(&sink.name);
            let lane =
                lane::start(&self.queue, destination, options, shelf, delivery_stops.clone(), heartbeat);
            sources.push(stats::lane_source(sink.name.clone(), Arc::clone(lane.numbers())));
            sources.push(lane.canaries().source(sink.name.clone()));
            deliveries.note(
                &self.config,
                &sink.name,
                Required { settled: lane.settled(), starved: lane.starved() },
            );
            deliveries.lanes.push(lane);
            names.push(sink.name);
        }
        if let Some(acks) = &self.acks {
            acks.require(std::mem::take(&mut deliveries.required));
            sources.push(acks.source());
        }
        drop(delivery_stops);
        deliver::forget_all_but(&self.queue, &names.iter().map(String::as_str).collect::<Vec<_>>());
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
            () = watch_over(&health, &self.queue, &deliveries) => Err(std::io::Error::other("a delivery ended")),
        };
        ready.set(false);
        self.receiver.drain();
        if let Some(acks) = &self.acks {
            // The other half is for what is left to do then.
            acks.end_by(Instant::now() + shutdown.remaining().unwrap_or_default() / 2);
        }
        let end = async {
            while senders.join_next().await.is_some() {}
            stop_delivery.send_replace(true);
            deliveries.join().await;
            self.queue.close().await;
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

fn lane_options(config: &Config, sink: &Sink, in_flight: u32) -> LaneOptions {
    LaneOptions {
        name: sink.name.clone(),
        skip_beyond: sink.skip_beyond(&config.queue),
        request_bytes: request_bytes(config),
        cluster: config.cluster.clone(),
        batch_bytes: 4 << 20,
        window_bytes: 32 << 20,
        in_flight,
        timing: if is_awaited(config, sink) { lane::Timing::awaited() } else { lane::Timing::default() },
    }
}

/// Whether senders wait for this sink.
fn is_awaited(config: &Config, sink: &Sink) -> bool {
    config.ack == Ack::Delivered && sink.required
}

/// Every sink but the store.
fn open_others(config: &Config) -> Result<Vec<(Sink, Destination)>, AppError> {
    let mut others = Vec::new();
    for sink in &config.sinks {
        let made = Destination::build(sink, &config.data_dir);
        let made = made.map_err(|source| AppError::Sink { name: sink.name.clone(), source })?;
        others.extend(made.map(|made| (sink.clone(), made)));
    }
    Ok(others)
}

/// The store as configured; with its defaults where no sink is configured at all.
fn open_store(config: &Config) -> Result<Option<StoreSink>, AppError> {
    let sink = config.sinks.iter().find(|sink| sink.kind == SinkKind::Store);
    if sink.is_none() && !config.sinks.is_empty() {
        return Ok(None);
    }
    let name = sink.map_or("store", |sink| sink.name.as_str()).to_owned();
    let defaults = StoreOptions::default();
    let mut options = StoreOptions::new(
        sink.and_then(|sink| sink.retention).map_or(defaults.retention, |age| age.0),
        sink.and_then(|sink| sink.max_bytes).map_or(defaults.max_bytes, |size| size.0),
    );
    if sink.is_some_and(|sink| is_awaited(config, sink)) {
        options.commit_interval = COMMIT_AWAITED;
    }
    let (store, writer) = Store::open(&config.data_dir.join("store"), options)?;
    Ok(Some(StoreSink { name, store, writer }))
}

fn request_bytes(config: &Config) -> usize {
    usize::try_from(config.limits.request.0).unwrap_or(usize::MAX)
}

fn open_queue(config: &Config) -> Result<Queue, AppError> {
    let options = QueueOptions {
        max_bytes: config.queue.max_bytes.0,
        // Checked when the configuration was read.
        min_free: config.queue.min_free.parse().unwrap_or(MinFree::Percent(10)),
        ..QueueOptions::default()
    };
    Ok(Queue::open(&config.data_dir.join("queue"), options, Arc::new(RealFilesystem))?)
}

fn tokens(key: &'static str, file: &str) -> Result<Option<Tokens>, AppError> {
    if file.is_empty() {
        return Ok(None);
    }
    Tokens::open(Path::new(file)).map(Some).map_err(|source| AppError::Secret { key, source })
}

fn senders(auth: &OtlpAuth) -> Result<Senders, AppError> {
    let KubernetesAuth { audience, service_accounts } = &auth.kubernetes;
    let accounts = || Accounts::new(AccountsOptions::of_pod(audience, service_accounts)?);
    Ok(Senders {
        tokens: tokens("auth.otlp.token_file", &auth.token_file)?,
        accounts: if audience.is_empty() { None } else { Some(accounts()?) },
    })
}

fn server_tls(config: &Tls) -> Result<Option<Arc<tls::Server>>, AppError> {
    if config.cert_file.is_empty() {
        return Ok(None);
    }
    let options = tls::ServerOptions {
        cert_file: config.cert_file.as_str().into(),
        key_file: config.key_file.as_str().into(),
        client_ca_file: Some(config.client_ca_file.as_str()).filter(|file| !file.is_empty()).map(Into::into),
        alpn: vec![tls::H2.to_vec(), tls::HTTP1.to_vec()],
    };
    Ok(Some(Arc::new(tls::Server::new(options)?)))
}

/// A queue that is gone with the container or the machine's memory keeps no promise.
fn warn_volatile(dir: &Path) {
    // linux/magic.h
    let kind = match rustix::fs::statfs(dir).map(|stat| stat.f_type) {
        Ok(0x0102_1994 | 0x8584_58f6) => "memory (tmpfs)",
        Ok(0x794c_7630) => "a container's layer (overlay)",
        _ => return,
    };
    tracing::warn!(data_dir = %dir.display(), "data_dir is on {kind}: acknowledged records are lost with it");
}
