//! The kubelet of this node: its pods, in time for the first lines of a new container.
//!
//! Pods come over its socket (`socket`) or from `/pods`. One loop owns the connection and writes the [`PodIndex`]; what is told of
//! volumes has another, in `summary`. `/pods` is asked for every
//! interval, and at once when somebody wants a pod that is not known yet, at most once a second. While the kubelet does not answer the last picture stays, and
//! nobody waits for it. So it does while a kubelet that has just started answers without the pods that the API server gives it: it serves
//! `/pods` before it has them (kubernetes/pkg/kubelet, `podManager` is filled by `syncLoop`; to its socket it says so), and they still run.
//!
//! Memory: an answer, 32 MiB at most, while it is read, and what is kept of it; a longer one is refused and said. One of more than
//! 1 MiB is read on another thread: the loop's own also ships logs.

pub mod client;
pub mod pods;
pub mod socket;
mod summary;
pub mod volumes;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sonde_daemon::backoff::Backoff;
use sonde_daemon::log::RateLimit;
use sonde_daemon::page::{Sink, Source};
use sonde_daemon::shutdown::Shutdown;

use self::client::{Client, ClientError};
use self::pods::{Picture, PodsError};
use self::socket::Watcher;
use self::summary::Summary;
use crate::config;
use crate::pods::PodIndex;
use crate::pods::v1::Pod;
use crate::teller::trust::Answer;

/// Between two requests, however many pods are wanted.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// An answer without any of the API server's pods is not believed for so long, where there were some: the agent is such a pod itself.
const STARTING: Duration = Duration::from_secs(60);

/// An answer that is read where it came; a longer one takes more than some milliseconds.
const SHORT_BYTES: usize = 1 << 20;

/// The loops. Build it, then [`Kubelet::run`] it on a tokio runtime.
pub struct Kubelet {
    socket: Option<Watcher>,
    /// Where the socket is of no use, or there is none.
    pods: Option<Pods>,
    summary: Option<Summary>,
    metrics: Metrics,
}

/// `/pods`: asked, and shown.
pub(crate) struct Pods {
    client: Client,
    index: PodIndex,
    node: String,
    interval: Duration,
    metrics: Metrics,
    failing: bool,
    /// Since when its answers have lacked all of the API server's pods.
    bare: Option<Instant>,
    starting: Duration,
    foreign: RateLimit,
}

/// Why there is no new picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PollError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Pods(#[from] PodsError),
    #[error("the answer was not read: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("it has just started and does not tell of the API server's pods yet")]
    Starting,
}

impl Kubelet {
    /// Over HTTP alone. `own_certificate` is that of a kubelet that signs its own. Nothing is read or connected to yet.
    ///
    /// # Errors
    /// The URL is none.
    pub fn build(
        config: &config::Kubelet,
        node: &str,
        own_certificate: PathBuf,
        index: PodIndex,
    ) -> Result<Self, ClientError> {
        let summary = Summary::build(config, node, own_certificate.clone(), index.clone())?;
        let metrics = Metrics::new("kubelet", index.clone());
        let pods = Pods {
            client: Client::new(config, node, own_certificate)?,
            metrics: metrics.clone(),
            index,
            node: node.to_owned(),
            interval: config.interval.0,
            failing: false,
            bare: None,
            starting: STARTING,
            foreign: RateLimit::new(Duration::from_secs(60)),
        };
        Ok(Self { socket: None, pods: Some(pods), summary: Some(summary), metrics })
    }

    /// Over its socket, as [`Kubelet::build`]. HTTP is for volumes, and for pods where the socket is of no use and there
    /// may be `another` way to them; without a URL there is none.
    ///
    /// # Errors
    /// The URL is none.
    pub fn by_socket(
        socket: PathBuf,
        another: bool,
        config: &config::Kubelet,
        node: &str,
        own_certificate: PathBuf,
        index: PodIndex,
    ) -> Result<Self, ClientError> {
        let metrics = Metrics::new("socket", index.clone());
        let watcher = Watcher::new(socket, node, config.interval.0, index.clone(), metrics.clone());
        let mut own = Self { socket: Some(watcher), pods: None, summary: None, metrics };
        if !config.url.is_empty() {
            let Self { pods, summary, .. } = Self::build(config, node, own_certificate, index)?;
            let metrics = own.metrics.named("kubelet");
            own.pods = pods.filter(|_| another).map(|pods| Pods { metrics, ..pods });
            own.summary = summary;
        }
        Ok(own)
    }

    /// Whether its socket is asked, or is to be asked first.
    pub fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Its numbers.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs until the stop is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        self.run_by(shutdown, |mut pods| async move { pods.until(|_| false).await }).await;
    }

    /// The same; what is done with its `/pods`, where they are asked, is up to `ask`.
    pub(crate) async fn run_by<F: Future<Output = ()>>(
        self,
        shutdown: Shutdown,
        ask: impl FnOnce(Pods) -> F,
    ) {
        let Self { socket, pods, summary, .. } = self;
        let pods = async {
            if let Some(mut socket) = socket {
                socket.run(pods.is_some()).await;
            }
            if let Some(pods) = pods {
                ask(pods).await;
            }
        };
        let summary = async {
            match summary {
                Some(summary) => summary.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pods => {}
            () = summary => {}
            _ = shutdown.wait() => {}
        }
    }
}

impl Pods {
    /// Asks and shows what it says, until an answer is `enough`.
    pub(crate) async fn until(&mut self, mut enough: impl FnMut(Answer) -> bool) {
        let mut backoff = Backoff::new();
        loop {
            let asked = Instant::now();
            let answer = self.ask().await;
            let (worth, took) = (judged(&answer), asked.elapsed());
            let wait = match answer {
                Ok(picture) => {
                    self.show(picture);
                    backoff.reset();
                    self.interval
                }
                Err(_) => backoff.next(None).clamp(AT_MOST_EVERY.min(self.interval), self.interval),
            };
            self.report(worth == Answer::Pods, took);
            if enough(worth) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.index.wanted(), if !self.failing => {
                    tokio::time::sleep(AT_MOST_EVERY.saturating_sub(asked.elapsed())).await;
                }
            }
        }
    }

    /// What it says now, which is not shown yet.
    pub(crate) async fn ask(&mut self) -> Result<Picture, PollError> {
        let answer = self.answer().await;
        if let Err(error) = &answer
            && !std::mem::replace(&mut self.failing, true)
        {
            tracing::warn!(%error, pods = self.index.len(), "the kubelet does not serve its pods: what is known stays, new pods are named by their paths");
        }
        answer
    }

    async fn answer(&mut self) -> Result<Picture, PollError> {
        let body = self.client.pods().await?;
        let picture = if body.len() <= SHORT_BYTES {
            pods::parse(&body, &self.node)?
        } else {
            let node = self.node.clone();
            tokio::task::spawn_blocking(move || pods::parse(&body, &node)).await??
        };
        if picture.foreign > 0 {
            say_foreign(&self.foreign, picture.foreign, &picture.foreign_node, &self.node);
        }
        if picture.foreign == 0 && is_bare(&picture.states) && !is_bare(&self.index.states()) {
            let since = *self.bare.get_or_insert_with(Instant::now);
            if since.elapsed() < self.starting {
                return Err(PollError::Starting);
            }
        }
        self.bare = None;
        Ok(picture)
    }

    /// Puts it in the place of what was known.
    pub(crate) fn show(&mut self, picture: Picture) {
        self.index.replace(picture.pods);
        self.index.replace_states(picture.states);
        if std::mem::take(&mut self.failing) {
            tracing::info!(pods = self.index.len(), "the kubelet answers again");
        }
    }

    /// How an ask ended, for who looks at the numbers of the source that tells.
    pub(crate) fn report(&self, success: bool, took: Duration) {
        self.metrics.polled(success, took);
    }

    /// Between two asks.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }
}

/// Whether all of these pods are static, or there is none.
fn is_bare(pods: &[Pod]) -> bool {
    // Of the others that annotation is not kept.
    pods.iter().all(|pod| pod.metadata.annotations.contains_key(pods::SOURCE))
}

/// What an answer is worth to who decides whom to ask.
pub(crate) fn judged<T>(answer: &Result<T, PollError>) -> Answer {
    match answer {
        Ok(_) => Answer::Pods,
        Err(PollError::Client(error)) if error.is_refusal() => Answer::Refusal,
        Err(_) => Answer::Failure,
    }
}

fn say_foreign(limit: &RateLimit, pods: usize, node: &str, ours: &str) {
    if let Some(suppressed) = limit.allow() {
        tracing::warn!(
            pods,
            node,
            ours,
            suppressed,
            "the kubelet serves pods of another node, they are passed over: is node.name right?"
        );
    }
}

/// `sonde_agent_source_*{source}` of who tells of the pods, `sonde_agent_pods_source` and `sonde_agent_pods`.
#[derive(Clone)]
pub struct Metrics {
    source: &'static str,
    asked: Arc<Mutex<Asked>>,
    index: PodIndex,
}

/// All that may be shown as the source of what is known.
const SOURCES: [&str; 4] = ["socket", "kubelet", "api", "paths"];

#[derive(Clone, Copy, Default)]
struct Asked {
    /// Who was asked last, whether it answered, and how long that took.
    last: Option<(&'static str, bool, Duration)>,
    /// Who answered last, so that it is its picture that is known.
    told: Option<&'static str>,
}

impl Metrics {
    /// Of a source of that name.
    pub fn new(source: &'static str, index: PodIndex) -> Self {
        Self { source, asked: Arc::default(), index }
    }

    /// The same of another source, which takes the place of this one when it is asked.
    pub(crate) fn named(&self, source: &'static str) -> Self {
        Self { source, ..self.clone() }
    }

    /// Whether it answered when it was last asked; none = it was not asked yet.
    #[cfg(test)]
    pub fn success(&self) -> Option<bool> {
        self.asked().last.map(|(_, success, _)| success)
    }

    /// Whose picture is known.
    #[cfg(test)]
    pub fn told(&self) -> &'static str {
        self.asked().told.unwrap_or("paths")
    }

    /// Whether it answered, and how long that took.
    pub fn polled(&self, success: bool, took: Duration) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.last = Some((self.source, success, took));
        if success {
            asked.told = Some(self.source);
        }
    }

    fn asked(&self) -> Asked {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Metrics {
    fn name(&self) -> &'static str {
        "pods"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let Asked { last, told } = self.asked();
        if let Some((source, success, took)) = last {
            let source = [("source", source)];
            out.gauge("sonde_agent_source_success", "Whether the source was collected.").row(source, success);
            out.gauge("sonde_agent_source_duration_seconds", "How long the source took.")
                .row(source, took.as_secs_f64());
        }
        let help = "1 for who told what is known of this node's pods; paths = nobody has yet.";
        let mut rows = out.gauge("sonde_agent_pods_source", help);
        for source in SOURCES {
            rows.row([("source", source)], told.unwrap_or("paths") == source);
        }
        out.gauge("sonde_agent_pods", "Pods of this node that are known.").row([], self.index.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
