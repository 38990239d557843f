//! Sends requests to an OTLP receiver until it has answered for good.
//!
//! Constraints: at most `in_flight` requests are unsettled; of each only the compressed bytes are kept; a request is
//! sent again for ever until the receiver accepts it or refuses it as it is (contract section 8); whatever may hold
//! records that were sent before says so (`x-sonde-resend`). Every batch that was taken over is settled exactly once.

mod courier;
mod delivery;
pub mod metrics;

pub use courier::Courier;
pub use sonde_daemon::client::otlp::Service;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sonde_daemon::client::endpoint::{Endpoint, EndpointError};
use sonde_daemon::client::gate::Gate;
use sonde_daemon::client::names::{self, Names};
use sonde_daemon::client::otlp::packer::PackError;
use sonde_daemon::client::otlp::{Client, Options, OtlpError, Protocol};
use sonde_daemon::log::RateLimit;
use sonde_daemon::secret::{SecretError, Token};
use sonde_daemon::shutdown::Shutdown;
use sonde_daemon::tls::{ClientOptions, Roots};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};

use self::delivery::{Delivery, Shared};
use self::metrics::Metrics;
use crate::batch::{Batch, BatchId, Outcome, Settlement};
use crate::config::{self, Export};

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint.
    #[error("export.endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    /// The token file.
    #[error("export.token_file: {0}")]
    Token(#[from] SecretError),
    /// TLS files, headers, the path.
    #[error("export.{0}")]
    Client(#[from] OtlpError),
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
        let packed = self.shared.client.pack(&payload).map_err(|error: PackError| {
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
    Ok(Shared {
        client: client(config, timing, service, names)?,
        gate: Gate::new(timing.probe_every),
        metrics: Metrics::default(),
        complaints: RateLimit::new(Duration::from_secs(30)),
    })
}

/// Reads the token and TLS files; connects to nothing.
///
/// # Errors
/// One of them cannot be read, or the endpoint is none.
pub(crate) fn client(
    config: &Export,
    timing: Timing,
    service: Service,
    names: Box<dyn Names>,
) -> Result<Client, ExportError> {
    let token = match config.token_file.as_str() {
        "" => None,
        path => Some(Token::open(Path::new(path))?),
    };
    let options = Options {
        endpoint: endpoint(config)?,
        protocol: config.protocol,
        service,
        compression: config.compression,
        headers: config.headers.clone(),
        token,
        tls: tls_options(&config.tls, config.protocol),
        user_agent: concat!("sonde-agent/", env!("CARGO_PKG_VERSION")),
        spread: config.in_flight,
        deadline: timing.deadline,
    };
    Ok(Client::new(options, names)?)
}

/// The configured endpoint with OTLP's default port for the protocol.
pub fn endpoint(config: &Export) -> Result<Endpoint, EndpointError> {
    config.protocol.endpoint(&config.endpoint)
}

fn tls_options(config: &config::Tls, protocol: Protocol) -> ClientOptions {
    let roots = match config.ca_file.as_str() {
        "" => Roots::System,
        file => Roots::Files(vec![file.into()]),
    };
    let identity = (!config.cert_file.is_empty())
        .then(|| (config.cert_file.as_str().into(), config.key_file.as_str().into()));
    ClientOptions {
        roots,
        identity,
        server_name: config.server_name.clone(),
        insecure_skip_verify: config.insecure_skip_verify,
        alpn: vec![protocol.alpn()],
    }
}
