//! OTLP's values as JSON.

use std::collections::HashSet;

use sonde_wire::view::{AnyValueView, Attributes};

use super::{write_base64, write_display, write_f64, write_str};

/// How maps and lists inside a list are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nested {
    /// As they are.
    Plain,
    /// As a string that holds their JSON, for readers whose lists hold scalars only.
    Text,
}

/// Appends a value; it nests no deeper than `wire` lets it. No value is `null`, bytes are base64.
pub fn write_value(value: &AnyValueView<'_>, nested: Nested, out: &mut Vec<u8>) {
    match value {
        AnyValueView::Empty => out.extend_from_slice(b"null"),
        AnyValueView::Str(text) => write_str(text, out),
        AnyValueView::Bool(value) => write_display(value, out),
        AnyValueView::Int(value) => write_display(value, out),
        AnyValueView::Double(value) => write_f64(*value, out),
        AnyValueView::Bytes(bytes) => write_base64(bytes, out),
        AnyValueView::Map(map) => write_map(map.clone(), nested, out),
        AnyValueView::Array(values) => {
            out.push(b'[');
            for (nth, value) in values.clone().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                match value {
                    AnyValueView::Map(_) | AnyValueView::Array(_) if nested == Nested::Text => {
                        let mut text = Vec::new();
                        write_value(&value, nested, &mut text);
                        write_str(&String::from_utf8_lossy(&text), out);
                    }
                    value => write_value(&value, nested, out),
                }
            }
            out.push(b']');
        }
    }
}

/// A value as text: a string as it is, anything else as JSON; empty where there is none.
pub fn value_text(value: &AnyValueView<'_>, nested: Nested) -> String {
    match value {
        AnyValueView::Empty => String::new(),
        AnyValueView::Str(text) => (*text).to_owned(),
        other => {
            let mut text = Vec::new();
            write_value(other, nested, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    }
}

/// Appends a map; of a key that is there twice the first counts.
pub fn write_map(map: Attributes<'_>, nested: Nested, out: &mut Vec<u8>) {
    let mut written = HashSet::new();
    out.push(b'{');
    for (key, value) in map {
        if written.insert(key) {
            if written.len() > 1 {
                out.push(b',');
            }
            write_str(key, out);
            out.push(b':');
            write_value(&value, nested, out);
        }
    }
    out.push(b'}');
}
