//! gRPC's messages, cut out of the pieces in which they come. Pure.

use bytes::{Buf, Bytes, BytesMut};
use sonde_wire::grpc::{Prefix, PrefixError};

/// A longer message is refused: etcd has no object of more than 1.5 MiB.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// Why what comes is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Its first five bytes.
    #[error("{0}")]
    Prefix(#[from] PrefixError),
    /// Compressed, which nobody asked for.
    #[error("a message is compressed")]
    Compressed,
}

/// What came and is not taken yet: a message at most, and the piece with its end.
#[derive(Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message, if all of it has come.
    ///
    /// # Errors
    /// It is none; what follows cannot be read either.
    pub fn cut(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk::<{ Prefix::LEN }>() else { return Ok(None) };
        let prefix = Prefix::decode(*bytes, MESSAGE_BYTES)?;
        if prefix.compressed {
            return Err(FrameError::Compressed);
        }
        let len = usize::try_from(prefix.len).unwrap_or(MESSAGE_BYTES);
        if self.buffer.len() - Prefix::LEN < len {
            return Ok(None);
        }
        self.buffer.advance(Prefix::LEN);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Whether nothing is left of a message.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}
