//! A data point as the series of Prometheus that it is, each encoded as a `TimeSeries` (prometheus `prompb/types.proto`)
//! with one sample. Pure.
//!
//! | OTLP | series |
//! |---|---|
//! | gauge, cumulative sum | one; a sum that only grows ends in `_total` |
//! | cumulative histogram | `_bucket` with `le`, `_count`, and `_sum` where there is one |
//! | summary | one for each quantile, `_count`, `_sum` |
//! | point without a value (`NO_RECORDED_VALUE`) | the same, with the stale marker |
//! | exponential histogram, anything of delta temporality, more series than [`MOST_BYTES`] | none: left out |

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use sonde_wire::attrs::keys;
use sonde_wire::proto::{put_bytes, put_uint};
use sonde_wire::view::{
    AnyValueView, Attributes, CUMULATIVE, HistogramView, MetricKind, MetricView, NO_RECORDED_VALUE,
    PointView, SummaryView,
};

use super::names::{self, Ending};
use crate::json::{self, Nested};

/// What Prometheus takes for "there is no such series any more" (`model/value`, `StaleNaN`), and for any other NaN
/// (`NormalNaN`).
const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;
const NORMAL_NAN: u64 = 0x7ff8_0000_0000_0001;
const NAME: &str = "__name__";
const SERVICE_NAMESPACE: &str = "service.namespace";
const SERVICE_INSTANCE: &str = "service.instance.id";
/// How far a point may be ahead of its arrival: one that is far ahead makes Prometheus refuse all that comes after it.
pub const FUTURE_NANOS: u64 = 300 * 1_000_000_000;

/// Bytes that the series of one point may be, about: a few bytes of OTLP may say a million buckets, each of which repeats all labels.
pub const MOST_BYTES: usize = 4 << 20;
/// Of each series beside its labels' text: their lengths, the bound, the sample.
const OVERHEAD: usize = 64;

/// Why a point has no series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is a difference, or does not say what it is.
    Temporality,
    /// An exponential histogram.
    ExponentialHistogram,
    /// Its stamp is too far ahead.
    Future,
    /// Its series are more than [`MOST_BYTES`].
    TooLarge,
    /// It has no stamp, no value, no name, or buckets that do not fit their bounds.
    Malformed,
}

impl LeftOut {
    /// As metrics say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Temporality => "temporality",
            Self::ExponentialHistogram => "exponential_histogram",
            Self::Future => "future",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}

/// Labels by name; a `BTreeMap` sorts them, as receivers want them.
pub type Labels = BTreeMap<String, String>;

/// One series with one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its `TimeSeries`.
    pub bytes: Vec<u8>,
    /// Tells its labels from those of others.
    pub identity: u64,
}

/// What the points of one resource have in common.
pub struct Resource {
    /// `job`, `instance`, and what the configuration names.
    labels: Labels,
    /// The others, for `target_info`.
    info: Option<Labels>,
}

impl Resource {
    /// Of a resource's attributes; `selected` are labels of every series.
    pub fn new(attributes: Attributes<'_>, selected: &[String]) -> Self {
        let text = |key: &str| {
            let value = attributes.clone().get(key)?;
            Some(value_text(&value)).filter(|text| !text.is_empty())
        };
        let mut labels = Labels::new();
        let service = text(keys::SERVICE_NAME);
        let job = match (text(SERVICE_NAMESPACE), service) {
            (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
            (_, name) => name,
        };
        labels.extend(job.map(|job| ("job".to_owned(), job)));
        labels.extend(text(SERVICE_INSTANCE).map(|instance| ("instance".to_owned(), instance)));
        let identified = !labels.is_empty();
        let own = [keys::SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_INSTANCE];
        let mut info = labels.clone();
        add(&mut info, attributes.clone().filter(|(key, _)| !own.contains(key)));
        let info = (identified && info.len() > labels.len()).then_some(info);
        add(&mut labels, attributes.filter(|(key, _)| selected.iter().any(|one| one == key)));
        Self { labels, info }
    }

    /// `target_info` of this resource at a time, if there is more to say than the labels do.
    pub fn target_info(&self, hash: &RandomState, time_ms: i64) -> Option<Series> {
        let mut labels = self.info.clone()?;
        labels.insert(NAME.to_owned(), "target_info".to_owned());
        Some(series(hash, &labels, 1.0, time_ms))
    }
}

/// The series of a point, as bytes of what `metric` says that it is, that arrived at `received` (Unix nanoseconds), and its
/// time in Unix milliseconds.
///
/// # Errors
/// Why it has none.
pub fn of_point(
    hash: &RandomState,
    resource: &Resource,
    metric: &MetricView<'_>,
    point: &[u8],
    received: u64,
) -> Result<(Vec<Series>, i64), LeftOut> {
    let has_temporality = matches!(metric.kind, MetricKind::Sum | MetricKind::Histogram);
    if metric.kind == MetricKind::ExponentialHistogram {
        return Err(LeftOut::ExponentialHistogram);
    }
    if has_temporality && metric.temporality != CUMULATIVE {
        return Err(LeftOut::Temporality);
    }
    let ending = match metric.kind {
        MetricKind::Sum if metric.monotonic => Ending::Total,
        MetricKind::Gauge => Ending::Gauge,
        _ => Ending::None,
    };
    let name = names::metric(metric.name, metric.unit, ending);
    let mut out = Writer { hash, name: &name, base: resource.labels.clone(), time_ms: 0, series: Vec::new() };
    match metric.kind {
        MetricKind::Gauge | MetricKind::Sum => out.number(&PointView::new(point), received)?,
        MetricKind::Histogram => out.histogram(&HistogramView::new(point), received)?,
        MetricKind::Summary => out.summary(&SummaryView::new(point), received)?,
        MetricKind::ExponentialHistogram | MetricKind::Unknown => return Err(LeftOut::Malformed),
    }
    Ok((out.series, out.time_ms))
}

struct Writer<'a> {
    hash: &'a RandomState,
    name: &'a str,
    /// Labels of the resource, and then of the point.
    base: Labels,
    time_ms: i64,
    series: Vec<Series>,
}

impl Writer<'_> {
    fn begin(&mut self, nanos: u64, received: u64, attributes: Attributes<'_>) -> Result<(), LeftOut> {
        if nanos == 0 || self.name.is_empty() {
            return Err(LeftOut::Malformed);
        }
        if nanos > received.saturating_add(FUTURE_NANOS) {
            return Err(LeftOut::Future);
        }
        self.time_ms = i64::try_from(nanos / 1_000_000).map_err(|_| LeftOut::Future)?;
        let mut own = Labels::new();
        add(&mut own, attributes);
        // What identifies the target stays; a point's attribute says more than one that was selected of its resource.
        own.retain(|name, _| !(matches!(name.as_str(), "job" | "instance") && self.base.contains_key(name)));
        self.base.extend(own);
        self.base.remove(NAME);
        Ok(())
    }

    /// Whether so many series of the point are not too much.
    fn fits(&self, series: usize) -> Result<(), LeftOut> {
        let labels: usize = self.base.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let each = labels + self.name.len() + OVERHEAD;
        if each.saturating_mul(series) > MOST_BYTES { Err(LeftOut::TooLarge) } else { Ok(()) }
    }

    fn put(&mut self, suffix: &str, label: Option<(&str, String)>, value: f64) {
        let mut labels = self.base.clone();
        labels.insert(NAME.to_owned(), format!("{}{suffix}", self.name));
        labels.extend(label.map(|(name, value)| (name.to_owned(), value)));
        self.series.push(series(self.hash, &labels, value, self.time_ms));
    }

    fn number(&mut self, point: &PointView<'_>, received: u64) -> Result<(), LeftOut> {
        self.begin(point.time_unix_nano, received, point.attributes())?;
        let value = if is_stale(point.flags) { Some(stale()) } else { point.value };
        self.put("", None, value.ok_or(LeftOut::Malformed)?);
        Ok(())
    }

    fn histogram(&mut self, point: &HistogramView<'_>, received: u64) -> Result<(), LeftOut> {
        self.begin(point.time_unix_nano, received, point.attributes())?;
        let (counts, bounds) = (&point.bucket_counts, &point.explicit_bounds);
        let fits = counts.is_empty() && bounds.is_empty() || counts.len() == bounds.len() + 1;
        let ascending =
            bounds.windows(2).all(|two| two[0] < two[1]) && !bounds.iter().any(|bound| bound.is_nan());
        if !fits || !ascending {
            return Err(LeftOut::Malformed);
        }
        self.fits(bounds.len() + 3)?;
        let of = |value: f64| if is_stale(point.flags) { stale() } else { value };
        let mut below = 0_u64;
        for (bound, count) in bounds.iter().zip(counts) {
            below = below.saturating_add(*count);
            // An end of +Inf among the bounds is the last bucket's.
            if bound.is_finite() {
                self.put("_bucket", Some(("le", bound.to_string())), of(float(below)));
            }
        }
        self.put("_bucket", Some(("le", "+Inf".to_owned())), of(float(point.count)));
        if let Some(sum) = point.sum {
            self.put("_sum", None, of(sum));
        }
        self.put("_count", None, of(float(point.count)));
        Ok(())
    }

    fn summary(&mut self, point: &SummaryView<'_>, received: u64) -> Result<(), LeftOut> {
        self.begin(point.time_unix_nano, received, point.attributes())?;
        self.fits(point.quantiles.len() + 2)?;
        let of = |value: f64| if is_stale(point.flags) { stale() } else { value };
        let mut seen = HashSet::new();
        for (quantile, value) in &point.quantiles {
            let text = quantile.to_string();
            if seen.insert(text.clone()) {
                self.put("", Some(("quantile", text)), of(*value));
            }
        }
        self.put("_sum", None, of(point.sum));
        self.put("_count", None, of(float(point.count)));
        Ok(())
    }
}

fn is_stale(flags: u32) -> bool {
    flags & NO_RECORDED_VALUE != 0
}

fn stale() -> f64 {
    f64::from_bits(STALE_NAN)
}

#[allow(clippy::cast_precision_loss, reason = "a sample is a double")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Adds attributes as labels. Of two that get one name the values are joined, in the order of the keys; what is empty is no
/// label.
fn add<'a>(labels: &mut Labels, attributes: impl Iterator<Item = (&'a str, AnyValueView<'a>)>) {
    let mut sorted: Vec<(&str, String)> = attributes.map(|(key, value)| (key, value_text(&value))).collect();
    sorted.sort_by_key(|(key, _)| *key);
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in sorted {
        let name = names::label(key);
        if !name.is_empty() && !value.is_empty() {
            named.entry(name).or_default().push(value);
        }
    }
    for (name, values) in named {
        labels.entry(name).or_insert_with(|| values.join(";"));
    }
}

/// A value as text: a string as it is, anything else as JSON; what JSON has as a string without its quotes.
fn value_text(value: &AnyValueView<'_>) -> String {
    let text = json::value_text(value, Nested::Plain);
    let bare = if matches!(value, AnyValueView::Str(_)) { None } else { text.strip_prefix('"') };
    bare.and_then(|text| text.strip_suffix('"')).map(str::to_owned).unwrap_or(text)
}

/// A `TimeSeries`.
fn series(hash: &RandomState, labels: &Labels, value: f64, time_ms: i64) -> Series {
    let (mut bytes, mut label) = (Vec::new(), Vec::new());
    for (name, value) in labels {
        label.clear();
        put_bytes(&mut label, 1, name.as_bytes());
        put_bytes(&mut label, 2, value.as_bytes());
        put_bytes(&mut bytes, 1, &label);
    }
    let mut hasher = hash.build_hasher();
    hasher.write(&bytes);
    let identity = hasher.finish();
    let bits = if value.is_nan() && value.to_bits() != STALE_NAN { NORMAL_NAN } else { value.to_bits() };
    let mut sample = vec![1 << 3 | 1];
    sample.extend_from_slice(&bits.to_le_bytes());
    put_uint(&mut sample, 2, time_ms.cast_unsigned());
    put_bytes(&mut bytes, 2, &sample);
    Series { bytes, identity }
}

#[cfg(test)]
mod tests;
