//! A receiver that takes everything, keeps nothing and answers at once: OTLP/gRPC over h2c and OTLP/HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// What has come in.
#[derive(Debug, Default)]
pub struct Received {
    /// Requests.
    pub requests: AtomicU64,
    /// Bytes of bodies as they came.
    pub bytes: AtomicU64,
}

/// Looks at a whole body as it came.
pub type Watch = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Serves on a port of 127.0.0.1 until the runtime ends.
///
/// # Errors
/// No port.
pub async fn serve() -> anyhow::Result<(SocketAddr, Arc<Received>)> {
    serve_to(None).await
}

/// The same, and shows each body.
///
/// # Errors
/// No port.
pub async fn serve_and_watch(watch: Watch) -> anyhow::Result<(SocketAddr, Arc<Received>)> {
    serve_to(Some(watch)).await
}

async fn serve_to(watch: Option<Watch>) -> anyhow::Result<(SocketAddr, Arc<Received>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let received = Arc::new(Received::default());
    let counters = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (counters, watch) = (counters.clone(), watch.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| take(request, counters.clone(), watch.clone()));
                let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                server
                    .http2()
                    .max_frame_size(1 << 20)
                    .initial_stream_window_size(4 << 20)
                    .initial_connection_window_size(8 << 20);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok((address, received))
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn take(
    request: Request<Incoming>,
    received: Arc<Received>,
    watch: Option<Watch>,
) -> Result<Answer, hyper::Error> {
    let grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut body = request.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            received.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            if watch.is_some() {
                whole.extend_from_slice(data);
            }
        }
    }
    if let Some(watch) = watch {
        watch(&whole);
    }
    received.requests.fetch_add(1, Ordering::Relaxed);
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    let mut answer = Response::builder().status(200);
    if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        frames.push(Ok(Frame::data(Bytes::from_static(&[0; 5]))));
        frames.push(Ok(Frame::trailers(trailers)));
        answer = answer.header("content-type", "application/grpc");
    } else {
        answer = answer.header("content-type", "application/x-protobuf");
    }
    let body = StreamBody::new(Frames(frames.into_iter())).boxed();
    Ok(answer.body(body).unwrap_or_default())
}

/// A body of frames that are there already.
struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}
