//! The walk that decides whether a request may be read.

use super::shape::{Message, Shape, shape};
use super::{Summary, ViewError};
use crate::limits::ViewLimits;
use crate::proto::{Reader, Value};

/// A message that is being read.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    message: Message,
    /// A field that may be there once has been there.
    once: bool,
    /// `AnyValue`s around and including this message.
    depth: u8,
    reader: Reader<'a>,
}

/// Request, ResourceMetrics, ScopeMetrics, Metric, Gauge, NumberDataPoint, Exemplar, KeyValue (logs have fewer), then
/// KeyValueList, KeyValue and AnyValue a level.
const FRAMES: usize = 8 + 3 * (ViewLimits::MAX_DEPTH as usize + 1);

struct Walk<'l> {
    limits: &'l ViewLimits,
    max_depth: u8,
    summary: Summary,
    groups: u32,
    metrics: u32,
    values: u32,
}

pub(super) fn check(message: Message, bytes: &[u8], limits: &ViewLimits) -> Result<Summary, ViewError> {
    let max_depth = limits.depth.min(ViewLimits::MAX_DEPTH);
    let mut walk = Walk { limits, max_depth, summary: Summary::default(), groups: 0, metrics: 0, values: 0 };
    let root = Frame { message, once: false, depth: 0, reader: Reader::new(bytes) };
    let mut outer = [root; FRAMES];
    let mut outer_len = 0;
    let mut frame = root;
    loop {
        let (field, value) = match frame.reader.field() {
            Ok(Some(field)) => field,
            Ok(None) if outer_len == 0 => return Ok(walk.summary),
            Ok(None) => {
                outer_len -= 1;
                frame = outer[outer_len];
                continue;
            }
            Err(error) => return Err(ViewError::Proto { message: frame.message.name(), error }),
        };
        let Some(inner) = walk.field(&mut frame, field, value)? else { continue };
        // A frame with nothing left to read needs no place to come back to.
        if frame.reader.remaining() > 0 {
            *outer.get_mut(outer_len).ok_or(ViewError::TooDeep(max_depth))? = frame;
            outer_len += 1;
        }
        frame = inner;
    }
}

impl Walk<'_> {
    /// Checks one field; a message to walk into is returned.
    #[inline]
    fn field<'a>(
        &mut self,
        frame: &mut Frame<'a>,
        field: u32,
        value: Value<'a>,
    ) -> Result<Option<Frame<'a>>, ViewError> {
        let message = frame.message;
        let shape = shape(message, field);
        if matches!(shape, Shape::Once(_)) || (message == Message::AnyValue && shape != Shape::Unknown) {
            // One such field a message, but for the oneof of AnyValue, whose fields exclude each other.
            if frame.once {
                return Err(ViewError::Twice { message: message.name(), field });
            }
            frame.once = true;
        }
        match (shape, value) {
            (Shape::Unknown, _)
            | (Shape::Varint, Value::Varint(_))
            | (Shape::Fixed64, Value::Fixed64(_))
            | (Shape::Fixed32, Value::Fixed32(_))
            | (Shape::Packed64, Value::Fixed64(_))
            | (Shape::PackedVarint, Value::Varint(_))
            | (Shape::Bytes, Value::Len(_)) => Ok(None),
            (Shape::Packed64, Value::Len(bytes)) if bytes.len().is_multiple_of(8) => Ok(None),
            (Shape::PackedVarint, Value::Len(bytes)) if are_varints(bytes) => Ok(None),
            (Shape::Str, Value::Len(bytes)) if is_utf8(bytes) => Ok(None),
            (Shape::Str, Value::Len(_)) => Err(ViewError::Utf8 { message: message.name(), field }),
            (Shape::Many(inner) | Shape::Once(inner), Value::Len(bytes)) => {
                let depth = self.enter(frame, inner)?;
                let plain = match inner {
                    Message::AnyValue => is_string(bytes),
                    Message::KeyValue => depth < self.max_depth && is_string_pair(bytes),
                    _ => false,
                };
                Ok((!plain).then_some(Frame {
                    message: inner,
                    once: false,
                    depth,
                    reader: Reader::new(bytes),
                }))
            }
            _ => Err(ViewError::WireType { message: message.name(), field }),
        }
    }

    /// Counts a message that is walked into, and returns its depth.
    #[inline]
    fn enter(&mut self, outer: &Frame<'_>, inner: Message) -> Result<u8, ViewError> {
        let mut depth = outer.depth;
        match inner {
            Message::ResourceLogs | Message::ResourceMetrics | Message::ResourceSpans => {
                self.summary.resources += 1;
                count(&mut self.groups, self.limits.groups, "resources and scopes")?;
            }
            Message::ScopeLogs | Message::ScopeMetrics | Message::ScopeSpans => {
                count(&mut self.groups, self.limits.groups, "resources and scopes")?
            }
            Message::LogRecord => {
                count(&mut self.summary.records, self.limits.records, "records")?;
                self.values = 0;
            }
            Message::Span => {
                count(&mut self.summary.records, self.limits.records, "spans")?;
                self.values = 0;
            }
            Message::Metric => {
                // A metric without a point costs its reader something too.
                count(&mut self.metrics, self.limits.records, "metrics")?;
                self.values = 0;
            }
            Message::NumberDataPoint
            | Message::HistogramDataPoint
            | Message::ExponentialHistogramDataPoint
            | Message::SummaryDataPoint => {
                count(&mut self.summary.records, self.limits.records, "data points")?;
                self.values = 0;
            }
            Message::Resource | Message::Scope => self.values = 0,
            Message::KeyValue
            | Message::EntityRef
            | Message::Exemplar
            | Message::Buckets
            | Message::ValueAtQuantile
            | Message::Event
            | Message::Link => self.value()?,
            Message::AnyValue => {
                if outer.message == Message::ArrayValue {
                    self.value()?;
                }
                depth += 1;
                if depth > self.max_depth {
                    return Err(ViewError::TooDeep(self.max_depth));
                }
            }
            Message::Request
            | Message::MetricsRequest
            | Message::TraceRequest
            | Message::Status
            | Message::Gauge
            | Message::Sum
            | Message::Histogram
            | Message::ExponentialHistogram
            | Message::Summary
            | Message::ArrayValue
            | Message::KeyValueList => {}
        }
        Ok(depth)
    }

    fn value(&mut self) -> Result<(), ViewError> {
        count(&mut self.values, self.limits.values, "values in one record, point, span, resource or scope")
    }
}

#[inline]
fn count(counter: &mut u32, limit: u32, what: &'static str) -> Result<(), ViewError> {
    if *counter >= limit {
        return Err(ViewError::TooMany { what, limit });
    }
    *counter += 1;
    Ok(())
}

// Nearly all values are strings. These see them at a glance; what they do not know is walked, and judged
// there.

/// A KeyValue of a key and then a string, and nothing else.
#[inline]
fn is_string_pair(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    matches!(reader.field(), Ok(Some((1, Value::Len(key)))) if is_utf8(key))
        && matches!(reader.field(), Ok(Some((2, Value::Len(value)))) if reader.remaining() == 0 && is_string(value))
}

/// An AnyValue of a string and nothing else.
#[inline]
fn is_string(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    matches!(reader.field(), Ok(Some((1, Value::Len(text)))) if reader.remaining() == 0 && is_utf8(text))
}

/// Varints and nothing else, each of 64 bits at most.
fn are_varints(mut bytes: &[u8]) -> bool {
    while let Some(end) = bytes.iter().take(10).position(|byte| *byte < 0x80) {
        if end == 9 && bytes[9] > 1 {
            return false;
        }
        bytes = &bytes[end + 1..];
    }
    bytes.is_empty()
}

/// Logs are mostly ASCII, which is told faster.
#[inline]
fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}
