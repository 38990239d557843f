//! One call of `WatchPods` over the kubelet's socket: HTTP/2 without TLS, and of gRPC what a stream of messages needs
//! (gRPC's `doc/PROTOCOL-HTTP2.md`).
//!
//! Memory: what the windows let through, and a message of [`MESSAGE_BYTES`](super::frames::MESSAGE_BYTES).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sonde_wire::grpc::{Prefix, Status, decode_message};
use tokio::net::UnixStream;

use super::frames::{FrameError, Frames};
use super::store::StoreError;

/// The version is in the service's name. The kubelet goes on serving old ones.
const WATCH: &str = "http://localhost/v1alpha1.Pods/WatchPods";
/// So much comes before the loop, which also ships logs, has had a look.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;

/// Why there is no watch, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is none.
    #[error(
        "{0} is not there: the kubelet has it since Kubernetes 1.37, before only with its feature gate (KEP-4188)"
    )]
    Absent(PathBuf),
    /// Nobody listens, or not to us.
    #[error("{0}: {1}")]
    Connect(PathBuf, io::Error),
    /// The connection broke.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// Another HTTP than gRPC's.
    #[error("the answer was {0}")]
    NoGrpc(StatusCode),
    /// The kubelet's word.
    #[error("{0}: {1}")]
    Status(Status, String),
    /// The stream ended without a word, or within a message.
    #[error("the stream was cut off")]
    Cut,
    /// A message that is none.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// An event that is none.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// It took too long.
    #[error("not all pods were told within {} s", super::SYNC.as_secs())]
    Slow,
}

impl SocketError {
    /// The kubelet has just started and does not know its pods yet.
    pub fn is_initializing(&self) -> bool {
        matches!(self, Self::Status(Status::FailedPrecondition, _))
    }
}

/// A stream of messages.
pub struct Watch {
    body: Incoming,
    frames: Frames,
    _sender: SendRequest<Full<Bytes>>,
}

impl Watch {
    /// Connects and asks.
    ///
    /// # Errors
    /// There is no socket, nobody answers, or not with a stream.
    pub async fn open(socket: &Path) -> Result<Self, SocketError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SocketError::Absent(socket.to_owned()),
            _ => SocketError::Connect(socket.to_owned(), error),
        })?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request()).await?;
        let (head, body) = response.into_parts();
        // A call that fails at once has its status in the only headers.
        if let Some(error) = failure(&head.headers) {
            return Err(error);
        }
        if head.status != StatusCode::OK {
            return Err(SocketError::NoGrpc(head.status));
        }
        Ok(Self { body, frames: Frames::default(), _sender: sender })
    }

    /// The next message; may be dropped while it waits. The kubelet does not end a watch, so its end is an error always.
    ///
    /// # Errors
    /// The stream ended, or what came is none.
    pub async fn next(&mut self) -> Result<Bytes, SocketError> {
        loop {
            if let Some(message) = self.frames.cut()? {
                return Ok(message);
            }
            let Some(frame) = self.body.frame().await else { return Err(SocketError::Cut) };
            let frame = frame?;
            if let Some(piece) = frame.data_ref() {
                self.frames.push(piece);
            } else if let Some(trailers) = frame.trailers_ref() {
                let ended = || SocketError::Status(Status::Ok, "the watch ended".to_owned());
                let whole = self.frames.is_empty();
                return Err(if whole { failure(trailers).unwrap_or_else(ended) } else { SocketError::Cut });
            }
        }
    }
}

/// An empty message, which is what `WatchPodsRequest` is.
fn request() -> Request<Full<Bytes>> {
    let prefix = Prefix { compressed: false, len: 0 }.encode();
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(&prefix)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(WATCH);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sonde-agent/", env!("CARGO_PKG_VERSION"))));
    request
}

/// What these headers or trailers say went wrong.
fn failure(headers: &HeaderMap) -> Option<SocketError> {
    let status = Status::from_trailer(headers.get("grpc-status")?.as_bytes());
    let words = headers.get("grpc-message").map(|words| decode_message(words.as_bytes())).unwrap_or_default();
    let words = words.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (status != Status::Ok).then_some(SocketError::Status(status, words))
}
