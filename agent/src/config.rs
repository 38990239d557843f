//! The agent's configuration: every key optional, the defaults in one place.
//!
//! The file format, `${NAME}` expansion and the reporting of problems are `sonde_daemon::config`'s.

mod logs;
mod receive;
mod validate;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use sonde_daemon::client::otlp::{Compression, Protocol};
use sonde_daemon::config::Headers;
use sonde_daemon::units::{Interval, Size};

pub use logs::{
    FileRule, Journald, Limits, LogRule, Logs, MultilineRule, Parse, Priority, ReadExisting, RedactRule,
};
pub use receive::{Receive, ReceiveLimits};

/// Everything that can be set, section by section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `k8s.cluster.name` of every record, and the `cluster` label of pushed metrics.
    pub cluster: String,
    /// This node.
    pub node: Node,
    /// Where the host's directories are.
    pub host: Host,
    /// Read positions and the ledger live here; locked by one process.
    pub state_dir: PathBuf,
    /// Address of the agent's HTTP server.
    pub listen: String,
    /// Who may see what is not for everyone.
    pub auth: Auth,
    /// How long a stop may take to flush and be acknowledged.
    pub shutdown_grace: Interval,
    /// The kubelet.
    pub kubelet: Kubelet,
    /// Where pod metadata comes from.
    pub pods: Pods,
    /// Container logs.
    pub logs: Logs,
    /// Metrics.
    pub metrics: Metrics,
    /// The receiver of logs and metrics.
    pub export: Export,
    /// OTLP of the apps on this node.
    pub receive: Receive,
    /// Synthetic records through the whole path.
    pub canary: Canary,
}

/// Who may see what is not for everyone.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Readers of the agent's HTTP server.
    pub http: HttpAuth,
}

/// Readers of the agent's HTTP server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpAuth {
    /// Accepted bearer tokens for `/debug/files` beyond loopback, one a line; empty = none.
    pub token_file: String,
}

/// This node's name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// `k8s.node.name`; empty outside a pod = the host name.
    pub name: String,
}

/// Where the host is mounted. A path that is not given is `root` plus its usual place.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// The host's root directory as this process sees it; symlinks are resolved inside it.
    pub root: PathBuf,
    /// The host's `/proc`.
    pub proc: Option<PathBuf>,
    /// The host's `/sys`.
    pub sys: Option<PathBuf>,
    /// The root of the cgroup hierarchy.
    pub cgroup: Option<PathBuf>,
    /// The kubelet's pod log directory.
    pub pod_logs: Option<PathBuf>,
    /// Docker's container directory.
    pub docker_logs: Option<PathBuf>,
    /// The kubelet's own directory.
    pub kubelet_dir: Option<PathBuf>,
}

/// How the kubelet is reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubelet {
    /// Base URL; empty = no kubelet, paths alone name namespace, pod, uid and container.
    pub url: String,
    /// Name that the kubelet's certificate must carry; empty = `node.name`.
    pub server_name: String,
    /// Bearer token, read again when it changes.
    pub token_file: PathBuf,
    /// `auto` = the service account's CA and `<kubelet_dir>/pki/kubelet.crt`; otherwise a PEM file.
    pub ca_file: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Period of `/pods`.
    pub interval: Interval,
}

/// Where pod metadata comes from and what of it is attached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pods {
    /// Source of pod state.
    pub source: PodSource,
    /// How the API server is reached, where it is the source or stands in for the kubelet.
    pub api: ApiServer,
    /// Labels attached to records, `*` globs.
    pub labels: Vec<String>,
}

/// How the API server is reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiServer {
    /// Base URL.
    pub url: String,
    /// Name that its certificate must carry; empty = the URL's host.
    pub server_name: String,
    /// Bearer token, read again when it changes.
    pub token_file: PathBuf,
    /// `auto` = the service account's CA; otherwise a PEM file.
    pub ca_file: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// A source of pod state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSource {
    /// The kubelet's socket where there is one that answers, else the kubelet where it has a URL, the API server while that refuses,
    /// else paths.
    Auto,
    /// The kubelet's `/pods`.
    Kubelet,
    /// The kubelet's pods gRPC socket.
    Socket,
    /// An API server watch on `spec.nodeName`.
    Api,
    /// Log paths alone.
    Paths,
}

/// Metrics.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Period of the push.
    pub interval: Interval,
    /// Whether the same samples go to the collector as OTLP metrics.
    pub push: bool,
    /// Whether the push has them under the semantic conventions' names too.
    pub conventions: bool,
    /// `container_*`.
    pub containers: bool,
    /// `kube_pod_*`.
    pub pods: bool,
    /// `sonde_namespace_*`.
    pub namespaces: bool,
    /// `node_*`.
    pub node: NodeMetrics,
    /// Regular expressions on metric names that are left out.
    pub drop: Vec<String>,
}

/// `node_*`, with node_exporter's defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeMetrics {
    /// Whether they are collected.
    pub enabled: bool,
    /// Collectors that are switched on beside the usual ones.
    pub enable: Vec<String>,
    /// Collectors that are switched off.
    pub disable: Vec<String>,
    /// Mount points left out (regular expression).
    pub mount_exclude: String,
    /// File system types left out.
    pub fs_exclude: String,
    /// Network devices left out.
    pub netdev_exclude: String,
    /// Disks left out.
    pub disk_exclude: String,
    /// Directory of `*.prom` files; empty = none.
    pub textfile_dir: String,
}

/// The receiver: any OTLP endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// URL; all addresses behind the name are used.
    pub endpoint: String,
    /// gRPC, or HTTP with protobuf.
    pub protocol: Protocol,
    /// Compression of requests.
    pub compression: Compression,
    /// Size and age of a request.
    pub batch: Batch,
    /// Unacknowledged requests.
    pub in_flight: usize,
    /// Extra headers of every request.
    pub headers: Headers,
    /// Bearer token, read again when it changes; empty = none.
    pub token_file: String,
    /// TLS.
    pub tls: Tls,
}

/// Size and age of a request.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Uncompressed size.
    pub bytes: Size,
    /// Age of its oldest record.
    pub age: Interval,
}

/// TLS of a client; empty file names = none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Authorities that are trusted; empty = the system's.
    pub ca_file: String,
    /// Client certificate.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Name that the server's certificate must carry; empty = the endpoint's host.
    pub server_name: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// Synthetic records through the whole path.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Canary {
    /// Period; 0 = off.
    pub interval: Interval,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            node: Node::default(),
            host: Host::default(),
            state_dir: "/var/lib/sonde-agent".into(),
            listen: "[::]:9464".to_owned(),
            auth: Auth::default(),
            shutdown_grace: Interval::secs(20),
            kubelet: Kubelet::default(),
            pods: Pods::default(),
            logs: Logs::default(),
            metrics: Metrics::default(),
            export: Export::default(),
            receive: Receive::default(),
            canary: Canary::default(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "${NODE_NAME:-}".to_owned() }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self {
            root: "/".into(),
            proc: None,
            sys: None,
            cgroup: None,
            pod_logs: None,
            docker_logs: None,
            kubelet_dir: None,
        }
    }
}

impl Default for Kubelet {
    fn default() -> Self {
        Self {
            url: "https://${NODE_IP:-127.0.0.1}:10250".to_owned(),
            server_name: String::new(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            ca_file: "auto".to_owned(),
            insecure_skip_verify: false,
            interval: Interval::secs(10),
        }
    }
}

/// What Kubernetes tells every pod.
impl Default for ApiServer {
    fn default() -> Self {
        Self {
            url: "https://${KUBERNETES_SERVICE_HOST:-kubernetes.default.svc}:${KUBERNETES_SERVICE_PORT:-443}"
                .to_owned(),
            server_name: String::new(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            ca_file: "auto".to_owned(),
            insecure_skip_verify: false,
        }
    }
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            source: PodSource::Auto,
            api: ApiServer::default(),
            labels: vec!["app".to_owned(), "app.kubernetes.io/*".to_owned()],
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            interval: Interval::secs(10),
            push: true,
            conventions: true,
            containers: true,
            pods: true,
            namespaces: true,
            node: NodeMetrics::default(),
            drop: Vec::new(),
        }
    }
}

/// The patterns are node_exporter's defaults (collector/*_linux.go).
impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            enabled: true,
            enable: Vec::new(),
            disable: Vec::new(),
            mount_exclude: "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)".to_owned(),
            fs_exclude: "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$".to_owned(),
            netdev_exclude: String::new(),
            disk_exclude: "^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\\d+n\\d+p)\\d+$".to_owned(),
            textfile_dir: String::new(),
        }
    }
}

impl Default for Export {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:4317".to_owned(),
            protocol: Protocol::Grpc,
            compression: Compression::Auto,
            batch: Batch::default(),
            in_flight: 4,
            headers: Headers::default(),
            token_file: String::new(),
            tls: Tls::default(),
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { bytes: Size::mib(1), age: Interval::secs(1) }
    }
}
