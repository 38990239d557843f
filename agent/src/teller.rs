//! Who tells of the pods of this node: the kubelet or the API server, as `pods.source` says. One of them, for the process's life: what
//! they tell differs in detail, and a picture that flips is worse than an older one. The kubelet's socket and its `/pods` tell the same
//! of the same pods, series for series, so with `auto` the one may take the place of the other, once.

use sonde_daemon::shutdown::Shutdown;

use crate::api_server::ApiServer;
use crate::config::{Config, PodSource};
use crate::host::HostPaths;
use crate::kubelet::client::ClientError;
use crate::kubelet::{Kubelet, Metrics};
use crate::pods::PodIndex;

/// The one writer of the [`PodIndex`].
pub enum Teller {
    /// The kubelet, by its socket or its `/pods`.
    Kubelet(Box<Kubelet>),
    /// A watch at the API server.
    ApiServer(Box<ApiServer>),
}

impl Teller {
    /// None = the paths of log files say it all. Nothing is read or connected to yet; with `auto` it is seen whether the kubelet
    /// has a socket.
    ///
    /// # Errors
    /// A URL is none.
    pub fn build(config: &Config, paths: &HostPaths, index: &PodIndex) -> Result<Option<Self>, ClientError> {
        let node = &config.node.name;
        let by_socket = |another| {
            let (socket, own) = (paths.pods_socket(), paths.kubelet_certificate());
            let kubelet = Kubelet::by_socket(socket, another, &config.kubelet, node, own, index.clone())?;
            Ok(Some(Self::Kubelet(Box::new(kubelet))))
        };
        Ok(match config.pods.source {
            PodSource::Socket => return by_socket(false),
            PodSource::Auto if paths.pods_socket().exists() => return by_socket(true),
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
    pub fn place(&self, config: &Config, paths: &HostPaths) -> String {
        match self {
            Self::Kubelet(kubelet) if kubelet.has_socket() => paths.pods_socket().display().to_string(),
            Self::Kubelet(_) => config.kubelet.url.clone(),
            Self::ApiServer(_) => config.pods.api.url.clone(),
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
