//! Taking requests of strangers in: what the collector's receivers and the agent's have in common.
//!
//! A request's body is gathered within limits, in memory that was reserved first ([`gather`], [`admission`]), and
//! decompressed within limits on one of a few threads ([`inflate`], [`decoders`]); `http` and `grpc` read what a request
//! says of itself and say what became of it ([`refusal`]). What a request is for, and where it goes, is its taker's.
//!
//! # Memory
//! The sum of all bodies under way is at most what [`Admission`] shares out. Beside it each of the threads of [`Decoders`]
//! may hold a zstd window of 8 MiB and 0.5 MiB, and each connection what its server allows.

pub mod admission;
pub mod decoders;
pub mod gather;
pub mod grpc;
pub mod http;
pub mod inflate;
pub mod outline;
pub mod refusal;
pub mod reply;

use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use hyper::body::Body;
use sonde_wire::grpc::RESEND_HEADER;
use tokio::time::Instant;

use self::admission::Admission;
use self::decoders::Decoders;
use self::gather::{Patience, next_piece};

/// What a body may cost: bytes, time, and the memory and threads that all of them share. A clone shares those too.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Most bytes of a request, before and after decompression.
    pub request_bytes: usize,
    /// How slow a sender may be.
    pub patience: Patience,
    /// The memory of all requests under way.
    pub admission: Admission,
    /// The threads that decompress and check.
    pub decoders: Decoders,
}

impl Bounds {
    /// When a body that begins to arrive now has to be there.
    fn deadline(&self) -> Instant {
        Instant::now() + self.patience.whole
    }

    /// Reads and forgets what is left of a refused request's body, up to four requests and for as long as a body
    /// may pause: over HTTP/1 a sender that is still writing would otherwise see its connection reset
    /// instead of the answer.
    pub fn discard<B>(&self, mut body: B)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        if body.is_end_stream() {
            return;
        }
        let idle: Duration = self.patience.idle;
        let mut left = self.request_bytes.saturating_mul(4);
        let deadline = Instant::now() + idle;
        // Bounded by the number of connections and the deadline; a stop does not wait for it.
        tokio::spawn(async move {
            while let Ok(Some(piece)) = next_piece(&mut body, idle, deadline).await {
                left = match left.checked_sub(piece.len()) {
                    Some(left) => left,
                    None => return,
                };
            }
        });
    }
}

/// Whether the sender says that it may have sent this before.
pub fn is_resend(headers: &HeaderMap) -> bool {
    headers.get(RESEND_HEADER).is_some_and(|value| value.as_bytes() == b"1")
}
