//! The collector's configuration: every key optional, the defaults in one place.
//!
//! The file format, `${NAME}` expansion and the reporting of problems are `sonde_daemon::config`'s.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use sonde_daemon::client::otlp::{Compression, Protocol};
use sonde_daemon::config::Headers;
use sonde_daemon::units::{Interval, Size};

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

/// A destination. Which keys apply depends on `type`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sink {
    /// Its name in metrics, cursors and dead letters.
    pub name: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: SinkKind,
    /// With `ack: delivered`, nothing is acknowledged before this sink took it.
    pub required: bool,
    /// What happens when it is further behind than `max_lag_bytes`.
    pub when_behind: WhenBehind,
    /// How far it may be behind; `None` = half of `queue.max_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lag_bytes: Option<Size>,
    /// Age at which records go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Interval>,
    /// store: bytes on disk; file: bytes of a file before it is rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Size>,
    /// otlp, loki, prometheus: URL of the receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// otlp: transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// otlp: compression of requests; file: of rotated files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// otlp: what it takes; `None` = logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals: Option<Vec<Signal>>,
    /// prometheus: resource attributes that are labels of every series.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_labels: Option<Vec<String>>,
    /// otlp, loki, prometheus: extra headers of every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// loki, prometheus: the tenant, as `X-Scope-OrgID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// loki: what the labels of a stream are called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_names: Option<LabelNames>,
    /// file: where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// file: age at which it is rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Interval>,
    /// file: rotated files that stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<usize>,
    /// elasticsearch: URLs of its nodes, or of what stands before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// elasticsearch: what documents look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// elasticsearch: where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_stream: Option<DataStream>,
    /// elasticsearch: install templates and lifecycle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<bool>,
    /// elasticsearch, loki, prometheus: user of basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// elasticsearch, loki, prometheus: its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// elasticsearch: an API key, as base64 of `id:key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<String>,
    /// elasticsearch, otlp, loki, prometheus: a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// elasticsearch, otlp, loki, prometheus: TLS of https endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// What happens to a sink that is too far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenBehind {
    /// Its records stay in the queue, until that is full and senders are asked to come again.
    #[default]
    Hold,
    /// The oldest of its records are given up and counted.
    Skip,
}

/// What documents look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// OpenTelemetry's own names, as Elasticsearch's `otel` mapping has them.
    #[default]
    Otel,
    /// Elastic Common Schema, as Filebeat writes it.
    Ecs,
}

/// A data stream's name, but for its type and what the layout adds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataStream {
    /// `data_stream.dataset`.
    pub dataset: String,
    /// `data_stream.namespace`.
    pub namespace: String,
}

/// TLS of a client; empty file names = the system's authorities, no certificate of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Authorities of the server's certificate, PEM.
    pub ca_file: String,
    /// Our certificate chain, PEM.
    pub cert_file: String,
    /// Its key, PEM.
    pub key_file: String,
    /// The name that the server's certificate must carry; empty = the endpoint's host.
    pub server_name: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// Kinds of destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// The embedded store.
    #[default]
    Store,
    /// Elasticsearch or OpenSearch.
    Elasticsearch,
    /// Another OTLP receiver.
    Otlp,
    /// Grafana Loki.
    Loki,
    /// A file on this machine.
    File,
    /// Prometheus, by its remote write.
    Prometheus,
}

/// What the labels of a stream in Loki are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelNames {
    /// `k8s_cluster_name`, `k8s_namespace_name`, `k8s_pod_name`, `k8s_container_name`.
    #[default]
    Otel,
    /// `cluster`, `namespace`, `pod`, `container`.
    Promtail,
}

impl SinkKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Elasticsearch => "elasticsearch",
            Self::Otlp => "otlp",
            Self::Loki => "loki",
            Self::File => "file",
            Self::Prometheus => "prometheus",
        }
    }
}

impl Sink {
    /// How far it may be behind with a signal before it is skipped; `None` = it is held.
    pub fn skip_beyond(&self, queue: &Queue, signal: Signal) -> Option<u64> {
        let half = queue.max_bytes_of(signal) / 2;
        let most = match signal {
            Signal::Logs => self.max_lag_bytes.map_or(half, |size| size.0),
            // One key for all: of a smaller queue, what that has.
            _ => self.max_lag_bytes.map_or(half, |size| size.0.min(half)),
        };
        (self.when_behind == WhenBehind::Skip).then_some(most)
    }

    /// Whether it takes requests of a signal.
    pub fn takes(&self, signal: Signal) -> bool {
        match (self.kind, &self.signals) {
            (SinkKind::Otlp, Some(signals)) => signals.contains(&signal),
            (SinkKind::Prometheus, _) => signal == Signal::Metrics,
            _ => signal == Signal::Logs,
        }
    }
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

impl Default for DataStream {
    fn default() -> Self {
        Self { dataset: "kubernetes.container_logs".to_owned(), namespace: "default".to_owned() }
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
