//! Destinations beside the embedded store.

pub mod elasticsearch;
pub mod file;
mod login;
pub mod loki;
pub mod otlp;
pub mod prometheus;
#[cfg(test)]
mod stub;
mod target;

use std::io;
use std::path::{Path, PathBuf};

use sonde_daemon::client::endpoint::EndpointError;
use sonde_daemon::client::otlp::OtlpError;
use sonde_daemon::secret::SecretError;
use sonde_daemon::tls::TlsError;

use self::elasticsearch::Elasticsearch;
use self::file::Files;
use self::loki::Loki;
use self::otlp::Otlp;
use self::prometheus::Prometheus;
use crate::config::{self, SinkKind};
use crate::deliver::{Batch, Sink, Trouble};
use crate::queue::Signal;

/// Why a sink cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// An endpoint.
    #[error("endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    /// A secret's file.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// TLS files.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// TLS files, headers, the path.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The collector's own name.
    #[error("data_dir/collector-id: {0}")]
    Name(io::Error),
    /// The file that says how far a sink has come.
    #[error("{}: {}", .0.display(), .1)]
    Place(PathBuf, io::Error),
}

/// A sink of any type but the store.
#[allow(clippy::large_enum_variant, reason = "there is one for each sink, made once")]
pub enum Destination {
    /// Elasticsearch and OpenSearch.
    Elasticsearch(Elasticsearch),
    /// Another OTLP receiver.
    Otlp(Otlp),
    /// Grafana Loki.
    Loki(Loki),
    /// A file on this machine.
    File(Files),
    /// Prometheus.
    Prometheus(Prometheus),
}

impl Destination {
    /// What takes requests of `signal` for a sink that takes those. Reads secrets and TLS files; connects to nothing.
    /// `None` for a store.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink, signal: Signal, data_dir: &Path) -> Result<Option<Self>, SinkError> {
        Ok(match sink.kind {
            SinkKind::Store => None,
            SinkKind::Elasticsearch => Some(Self::Elasticsearch(Elasticsearch::build(sink, data_dir)?)),
            SinkKind::Otlp => Some(Self::Otlp(Otlp::build(sink, signal)?)),
            SinkKind::Loki => Some(Self::Loki(Loki::build(sink)?)),
            SinkKind::File => Some(Self::File(Files::build(sink))),
            SinkKind::Prometheus => Some(Self::Prometheus(Prometheus::build(sink, data_dir)?)),
        })
    }

    /// How many batches may be under way at a time: one where the order counts.
    pub fn in_flight(&self) -> u32 {
        match self {
            Self::Elasticsearch(_) | Self::Otlp(_) => 8,
            Self::Loki(_) => loki::IN_FLIGHT,
            Self::File(_) => file::IN_FLIGHT,
            Self::Prometheus(_) => prometheus::IN_FLIGHT,
        }
    }
}

impl Sink for Destination {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        match self {
            Self::Elasticsearch(sink) => sink.deliver(batch).await,
            Self::Otlp(sink) => sink.deliver(batch).await,
            Self::Loki(sink) => sink.deliver(batch).await,
            Self::File(sink) => sink.deliver(batch).await,
            Self::Prometheus(sink) => sink.deliver(batch).await,
        }
    }

    fn settled(&self, batch: &Batch) {
        match self {
            Self::Elasticsearch(sink) => sink.settled(batch),
            Self::Otlp(sink) => sink.settled(batch),
            Self::Loki(sink) => sink.settled(batch),
            Self::File(sink) => sink.settled(batch),
            Self::Prometheus(sink) => sink.settled(batch),
        }
    }

    fn forwards(&self) -> bool {
        match self {
            Self::Elasticsearch(sink) => sink.forwards(),
            Self::Otlp(sink) => sink.forwards(),
            Self::Loki(sink) => sink.forwards(),
            Self::File(sink) => sink.forwards(),
            Self::Prometheus(sink) => sink.forwards(),
        }
    }
}

/// Work that takes long, beside the runtime's threads. A panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Trouble::retry("stopping", "the collector is stopping")),
        },
    }
}
