//! A response body that is made while it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Pieces that are made ahead of the client.
const AHEAD: usize = 2;

/// The making end. Dropped, the body is complete.
pub struct Sender {
    pieces: mpsc::Sender<Frame<Bytes>>,
    stall: Duration,
    runtime: Handle,
}

/// A body and the end that makes it; a client that takes nothing for `stall` is given up. To be called on the
/// runtime that sends.
pub fn channel(stall: Duration) -> (Sender, Body) {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    (Sender { pieces, stall, runtime: Handle::current() }, Body::new(Pieces(receiver)))
}

impl Sender {
    /// Hands over a piece, from a thread that may block; false when nobody takes it.
    pub fn send_blocking(&self, piece: Bytes) -> bool {
        self.runtime.block_on(self.send(piece))
    }

    /// Hands over a piece; false when nobody takes it.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.frame(Frame::data(piece)).await
    }

    /// Ends the body with trailers (RFC 9110 section 6.5), from a thread that may block; HTTP/1 sends them to whoever
    /// asked with `TE: trailers`.
    pub fn end_blocking(self, trailers: HeaderMap) {
        self.runtime.block_on(self.frame(Frame::trailers(trailers)));
    }

    async fn frame(&self, frame: Frame<Bytes>) -> bool {
        matches!(tokio::time::timeout(self.stall, self.pieces.send(frame)).await, Ok(Ok(())))
    }

    /// Whether the client is gone.
    pub fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Returns when the client is gone.
    pub async fn closed(&self) {
        self.pieces.closed().await;
    }
}

struct Pieces(mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
