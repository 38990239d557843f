//! One destination: every key that any type of sink has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sonde_daemon::client::otlp::{Compression, Protocol};
use sonde_daemon::config::Headers;
use sonde_daemon::units::{Interval, Size};

use super::Queue;
use crate::queue::Signal;

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

impl Default for DataStream {
    fn default() -> Self {
        Self { dataset: "kubernetes.container_logs".to_owned(), namespace: "default".to_owned() }
    }
}
