//! gRPC: one unary call, framed by ourselves so that a compressed message stays as it was received.
//!
//! gRPC over HTTP/2 is `doc/PROTOCOL-HTTP2.md` and `doc/compression.md` of the gRPC project.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Body;
use sonde_wire::grpc::{Prefix, PrefixError, STATUS_DETAILS_TRAILER, Status, StatusDetails, encode_message};
use sonde_wire::response::{PartialSuccess, encode_logs_response};

use super::Bounds;
use super::gather::{Format, Gather, Gathered, next_piece};
use super::refusal::{Reason, Refusal};
use super::reply::Reply;
use crate::client::otlp::packer::Encoding;

const CONTENT_TYPE_GRPC: &str = "application/grpc";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Encodings that we take.
const ENCODINGS: &str = "identity,gzip,zstd";

/// The answer to what is no gRPC: an HTTP answer, as the protocol page asks for.
pub fn no_grpc(head: &Parts) -> Option<Response<Reply>> {
    let status = if head.method != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc(&head.headers) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Reply::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

/// `application/grpc`, or that with `+proto` or parameters.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let Some((start, rest)) = value.split_at_checked(CONTENT_TYPE_GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(CONTENT_TYPE_GRPC.as_bytes())
        && (rest.is_empty() || rest.starts_with(b";") || rest.to_ascii_lowercase().starts_with(b"+proto"))
}

/// How the call's message is compressed, if it is.
///
/// # Errors
/// `Encoding`.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    match headers.get(ENCODING).map_or(&b"identity"[..], |value| value.as_bytes()) {
        b"identity" => Ok(Encoding::Identity),
        b"gzip" => Ok(Encoding::Gzip),
        b"zstd" => Ok(Encoding::Zstd),
        _ => Err(Refusal::new(
            Reason::Encoding,
            "this grpc-encoding is not taken (expected identity, gzip or zstd)",
        )),
    }
}

/// The one message of a unary call.
///
/// # Errors
/// `Malformed`, `TooLarge`, `Overload`, `Slow`, `Aborted`.
pub async fn message<B>(bounds: &Bounds, codec: Encoding, body: &mut B) -> Result<Gathered, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let deadline = bounds.deadline();
    let mut prefix = [0u8; Prefix::LEN];
    let mut have = 0usize;
    let mut gather: Option<Gather> = None;
    while let Some(piece) = next_piece(body, bounds.patience.idle, deadline).await? {
        let take = piece.len().min(Prefix::LEN - have);
        prefix[have..have + take].copy_from_slice(&piece[..take]);
        have += take;
        if have < Prefix::LEN {
            continue;
        }
        let mut message = match gather.take() {
            Some(message) => message,
            None => start(&prefix, codec, bounds)?,
        };
        message.push(&piece[take..])?;
        gather = Some(message.probe(&bounds.decoders, bounds.patience.turn()).await?);
    }
    gather.ok_or_else(|| Refusal::malformed("the request has no message"))?.finish()
}

fn start(prefix: &[u8; Prefix::LEN], codec: Encoding, bounds: &Bounds) -> Result<Gather, Refusal> {
    let limit = bounds.request_bytes;
    let prefix = Prefix::decode(*prefix, limit).map_err(|error| match error {
        PrefixError::Flag(_) => Refusal::malformed(error.to_string()),
        PrefixError::TooLarge { .. } => Refusal::new(Reason::TooLarge, error.to_string()),
    })?;
    let codec = match (prefix.compressed, codec) {
        (false, _) => Encoding::Identity,
        (true, Encoding::Identity) => {
            return Err(Refusal::malformed("a compressed message without grpc-encoding"));
        }
        (true, codec) => codec,
    };
    Gather::new(codec, Format::Protobuf, Some(u64::from(prefix.len)), limit, &bounds.admission)
}

/// A good answer, with what of the request was not taken.
pub fn accepted(partial: &PartialSuccess) -> Response<Reply> {
    let answer = encode_logs_response(partial.rejected, &partial.message);
    // Words are short: our own, and those of others were cut when they were read.
    let len = u32::try_from(answer.len()).unwrap_or_default();
    let message = [&Prefix { compressed: false, len }.encode()[..], &answer].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, u16::from(Status::Ok.number()).into());
    respond(Reply::with_trailers(message, trailers))
}

/// A refusal in one set of headers, without a body ("Trailers-Only").
pub fn refused(refusal: &Refusal) -> Response<Reply> {
    denied(&StatusDetails {
        status: refusal.reason.grpc(),
        message: refusal.message.clone().into_owned(),
        retry_delay: refusal.reason.retry_after(),
    })
}

/// An answer that is not OK, in one set of headers.
pub fn denied(details: &StatusDetails) -> Response<Reply> {
    let mut response = respond(Reply::default());
    let headers = response.headers_mut();
    headers.insert(STATUS, u16::from(details.status.number()).into());
    if let Ok(message) = encode_message(&details.message).parse() {
        headers.insert(MESSAGE, message);
    }
    if details.retry_delay.is_some()
        && let Ok(details) = details.encode_trailer().parse()
    {
        headers.insert(HeaderName::from_static(STATUS_DETAILS_TRAILER), details);
    }
    response
}

fn respond(reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_GRPC));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS));
    response
}
