//! What OTLP's messages look like: their fields, as far as a reader relies on them.

/// Messages of a request (opentelemetry-proto `logs.proto`, `metrics.proto`, `trace.proto`, `resource.proto`, `common.proto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    MetricsRequest,
    ResourceMetrics,
    ScopeMetrics,
    Metric,
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
    NumberDataPoint,
    HistogramDataPoint,
    ExponentialHistogramDataPoint,
    Buckets,
    SummaryDataPoint,
    ValueAtQuantile,
    Exemplar,
    TraceRequest,
    ResourceSpans,
    ScopeSpans,
    Span,
    Event,
    Link,
    Status,
    ResourceLogs,
    Resource,
    EntityRef,
    ScopeLogs,
    Scope,
    LogRecord,
    KeyValue,
    AnyValue,
    ArrayValue,
    KeyValueList,
}

impl Message {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Request => "ExportLogsServiceRequest",
            Self::MetricsRequest => "ExportMetricsServiceRequest",
            Self::ResourceMetrics => "ResourceMetrics",
            Self::ScopeMetrics => "ScopeMetrics",
            Self::Metric => "Metric",
            Self::Gauge => "Gauge",
            Self::Sum => "Sum",
            Self::Histogram => "Histogram",
            Self::ExponentialHistogram => "ExponentialHistogram",
            Self::Summary => "Summary",
            Self::NumberDataPoint => "NumberDataPoint",
            Self::HistogramDataPoint => "HistogramDataPoint",
            Self::ExponentialHistogramDataPoint => "ExponentialHistogramDataPoint",
            Self::Buckets => "ExponentialHistogramDataPoint.Buckets",
            Self::SummaryDataPoint => "SummaryDataPoint",
            Self::ValueAtQuantile => "SummaryDataPoint.ValueAtQuantile",
            Self::Exemplar => "Exemplar",
            Self::TraceRequest => "ExportTraceServiceRequest",
            Self::ResourceSpans => "ResourceSpans",
            Self::ScopeSpans => "ScopeSpans",
            Self::Span => "Span",
            Self::Event => "Span.Event",
            Self::Link => "Span.Link",
            Self::Status => "Status",
            Self::ResourceLogs => "ResourceLogs",
            Self::Resource => "Resource",
            Self::EntityRef => "EntityRef",
            Self::ScopeLogs => "ScopeLogs",
            Self::Scope => "InstrumentationScope",
            Self::LogRecord => "LogRecord",
            Self::KeyValue => "KeyValue",
            Self::AnyValue => "AnyValue",
            Self::ArrayValue => "ArrayValue",
            Self::KeyValueList => "KeyValueList",
        }
    }
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Unknown,
    Varint,
    Fixed64,
    Fixed32,
    Bytes,
    Str,
    /// Repeated numbers of eight bytes, packed or one by one.
    Packed64,
    /// Repeated varints, packed or one by one.
    PackedVarint,
    Many(Message),
    Once(Message),
}

#[inline]
pub(super) const fn shape(message: Message, field: u32) -> Shape {
    use Message as M;
    use Shape as S;
    match (message, field) {
        (M::Request, 1) => S::Many(M::ResourceLogs),
        (M::ResourceLogs, 1) => S::Once(M::Resource),
        (M::ResourceLogs, 2) => S::Many(M::ScopeLogs),
        (M::ResourceLogs | M::ScopeLogs, 3) => S::Str,
        (M::Resource, 1) => S::Many(M::KeyValue),
        (M::Resource, 2) => S::Varint,
        (M::Resource, 3) => S::Many(M::EntityRef),
        (M::EntityRef, 1..=4) => S::Str,
        (M::ScopeLogs, 1) => S::Once(M::Scope),
        (M::ScopeLogs, 2) => S::Many(M::LogRecord),
        (M::Scope, 1 | 2) => S::Str,
        (M::Scope, 3) => S::Many(M::KeyValue),
        (M::Scope, 4) => S::Varint,
        (M::LogRecord, 1 | 11) => S::Fixed64,
        (M::LogRecord, 2 | 7) => S::Varint,
        (M::LogRecord, 3 | 12) => S::Str,
        (M::LogRecord, 5) => S::Once(M::AnyValue),
        (M::LogRecord, 6) => S::Many(M::KeyValue),
        (M::LogRecord, 8) => S::Fixed32,
        (M::LogRecord, 9 | 10) => S::Bytes,
        (M::KeyValue, 1) => S::Str,
        (M::KeyValue, 2) => S::Once(M::AnyValue),
        (M::KeyValue, 3) => S::Varint,
        (M::AnyValue, 1) => S::Str,
        (M::AnyValue, 2 | 3 | 8) => S::Varint,
        (M::AnyValue, 4) => S::Fixed64,
        (M::AnyValue, 5) => S::Once(M::ArrayValue),
        (M::AnyValue, 6) => S::Once(M::KeyValueList),
        (M::AnyValue, 7) => S::Bytes,
        (M::ArrayValue, 1) => S::Many(M::AnyValue),
        (M::KeyValueList, 1) => S::Many(M::KeyValue),
        _ => shape_of_metrics(message, field),
    }
}

/// `metrics.proto` 1.11.
const fn shape_of_metrics(message: Message, field: u32) -> Shape {
    use Message as M;
    use Shape as S;
    match (message, field) {
        (M::MetricsRequest, 1) => S::Many(M::ResourceMetrics),
        (M::ResourceMetrics, 1) => S::Once(M::Resource),
        (M::ResourceMetrics, 2) => S::Many(M::ScopeMetrics),
        (M::ResourceMetrics | M::ScopeMetrics, 3) | (M::Metric, 1..=3) => S::Str,
        (M::ScopeMetrics, 1) => S::Once(M::Scope),
        (M::ScopeMetrics, 2) => S::Many(M::Metric),
        (M::Metric, 5) => S::Once(M::Gauge),
        (M::Metric, 7) => S::Once(M::Sum),
        (M::Metric, 9) => S::Once(M::Histogram),
        (M::Metric, 10) => S::Once(M::ExponentialHistogram),
        (M::Metric, 11) => S::Once(M::Summary),
        (M::Metric, 12) => S::Many(M::KeyValue),
        (M::Gauge | M::Sum, 1) => S::Many(M::NumberDataPoint),
        (M::Histogram, 1) => S::Many(M::HistogramDataPoint),
        (M::ExponentialHistogram, 1) => S::Many(M::ExponentialHistogramDataPoint),
        (M::Summary, 1) => S::Many(M::SummaryDataPoint),
        (M::Sum | M::Histogram | M::ExponentialHistogram, 2) | (M::Sum, 3) => S::Varint,
        (M::NumberDataPoint, 2..=4 | 6)
        | (M::HistogramDataPoint, 2..=5 | 11 | 12)
        | (M::ExponentialHistogramDataPoint, 2..=5 | 7 | 12..=14)
        | (M::SummaryDataPoint, 2..=5)
        | (M::ValueAtQuantile, 1 | 2)
        | (M::Exemplar, 2 | 3 | 6) => S::Fixed64,
        (M::NumberDataPoint | M::SummaryDataPoint, 8)
        | (M::HistogramDataPoint, 10)
        | (M::ExponentialHistogramDataPoint, 6 | 10)
        | (M::Buckets, 1) => S::Varint,
        (M::HistogramDataPoint, 6 | 7) => S::Packed64,
        (M::Buckets, 2) => S::PackedVarint,
        (M::NumberDataPoint | M::SummaryDataPoint | M::Exemplar, 7)
        | (M::HistogramDataPoint, 9)
        | (M::ExponentialHistogramDataPoint, 1) => S::Many(M::KeyValue),
        (M::NumberDataPoint, 5) | (M::HistogramDataPoint, 8) | (M::ExponentialHistogramDataPoint, 11) => {
            S::Many(M::Exemplar)
        }
        // Each is there once, but two different ones may be: protobuf's merging of a second is let through.
        (M::ExponentialHistogramDataPoint, 8 | 9) => S::Many(M::Buckets),
        (M::SummaryDataPoint, 6) => S::Many(M::ValueAtQuantile),
        (M::Exemplar, 4 | 5) => S::Bytes,
        _ => shape_of_traces(message, field),
    }
}

/// `trace.proto` 1.11.
const fn shape_of_traces(message: Message, field: u32) -> Shape {
    use Message as M;
    use Shape as S;
    match (message, field) {
        (M::TraceRequest, 1) => S::Many(M::ResourceSpans),
        (M::ResourceSpans, 1) => S::Once(M::Resource),
        (M::ResourceSpans, 2) => S::Many(M::ScopeSpans),
        (M::ResourceSpans | M::ScopeSpans, 3)
        | (M::Span, 3 | 5)
        | (M::Event, 2)
        | (M::Link, 3)
        | (M::Status, 2) => S::Str,
        (M::ScopeSpans, 1) => S::Once(M::Scope),
        (M::ScopeSpans, 2) => S::Many(M::Span),
        (M::Span, 1 | 2 | 4) | (M::Link, 1 | 2) => S::Bytes,
        (M::Span, 6 | 10 | 12 | 14) | (M::Event, 4) | (M::Link, 5) | (M::Status, 3) => S::Varint,
        (M::Span, 7 | 8) | (M::Event, 1) => S::Fixed64,
        (M::Span, 9) | (M::Event, 3) | (M::Link, 4) => S::Many(M::KeyValue),
        (M::Span, 11) => S::Many(M::Event),
        (M::Span, 13) => S::Many(M::Link),
        (M::Span, 15) => S::Once(M::Status),
        (M::Span, 16) | (M::Link, 6) => S::Fixed32,
        _ => S::Unknown,
    }
}
