//! `ExportLogsServiceResponse`, and with the same bytes the responses of metrics and traces
//! (`opentelemetry/proto/collector/logs/v1/logs_service.proto`).

use crate::limits::MESSAGE_BYTES;
use crate::proto::{ProtoError, Reader, Value, put_bytes, put_uint};

/// What a receiver that accepted a request says about parts of it. Never a reason to send anything again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    /// Records refused for good.
    pub rejected: u64,
    /// For developers; with nothing rejected a warning. When read, at most [`MESSAGE_BYTES`].
    pub message: String,
}

/// The bytes of a response; none at all when nothing was rejected and there is nothing to say.
#[must_use]
pub fn encode_logs_response(rejected: u64, message: &str) -> Vec<u8> {
    let mut partial = Vec::new();
    if rejected > 0 {
        // An int64 field.
        put_uint(&mut partial, 1, rejected.min(i64::MAX.cast_unsigned()));
    }
    if !message.is_empty() {
        put_bytes(&mut partial, 2, message.as_bytes());
    }
    let mut out = Vec::new();
    if !partial.is_empty() {
        put_bytes(&mut out, 1, &partial);
    }
    out
}

/// Reads a response. A negative count is 0, text that is not UTF-8 is replaced: the request was accepted
/// whatever its answer looks like, which is also how callers should take an error of this function.
pub fn decode_logs_response(bytes: &[u8]) -> Result<PartialSuccess, ProtoError> {
    let mut response = PartialSuccess::default();
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.field()? {
        let (1, Value::Len(partial)) = field else { continue };
        let mut reader = Reader::new(partial);
        while let Some(field) = reader.field()? {
            match field {
                (1, Value::Varint(count)) => {
                    response.rejected = u64::try_from(count.cast_signed()).unwrap_or(0)
                }
                (2, Value::Len(text)) => response.message = cut_message(text),
                _ => {}
            }
        }
    }
    Ok(response)
}

/// A peer's words as text of at most [`MESSAGE_BYTES`], cut at a character.
pub(crate) fn cut_message(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes.get(..MESSAGE_BYTES).unwrap_or(bytes)).into_owned();
    if bytes.len() > MESSAGE_BYTES {
        // The cut may have halved a character.
        text.truncate(text.trim_end_matches('\u{fffd}').len());
    }
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES));
    text
}

#[cfg(test)]
mod tests;
