//! Who tells of the pods of this node: the kubelet or the API server, as `pods.source` says. One of them, for the node's life: what
//! they tell differs in detail, and a picture that flips is worse than an older one.

use sonde_daemon::shutdown::Shutdown;

use crate::api_server::ApiServer;
use crate::config::{Config, PodSource};
use crate::host::HostPaths;
use crate::kubelet::client::ClientError;
use crate::kubelet::{Kubelet, Metrics};
use crate::pods::PodIndex;

/// The one writer of the [`PodIndex`].
pub enum Teller {
    /// The kubelet's `/pods`.
    Kubelet(Box<Kubelet>),
    /// A watch at the API server.
    ApiServer(Box<ApiServer>),
}

impl Teller {
    /// None = the paths of log files say it all. Nothing is read or connected to yet.
    ///
    /// # Errors
    /// A URL is none.
    pub fn build(config: &Config, paths: &HostPaths, index: &PodIndex) -> Result<Option<Self>, ClientError> {
        let node = &config.node.name;
        Ok(match config.pods.source {
            PodSource::Auto | PodSource::Kubelet if !config.kubelet.url.is_empty() => {
                let own = paths.kubelet_certificate();
                let kubelet = Kubelet::build(&config.kubelet, node, own, index.clone())?;
                Some(Self::Kubelet(Box::new(kubelet)))
            }
            PodSource::Api => {
                let server = ApiServer::build(&config.pods.api, node, index.clone())?;
                Some(Self::ApiServer(Box::new(server)))
            }
            _ => None,
        })
    }

    /// Where it is asked.
    pub fn url<'a>(&self, config: &'a Config) -> &'a str {
        match self {
            Self::Kubelet(_) => &config.kubelet.url,
            Self::ApiServer(_) => &config.pods.api.url,
        }
    }

    /// Its numbers.
    pub fn metrics(&self) -> Metrics {
        match self {
            Self::Kubelet(kubelet) => kubelet.metrics(),
            Self::ApiServer(server) => server.metrics(),
        }
    }

    /// Runs until the stop is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        match self {
            Self::Kubelet(kubelet) => kubelet.run(shutdown).await,
            Self::ApiServer(server) => server.run(shutdown).await,
        }
    }
}
