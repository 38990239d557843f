//! OTLP/gRPC: one unary call, framed by ourselves so that a compressed message stays as it was received.
//!
//! gRPC over HTTP/2 is `doc/PROTOCOL-HTTP2.md` and `doc/compression.md` of the gRPC project.

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use sonde_wire::grpc::{
    LOGS_EXPORT_PATH, METRICS_EXPORT_PATH, Prefix, PrefixError, STATUS_DETAILS_TRAILER, Status,
    StatusDetails, encode_message,
};
use sonde_wire::response::{PartialSuccess, encode_logs_response};
use tokio::time::Instant;

use super::gather::{Format, Gather, Gathered, next_piece};
use super::metrics::Transport;
use super::refusal::{Reason, Refusal};
use super::reply::Reply;
use super::{Receiver, resend};
use crate::queue::{Codec, Signal};

const CONTENT_TYPE_GRPC: &str = "application/grpc";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Encodings that we take.
const ENCODINGS: &str = "identity,gzip,zstd";

/// Answers one request of the gRPC listener.
pub async fn serve<B>(receiver: &Receiver, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    // What is no gRPC gets an HTTP answer, as the protocol page asks for.
    if let Some(response) = no_grpc(&head) {
        receiver.discard(body);
        return response;
    }
    let signal = signal(head.uri.path());
    let result = export(receiver, &head, signal, &mut body).await;
    receiver.answered(Transport::Grpc, signal, result.as_ref().map(drop), started);
    match result {
        Ok(partial) => {
            let answer = encode_logs_response(partial.rejected, &partial.message);
            // Our own words are short.
            let len = u32::try_from(answer.len()).unwrap_or_default();
            let message = [&Prefix { compressed: false, len }.encode()[..], &answer].concat();
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, u16::from(Status::Ok.number()).into());
            respond(Reply::with_trailers(message, trailers))
        }
        Err(refusal) => {
            receiver.discard(body);
            refused(&refusal)
        }
    }
}

/// What a call is for.
fn signal(path: &str) -> Option<Signal> {
    match path {
        LOGS_EXPORT_PATH => Some(Signal::Logs),
        METRICS_EXPORT_PATH => Some(Signal::Metrics),
        _ => None,
    }
}

async fn export<B>(
    receiver: &Receiver,
    head: &Parts,
    signal: Option<Signal>,
    body: &mut B,
) -> Result<PartialSuccess, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    receiver.admit(&head.headers).await?;
    let unknown = || Refusal::new(Reason::Unknown, "nothing is served under this name");
    let signal = signal.ok_or_else(unknown)?;
    let codec = encoding(&head.headers)?;
    let message = message(receiver, codec, body).await?;
    receiver.take(signal, message, resend(&head.headers)).await
}

fn no_grpc(head: &Parts) -> Option<Response<Reply>> {
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
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("POST"));
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

fn encoding(headers: &HeaderMap) -> Result<Codec, Refusal> {
    match headers.get(ENCODING).map_or(&b"identity"[..], |value| value.as_bytes()) {
        b"identity" => Ok(Codec::Identity),
        b"gzip" => Ok(Codec::Gzip),
        b"zstd" => Ok(Codec::Zstd),
        _ => Err(Refusal::new(
            Reason::Encoding,
            "this grpc-encoding is not taken (expected identity, gzip or zstd)",
        )),
    }
}

/// The one message of a unary call.
async fn message<B>(receiver: &Receiver, codec: Codec, body: &mut B) -> Result<Gathered, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let shared = &receiver.0;
    let limit = shared.settings.request_bytes;
    let deadline = receiver.deadline();
    let mut prefix = [0u8; Prefix::LEN];
    let mut have = 0usize;
    let mut gather: Option<Gather> = None;
    while let Some(piece) = next_piece(body, shared.settings.patience.idle, deadline).await? {
        let take = piece.len().min(Prefix::LEN - have);
        prefix[have..have + take].copy_from_slice(&piece[..take]);
        have += take;
        if have < Prefix::LEN {
            continue;
        }
        let mut message = match gather.take() {
            Some(message) => message,
            None => start(&prefix, codec, limit, receiver)?,
        };
        message.push(&piece[take..])?;
        gather = Some(message.probe(&shared.decoders, shared.settings.patience.turn()).await?);
    }
    gather.ok_or_else(|| Refusal::malformed("the request has no message"))?.finish()
}

fn start(
    prefix: &[u8; Prefix::LEN],
    codec: Codec,
    limit: usize,
    receiver: &Receiver,
) -> Result<Gather, Refusal> {
    let prefix = Prefix::decode(*prefix, limit).map_err(|error| match error {
        PrefixError::Flag(_) => Refusal::malformed(error.to_string()),
        PrefixError::TooLarge { .. } => Refusal::new(Reason::TooLarge, error.to_string()),
    })?;
    let codec = match (prefix.compressed, codec) {
        (false, _) => Codec::Identity,
        (true, Codec::Identity) => {
            return Err(Refusal::malformed("a compressed message without grpc-encoding"));
        }
        (true, codec) => codec,
    };
    Gather::new(codec, Format::Protobuf, Some(u64::from(prefix.len)), limit, &receiver.0.admission)
}

/// A refusal in one set of headers, without a body ("Trailers-Only").
fn refused(refusal: &Refusal) -> Response<Reply> {
    let status = refusal.reason.grpc();
    let mut response = respond(Reply::default());
    let headers = response.headers_mut();
    headers.insert(STATUS, u16::from(status.number()).into());
    if let Ok(message) = encode_message(&refusal.message).parse() {
        headers.insert(MESSAGE, message);
    }
    if let Some(delay) = refusal.reason.retry_after() {
        let details =
            StatusDetails { status, message: refusal.message.clone().into_owned(), retry_delay: Some(delay) };
        if let Ok(details) = details.encode_trailer().parse() {
            headers.insert(HeaderName::from_static(STATUS_DETAILS_TRAILER), details);
        }
    }
    response
}

fn respond(reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(CONTENT_TYPE_GRPC));
    headers.insert(ACCEPT_ENCODING, hyper::header::HeaderValue::from_static(ENCODINGS));
    response
}
