//! The kubelet's socket as the source of this node's pods: its own newest picture, also while the control plane is away
//! (KEP-4188; `k8s.io/kubelet/pkg/apis/pods/v1alpha1/api.proto`).
//!
//! One watch after another: each begins with all pods and goes on with what changes, so there is no other call. Constraints:
//!
//! - While it does not answer the last picture stays, and nobody waits for it. A picture is shown when a watch has told all pods, never
//!   a part of one: the kubelet refuses to tell (`FAILED_PRECONDITION`) until it knows them.
//! - The kubelet drops events when it is busy, and says so only to a metric of its own: after five minutes the watch is begun anew.
//!   So it is for a pod that somebody wants and that was not told of, at most once a second.
//! - No pings: a gRPC server ends connections that ping, and a socket's other end is not silently lost.
//!
//! Memory: 32 MiB of pods as they came at most, of which an annotation here and a command there is not kept; one message of 4 MiB;
//! 4,096 pods. The picture that is replaced lives until the next is whole.

mod client;
pub mod frames;
pub mod store;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sonde_daemon::backoff::Backoff;
use sonde_daemon::log::RateLimit;

use self::client::{SocketError, Watch};
use self::store::{Store, StoreError, Told};
use super::{AT_MOST_EVERY, Metrics, say_foreign};
use crate::pods::PodIndex;

/// From asking to the last of the pods that there are.
const SYNC: Duration = Duration::from_secs(20);
/// Then all are told again.
const ANEW: Duration = Duration::from_secs(300);
/// Changes that come within this time are shown together.
const TOGETHER: Duration = Duration::from_millis(100);
/// A socket that has answered may be away for so long before another source is asked: a kubelet's restart takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// The loop.
pub(super) struct Watcher {
    socket: PathBuf,
    node: String,
    index: PodIndex,
    metrics: Metrics,
    interval: Duration,
    patience: Duration,
    anew: Duration,
    failing: bool,
    foreign: RateLimit,
    unreadable: RateLimit,
}

impl Watcher {
    /// Connects to nothing yet. `interval` is the longest wait between two tries.
    pub(super) fn new(
        socket: PathBuf,
        node: &str,
        interval: Duration,
        index: PodIndex,
        metrics: Metrics,
    ) -> Self {
        Self {
            socket,
            node: node.to_owned(),
            index,
            metrics,
            interval,
            patience: PATIENCE,
            anew: ANEW,
            failing: false,
            foreign: RateLimit::new(Duration::from_secs(60)),
            unreadable: RateLimit::new(Duration::from_secs(60)),
        }
    }

    /// Watches for ever, or where there is somebody else to ask until the socket is known to be of no use: it does not answer, or has
    /// not for some minutes.
    pub(super) async fn run(&mut self, has_other: bool) {
        let mut backoff = Backoff::new();
        let mut answered: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            let mut complete = false;
            let Err(error) = self.watch(asked, &mut complete).await else { continue };
            self.metrics.polled(false, asked.elapsed());
            if complete {
                backoff.reset();
            }
            if complete || error.is_initializing() {
                answered = Some(Instant::now());
            }
            if has_other && answered.is_none_or(|at| at.elapsed() >= self.patience) {
                tracing::warn!(%error, "the kubelet's socket does not tell of its pods: its /pods is asked from now on");
                return;
            }
            if !self.failing {
                tracing::warn!(%error, pods = self.index.len(), "the kubelet's socket does not tell of its pods: what is known stays, new pods are named by their paths");
            }
            self.failing = true;
            let wait = backoff.next(None).clamp(AT_MOST_EVERY.min(self.interval), self.interval);
            tokio::time::sleep(wait).await;
        }
    }

    /// One watch, until it is time to begin anew; says whether all pods came, so that the picture is `complete`.
    async fn watch(&mut self, asked: Instant, complete: &mut bool) -> Result<(), SocketError> {
        let begun = tokio::time::timeout(SYNC, self.begin()).await;
        let (mut watch, mut store) = begun.unwrap_or(Err(SocketError::Slow))?;
        *complete = true;
        self.publish(&store);
        self.metrics.polled(true, asked.elapsed());
        if std::mem::take(&mut self.failing) {
            tracing::info!(pods = self.index.len(), "the kubelet's socket answers again");
        }
        let index = self.index.clone();
        let mut anew = std::pin::pin!(async {
            tokio::select! {
                () = tokio::time::sleep(self.anew) => {}
                () = index.wanted() => {
                    tokio::time::sleep(AT_MOST_EVERY.saturating_sub(asked.elapsed())).await;
                }
            }
        });
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let soon = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = watch.next() => {
                    if self.take(&mut store, &message?)? == Told::Change && due.is_none() {
                        due = Some(tokio::time::Instant::now() + TOGETHER);
                    }
                }
                () = soon => {
                    due = None;
                    self.publish(&store);
                }
                () = &mut anew => return Ok(()),
            }
        }
    }

    /// A watch that has told all pods, and those.
    async fn begin(&self) -> Result<(Watch, Store), SocketError> {
        let mut watch = Watch::open(&self.socket).await?;
        let mut store = Store::new(&self.node);
        while self.take(&mut store, &watch.next().await?)? != Told::Complete {}
        Ok((watch, store))
    }

    fn take(&self, store: &mut Store, message: &[u8]) -> Result<Told, StoreError> {
        match store.event(message) {
            Err(error @ StoreError::Pod(_)) => {
                if let Some(suppressed) = self.unreadable.allow() {
                    tracing::warn!(%error, suppressed, "a pod of the kubelet's socket is passed over");
                }
                Ok(Told::Nothing)
            }
            Ok(Told::Foreign(node)) => {
                say_foreign(&self.foreign, 1, &node, &self.node);
                Ok(Told::Nothing)
            }
            told => told,
        }
    }

    fn publish(&self, store: &Store) {
        self.index.replace(store.metas());
        self.index.replace_states(store.states());
    }
}

#[cfg(test)]
mod tests;
