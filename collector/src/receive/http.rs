//! OTLP/HTTP: protobuf and JSON on `/v1/logs` and `/v1/metrics` (opentelemetry-proto `docs/specification.md`, "OTLP/HTTP").

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response};
use sonde_wire::grpc::StatusDetails;
use sonde_wire::response::{PartialSuccess, encode_logs_response};
use tokio::time::Instant;

use super::gather::{Format, Gather, Gathered, next_piece};
use super::metrics::Transport;
use super::refusal::{Reason, Refusal};
use super::reply::Reply;
use super::{Receiver, resend};
use crate::queue::{Codec, Signal};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// Encodings that we take.
const ENCODINGS: &str = "gzip, zstd, identity";

/// Answers one request of the HTTP listener.
pub async fn serve<B>(receiver: &Receiver, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    let format = format(&head.headers);
    let signal = signal(head.uri.path());
    let result = export(receiver, &head, signal, format, &mut body).await;
    receiver.answered(Transport::Http, signal, result.as_ref().map(drop), started);
    match result {
        Ok(partial) => respond(format, Reply::data(accepted(format, &partial))),
        Err(refusal) => {
            // Who waits for `100 Continue` has sent nothing, and must not be asked to.
            if !head.headers.contains_key(hyper::header::EXPECT) {
                receiver.discard(body);
            }
            refused(format, &refusal)
        }
    }
}

async fn export<B>(
    receiver: &Receiver,
    head: &Parts,
    signal: Option<Signal>,
    format: Option<Format>,
    body: &mut B,
) -> Result<PartialSuccess, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    receiver.admit(&head.headers).await?;
    let signal = signal.ok_or_else(|| {
        Refusal::new(Reason::Unknown, "nothing is served under this path (expected /v1/logs or /v1/metrics)")
    })?;
    if head.method != Method::POST {
        return Err(Refusal::new(Reason::Method, "expected POST"));
    }
    let format = format.ok_or_else(|| {
        Refusal::new(Reason::ContentType, "expected content-type application/x-protobuf or application/json")
    })?;
    let codec = encoding(&head.headers)?;
    let body = whole(receiver, codec, format, body).await?;
    receiver.take(signal, body, resend(&head.headers)).await
}

/// What a path is for.
fn signal(path: &str) -> Option<Signal> {
    match path {
        "/v1/logs" => Some(Signal::Logs),
        "/v1/metrics" => Some(Signal::Metrics),
        _ => None,
    }
}

/// The body of a good answer; only metrics are ever taken in part.
fn accepted(format: Option<Format>, partial: &PartialSuccess) -> Vec<u8> {
    let PartialSuccess { rejected, message } = partial;
    if format != Some(Format::Json) {
        return encode_logs_response(*rejected, message);
    }
    if *rejected == 0 && message.is_empty() {
        return b"{}".to_vec();
    }
    // An int64 is a string in the JSON mapping.
    let partial = serde_json::json!({"rejectedDataPoints": rejected.to_string(), "errorMessage": message});
    serde_json::json!({"partialSuccess": partial}).to_string().into_bytes()
}

async fn whole<B>(
    receiver: &Receiver,
    codec: Codec,
    format: Format,
    body: &mut B,
) -> Result<Gathered, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let shared = &receiver.0;
    let deadline = receiver.deadline();
    let known = body.size_hint().exact();
    let mut gather = Gather::new(codec, format, known, shared.settings.request_bytes, &shared.admission)?;
    while let Some(piece) = next_piece(body, shared.settings.patience.idle, deadline).await? {
        gather.push(&piece)?;
        gather = gather.probe(&shared.decoders, shared.settings.patience.turn()).await?;
    }
    gather.finish()
}

fn format(headers: &HeaderMap) -> Option<Format> {
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

fn encoding(headers: &HeaderMap) -> Result<Codec, Refusal> {
    let refusal =
        || Refusal::new(Reason::Encoding, "this content-encoding is not taken (expected gzip, zstd or none)");
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Codec::Identity) };
    let name = value.to_str().map_err(|_| refusal())?.trim().to_ascii_lowercase();
    match (name.as_str(), values.next()) {
        ("" | "identity" | "none", None) => Ok(Codec::Identity),
        ("gzip" | "x-gzip", None) => Ok(Codec::Gzip),
        ("zstd", None) => Ok(Codec::Zstd),
        _ => Err(refusal()),
    }
}

/// A refusal with a `google.rpc.Status` in the request's own format, protobuf where that is not known.
fn refused(format: Option<Format>, refusal: &Refusal) -> Response<Reply> {
    let reason = refusal.reason;
    let details = StatusDetails {
        status: reason.grpc(),
        message: refusal.message.clone().into_owned(),
        retry_delay: reason.retry_after(),
    };
    let body = if format == Some(Format::Json) { json(&details) } else { details.encode() };
    let mut response = respond(format, Reply::data(body));
    *response.status_mut() = reason.http();
    let headers = response.headers_mut();
    if let Some(delay) = reason.retry_after() {
        headers.insert(RETRY_AFTER, delay.as_secs().into());
    }
    match reason {
        Reason::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        Reason::Unauthenticated => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        // RFC 9110 section 12.5.3: so the sender learns what it may use.
        Reason::Encoding => drop(headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS))),
        _ => {}
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

fn respond(format: Option<Format>, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    let name = if format == Some(Format::Json) { JSON } else { PROTOBUF };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(name));
    response
}
