//! OTLP/JSON traces: `trace.proto`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::scalars::{self, Hex, Integer, or_default};
use super::{Of, Placed, list};

/// Reads a request for traces.
///
/// # Errors
/// What serde_json says: not JSON, or a field of the wrong type.
pub fn request(text: &[u8]) -> serde_json::Result<ExportTraceServiceRequest> {
    serde_json::from_slice::<Of<ExportTraceServiceRequest>>(text).map(|of| of.0)
}

message!(ExportTraceServiceRequest, "an export request", {
    "resourceSpans" => |it, v| it.resource_spans = list(v), Vec<Of<ResourceSpans>>;
});

message!(ResourceSpans, "resource spans", {
    "resource" => |it, v| it.resource = v.map(|of| of.0), Option<Of<Resource>>;
    "scopeSpans" => |it, v| it.scope_spans = list(v), Vec<Of<ScopeSpans>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(ScopeSpans, "scope spans", {
    "scope" => |it, v| it.scope = v.map(|of| of.0), Option<Of<InstrumentationScope>>;
    "spans" => |it, v| it.spans = list(v), Vec<Of<Span>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(Span, "a span", {
    "traceId" => |it, v| it.trace_id = v.0, Hex;
    "spanId" => |it, v| it.span_id = v.0, Hex;
    "traceState" => |it, v| it.trace_state = v, String;
    "parentSpanId" => |it, v| it.parent_span_id = v.0, Hex;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
    "name" => |it, v| it.name = v, String;
    "kind" => |it, v| it.kind = v.0, Integer<i32>;
    "startTimeUnixNano" => |it, v| it.start_time_unix_nano = v.0, Integer<u64>;
    "endTimeUnixNano" => |it, v| it.end_time_unix_nano = v.0, Integer<u64>;
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
    "events" => |it, v| it.events = list(v), Vec<Of<Event>>;
    "droppedEventsCount" => |it, v| it.dropped_events_count = v.0, Integer<u32>;
    "links" => |it, v| it.links = list(v), Vec<Of<Link>>;
    "droppedLinksCount" => |it, v| it.dropped_links_count = v.0, Integer<u32>;
    "status" => |it, v| it.status = v.map(|of| of.0), Option<Of<Status>>;
});

message!(Event, "an event", {
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "name" => |it, v| it.name = v, String;
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
});

message!(Link, "a link", {
    "traceId" => |it, v| it.trace_id = v.0, Hex;
    "spanId" => |it, v| it.span_id = v.0, Hex;
    "traceState" => |it, v| it.trace_state = v, String;
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
});

message!(Status, "a status", {
    "message" => |it, v| it.message = v, String;
    "code" => |it, v| it.code = v.0, Integer<i32>;
});
