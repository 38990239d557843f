//! A frame's request as OTLP/JSON.

use std::io::{self, Read};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;

use crate::queue::{Codec, Frame, Signal};

/// The request in a frame; the text says why it cannot be read.
pub fn request(frame: &Frame) -> Result<Value, String> {
    let bytes = plain(frame).map_err(|error| format!("cannot be decompressed: {error}"))?;
    let json = match frame.signal {
        Signal::Logs => ExportLogsServiceRequest::decode(&*bytes).map(serde_json::to_value),
        Signal::Metrics => ExportMetricsServiceRequest::decode(&*bytes).map(serde_json::to_value),
        Signal::Traces => ExportTraceServiceRequest::decode(&*bytes).map(serde_json::to_value),
    };
    match json {
        Ok(Ok(json)) => Ok(json),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
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
