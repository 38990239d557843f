//! The kubelet of this node: its pods, in time for the first lines of a new container.
//!
//! Pods come over its socket (`socket`) or from `/pods`. One loop owns the connection and writes the [`PodIndex`]; what is told of
//! volumes has another, in `summary`. `/pods` is asked for every
//! interval, and at once when somebody wants a pod that is not known yet, at most once a second. While the kubelet does not answer the last picture stays, and
//! nobody waits for it.
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
use self::pods::PodsError;
use self::socket::Watcher;
use self::summary::Summary;
use crate::config;
use crate::pods::PodIndex;

/// Between two requests, however many pods are wanted.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

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

struct Pods {
    client: Client,
    index: PodIndex,
    node: String,
    interval: Duration,
    metrics: Metrics,
    foreign: RateLimit,
}

/// Why there is no new picture.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Pods(#[from] PodsError),
    #[error("the answer was not read: {0}")]
    Thread(#[from] tokio::task::JoinError),
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
        let Self { socket, pods, summary, .. } = self;
        let pods = async {
            if let Some(mut socket) = socket {
                socket.run(pods.is_some()).await;
            }
            if let Some(pods) = pods {
                pods.run(shutdown.clone()).await;
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
    async fn run(mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new();
        let mut failing = false;
        loop {
            let asked = Instant::now();
            let polled = tokio::select! {
                polled = self.poll() => polled,
                _ = shutdown.wait() => return,
            };
            self.metrics.polled(polled.is_ok(), asked.elapsed());
            let wait = match polled {
                Ok(()) => {
                    if failing {
                        tracing::info!(pods = self.index.len(), "the kubelet answers again");
                    }
                    failing = false;
                    backoff.reset();
                    self.interval
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, pods = self.index.len(), "the kubelet does not serve its pods: what is known stays, new pods are named by their paths");
                    }
                    failing = true;
                    backoff.next(None).clamp(AT_MOST_EVERY.min(self.interval), self.interval)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.index.wanted(), if !failing => {
                    tokio::time::sleep(AT_MOST_EVERY.saturating_sub(asked.elapsed())).await;
                }
                _ = shutdown.wait() => return,
            }
        }
    }

    async fn poll(&mut self) -> Result<(), PollError> {
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
        self.index.replace(picture.pods);
        self.index.replace_states(picture.states);
        Ok(())
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

/// `sonde_agent_source_*{source}` of who tells of the pods, and `sonde_agent_pods`.
#[derive(Clone)]
pub struct Metrics {
    source: &'static str,
    last: Arc<Mutex<Option<Last>>>,
    index: PodIndex,
}

/// Who was asked last, whether it answered, and how long that took.
type Last = (&'static str, bool, Duration);

impl Metrics {
    /// Of a source of that name.
    pub fn new(source: &'static str, index: PodIndex) -> Self {
        Self { source, last: Arc::default(), index }
    }

    /// The same of another source, which takes the place of this one when it is asked.
    fn named(&self, source: &'static str) -> Self {
        Self { source, ..self.clone() }
    }

    /// Whether it answered when it was last asked; none = it was not asked yet.
    #[cfg(test)]
    pub fn success(&self) -> Option<bool> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, success, _)| success)
    }

    /// Whether it answered, and how long that took.
    pub fn polled(&self, success: bool, took: Duration) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.source, success, took));
    }
}

impl Source for Metrics {
    fn name(&self) -> &'static str {
        "pods"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((source, success, took)) = last {
            let source = [("source", source)];
            out.gauge("sonde_agent_source_success", "Whether the source was collected.").row(source, success);
            out.gauge("sonde_agent_source_duration_seconds", "How long the source took.")
                .row(source, took.as_secs_f64());
        }
        out.gauge("sonde_agent_pods", "Pods of this node that are known.").row([], self.index.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
