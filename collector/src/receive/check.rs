//! Is a received body an OTLP request? Decompressed, walked in full, and measured; what is kept is what was received.

use memchr::memchr3_iter;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::receive::admission::Grant;
use sonde_daemon::receive::gather::{Format, Gathered};
use sonde_daemon::receive::inflate::inflate;
use sonde_daemon::receive::refusal::Refusal;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::{self, MetricsRequest};

use super::json;

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

/// The largest struct is a `LogRecord`.
const LOGS_COST: JsonCost = JsonCost { object: 2 * 192, array: 4 * 192, comma: 0 };
/// The largest struct is an `ExponentialHistogramDataPoint`; all of a metric's data is in a `oneof`, of which serde
/// keeps key and value (32 bytes each), in a vector that doubles.
const METRICS_COST: JsonCost = JsonCost { object: 2 * 256 + 128, array: 4 * 256, comma: 128 };

/// Checks `body`, a request for logs. Takes as long as decompression and one walk; run it where that may block.
///
/// # Errors
/// `TooLarge`, `Malformed`, `Overload`.
pub fn check(body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    match body.format {
        Format::Protobuf => protobuf(body, limit, limits),
        Format::Json => logs_json(body, limit, limits),
    }
}

fn protobuf(mut body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let (records, length) = match body.codec {
        Encoding::Identity => (records(&body.bytes, limits)?, body.bytes.len()),
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

fn logs_json(mut body: Gathered, limit: usize, limits: &ViewLimits) -> Result<Checked, Refusal> {
    let bytes = from_json(&mut body, limit, LOGS_COST, json::request)?;
    let records = records(&bytes, limits)?;
    let uncompressed_len = length_u32(bytes.len(), limit)?;
    Ok(Checked { bytes, codec: Encoding::Identity, records, uncompressed_len, grant: body.grant })
}

/// Checks `body`, a request for metrics, and gives its content to `take`. Takes as long as decompression and one
/// walk, and as `take`; run it where that may block.
///
/// # Errors
/// `TooLarge`, `Malformed`, `Overload`.
pub fn check_metrics<T>(
    mut body: Gathered,
    limit: usize,
    limits: &ViewLimits,
    take: impl FnOnce(MetricsRequest<'_>) -> T,
) -> Result<T, Refusal> {
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let content = match (body.format, body.codec) {
        (Format::Json, _) => from_json(&mut body, limit, METRICS_COST, |text| {
            serde_json::from_slice::<ExportMetricsServiceRequest>(text)
        })?,
        (Format::Protobuf, Encoding::Identity) => std::mem::take(&mut body.bytes),
        (Format::Protobuf, codec) => {
            let outline = body.outline(limit);
            inflate(codec, &body.bytes, limit, outline.as_ref(), seen, &mut body.grant, held)?
        }
    };
    view::check_metrics(&content, limits).map_err(|error| Refusal::malformed(error.to_string()))?;
    Ok(take(MetricsRequest::trusted(&content)))
}

/// The protobuf of a JSON request, whose text is let go.
fn from_json<M: Message>(
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
