//! Who tells of the pods of this node: the kubelet or the API server, as `pods.source` says; one at a time, because what they tell
//! differs in detail, and a picture that flips is worse than an older one. The kubelet's socket and its `/pods` tell the same
//! of the same pods, series for series, so with `auto` the one may take the place of the other, once; and the API server ([`either`])
//! that of a kubelet that refuses, for as long as it does.

mod either;
pub mod trust;

use sonde_daemon::shutdown::Shutdown;

use self::either::Either;
use crate::api_server::ApiServer;
use crate::config::{Config, PodSource};
use crate::host::HostPaths;
use crate::kubelet::client::ClientError;
use crate::kubelet::{Kubelet, Metrics};
use crate::pods::PodIndex;

/// The one writer of the [`PodIndex`].
pub enum Teller {
    /// The kubelet, by its socket or its `/pods`; and who may stand in for `/pods`.
    Kubelet(Box<Kubelet>, Option<Box<ApiServer>>),
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
        let api = || ApiServer::build(&config.pods.api, node, index.clone());
        let by_socket = |another| {
            let (socket, own) = (paths.pods_socket(), paths.kubelet_certificate());
            Kubelet::by_socket(socket, another, &config.kubelet, node, own, index.clone())
        };
        let kubelet = match config.pods.source {
            PodSource::Paths => return Ok(None),
            PodSource::Api => return Ok(Some(Self::ApiServer(Box::new(api()?)))),
            PodSource::Socket => by_socket(false)?,
            PodSource::Auto if paths.pods_socket().exists() => by_socket(true)?,
            PodSource::Auto | PodSource::Kubelet if config.kubelet.url.is_empty() => return Ok(None),
            PodSource::Auto | PodSource::Kubelet => {
                Kubelet::build(&config.kubelet, node, paths.kubelet_certificate(), index.clone())?
            }
        };
        let has_stand_in = config.pods.source == PodSource::Auto && !config.pods.api.url.is_empty();
        let stand_in =
            has_stand_in.then(api).transpose()?.map(|api| Box::new(api.reporting_with(&kubelet.metrics())));
        Ok(Some(Self::Kubelet(Box::new(kubelet), stand_in)))
    }

    /// Where it is asked.
    pub fn place(&self, config: &Config, paths: &HostPaths) -> String {
        match self {
            Self::Kubelet(kubelet, _) if kubelet.has_socket() => paths.pods_socket().display().to_string(),
            Self::Kubelet(..) => config.kubelet.url.clone(),
            Self::ApiServer(_) => config.pods.api.url.clone(),
        }
    }

    /// Its numbers.
    pub fn metrics(&self) -> Metrics {
        match self {
            Self::Kubelet(kubelet, _) => kubelet.metrics(),
            Self::ApiServer(server) => server.metrics(),
        }
    }

    /// Runs until the stop is asked for.
    pub async fn run(self, shutdown: Shutdown) {
        match self {
            Self::Kubelet(kubelet, None) => kubelet.run(shutdown).await,
            Self::Kubelet(kubelet, Some(api)) => {
                kubelet.run_by(shutdown, |pods| Box::pin(Either::new(pods, *api).run())).await;
            }
            Self::ApiServer(server) => server.run(shutdown).await,
        }
    }
}
