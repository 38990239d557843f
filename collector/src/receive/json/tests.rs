//! OTLP/JSON as the specifications have it, and as opentelemetry-proto writes it.

use proptest::prelude::*;

use super::*;

/// The one record of a request with these fields.
fn record(fields: &str) -> serde_json::Result<LogRecord> {
    let text = format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{{fields}}}]}}]}}]}}");
    request(text.as_bytes()).map(|mut r| r.resource_logs.remove(0).scope_logs.remove(0).log_records.remove(0))
}

fn body(value: &str) -> Option<Value> {
    record(&format!("\"body\":{value}")).ok()?.body?.value
}

#[test]
fn doubles_may_be_text_and_no_number() {
    for (text, wanted) in [
        ("1.5", 1.5),
        ("-3", -3.0),
        ("\"2.5e3\"", 2500.0),
        ("\"-0.25\"", -0.25),
        ("\"Infinity\"", f64::INFINITY),
        ("\"-Infinity\"", f64::NEG_INFINITY),
    ] {
        assert_eq!(body(&format!("{{\"doubleValue\":{text}}}")), Some(Value::DoubleValue(wanted)), "{text}");
    }
    let nan = body("{\"doubleValue\":\"NaN\"}");
    assert!(matches!(nan, Some(Value::DoubleValue(value)) if value.is_nan()), "{nan:?}");
    for text in ["\"nan\"", "\"inf\"", "\"+1\"", "\".5\"", "\"\"", "\"1 \"", "true", "[]", "NaN"] {
        assert!(record(&format!("\"body\":{{\"doubleValue\":{text}}}")).is_err(), "{text}");
    }
}

#[test]
fn whole_numbers_of_every_width_may_be_text() {
    let all = "\"timeUnixNano\":\"18446744073709551615\",\"observedTimeUnixNano\":1e3,\"severityNumber\":\"9\",\
        \"droppedAttributesCount\":\"4294967295\",\"flags\":1.0,\"body\":{\"intValue\":\"-9223372036854775808\"}";
    let record_ = record(all).unwrap();
    assert_eq!((record_.time_unix_nano, record_.observed_time_unix_nano), (u64::MAX, 1000));
    assert_eq!((record_.severity_number, record_.dropped_attributes_count, record_.flags), (9, u32::MAX, 1));
    assert_eq!(record_.body.unwrap().value, Some(Value::IntValue(i64::MIN)));
    for wrong in [
        "\"timeUnixNano\":-1",
        "\"timeUnixNano\":\"18446744073709551616\"",
        "\"timeUnixNano\":1e20",
        "\"severityNumber\":2147483648",
        "\"severityNumber\":\"SEVERITY_NUMBER_INFO\"",
        "\"flags\":1.5",
        "\"flags\":\"\"",
        "\"flags\":true",
        "\"body\":{\"intValue\":\"9223372036854775808\"}",
    ] {
        assert!(record(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn bytes_are_base64_and_ids_are_hex() {
    for text in ["+/8=", "-_8=", "+/8", "-_8"] {
        let value = body(&format!("{{\"bytesValue\":\"{text}\"}}"));
        assert_eq!(value, Some(Value::BytesValue(vec![0xfb, 0xff])), "{text}");
    }
    for text in ["+", "=", "ab==c", "a===", "ab\\u0000c"] {
        assert!(record(&format!("\"body\":{{\"bytesValue\":\"{text}\"}}")).is_err(), "{text}");
    }
    let ids =
        record("\"traceId\":\"5B8EFFF798038103D269B633813FC60C\",\"spanId\":\"eee19b7ec3c1b174\"").unwrap();
    assert_eq!((ids.trace_id.len(), ids.trace_id[0], ids.span_id[7]), (16, 0x5b, 0x74));
    assert_eq!(record("\"traceId\":\"\"").unwrap().trace_id, Vec::<u8>::new());
    for wrong in ["\"traceId\":\"5B8\"", "\"traceId\":\"zz\"", "\"spanId\":\"0x12\"", "\"spanId\":7"] {
        assert!(record(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_null_missing_or_unknown_is_the_default() {
    for fields in [
        "",
        "\"body\":null,\"attributes\":null,\"severityText\":null,\"timeUnixNano\":null,\"traceId\":null",
        "\"future\":{\"a\":[1,{\"b\":null}]},\"severity_text\":\"not its name in JSON\"",
    ] {
        assert_eq!(record(fields).unwrap(), LogRecord::default(), "{fields}");
    }
    assert_eq!(request(b"{\"resourceLogs\":null}").unwrap(), ExportLogsServiceRequest::default());
    assert_eq!(body("{\"arrayValue\":{}}"), Some(Value::ArrayValue(ArrayValue::default())));
    assert!(body("{\"kvlistValue\":{\"values\":[{\"value\":{}}]}}").is_some());
    assert_eq!(body("{\"future\":{\"x\":1}}"), None);
    assert_eq!(
        body("{\"stringValue\":null,\"boolValue\":true,\"intValue\":null}"),
        Some(Value::BoolValue(true))
    );
    let escaped = body("{\"\\u0073tringValue\":\"a\\nb\"}");
    assert_eq!(escaped, Some(Value::StringValue("a\nb".to_owned())));
}

#[test]
fn two_of_which_one_may_be_there_are_refused_and_none_is_passed_over() {
    for value in [
        r#"{"stringValue":"a","intValue":1}"#,
        r#"{"stringValue":"a","stringValue":"b"}"#,
        r#"{"arrayValue":{"values":[{"boolValue":true,"doubleValue":1}]}}"#,
    ] {
        assert!(record(&format!("\"body\":{value}")).is_err(), "{value}");
    }
    let metric = |fields: &str| {
        let text = format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{{fields}}}]}}]}}]}}"#);
        metrics_request(text.as_bytes())
    };
    for fields in [
        r#""histogram":{},"exponentialHistogram":{}"#,
        r#""gauge":{"dataPoints":[{"asInt":"1","asDouble":1}]}"#,
        r#""sum":{"dataPoints":[{"exemplars":[{"asDouble":1,"asInt":1}]}]}"#,
    ] {
        assert!(metric(fields).is_err(), "{fields}");
    }
    assert!(metric(r#""gauge":{"dataPoints":[{"asInt":"1","asDouble":null}]},"sum":null"#).is_ok());
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        any::<String>().prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        // Of few digits: serde_json's quick way of reading a number may miss the last bit of others.
        any::<i32>().prop_map(|value| Some(Value::DoubleValue(f64::from(value) / 8.0))),
        any::<Vec<u8>>().prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|values| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) }),
            prop::collection::vec((any::<String>(), inner), 0..3).prop_map(|pairs| {
                let values = pairs.into_iter().map(|(key, value)| pair(key, value)).collect();
                AnyValue { value: Some(Value::KvlistValue(KeyValueList { values })) }
            }),
        ]
    })
}

fn pair(key: String, value: AnyValue) -> KeyValue {
    KeyValue { key, value: Some(value), ..KeyValue::default() }
}

fn any_record() -> impl Strategy<Value = LogRecord> {
    let attributes = prop::collection::vec((any::<String>(), any_value()), 0..3);
    let numbers = (any::<u64>(), any::<u64>(), any::<i32>(), any::<u32>(), any::<u32>());
    (numbers, any::<String>(), any_value(), attributes, any::<[u8; 16]>(), any::<[u8; 8]>()).prop_map(
        |((time, observed, severity, dropped, flags), text, body, attributes, trace, span)| LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: observed,
            severity_number: severity,
            severity_text: text.clone(),
            body: Some(body),
            attributes: attributes.into_iter().map(|(key, value)| pair(key, value)).collect(),
            dropped_attributes_count: dropped,
            flags,
            trace_id: trace.to_vec(),
            span_id: span.to_vec(),
            event_name: text,
        },
    )
}

proptest! {
    #[test]
    fn what_opentelemetry_proto_writes_is_read_as_it_was(records in prop::collection::vec(any_record(), 0..3), name: String) {
        let attributes = vec![pair(name.clone(), AnyValue { value: None })];
        let resource = Resource { attributes: attributes.clone(), dropped_attributes_count: 3, ..Resource::default() };
        let scope = InstrumentationScope { name: name.clone(), version: name.clone(), attributes, ..Default::default() };
        let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: records, schema_url: name.clone() }];
        let logs = ResourceLogs { resource: Some(resource), scope_logs, schema_url: name };
        let sent = ExportLogsServiceRequest { resource_logs: vec![logs] };
        let text = serde_json::to_vec(&sent).unwrap();
        prop_assert_eq!(request(&text).unwrap(), sent);
    }

    #[test]
    fn no_text_makes_it_panic(fields in "[\"{}:,\\[\\]a-zA-Z0-9.\\\\-]{0,60}", noise: Vec<u8>) {
        let _ = record(&fields);
        let _ = request(&noise);
    }
}

/// Every field of every message of metrics and traces, as opentelemetry-proto writes it.
mod others {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1 as metrics;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::trace::v1 as traces;

    use super::*;

    fn attributes() -> Vec<KeyValue> {
        vec![pair("a".into(), AnyValue { value: Some(Value::StringValue("b".into())) })]
    }

    fn exemplars() -> Vec<metrics::Exemplar> {
        [metrics::exemplar::Value::AsInt(-3), metrics::exemplar::Value::AsDouble(0.5)]
            .map(|value| metrics::Exemplar {
                filtered_attributes: attributes(),
                time_unix_nano: u64::MAX,
                span_id: vec![7; 8],
                trace_id: vec![8; 16],
                value: Some(value),
            })
            .to_vec()
    }

    fn numbers() -> Vec<metrics::NumberDataPoint> {
        use metrics::number_data_point::Value::{AsDouble, AsInt};
        [None, Some(AsInt(i64::MIN)), Some(AsDouble(-2.25)), Some(AsDouble(f64::INFINITY))]
            .map(|value| metrics::NumberDataPoint {
                attributes: attributes(),
                start_time_unix_nano: 1,
                time_unix_nano: u64::MAX,
                exemplars: exemplars(),
                flags: 1,
                value,
            })
            .to_vec()
    }

    fn all_metrics() -> ExportMetricsServiceRequest {
        let histogram = metrics::HistogramDataPoint {
            attributes: attributes(),
            start_time_unix_nano: 2,
            time_unix_nano: 3,
            count: u64::MAX,
            sum: Some(1.5),
            bucket_counts: vec![0, u64::MAX],
            explicit_bounds: vec![0.25],
            exemplars: exemplars(),
            flags: 1,
            min: Some(-1.0),
            max: None,
        };
        let buckets = |offset| {
            let bucket_counts = vec![1, 2];
            Some(metrics::exponential_histogram_data_point::Buckets { offset, bucket_counts })
        };
        let exponential = metrics::ExponentialHistogramDataPoint {
            attributes: attributes(),
            start_time_unix_nano: 2,
            time_unix_nano: 3,
            count: 9,
            sum: None,
            scale: -4,
            zero_count: 1,
            positive: buckets(-7),
            negative: buckets(3),
            flags: 1,
            exemplars: exemplars(),
            min: None,
            max: Some(8.0),
            zero_threshold: 0.125,
        };
        let quantile = metrics::summary_data_point::ValueAtQuantile { quantile: 0.5, value: 8.0 };
        let summary = metrics::SummaryDataPoint {
            attributes: attributes(),
            start_time_unix_nano: 2,
            time_unix_nano: 3,
            count: 4,
            sum: 5.5,
            quantile_values: vec![quantile],
            flags: 1,
        };
        let all = [
            Data::Gauge(metrics::Gauge { data_points: numbers() }),
            Data::Sum(metrics::Sum {
                data_points: numbers(),
                aggregation_temporality: 2,
                is_monotonic: true,
            }),
            Data::Histogram(metrics::Histogram { data_points: vec![histogram], aggregation_temporality: 1 }),
            Data::ExponentialHistogram(metrics::ExponentialHistogram {
                data_points: vec![exponential],
                aggregation_temporality: 2,
            }),
            Data::Summary(metrics::Summary { data_points: vec![summary] }),
        ];
        let metric = |data| metrics::Metric {
            name: "m".into(),
            description: "d".into(),
            unit: "u".into(),
            metadata: attributes(),
            data: Some(data),
        };
        let scope = metrics::ScopeMetrics {
            scope: Some(InstrumentationScope { name: "s".into(), ..Default::default() }),
            metrics: all.map(metric).to_vec(),
            schema_url: "u".into(),
        };
        let resource = Some(Resource { attributes: attributes(), ..Resource::default() });
        let group = metrics::ResourceMetrics { resource, scope_metrics: vec![scope], schema_url: "v".into() };
        ExportMetricsServiceRequest { resource_metrics: vec![group] }
    }

    fn all_traces() -> ExportTraceServiceRequest {
        let event = traces::span::Event {
            time_unix_nano: 5,
            name: "e".into(),
            attributes: attributes(),
            dropped_attributes_count: 6,
        };
        let link = traces::span::Link {
            trace_id: vec![9; 16],
            span_id: vec![10; 8],
            trace_state: "t".into(),
            attributes: attributes(),
            dropped_attributes_count: 7,
            flags: 8,
        };
        let span = traces::Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            trace_state: "w=1".into(),
            parent_span_id: vec![3; 8],
            flags: 1,
            name: "n".into(),
            kind: 3,
            start_time_unix_nano: 1,
            end_time_unix_nano: u64::MAX,
            attributes: attributes(),
            dropped_attributes_count: 1,
            events: vec![event],
            dropped_events_count: 2,
            links: vec![link],
            dropped_links_count: 3,
            status: Some(traces::Status { message: "m".into(), code: 2 }),
        };
        let scope = traces::ScopeSpans {
            scope: Some(InstrumentationScope { name: "s".into(), ..Default::default() }),
            spans: vec![span, traces::Span::default()],
            schema_url: "u".into(),
        };
        let resource = Some(Resource { attributes: attributes(), ..Resource::default() });
        let group = traces::ResourceSpans { resource, scope_spans: vec![scope], schema_url: "v".into() };
        ExportTraceServiceRequest { resource_spans: vec![group] }
    }

    #[test]
    fn every_field_is_read_as_it_was() {
        let (metrics, traces) = (all_metrics(), all_traces());
        let text = serde_json::to_string(&metrics).unwrap();
        // What it writes of a number that is none JSON does not know; the specification does.
        let text = text.replace("\"asDouble\":null", "\"asDouble\":\"Infinity\"");
        assert_eq!(metrics_request(text.as_bytes()).unwrap(), metrics, "{text}");
        let text = serde_json::to_string(&traces).unwrap();
        assert_eq!(traces_request(text.as_bytes()).unwrap(), traces, "{text}");
    }

    #[test]
    fn what_has_the_wrong_type_is_refused_and_what_is_unknown_is_not() {
        for text in [
            r#"{"resourceMetrics":{}}"#,
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":[]}]}]}]}"#,
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"bucketCounts":[-1]}]}}]}]}]}"#,
        ] {
            assert!(metrics_request(text.as_bytes()).is_err(), "{text}");
        }
        assert!(
            traces_request(br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xy"}]}]}]}"#).is_err()
        );
        let empty = br#"{"resourceSpans":null,"resourceMetrics":[null,{"scopeMetrics":[{"metrics":null,"x":{"y":[1]}}]}]}"#;
        assert!(traces_request(empty).unwrap().resource_spans.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(
            cut: prop::sample::Index, noise in "[\"{}:,\\[\\]a-z0-9.-]{0,20}", which: bool,
        ) {
            let text = if which { serde_json::to_string(&all_metrics()) } else { serde_json::to_string(&all_traces()) };
            let mut text = text.unwrap();
            let at = cut.index(text.len());
            if text.is_char_boundary(at) {
                text.insert_str(at, &noise);
            }
            let _ = (metrics_request(text.as_bytes()), traces_request(text.as_bytes()));
        }
    }
}
