//! Frames as a batch.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sonde_wire::canary;

use super::LaneOptions;
use crate::deliver::batch::{Batch, OLD, Unit};
use crate::deliver::canary::Seen;
use crate::deliver::decode::{self, Decoder};
use crate::deliver::{cluster, dead_letter};
use crate::queue::{Codec, Entry, Frame, Position, Signal};

/// What frames hold.
pub(super) struct Unpacked {
    /// The records of users.
    pub batch: Batch,
    /// The canaries among them, in the queue's order.
    pub canaries: Vec<Seen>,
    /// Dead letters for frames that cannot be read.
    pub letters: Vec<u8>,
    /// How many records were in those.
    pub unreadable: u64,
}

/// Frames, unpacked. `forwards` keeps beside the content how it came.
pub(super) fn unpack(
    options: &LaneOptions,
    forwards: bool,
    entries: Vec<Entry>,
    fresh_from: Position,
) -> Unpacked {
    let (name, most) = (options.name.as_str(), options.request_bytes);
    let (mut units, mut doubts, mut letters, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut decoder, mut first, mut canaries) = (Decoder::default(), 0, Vec::new());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for entry in entries {
        let frame = &entry.frame;
        let signal = frame.signal;
        if signal != options.signal {
            continue;
        }
        let limit = most.max(frame.uncompressed_len as usize);
        let decoded = decoder.decode(frame, limit);
        match decoded.and_then(|bytes| Ok((signal.check(bytes, &decode::LIMITS)?.records, bytes))) {
            Ok((records, bytes)) => {
                let (bytes, taken) = match signal {
                    Signal::Logs => canary::take_out(bytes),
                    Signal::Metrics | Signal::Traces => (Cow::Borrowed(bytes), Vec::new()),
                };
                let records = records as usize - taken.len();
                canaries.extend(Seen::all(taken, entry.position >= fresh_from, frame.resend));
                if bytes.is_empty() {
                    continue;
                }
                let waited = now.saturating_sub(Duration::from_nanos(frame.received_unix_nano));
                // Log records are told by their uids at the destination; of points and spans nothing can be asked there.
                let old = signal == Signal::Logs && waited > OLD;
                doubts.push(frame.resend || entry.position < fresh_from || old);
                let cluster = if signal == Signal::Logs { options.cluster.as_str() } else { "" };
                let (bytes, came) = content(bytes, frame, forwards, cluster);
                let (position, received_unix_nano) = (entry.position, frame.received_unix_nano);
                let resend = frame.resend;
                units.push(Unit {
                    signal,
                    position,
                    received_unix_nano,
                    bytes,
                    first,
                    records,
                    came,
                    resend,
                });
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
    let batch = Batch::new(units, |_| doubts.next().unwrap_or(true));
    Unpacked { batch, canaries, letters, unreadable }
}

/// A frame's content with the cluster's name, and how it came where that is the same and a sink sends it on so.
fn content(
    bytes: Cow<'_, [u8]>,
    frame: &Frame,
    forwards: bool,
    cluster: &str,
) -> (Bytes, Option<(Codec, Bytes)>) {
    let bytes = match bytes {
        Cow::Borrowed(bytes) => bytes,
        Cow::Owned(left) => return (cluster::fill(&left, cluster).into_owned().into(), None),
    };
    match cluster::fill(bytes, cluster) {
        Cow::Owned(filled) => (filled.into(), None),
        // What is not compressed is not copied.
        Cow::Borrowed(bytes) if bytes.as_ptr() == frame.payload.as_ptr() => (frame.payload.clone(), None),
        Cow::Borrowed(bytes) => {
            let came = forwards.then(|| (frame.codec, frame.payload.clone()));
            (Bytes::copy_from_slice(bytes), came)
        }
    }
}
