//! What the kubelet tells of volumes, asked for beside its pods: over a connection of its own and within a time of its own,
//! so that an answer which is slow or never ends delays no pod.

use std::path::PathBuf;
use std::time::Duration;

use sonde_daemon::log::RateLimit;

use super::client::{Client, ClientError};
use super::volumes;
use crate::config;
use crate::pods::PodIndex;

/// Between two requests: the summary costs the kubelet more than its pods, and it looks at volumes once a minute itself.
const EVERY: Duration = Duration::from_secs(60);
/// For one answer. Nobody waits for it, but a kubelet that is busy is to be asked no longer than that.
const TAKES: Duration = Duration::from_secs(10);

/// The loop.
pub(super) struct Summary {
    client: Client,
    index: PodIndex,
    interval: Duration,
    failed: RateLimit,
}

impl Summary {
    /// Nothing is read or connected to yet.
    pub(super) fn build(
        config: &config::Kubelet,
        node: &str,
        own_certificate: PathBuf,
        index: PodIndex,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            client: Client::new(config, node, own_certificate)?,
            index,
            interval: config.interval.0,
            failed: RateLimit::new(Duration::from_secs(3600)),
        })
    }

    /// Asks where somebody wants what the summary says of volumes; never ends.
    pub(super) async fn run(mut self) {
        loop {
            if self.index.volumes_wanted() {
                self.ask().await;
                tokio::time::sleep(EVERY).await;
            } else {
                tokio::time::sleep(self.interval).await;
            }
        }
    }

    /// What is not told any more is forgotten.
    async fn ask(&mut self) {
        let told = match tokio::time::timeout(TAKES, self.client.summary()).await {
            Ok(Ok(body)) => volumes::parse(&body).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no complete answer within {} s", TAKES.as_secs())),
        };
        if let Err(error) = &told
            && let Some(suppressed) = self.failed.allow()
        {
            tracing::warn!(
                error,
                suppressed,
                "the kubelet does not tell of volumes: pods with several claims have no kubelet_volume_stats"
            );
        }
        self.index.replace_volumes(told.unwrap_or_default());
    }
}
