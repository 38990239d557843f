//! What is done to a body between its arrival and its way on: decompressed, given attributes, compressed. Blocks; takes as
//! long as that.

use bytes::Bytes;
use sonde_daemon::client::otlp::Client;
use sonde_daemon::client::otlp::packer::{Encoding, Packed};
use sonde_daemon::receive::admission::Grant;
use sonde_daemon::receive::gather::{Format, Gathered};
use sonde_daemon::receive::inflate::inflate;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_wire::enrich::{EnrichError, enrich, enriched_len};

use super::GROWTH;
use super::attributes::Sender;

/// A request that can go on.
#[derive(Debug)]
pub(super) struct Prepared {
    /// As it is sent.
    pub packed: Packed,
    /// The memory that covers it.
    pub grant: Grant,
    /// Bytes after decompression, as the app made them.
    pub came_bytes: usize,
}

/// Prepares `body`, which `sender` sent, for the receiver behind `client`. `limit` is the largest a request may be.
///
/// # Errors
/// `TooLarge`, `Malformed`, `Overload`, `ContentType`.
pub(super) fn prepare(
    mut body: Gathered,
    limit: usize,
    sender: &Sender,
    client: &Client,
) -> Result<Prepared, Refusal> {
    if body.format != Format::Protobuf {
        return Err(Refusal::new(Reason::ContentType, "OTLP/JSON is not taken (expected protobuf)"));
    }
    let (held, seen) = (body.bytes.capacity(), body.impression());
    let content = match body.codec {
        Encoding::Identity => std::mem::take(&mut body.bytes),
        codec => {
            let outline = body.outline(limit);
            let content = inflate(codec, &body.bytes, limit, outline.as_ref(), seen, &mut body.grant, held)?;
            drop(std::mem::take(&mut body.bytes));
            content
        }
    };
    let mut grant = body.grant;
    grant.shrink_to(content.capacity());
    let came_bytes = content.len();

    let most = limit.saturating_mul(GROWTH);
    let length = enriched_len(&content, most, |said| sender.attributes(said)).map_err(refused)?;
    grant.grow_to(content.capacity().saturating_add(length))?;
    let mut request = Vec::with_capacity(length);
    enrich(&content, |said| sender.attributes(said), &mut request).map_err(refused)?;
    drop(content);

    // Compressed it is hardly ever longer, and never by more than this.
    grant.grow_to(length.saturating_mul(2).saturating_add(SLACK))?;
    let packed = client.pack(&Bytes::from(request)).map_err(|error| {
        tracing::error!(%error, "a request of an app cannot be sent on");
        Refusal::new(Reason::Internal, "the request could not be compressed")
    })?;
    grant.shrink_to(packed.message.len());
    Ok(Prepared { packed, grant, came_bytes })
}

/// What a request that cannot be compressed grows by at most, but for a 128th (zstd's `compressBound`).
const SLACK: usize = 64 << 10;

fn refused(error: EnrichError) -> Refusal {
    let reason = match error {
        EnrichError::Proto(_) => Reason::Malformed,
        EnrichError::TooLarge(_) => Reason::TooLarge,
    };
    Refusal::new(reason, error.to_string())
}
