//! Sends requests to an OTLP receiver until it has answered for good.
//!
//! Constraints: at most `in_flight` requests are unsettled; of each only the compressed bytes are kept; a request is
//! sent again for ever until the receiver accepts it or refuses it as it is (contract section 8); whatever may hold
//! records that were sent before says so (`x-sonde-resend`). Every batch that was taken over is settled exactly once.

mod courier;
mod delivery;
mod ladder;
pub mod metrics;
pub mod packer;
mod target;
pub mod verdict;

pub use courier::Courier;
pub use target::Service;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::{Endpoint, EndpointError};
use sonde_daemon::client::gate::Gate;
use sonde_daemon::client::names::{self, Names};
use sonde_daemon::client::pool::{Pool, Version};
use sonde_daemon::log::RateLimit;
use sonde_daemon::secret::{SecretError, Token};
use sonde_daemon::shutdown::Shutdown;
use sonde_daemon::tls::{self, ClientOptions, Roots, TlsError};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};

use self::delivery::{Delivery, Shared};
use self::ladder::Ladder;
use self::metrics::Metrics;
use self::packer::Packer;
use self::target::{Target, TargetError};
use crate::batch::{Batch, BatchId, Outcome, Settlement};
use crate::config::{self, Export, Protocol};

/// Default ports of OTLP: gRPC and HTTP.
const PORTS: (u16, u16) = (4317, 4318);

/// An answer holds a few words; more than this is not read.
const ANSWER_BYTES: usize = 64 << 10;

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint.
    #[error("export.endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    /// The token file.
    #[error("export.token_file: {0}")]
    Token(#[from] SecretError),
    /// TLS files.
    #[error("export.tls: {0}")]
    Tls(#[from] TlsError),
    /// Headers or path.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// zstd has no memory.
    #[error("no compressor: {0}")]
    Compressor(#[from] std::io::Error),
}

/// How long things may take; other values are for tests.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From sending a request to the end of its answer.
    pub deadline: Duration,
    /// Between two probes of a receiver that holds us.
    pub probe_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), probe_every: Duration::from_secs(60) }
    }
}

/// The sending side. Build it, then [`Exporter::run`] it on a tokio runtime.
pub struct Exporter {
    shared: Arc<Shared>,
    in_flight: usize,
}

impl Exporter {
    /// Reads the token and TLS files; connects to nothing.
    pub fn build(config: &Export, timing: Timing) -> Result<Self, ExportError> {
        Self::with_names(config, timing, Box::new(names::System))
    }

    /// As [`Exporter::build`], with addresses from elsewhere than the system.
    pub fn with_names(config: &Export, timing: Timing, names: Box<dyn Names>) -> Result<Self, ExportError> {
        let shared = share(config, timing, Service::Logs, names)?;
        Ok(Self { shared: Arc::new(shared), in_flight: config.in_flight.max(1) })
    }

    /// Its numbers.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// Takes batches over and settles them until the sender of `batches` is gone, or the shutdown's deadline has
    /// come: what is unsettled then is abandoned. `beat` is called at least once a second.
    pub async fn run(
        self,
        mut batches: mpsc::Receiver<Batch>,
        settle: impl Fn(Settlement),
        shutdown: Shutdown,
        beat: impl Fn(),
    ) {
        let mut running: JoinSet<Outcome> = JoinSet::new();
        let mut unsettled: HashMap<Id, BatchId> = HashMap::new();
        let mut open = true;
        let deadline = async {
            let at = shutdown.wait().await;
            tokio::time::sleep_until(at.into()).await;
        };
        tokio::pin!(deadline);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while open || !running.is_empty() {
            tokio::select! {
                batch = batches.recv(), if open && running.len() < self.in_flight => match batch {
                    None => open = false,
                    Some(batch) => {
                        let id = batch.id;
                        self.shared.metrics.taken_over();
                        match self.delivery(batch) {
                            Ok(delivery) => drop(unsettled.insert(running.spawn(delivery.run()).id(), id)),
                            Err(outcome) => self.settle(&settle, id, outcome),
                        }
                    }
                },
                Some(ended) = running.join_next_with_id(), if !running.is_empty() => {
                    let (task, outcome) = match ended {
                        Ok(ended) => ended,
                        Err(error) => {
                            tracing::error!("a delivery panicked, its records are read again");
                            (error.id(), Outcome::Refused { code: "panic".to_owned() })
                        }
                    };
                    if let Some(id) = unsettled.remove(&task) {
                        self.settle(&settle, id, outcome);
                    }
                }
                () = &mut deadline => break,
                _ = second.tick() => beat(),
            }
        }
        running.shutdown().await;
        for id in unsettled.into_values() {
            self.settle(&settle, id, Outcome::Abandoned);
        }
    }

    fn settle(&self, settle: &impl Fn(Settlement), id: BatchId, outcome: Outcome) {
        self.shared.metrics.settled();
        settle(Settlement { id, outcome });
    }

    /// Compresses a batch and lets its uncompressed bytes go.
    fn delivery(&self, batch: Batch) -> Result<Delivery, Outcome> {
        let Batch { payload, resend, .. } = batch;
        let encoding = self.shared.ladder().encoding();
        let packed = self.shared.packer().pack(&payload, encoding).map_err(|error| {
            tracing::error!(%error, "a request cannot be sent as it is");
            Outcome::Refused { code: "compressor".to_owned() }
        })?;
        drop(payload);
        let shared = Arc::clone(&self.shared);
        Ok(Delivery { shared, packed, resend, taken_over: Instant::now() })
    }
}

/// What requests to a service need: connections of its own, and what is learned of the receiver.
fn share(
    config: &Export,
    timing: Timing,
    service: Service,
    names: Box<dyn Names>,
) -> Result<Shared, ExportError> {
    let endpoint = endpoint(config)?;
    let token = match config.token_file.as_str() {
        "" => None,
        path => Some(Token::open(Path::new(path))?),
    };
    let version = match config.protocol {
        Protocol::Grpc => Version::Http2,
        Protocol::Http => Version::Http1,
    };
    let tls = if endpoint.tls { Some(tls::Client::new(tls_options(&config.tls, version))?) } else { None };
    let target = Target::new(endpoint.clone(), config, service, token, timing.deadline)?;
    Ok(Shared {
        pool: Pool::new(Dialer::new(endpoint, tls)?, names, version, config.in_flight, ANSWER_BYTES),
        target,
        protocol: config.protocol,
        gate: Gate::new(timing.probe_every),
        ladder: Mutex::new(Ladder::new(config.compression)),
        packer: Mutex::new(Packer::new(config.protocol == Protocol::Grpc)?),
        metrics: Metrics::default(),
        deadline: timing.deadline,
        complaints: RateLimit::new(Duration::from_secs(30)),
    })
}

/// The configured endpoint with OTLP's default port for the protocol.
pub fn endpoint(config: &Export) -> Result<Endpoint, EndpointError> {
    let port = match config.protocol {
        Protocol::Grpc => PORTS.0,
        Protocol::Http => PORTS.1,
    };
    Endpoint::parse(&config.endpoint, (port, port))
}

fn tls_options(config: &config::Tls, version: Version) -> ClientOptions {
    let roots = match config.ca_file.as_str() {
        "" => Roots::System,
        file => Roots::Files(vec![file.into()]),
    };
    let identity = (!config.cert_file.is_empty())
        .then(|| (config.cert_file.as_str().into(), config.key_file.as_str().into()));
    let alpn = match version {
        Version::Http1 => tls::HTTP1,
        Version::Http2 => tls::H2,
    };
    ClientOptions {
        roots,
        identity,
        server_name: config.server_name.clone(),
        insecure_skip_verify: config.insecure_skip_verify,
        alpn: vec![alpn.to_vec()],
    }
}
