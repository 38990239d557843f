//! OTLP/JSON metrics: `metrics.proto`.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::scalars::{self, Double, Hex, Integer, or_default};
use super::{Of, Placed, list, one_of};

/// Reads a request for metrics.
///
/// # Errors
/// What serde_json says: not JSON, or a field of the wrong type.
pub fn request(text: &[u8]) -> serde_json::Result<ExportMetricsServiceRequest> {
    serde_json::from_slice::<Of<ExportMetricsServiceRequest>>(text).map(|of| of.0)
}

/// Each read in place: the wrappers hold nothing else.
fn integers(list: Vec<Integer<u64>>) -> Vec<u64> {
    list.into_iter().map(|of| of.0).collect()
}

fn doubles(list: Vec<Double>) -> Vec<f64> {
    list.into_iter().map(|of| of.0).collect()
}

message!(ExportMetricsServiceRequest, "an export request", {
    "resourceMetrics" => |it, v| it.resource_metrics = list(v), Vec<Of<ResourceMetrics>>;
});

message!(ResourceMetrics, "resource metrics", {
    "resource" => |it, v| it.resource = v.map(|of| of.0), Option<Of<Resource>>;
    "scopeMetrics" => |it, v| it.scope_metrics = list(v), Vec<Of<ScopeMetrics>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(ScopeMetrics, "scope metrics", {
    "scope" => |it, v| it.scope = v.map(|of| of.0), Option<Of<InstrumentationScope>>;
    "metrics" => |it, v| it.metrics = list(v), Vec<Of<Metric>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(Metric, "a metric", {
    "name" => |it, v| it.name = v, String;
    "description" => |it, v| it.description = v, String;
    "unit" => |it, v| it.unit = v, String;
    "metadata" => |it, v| it.metadata = list(v), Vec<Of<KeyValue>>;
    "gauge" => |it, v| one_of(&mut it.data, v.map(|of| Data::Gauge(of.0))), Option<Of<Gauge>>;
    "sum" => |it, v| one_of(&mut it.data, v.map(|of| Data::Sum(of.0))), Option<Of<Sum>>;
    "histogram" => |it, v| one_of(&mut it.data, v.map(|of| Data::Histogram(of.0))), Option<Of<Histogram>>;
    "exponentialHistogram" => |it, v| one_of(&mut it.data, v.map(|of| Data::ExponentialHistogram(of.0))),
        Option<Of<ExponentialHistogram>>;
    "summary" => |it, v| one_of(&mut it.data, v.map(|of| Data::Summary(of.0))), Option<Of<Summary>>;
});

message!(Gauge, "a gauge", {
    "dataPoints" => |it, v| it.data_points = list(v), Vec<Of<NumberDataPoint>>;
});

message!(Sum, "a sum", {
    "dataPoints" => |it, v| it.data_points = list(v), Vec<Of<NumberDataPoint>>;
    "aggregationTemporality" => |it, v| it.aggregation_temporality = v.0, Integer<i32>;
    "isMonotonic" => |it, v| it.is_monotonic = v, bool;
});

message!(Histogram, "a histogram", {
    "dataPoints" => |it, v| it.data_points = list(v), Vec<Of<HistogramDataPoint>>;
    "aggregationTemporality" => |it, v| it.aggregation_temporality = v.0, Integer<i32>;
});

message!(ExponentialHistogram, "an exponential histogram", {
    "dataPoints" => |it, v| it.data_points = list(v), Vec<Of<ExponentialHistogramDataPoint>>;
    "aggregationTemporality" => |it, v| it.aggregation_temporality = v.0, Integer<i32>;
});

message!(Summary, "a summary", {
    "dataPoints" => |it, v| it.data_points = list(v), Vec<Of<SummaryDataPoint>>;
});

message!(NumberDataPoint, "a point", {
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "startTimeUnixNano" => |it, v| it.start_time_unix_nano = v.0, Integer<u64>;
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "exemplars" => |it, v| it.exemplars = list(v), Vec<Of<Exemplar>>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
    "asDouble" => |it, v| one_of(&mut it.value, v.map(|of| Number::AsDouble(of.0))), Option<Double>;
    "asInt" => |it, v| one_of(&mut it.value, v.map(|of| Number::AsInt(of.0))), Option<Integer<i64>>;
});

message!(HistogramDataPoint, "a point", {
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "startTimeUnixNano" => |it, v| it.start_time_unix_nano = v.0, Integer<u64>;
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "count" => |it, v| it.count = v.0, Integer<u64>;
    "sum" => |it, v| it.sum = v.map(|of| of.0), Option<Double>;
    "bucketCounts" => |it, v| it.bucket_counts = integers(v), Vec<Integer<u64>>;
    "explicitBounds" => |it, v| it.explicit_bounds = doubles(v), Vec<Double>;
    "exemplars" => |it, v| it.exemplars = list(v), Vec<Of<Exemplar>>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
    "min" => |it, v| it.min = v.map(|of| of.0), Option<Double>;
    "max" => |it, v| it.max = v.map(|of| of.0), Option<Double>;
});

message!(ExponentialHistogramDataPoint, "a point", {
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "startTimeUnixNano" => |it, v| it.start_time_unix_nano = v.0, Integer<u64>;
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "count" => |it, v| it.count = v.0, Integer<u64>;
    "sum" => |it, v| it.sum = v.map(|of| of.0), Option<Double>;
    "scale" => |it, v| it.scale = v.0, Integer<i32>;
    "zeroCount" => |it, v| it.zero_count = v.0, Integer<u64>;
    "positive" => |it, v| it.positive = v.map(|of| of.0), Option<Of<Buckets>>;
    "negative" => |it, v| it.negative = v.map(|of| of.0), Option<Of<Buckets>>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
    "exemplars" => |it, v| it.exemplars = list(v), Vec<Of<Exemplar>>;
    "min" => |it, v| it.min = v.map(|of| of.0), Option<Double>;
    "max" => |it, v| it.max = v.map(|of| of.0), Option<Double>;
    "zeroThreshold" => |it, v| it.zero_threshold = v.0, Double;
});

message!(Buckets, "buckets", {
    "offset" => |it, v| it.offset = v.0, Integer<i32>;
    "bucketCounts" => |it, v| it.bucket_counts = integers(v), Vec<Integer<u64>>;
});

message!(SummaryDataPoint, "a point", {
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "startTimeUnixNano" => |it, v| it.start_time_unix_nano = v.0, Integer<u64>;
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "count" => |it, v| it.count = v.0, Integer<u64>;
    "sum" => |it, v| it.sum = v.0, Double;
    "quantileValues" => |it, v| it.quantile_values = list(v), Vec<Of<ValueAtQuantile>>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
});

message!(ValueAtQuantile, "a quantile", {
    "quantile" => |it, v| it.quantile = v.0, Double;
    "value" => |it, v| it.value = v.0, Double;
});

message!(Exemplar, "an exemplar", {
    "filteredAttributes" => |it, v| it.filtered_attributes = list(v), Vec<Of<KeyValue>>;
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "spanId" => |it, v| it.span_id = v.0, Hex;
    "traceId" => |it, v| it.trace_id = v.0, Hex;
    "asDouble" => |it, v| one_of(&mut it.value, v.map(|of| exemplar::Value::AsDouble(of.0))), Option<Double>;
    "asInt" => |it, v| one_of(&mut it.value, v.map(|of| exemplar::Value::AsInt(of.0))), Option<Integer<i64>>;
});
