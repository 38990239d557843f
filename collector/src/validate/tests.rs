//! Every mistake is said, with its line.

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
  - {name: loki, type: loki, endpoint: \"http://127.0.0.1:3100\", tenant: \"\", label_names: otel}
  - {name: file, type: file, path: /var/log/records.ndjson, max_bytes: 1GiB, max_files: 3, compression: zstd}
  - {name: next, type: otlp, endpoint: \"http://127.0.0.1:14317\", protocol: grpc}
";
    assert_eq!(problems(example), []);
    assert_eq!(problems("{ack: delivered, sinks: [{name: a, required: true}]}"), []);
    let signals = "{queue: {metrics: {agents: true}}, sinks: [{name: a, type: otlp, endpoint: \"http://a\", signals: [metrics, traces]}]}";
    assert_eq!(problems(signals), []);
    let prometheus = "{queue: {metrics: {agents: true}}, sinks: [{name: a, type: prometheus, endpoint: \"http://a/x\", tenant: t, resource_labels: [k8s.pod.name]}]}";
    assert_eq!(problems(prometheus), []);
}

#[test]
fn what_stands_for_empty_keys_reads_back_and_means_the_same() {
    for text in [
        "",
        "{queue: {max_bytes: 6GiB}, sinks: [{name: f, type: file, path: /x, when_behind: skip}]}",
        "sinks: [{name: m, type: otlp, endpoint: \"http://a\", signals: [metrics], when_behind: skip}]",
        "sinks: [{name: b, type: otlp, endpoint: \"http://a\", signals: [logs, metrics, traces], when_behind: skip}]",
        "sinks: [{name: p, type: prometheus, endpoint: \"http://a\", resource_labels: [k8s.pod.name], when_behind: skip}]",
        "{queue: {max_bytes: 1GiB, metrics: {max_bytes: 4GiB}}, sinks: [{name: b, type: otlp, endpoint: \"http://a\", signals: [logs, metrics], when_behind: skip}]}",
        "{queue: {traces: {max_bytes: 4GiB}}, sinks: [{name: b, type: otlp, endpoint: \"http://a\", signals: [metrics, traces], when_behind: skip}]}",
    ] {
        let config: Config = load(text, "c.yaml", |_| None).unwrap();
        let mut filled: Config = load(text, "c.yaml", |_| None).unwrap();
        filled.fill();
        assert!(filled.has_sink_for(Signal::Logs), "{text}");
        let printed = sonde_daemon::config::print(&filled).unwrap();
        let again: Config =
            load(&printed, "c.yaml", |_| None).unwrap_or_else(|found| panic!("{text}: {found:?}"));
        assert_eq!(sonde_daemon::config::print(&again).unwrap(), printed);
        for (sink, then) in config.sinks.iter().zip(&again.sinks) {
            for signal in Signal::ALL.into_iter().filter(|signal| sink.takes(*signal)) {
                let limits =
                    (sink.skip_beyond(&config.queue, signal), then.skip_beyond(&again.queue, signal));
                assert_eq!(limits.0, limits.1, "{text}: {signal:?}");
            }
        }
    }
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
        (
            "auth: {otlp: {kubernetes: {service_accounts: [a/b]}}}",
            "auth.otlp.kubernetes.audience",
            "is empty",
        ),
        (
            "auth: {otlp: {kubernetes: {audience: x, service_accounts: [a]}}}",
            "auth.otlp.kubernetes.service_accounts[0]",
            "namespace/name",
        ),
        ("ack: delivered", "ack", "there is none"),
        ("queue: {metrics: {max_bytes: 1B}}", "queue.metrics.max_bytes", "too small"),
        ("queue: {traces: {max_bytes: 1B}}", "queue.traces.max_bytes", "too small"),
        ("queue: {metrics: {agents: true}}", "queue.metrics.agents", "no sink takes metrics"),
        ("sinks: [{name: a, signals: [logs]}]", "sinks[0].signals", "nothing to a sink of this type"),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://a\", signals: []}]",
            "sinks[0].signals",
            "is empty",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://a\", signals: [logs, logs]}]",
            "sinks[0].signals",
            "twice",
        ),
        ("sinks: [{name: a, type: prometheus}]", "sinks[0].endpoint", "is empty"),
        ("sinks: [{name: a, type: prometheus, endpoint: \"x\"}]", "sinks[0].endpoint", ""),
        (
            "sinks: [{name: a, type: prometheus, endpoint: \"http://a\", signals: [metrics]}]",
            "sinks[0].signals",
            "nothing to a sink of this type",
        ),
        (
            "sinks: [{name: a, type: prometheus, endpoint: \"http://a\", resource_labels: [\"\"]}]",
            "sinks[0].resource_labels[0]",
            "is empty",
        ),
        (
            "sinks: [{name: store, type: otlp, endpoint: \"http://a\", signals: [metrics]}]",
            "sinks[0].name",
            "the embedded store",
        ),
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
        ("sinks: [{name: a, type: otlp}]", "sinks[0].endpoint", "is empty"),
        ("sinks: [{name: a, type: otlp, endpoint: x}]", "sinks[0].endpoint", "`x`"),
        ("sinks: [{name: a, type: otlp, endpoint: \"http://x\", protocol: udp}]", "sinks[0].protocol", "udp"),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", compression: lz4}]",
            "sinks[0].compression",
            "lz4",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", retention: 1d}]",
            "sinks[0].retention",
            "says nothing",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", endpoints: [y]}]",
            "sinks[0].endpoints",
            "type otlp",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", headers: {te: x}}]",
            "sinks[0].headers.te",
            "by the collector",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", headers: {a: (not shown)}}]",
            "sinks[0].headers.a",
            "what `check` prints",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", headers: {a b: x}}]",
            "sinks[0].headers.a b",
            "name",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", token_file: t, headers: {Authorization: x}}]",
            "sinks[0].headers.Authorization",
            "token_file",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"http://x\", tls: {ca_file: c}}]",
            "sinks[0].tls",
            "http://",
        ),
        (
            "sinks: [{name: a, type: otlp, endpoint: \"https://x\", tls: {cert_file: c}}]",
            "sinks[0].tls.key_file",
            "missing",
        ),
        ("sinks: [{name: a, type: loki}]", "sinks[0].endpoint", "is empty"),
        ("sinks: [{name: a, type: loki, endpoint: \"ftp://x\"}]", "sinks[0].endpoint", "ftp"),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", label_names: own}]",
            "sinks[0].label_names",
            "own",
        ),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", tenant: \"a\\nb\"}]",
            "sinks[0].tenant",
            "is no tenant's name",
        ),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", username: u}]",
            "sinks[0].password_file",
            "is empty",
        ),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", tenant: t, headers: {X-Scope-OrgID: b}}]",
            "sinks[0].headers.X-Scope-OrgID",
            "set by tenant",
        ),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", protocol: http}]",
            "sinks[0].protocol",
            "type loki",
        ),
        (
            "sinks: [{name: a, type: loki, endpoint: \"http://x\", tls: {ca_file: c}}]",
            "sinks[0].tls",
            "http://",
        ),
        ("sinks: [{name: a, type: file}]", "sinks[0].path", "is empty"),
        ("sinks: [{name: a, type: file, path: x.ndjson}]", "sinks[0].path", "x.ndjson"),
        ("sinks: [{name: a, type: file, path: /x/}]", "sinks[0].path", "/x/"),
        ("{data_dir: /d, sinks: [{name: a, type: file, path: /d/x}]}", "sinks[0].path", "data_dir"),
        (
            "sinks: [{name: a, type: file, path: /x}, {name: b, type: file, path: /x}]",
            "sinks[1].path",
            "another sink",
        ),
        ("sinks: [{name: a, type: file, path: /x, compression: auto}]", "sinks[0].compression", "auto"),
        ("sinks: [{name: a, type: file, path: /x, max_age: 1s}]", "sinks[0].max_age", "short"),
        ("sinks: [{name: a, type: file, path: /x, max_files: 10001}]", "sinks[0].max_files", "many"),
        ("sinks: [{name: a, type: file, path: /x, max_bytes: 1KiB}]", "sinks[0].max_bytes", "small"),
        ("sinks: [{name: a, type: file, path: /x, tenant: a}]", "sinks[0].tenant", "type file"),
        (
            "sinks: [{name: a, type: file, path: /x, endpoint: \"http://x\"}]",
            "sinks[0].endpoint",
            "type file",
        ),
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
