//! Is a received body an OTLP request? Decompressed, walked in full, and measured; what is kept is what was received.

use memchr::memchr2_iter;
use prost::Message;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view;

use super::admission::Grant;
use super::gather::{Format, Gathered};
use super::inflate::inflate;
use super::json;
use super::refusal::Refusal;
use crate::queue::Codec;

/// A request that can be queued.
#[derive(Debug)]
pub struct Checked {
    /// As received; JSON became protobuf.
    pub bytes: Vec<u8>,
    /// How `bytes` are compressed.
    pub codec: Codec,
    /// Records in it.
    pub records: u32,
    /// Length after decompression.
    pub uncompressed_len: u32,
    /// The memory that covers `bytes`.
    pub grant: Grant,
}

/// What the structs of one JSON object take at most while its array doubles: twice the largest, a `LogRecord`.
const JSON_OBJECT_BYTES: usize = 2 * JSON_STRUCT_BYTES;
/// What an array takes at least: room for four elements.
const JSON_ARRAY_BYTES: usize = 4 * JSON_STRUCT_BYTES;
const JSON_STRUCT_BYTES: usize = 192;

/// Checks `body`. Takes as long as decompression and one walk; run it where that may block.
///
/// # Errors
/// `TooLarge`, `Malformed`, `Overload`.
pub fn check(body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    match body.format {
        Format::Protobuf => protobuf(body, limit, limits),
        Format::Json => from_json(body, limit, limits),
    }
}

fn protobuf(mut body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let (records, length) = match body.codec {
        Codec::Identity => (records(&body.bytes, limits)?, body.bytes.len()),
        codec => {
            let outline = body.outline(limit);
            let content = inflate(codec, &body.bytes, limit, outline.as_ref(), seen, &mut body.grant, held)?;
            (records(&content, limits)?, content.len())
        }
    };
    body.grant.shrink_to(held);
    Ok(Checked {
        bytes: body.bytes,
        codec: body.codec,
        records,
        uncompressed_len: length_u32(length, limit)?,
        grant: body.grant,
    })
}

fn from_json(mut body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let text = match body.codec {
        Codec::Identity => std::mem::take(&mut body.bytes),
        codec => {
            let content = inflate(codec, &body.bytes, limit, None, seen, &mut body.grant, held)?;
            drop(std::mem::take(&mut body.bytes));
            content
        }
    };
    let objects = memchr2_iter(b'{', b'[', &text).fold(0usize, |sum, at| {
        sum.saturating_add(if text[at] == b'{' { JSON_OBJECT_BYTES } else { JSON_ARRAY_BYTES })
    });
    // The text, the strings copied out of it, the structs around them, and the protobuf made of those.
    let all = text.capacity().saturating_add(text.len().saturating_mul(2)).saturating_add(objects);
    body.grant.grow_to(all)?;
    let request = json::request(&text)
        .map_err(|error| Refusal::malformed(format!("not an OTLP/JSON request: {}", place(&error))))?;
    drop(text);
    let length = request.encoded_len();
    if length > limit {
        return Err(Refusal::too_large(limit));
    }
    let bytes = request.encode_to_vec();
    drop(request);
    body.grant.shrink_to(bytes.capacity());
    let records = records(&bytes, limits)?;
    let uncompressed_len = length_u32(length, limit)?;
    Ok(Checked { bytes, codec: Codec::Identity, records, uncompressed_len, grant: body.grant })
}

fn records(bytes: &[u8], limits: &ViewLimits) -> Result<u32, Refusal> {
    let summary = view::check(bytes, limits).map_err(|error| Refusal::malformed(error.to_string()))?;
    Ok(summary.records)
}

fn length_u32(length: usize, limit: usize) -> Result<u32, Refusal> {
    u32::try_from(length).map_err(|_| Refusal::too_large(limit))
}

/// What was wrong and where, without the text around it: an answer may end up in a log.
fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Io => "it cannot be read",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "a field has the wrong type",
        serde_json::error::Category::Eof => "it ends too early",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
