//! OTLP/JSON logs, metrics and traces, read straight into the protobuf structs.
//!
//! proto3's JSON mapping (protobuf.dev, "JSON Mapping") with OTLP's own rules (OTLP specification, "JSON Protobuf
//! Encoding"): keys are lowerCamelCase, unknown ones are skipped, `null` and a missing key are the default, numbers of
//! any width may be text, a double may be `"NaN"`, `"Infinity"` or `"-Infinity"`, bytes are base64, and trace and span
//! ids are hex; two fields of which a message has one (`oneof`) are refused. opentelemetry-proto's own `Deserialize` refuses several of these (a 32-bit number as text, an array
//! value without `values`, `null` lists) and keeps a second copy of every value while it reads. A double is
//! read in serde_json's quick way, which may miss its last bit.

mod scalars;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use scalars::{Base64, Double, Hex, Integer, or_default};

pub use metrics::request as metrics_request;
pub use traces::request as traces_request;

/// Reads a request for logs.
///
/// # Errors
/// What serde_json says: not JSON, or a field of the wrong type.
pub fn request(text: &[u8]) -> serde_json::Result<ExportLogsServiceRequest> {
    serde_json::from_slice::<Of<ExportLogsServiceRequest>>(text).map(|of| of.0)
}

/// A protobuf message (or value) that is read from JSON. The wrapper costs nothing: a list of these becomes a list of
/// what they hold in place.
#[derive(Clone, Debug, Default, PartialEq)]
struct Of<T>(T);

fn list<T>(list: Vec<Of<T>>) -> Vec<T> {
    list.into_iter().map(|of| of.0).collect()
}

/// Whether a field could be put into its message.
trait Placed {
    fn or_refuse<E: Error>(self) -> Result<(), E>;
}

impl Placed for () {
    fn or_refuse<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// There was another of which the message has one.
struct Second;

impl Placed for Result<(), Second> {
    fn or_refuse<E: Error>(self) -> Result<(), E> {
        self.map_err(|Second| E::custom("two fields of which there may be one"))
    }
}

/// One of several (`oneof`); `null` is none.
fn one_of<T>(place: &mut Option<T>, given: Option<T>) -> Result<(), Second> {
    match given {
        Some(_) if place.is_some() => Err(Second),
        Some(_) => {
            *place = given;
            Ok(())
        }
        None => Ok(()),
    }
}

/// A message whose fields are read by name: each `"key" => place` line reads one kind, all else is skipped.
macro_rules! message {
    ($message:ident, $words:literal, { $($key:literal => $set:expr, $kind:ty;)* }) => {
        impl<'de> Deserialize<'de> for Of<$message> {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = Of<$message>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($words)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut message = $message::default();
                        while let Some(key) = map.next_key::<scalars::Key<'de>>()? {
                            match &*key.0 {
                                $($key => {
                                    let set: fn(&mut $message, $kind) -> _ = $set;
                                    Placed::or_refuse(set(&mut message, or_default(&mut map)?))?;
                                })*
                                _ => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(Of(message))
                    }
                }
                from.deserialize_map(Fields)
            }
        }
    };
}

// Behind the macro that they are written with.
mod metrics;
mod traces;

message!(ExportLogsServiceRequest, "an export request", {
    "resourceLogs" => |it, v| it.resource_logs = list(v), Vec<Of<ResourceLogs>>;
});

message!(ResourceLogs, "resource logs", {
    "resource" => |it, v| it.resource = v.map(|of| of.0), Option<Of<Resource>>;
    "scopeLogs" => |it, v| it.scope_logs = list(v), Vec<Of<ScopeLogs>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(Resource, "a resource", {
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
    "entityRefs" => |it, v| it.entity_refs = list(v), Vec<Of<EntityRef>>;
});

message!(EntityRef, "an entity", {
    "schemaUrl" => |it, v| it.schema_url = v, String;
    "type" => |it, v| it.r#type = v, String;
    "idKeys" => |it, v| it.id_keys = v, Vec<String>;
    "descriptionKeys" => |it, v| it.description_keys = v, Vec<String>;
});

message!(ScopeLogs, "scope logs", {
    "scope" => |it, v| it.scope = v.map(|of| of.0), Option<Of<InstrumentationScope>>;
    "logRecords" => |it, v| it.log_records = list(v), Vec<Of<LogRecord>>;
    "schemaUrl" => |it, v| it.schema_url = v, String;
});

message!(InstrumentationScope, "a scope", {
    "name" => |it, v| it.name = v, String;
    "version" => |it, v| it.version = v, String;
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
});

message!(LogRecord, "a log record", {
    "timeUnixNano" => |it, v| it.time_unix_nano = v.0, Integer<u64>;
    "observedTimeUnixNano" => |it, v| it.observed_time_unix_nano = v.0, Integer<u64>;
    "severityNumber" => |it, v| it.severity_number = v.0, Integer<i32>;
    "severityText" => |it, v| it.severity_text = v, String;
    "body" => |it, v| it.body = v.map(|of| of.0), Option<Of<AnyValue>>;
    "attributes" => |it, v| it.attributes = list(v), Vec<Of<KeyValue>>;
    "droppedAttributesCount" => |it, v| it.dropped_attributes_count = v.0, Integer<u32>;
    "flags" => |it, v| it.flags = v.0, Integer<u32>;
    "traceId" => |it, v| it.trace_id = v.0, Hex;
    "spanId" => |it, v| it.span_id = v.0, Hex;
    "eventName" => |it, v| it.event_name = v, String;
});

message!(KeyValue, "a key and its value", {
    "key" => |it, v| it.key = v, String;
    "value" => |it, v| it.value = v.map(|of| of.0), Option<Of<AnyValue>>;
});

message!(ArrayValue, "an array value", {
    "values" => |it, v| it.values = list(v), Vec<Of<AnyValue>>;
});

message!(KeyValueList, "a list of keys and values", {
    "values" => |it, v| it.values = list(v), Vec<Of<KeyValue>>;
});

message!(AnyValue, "a value", {
    "stringValue" => |it, v| one_of(&mut it.value, v.map(Value::StringValue)), Option<String>;
    "boolValue" => |it, v| one_of(&mut it.value, v.map(Value::BoolValue)), Option<bool>;
    "intValue" => |it, v| one_of(&mut it.value, v.map(|of| Value::IntValue(of.0))), Option<Integer<i64>>;
    "doubleValue" => |it, v| one_of(&mut it.value, v.map(|of| Value::DoubleValue(of.0))), Option<Double>;
    "arrayValue" => |it, v| one_of(&mut it.value, v.map(|of| Value::ArrayValue(of.0))), Option<Of<ArrayValue>>;
    "kvlistValue" => |it, v| one_of(&mut it.value, v.map(|of| Value::KvlistValue(of.0))), Option<Of<KeyValueList>>;
    "bytesValue" => |it, v| one_of(&mut it.value, v.map(|of| Value::BytesValue(of.0))), Option<Base64>;
});

#[cfg(test)]
mod tests;
