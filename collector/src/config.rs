//! The collector's configuration: every key optional, the defaults in one place.
//!
//! The file format, `${NAME}` expansion and the reporting of problems are `sonde_daemon::config`'s.

mod sink;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use sonde_daemon::client::otlp::{Compression, Protocol};
use sonde_daemon::units::{Interval, Size};

pub use self::sink::{ClientTls, DataStream, LabelNames, Layout, Sink, SinkKind, WhenBehind};
pub use crate::queue::Signal;

/// Everything that can be set, section by section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Cluster that this collector serves: `k8s.cluster.name` of records that came without one.
    pub cluster: String,
    /// Queue, store and dead letters live here; locked by one process.
    pub data_dir: PathBuf,
    /// How long a stop may take to drain.
    pub shutdown_grace: Interval,
    /// Addresses; built-in defaults are loopback.
    pub listen: Listen,
    /// TLS of the OTLP listeners.
    pub tls: Tls,
    /// Who may send and who may ask.
    pub auth: Auth,
    /// Bounds on what comes in.
    pub limits: Limits,
    /// What an acknowledgement means.
    pub ack: Ack,
    /// The durable queue.
    pub queue: Queue,
    /// What a sink refused for good.
    pub dead_letter: DeadLetter,
    /// Destinations; where none takes logs, one embedded store.
    pub sinks: Vec<Sink>,
}

/// Addresses to listen on.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// OTLP/gRPC.
    pub otlp_grpc: String,
    /// OTLP/HTTP: protobuf and JSON.
    pub otlp_http: String,
    /// Page, API, metrics, health.
    pub http: String,
}

/// TLS of a server; empty file names = plain text.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert_file: String,
    /// Its key, PEM.
    pub key_file: String,
    /// Authorities of client certificates; given = mutual TLS.
    pub client_ca_file: String,
}

/// Who may send and who may ask.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Senders.
    pub otlp: OtlpAuth,
    /// Readers of the page and the API.
    pub http: HttpAuth,
}

/// Senders.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpAuth {
    /// Accepted bearer tokens, one a line; empty = anyone.
    pub token_file: String,
    /// Service-account tokens by TokenReview.
    pub kubernetes: KubernetesAuth,
}

/// Service-account tokens by TokenReview.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesAuth {
    /// Audience that a token must carry; empty = off.
    pub audience: String,
    /// Accepted accounts as `namespace/name`; empty = any of that audience.
    pub service_accounts: Vec<String>,
}

/// Readers of the page and the API.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpAuth {
    /// Accepted bearer tokens, one a line.
    pub token_file: String,
    /// Answer beyond loopback without a token.
    pub anonymous: bool,
}

/// Bounds on what comes in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A request, before and after decompression.
    pub request: Size,
    /// Memory of all requests under way.
    pub in_flight: Size,
    /// Open connections.
    pub connections: usize,
    /// Age of a connection after which it is closed; 0 = none.
    pub connection_age: Interval,
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The queue's fsync has returned.
    Durable,
    /// The sinks marked `required: true` took it.
    Delivered,
}

/// The durable queue.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Bytes on disk.
    pub max_bytes: Size,
    /// Share of the volume that stays free, as `10%`, or a size.
    pub min_free: String,
    /// The queue of metrics; there where a sink takes them.
    pub metrics: MetricsQueue,
    /// The queue of traces; there where a sink takes them.
    pub traces: TracesQueue,
}

/// The queue of metrics.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsQueue {
    /// Bytes on disk, beside those of the other queues.
    pub max_bytes: Size,
    /// What our agents push for the page is queued for sinks too.
    pub agents: bool,
}

/// The queue of traces.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesQueue {
    /// Bytes on disk, beside those of the other queues.
    pub max_bytes: Size,
}

/// What a sink refused for good.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetter {
    /// Bytes on disk, all sinks together.
    pub max_bytes: Size,
}

impl Queue {
    /// Disk space of the queue of a signal.
    pub fn max_bytes_of(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Logs => self.max_bytes.0,
            Signal::Metrics => self.metrics.max_bytes.0,
            Signal::Traces => self.traces.max_bytes.0,
        }
    }
}

impl Config {
    /// Whether a sink that is configured takes a signal. Logs that none takes go into the embedded store.
    pub fn has_sink_for(&self, signal: Signal) -> bool {
        self.sinks.iter().any(|sink| sink.takes(signal))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            data_dir: "/var/lib/sonde-collector".into(),
            shutdown_grace: Interval::secs(20),
            listen: Listen::default(),
            tls: Tls::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            ack: Ack::Durable,
            queue: Queue::default(),
            dead_letter: DeadLetter::default(),
            sinks: Vec::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            otlp_grpc: "127.0.0.1:4317".to_owned(),
            otlp_http: "127.0.0.1:4318".to_owned(),
            http: "127.0.0.1:8080".to_owned(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Size::mib(64),
            in_flight: Size::mib(128),
            connections: 10_000,
            connection_age: Interval::secs(600),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_bytes: Size::gib(10),
            min_free: "10%".to_owned(),
            metrics: MetricsQueue::default(),
            traces: TracesQueue::default(),
        }
    }
}

impl Default for MetricsQueue {
    fn default() -> Self {
        Self { max_bytes: Size::gib(1), agents: false }
    }
}

impl Default for TracesQueue {
    fn default() -> Self {
        Self { max_bytes: Size::gib(1) }
    }
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self { max_bytes: Size::gib(1) }
    }
}
