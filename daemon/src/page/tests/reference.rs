//! What prometheus-client writes, beside what we write. It knows OpenMetrics only, so a family is shown to it as what comes out as
//! classic text: every row a gauge, and `unknown` for `untyped`.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeLabelValue, GaugeValueEncoder,
    LabelSetEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::super::{Buckets, Format, Kind, Sink, Value, text};

/// A row of the test: labels, and a value or the counts of a histogram's buckets.
type Row = (Vec<(String, String)>, Value, Vec<u64>);

#[derive(Clone, Debug)]
struct Family {
    name: String,
    help: String,
    kind: Kind,
    rows: Vec<Row>,
    format: Format,
}

struct Labels<'a>(&'a [(String, String)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (key, value) in self.0 {
            let mut label = encoder.encode_label();
            let mut name = label.encode_label_key()?;
            name.write_str(key)?;
            let mut text = name.encode_label_value()?;
            EncodeLabelValue::encode(&value.as_str(), &mut text)?;
            text.finish()?;
        }
        Ok(())
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::U64(value) => EncodeGaugeValue::encode(value, encoder),
            Self::I64(value) => EncodeGaugeValue::encode(value, encoder),
            Self::F64(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let open = self.format == Format::OpenMetrics;
        let short = self.name.strip_suffix("_total").filter(|_| open && self.kind == Kind::Counter);
        let kind = match self.kind {
            Kind::Counter if open && short.is_none() => MetricType::Unknown,
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Untyped => MetricType::Unknown,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        if open {
            help = help.replace('"', "\\\"");
        }
        let mut metric = encoder.encode_descriptor(short.unwrap_or(&self.name), &help, None, kind)?;
        for (labels, value, buckets) in &self.rows {
            let labels = Labels(labels);
            let mut row = metric.encode_family(&labels)?;
            match (self.kind, short, value) {
                (Kind::Histogram, ..) => {
                    let Buckets { sum, count, each } = histogram(*value, buckets);
                    row.encode_histogram::<NoLabelSet>(sum, count, &each, None)?;
                }
                (_, Some(_), Value::U64(value)) => row.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                (_, Some(_), Value::I64(value)) => {
                    row.encode_counter::<NoLabelSet, _, u64>(&u64::try_from(*value).unwrap_or(0), None)?;
                }
                (_, Some(_), Value::F64(value)) => row.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                (_, None, value) => row.encode_gauge(value)?,
            }
        }
        Ok(())
    }
}

fn histogram(value: Value, counts: &[u64]) -> Buckets {
    let ends = [0.1, 2.5, 1e9].into_iter().take(counts.len().saturating_sub(1)).chain([f64::INFINITY]);
    let each: Vec<_> = ends.zip(counts.iter().copied()).collect();
    let sum = if let Value::F64(sum) = value { sum } else { 0.5 };
    Buckets { sum, count: each.iter().map(|(_, count)| count).sum(), each }
}

fn theirs(families: &[Family], format: Format) -> String {
    let mut text = String::new();
    for family in families {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(family.clone()));
        encode_registry(&mut text, &registry).unwrap();
    }
    if format == Format::OpenMetrics {
        encode_eof(&mut text).unwrap();
        return text;
    }
    // A type of a name of our own, so nothing else can look like it.
    text.lines()
        .map(|line| match line.strip_suffix(" unknown").filter(|_| line.starts_with("# TYPE ")) {
            Some(line) => format!("{line} untyped\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

/// Of each row so many labels go in a set.
fn ours(families: &[Family], in_set: usize, format: Format) -> String {
    let (mut sink, mut later) = (Sink::default(), Sink::default());
    for (at, family) in families.iter().enumerate() {
        // Some of them come from elsewhere.
        let out = if at % 2 == 1 { &mut later } else { &mut sink };
        for (labels, value, buckets) in &family.rows {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
            if family.kind == Kind::Histogram {
                let Buckets { sum, each, .. } = histogram(*value, buckets);
                let mut rows = out.family(family.kind, family.name.clone(), family.help.clone());
                rows.histogram(labels, sum, &each);
            } else {
                let (set, own) = labels.split_at(in_set.min(labels.len()));
                let set = out.labels(set.iter().copied());
                let mut rows = out.family(family.kind, family.name.clone(), family.help.clone());
                rows.row_of(set, own.iter().copied(), *value);
            }
        }
        if at % 2 == 1 {
            sink.absorb(std::mem::take(&mut later));
        }
    }
    text::render(&sink, format)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        (0u32..1000).prop_map(|small| Value::F64(f64::from(small) / 100.0)),
    ]
}

fn families(format: Format) -> impl Strategy<Value = Vec<Family>> {
    let labels = prop::collection::vec(("[a-z_]{1,5}", "\\PC{0,6}|[\\\\\"\n]{1,3}"), 1..5);
    let rows = prop::collection::vec((labels, value(), prop::collection::vec(0u64..100, 1..4)), 1..4);
    let kind = prop::sample::select(vec![Kind::Counter, Kind::Gauge, Kind::Untyped, Kind::Histogram]);
    let family = ("[a-z]{1,4}(_total)?", "[ -~\n]{0,10}", kind, rows);
    prop::collection::vec(family, 1..5).prop_map(move |families| {
        // Each name once: their registry does not merge.
        let named = families.into_iter().enumerate();
        named
            .map(|(at, (name, help, kind, rows))| Family {
                name: format!("m{at}_{name}"),
                help,
                kind,
                rows,
                format,
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn pages_are_what_prometheus_client_writes(
        classic in families(Format::Classic),
        open in families(Format::OpenMetrics),
        in_set in 0usize..4,
    ) {
        prop_assert_eq!(ours(&classic, in_set, Format::Classic), theirs(&classic, Format::Classic));
        prop_assert_eq!(ours(&open, in_set, Format::OpenMetrics), theirs(&open, Format::OpenMetrics));
    }
}
