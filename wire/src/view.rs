//! Reading an `ExportLogsServiceRequest`, an `ExportMetricsServiceRequest` or an `ExportTraceServiceRequest` where it
//! lies, without copying it.
//!
//! [`check`] walks the whole message once and refuses what is malformed or beyond the limits; what has passed
//! can be iterated without errors. It is iterative and needs a fixed amount of stack whatever the bytes are.
//!
//! How strict it is, beside prost (tests hold it to that: what passes here, prost decodes):
//! - Strings must be UTF-8, as proto3 demands ("Scalar Value Types"), so that all behind the check can rely
//!   on it and the next hop does not refuse it. A sender that forwards strings unchecked (the OpenTelemetry
//!   Collector's pdata 1.66 does) is refused when one is broken.
//! - Unknown fields are passed over, unknown enum numbers kept. Field numbers, wire types of known fields,
//!   varints and lengths are checked as prost does, those of `EntityRef` too, which has no view here.
//! - Stricter: groups are refused (OTLP has none). So is a message field or a value of an `AnyValue` that is
//!   there twice where one may be: protobuf would merge them, no encoder writes them, and two readers could
//!   see two different records. Depth and counts are limited.
//! - As in protobuf, of a scalar or string that is there twice the last counts.

use crate::limits::ViewLimits;
use crate::proto::{Reader, Value};
use crate::uid::RecordUid;
use crate::{attrs::keys, proto::ProtoError};

mod check;
mod metrics;
mod shape;
mod value;

pub use metrics::{
    CUMULATIVE, HistogramView, MetricKind, MetricView, MetricsRequest, NO_RECORDED_VALUE, PointView,
    ResourceMetricsView, ScopeMetricsView, SummaryView,
};
pub use value::{AnyValueView, Attributes, Values};

/// What a request holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Log records, data points, or spans.
    pub records: u32,
    /// `ResourceLogs`, `ResourceMetrics`, or `ResourceSpans`.
    pub resources: u32,
}

/// Why a request is refused; the sender gets INVALID_ARGUMENT or 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Not protobuf.
    #[error("{message}: {error}")]
    Proto {
        /// In which message.
        message: &'static str,
        /// What is wrong.
        error: ProtoError,
    },
    /// A known field has the wire type of another.
    #[error("{message}: field {field} has the wrong wire type")]
    WireType {
        /// In which message.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// A string is not UTF-8.
    #[error("{message}: field {field} is not UTF-8")]
    Utf8 {
        /// In which message.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// A field is there twice that may be there once.
    #[error("{message}: field {field} is there twice")]
    Twice {
        /// In which message.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// A count is beyond its limit.
    #[error("more than {limit} {what}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u32,
    },
    /// An `AnyValue` is nested beyond the limit.
    #[error("a value is nested deeper than {0}")]
    TooDeep(u8),
}

/// Checks the whole of a request for logs.
pub fn check(bytes: &[u8], limits: &ViewLimits) -> Result<Summary, ViewError> {
    check::check(shape::Message::Request, bytes, limits)
}

/// Checks the whole of an `ExportMetricsServiceRequest`. Its points count as records.
pub fn check_metrics(bytes: &[u8], limits: &ViewLimits) -> Result<Summary, ViewError> {
    check::check(shape::Message::MetricsRequest, bytes, limits)
}

/// Checks the whole of an `ExportTraceServiceRequest`. Its spans count as records.
pub fn check_traces(bytes: &[u8], limits: &ViewLimits) -> Result<Summary, ViewError> {
    check::check(shape::Message::TraceRequest, bytes, limits)
}

/// A request that was checked.
#[derive(Clone, Copy, Debug)]
pub struct LogsRequest<'a> {
    bytes: &'a [u8],
}

impl<'a> LogsRequest<'a> {
    /// Of bytes that are checked here.
    pub fn check(bytes: &'a [u8], limits: &ViewLimits) -> Result<(Self, Summary), ViewError> {
        let summary = check(bytes, limits)?;
        Ok((Self { bytes }, summary))
    }

    /// Of bytes that passed [`check`] before, such as those of a queue. Of others the iterators end early or
    /// yield empty values; they never panic.
    #[must_use]
    pub const fn trusted(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// One `ScopeLogs` of such a request, by its bytes.
    #[must_use]
    pub(crate) fn scope(bytes: &'a [u8]) -> ScopeView<'a> {
        ScopeView::new(bytes)
    }

    /// Each `ResourceLogs`.
    pub fn resources(self) -> impl Iterator<Item = ResourceView<'a>> + Clone {
        Messages::new(self.bytes, 1).map(ResourceView::new)
    }
}

/// One `ResourceLogs`.
#[derive(Clone, Copy, Debug)]
pub struct ResourceView<'a> {
    bytes: &'a [u8],
    resource: &'a [u8],
    /// Its schema URL.
    pub schema_url: &'a str,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
}

impl<'a> ResourceView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self { bytes, resource: &[], schema_url: "", dropped_attributes_count: 0 };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(resource)) => view.resource = resource,
                (3, Value::Len(url)) => view.schema_url = text(url),
                _ => {}
            }
        }
        let mut reader = Reader::new(view.resource);
        while let Ok(Some(field)) = reader.field() {
            if let (2, Value::Varint(count)) = field {
                view.dropped_attributes_count = low32(count);
            }
        }
        view
    }

    /// The bytes of its `Resource`: equal bytes, equal resource.
    #[must_use]
    pub const fn resource_bytes(self) -> &'a [u8] {
        self.resource
    }

    /// The resource's attributes.
    #[must_use]
    pub const fn attributes(self) -> Attributes<'a> {
        Attributes::new(self.resource, 1)
    }

    /// Each `ScopeLogs`.
    pub fn scopes(self) -> impl Iterator<Item = ScopeView<'a>> + Clone {
        Messages::new(self.bytes, 2).map(ScopeView::new)
    }
}

/// One `ScopeLogs`.
#[derive(Clone, Copy, Debug)]
pub struct ScopeView<'a> {
    bytes: &'a [u8],
    scope: &'a [u8],
    /// The scope's name.
    pub name: &'a str,
    /// The scope's version.
    pub version: &'a str,
    /// Attributes of the scope that the sender left out.
    pub dropped_attributes_count: u32,
    /// Schema URL of scope and records.
    pub schema_url: &'a str,
}

impl<'a> ScopeView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view =
            Self { bytes, scope: &[], name: "", version: "", dropped_attributes_count: 0, schema_url: "" };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(scope)) => view.scope = scope,
                (3, Value::Len(url)) => view.schema_url = text(url),
                _ => {}
            }
        }
        let mut reader = Reader::new(view.scope);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(name)) => view.name = text(name),
                (2, Value::Len(version)) => view.version = text(version),
                (4, Value::Varint(count)) => view.dropped_attributes_count = low32(count),
                _ => {}
            }
        }
        view
    }

    /// The scope's attributes.
    #[must_use]
    pub const fn attributes(self) -> Attributes<'a> {
        Attributes::new(self.scope, 3)
    }

    /// Each record.
    pub fn records(self) -> impl Iterator<Item = RecordView<'a>> + Clone {
        Messages::new(self.bytes, 2).map(RecordView::new)
    }
}

/// One `LogRecord`.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    bytes: &'a [u8],
    /// Unix nanoseconds, 0 = unknown.
    pub time_unix_nano: u64,
    /// Unix nanoseconds, 0 = unknown.
    pub observed_time_unix_nano: u64,
    /// 1 to 24, 0 = unset; a sender may write anything.
    pub severity_number: i32,
    /// The level as the source wrote it.
    pub severity_text: &'a str,
    /// The body.
    pub body: AnyValueView<'a>,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
    /// W3C trace flags in the low eight bits.
    pub flags: u32,
    /// `None` also for an id that is invalid: all zero, or not of 16 bytes.
    pub trace_id: Option<[u8; 16]>,
    /// `None` also for an id that is invalid: all zero, or not of 8 bytes.
    pub span_id: Option<[u8; 8]>,
    /// The event's name, mostly empty.
    pub event_name: &'a str,
}

impl<'a> RecordView<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self {
            bytes,
            time_unix_nano: 0,
            observed_time_unix_nano: 0,
            severity_number: 0,
            severity_text: "",
            body: AnyValueView::Empty,
            dropped_attributes_count: 0,
            flags: 0,
            trace_id: None,
            span_id: None,
            event_name: "",
        };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Fixed64(time)) => view.time_unix_nano = time,
                (2, Value::Varint(number)) => view.severity_number = low32(number).cast_signed(),
                (3, Value::Len(bytes)) => view.severity_text = text(bytes),
                (5, Value::Len(bytes)) => view.body = AnyValueView::new(bytes),
                (7, Value::Varint(count)) => view.dropped_attributes_count = low32(count),
                (8, Value::Fixed32(flags)) => view.flags = flags,
                (9, Value::Len(bytes)) => view.trace_id = id(bytes),
                (10, Value::Len(bytes)) => view.span_id = id(bytes),
                (11, Value::Fixed64(time)) => view.observed_time_unix_nano = time,
                (12, Value::Len(bytes)) => view.event_name = text(bytes),
                _ => {}
            }
        }
        view
    }

    /// The record's attributes.
    #[must_use]
    pub const fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes, 6)
    }

    /// `log.record.uid`, if it is there and ours ([`crate::uid`]).
    #[must_use]
    pub fn uid(&self) -> Option<RecordUid> {
        self.attributes().get(keys::RECORD_UID)?.as_str().and_then(RecordUid::parse)
    }
}

/// The occurrences of one repeated message field.
#[derive(Clone, Debug)]
struct Messages<'a> {
    reader: Reader<'a>,
    field: u32,
}

impl<'a> Messages<'a> {
    const fn new(bytes: &'a [u8], field: u32) -> Self {
        Self { reader: Reader::new(bytes), field }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while let Ok(Some((field, value))) = self.reader.field() {
            if let Value::Len(bytes) = value
                && field == self.field
            {
                return Some(bytes);
            }
        }
        None
    }
}

/// A string that was checked. Looking at it again costs less than a tenth of a microsecond a kilobyte, and no
/// `unsafe`.
#[inline]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// int32 and uint32 are the low bits of their varint (encoding guide, "Compatibility").
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "asked for")]
const fn low32(value: u64) -> u32 {
    value as u32
}

fn id<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok().filter(|id| *id != [0; N])
}

#[cfg(test)]
mod tests;
