//! OTLP/HTTP: protobuf and JSON on `/v1/logs`, `/v1/metrics` and `/v1/traces` (opentelemetry-proto `docs/specification.md`,
//! "OTLP/HTTP").

use bytes::Bytes;
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use sonde_daemon::receive::gather::Format;
use sonde_daemon::receive::http::{encoding, format, refused, respond, whole};
use sonde_daemon::receive::is_resend;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::receive::reply::Reply;
use sonde_wire::response::{PartialSuccess, encode_logs_response};
use tokio::time::Instant;

use super::Receiver;
use super::metrics::Transport;
use crate::queue::Signal;

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
                receiver.0.bounds.discard(body);
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
    receiver.admit(&head.headers, signal).await?;
    let signal = signal.ok_or_else(|| {
        let message = "nothing is served under this path (expected /v1/logs, /v1/metrics or /v1/traces)";
        Refusal::new(Reason::Unknown, message)
    })?;
    if head.method != Method::POST {
        return Err(Refusal::new(Reason::Method, "expected POST"));
    }
    let format = format.ok_or_else(|| {
        Refusal::new(Reason::ContentType, "expected content-type application/x-protobuf or application/json")
    })?;
    let codec = encoding(&head.headers)?;
    let body = whole(receiver.bounds(signal), codec, format, body).await?;
    receiver.take(signal, body, is_resend(&head.headers)).await
}

/// What a path is for.
fn signal(path: &str) -> Option<Signal> {
    match path {
        "/v1/logs" => Some(Signal::Logs),
        "/v1/metrics" => Some(Signal::Metrics),
        "/v1/traces" => Some(Signal::Traces),
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
