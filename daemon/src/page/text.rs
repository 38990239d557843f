//! From families to text, through prometheus-client; and which text, by the request's headers.
//!
//! prometheus-client is written for OpenMetrics: a counter's sample always ends in `_total`, help is not escaped,
//! and `untyped` does not exist. A value written as a gauge under a descriptor of any type comes out plain, so
//! classic text is always written that way; see `crates.md` of the project's notes for what was measured.

use std::fmt::{self, Write};
use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, GaugeValueEncoder, LabelSetEncoder, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::sink::{Cell, Family, Row};
use super::{Format, Kind, Sink, Value};

/// Writes a page.
pub(super) fn render(sink: Sink, format: Format) -> String {
    for name in &sink.refused {
        tracing::warn!(
            family = name,
            "a family of metrics was refused: its name is none, or it has two types"
        );
    }
    let size: usize = sink
        .families
        .iter()
        .map(|family| family.rows.len() * (family.name.len() + 24) + family.text.len() * 2 + 200)
        .sum();
    let mut out =
        Classic { text: String::with_capacity(size), in_type: false, rewrite: format == Format::Classic };
    // One by one, each let go when it is written: a node's containers are ten megabytes of rows.
    for family in sink.families {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Written { family, format }));
        // Writing to a String cannot fail, and the collector returns no error of its own.
        let _ = prometheus_client::encoding::text::encode_registry(&mut out, &registry);
    }
    if format == Format::OpenMetrics {
        let _ = prometheus_client::encoding::text::encode_eof(&mut out);
    }
    out.text
}

#[derive(Debug)]
struct Written {
    family: Family,
    format: Format,
}

impl Collector for Written {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // A family without rows says nothing.
        if self.family.rows.is_empty() { Ok(()) } else { self.family.encode(&mut encoder, self.format) }
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder, format: Format) -> fmt::Result {
        let (name, kind) = match (format, self.kind) {
            (Format::OpenMetrics, Kind::Counter) => match self.name.strip_suffix("_total") {
                // The family goes without the suffix that its samples have.
                Some(short) => (short, MetricType::Counter),
                None => (self.name.as_str(), MetricType::Unknown),
            },
            (_, Kind::Counter) => (self.name.as_str(), MetricType::Counter),
            (_, Kind::Gauge) => (self.name.as_str(), MetricType::Gauge),
            (_, Kind::Untyped) => (self.name.as_str(), MetricType::Unknown),
            (_, Kind::Histogram) => (self.name.as_str(), MetricType::Histogram),
        };
        let help = escape_help(&self.help, format);
        let mut metric = encoder.encode_descriptor(name, &help, None, kind)?;
        let suffixed = name.len() != self.name.len();
        for row in &self.rows {
            if row.labels == 0 {
                encode_cell(&mut metric, &row.cell, suffixed)?;
            } else {
                let labels = Labels { family: self, row };
                encode_cell(&mut metric.encode_family(&labels)?, &row.cell, suffixed)?;
            }
        }
        Ok(())
    }
}

fn encode_cell(metric: &mut MetricEncoder, cell: &Cell, suffixed: bool) -> fmt::Result {
    match cell {
        Cell::Plain(Value::U64(value)) if suffixed => {
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        Cell::Plain(Value::F64(value)) if suffixed => {
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        // A counter is never negative.
        Cell::Plain(Value::I64(value)) if suffixed => {
            metric.encode_counter::<NoLabelSet, _, u64>(&u64::try_from(*value).unwrap_or(0), None)
        }
        Cell::Plain(value) => metric.encode_gauge(value),
        Cell::Buckets(sum, count, buckets) => {
            metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder) -> fmt::Result {
        match self {
            Self::U64(value) => value.encode(encoder),
            Self::I64(value) => value.encode(encoder),
            Self::F64(value) => value.encode(encoder),
        }
    }
}

struct Labels<'a> {
    family: &'a Family,
    row: &'a Row,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        for (key, value) in self.family.labels(self.row) {
            let mut label = encoder.encode_label();
            let mut name = label.encode_label_key()?;
            name.write_str(key)?;
            let mut text = name.encode_label_value()?;
            text.write_str(value)?;
            text.finish()?;
        }
        Ok(())
    }
}

/// Help is one line: `\` and newlines are escaped, and in OpenMetrics quotes too.
fn escape_help(help: &str, format: Format) -> String {
    let escaped = help.replace('\\', "\\\\").replace('\n', "\\n");
    if format == Format::OpenMetrics { escaped.replace('"', "\\\"") } else { escaped }
}

/// Collects the text, and writes the type `unknown` in its classic spelling, `untyped`.
struct Classic {
    text: String,
    in_type: bool,
    rewrite: bool,
}

impl Write for Classic {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.in_type {
            if piece == "\n" {
                self.in_type = false;
            } else if piece == "unknown" {
                self.text.push_str("untyped");
                return Ok(());
            }
        } else if self.rewrite && piece == "# TYPE " {
            self.in_type = true;
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// The format that a request asks for and the page allows.
pub(super) fn format(request: &HeaderMap, openmetrics: bool) -> Format {
    let best = |kind: &str| {
        let asked = request.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = asked.flat_map(|list| list.split(','));
        ranges
            .filter(|range| range.split(';').next().is_some_and(|media| media.trim() == kind))
            .map(quality)
            .max()
    };
    let open = best("application/openmetrics-text").unwrap_or(0);
    let plain = best("text/plain").or_else(|| best("text/*")).or_else(|| best("*/*")).unwrap_or(0);
    if openmetrics && open > 0 && open >= plain { Format::OpenMetrics } else { Format::Classic }
}

/// Compresses the page where the request allows it. A page is written once and read once: the fastest level.
pub(super) fn encode(text: String, request: &HeaderMap) -> (Bytes, bool) {
    let asked = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let gzip = asked.flat_map(|list| list.split(',')).any(|range| {
        let coding = range.split(';').next().unwrap_or_default().trim();
        (coding.eq_ignore_ascii_case("gzip") || coding == "*") && quality(range) > 0
    });
    if !gzip {
        return (text.into(), false);
    }
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(text.len() / 8), flate2::Compression::fast());
    // Writing to a Vec cannot fail; if it did, the plain page is as good.
    match encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
        Ok(bytes) => (bytes.into(), true),
        Err(_) => (text.into(), false),
    }
}

/// The `q` of a range in thousandths; 1 where there is none, 0 where it cannot be read.
fn quality(range: &str) -> u32 {
    let Some(text) = range.split(';').skip(1).find_map(|part| part.trim().strip_prefix("q=")) else {
        return 1000;
    };
    let value: f64 = text.trim().parse().unwrap_or(0.0);
    // Clamped to 0..=1000 first; NaN becomes 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let thousandths = (value.clamp(0.0, 1.0) * 1000.0) as u32;
    thousandths
}
