//! Names and labels by the rules of Prometheus' own OTLP endpoint (prometheus `storage/remote/otlptranslator/prometheus`,
//! `BuildCompliantMetricName` and `NormalizeLabel`; OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility").
//! Pure.

/// Units as they end a metric's name.
const UNITS: [(&str, &str); 29] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("kBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
    ("KB", "kilobytes"),
    ("MB", "megabytes"),
];
/// Units behind a `/`.
const PER: [(&str, &str); 7] = [
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// What a metric is, as far as its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A sum that only grows: `_total`.
    Total,
    /// A gauge: `_ratio` where its unit is 1.
    Gauge,
    /// Anything else.
    None,
}

/// A metric's name; empty where nothing of it can be in one.
pub fn metric(name: &str, unit: &str, ending: Ending) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut tokens: Vec<String> =
        name.split(|c| !is_part(c)).filter(|token| !token.is_empty()).map(str::to_owned).collect();
    let (main, per) = units(unit);
    let main = Some(main).filter(|main| !main.is_empty() && !tokens.contains(main));
    let per = Some(per).filter(|per| !per.is_empty() && !tokens.contains(per));
    tokens.extend(main);
    if let Some(per) = per {
        tokens.extend(["per".to_owned(), per]);
    }
    let end = match ending {
        Ending::Total => Some("total"),
        Ending::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(end) = end {
        tokens.retain(|token| token != end);
        tokens.push(end.to_owned());
    }
    let name = tokens.join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// What a unit adds to a name: its own, and that of what it is for.
fn units(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let known = |text: &str, table: &[(&str, &str)]| {
        let text = text.trim();
        if text.contains(['{', '}']) {
            return String::new();
        }
        let found = table.iter().find(|(unit, _)| *unit == text).map_or(text, |(_, name)| *name);
        let parts = found.split(|c: char| !c.is_ascii_alphanumeric() && c != ':');
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
    };
    (known(main, &UNITS), known(per, &PER))
}

/// A label's name; empty where there is none.
pub fn label(key: &str) -> String {
    let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    match name.as_bytes() {
        [first, ..] if first.is_ascii_digit() => format!("key_{name}"),
        [b'_', second, ..] if *second != b'_' => format!("key{name}"),
        [b'_'] => "key_".to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the tests of Prometheus' own translator.
    #[test]
    fn metrics_are_called_as_prometheus_calls_them() {
        for (name, unit, ending, wanted) in [
            ("system.io", "By", Ending::Total, "system_io_bytes_total"),
            ("system.network.io", "By", Ending::Total, "system_network_io_bytes_total"),
            (
                "active_directory.ds.replication.network.io",
                "By",
                Ending::Total,
                "active_directory_ds_replication_network_io_bytes_total",
            ),
            ("http.server.duration", "ms", Ending::None, "http_server_duration_milliseconds"),
            ("broken.metric", "1", Ending::Gauge, "broken_metric_ratio"),
            ("errors", "1", Ending::Total, "errors_total"),
            ("errors.total", "{error}", Ending::Total, "errors_total"),
            ("queue.size.bytes", "By", Ending::Gauge, "queue_size_bytes"),
            ("speed", "m/s", Ending::Gauge, "speed_meters_per_second"),
            ("astro.light.speed_limit", "m/s", Ending::Gauge, "astro_light_speed_limit_meters_per_second"),
            ("unsupported.metric.temperature", "°F", Ending::Gauge, "unsupported_metric_temperature_F"),
            (
                "unsupported.metric.redundant",
                "__test $/°C",
                Ending::Gauge,
                "unsupported_metric_redundant_test_per_C",
            ),
            ("packets", "{packets}/s", Ending::Gauge, "packets_per_second"),
            ("cpu_utilization", "%", Ending::Gauge, "cpu_utilization_percent"),
            ("3g.users", "", Ending::None, "_3g_users"),
            ("a:b", "", Ending::None, "a:b"),
            ("node_cpu_seconds_total", "", Ending::Total, "node_cpu_seconds_total"),
            ("ünï.cödé", "", Ending::None, "n_c_d"),
            ("", "s", Ending::None, "seconds"),
            ("...", "", Ending::None, ""),
        ] {
            assert_eq!(metric(name, unit, ending), wanted, "{name} {unit}");
        }
    }

    #[test]
    fn labels_are_called_as_prometheus_calls_them() {
        for (key, wanted) in [
            ("http.method", "http_method"),
            ("2xx", "key_2xx"),
            ("_private", "key_private"),
            ("__name__", "__name__"),
            ("ü", "key_"),
            ("", ""),
        ] {
            assert_eq!(label(key), wanted, "{key}");
        }
    }
}
