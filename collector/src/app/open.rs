//! The parts of a collector, opened as its configuration says. Each blocks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sonde_daemon::secret::Tokens;
use sonde_daemon::tls;

use super::{AppError, Queues};
use crate::config::{Ack, Config, KubernetesAuth, OtlpAuth, Sink, SinkKind, Tls};
use crate::deliver::ack::{self, Acks};
use crate::deliver::lane::{self, LaneOptions};
use crate::queue::Signal;
use crate::receive::{Accounts, AccountsOptions, Intake, Intakes, Senders};
use crate::sinks::Destination;
use crate::store::{Store, StoreOptions, Writer};

/// The store's commits where senders wait for them: far less than they wait.
const COMMIT_AWAITED: Duration = Duration::from_secs(2);

/// The embedded store, before it is delivered to.
pub(super) struct StoreSink {
    pub name: String,
    pub store: Store,
    pub writer: Writer,
}

/// What takes one signal of a sink other than the store, before it is delivered to.
pub(super) struct Other {
    pub signal: Signal,
    pub sink: Sink,
    pub destination: Destination,
}

pub(super) fn lane_options(config: &Config, signal: Signal, sink: &Sink, in_flight: u32) -> LaneOptions {
    LaneOptions {
        name: sink.name.clone(),
        signal,
        skip_beyond: sink.skip_beyond(&config.queue, signal),
        request_bytes: request_bytes(config),
        cluster: config.cluster.clone(),
        batch_bytes: 4 << 20,
        window_bytes: 32 << 20,
        in_flight,
        timing: if is_awaited(config, sink) { lane::Timing::awaited() } else { lane::Timing::default() },
    }
}

/// Whether senders wait for this sink.
fn is_awaited(config: &Config, sink: &Sink) -> bool {
    config.ack == Ack::Delivered && sink.required
}

/// Every sink but the store, once for each signal that it takes.
pub(super) fn others(config: &Config) -> Result<Vec<Other>, AppError> {
    let mut others = Vec::new();
    for sink in &config.sinks {
        for signal in Signal::ALL.into_iter().filter(|signal| sink.takes(*signal)) {
            let made = Destination::build(sink, signal, &config.data_dir);
            let made = made.map_err(|source| AppError::Sink { name: sink.name.clone(), source })?;
            others.extend(made.map(|destination| Other { signal, sink: sink.clone(), destination }));
        }
    }
    Ok(others)
}

/// What makes senders wait for sinks: in front of each queue of which a sink is required.
pub(super) fn acks(config: &Config, queues: &Queues) -> Vec<(Signal, Acks)> {
    let required =
        |signal: Signal| config.sinks.iter().any(|sink| is_awaited(config, sink) && sink.takes(signal));
    let awaited = queues.iter().filter(|(signal, _)| required(*signal));
    awaited.map(|(signal, queue)| (signal, Acks::new(queue.clone(), ack::PATIENCE))).collect()
}

/// Where requests go: into the queues of the signals that a sink takes.
pub(super) fn intakes(config: &Config, queues: &Queues, acks: &[(Signal, Acks)]) -> Intakes {
    let of = |signal: Signal| -> Option<Arc<dyn Intake>> {
        if let Some((_, acks)) = acks.iter().find(|(of, _)| *of == signal) {
            return Some(Arc::new(acks.clone()));
        }
        let queue = queues.get(signal).filter(|_| config.has_sink_for(signal))?;
        Some(Arc::new(queue.clone()))
    };
    Intakes {
        logs: of(Signal::Logs).unwrap_or_else(|| Arc::new(queues.logs().clone())),
        metrics: of(Signal::Metrics),
        traces: of(Signal::Traces),
        agents: config.queue.metrics.agents,
    }
}

/// The store as configured; with its defaults where no sink that is configured takes logs.
pub(super) fn store(config: &Config) -> Result<Option<StoreSink>, AppError> {
    let sink = config.sinks.iter().find(|sink| sink.kind == SinkKind::Store);
    if sink.is_none() && config.has_sink_for(Signal::Logs) {
        return Ok(None);
    }
    let name = sink.map_or("store", |sink| sink.name.as_str()).to_owned();
    let defaults = StoreOptions::default();
    let mut options = StoreOptions::new(
        sink.and_then(|sink| sink.retention).map_or(defaults.retention, |age| age.0),
        sink.and_then(|sink| sink.max_bytes).map_or(defaults.max_bytes, |size| size.0),
    );
    if sink.is_some_and(|sink| is_awaited(config, sink)) {
        options.commit_interval = COMMIT_AWAITED;
    }
    let (store, writer) = Store::open(&config.data_dir.join("store"), options)?;
    Ok(Some(StoreSink { name, store, writer }))
}

pub(super) fn request_bytes(config: &Config) -> usize {
    usize::try_from(config.limits.request.0).unwrap_or(usize::MAX)
}

pub(super) fn tokens(key: &'static str, file: &str) -> Result<Option<Tokens>, AppError> {
    if file.is_empty() {
        return Ok(None);
    }
    Tokens::open(Path::new(file)).map(Some).map_err(|source| AppError::Secret { key, source })
}

pub(super) fn senders(auth: &OtlpAuth) -> Result<Senders, AppError> {
    let KubernetesAuth { audience, service_accounts } = &auth.kubernetes;
    let accounts = || Accounts::new(AccountsOptions::of_pod(audience, service_accounts)?);
    Ok(Senders {
        tokens: tokens("auth.otlp.token_file", &auth.token_file)?,
        accounts: if audience.is_empty() { None } else { Some(accounts()?) },
    })
}

pub(super) fn server_tls(config: &Tls) -> Result<Option<Arc<tls::Server>>, AppError> {
    if config.cert_file.is_empty() {
        return Ok(None);
    }
    let options = tls::ServerOptions {
        cert_file: config.cert_file.as_str().into(),
        key_file: config.key_file.as_str().into(),
        client_ca_file: Some(config.client_ca_file.as_str()).filter(|file| !file.is_empty()).map(Into::into),
        alpn: vec![tls::H2.to_vec(), tls::HTTP1.to_vec()],
    };
    Ok(Some(Arc::new(tls::Server::new(options)?)))
}

/// A queue that is gone with the container or the machine's memory keeps no promise.
pub(super) fn warn_volatile(dir: &Path) {
    // linux/magic.h
    let kind = match rustix::fs::statfs(dir).map(|stat| stat.f_type) {
        Ok(0x0102_1994 | 0x8584_58f6) => "memory (tmpfs)",
        Ok(0x794c_7630) => "a container's layer (overlay)",
        _ => return,
    };
    tracing::warn!(data_dir = %dir.display(), "data_dir is on {kind}: acknowledged records are lost with it");
}
