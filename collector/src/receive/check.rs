//! Is a received body an OTLP request? Decompressed, walked in full, and measured; what is kept is what was received.

use memchr::memchr3_iter;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, Metric};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::receive::admission::Grant;
use sonde_daemon::receive::gather::{Format, Gathered};
use sonde_daemon::receive::inflate::inflate;
use sonde_daemon::receive::refusal::Refusal;
use sonde_wire::limits::ViewLimits;

use super::json;
use crate::queue::Signal;

/// A request that can be queued.
#[derive(Debug)]
pub struct Checked {
    /// As received; JSON became protobuf.
    pub bytes: Vec<u8>,
    /// How `bytes` are compressed.
    pub codec: Encoding,
    /// Records in it.
    pub records: u32,
    /// Length after decompression.
    pub uncompressed_len: u32,
    /// The memory that covers `bytes`.
    pub grant: Grant,
}

/// What a JSON request takes while it is read.
#[derive(Clone, Copy, Debug)]
struct JsonCost {
    /// The structs of one object at most, while its array doubles: twice the largest.
    object: usize,
    /// An array at least: room for four elements.
    array: usize,
    /// Between two fields or elements: what serde keeps of a `oneof` before it knows which it is.
    comma: usize,
}

impl JsonCost {
    /// What reads a request of this signal, whose structs are at most this large.
    const fn of(signal: Signal) -> Self {
        let largest = match signal {
            Signal::Logs => size_of::<LogRecord>(),
            Signal::Metrics => max(size_of::<ExponentialHistogramDataPoint>(), size_of::<Metric>()),
            Signal::Traces => size_of::<Span>(),
        };
        // Of metrics the elements of an array may be numbers of eight bytes.
        let comma = if matches!(signal, Signal::Metrics) { 2 * size_of::<u64>() } else { 0 };
        Self { object: 2 * largest, array: 4 * largest, comma }
    }
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Checks `body`, a request of `signal`. Takes as long as decompression and one walk; run it where that may block.
///
/// # Errors
/// `TooLarge`, `Malformed`, `Overload`.
pub fn check(signal: Signal, body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    check_and(signal, body, limit, limits, |_| ()).map(|(checked, ())| checked)
}

/// As [`check`]; `look` is shown the content of a request that is good.
///
/// # Errors
/// As [`check`].
pub fn check_and<T>(
    signal: Signal,
    body: Gathered,
    limit: usize,
    limits: &ViewLimits,
    look: impl FnOnce(&[u8]) -> T,
) -> Result<(Checked, T), Refusal> {
    let mut body = match body.format {
        Format::Protobuf => body,
        Format::Json => from_json(signal, body, limit)?,
    };
    let walk = |content: &[u8]| {
        let summary = signal.check(content, limits);
        let records = summary.map_err(|error| Refusal::malformed(error.to_string()))?.records;
        Ok::<_, Refusal>((records, content.len()))
    };
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let ((records, length), looked) = match body.codec {
        Encoding::Identity => (walk(&body.bytes)?, look(&body.bytes)),
        codec => {
            let outline = body.outline(limit);
            let content = inflate(codec, &body.bytes, limit, outline.as_ref(), seen, &mut body.grant, held)?;
            (walk(&content)?, look(&content))
        }
    };
    body.grant.shrink_to(held);
    let checked = Checked {
        bytes: body.bytes,
        codec: body.codec,
        records,
        uncompressed_len: length_u32(length, limit)?,
        grant: body.grant,
    };
    Ok((checked, looked))
}

/// The same request as protobuf.
fn from_json(signal: Signal, mut body: Gathered, limit: usize) -> Result<Gathered, Refusal> {
    let cost = JsonCost::of(signal);
    body.bytes = match signal {
        Signal::Logs => protobuf_of(&mut body, limit, cost, json::request)?,
        Signal::Metrics => protobuf_of(&mut body, limit, cost, json::metrics_request)?,
        Signal::Traces => protobuf_of(&mut body, limit, cost, json::traces_request)?,
    };
    Ok(Gathered { codec: Encoding::Identity, format: Format::Protobuf, ..body })
}

/// The protobuf of a JSON request, whose text is let go.
fn protobuf_of<M: Message>(
    body: &mut Gathered,
    limit: usize,
    cost: JsonCost,
    read: impl FnOnce(&[u8]) -> serde_json::Result<M>,
) -> Result<Vec<u8>, Refusal> {
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let text = match body.codec {
        Encoding::Identity => std::mem::take(&mut body.bytes),
        codec => {
            let content = inflate(codec, &body.bytes, limit, None, seen, &mut body.grant, held)?;
            drop(std::mem::take(&mut body.bytes));
            content
        }
    };
    let structs = memchr3_iter(b'{', b'[', b',', &text).fold(0usize, |sum, at| {
        sum.saturating_add(match text[at] {
            b'{' => cost.object,
            b'[' => cost.array,
            _ => cost.comma,
        })
    });
    // The text, the strings copied out of it, the structs around them, and the protobuf made of those.
    let all = text.capacity().saturating_add(text.len().saturating_mul(2)).saturating_add(structs);
    body.grant.grow_to(all)?;
    let request = read(&text)
        .map_err(|error| Refusal::malformed(format!("not an OTLP/JSON request: {}", place(&error))))?;
    drop(text);
    if request.encoded_len() > limit {
        return Err(Refusal::too_large(limit));
    }
    let bytes = request.encode_to_vec();
    drop(request);
    body.grant.shrink_to(bytes.capacity());
    Ok(bytes)
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
