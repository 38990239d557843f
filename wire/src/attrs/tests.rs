use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::*;

#[test]
fn a_set_is_what_prost_would_write() {
    let text = |value: &str| AnyValue { value: Some(Value::StringValue(value.into())) };
    let pair = |key: &str, value| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    };
    let long = "x".repeat(300);
    let tags = ["1.29".to_string(), String::new(), "t".repeat(200)];
    let expected = Resource {
        attributes: vec![
            pair(keys::POD_NAME, Value::StringValue("web-0".into())),
            pair(&long, Value::StringValue(long.clone())),
            pair("empty", Value::StringValue(String::new())),
            pair(keys::RESTART_COUNT, Value::IntValue(0)),
            pair("negative", Value::IntValue(i64::MIN)),
            pair("yes", Value::BoolValue(true)),
            pair("no", Value::BoolValue(false)),
            pair(
                keys::IMAGE_TAGS,
                Value::ArrayValue(ArrayValue { values: tags.iter().map(|t| text(t)).collect() }),
            ),
            pair("none", Value::ArrayValue(ArrayValue::default())),
        ],
        ..Default::default()
    };
    let set = AttrSet::builder()
        .str(keys::POD_NAME, "web-0")
        .str(&long, &long)
        .str("empty", "")
        .int(keys::RESTART_COUNT, 0)
        .int("negative", i64::MIN)
        .bool("yes", true)
        .bool("no", false)
        .str_array(keys::IMAGE_TAGS, tags.iter().map(String::as_str))
        .str_array("none", [])
        .build();
    assert_eq!(set.bytes(), expected.encode_to_vec());
}
