//! What the types of the configuration cannot say. Every problem is reported, not the first.

use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use sonde_daemon::config::{HIDDEN, Problems, Validate};
use sonde_daemon::units::{Interval, Size};
use sonde_wire::canary::NODE_BYTES;

use super::{ApiServer, Config, Export, Host, Kubelet, Metrics, PodSource};
use crate::export;
use crate::host::{HostPaths, host_name};
use crate::metrics::node::{COLLECTORS, is_collector, systemd};
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::otlp;

mod logs;
mod receive;

/// Mounted into every pod with a service account: its presence says that we are in one.
pub const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.check(problems, Path::new(SERVICE_ACCOUNT_TOKEN).exists());
    }

    fn fill(&mut self) {
        if self.node.name.is_empty() {
            self.node.name = host_name();
        }
        let HostPaths { root, proc, sys, cgroup, pod_logs, docker_logs, kubelet_dir } =
            HostPaths::new(&self.host);
        self.host = Host {
            root,
            proc: Some(proc),
            sys: Some(sys),
            cgroup: Some(cgroup),
            pod_logs: Some(pod_logs),
            docker_logs: Some(docker_logs),
            kubelet_dir: Some(kubelet_dir),
        };
        if self.kubelet.server_name.is_empty() {
            self.kubelet.server_name.clone_from(&self.node.name);
        }
    }
}

impl Config {
    /// `in_pod`: a service-account token is mounted.
    fn check(&self, problems: &mut Problems, in_pod: bool) {
        if in_pod && self.node.name.is_empty() {
            problems.add(
                "node.name",
                "is empty: in a pod the host name is the pod's, not the node's",
                "NODE_NAME in the environment, from fieldRef spec.nodeName",
            );
        }
        if self.node.name.len() > NODE_BYTES {
            let what = format!("is longer than {NODE_BYTES} bytes");
            problems.add("node.name", what, "the node's name as Kubernetes has it");
        }
        if self.state_dir.as_os_str().is_empty() {
            problems.add("state_dir", "is empty", "a directory");
        }
        if self.host.root.as_os_str().is_empty() {
            problems.add("host.root", "is empty", "a directory such as `/`");
        }
        if !is_listen_address(&self.listen) {
            let what = format!("`{}` is not an address with a port", self.listen);
            problems.add("listen", what, "one such as `[::]:9464`");
        }
        at_least(problems, "shutdown_grace", self.shutdown_grace, Interval::secs(1));
        self.kubelet.check(problems, self.pods.source);
        self.pods.api.check(problems, self.pods.source);
        for (at, glob) in self.pods.labels.iter().enumerate() {
            check_glob(problems, &format!("pods.labels[{at}]"), glob, "/_");
        }
        self.logs.check(problems);
        at_least(problems, "metrics.interval", self.metrics.interval, Interval::secs(1));
        self.metrics.check(problems);
        self.export.check(problems);
        self.receive.check(problems, &self.export);
        if !self.canary.interval.0.is_zero() {
            at_least(problems, "canary.interval", self.canary.interval, Interval::secs(1));
        }
    }
}

impl Metrics {
    fn check(&self, problems: &mut Problems) {
        let node = &self.node;
        for (key, pattern) in [
            ("mount_exclude", &node.mount_exclude),
            ("fs_exclude", &node.fs_exclude),
            ("netdev_exclude", &node.netdev_exclude),
            ("disk_exclude", &node.disk_exclude),
        ] {
            check_pattern(problems, &format!("metrics.node.{key}"), pattern);
        }
        for (at, name) in node.enable.iter().enumerate().filter(|(_, name)| *name != systemd::NAME) {
            problems.add(
                format!("metrics.node.enable[{at}]"),
                format!("`{name}` is not a collector that is off"),
                "`systemd`",
            );
        }
        for (at, name) in node.disable.iter().enumerate().filter(|(_, name)| !is_collector(name)) {
            problems.add(
                format!("metrics.node.disable[{at}]"),
                format!("`{name}` is not a collector"),
                format!("one of {}, or another of node_exporter's", COLLECTORS.join(", ")),
            );
        }
        for (at, pattern) in self.drop.iter().enumerate() {
            check_pattern(problems, &format!("metrics.drop[{at}]"), pattern);
        }
    }
}

fn check_pattern(problems: &mut Problems, key: &str, pattern: &str) {
    if let Err(error) = regex::Regex::new(pattern) {
        // The last line of the library's message says what is wrong; those before draw the place.
        let error = error.to_string();
        let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        problems.add(key, what, "a regular expression (Rust's `regex` syntax)");
    }
}

impl Kubelet {
    fn check(&self, problems: &mut Problems, source: PodSource) {
        if self.url.is_empty() {
            if source == PodSource::Kubelet {
                problems.add_between(
                    "kubelet.url",
                    &["pods.source"],
                    "is empty, but pods.source is `kubelet`",
                    "its URL",
                );
            }
        } else if let Err(error) = Endpoint::parse(&self.url, (80, 10250)) {
            problems.add("kubelet.url", error.to_string(), "");
        }
        if !self.server_name.is_empty() {
            check_server_name(problems, "kubelet.server_name", &self.server_name);
        }
        at_least(problems, "kubelet.interval", self.interval, Interval::secs(1));
    }
}

impl ApiServer {
    fn check(&self, problems: &mut Problems, source: PodSource) {
        let is_asked = source == PodSource::Api || (source == PodSource::Auto && !self.url.is_empty());
        if is_asked && let Err(error) = Endpoint::parse(&self.url, (80, 443)) {
            problems.add("pods.api.url", error.to_string(), "");
        }
        if !self.server_name.is_empty() {
            check_server_name(problems, "pods.api.server_name", &self.server_name);
        }
    }
}

impl Export {
    fn check(&self, problems: &mut Problems) {
        let endpoint = export::endpoint(self);
        if let Err(error) = &endpoint {
            problems.add("export.endpoint", error.to_string(), "");
        }
        within(problems, "export.batch.bytes", self.batch.bytes, Size::kib(4), Size::mib(32));
        at_least(problems, "export.batch.age", self.batch.age, Interval::millis(10));
        if self.batch.age > Interval::secs(60) {
            problems.add("export.batch.age", format!("{} is too long", self.batch.age), "60s or less");
        }
        if !(1..=64).contains(&self.in_flight) {
            problems.add("export.in_flight", format!("{} is not possible", self.in_flight), "1 to 64");
        }
        for (name, value) in self.headers.iter() {
            let path = format!("export.headers.{name}");
            let Ok(parsed) = name.to_ascii_lowercase().parse::<HeaderName>() else {
                problems.add(path, "is not a header's name", "letters, digits and `-`");
                continue;
            };
            if otlp::OWN_HEADERS.contains(&parsed.as_str()) {
                problems.add(path, "is set by the agent itself", "another header");
            } else if parsed == http::header::AUTHORIZATION && !self.token_file.is_empty() {
                let others = ["export.token_file"];
                problems.add_between(path, &others, "is set by export.token_file", "one of the two");
            } else if value == HIDDEN {
                problems.add(path, "has no value, but what `check` prints for one", "the header's value");
            } else if HeaderValue::from_str(value).is_err() {
                problems.add(path, "has a value that cannot be a header's", "printable ASCII");
            }
        }
        self.check_tls(problems, endpoint.is_ok_and(|endpoint| !endpoint.tls));
    }

    fn check_tls(&self, problems: &mut Problems, plain: bool) {
        let tls = &self.tls;
        let set = [&tls.ca_file, &tls.cert_file, &tls.key_file, &tls.server_name];
        if plain && (tls.insecure_skip_verify || set.iter().any(|text| !text.is_empty())) {
            let what = "is set, but export.endpoint is http://";
            problems.add_between("export.tls", &["export.endpoint"], what, "an https:// endpoint");
        }
        let (cert, key) = (("export.tls.cert_file", &tls.cert_file), ("export.tls.key_file", &tls.key_file));
        for ((path, this), (other, set)) in [(cert, key), (key, cert)] {
            if this.is_empty() && !set.is_empty() {
                problems.add_between(path, &[other], "is missing", "cert_file and key_file together");
            }
        }
        if !tls.server_name.is_empty() {
            check_server_name(problems, "export.tls.server_name", &tls.server_name);
        }
    }
}

/// `address:port`, `:port` or `name:port`.
fn is_listen_address(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    port.parse::<u16>().is_ok() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

fn check_server_name(problems: &mut Problems, path: &str, name: &str) {
    if ServerName::try_from(name).is_err() {
        problems.add(
            path,
            format!("`{name}` is no name that a certificate could carry"),
            "a host name or an address",
        );
    }
}

fn check_container(problems: &mut Problems, path: &str, globs: [&str; 3]) {
    for (name, glob) in ["namespace", "pod", "container"].iter().zip(globs) {
        if !glob.is_empty() {
            check_glob(problems, &format!("{path}.{name}"), glob, "");
        }
    }
}

/// Kubernetes names and label keys have few characters; anything else is a mistake or another glob language.
fn check_glob(problems: &mut Problems, path: &str, glob: &str, more: &str) {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*') || more.contains(c);
    if glob.is_empty() {
        problems.add(path, "is empty", "a name, or a pattern with `*`");
    } else if let Some(odd) = glob.chars().find(|c| !known(*c)) {
        let what = format!("`{glob}` has a `{odd}`, which no name has");
        problems.add(path, what, "a name, or a pattern with `*` (the only wildcard)");
    }
}

fn at_least(problems: &mut Problems, path: &str, value: Interval, least: Interval) {
    if value < least {
        problems.add(path, format!("{value} is too short"), format!("{least} or more"));
    }
}

fn within(problems: &mut Problems, path: &str, value: Size, least: Size, most: Size) {
    if value < least || value > most {
        problems.add(path, format!("{value} is out of bounds"), format!("{least} to {most}"));
    }
}

#[cfg(test)]
mod tests;
