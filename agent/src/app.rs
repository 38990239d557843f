//! The agent put together: `build` makes every part, `run` runs them and stops them in order.
//!
//! Threads: the log reader has its own; exporter and who tells of pods share the runtime that [`App::run`] is called on; the
//! pages are served from a third, so that they answer whatever the others do; metrics are pushed from a fourth; apps send to a
//! fifth.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sonde_daemon::health::Health;
use sonde_daemon::http::Bound;
use sonde_daemon::page::{Accounting, Build, Process, Section, Source};
use sonde_daemon::secret::{SecretError, Tokens};
use sonde_daemon::shutdown::{self, Shutdown};
use tokio::sync::mpsc;

use crate::batch::{Batch, Settlement};
use crate::canary;
use crate::canary::metrics::CanaryMetrics;
use crate::config::Config;
use crate::export::{ExportError, Exporter, Timing};
use crate::host::{HostPaths, host_name};
use crate::http::{self, Files, MetricPages, Pages};
use crate::inbox::Inbox;
use crate::journal::metrics::JournalMetrics;
use crate::journal::{self, JournalDeps, JournalError};
use crate::kubelet::client::ClientError;
use crate::log_page::LogPage;
use crate::logs::metrics::LogMetrics;
use crate::logs::{LogsDeps, LogsError, Reader};
use crate::metrics::Sources;
use crate::metrics::node::PatternError;
use crate::pods::PodIndex;
use crate::push::Push;
use crate::receive::{Listeners, Receive};
use crate::teller::Teller;

/// A loop that has not come round for so long stands still. One turn may wait for a slow disk.
const STANDS_STILL: Duration = Duration::from_secs(60);
/// Of the grace, kept for writing positions after the last acknowledgement.
const TO_WRITE: f64 = 0.2;

/// Every part, ready to run.
pub struct App {
    config: Config,
    paths: HostPaths,
    bound: Bound,
    health: Health,
    pods: PodIndex,
    teller: Option<Teller>,
    exporter: Exporter,
    metrics: Sources,
    logs: LogMetrics,
    readers: Option<Tokens>,
    push: Option<Push>,
    receive: Option<Receive>,
}

/// Why the agent cannot start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The tokens of `auth.http`.
    #[error("auth.http.token_file: {0}")]
    Readers(#[from] SecretError),
    /// The exporter.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The client of the kubelet or the API server.
    #[error(transparent)]
    Kubelet(#[from] ClientError),
    /// The log reader.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The reader of journals.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] PatternError),
    /// A thread.
    #[error("the thread `{0}` cannot be started: {1}")]
    Thread(&'static str, std::io::Error),
    /// A thread panicked; where is in the log above.
    #[error("a thread panicked")]
    Panicked,
    /// The stop took longer than it may.
    #[error(
        "positions could not be written in time; what was not acknowledged is read again at the next start"
    )]
    Late,
    /// The readers' threads ended by themselves.
    #[error("the log readers ended before they were asked to")]
    ReaderEnded,
}

impl App {
    /// Reads credentials and certificates; starts and connects to nothing. `bound` is where the pages will be, `listeners`
    /// where apps may send.
    pub fn build(mut config: Config, bound: Bound, listeners: Listeners) -> Result<Self, AppError> {
        if config.node.name.is_empty() {
            config.node.name = host_name();
        }
        let paths = HostPaths::new(&config.host);
        let pods = PodIndex::default();
        let teller = Teller::build(&config, &paths, &pods)?;
        let exporter = Exporter::build(&config.export, Timing::default())?;
        let logs = LogMetrics::default();
        let metrics = Sources::new(&config.metrics, &paths, &config.node.name, &pods, &logs)?;
        let readers = match config.auth.http.token_file.as_str() {
            "" => None,
            file => Some(Tokens::open(Path::new(file))?),
        };
        let push = if config.metrics.push { Some(Push::build(&config, &metrics)?) } else { None };
        let receive = Receive::build(&config, listeners, pods.clone(), teller.is_some())?;
        Ok(Self {
            config,
            paths,
            bound,
            health: Health::new(),
            pods,
            teller,
            exporter,
            metrics,
            logs,
            push,
            receive,
            readers,
        })
    }

    /// Where the pages are.
    pub fn addr(&self) -> SocketAddr {
        self.bound.addr()
    }

    /// Says in the log what this agent will do.
    pub fn announce(&self) {
        let Config { node, export, state_dir, .. } = &self.config;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = node.name,
            listen = %self.bound.addr(),
            pod_logs = %self.paths.pod_logs.display(),
            state_dir = %state_dir.display(),
            endpoint = export.endpoint,
            otlp_grpc = self.receive.as_ref().and_then(|receive| receive.addrs()[0]).map(tracing::field::display),
            otlp_http = self.receive.as_ref().and_then(|receive| receive.addrs()[1]).map(tracing::field::display),
            pods = self.teller.as_ref().map_or("none".to_owned(), |teller| teller.place(&self.config, &self.paths)),
            "sonde-agent starts"
        );
    }

    /// Runs until `shutdown` is asked for; then stops reading, flushes, waits for acknowledgements and writes the
    /// positions, all by its deadline. Call it on a current-thread runtime.
    ///
    /// # Errors
    /// When a part cannot start, or ends before it was asked to.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AppError> {
        let Self {
            config,
            paths,
            bound,
            health,
            pods,
            teller,
            exporter,
            metrics,
            logs: own_logs,
            push,
            receive,
            readers,
        } = self;
        // More: the journals' reader and the canary have a slot each.
        let (sender, batches) = mpsc::channel(config.export.in_flight + 2);
        let canary = Canary::start(&config, &sender, &shutdown);
        let journal_metrics = JournalMetrics::default();
        let journal = if config.logs.journald.enabled {
            let beat = health.heartbeat("journal reader", STANDS_STILL);
            let heartbeat = Box::new(move || beat.beat());
            let deps = journal_deps(&config, &paths, sender.clone(), heartbeat, journal_metrics.clone());
            Some(journal::Reader::start(deps)?)
        } else {
            None
        };
        let reader = if config.logs.enabled {
            let beat = health.heartbeat("log reader", STANDS_STILL);
            let heartbeat = Box::new(move || beat.beat());
            let logs = own_logs.clone();
            let deps = logs_deps(&config, paths, pods, teller.is_some(), sender.clone(), heartbeat, logs);
            Some(Reader::start(deps)?)
        } else {
            None
        };
        // Without a reader nothing is exported, and the exporter runs until the stop.
        let kept = (reader.is_none() && journal.is_none()).then_some(sender);
        let inboxes = Inboxes {
            logs: reader.as_ref().map(Reader::inbox),
            journal: journal.as_ref().map(journal::Reader::inbox),
            canary: canary.as_ref().map(|canary| canary.door.clone()),
        };

        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(Build { prefix: "sonde_agent", version: env!("CARGO_PKG_VERSION") }),
            Box::new(Process),
            Box::new(exporter.metrics()),
        ];
        if journal.is_some() {
            sources.push(Box::new(journal_metrics.clone()));
        }
        if reader.is_some() || journal.is_some() {
            sources.push(Box::new(LogPage { logs: own_logs, journal: journal_metrics }));
        }
        sources.extend(canary.map(|canary| Box::new(canary.metrics) as Box<dyn Source>));
        sources.extend(teller.as_ref().map(|teller| Box::new(teller.metrics()) as Box<dyn Source>));
        sources.extend(push.as_ref().map(|push| Box::new(push.metrics()) as Box<dyn Source>));
        sources.extend(receive.as_ref().map(Receive::source));
        let accounting = Accounting { prefix: "sonde_agent_source".to_owned(), label: "source".to_owned() };
        let own = Section::new(Some(accounting), sources);
        let reader = reader.map(Arc::new);
        let pages = Pages {
            discovered: health.readiness("the first discovery"),
            health: health.clone(),
            metrics: MetricPages::new(own, metrics.sections()),
            files: files_of(reader.clone()),
            tokens: readers,
        };
        let (pages_trigger, pages_shutdown) = shutdown::channel();
        let pages_thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || http::serve(bound, pages, pages_shutdown))
            .map_err(|error| AppError::Thread("http", error))?;

        // It ends with the process: nothing that it holds is worth a wait.
        if let Some(push) = push {
            push.start(shutdown.clone()).map_err(|error| AppError::Thread("push", error))?;
        }
        let receive = receive.map(|receive| receive.start(shutdown.clone())).transpose();
        let receive = receive.map_err(|error| AppError::Thread("receive", error))?;
        let teller = teller.map(|teller| tokio::spawn(teller.run(shutdown.clone())));
        let (export_trigger, export_shutdown) = shutdown::channel();
        let stop = {
            let (shutdown, inboxes) = (shutdown.clone(), inboxes.clone());
            async move {
                let deadline = shutdown.wait().await;
                let left = deadline.saturating_duration_since(Instant::now());
                // The exporter's last word must reach the reader while it still writes positions.
                export_trigger.fire(left.mul_f64(1.0 - TO_WRITE));
                inboxes.stop(Instant::now() + left.mul_f64(1.0 - TO_WRITE / 2.0));
                drop(kept);
            }
        };
        let settle = |settlement| inboxes.settle(settlement);
        let beat = health.heartbeat("exporter", STANDS_STILL);
        let export = exporter.run(batches, settle, export_shutdown, || beat.beat());
        let (mut export, mut stop) = (pin!(export), pin!(stop));
        tokio::select! {
            () = &mut stop => export.await,
            () = &mut export => {
                if !shutdown.requested() {
                    return Err(AppError::ReaderEnded);
                }
            }
        }

        if let Some(teller) = teller
            && let Err(error) = teller.await
        {
            tracing::error!(%error, "the loop that learns of pods had ended before the stop");
        }
        pages_trigger.fire(Duration::from_millis(200));
        let last = tokio::task::spawn_blocking(move || {
            let served = pages_thread.join();
            if let Some(reader) = reader.and_then(Arc::into_inner) {
                reader.join();
            }
            if let Some(journal) = journal {
                journal.join();
            }
            if receive.is_some_and(|receive| receive.join().is_err()) {
                tracing::error!("the thread that receives of apps had ended by a panic");
            }
            served
        });
        // A disk that hangs must not keep the process: what is not written is read again at the next start.
        let deadline = shutdown.wait().await + Duration::from_millis(500);
        match tokio::time::timeout_at(deadline.into(), last).await {
            Ok(Ok(Ok(Ok(())))) => Ok(()),
            Ok(Ok(Ok(Err(error)))) => Err(AppError::Thread("http", error)),
            Ok(_) => Err(AppError::Panicked),
            Err(_) => Err(AppError::Late),
        }
    }
}

/// The canary, which runs.
struct Canary {
    door: canary::Door,
    metrics: CanaryMetrics,
}

impl Canary {
    /// `None` where it is off. It ends at the stop; nothing that it holds is worth a wait.
    fn start(config: &Config, batches: &mpsc::Sender<Batch>, shutdown: &Shutdown) -> Option<Self> {
        let interval = config.canary.interval.0;
        if interval.is_zero() {
            return None;
        }
        let (door, words) = canary::Door::new();
        let metrics = CanaryMetrics::default();
        let origin = canary::Origin { cluster: config.cluster.clone(), node: config.node.name.clone() };
        let batches = batches.downgrade();
        tokio::spawn(canary::run(origin, interval, batches, words, metrics.clone(), shutdown.clone()));
        Some(Self { door, metrics })
    }
}

/// Where the readers and the canary hear of their batches.
#[derive(Clone)]
struct Inboxes {
    logs: Option<Inbox>,
    journal: Option<Inbox>,
    canary: Option<canary::Door>,
}

impl Inboxes {
    fn settle(&self, settlement: Settlement) {
        if canary::is_ours(settlement.id) {
            if let Some(door) = &self.canary {
                door.settle(settlement);
            }
            return;
        }
        let whose = if journal::is_ours(settlement.id) { &self.journal } else { &self.logs };
        if let Some(inbox) = whose {
            inbox.settle(settlement);
        }
    }

    fn stop(&self, deadline: Instant) {
        for inbox in [&self.logs, &self.journal].into_iter().flatten() {
            inbox.stop(deadline);
        }
    }
}

fn journal_deps(
    config: &Config,
    paths: &HostPaths,
    batches: mpsc::Sender<Batch>,
    heartbeat: Box<dyn Fn() + Send>,
    metrics: JournalMetrics,
) -> JournalDeps {
    JournalDeps {
        config: config.logs.clone(),
        cluster: config.cluster.clone(),
        node_name: config.node.name.clone(),
        batch: config.export.batch.clone(),
        host_root: paths.root.clone(),
        state_dir: config.state_dir.clone(),
        batches,
        heartbeat,
        metrics,
    }
}

fn logs_deps(
    config: &Config,
    paths: HostPaths,
    pods: PodIndex,
    wait_for_metadata: bool,
    batches: mpsc::Sender<Batch>,
    heartbeat: Box<dyn Fn() + Send>,
    metrics: LogMetrics,
) -> LogsDeps {
    LogsDeps {
        config: config.logs.clone(),
        cluster: config.cluster.clone(),
        node_name: config.node.name.clone(),
        batch: config.export.batch.clone(),
        in_flight: config.export.in_flight,
        pod_labels: config.pods.labels.clone(),
        host_root: paths.root,
        pod_logs_dir: paths.pod_logs,
        docker_logs_dir: paths.docker_logs,
        state_dir: config.state_dir.clone(),
        pods,
        wait_for_metadata,
        batches,
        heartbeat,
        metrics,
    }
}

/// `None` until the first discovery is done.
fn files_of(reader: Option<Arc<Reader>>) -> Files {
    Box::new(move || match &reader {
        None => Some(Arc::default()),
        Some(reader) => reader.ready().then(|| reader.files()),
    })
}
