//! A proxy between agent and collector that breaks the promise once, to show that the comparison notices.
//!
//! It speaks OTLP/HTTP without compression; the demo sets the agent to that when it is asked to sabotage.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// Acknowledge a request and throw it away.
    Drop,
    /// Deliver a request a second time with one record under another uid.
    Double,
}

/// The request that is tampered with.
const VICTIM: u64 = 2;

/// The attribute with its value's start in OTLP: field 2 (value) of 34 bytes, in it field 1 (string) of 32 bytes.
const UID: &[u8] = b"log.record.uid\x12\x22\x0a\x20";

/// Listens on a free port and forwards `/v1/logs` to the collector.
pub(crate) async fn start(sabotage: Sabotage, collector: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let count = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                    async move {
                        let answer = pass(sabotage, collector, number, request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|_| unavailable()))
                    }
                });
                // A broken connection is the agent's to retry.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(address)
}

async fn pass(
    sabotage: Sabotage,
    collector: SocketAddr,
    number: u64,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if number != VICTIM {
        return forward(collector, &head, body).await;
    }
    match sabotage {
        Sabotage::Drop => {
            let mut response = Response::new(Full::default());
            let protobuf = header::HeaderValue::from_static("application/x-protobuf");
            response.headers_mut().insert(header::CONTENT_TYPE, protobuf);
            Ok(response)
        }
        Sabotage::Double => {
            let answer = forward(collector, &head, body.clone()).await?;
            forward(collector, &head, other_uid(&body)).await?;
            Ok(answer)
        }
    }
}

async fn forward(
    collector: SocketAddr,
    head: &http::request::Parts,
    body: Bytes,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let stream = TcpStream::connect(collector).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.path().parse()?;
    *request.headers_mut() = head.headers.clone();
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

/// The request with the first digit of its first uid changed: for the store a record of a file never seen.
fn other_uid(body: &[u8]) -> Bytes {
    let mut body = body.to_vec();
    if let Some(at) = body.windows(UID.len()).position(|window| window == UID) {
        let digit = &mut body[at + UID.len()];
        *digit = if *digit == b'f' { b'0' } else { b'f' };
    }
    body.into()
}

fn unavailable() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_changes_and_nothing_else() {
        let before =
            [&b"xx"[..], UID, b"0123456789abcdef0123456789abcdef", UID, b"0123456789abcdef0123456789abcdef"]
                .concat();
        let after = other_uid(&before);
        let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        assert_eq!(changed, [2 + UID.len()]);
        assert_eq!(&other_uid(b"nothing here")[..], b"nothing here");
    }
}
