//! Whether the other end of a connection has begun to speak HTTP/2: its first bytes are then a SETTINGS frame
//! (RFC 9113, section 3.4). What answers in HTTP/1 or TLS, or closes at our first words, has not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::Stream;

/// The type of a SETTINGS frame stands after three bytes of length.
const SETTINGS: (usize, u8) = (3, 4);

/// Whether it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Spoken(Arc<AtomicBool>);

impl Spoken {
    /// Whether HTTP/2 came back.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection whose first bytes are looked at.
pub(super) struct Listened {
    stream: Stream,
    spoken: Spoken,
    first: bool,
}

impl Listened {
    /// Nothing has come yet.
    pub fn new(stream: Stream) -> (Self, Spoken) {
        let spoken = Spoken::default();
        (Self { stream, spoken: spoken.clone(), first: true }, spoken)
    }
}

impl AsyncRead for Listened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.first && buf.filled().len() > before {
            self.first = false;
            let settings = buf.filled().get(before + SETTINGS.0) == Some(&SETTINGS.1);
            self.spoken.0.store(settings, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Listened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
