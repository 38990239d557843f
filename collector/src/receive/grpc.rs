//! OTLP/gRPC: the calls that are served.

use bytes::Bytes;
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use sonde_daemon::receive::grpc::{accepted, encoding, message, no_grpc, refused};
use sonde_daemon::receive::is_resend;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::receive::reply::Reply;
use sonde_wire::grpc::{LOGS_EXPORT_PATH, METRICS_EXPORT_PATH, TRACES_EXPORT_PATH};
use sonde_wire::response::PartialSuccess;
use tokio::time::Instant;

use super::Receiver;
use super::metrics::Transport;
use crate::queue::Signal;

/// Answers one request of the gRPC listener.
pub async fn serve<B>(receiver: &Receiver, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    if let Some(response) = no_grpc(&head) {
        receiver.0.bounds.discard(body);
        return response;
    }
    let signal = signal(head.uri.path());
    let result = export(receiver, &head, signal, &mut body).await;
    receiver.answered(Transport::Grpc, signal, result.as_ref().map(drop), started);
    match result {
        Ok(partial) => accepted(&partial),
        Err(refusal) => {
            receiver.0.bounds.discard(body);
            refused(&refusal)
        }
    }
}

/// What a call is for.
fn signal(path: &str) -> Option<Signal> {
    match path {
        LOGS_EXPORT_PATH => Some(Signal::Logs),
        METRICS_EXPORT_PATH => Some(Signal::Metrics),
        TRACES_EXPORT_PATH => Some(Signal::Traces),
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
    receiver.admit(&head.headers, signal).await?;
    let unknown = || Refusal::new(Reason::Unknown, "nothing is served under this name");
    let signal = signal.ok_or_else(unknown)?;
    let codec = encoding(&head.headers)?;
    let message = message(receiver.bounds(signal), codec, body).await?;
    receiver.take(signal, message, is_resend(&head.headers)).await
}
