//! A log record as a document.
//!
//! Both layouts hold everything a record has; a template's `dynamic: strict` refuses none of it, because what is not
//! known by name goes where any name may stand: `attributes` and `resource.attributes` in layout otel, `labels` in
//! layout ecs.
//!
//! What Elasticsearch would refuse is written so that it does not: names with an empty part between dots (`.a`,
//! `a..b`) get `_` there, a name that is there twice counts once (the first), in `labels` dots become underscores and
//! values end at 8 KiB.

mod ecs;
mod otel;

use sonde_wire::view::{AnyValueView, RecordView, ResourceView, ScopeView};

use crate::config::{DataStream, Layout};
use crate::json::{self, Nested, write_value};
use crate::time;

/// Writes the documents of one stream.
#[derive(Clone, Debug)]
pub struct Writer {
    layout: Layout,
    /// `"data_stream":{…}`, and for ecs `"event.dataset"`'s value.
    data_stream: String,
    dataset: String,
}

/// What the records of one resource and scope have in common, written once.
pub enum Common {
    /// Members of the document, each with a comma before it.
    Otel(Vec<u8>),
    Ecs(ecs::Common),
}

impl Writer {
    /// For documents of this layout in this stream.
    pub fn new(layout: Layout, stream: &DataStream) -> Self {
        let dataset = dataset(layout, stream);
        let mut text = b"\"data_stream\":{\"type\":\"logs\",\"dataset\":".to_vec();
        json::write_str(&dataset, &mut text);
        text.extend_from_slice(b",\"namespace\":");
        json::write_str(&stream.namespace, &mut text);
        text.push(b'}');
        Self { layout, data_stream: String::from_utf8(text).unwrap_or_default(), dataset }
    }

    /// What the records below have in common.
    pub fn common(&self, resource: &ResourceView<'_>, scope: &ScopeView<'_>) -> Common {
        match self.layout {
            Layout::Otel => Common::Otel(otel::common(resource, scope)),
            Layout::Ecs => Common::Ecs(ecs::Common::new(resource, scope)),
        }
    }

    /// Appends the document of a record, on one line without its end.
    pub fn write(&self, record: &RecordView<'_>, common: &Common, unix_nano: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"@timestamp\":\"");
        out.extend_from_slice(time::format(unix_nano).as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.data_stream.as_bytes());
        match common {
            Common::Otel(common) => otel::write(record, common, out),
            Common::Ecs(common) => ecs::write(record, common, &self.dataset, out),
        }
        out.push(b'}');
    }
}

/// `data_stream.dataset` of a layout.
pub fn dataset(layout: Layout, stream: &DataStream) -> String {
    match layout {
        Layout::Otel => format!("{}.otel", stream.dataset),
        Layout::Ecs => stream.dataset.clone(),
    }
}

fn write_ids(record: &RecordView<'_>, starts: [&[u8]; 2], end: &[u8], out: &mut Vec<u8>) {
    let ids = [record.trace_id.as_ref().map(|id| &id[..]), record.span_id.as_ref().map(|id| &id[..])];
    for (start, id) in starts.into_iter().zip(ids) {
        if let Some(id) = id {
            out.extend_from_slice(start);
            json::write_hex(id, out);
            out.extend_from_slice(end);
        }
    }
}

/// The body as text: a string as it is, anything else as JSON.
fn write_text(body: &AnyValueView<'_>, out: &mut Vec<u8>) {
    match body {
        AnyValueView::Empty => out.extend_from_slice(b"\"\""),
        AnyValueView::Str(text) => json::write_str(text, out),
        other => {
            let mut text = Vec::new();
            write_value(other, Nested::Text, &mut text);
            json::write_str(&String::from_utf8_lossy(&text), out);
        }
    }
}

#[cfg(test)]
mod tests;
