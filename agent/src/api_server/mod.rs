//! The API server as the source of this node's pods (`pods.source: api`), or in the place of a kubelet that refuses (`auto`).
//!
//! One list, then one watch after another from where the one before ended (Kubernetes API concepts, "Efficient detection of
//! changes"), both for `spec.nodeName` alone and from the server's cache. Constraints:
//!
//! - While it does not answer the last picture stays, and nobody waits for it. All waits have jitter and grow up to half a minute.
//! - A picture never goes back: a list that must be made again asks for one that is not older than what is known, and only when the
//!   server has forgotten that version (410) for its newest.
//! - In the kubelet's place it is asked at random times; one that refuses, or that has no token to be shown, each five minutes.
//! - A connection on which nothing comes, not even the bookmarks that the server sends each minute, is given up.
//!
//! Memory: the answer to a list, 32 MiB at most, and what is read of it; an event of 4 MiB; 4,096 pods.

mod lines;
#[cfg(test)]
pub(crate) mod stand_in;
mod store;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sonde_daemon::backoff::Backoff;
use sonde_daemon::log::RateLimit;
use sonde_daemon::shutdown::Shutdown;

use self::lines::Lines;
use self::store::{Store, StoreError};
use crate::config;
use crate::kubelet::Metrics;
use crate::kubelet::client::{Client, ClientError};
use crate::pods::PodIndex;
use crate::teller::trust::Pace;

/// The server ends a watch after so long; then the next one begins, perhaps at another server.
const WATCH: Duration = Duration::from_secs(300);
/// Longest silence of a watch: bookmarks come once a minute.
const SILENCE: Duration = Duration::from_secs(150);
/// A watch that ends sooner without a word is a failure.
const SHORT: Duration = Duration::from_secs(1);
/// One that lasts longer shows that the server works.
const LONG: Duration = Duration::from_secs(10);

/// The loop. Build it, then [`ApiServer::run`] it on a tokio runtime.
pub struct ApiServer {
    client: Client,
    store: Store,
    index: PodIndex,
    metrics: Metrics,
    silence: Duration,
    /// Since when it does not answer.
    failing: Option<Instant>,
    tells: Tells,
    /// In the kubelet's place: not to be asked before.
    later: Option<Instant>,
    random: Backoff,
    useless: RateLimit,
}

/// Whether what is known of the pods is what the API server says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tells(Arc<AtomicBool>);

impl Tells {
    /// Whether it is.
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, tells: bool) {
        self.0.store(tells, Ordering::Relaxed);
    }
}

/// Why there is no picture, or no newer one.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the watch broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the watch ended at once")]
    Short,
    #[error("there is no token to show it")]
    Token,
}

impl ApiError {
    /// Whether another answer comes only when somebody has changed a right.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Client(error) => error.is_refusal(),
            Self::Token => true,
            _ => false,
        }
    }

    /// Whether the version that was asked for is the matter: the next list is of another one.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Client(ClientError::Status(StatusCode::GONE, _)))
    }
}

impl ApiServer {
    /// Nothing is read or connected to yet.
    ///
    /// # Errors
    /// The URL is none.
    pub fn build(config: &config::ApiServer, node: &str, index: PodIndex) -> Result<Self, ClientError> {
        Ok(Self {
            client: Client::of_api_server(config)?,
            store: Store::new(node),
            metrics: Metrics::new("api", index.clone()),
            index,
            silence: SILENCE,
            failing: None,
            tells: Tells::default(),
            later: None,
            random: Backoff::new(),
            useless: RateLimit::new(Duration::from_secs(3600)),
        })
    }

    /// Its numbers stand in the place of these, of the source in whose place it tells.
    pub(crate) fn reporting_with(self, metrics: &Metrics) -> Self {
        Self { metrics: metrics.named("api"), ..self }
    }

    /// Whether it is who tells.
    pub(crate) fn tells(&self) -> Tells {
        self.tells.clone()
    }

    /// Its numbers.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs until the stop is asked for.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            _ = shutdown.wait() => {}
        }
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let asked = Instant::now();
            let Err(error) = self.round(&mut backoff).await else { continue };
            self.fails(&error, asked.elapsed());
            tokio::time::sleep(backoff.next(None)).await;
        }
    }

    /// Tells in the place of a kubelet that refuses, for as long as it is polled.
    pub(crate) async fn stand_in(&mut self, pace: &Pace) -> Infallible {
        let mut backoff = Backoff::new();
        self.tells.set(false);
        let first = Instant::now() + self.random.up_to(pace.spread);
        tokio::time::sleep_until(self.later.map_or(first, |later| later.max(first)).into()).await;
        let mut failed = 0;
        loop {
            let asked = Instant::now();
            let round =
                if self.client.has_token() { self.round(&mut backoff).await } else { Err(ApiError::Token) };
            let Err(error) = round else { continue };
            if error.is_gone() {
                tokio::time::sleep(backoff.next(None)).await;
                continue;
            }
            if self.tells.get() {
                self.fails(&error, asked.elapsed());
                if self.failing.is_none_or(|since| since.elapsed() < pace.lost) {
                    tokio::time::sleep(backoff.next(None)).await;
                    continue;
                }
                failed = 0;
            }
            self.tells.set(false);
            self.failing = None;
            self.store.begin_anew();
            let longer = pace.probe.saturating_mul(1 << failed.min(16)).min(pace.seldom);
            let wait = if error.is_refusal() { pace.seldom } else { longer };
            failed += 1;
            if let Some(suppressed) = self.useless.allow() {
                tracing::warn!(%error, suppressed, "the API server does not tell of this node's pods in the kubelet's place: it is asked again now and then");
            }
            let wait = wait + self.random.up_to(wait / 2);
            self.later = Some(Instant::now() + wait);
            tokio::time::sleep(wait).await;
        }
    }

    /// The kubelet tells again.
    pub(crate) fn rest(&mut self) {
        self.tells.set(false);
        self.failing = None;
        self.store.begin_anew();
    }

    fn fails(&mut self, error: &ApiError, took: Duration) {
        self.metrics.polled(false, took);
        if self.failing.is_none() {
            tracing::warn!(%error, pods = self.index.len(), "the API server does not tell of this node's pods: what is known stays, new pods are named by their paths");
        }
        self.failing.get_or_insert_with(Instant::now);
    }

    /// A list if there is none, and a watch to its end.
    async fn round(&mut self, backoff: &mut Backoff) -> Result<(), ApiError> {
        if !self.store.is_listed() {
            let asked = Instant::now();
            let answer = self.client.list(&self.store.list_path()).await;
            self.store.on_status(&answer);
            self.store.list(&answer?)?;
            self.publish();
            self.works(asked.elapsed());
        }
        let seconds = WATCH.as_secs() + u64::from(jitter());
        let asked = Instant::now();
        let opened = self.client.stream(&self.store.watch_path(seconds)).await;
        self.store.on_status(&opened);
        let body = opened?;
        self.works(asked.elapsed());
        let begun = Instant::now();
        let mut heard = false;
        let ended = self.watch(body, &mut heard).await;
        // Short of that, a server that breaks off what it begins is asked less and less often.
        if heard || begun.elapsed() >= LONG {
            backoff.reset();
        }
        if ended.is_ok() && !heard && begun.elapsed() < SHORT {
            return Err(ApiError::Short);
        }
        ended
    }

    /// Takes events until the server ends the watch; says whether one was `heard`.
    async fn watch(&mut self, mut body: Incoming, heard: &mut bool) -> Result<(), ApiError> {
        let mut lines = Lines::default();
        loop {
            let Ok(frame) = tokio::time::timeout(self.silence, body.frame()).await else {
                return Err(ApiError::Silent);
            };
            let Some(frame) = frame else { return Ok(()) };
            let Ok(data) = frame?.into_data() else { continue };
            lines.push(&data);
            let mut changed = false;
            while let Some(line) = lines.next()? {
                changed |= self.store.event(&line)?;
                *heard = true;
            }
            if changed {
                self.publish();
            }
        }
    }

    fn publish(&self) {
        self.index.replace(self.store.metas());
        self.index.replace_states(self.store.states());
    }

    fn works(&mut self, took: Duration) {
        self.metrics.polled(true, took);
        if self.failing.take().is_some() {
            tracing::info!(pods = self.index.len(), "the API server answers again");
        }
        self.later = None;
        self.tells.set(true);
    }
}

/// Up to a minute, so that a thousand agents do not come back in step.
fn jitter() -> u8 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u8::try_from(nanos.subsec_micros() % 60).unwrap_or(0)
}

#[cfg(test)]
mod tests;
