//! OTLP/gRPC: the three services.

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Body;
use hyper::{Request, Response};
use sonde_daemon::client::otlp::Service;
use sonde_daemon::http::Peer;
use sonde_daemon::receive::grpc::{accepted, denied, encoding, message, no_grpc, refused};
use sonde_daemon::receive::is_resend;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::receive::reply::Reply;
use sonde_wire::response::PartialSuccess;

use super::Receiver;
use super::relay::NotTaken;

/// Answers one request of the gRPC listener.
pub(super) async fn serve<B>(receiver: &Receiver, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (head, mut body) = request.into_parts();
    if let Some(response) = no_grpc(&head) {
        receiver.0.bounds.discard(body);
        return response;
    }
    let service = Service::of_grpc_path(head.uri.path());
    let result = export(receiver, &head, service, &mut body).await;
    receiver.0.metrics.answered(service, &result);
    match result {
        Ok(partial) => accepted(&partial),
        Err(NotTaken::Refused(refusal)) => {
            receiver.0.bounds.discard(body);
            refused(&refusal)
        }
        Err(NotTaken::Relayed(relayed)) => denied(&relayed.details),
    }
}

async fn export<B>(
    receiver: &Receiver,
    head: &Parts,
    service: Option<Service>,
    body: &mut B,
) -> Result<PartialSuccess, NotTaken>
where
    B: Body<Data = Bytes> + Unpin,
{
    let unknown = || Refusal::new(Reason::Unknown, "nothing is served under this name");
    let service = service.ok_or_else(unknown)?;
    let codec = encoding(&head.headers)?;
    let from = receiver.peer(head.extensions.get::<Peer>().copied()).await;
    let message = message(&receiver.0.bounds, codec, body).await?;
    receiver.take(service, message, from, is_resend(&head.headers)).await
}
