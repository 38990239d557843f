//! From families to text; and which text, by the request's headers.
//!
//! The writer is our own: prometheus-client is written for OpenMetrics (a counter's sample always ends in `_total`, help is
//! not escaped, `untyped` does not exist), so classic text needs an adapter that turns every row into a gauge and renames types,
//! and takes three times as long a row. A test holds what is written here beside what prometheus-client writes
//! ([`super::tests`]).

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, header};

use super::{Buckets, Cell, Family, Format, Kind, Labels, Sink, Value};

/// Writes a page.
pub(super) fn render(sink: &Sink, format: Format) -> String {
    for name in &sink.refused {
        tracing::warn!(
            family = &**name,
            "a family of metrics was refused: its name is none, or it has two types"
        );
    }
    let mut writer = Writer { sets: Sets::of(sink), out: String::new(), format };
    writer.out.reserve(writer.sets.room(sink));
    for family in sink.families() {
        // A family without rows says nothing.
        if family.count() > 0 {
            writer.family(family);
        }
    }
    if format == Format::OpenMetrics {
        writer.out.push_str("# EOF\n");
    }
    writer.out
}

/// The sets of labels as they stand on the page, `a="1",b="2"`, one after another.
#[derive(Default)]
struct Sets {
    text: String,
    ends: Vec<usize>,
}

impl Sets {
    fn of(sink: &Sink) -> Self {
        let mut sets = Self::default();
        for set in sink.sets() {
            let begin = sets.text.len();
            for (key, value) in set {
                put_label(&mut sets.text, begin, key, value);
            }
            sets.ends.push(sets.text.len());
        }
        sets
    }

    fn get(&self, set: usize) -> &str {
        let begin = if set == 0 { 0 } else { self.ends.get(set - 1).copied().unwrap_or_default() };
        self.ends.get(set).and_then(|end| self.text.get(begin..*end)).unwrap_or_default()
    }

    /// About as many bytes as the page will have: pages are the largest buffers of all, and a buffer that is too small is
    /// copied, one that is much too large counts as memory.
    fn room(&self, sink: &Sink) -> usize {
        let mut room = 0;
        for family in sink.families() {
            let name = family.name().len();
            room += name * 2 + family.help().len() + 32;
            for (set, own, _) in family.parts() {
                room += name + set.map_or(0, |set| self.get(set).len()) + 24;
                room += own.map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
            }
        }
        room
    }
}

/// A page that is being written.
struct Writer {
    sets: Sets,
    out: String,
    format: Format,
}

impl Writer {
    fn family(&mut self, family: Family<'_>) {
        let (name, kind) = match (self.format, family.kind()) {
            (Format::OpenMetrics, Kind::Counter) => match family.name().strip_suffix("_total") {
                // The family goes without the suffix that its samples have.
                Some(short) => (short, "counter"),
                None => (family.name(), "unknown"),
            },
            (_, Kind::Counter) => (family.name(), "counter"),
            (_, Kind::Gauge) => (family.name(), "gauge"),
            (Format::OpenMetrics, Kind::Untyped) => (family.name(), "unknown"),
            (Format::Classic, Kind::Untyped) => (family.name(), "untyped"),
            (_, Kind::Histogram) => (family.name(), "histogram"),
        };
        self.put(["# HELP ", name, " "]);
        put_help(&mut self.out, family.help(), self.format);
        self.put(["\n# TYPE ", name, " "]);
        self.put([kind, "\n"]);
        // In OpenMetrics a counter is never negative.
        let counts = name.len() != family.name().len();
        for (set, own, cell) in family.parts() {
            match cell {
                Cell::Plain(value) => {
                    self.out.push_str(family.name());
                    self.labels(None, set, own);
                    self.value(if counts { unsigned(*value) } else { *value });
                }
                Cell::Buckets(buckets) => self.histogram(family.name(), set, &own, buckets),
            }
        }
    }

    fn histogram(&mut self, name: &str, set: Option<usize>, own: &Labels<'_>, buckets: &Buckets) {
        self.put([name, "_sum"]);
        self.labels(None, set, own.clone());
        self.value(Value::F64(buckets.sum));
        self.put([name, "_count"]);
        self.labels(None, set, own.clone());
        self.value(Value::U64(buckets.count));
        let mut so_far = 0;
        for (end, count) in &buckets.each {
            so_far += count;
            self.put([name, "_bucket"]);
            let mut number = dtoa::Buffer::new();
            let end = if *end == f64::INFINITY { "+Inf" } else { number.format(*end) };
            self.labels(Some(("le", end)), set, own.clone());
            self.value(Value::U64(so_far));
        }
    }

    fn put<const N: usize>(&mut self, pieces: [&str; N]) {
        for piece in pieces {
            self.out.push_str(piece);
        }
    }

    /// `{a="1",b="2"}`, or nothing.
    fn labels(&mut self, first: Option<(&str, &str)>, set: Option<usize>, own: Labels<'_>) {
        let brace = self.out.len();
        self.out.push('{');
        let begin = self.out.len();
        if let Some((key, value)) = first {
            put_label(&mut self.out, begin, key, value);
        }
        if let Some(set) = set.map(|set| self.sets.get(set)).filter(|set| !set.is_empty()) {
            if self.out.len() > begin {
                self.out.push(',');
            }
            self.out.push_str(set);
        }
        for (key, value) in own {
            put_label(&mut self.out, begin, key, value);
        }
        if self.out.len() == begin {
            self.out.truncate(brace);
        } else {
            self.out.push('}');
        }
    }

    fn value(&mut self, value: Value) {
        self.out.push(' ');
        match value {
            Value::U64(value) => self.out.push_str(itoa::Buffer::new().format(value)),
            Value::I64(value) => self.out.push_str(itoa::Buffer::new().format(value)),
            Value::F64(value) => self.out.push_str(dtoa::Buffer::new().format(value)),
        }
        self.out.push('\n');
    }
}

fn unsigned(value: Value) -> Value {
    match value {
        Value::I64(value) => Value::U64(u64::try_from(value).unwrap_or(0)),
        value => value,
    }
}

/// `key="value"`, after a comma where it is not the first since `begin`.
fn put_label(out: &mut String, begin: usize, key: &str, value: &str) {
    if out.len() > begin {
        out.push(',');
    }
    out.push_str(key);
    out.push_str("=\"");
    put_escaped(out, value, true);
    out.push('"');
}

/// Help is one line: `\` and newlines are escaped, and in OpenMetrics quotes too.
fn put_help(out: &mut String, help: &str, format: Format) {
    put_escaped(out, help, format == Format::OpenMetrics);
}

fn put_escaped(out: &mut String, text: &str, quotes: bool) {
    let mut rest = text;
    while let Some(at) =
        rest.bytes().position(|byte| matches!(byte, b'\\' | b'\n') || (byte == b'"' && quotes))
    {
        // One of three ASCII letters, so both cuts are between letters.
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        out.push_str(match from.as_bytes().first() {
            Some(b'\n') => "\\n",
            Some(b'"') => "\\\"",
            _ => "\\\\",
        });
        rest = from.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
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
