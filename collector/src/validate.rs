//! What a configuration must be beyond its types.

use std::collections::HashSet;

use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::config::{Problems, Validate};
use sonde_daemon::units::Size;

use crate::config::{Ack, Config, Sink, SinkKind, WhenBehind};
use crate::queue::MinFree;
use crate::sinks::elasticsearch;

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
        if !kubernetes.audience.is_empty() || !kubernetes.service_accounts.is_empty() {
            problems.add("auth.otlp.kubernetes", "is not there yet", "auth.otlp.token_file, or neither");
        }
        if self.ack == Ack::Delivered && !self.sinks.iter().any(|sink| sink.required) {
            problems.add(
                "ack",
                "`delivered` asks for a sink whose word counts, and there is none",
                "`required: true` at one sink or more, or `durable`",
            );
        }
        self.validate_limits(problems);
        self.validate_sinks(problems);
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
            problems.add("queue.min_free", error.to_string(), "a share as `10%`, or a size");
        }
        if self.queue.max_bytes < Size::mib(1) {
            problems.add(
                "queue.max_bytes",
                format!("{} is too small", self.queue.max_bytes),
                "at least 1MiB",
            );
        }
    }

    fn validate_sinks(&self, problems: &mut Problems) {
        let mut names = HashSet::new();
        for (number, sink) in self.sinks.iter().enumerate() {
            let key = |name: &str| format!("sinks[{number}].{name}");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            if sink.name.is_empty() || sink.name.len() > 63 || !sink.name.chars().all(plain) {
                problems.add(
                    key("name"),
                    format!("`{}` is not a name for files and metrics", sink.name),
                    "1 to 63 of a-z, 0-9, `-`, `_`",
                );
            } else if !names.insert(sink.name.as_str()) {
                problems.add(
                    key("name"),
                    format!("`{}` is the name of another sink", sink.name),
                    "names that differ",
                );
            }
            if sink.retention.is_some_and(|retention| retention.0.is_zero()) {
                problems.add(key("retention"), "0s would keep nothing", "an age such as `7d`");
            }
            if sink.max_bytes.is_some_and(|bytes| bytes < Size::mib(1)) {
                problems.add(key("max_bytes"), "is too small", "at least 1MiB");
            }
            if sink.max_lag_bytes.is_some_and(|bytes| bytes > self.queue.max_bytes) {
                problems.add(key("max_lag_bytes"), "is more than the queue holds", "at most queue.max_bytes");
            }
            if sink.required && sink.when_behind == WhenBehind::Skip {
                problems.add(key("when_behind"), "a sink that is `required` cannot be skipped", "`hold`");
            }
            validate_keys(sink, &key, problems);
            if sink.kind == SinkKind::Elasticsearch {
                validate_elasticsearch(sink, &key, problems);
            }
        }
        let second = self.sinks.iter().enumerate().filter(|(_, sink)| sink.kind == SinkKind::Store).nth(1);
        if let Some((number, _)) = second {
            let others = (0..number).map(|other| format!("sinks[{other}].type")).collect::<Vec<_>>();
            problems.add_between(
                format!("sinks[{number}].type"),
                &others.iter().map(String::as_str).collect::<Vec<_>>(),
                "is a second store",
                "at most one sink of type store",
            );
        }
    }
}

/// Keys that say nothing to a sink of this type.
fn validate_keys(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let elastic = [
        ("endpoints", sink.endpoints.is_some()),
        ("layout", sink.layout.is_some()),
        ("data_stream", sink.data_stream.is_some()),
        ("templates", sink.templates.is_some()),
        ("username", sink.username.is_some()),
        ("password_file", sink.password_file.is_some()),
        ("api_key_file", sink.api_key_file.is_some()),
        ("token_file", sink.token_file.is_some()),
        ("tls", sink.tls.is_some()),
    ];
    let skips = sink.when_behind != WhenBehind::Hold;
    let (foreign, expected): (&[(&str, bool)], _) = match sink.kind {
        SinkKind::Store => (&elastic, "only keys of type store"),
        SinkKind::Elasticsearch => {
            (&[("max_bytes", sink.max_bytes.is_some())], "only keys of type elasticsearch")
        }
    };
    for (name, _) in foreign.iter().filter(|(_, given)| *given) {
        problems.add(key(name), "says nothing to a sink of this type", expected);
    }
    if sink.kind == SinkKind::Store && skips {
        problems.add(key("when_behind"), "the store is never skipped", "`hold`");
    }
}

fn validate_elasticsearch(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let endpoints = sink.endpoints.as_deref().unwrap_or_default();
    if endpoints.is_empty() {
        problems.add(key("endpoints"), "is empty", "URLs such as `http://127.0.0.1:9200`");
    }
    for (number, url) in endpoints.iter().enumerate() {
        if let Err(error) = Endpoint::parse(url, elasticsearch::PORTS) {
            problems.add(key(&format!("endpoints[{number}]")), error.to_string(), "");
        }
    }
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if given(&sink.username) != given(&sink.password_file) {
        let missing = if given(&sink.username) { "password_file" } else { "username" };
        problems.add(key(missing), "is empty", "both username and password_file, or neither");
    }
    let ways = [&sink.username, &sink.api_key_file, &sink.token_file];
    if ways.into_iter().filter(|way| given(way)).count() > 1 {
        problems.add(
            key("username"),
            "is one of several ways to log in",
            "username, api_key_file or token_file",
        );
    }
    let stream = sink.data_stream.clone().unwrap_or_default();
    for (name, part) in [("dataset", &stream.dataset), ("namespace", &stream.namespace)] {
        // What Elasticsearch asks of the parts of a data stream's name.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        if part.is_empty() || part.len() > 100 || !part.chars().all(plain) {
            problems.add(
                key(&format!("data_stream.{name}")),
                format!("`{part}` cannot be part of a data stream's name"),
                "1 to 100 of a-z, 0-9, `_`, `.`",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use sonde_daemon::config::{Problem, load};

    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        load::<Config>(text, "c.yaml", |_| None).err().unwrap_or_default()
    }

    #[test]
    fn defaults_and_the_contracts_example_are_valid() {
        assert_eq!(problems(""), []);
        let example = "
cluster: east
listen: {otlp_grpc: \"[::]:4317\", otlp_http: \":4318\", http: \"localhost:0\"}
tls: {cert_file: a, key_file: b, client_ca_file: c}
limits: {request: 64MiB, in_flight: 64MiB, connections: 1}
queue: {max_bytes: 10GiB, min_free: 0B}
sinks:
  - {name: store, type: store, retention: 7d, max_bytes: 20GiB}
  - name: es
    type: elasticsearch
    endpoints: [http://127.0.0.1:9200]
    layout: otel
    data_stream: {dataset: kubernetes.container_logs, namespace: default}
    username: \"\"
    password_file: \"\"
    api_key_file: \"\"
    tls: {ca_file: \"\"}
";
        assert_eq!(problems(example), []);
        assert_eq!(problems("{ack: delivered, sinks: [{name: a, required: true}]}"), []);
    }

    #[test]
    fn each_mistake_is_said() {
        for (text, path, what) in [
            ("listen: {http: nonsense}", "listen.http", "nonsense"),
            ("listen: {http: \"::1:80\"}", "listen.http", "::1:80"),
            ("listen: {http: \"127.0.0.1:99999\"}", "listen.http", "99999"),
            ("listen: {otlp_http: \"127.0.0.1:4317\"}", "listen.otlp_http", "taken"),
            ("tls: {cert_file: a}", "tls.key_file", "is empty"),
            ("tls: {client_ca_file: a}", "tls.client_ca_file", "certificate"),
            ("auth: {otlp: {kubernetes: {audience: x}}}", "auth.otlp.kubernetes", "not there yet"),
            ("ack: delivered", "ack", "there is none"),
            ("{ack: delivered, sinks: [{name: a}]}", "ack", "there is none"),
            (
                "sinks: [{name: a, type: elasticsearch, endpoints: [\"http://x\"], required: true, when_behind: skip}]",
                "sinks[0].when_behind",
                "cannot be skipped",
            ),
            ("limits: {request: 100MiB, in_flight: 10MiB}", "limits.in_flight", "less than"),
            // Rules between two keys say nothing of one whose other could not be read.
            ("limits: {request: big, in_flight: 10MiB}", "limits.request", "big"),
            ("listen: {otlp_grpc: [x], otlp_http: \"127.0.0.1:4317\"}", "listen.otlp_grpc", "a list"),
            ("tls: {cert_file: [x], key_file: k, client_ca_file: a}", "tls.cert_file", "a list"),
            ("limits: {request: 0}", "limits.request", "out of range"),
            ("limits: {request: 129MiB, in_flight: 1GiB}", "limits.request", "128MiB"),
            ("limits: {connections: 0}", "limits.connections", "0 would"),
            ("queue: {min_free: much}", "queue.min_free", "much"),
            ("queue: {min_free: 100%}", "queue.min_free", "100%"),
            ("sinks: [{name: a}, {name: b}]", "sinks[1].type", "second store"),
            ("sinks: [{name: \"../x\"}]", "sinks[0].name", "../x"),
            ("sinks: [{name: a, retention: 0s}]", "sinks[0].retention", "0s would"),
            ("sinks: [{name: a, type: elastic}]", "sinks[0].type", "store"),
            ("sinks: [{name: a, endpoints: [\"http://x\"]}]", "sinks[0].endpoints", "says nothing"),
            ("sinks: [{name: a, when_behind: skip}]", "sinks[0].when_behind", "never skipped"),
            ("sinks: [{name: a, max_lag_bytes: 20GiB}]", "sinks[0].max_lag_bytes", "more than"),
            ("sinks: [{name: a, type: elasticsearch}]", "sinks[0].endpoints", "is empty"),
            ("sinks: [{name: a, type: elasticsearch, endpoints: [x]}]", "sinks[0].endpoints[0]", "`x`"),
            (
                "sinks: [{name: a, type: elasticsearch, endpoints: [\"http://x\"], max_bytes: 1GiB}]",
                "sinks[0].max_bytes",
                "says nothing",
            ),
            (
                "sinks: [{name: a, type: elasticsearch, endpoints: [\"http://x\"], username: u}]",
                "sinks[0].password_file",
                "is empty",
            ),
            (
                "sinks: [{name: a, type: elasticsearch, endpoints: [\"http://x\"], token_file: t, api_key_file: k}]",
                "sinks[0].username",
                "several",
            ),
            (
                "sinks: [{name: a, type: elasticsearch, endpoints: [\"http://x\"], data_stream: {namespace: a-b}}]",
                "sinks[0].data_stream.namespace",
                "a-b",
            ),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((found[0].path.as_str(), found[0].line), (path, 1), "{text}: {found:?}");
            assert!(found[0].to_string().contains(what), "{text}: {found:?}");
        }
    }

    #[test]
    fn two_sinks_of_one_name_are_two_mistakes_where_both_are_stores() {
        let found = problems("sinks: [{name: a}, {name: a}]");
        let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["sinks[1].name", "sinks[1].type"]);
    }

    #[test]
    fn all_mistakes_of_a_file_are_said_each_with_its_line() {
        let text = "
listen:
  http: nonsense
limits:
  request: 100MiB
  in_flight: 10MiB
ack: delivered
queue:
  min_fre: 10%
sinks:
  - name: a
    retention: 0s
";
        let found: Vec<String> = problems(text).iter().map(ToString::to_string).collect();
        let starts = [
            "c.yaml:3: listen.http: ",
            "c.yaml:6: limits.in_flight: 10MiB is less",
            "c.yaml:7: ack: ",
            "c.yaml:9: queue.min_fre: ",
            "c.yaml:12: sinks[0].retention: ",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(line.starts_with(start), "{line:?} {start:?}");
        }
        assert!(found[3].contains("min_free"), "the nearest key is named: {found:?}");
    }
}
