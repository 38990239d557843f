//! OTLP/HTTP: protobuf on `/v1/logs`, `/v1/metrics` and `/v1/traces`. JSON is refused with 415: its attributes could not be
//! added without reading all of it.

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Body;
use hyper::{Method, Request, Response};
use sonde_daemon::client::otlp::Service;
use sonde_daemon::http::Peer;
use sonde_daemon::receive::gather::Format;
use sonde_daemon::receive::http::{denied, encoding, format, refused, respond, whole};
use sonde_daemon::receive::is_resend;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::receive::reply::Reply;
use sonde_wire::response::{PartialSuccess, encode_logs_response};

use super::Receiver;
use super::relay::NotTaken;

/// Answers one request of the HTTP listener.
pub(super) async fn serve<B>(receiver: &Receiver, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (head, mut body) = request.into_parts();
    let format = format(&head.headers);
    let service = Service::of_http_path(head.uri.path());
    let result = export(receiver, &head, service, format, &mut body).await;
    receiver.0.metrics.answered(service, &result);
    match result {
        Ok(PartialSuccess { rejected, message }) => {
            respond(format, Reply::data(encode_logs_response(rejected, &message)))
        }
        Err(NotTaken::Refused(refusal)) => {
            // Who waits for `100 Continue` has sent nothing, and must not be asked to.
            if !head.headers.contains_key(hyper::header::EXPECT) {
                receiver.0.bounds.discard(body);
            }
            refused(format, &refusal)
        }
        Err(NotTaken::Relayed(relayed)) => denied(format, relayed.http, &relayed.details),
    }
}

async fn export<B>(
    receiver: &Receiver,
    head: &Parts,
    service: Option<Service>,
    format: Option<Format>,
    body: &mut B,
) -> Result<PartialSuccess, NotTaken>
where
    B: Body<Data = Bytes> + Unpin,
{
    let service = service.ok_or_else(|| {
        let expected = "nothing is served under this path (expected /v1/logs, /v1/metrics or /v1/traces)";
        Refusal::new(Reason::Unknown, expected)
    })?;
    if head.method != Method::POST {
        return Err(Refusal::new(Reason::Method, "expected POST").into());
    }
    if format != Some(Format::Protobuf) {
        let what = "expected content-type application/x-protobuf (OTLP/JSON is not taken here)";
        return Err(Refusal::new(Reason::ContentType, what).into());
    }
    let codec = encoding(&head.headers)?;
    let from = receiver.peer(head.extensions.get::<Peer>().copied()).await;
    let body = whole(&receiver.0.bounds, codec, Format::Protobuf, body).await?;
    receiver.take(service, body, from, is_resend(&head.headers)).await
}
