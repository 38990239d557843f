//! Writing an `ExportMetricsServiceRequest`: resources with one scope each, metric after metric, point after point
//! (`opentelemetry/proto/metrics/v1/metrics.proto`).
//!
//! Nothing is kept but the bytes. Lengths that are not known at the beginning of a message are five bytes wide and
//! patched at its end ([`proto::padded`](crate::proto::padded)); those of attributes are known before.

use crate::attrs::{AttrSet, put_string_pair};
use crate::proto::{FIXED64, LEN, PADDED, VARINT, key, padded, put_bytes, put_uint, put_varint};

// Field numbers of metrics.proto and of what it holds.
const RESOURCE_METRICS: u8 = 1;
const RESOURCE: u8 = 1;
const SCOPE_METRICS: u8 = 2;
const SCOPE: u8 = 1;
const SCOPE_NAME: u8 = 1;
const SCOPE_VERSION: u8 = 2;
const METRICS: u8 = 2;
const NAME: u8 = 1;
const DESCRIPTION: u8 = 2;
const UNIT: u8 = 3;
const GAUGE: u8 = 5;
const SUM: u8 = 7;
const HISTOGRAM: u8 = 9;
const DATA_POINTS: u8 = 1;
const TEMPORALITY: u8 = 2;
const IS_MONOTONIC: u8 = 3;
const CUMULATIVE: u64 = 2;
const START: u8 = 2;
const TIME: u8 = 3;
const AS_DOUBLE: u8 = 4;
const AS_INT: u8 = 6;
const POINT_ATTRIBUTES: u8 = 7;
const COUNT: u8 = 4;
const SUM_OF: u8 = 5;
const BUCKET_COUNTS: u8 = 6;
const BOUNDS: u8 = 7;
const HISTOGRAM_ATTRIBUTES: u8 = 9;

/// What a metric's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Goes up and down.
    Gauge,
    /// A sum since its start that only grows (cumulative, monotonic).
    Sum,
    /// A sum that goes up and down (cumulative, not monotonic), so that it may be added up over its attributes.
    UpDown,
    /// Counts in buckets since their start (cumulative); its points come from [`Metric::histogram`].
    Histogram,
}

/// A number as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Whole.
    Int(i64),
    /// Not.
    Double(f64),
}

/// When a point's sum began and when it was read, Unix nanoseconds; 0 = not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Begin of a sum; 0 for a gauge.
    pub start: u64,
    /// When it was read.
    pub time: u64,
}

/// Writes one request.
#[derive(Debug)]
pub struct MetricsEncoder {
    bytes: Vec<u8>,
    resource_at: usize,
    scope_at: usize,
    points: u64,
}

impl MetricsEncoder {
    /// A request of one resource, said by one scope. Takes `bytes` over, for their room.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>, resource: &AttrSet, scope: &str, version: &str) -> Self {
        bytes.clear();
        let (resource_at, scope_at) = begin_resource(&mut bytes, resource, scope, version);
        Self { bytes, resource_at, scope_at, points: 0 }
    }

    /// Ends the resource before, and begins another one, said by one scope.
    pub fn resource(&mut self, resource: &AttrSet, scope: &str, version: &str) {
        end(&mut self.bytes, self.scope_at);
        end(&mut self.bytes, self.resource_at);
        (self.resource_at, self.scope_at) = begin_resource(&mut self.bytes, resource, scope, version);
    }

    /// The next metric, of a name that says its unit; its points are added to what is returned.
    pub fn metric(&mut self, name: &str, description: &str, shape: Shape) -> Metric<'_> {
        self.metric_in(name, description, "", shape)
    }

    /// The next metric with its unit in UCUM; its points are added to what is returned.
    pub fn metric_in(&mut self, name: &str, description: &str, unit: &str, shape: Shape) -> Metric<'_> {
        let bytes = &mut self.bytes;
        let metric_at = begin(bytes, METRICS);
        put_bytes(bytes, NAME, name.as_bytes());
        if !description.is_empty() {
            put_bytes(bytes, DESCRIPTION, description.as_bytes());
        }
        if !unit.is_empty() {
            put_bytes(bytes, UNIT, unit.as_bytes());
        }
        let data_at = begin(
            bytes,
            match shape {
                Shape::Gauge => GAUGE,
                Shape::Sum | Shape::UpDown => SUM,
                Shape::Histogram => HISTOGRAM,
            },
        );
        if shape != Shape::Gauge {
            put_uint(bytes, TEMPORALITY, CUMULATIVE);
        }
        if shape == Shape::Sum {
            put_uint(bytes, IS_MONOTONIC, 1);
        }
        Metric { encoder: self, shape, metric_at, data_at }
    }

    /// Points so far.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.points
    }

    /// The request's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        end(&mut self.bytes, self.scope_at);
        end(&mut self.bytes, self.resource_at);
        self.bytes
    }
}

/// A metric that takes points. It ends when it is dropped.
#[derive(Debug)]
pub struct Metric<'e> {
    encoder: &'e mut MetricsEncoder,
    shape: Shape,
    metric_at: usize,
    data_at: usize,
}

impl Metric<'_> {
    /// Adds a number. Of a histogram nothing is written. Attributes with an empty value are left out: everywhere in
    /// Prometheus an empty label is none.
    pub fn point<'l>(
        &mut self,
        attributes: impl IntoIterator<Item = (&'l str, &'l str)>,
        span: Span,
        value: Number,
    ) {
        if self.shape == Shape::Histogram {
            return;
        }
        let bytes = &mut self.encoder.bytes;
        let at = begin(bytes, DATA_POINTS);
        put_attributes(bytes, POINT_ATTRIBUTES, attributes);
        put_span(bytes, span);
        match value {
            Number::Int(value) => put_fixed64(bytes, AS_INT, value.cast_unsigned()),
            Number::Double(value) => put_fixed64(bytes, AS_DOUBLE, value.to_bits()),
        }
        end(bytes, at);
        self.encoder.points += 1;
    }

    /// Adds a histogram: its sum, and for each bucket the upper end and the count in that bucket alone; the last
    /// bucket's end is infinity and not written. Of another shape nothing is written.
    pub fn histogram<'l>(
        &mut self,
        attributes: impl IntoIterator<Item = (&'l str, &'l str)>,
        span: Span,
        sum: f64,
        buckets: &[(f64, u64)],
    ) {
        if self.shape != Shape::Histogram {
            return;
        }
        let bytes = &mut self.encoder.bytes;
        let at = begin(bytes, DATA_POINTS);
        put_attributes(bytes, HISTOGRAM_ATTRIBUTES, attributes);
        put_span(bytes, span);
        put_fixed64(bytes, COUNT, buckets.iter().map(|(_, count)| count).sum());
        put_fixed64(bytes, SUM_OF, sum.to_bits());
        put_packed(bytes, BUCKET_COUNTS, buckets.iter().map(|(_, count)| *count));
        let bounds = buckets.len().saturating_sub(1);
        put_packed(bytes, BOUNDS, buckets.iter().take(bounds).map(|(end, _)| end.to_bits()));
        end(bytes, at);
        self.encoder.points += 1;
    }
}

impl Drop for Metric<'_> {
    fn drop(&mut self) {
        end(&mut self.encoder.bytes, self.data_at);
        end(&mut self.encoder.bytes, self.metric_at);
    }
}

fn put_attributes<'l>(
    bytes: &mut Vec<u8>,
    field: u8,
    attributes: impl IntoIterator<Item = (&'l str, &'l str)>,
) {
    for (name, value) in attributes.into_iter().filter(|(_, value)| !value.is_empty()) {
        put_string_pair(bytes, field, name, value);
    }
}

fn put_span(bytes: &mut Vec<u8>, span: Span) {
    if span.start > 0 {
        put_fixed64(bytes, START, span.start);
    }
    put_fixed64(bytes, TIME, span.time);
}

fn put_fixed64(bytes: &mut Vec<u8>, field: u8, value: u64) {
    bytes.push(key(field, FIXED64));
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_packed(bytes: &mut Vec<u8>, field: u8, values: impl ExactSizeIterator<Item = u64>) {
    bytes.push(key(field, LEN));
    put_varint(bytes, values.len() as u64 * 8);
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
}

/// Begins a resource and its scope; returns where they lie.
fn begin_resource(bytes: &mut Vec<u8>, resource: &AttrSet, scope: &str, version: &str) -> (usize, usize) {
    let resource_at = begin(bytes, RESOURCE_METRICS);
    put_bytes(bytes, RESOURCE, resource.bytes());
    let scope_at = begin(bytes, SCOPE_METRICS);
    let own = begin(bytes, SCOPE);
    put_bytes(bytes, SCOPE_NAME, scope.as_bytes());
    put_bytes(bytes, SCOPE_VERSION, version.as_bytes());
    end(bytes, own);
    (resource_at, scope_at)
}

/// Begins a message of unknown length; returns where it lies.
fn begin(bytes: &mut Vec<u8>, field: u8) -> usize {
    bytes.push(key(field, LEN));
    bytes.extend_from_slice(&padded(0));
    bytes.len()
}

/// Ends the message that begins at `at`.
fn end(bytes: &mut [u8], at: usize) {
    let length = padded(bytes.len() - at);
    if let Some(place) = bytes.get_mut(at - PADDED..at) {
        place.copy_from_slice(&length);
    }
}

const _: () = assert!(key(IS_MONOTONIC, VARINT) == 0x18);

#[cfg(test)]
mod tests;
