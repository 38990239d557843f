//! Logs as opentelemetry-proto's structs: what prost reads, and what the view shows. Also used by the fuzz targets.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::logs::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::{
    AnyValueView, Attributes, LogsRequest, ProtoError, RecordView, ScopeView, ViewError, ViewLimits,
};

// What the view shows, as prost's structs.

fn any_value(view: AnyValueView<'_>) -> AnyValue {
    let value = match view {
        AnyValueView::Empty => None,
        AnyValueView::Str(text) => Some(Any::StringValue(text.into())),
        AnyValueView::Bool(v) => Some(Any::BoolValue(v)),
        AnyValueView::Int(v) => Some(Any::IntValue(v)),
        AnyValueView::Double(v) => Some(Any::DoubleValue(v)),
        AnyValueView::Array(values) => {
            Some(Any::ArrayValue(ArrayValue { values: values.map(any_value).collect() }))
        }
        AnyValueView::Map(pairs) => Some(Any::KvlistValue(KeyValueList { values: attributes(pairs) })),
        AnyValueView::Bytes(bytes) => Some(Any::BytesValue(bytes.into())),
    };
    AnyValue { value }
}

fn attributes(view: Attributes<'_>) -> Vec<KeyValue> {
    view.map(|(key, value)| KeyValue { key: key.into(), value: Some(any_value(value)), key_strindex: 0 })
        .collect()
}

fn record(view: RecordView<'_>) -> otlp::LogRecord {
    otlp::LogRecord {
        time_unix_nano: view.time_unix_nano,
        observed_time_unix_nano: view.observed_time_unix_nano,
        severity_number: view.severity_number,
        severity_text: view.severity_text.into(),
        attributes: attributes(view.attributes()),
        body: Some(any_value(view.body)),
        dropped_attributes_count: view.dropped_attributes_count,
        flags: view.flags,
        trace_id: view.trace_id.map(Vec::from).unwrap_or_default(),
        span_id: view.span_id.map(Vec::from).unwrap_or_default(),
        event_name: view.event_name.into(),
    }
}

fn scope(view: ScopeView<'_>) -> otlp::ScopeLogs {
    otlp::ScopeLogs {
        scope: Some(InstrumentationScope {
            name: view.name.into(),
            version: view.version.into(),
            attributes: attributes(view.attributes()),
            dropped_attributes_count: view.dropped_attributes_count,
        }),
        log_records: view.records().map(record).collect(),
        schema_url: view.schema_url.into(),
    }
}

pub fn request(view: LogsRequest<'_>) -> ExportLogsServiceRequest {
    let resource_logs = view.resources().map(|resource| otlp::ResourceLogs {
        resource: Some(Resource {
            attributes: attributes(resource.attributes()),
            dropped_attributes_count: resource.dropped_attributes_count,
            entity_refs: vec![],
        }),
        scope_logs: resource.scopes().map(scope).collect(),
        schema_url: resource.schema_url.into(),
    });
    ExportLogsServiceRequest { resource_logs: resource_logs.collect() }
}

// The same without what the view does not tell apart.

fn plain_any(value: &mut Option<AnyValue>) {
    match &mut value.get_or_insert_default().value {
        Some(Any::ArrayValue(array)) => {
            for value in &mut array.values {
                let mut element = Some(std::mem::take(value));
                plain_any(&mut element);
                *value = element.unwrap();
            }
        }
        Some(Any::KvlistValue(list)) => plain_attributes(&mut list.values),
        value @ Some(Any::StringValueStrindex(_)) => *value = None,
        _ => {}
    }
}

fn plain_attributes(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        attribute.key_strindex = 0;
        plain_any(&mut attribute.value);
    }
}

fn plain_id(id: &mut Vec<u8>, len: usize) {
    if id.len() != len || id.iter().all(|&b| b == 0) {
        id.clear();
    }
}

pub fn plain(mut request: ExportLogsServiceRequest) -> ExportLogsServiceRequest {
    for logs in &mut request.resource_logs {
        let resource = logs.resource.get_or_insert_default();
        resource.entity_refs.clear();
        plain_attributes(&mut resource.attributes);
        for scope in &mut logs.scope_logs {
            plain_attributes(&mut scope.scope.get_or_insert_default().attributes);
            for record in &mut scope.log_records {
                plain_attributes(&mut record.attributes);
                plain_any(&mut record.body);
                plain_id(&mut record.trace_id, 16);
                plain_id(&mut record.span_id, 8);
            }
        }
    }
    request
}

/// The promise about strictness, both ways; what is wrong.
pub fn agrees_with_prost(bytes: &[u8], limits: &ViewLimits) -> Result<(), String> {
    let theirs = ExportLogsServiceRequest::decode(bytes);
    match (LogsRequest::check(bytes, limits), theirs) {
        (Ok((view, summary)), Ok(theirs)) => {
            let ours = request(view);
            let records =
                ours.resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len()).sum();
            if (summary.records as usize, summary.resources as usize) != (records, ours.resource_logs.len()) {
                return Err(format!("{summary:?} of {records} records"));
            }
            // As text: a NaN does not equal itself.
            let (ours, theirs) = (format!("{ours:?}"), format!("{:?}", plain(theirs)));
            if ours == theirs { Ok(()) } else { Err(format!("ours: {ours}\ntheirs: {theirs}")) }
        }
        (Ok(_), Err(error)) => Err(format!("prost refuses what passes: {error}")),
        (Err(error), Ok(_)) => {
            use ProtoError::WireType as Group;
            let stricter = matches!(
                error,
                ViewError::Twice { .. }
                    | ViewError::TooDeep(_)
                    | ViewError::TooMany { .. }
                    | ViewError::Proto { error: Group(3 | 4), .. }
            );
            if stricter { Ok(()) } else { Err(format!("prost takes what is refused: {error}")) }
        }
        (Err(_), Err(_)) => {
            // Nobody should do this; it must not panic.
            request(LogsRequest::trusted(bytes));
            Ok(())
        }
    }
}
