//! What the sinks of a configuration must be.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue, header};
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::otlp;
use sonde_daemon::config::{HIDDEN, Problems};
use sonde_daemon::units::Size;

use crate::config::{Compression, Config, Signal, Sink, SinkKind, WhenBehind};
use crate::sinks::{elasticsearch, loki, prometheus};

/// All sinks.
pub fn validate(config: &Config, problems: &mut Problems) {
    let mut names = HashSet::new();
    for (number, sink) in config.sinks.iter().enumerate() {
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
        let largest = Signal::ALL.into_iter().filter(|signal| sink.takes(*signal));
        let largest = largest.map(|signal| config.queue.max_bytes_of(signal)).max().unwrap_or(u64::MAX);
        if sink.max_lag_bytes.is_some_and(|bytes| bytes.0 > largest) {
            problems.add(key("max_lag_bytes"), "is more than the queue holds", "at most queue.max_bytes");
        }
        if sink.required && sink.when_behind == WhenBehind::Skip {
            problems.add(key("when_behind"), "a sink that is `required` cannot be skipped", "`hold`");
        }
        validate_keys(sink, &key, problems);
        match sink.kind {
            SinkKind::Store => {}
            SinkKind::Elasticsearch => validate_elasticsearch(sink, &key, problems),
            SinkKind::Otlp => validate_otlp(sink, &key, problems),
            SinkKind::Loki => validate_loki(sink, &key, problems),
            SinkKind::File => validate_file(config, number, &key, problems),
            SinkKind::Prometheus => validate_prometheus(sink, &key, problems),
        }
    }
    let implied = !config.sinks.is_empty() && !config.has_sink_for(Signal::Logs);
    if let Some(number) = config.sinks.iter().position(|sink| implied && sink.name == "store") {
        let what = "`store` is the name of the embedded store, which is there since no sink takes logs";
        problems.add(format!("sinks[{number}].name"), what, "another name");
    }
    let second = config.sinks.iter().enumerate().filter(|(_, sink)| sink.kind == SinkKind::Store).nth(1);
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

/// Keys that say nothing to a sink of this type.
fn validate_keys(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    use SinkKind::{Elasticsearch, File, Loki, Otlp, Prometheus, Store};
    let keys: [(&str, bool, &[SinkKind]); 22] = [
        ("retention", sink.retention.is_some(), &[Store, Elasticsearch]),
        ("max_bytes", sink.max_bytes.is_some(), &[Store, File]),
        ("path", sink.path.is_some(), &[File]),
        ("max_age", sink.max_age.is_some(), &[File]),
        ("max_files", sink.max_files.is_some(), &[File]),
        ("tenant", sink.tenant.is_some(), &[Loki, Prometheus]),
        ("label_names", sink.label_names.is_some(), &[Loki]),
        ("endpoint", sink.endpoint.is_some(), &[Otlp, Loki, Prometheus]),
        ("protocol", sink.protocol.is_some(), &[Otlp]),
        ("compression", sink.compression.is_some(), &[Otlp, File]),
        ("signals", sink.signals.is_some(), &[Otlp]),
        ("resource_labels", sink.resource_labels.is_some(), &[Prometheus]),
        ("headers", sink.headers.is_some(), &[Otlp, Loki, Prometheus]),
        ("endpoints", sink.endpoints.is_some(), &[Elasticsearch]),
        ("layout", sink.layout.is_some(), &[Elasticsearch]),
        ("data_stream", sink.data_stream.is_some(), &[Elasticsearch]),
        ("templates", sink.templates.is_some(), &[Elasticsearch]),
        ("username", sink.username.is_some(), &[Elasticsearch, Loki, Prometheus]),
        ("password_file", sink.password_file.is_some(), &[Elasticsearch, Loki, Prometheus]),
        ("api_key_file", sink.api_key_file.is_some(), &[Elasticsearch]),
        ("token_file", sink.token_file.is_some(), &[Elasticsearch, Otlp, Loki, Prometheus]),
        ("tls", sink.tls.is_some(), &[Elasticsearch, Otlp, Loki, Prometheus]),
    ];
    for (name, given, kinds) in keys {
        if given && !kinds.contains(&sink.kind) {
            let expected = format!("only keys of type {}", sink.kind.name());
            problems.add(key(name), "says nothing to a sink of this type", expected);
        }
    }
    let skips = sink.when_behind != WhenBehind::Hold;
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
    validate_login(sink, key, problems);
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

fn validate_otlp(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let protocol = sink.protocol.unwrap_or_default();
    match sink.endpoint.as_deref().unwrap_or_default() {
        "" => problems.add(key("endpoint"), "is empty", "a URL such as `http://127.0.0.1:14317`"),
        url => match protocol.endpoint(url) {
            Ok(endpoint) => validate_tls(sink, !endpoint.tls, key, problems),
            Err(error) => problems.add(key("endpoint"), error.to_string(), ""),
        },
    }
    if let Some(signals) = &sink.signals {
        let mut others = signals.clone();
        others.sort_unstable();
        others.dedup();
        if signals.is_empty() {
            problems.add(key("signals"), "is empty", "some of logs, metrics, traces");
        } else if others.len() < signals.len() {
            problems.add(key("signals"), "names one twice", "each of logs, metrics, traces once");
        }
    }
    validate_headers(sink, key, problems);
}

fn validate_headers(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let set = [
        (header::AUTHORIZATION.as_str(), "token_file", given(&sink.token_file)),
        (header::AUTHORIZATION.as_str(), "username", given(&sink.username)),
        ("x-scope-orgid", "tenant", given(&sink.tenant)),
    ];
    for (name, value) in sink.headers.iter().flat_map(|headers| headers.iter()) {
        let path = key(&format!("headers.{name}"));
        let Ok(parsed) = name.to_ascii_lowercase().parse::<HeaderName>() else {
            problems.add(path, "is not a header's name", "letters, digits and `-`");
            continue;
        };
        if otlp::OWN_HEADERS.contains(&parsed.as_str()) {
            problems.add(path, "is set by the collector itself", "another header");
        } else if let Some((_, other, _)) = set.iter().find(|(name, _, given)| parsed == *name && *given) {
            let others = key(other);
            problems.add_between(path, &[others.as_str()], format!("is set by {other}"), "one of the two");
        } else if value == HIDDEN {
            problems.add(path, "has no value, but what `check` prints for one", "the header's value");
        } else if HeaderValue::from_str(value).is_err() {
            problems.add(path, "has a value that cannot be a header's", "printable ASCII");
        }
    }
}

/// `plain` = the endpoint is http.
fn validate_tls(sink: &Sink, plain: bool, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let tls = sink.tls.clone().unwrap_or_default();
    let set = [&tls.ca_file, &tls.cert_file, &tls.key_file, &tls.server_name];
    if plain && (tls.insecure_skip_verify || set.iter().any(|text| !text.is_empty())) {
        let others = key("endpoint");
        let what = "is set, but the endpoint is http://";
        problems.add_between(key("tls"), &[others.as_str()], what, "an https:// endpoint");
    }
    if tls.cert_file.is_empty() != tls.key_file.is_empty() {
        let missing = if tls.cert_file.is_empty() { "tls.cert_file" } else { "tls.key_file" };
        problems.add(key(missing), "is missing", "cert_file and key_file together");
    }
}

/// One way to log in, and whole.
fn validate_login(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
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
}

fn validate_loki(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    match sink.endpoint.as_deref().unwrap_or_default() {
        "" => problems.add(key("endpoint"), "is empty", "a URL such as `http://127.0.0.1:3100`"),
        url => match loki::endpoint(url) {
            Ok(endpoint) => validate_tls(sink, !endpoint.tls, key, problems),
            Err(error) => problems.add(key("endpoint"), error.to_string(), ""),
        },
    }
    validate_tenant(sink, key, problems);
    validate_login(sink, key, problems);
    validate_headers(sink, key, problems);
}

fn validate_prometheus(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    match sink.endpoint.as_deref().unwrap_or_default() {
        "" => problems.add(key("endpoint"), "is empty", "a URL such as `http://127.0.0.1:9090`"),
        url => match prometheus::endpoint(url) {
            Ok(endpoint) => validate_tls(sink, !endpoint.tls, key, problems),
            Err(error) => problems.add(key("endpoint"), error.to_string(), ""),
        },
    }
    for (number, name) in sink.resource_labels.iter().flatten().enumerate() {
        if name.is_empty() {
            let key = key(&format!("resource_labels[{number}]"));
            problems.add(key, "is empty", "the name of an attribute, as `k8s.pod.name`");
        }
    }
    validate_tenant(sink, key, problems);
    validate_login(sink, key, problems);
    validate_headers(sink, key, problems);
}

/// The rule of Loki and Mimir (dskit `tenant.ValidTenantID`), which would refuse every push for another.
fn validate_tenant(sink: &Sink, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let is_tenant = |tenant: &String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()".contains(&byte);
        tenant.bytes().all(plain) && tenant.len() <= 150 && tenant != "." && tenant != ".."
    };
    if sink.tenant.as_ref().is_some_and(|tenant| !is_tenant(tenant)) {
        problems.add(key("tenant"), "is no tenant's name", "at most 150 letters, digits and !-_.*'()");
    }
}

fn validate_file(config: &Config, number: usize, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let Some(sink) = config.sinks.get(number) else { return };
    let path = sink.path.clone().unwrap_or_default();
    if path.as_os_str().is_empty() {
        problems.add(key("path"), "is empty", "a file such as `/var/log/sonde/records.ndjson`");
    } else if !path.is_absolute() || path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
        let what = format!("`{}` is not the whole path of a file", path.display());
        problems.add(key("path"), what, "one such as `/var/log/sonde/records.ndjson`");
    } else if path.starts_with(&config.data_dir) {
        let what = format!("`{}` is inside data_dir", path.display());
        problems.add_between(key("path"), &["data_dir"], what, "another place");
    } else if let Some(other) = config.sinks[..number].iter().position(|other| other.path == sink.path) {
        let others = format!("sinks[{other}].path");
        problems.add_between(
            key("path"),
            &[others.as_str()],
            "is the file of another sink",
            "files that differ",
        );
    }
    if sink.compression == Some(Compression::Auto) {
        problems.add(key("compression"), "`auto` says nothing of a file", "none, gzip or zstd");
    }
    if sink.max_age.is_some_and(|age| age.0.as_secs() < 60) {
        problems.add(key("max_age"), "is too short", "at least 60s");
    }
    if sink.max_files.is_some_and(|files| files > 10_000) {
        problems.add(key("max_files"), "is too many", "at most 10000");
    }
}
