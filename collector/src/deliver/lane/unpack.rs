//! Frames as a batch.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sonde_wire::view::LogsRequest;

use super::LaneOptions;
use crate::deliver::batch::{Batch, Unit};
use crate::deliver::decode::{self, Decoder};
use crate::deliver::{cluster, dead_letter};
use crate::queue::{Entry, Position, Signal};

/// After this time in the queue, a frame may have come to another collector as well and gone out from there.
const OLD: Duration = Duration::from_secs(30);

/// Frames as a batch, dead letters for those that cannot be read, and how many records were in those. `forwards` keeps
/// beside the content how it came.
pub(super) fn unpack(
    options: &LaneOptions,
    forwards: bool,
    entries: Vec<Entry>,
    fresh_from: Position,
) -> (Batch, Vec<u8>, u64) {
    let (name, most) = (options.name.as_str(), options.request_bytes);
    let (mut units, mut doubts, mut letters, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut decoder, mut first) = (Decoder::default(), 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for entry in entries {
        let frame = &entry.frame;
        if frame.signal != Signal::Logs {
            continue;
        }
        let limit = most.max(frame.uncompressed_len as usize);
        let decoded = decoder.decode(frame, limit);
        match decoded.and_then(|bytes| Ok((LogsRequest::check(bytes, &decode::LIMITS)?.1.records, bytes))) {
            Ok((records, bytes)) => {
                let records = records as usize;
                let waited = now.saturating_sub(Duration::from_nanos(frame.received_unix_nano));
                doubts.push(frame.resend || entry.position < fresh_from || waited > OLD);
                let mut came = None;
                let bytes = match cluster::fill(bytes, &options.cluster) {
                    Cow::Owned(filled) => filled.into(),
                    // What is not compressed is not copied.
                    Cow::Borrowed(bytes) if bytes.as_ptr() == frame.payload.as_ptr() => frame.payload.clone(),
                    Cow::Borrowed(bytes) => {
                        came = forwards.then(|| (frame.codec, frame.payload.clone()));
                        Bytes::copy_from_slice(bytes)
                    }
                };
                let (position, received_unix_nano) = (entry.position, frame.received_unix_nano);
                units.push(Unit { position, received_unix_nano, bytes, first, records, came });
                first += records;
            }
            Err(error) => {
                tracing::error!(sink = name, segment = entry.position.segment, offset = entry.position.offset, records = frame.records, %error, "a frame cannot be read; set aside");
                unreadable += u64::from(frame.records);
                letters.extend(dead_letter::unreadable(name, &entry, &error.to_string()));
            }
        }
    }
    let mut doubts = doubts.into_iter();
    (Batch::new(units, |_| doubts.next().unwrap_or(true)), letters, unreadable)
}
