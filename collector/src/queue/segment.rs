//! A segment's bytes: its header, the headers of its frames, and the walk over them that finds its way past damage.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use super::fs::File;
use super::{Codec, Frame, Signal};

/// Where the first frame begins: one block, with the header in it twice.
pub(super) const SEGMENT_HEADER_LEN: usize = 4096;
pub(super) const SEGMENT_HEADER: u64 = SEGMENT_HEADER_LEN as u64;
/// Size of a frame's header, and of the end mark.
pub(super) const FRAME_HEADER_LEN: usize = 48;
pub(super) const FRAME_HEADER: u64 = FRAME_HEADER_LEN as u64;

const SEGMENT_MAGIC: &[u8; 8] = b"SONDEQ\x00\x01";
const HEADER_COPIES: [usize; 2] = [0, 2048];
const HEADER_LEN: usize = 36;
const FRAME_MAGIC: &[u8; 4] = b"\xf5SQF";
/// How much is read at once where frames are smaller than that, bytes.
const WINDOW: u64 = 256 << 10;
/// What is stepped over where the disk refuses to read, bytes.
const BLOCK: u64 = 4096;

/// What makes the frames of a segment its own: a frame's header checks only under the number and the salt of the
/// segment, and at the offset, that it was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub number: u64,
    pub salt: u64,
    pub created_unix_nano: u64,
}

impl Stamp {
    /// The first block of a segment.
    pub fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(SEGMENT_MAGIC);
        header.extend_from_slice(&self.number.to_le_bytes());
        header.extend_from_slice(&self.salt.to_le_bytes());
        header.extend_from_slice(&self.created_unix_nano.to_le_bytes());
        let crc = crc32fast::hash(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        let mut block = vec![0; SEGMENT_HEADER_LEN];
        for at in HEADER_COPIES {
            block[at..at + header.len()].copy_from_slice(&header);
        }
        block
    }

    /// Reads the first block of segment `number`; `None` where neither copy is whole.
    pub fn decode(block: &[u8], number: u64) -> Option<Self> {
        HEADER_COPIES.into_iter().find_map(|at| {
            let header = block.get(at..at + HEADER_LEN)?;
            let crc = u32_at(header, 32)?;
            let stamp = Self {
                number: u64_at(header, 8)?,
                salt: u64_at(header, 16)?,
                created_unix_nano: u64_at(header, 24)?,
            };
            let whole = header.starts_with(SEGMENT_MAGIC) && crc32fast::hash(&header[..32]) == crc;
            (whole && stamp.number == number).then_some(stamp)
        })
    }

    /// CRC-32 of what is not stored with a frame, then of its header.
    fn crc(&self, offset: u64, header: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.salt.to_le_bytes());
        crc.update(&self.number.to_le_bytes());
        crc.update(&offset.to_le_bytes());
        crc.update(header);
        crc.finalize()
    }
}

/// What stands before a payload, or, as the end mark, behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of payload.
    pub len: u32,
    pub payload_crc: u32,
    /// Number of the frame in its segment, from 0; in the end mark, the number of frames.
    pub sequence: u32,
    pub received_unix_nano: u64,
    pub records: u32,
    pub uncompressed_len: u32,
    /// All of the segment before this offset was durable when the frame was written.
    pub durable: u64,
    pub kind: Kind,
    pub signal: Signal,
    pub codec: Codec,
    pub resend: bool,
}

/// What a header is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Frame = 0,
    End = 1,
}

impl FrameHeader {
    pub fn new(frame: &Frame, len: u32, payload_crc: u32) -> Self {
        Self {
            len,
            payload_crc,
            sequence: 0,
            received_unix_nano: frame.received_unix_nano,
            records: frame.records,
            uncompressed_len: frame.uncompressed_len,
            durable: 0,
            kind: Kind::Frame,
            signal: frame.signal,
            codec: frame.codec,
            resend: frame.resend,
        }
    }

    /// The mark behind the last of `frames` frames.
    pub fn end(frames: u32, durable: u64) -> Self {
        Self {
            len: 0,
            payload_crc: 0,
            sequence: frames,
            received_unix_nano: 0,
            records: 0,
            uncompressed_len: 0,
            durable,
            kind: Kind::End,
            signal: Signal::Logs,
            codec: Codec::Identity,
            resend: false,
        }
    }

    pub fn encode(&self, stamp: &Stamp, offset: u64, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(FRAME_MAGIC);
        into.extend_from_slice(&self.len.to_le_bytes());
        into.extend_from_slice(&self.payload_crc.to_le_bytes());
        into.extend_from_slice(&self.sequence.to_le_bytes());
        into.extend_from_slice(&self.received_unix_nano.to_le_bytes());
        into.extend_from_slice(&self.records.to_le_bytes());
        into.extend_from_slice(&self.uncompressed_len.to_le_bytes());
        into.extend_from_slice(&self.durable.to_le_bytes());
        into.extend_from_slice(&[
            self.kind as u8,
            self.signal as u8,
            self.codec as u8,
            u8::from(self.resend),
        ]);
        let crc = stamp.crc(offset, &into[start..]);
        into.extend_from_slice(&crc.to_le_bytes());
    }

    pub fn decode(bytes: &[u8], stamp: &Stamp, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_LEN)?;
        if !bytes.starts_with(FRAME_MAGIC) || u32_at(bytes, 44)? != stamp.crc(offset, &bytes[..44]) {
            return None;
        }
        Some(Self {
            len: u32_at(bytes, 4)?,
            payload_crc: u32_at(bytes, 8)?,
            sequence: u32_at(bytes, 12)?,
            received_unix_nano: u64_at(bytes, 16)?,
            records: u32_at(bytes, 24)?,
            uncompressed_len: u32_at(bytes, 28)?,
            durable: u64_at(bytes, 32)?,
            kind: match bytes[40] {
                0 => Kind::Frame,
                1 => Kind::End,
                _ => return None,
            },
            signal: match bytes[41] {
                0 => Signal::Logs,
                1 => Signal::Metrics,
                2 => Signal::Traces,
                _ => return None,
            },
            codec: match bytes[42] {
                0 => Codec::Identity,
                1 => Codec::Gzip,
                2 => Codec::Zstd,
                _ => return None,
            },
            resend: bytes[43] != 0,
        })
    }
}

/// What a walk finds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A whole frame.
    Frame { offset: u64, next: u64, durable: u64, frame: Frame },
    /// Bytes that are no frame, up to `next`.
    Gap(Gap),
    /// The end mark.
    End { offset: u64 },
}

/// A stretch of a segment that holds no frame that checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub offset: u64,
    pub next: u64,
    /// Frames that stood there, by the sequence numbers around it; at least 1.
    pub frames: u32,
    /// Records of those frames whose header was whole.
    pub records: u64,
}

/// A walk over the frames of one segment, from an offset to an end that the caller may move on. An error leaves it
/// where it was: the step can be tried again, or stepped over.
pub(super) struct Walk {
    file: Arc<dyn File>,
    stamp: Stamp,
    offset: u64,
    end: u64,
    /// Number of the frame that is expected next; not known at first when begun in the middle.
    sequence: Option<u32>,
    window: Bytes,
    window_at: u64,
}

impl Walk {
    pub fn new(file: Arc<dyn File>, stamp: Stamp, offset: u64, end: u64) -> Self {
        let offset = offset.max(SEGMENT_HEADER);
        let sequence = (offset == SEGMENT_HEADER).then_some(0);
        Self { file, stamp, offset, end, sequence, window: Bytes::new(), window_at: 0 }
    }

    /// Where the next step begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn number(&self) -> u64 {
        self.stamp.number
    }

    /// More of the segment may be read.
    pub fn extend(&mut self, end: u64) {
        self.end = end;
    }

    /// Bytes that the next steps need no read for.
    pub fn buffered(&self) -> bool {
        self.window_at <= self.offset && self.offset < self.window_at + self.window.len() as u64
    }

    /// The next step, or `None` at the end.
    pub fn step(&mut self) -> io::Result<Option<Step>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let Some(header) = self.header(self.offset)? else {
            return self.resync(self.offset + 1, 0).map(Some);
        };
        let start = self.offset;
        if header.kind == Kind::End {
            if let Some(expected) = self.sequence.filter(|expected| *expected < header.sequence) {
                // Frames are missing right before the mark without a gap: bytes were cut out. Say so, once.
                self.sequence = Some(header.sequence);
                let frames = header.sequence - expected;
                return Ok(Some(Step::Gap(Gap { offset: start, next: start, frames, records: 0 })));
            }
            self.offset = self.end;
            return Ok(Some(Step::End { offset: start }));
        }
        let next = start + FRAME_HEADER + u64::from(header.len);
        if next > self.end {
            return self.resync(start + 1, header.records).map(Some);
        }
        let payload = self.bytes(start + FRAME_HEADER, u64::from(header.len))?;
        if payload.len() as u64 != u64::from(header.len) {
            return self.resync(start + 1, header.records).map(Some);
        }
        self.offset = next;
        self.sequence = Some(header.sequence.saturating_add(1));
        if crc32fast::hash(&payload) != header.payload_crc {
            let records = u64::from(header.records);
            return Ok(Some(Step::Gap(Gap { offset: start, next, frames: 1, records })));
        }
        let frame = Frame {
            signal: header.signal,
            codec: header.codec,
            resend: header.resend,
            received_unix_nano: header.received_unix_nano,
            records: header.records,
            uncompressed_len: header.uncompressed_len,
            payload,
        };
        Ok(Some(Step::Frame { offset: start, next, durable: header.durable, frame }))
    }

    /// Steps over what the disk refuses to read: the frame if its header can be read, else up to the next block.
    pub fn skip(&mut self) -> Gap {
        let offset = self.offset;
        let header = self.header(offset).ok().flatten().filter(|header| header.kind == Kind::Frame);
        let (next, records) = match header {
            Some(header) => (offset + FRAME_HEADER + u64::from(header.len), u64::from(header.records)),
            None => ((offset / BLOCK + 1) * BLOCK, 0),
        };
        self.offset = next.min(self.end);
        self.sequence = header.map(|header| header.sequence.saturating_add(1));
        Gap { offset, next: self.offset, frames: 1, records }
    }

    /// Looks for the next header that checks, from `from` on.
    fn resync(&mut self, from: u64, records: u32) -> io::Result<Step> {
        let finder = memmem::Finder::new(FRAME_MAGIC);
        let mut at = from;
        let mut found = None;
        while found.is_none() && at + FRAME_HEADER <= self.end {
            let window = self.window(at, FRAME_HEADER)?;
            if (window.len() as u64) < FRAME_HEADER {
                break;
            }
            let Some(hit) = finder.find(&window) else {
                at += window.len() as u64 - (FRAME_MAGIC.len() as u64 - 1);
                continue;
            };
            at += hit as u64;
            match self.header(at)? {
                Some(header) => found = Some(header),
                None => at += 1,
            }
        }
        let offset = self.offset;
        let next = if found.is_some() { at } else { self.end };
        let frames = match (found, self.sequence) {
            (Some(header), Some(expected)) => header.sequence.saturating_sub(expected).max(1),
            _ => 1,
        };
        self.offset = next;
        self.sequence = found.map(|header| header.sequence);
        Ok(Step::Gap(Gap { offset, next, frames, records: u64::from(records) }))
    }

    fn header(&mut self, at: u64) -> io::Result<Option<FrameHeader>> {
        if at + FRAME_HEADER > self.end {
            return Ok(None);
        }
        let bytes = self.bytes(at, FRAME_HEADER)?;
        Ok(FrameHeader::decode(&bytes, &self.stamp, at))
    }

    /// `len` bytes at `at`, fewer at the end of the file.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<Bytes> {
        let mut window = self.window(at, len)?;
        window.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(window)
    }

    /// What the window holds from `at` on: at least `len` bytes, fewer at the end of the file.
    fn window(&mut self, at: u64, len: u64) -> io::Result<Bytes> {
        let have = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len > have {
            self.window = match self.read(at, len.max(WINDOW).min(self.end - at)) {
                Ok(read) => read,
                // A block further on may be the bad one.
                Err(_) if len < WINDOW => self.read(at, len)?,
                Err(error) => return Err(error),
            };
            self.window_at = at;
        }
        // Within the window: checked or read above.
        Ok(self.window.slice(usize::try_from(at - self.window_at).unwrap_or(usize::MAX)..))
    }

    fn read(&self, at: u64, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut buf = vec![0; len];
        let read = self.file.read_at(&mut buf, at)?;
        buf.truncate(read);
        Ok(buf.into())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
