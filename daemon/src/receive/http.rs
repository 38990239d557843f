//! OTLP/HTTP: bodies in protobuf and JSON (opentelemetry-proto `docs/specification.md`, "OTLP/HTTP").

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body;
use sonde_wire::grpc::StatusDetails;

use super::Bounds;
use super::gather::{Format, Gather, Gathered, next_piece};
use super::refusal::{Reason, Refusal};
use super::reply::Reply;
use crate::client::otlp::packer::Encoding;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// Encodings that we take.
const ENCODINGS: &str = "gzip, zstd, identity";

/// The whole body of a request.
///
/// # Errors
/// `Malformed`, `TooLarge`, `Overload`, `Slow`, `Aborted`.
pub async fn whole<B>(
    bounds: &Bounds,
    codec: Encoding,
    format: Format,
    body: &mut B,
) -> Result<Gathered, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let deadline = bounds.deadline();
    let known = body.size_hint().exact();
    let mut gather = Gather::new(codec, format, known, bounds.request_bytes, &bounds.admission)?;
    while let Some(piece) = next_piece(body, bounds.patience.idle, deadline).await? {
        gather.push(&piece)?;
        gather = gather.probe(&bounds.decoders, bounds.patience.turn()).await?;
    }
    gather.finish()
}

/// What a body's content is, by its `content-type`.
pub fn format(headers: &HeaderMap) -> Option<Format> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(PROTOBUF) {
        Some(Format::Protobuf)
    } else if essence.eq_ignore_ascii_case(JSON) {
        Some(Format::Json)
    } else {
        None
    }
}

/// How a body is compressed, if it is.
///
/// # Errors
/// `Encoding`.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let refusal =
        || Refusal::new(Reason::Encoding, "this content-encoding is not taken (expected gzip, zstd or none)");
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let name = value.to_str().map_err(|_| refusal())?.trim().to_ascii_lowercase();
    match (name.as_str(), values.next()) {
        ("" | "identity" | "none", None) => Ok(Encoding::Identity),
        ("gzip" | "x-gzip", None) => Ok(Encoding::Gzip),
        ("zstd", None) => Ok(Encoding::Zstd),
        _ => Err(refusal()),
    }
}

/// A refusal with a `google.rpc.Status` in the request's own format, protobuf where that is not known.
pub fn refused(format: Option<Format>, refusal: &Refusal) -> Response<Reply> {
    let reason = refusal.reason;
    let details = StatusDetails {
        status: reason.grpc(),
        message: refusal.message.clone().into_owned(),
        retry_delay: reason.retry_after(),
    };
    let mut response = denied(format, reason.http(), &details);
    let headers = response.headers_mut();
    match reason {
        Reason::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        Reason::Unauthenticated => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        // RFC 9110 section 12.5.3: so the sender learns what it may use.
        Reason::Encoding => drop(headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS))),
        _ => {}
    }
    response
}

/// An answer that is no success, with its details in the request's own format.
pub fn denied(format: Option<Format>, status: StatusCode, details: &StatusDetails) -> Response<Reply> {
    let body = if format == Some(Format::Json) { json(details) } else { details.encode() };
    let mut response = respond(format, Reply::data(body));
    *response.status_mut() = status;
    if let Some(delay) = details.retry_delay {
        // Whole seconds, and never sooner than was asked for.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// The JSON mapping of a `google.rpc.Status`.
fn json(details: &StatusDetails) -> Vec<u8> {
    let retry: Vec<_> = details
        .retry_delay
        .iter()
        .map(|delay| {
            serde_json::json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", delay.as_secs_f64()),
            })
        })
        .collect();
    let status = serde_json::json!({
        "code": details.status.number(),
        "message": details.message,
        "details": retry,
    });
    status.to_string().into_bytes()
}

/// An answer 200 with a body in the request's own format.
pub fn respond(format: Option<Format>, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    let name = if format == Some(Format::Json) { JSON } else { PROTOBUF };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(name));
    response
}
