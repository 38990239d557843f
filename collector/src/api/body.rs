//! A response body that is made while it is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The making end. Where it is dropped before [`Sender::finish`], the body breaks off and the client sees that it did.
pub struct Sender {
    pieces: mpsc::Sender<Frame<Bytes>>,
    finished: Arc<AtomicBool>,
    stall: Duration,
    runtime: Handle,
}

/// What became of a piece that should not wait long.
pub enum Sent {
    /// It is on its way.
    Yes,
    /// The client is slow; this is the piece.
    NotYet(Bytes),
    /// The client is gone.
    Gone,
}

/// A body and the end that makes it; a client that takes nothing for `stall` is given up. To be called on the
/// runtime that sends.
pub fn channel(stall: Duration) -> (Sender, Body) {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    let finished = Arc::new(AtomicBool::new(false));
    let body = Body::new(Pieces { receiver, finished: Arc::clone(&finished) });
    (Sender { pieces, finished, stall, runtime: Handle::current() }, body)
}

impl Sender {
    /// Hands over a piece, from a thread that may block for as long as `patience`.
    pub fn offer_blocking(&self, piece: Bytes, patience: Duration) -> Sent {
        let reserve = async { tokio::time::timeout(patience, self.pieces.reserve()).await };
        match self.runtime.block_on(reserve) {
            Ok(Ok(place)) => {
                place.send(Frame::data(piece));
                Sent::Yes
            }
            Ok(Err(_)) => Sent::Gone,
            Err(_) => Sent::NotYet(piece),
        }
    }

    /// Hands over a piece; false when nobody takes it.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.frame(Frame::data(piece)).await
    }

    /// The body is complete.
    pub fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Ends the body with trailers (RFC 9110 section 6.5); HTTP/1 sends them to whoever asked with `TE: trailers`.
    pub async fn finish_with(self, trailers: HeaderMap) {
        if self.frame(Frame::trailers(trailers)).await {
            self.finish();
        }
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

struct Pieces {
    receiver: mpsc::Receiver<Frame<Bytes>>,
    finished: Arc<AtomicBool>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.receiver.poll_recv(context) {
            Poll::Ready(None) if !self.finished.load(Ordering::Acquire) => {
                Poll::Ready(Some(Err(io::Error::other("the answer was given up"))))
            }
            other => other.map(|frame| frame.map(Ok)),
        }
    }
}
