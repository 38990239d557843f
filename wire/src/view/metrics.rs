//! Views of an `ExportMetricsServiceRequest` (`metrics.proto`).
//!
//! Of data points the numbers are read (gauges and sums); those of histograms and summaries are passed over, which
//! who needs them will add.

use super::{Attributes, Messages, text};
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

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The `Gauge` or `Sum`; empty of another kind.
    data: &'a [u8],
    /// All points, of whatever kind.
    points: &'a [u8],
}

impl<'a> MetricView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { name: "", data: &[], points: &[] };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(name)) => view.name = text(name),
                (5 | 7, Value::Len(data)) => (view.data, view.points) = (data, data),
                (9..=11, Value::Len(data)) => view.points = data,
                _ => {}
            }
        }
        view
    }

    /// Each point of a gauge or a sum.
    pub fn points(self) -> impl Iterator<Item = PointView<'a>> + Clone {
        Messages::new(self.data, 1).map(PointView::new)
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
}

impl<'a> PointView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { bytes, start_time_unix_nano: 0, time_unix_nano: 0, value: None };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(bits)) => view.value = Some(f64::from_bits(bits)),
                #[allow(clippy::cast_precision_loss)]
                (6, Value::Fixed64(bits)) => view.value = Some(bits.cast_signed() as f64),
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

/// The last occurrence of a field that is there once.
fn only(bytes: &[u8], field: u32) -> &[u8] {
    Messages::new(bytes, field).last().unwrap_or_default()
}

#[cfg(test)]
mod tests;
