//! Views of an `ExportMetricsServiceRequest` (`metrics.proto`).
//!
//! Of data points those of gauges, sums, histograms and summaries are read; of exponential histograms only that they are
//! there.

use super::{Attributes, Messages, low32, text};
use crate::proto::{Reader, Value};

/// A request that was checked.
#[derive(Clone, Copy, Debug)]
pub struct MetricsRequest<'a> {
    bytes: &'a [u8],
}

impl<'a> MetricsRequest<'a> {
    /// Of bytes that passed [`check_metrics`](super::check_metrics) before. Of others the iterators end early or
    /// yield empty values; they never panic.
    #[must_use]
    pub const fn trusted(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Each `ResourceMetrics`.
    pub fn resources(self) -> impl Iterator<Item = ResourceMetricsView<'a>> + Clone {
        Messages::new(self.bytes, 1).map(|bytes| ResourceMetricsView { bytes })
    }
}

/// One `ResourceMetrics`.
#[derive(Clone, Copy, Debug)]
pub struct ResourceMetricsView<'a> {
    bytes: &'a [u8],
}

impl<'a> ResourceMetricsView<'a> {
    /// The resource's attributes.
    #[must_use]
    pub fn attributes(self) -> Attributes<'a> {
        Attributes::new(only(self.bytes, 1), 1)
    }

    /// Each `ScopeMetrics`.
    pub fn scopes(self) -> impl Iterator<Item = ScopeMetricsView<'a>> + Clone {
        Messages::new(self.bytes, 2).map(|bytes| ScopeMetricsView { bytes })
    }
}

/// One `ScopeMetrics`.
#[derive(Clone, Copy, Debug)]
pub struct ScopeMetricsView<'a> {
    bytes: &'a [u8],
}

impl<'a> ScopeMetricsView<'a> {
    /// The scope's name.
    #[must_use]
    pub fn name(self) -> &'a str {
        text(only(only(self.bytes, 1), 1))
    }

    /// Each metric.
    pub fn metrics(self) -> impl Iterator<Item = MetricView<'a>> + Clone {
        Messages::new(self.bytes, 2).map(MetricView::new)
    }
}

/// What a metric's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// None of those below.
    Unknown,
    /// `Gauge`.
    Gauge,
    /// `Sum`.
    Sum,
    /// `Histogram`.
    Histogram,
    /// `ExponentialHistogram`.
    ExponentialHistogram,
    /// `Summary`.
    Summary,
}

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
pub const CUMULATIVE: u64 = 2;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its unit, as UCUM writes it.
    pub unit: &'a str,
    /// What its points are.
    pub kind: MetricKind,
    /// `aggregation_temporality` of a sum or a histogram; see [`CUMULATIVE`].
    pub temporality: u64,
    /// `is_monotonic` of a sum.
    pub monotonic: bool,
    /// The `Gauge` or `Sum`; empty of another kind.
    data: &'a [u8],
    /// All points, of whatever kind.
    points: &'a [u8],
}

impl<'a> MetricView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self {
            name: "",
            unit: "",
            kind: MetricKind::Unknown,
            temporality: 0,
            monotonic: false,
            data: &[],
            points: &[],
        };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(name)) => view.name = text(name),
                (3, Value::Len(unit)) => view.unit = text(unit),
                (5 | 7, Value::Len(data)) => {
                    (view.data, view.points) = (data, data);
                    view.kind = if field == 5 { MetricKind::Gauge } else { MetricKind::Sum };
                }
                (9, Value::Len(data)) => (view.points, view.kind) = (data, MetricKind::Histogram),
                (10, Value::Len(data)) => (view.points, view.kind) = (data, MetricKind::ExponentialHistogram),
                (11, Value::Len(data)) => (view.points, view.kind) = (data, MetricKind::Summary),
                _ => {}
            }
        }
        if matches!(view.kind, MetricKind::Sum | MetricKind::Histogram | MetricKind::ExponentialHistogram) {
            view.how();
        }
        view
    }

    /// How points are to be added up.
    fn how(&mut self) {
        let mut reader = Reader::new(self.points);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (2, Value::Varint(temporality)) => self.temporality = temporality,
                (3, Value::Varint(monotonic)) if self.kind == MetricKind::Sum => {
                    self.monotonic = monotonic != 0
                }
                _ => {}
            }
        }
    }

    /// Each point of a gauge or a sum.
    pub fn points(self) -> impl Iterator<Item = PointView<'a>> + Clone {
        Messages::new(self.data, 1).map(PointView::new)
    }

    /// The bytes of each point of any kind, for the view that is the kind's.
    pub fn every_point(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        Messages::new(self.points, 1)
    }

    /// Points of any kind.
    #[must_use]
    pub fn count(self) -> u64 {
        Messages::new(self.points, 1).map(|_| 1).sum()
    }
}

/// One `NumberDataPoint`.
#[derive(Clone, Copy, Debug)]
pub struct PointView<'a> {
    bytes: &'a [u8],
    /// Begin of a sum, Unix nanoseconds; 0 = not known.
    pub start_time_unix_nano: u64,
    /// When it was read, Unix nanoseconds; 0 = not known.
    pub time_unix_nano: u64,
    /// The value; integers are rounded to 53 bits. `None`: there is none.
    pub value: Option<f64>,
    /// `DataPointFlags`; see [`NO_RECORDED_VALUE`].
    pub flags: u32,
}

/// Of `DataPointFlags`: there is no value where there was one before.
pub const NO_RECORDED_VALUE: u32 = 1;

impl<'a> PointView<'a> {
    /// Of a `NumberDataPoint`'s bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { bytes, start_time_unix_nano: 0, time_unix_nano: 0, value: None, flags: 0 };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(bits)) => view.value = Some(f64::from_bits(bits)),
                #[allow(clippy::cast_precision_loss)]
                (6, Value::Fixed64(bits)) => view.value = Some(bits.cast_signed() as f64),
                (8, Value::Varint(flags)) => view.flags = low32(flags),
                _ => {}
            }
        }
        view
    }

    /// Its attributes.
    #[must_use]
    pub const fn attributes(self) -> Attributes<'a> {
        Attributes::new(self.bytes, 7)
    }
}

/// One `HistogramDataPoint`.
#[derive(Clone, Debug)]
pub struct HistogramView<'a> {
    bytes: &'a [u8],
    /// When it was read, Unix nanoseconds; 0 = not known.
    pub time_unix_nano: u64,
    /// Values in it.
    pub count: u64,
    /// Their sum.
    pub sum: Option<f64>,
    /// Values in each bucket; none, or one more than there are bounds.
    pub bucket_counts: Vec<u64>,
    /// Upper ends of all buckets but the last.
    pub explicit_bounds: Vec<f64>,
    /// `DataPointFlags`; see [`NO_RECORDED_VALUE`].
    pub flags: u32,
}

impl<'a> HistogramView<'a> {
    /// Of a `HistogramDataPoint`'s bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self {
            bytes,
            time_unix_nano: 0,
            count: 0,
            sum: None,
            bucket_counts: Vec::new(),
            explicit_bounds: Vec::new(),
            flags: 0,
        };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(count)) => view.count = count,
                (5, Value::Fixed64(bits)) => view.sum = Some(f64::from_bits(bits)),
                (6, value) => view.bucket_counts.extend(words(value)),
                (7, value) => view.explicit_bounds.extend(words(value).map(f64::from_bits)),
                (10, Value::Varint(flags)) => view.flags = low32(flags),
                _ => {}
            }
        }
        view
    }

    /// Its attributes.
    #[must_use]
    pub const fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes, 9)
    }
}

/// One `SummaryDataPoint`.
#[derive(Clone, Debug)]
pub struct SummaryView<'a> {
    bytes: &'a [u8],
    /// When it was read, Unix nanoseconds; 0 = not known.
    pub time_unix_nano: u64,
    /// Values in it.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Quantile, 0 to 1, and its value.
    pub quantiles: Vec<(f64, f64)>,
    /// `DataPointFlags`; see [`NO_RECORDED_VALUE`].
    pub flags: u32,
}

impl<'a> SummaryView<'a> {
    /// Of a `SummaryDataPoint`'s bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { bytes, time_unix_nano: 0, count: 0, sum: 0.0, quantiles: Vec::new(), flags: 0 };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(count)) => view.count = count,
                (5, Value::Fixed64(bits)) => view.sum = f64::from_bits(bits),
                (6, Value::Len(quantile)) => view.quantiles.push(quantile_of(quantile)),
                (8, Value::Varint(flags)) => view.flags = low32(flags),
                _ => {}
            }
        }
        view
    }

    /// Its attributes.
    #[must_use]
    pub const fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes, 7)
    }
}

/// A `ValueAtQuantile`.
fn quantile_of(bytes: &[u8]) -> (f64, f64) {
    let (mut quantile, mut of) = (0.0, 0.0);
    let mut reader = Reader::new(bytes);
    while let Ok(Some((field, value))) = reader.field() {
        match (field, value) {
            (1, Value::Fixed64(bits)) => quantile = f64::from_bits(bits),
            (2, Value::Fixed64(bits)) => of = f64::from_bits(bits),
            _ => {}
        }
    }
    (quantile, of)
}

/// Numbers of eight bytes, packed or one by one.
fn words(value: Value<'_>) -> impl Iterator<Item = u64> {
    let (one, packed) = match value {
        Value::Fixed64(bits) => (Some(bits), &[][..]),
        Value::Len(bytes) => (None, bytes),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(packed.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)))
}

/// The last occurrence of a field that is there once.
fn only(bytes: &[u8], field: u32) -> &[u8] {
    Messages::new(bytes, field).last().unwrap_or_default()
}

#[cfg(test)]
mod tests;
