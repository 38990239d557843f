//! What a configuration must be beyond its types.

mod sinks;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use sonde_daemon::config::{Problems, Validate};
use sonde_daemon::units::{Interval, Size};

use crate::config::{Ack, Config, Signal, Sink, SinkKind};
use crate::queue::MinFree;
use crate::store::StoreOptions;

/// A request may be one record, the store holds a record in one block, and blocks end at 1 GiB. What a byte of a
/// request becomes there is at most six: a control character, as JSON.
const REQUEST_MAX: Size = Size::mib(128);

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        if self.data_dir.as_os_str().is_empty() {
            problems.add("data_dir", "is empty", "a directory");
        }
        self.validate_listen(problems);
        self.validate_tls(problems);
        let kubernetes = &self.auth.otlp.kubernetes;
        if kubernetes.audience.is_empty() && !kubernetes.service_accounts.is_empty() {
            problems.add(
                "auth.otlp.kubernetes.audience",
                "is empty",
                "the audience that tokens are made for",
            );
        }
        for (at, account) in kubernetes.service_accounts.iter().enumerate() {
            let parts = account
                .split_once('/')
                .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
            if parts.is_none() {
                let path = format!("auth.otlp.kubernetes.service_accounts[{at}]");
                problems.add(path, format!("`{account}` is no account"), "namespace/name");
            }
        }
        if self.ack == Ack::Delivered && !self.sinks.iter().any(|sink| sink.required) {
            problems.add(
                "ack",
                "`delivered` asks for a sink whose word counts, and there is none",
                "`required: true` at one sink or more, or `durable`",
            );
        }
        self.validate_limits(problems);
        sinks::validate(self, problems);
    }

    fn fill(&mut self) {
        let keeps_logs = self.has_sink_for(Signal::Logs);
        fill_store(keeps_logs, &mut self.sinks);
        for sink in &mut self.sinks {
            let half = |signal: Signal| self.queue.max_bytes_of(signal) / 2;
            let halves: Vec<u64> =
                Signal::ALL.into_iter().filter(|signal| sink.takes(*signal)).map(half).collect();
            // One key for queues of several sizes: it bounds that of logs, and of the others what they have less.
            let most = if sink.takes(Signal::Logs) {
                Some(half(Signal::Logs))
            } else {
                halves.iter().max().copied()
            };
            if let Some(most) = most.filter(|most| halves.iter().all(|half| half <= most)) {
                sink.max_lag_bytes.get_or_insert(Size(most));
            }
        }
    }
}

/// The embedded store where no sink takes logs, and its limits.
fn fill_store(keeps_logs: bool, sinks: &mut Vec<Sink>) {
    if !keeps_logs {
        sinks.push(Sink { name: SinkKind::Store.name().to_owned(), ..Sink::default() });
    }
    let defaults = StoreOptions::default();
    for sink in sinks.iter_mut().filter(|sink| sink.kind == SinkKind::Store) {
        sink.retention.get_or_insert(Interval(defaults.retention));
        sink.max_bytes.get_or_insert(Size(defaults.max_bytes));
    }
}

impl Config {
    fn validate_listen(&self, problems: &mut Problems) {
        let listen = &self.listen;
        let mut seen = HashSet::new();
        let addresses =
            [("otlp_grpc", &listen.otlp_grpc), ("otlp_http", &listen.otlp_http), ("http", &listen.http)];
        for (name, address) in addresses {
            let port = address.rsplit_once(':').and_then(|(host, port)| {
                // An IPv6 address stands in brackets, so that its last group is not read as a port.
                let whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
                port.parse::<u16>().ok().filter(|_| whole)
            });
            match port {
                None => problems.add(
                    format!("listen.{name}"),
                    format!("`{address}` is not an address to listen on"),
                    "host:port, as in `127.0.0.1:4317` or `[::]:4317`",
                ),
                Some(0) => {}
                Some(_) if seen.insert(address) => {}
                Some(_) => problems.add_between(
                    format!("listen.{name}"),
                    &["listen.otlp_grpc", "listen.otlp_http", "listen.http"],
                    format!("`{address}` is taken by another key"),
                    "",
                ),
            }
        }
    }

    fn validate_tls(&self, problems: &mut Problems) {
        let tls = &self.tls;
        if tls.cert_file.is_empty() != tls.key_file.is_empty() {
            let mut keys = ["tls.cert_file", "tls.key_file"];
            if !tls.cert_file.is_empty() {
                keys.reverse();
            }
            let expected = "both tls.cert_file and tls.key_file, or neither";
            problems.add_between(keys[0], &keys[1..], "is empty", expected);
        }
        if !tls.client_ca_file.is_empty() && tls.cert_file.is_empty() {
            problems.add_between(
                "tls.client_ca_file",
                &["tls.cert_file"],
                "needs a certificate of our own",
                "tls.cert_file and tls.key_file",
            );
        }
    }

    fn validate_limits(&self, problems: &mut Problems) {
        let limits = &self.limits;
        if limits.request < Size::kib(1) || limits.request > REQUEST_MAX {
            problems.add("limits.request", format!("{} is out of range", limits.request), "1KiB to 128MiB");
        }
        if limits.in_flight < limits.request {
            problems.add_between(
                "limits.in_flight",
                &["limits.request"],
                format!("{} is less than one request may have", limits.in_flight),
                format!("at least limits.request, which is {}", limits.request),
            );
        }
        if limits.connections == 0 {
            problems.add("limits.connections", "0 would let nobody in", "at least 1");
        }
        if let Err(error) = self.queue.min_free.parse::<MinFree>() {
            problems.add("queue.min_free", error.to_string(), "");
        }
        let queue = &self.queue;
        for (key, bytes) in [
            ("queue.max_bytes", queue.max_bytes),
            ("queue.metrics.max_bytes", queue.metrics.max_bytes),
            ("queue.traces.max_bytes", queue.traces.max_bytes),
        ] {
            if bytes < Size::mib(1) {
                problems.add(key, format!("{bytes} is too small"), "at least 1MiB");
            }
        }
        if queue.metrics.agents && !self.has_sink_for(Signal::Metrics) {
            problems.add(
                "queue.metrics.agents",
                "no sink takes metrics",
                "a sink of type prometheus, or `signals: [metrics]` at one of type otlp",
            );
        }
    }
}
