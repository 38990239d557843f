//! A frame's request as OTLP/JSON.

use std::io::{self, Read};

use serde_json::Value;

use crate::deliver::dead_letter;
use crate::queue::{Codec, Frame};

/// The request in a frame; the text says why it cannot be read.
pub fn request(frame: &Frame) -> Result<Value, String> {
    let bytes = plain(frame).map_err(|error| format!("cannot be decompressed: {error}"))?;
    dead_letter::content(frame.signal, &bytes)
}

/// Before compression: as long as the frame says that it is, and no longer.
fn plain(frame: &Frame) -> io::Result<Vec<u8>> {
    let len = u64::from(frame.uncompressed_len);
    let mut plain = Vec::new();
    match frame.codec {
        Codec::Identity => return Ok(frame.payload.to_vec()),
        Codec::Gzip => {
            flate2::read::MultiGzDecoder::new(&frame.payload[..]).take(len + 1).read_to_end(&mut plain)?
        }
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&frame.payload[..])?;
            decoder.take(len + 1).read_to_end(&mut plain)?
        }
    };
    if plain.len() as u64 > len {
        return Err(io::Error::other(format!("it is longer than the {len} bytes that it was")));
    }
    Ok(plain)
}
