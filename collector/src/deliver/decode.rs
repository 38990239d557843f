//! A frame's payload as it was before compression.

use std::io::Read;

use sonde_wire::limits::ViewLimits;
use sonde_wire::view::ViewError;

use crate::queue::{Codec, Frame};

/// What may be read out of the queue: no less than `receive` lets in.
pub const LIMITS: ViewLimits =
    ViewLimits { records: u32::MAX, groups: u32::MAX, values: u32::MAX, depth: ViewLimits::MAX_DEPTH };
/// The buffer is given back above this.
const KEPT_BYTES: usize = 4 << 20;

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its compression is broken.
    #[error("cannot be decompressed: {0}")]
    Compression(#[from] std::io::Error),
    /// It is larger than a request may be.
    #[error("is larger than {0} bytes")]
    TooLarge(usize),
    /// What is in it is not a request.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Decompresses frame after frame into one buffer.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// The payload before compression, at most `limit` bytes.
    pub fn decode<'a>(&'a mut self, frame: &'a Frame, limit: usize) -> Result<&'a [u8], DecodeError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        let over = limit as u64 + 1;
        match frame.codec {
            Codec::Identity if frame.payload.len() > limit => return Err(DecodeError::TooLarge(limit)),
            Codec::Identity => return Ok(&frame.payload),
            Codec::Gzip => flate2::read::MultiGzDecoder::new(&frame.payload[..])
                .take(over)
                .read_to_end(&mut self.buffer)?,
            Codec::Zstd => {
                let frames = zstd::stream::read::Decoder::with_buffer(&frame.payload[..])?;
                frames.take(over).read_to_end(&mut self.buffer)?
            }
        };
        if self.buffer.len() > limit {
            return Err(DecodeError::TooLarge(limit));
        }
        Ok(&self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::queue::Signal;

    fn frame(codec: Codec, payload: Vec<u8>) -> Frame {
        Frame {
            signal: Signal::Logs,
            codec,
            resend: false,
            received_unix_nano: 1,
            records: 1,
            uncompressed_len: 0,
            payload: Bytes::from(payload),
        }
    }

    #[test]
    fn each_codec_is_read_and_held_to_the_limit() {
        let plain = b"hello ".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::bulk::compress(&plain, 1).unwrap();
        let codecs =
            [(Codec::Identity, plain.clone()), (Codec::Gzip, gzip.finish().unwrap()), (Codec::Zstd, zstd)];
        let mut decoder = Decoder::default();
        for (codec, payload) in codecs {
            let frame = frame(codec, payload);
            assert_eq!(decoder.decode(&frame, 600).unwrap(), plain);
            assert!(matches!(decoder.decode(&frame, 599), Err(DecodeError::TooLarge(599))), "{codec:?}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(payload: Vec<u8>, codec in 0..3_u8) {
            let codec = [Codec::Identity, Codec::Gzip, Codec::Zstd][usize::from(codec)];
            let _ = Decoder::default().decode(&frame(codec, payload), 1 << 16);
        }
    }
}
