//! A connection's bytes: the first ones looked at and put back, and writes that may not stall for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How HTTP/2 with prior knowledge starts (RFC 9113, section 3.4). No HTTP/1 method does.
const PREFACE: &[u8; 3] = b"PRI";

/// See the module's head.
#[derive(Debug)]
pub(super) struct Guarded<I> {
    io: I,
    /// Bytes that were looked at; `taken` of them have been read since.
    first: [u8; 3],
    filled: usize,
    taken: usize,
    stall_timeout: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guarded<I> {
    pub(super) fn new(io: I, stall_timeout: Duration) -> Self {
        Self { io, first: [0; 3], filled: 0, taken: 0, stall_timeout, stalled: None }
    }

    /// Looks at the first bytes, which stay to be read.
    pub(super) async fn starts_as_http2(&mut self) -> io::Result<bool> {
        while self.filled < PREFACE.len() && self.first[..self.filled] == PREFACE[..self.filled] {
            let got = self.io.read(&mut self.first[self.filled..]).await?;
            if got == 0 {
                break;
            }
            self.filled += got;
        }
        Ok(self.first[..self.filled] == PREFACE[..])
    }

    fn stalls<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timeout = self.stall_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken < self.filled {
            let end = self.filled.min(self.taken + into.remaining());
            into.put_slice(&self.first[self.taken..end]);
            self.taken = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.stalls(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.stalls(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(context);
        self.stalls(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(context);
        self.stalls(context, result)
    }
}
