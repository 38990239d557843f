//! A record as the API shows it.

use crate::store::{BodyKind, Origin, Row, Stream};
use crate::{json, severity, time};

/// Appends a record as one JSON object without a newline.
pub fn write(origin: &Origin, row: &Row<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(time::format(row.time).as_bytes());
    out.extend_from_slice(b"\",\"severity\":");
    write_opt(severity::name(row.severity), out);
    origin.write_names(out);
    out.extend_from_slice(b",\"stream\":");
    write_opt(
        match row.stream {
            Stream::None => None,
            Stream::Stdout => Some("stdout"),
            Stream::Stderr => Some("stderr"),
        },
        out,
    );
    out.extend_from_slice(b",\"body\":");
    if row.kind == BodyKind::None {
        out.extend_from_slice(b"null");
    } else {
        out.push(b'"');
        json::write_escaped(row.body, out);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"uid\":");
    if row.has_uid {
        json::write_hex(&row.uid, out);
    } else {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(b",\"attributes\":{");
    out.extend_from_slice(origin.attributes.as_bytes());
    if !origin.attributes.is_empty() && !row.attributes.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(row.attributes);
    if row.observed != 0 {
        if !origin.attributes.is_empty() || !row.attributes.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(b"\"observed_time\":\"");
        out.extend_from_slice(time::format(row.observed).as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"}}");
}

fn write_opt(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => json::write_str(text, out),
        None => out.extend_from_slice(b"null"),
    }
}
