//! Recovery of a directory after damage: what is delivered was written, there, and all that is whole is delivered.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::fs::{File, Filesystem, Listed, Space};
use super::recover::recover;
use super::segment::{FRAME_HEADER_LEN, FrameHeader, SEGMENT_HEADER, Stamp, Step, Walk};
use super::state::segment_name;
use super::{Codec, Frame, Signal};

const DIR: &str = "/queue";
/// Bits that are changed in one run: a checksum of 32 bits sees as many for certain.
const FLIPS: usize = 3;

type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct Memory(Mutex<BTreeMap<PathBuf, Content>>);

struct Open(Content);

impl Filesystem for Memory {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let files = self.0.lock().unwrap();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside
            .map(|(path, content)| Listed {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                bytes: content.lock().unwrap().len() as u64,
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let content = Content::default();
        self.0.lock().unwrap().insert(path.to_owned(), content.clone());
        Ok(Arc::new(Open(content)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let files = self.0.lock().unwrap();
        files
            .get(path)
            .map(|content| Arc::new(Open(content.clone())) as _)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { total: 1 << 40, available: 1 << 40 })
    }
}

impl File for Open {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let rest = usize::try_from(offset).ok().and_then(|at| content.get(at..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let mut at = usize::try_from(offset).unwrap();
        for part in parts {
            let end = at + part.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(part);
            at = end;
        }
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(true)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().truncate(usize::try_from(len).unwrap());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn is_at(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// Some place in `len`.
    fn place(&mut self, len: usize) -> Option<usize> {
        let place = u16::from_le_bytes([self.byte()?, self.byte()?]);
        Some(if len <= usize::from(u16::MAX) {
            usize::from(place) % len.max(1)
        } else {
            usize::from(place) * 16 % len
        })
    }
}

/// A segment as it was written: its bytes, and each frame's offset.
struct Written {
    stamp: Stamp,
    bytes: Vec<u8>,
    frames: BTreeMap<u64, Frame>,
}

fn write(number: u64, input: &mut Input<'_>) -> Option<Written> {
    let stamp = Stamp { number, salt: 77 + number, created_unix_nano: 1 };
    let mut bytes = stamp.encode();
    let mut frames = BTreeMap::new();
    let how = input.byte()?;
    for sequence in 0..u32::from(how & 7) {
        let kind = input.byte()?;
        let offset = bytes.len() as u64;
        // Among them what looks like a queue itself: the beginning of this very segment.
        let payload = match kind & 3 {
            0 => bytes[usize::try_from(SEGMENT_HEADER).unwrap()..].to_vec(),
            1 => bytes[..200].to_vec(),
            _ => vec![kind; usize::from(input.byte()?) * 5],
        };
        let frame = Frame {
            signal: if kind & 4 == 0 { Signal::Logs } else { Signal::Metrics },
            codec: if kind & 8 == 0 { Codec::Identity } else { Codec::Zstd },
            resend: kind & 16 != 0,
            received_unix_nano: 5,
            records: u32::from(kind),
            uncompressed_len: 9,
            payload: Bytes::from(payload),
        };
        let len = u32::try_from(frame.payload.len()).unwrap();
        let mut header = FrameHeader::new(&frame, len, crc32fast::hash(&frame.payload));
        (header.sequence, header.durable) = (sequence, if kind & 32 == 0 { offset } else { SEGMENT_HEADER });
        header.encode(&stamp, offset, &mut bytes);
        bytes.extend_from_slice(&frame.payload);
        frames.insert(offset, frame);
    }
    if how & 8 == 0 {
        FrameHeader::end(u32::from(how & 7), bytes.len() as u64).encode(
            &stamp,
            bytes.len() as u64,
            &mut bytes,
        );
    } else {
        bytes.resize(bytes.len() + usize::from(how >> 4) * 512, 0);
    }
    Some(Written { stamp, bytes, frames })
}

/// Damages `bytes`; `other` is what a block may have strayed in from.
fn damage(bytes: &mut Vec<u8>, other: &[u8], input: &mut Input<'_>) -> Option<()> {
    let mut flips = 0;
    for _ in 0..input.byte()? & 7 {
        let kind = input.byte()?;
        let at = input.place(bytes.len())?;
        let len = usize::from(input.byte()?) * 16;
        let end = (at + len).min(bytes.len());
        match kind & 7 {
            0 => bytes.truncate(at),
            1 => bytes[at..end].fill(0),
            2 => {
                // A stretch that was cut out.
                bytes.drain(at..end);
            }
            3 => {
                let from = input.place(bytes.len().saturating_sub(end - at))?;
                bytes.copy_within(from..from + (end - at), at);
            }
            4 => {
                let stray = other.get(at..end).unwrap_or_default().to_vec();
                bytes[at..at + stray.len()].copy_from_slice(&stray);
            }
            _ if flips < FLIPS && at < bytes.len() => {
                flips += 1;
                bytes[at] ^= 1 << (kind >> 5);
            }
            _ => {}
        }
    }
    Some(())
}

fn delivered(fs: &Memory) -> BTreeMap<(u64, u64), Frame> {
    let state = recover(fs, Path::new(DIR), Duration::ZERO).unwrap();
    let mut found = BTreeMap::new();
    for (number, segment) in &state.segments {
        let file = fs.open(&Path::new(DIR).join(segment_name(*number))).unwrap();
        let mut walk = Walk::new(file, segment.stamp, SEGMENT_HEADER, segment.end);
        while let Some(step) = walk.step().unwrap() {
            match step {
                Step::Frame { offset, frame, .. } => {
                    assert!(found.insert((*number, offset), frame).is_none(), "a frame comes twice");
                }
                Step::Gap(gap) => assert!(gap.next >= gap.offset && gap.frames > 0),
                Step::End { .. } => break,
            }
        }
    }
    found
}

/// Whether these two are one for every CRC-32: the CRC of bytes with their own CRC behind them is a constant, so of two segments'
/// beginnings each may stray into the other's place. Payloads that hold such bytes are made here only.
fn is_beyond_a_crc(got: &Frame, written: &Frame) -> bool {
    let holds_crcs = written.payload.iter().any(|byte| *byte != written.payload[0]);
    let crc = |frame: &Frame| crc32fast::hash(&frame.payload);
    let is_like = Frame { payload: got.payload.clone(), ..written.clone() } == *got;
    holds_crcs && is_like && got.payload.len() == written.payload.len() && crc(got) == crc(written)
}

/// Two segments, then what became of their bytes.
pub(crate) fn recovery(data: &[u8]) {
    let mut input = Input(data);
    let Some(written) = write(1, &mut input).zip(write(2, &mut input)) else { return };
    let written = [written.0, written.1];
    let mut damaged = [written[0].bytes.clone(), written[1].bytes.clone()];
    let [first, second] = &mut damaged;
    let _ = damage(first, &written[1].bytes, &mut input);
    let _ = damage(second, &written[0].bytes, &mut input);
    let fs = Memory::default();
    for (one, bytes) in written.iter().zip(&damaged) {
        let path = Path::new(DIR).join(segment_name(one.stamp.number));
        fs.0.lock().unwrap().insert(path, Arc::new(Mutex::new(bytes.clone())));
    }
    // Somebody's file of cursors.
    if !input.0.is_empty() {
        let content = Arc::new(Mutex::new(input.0.to_vec()));
        fs.0.lock().unwrap().insert(Path::new(DIR).join("cursors"), content);
    }
    let found = delivered(&fs);
    let mut whole = 0;
    for (one, bytes) in written.iter().zip(&damaged) {
        let has_header = Stamp::decode(bytes, one.stamp.number).is_some();
        for (offset, frame) in &one.frames {
            let at = usize::try_from(*offset).unwrap();
            let end = at + FRAME_HEADER_LEN + frame.payload.len();
            let is_whole = bytes.get(at..end) == Some(&one.bytes[at..end]);
            let got = found.get(&(one.stamp.number, *offset));
            let is_same = |got: &Frame| got == frame || is_beyond_a_crc(got, frame);
            assert!(got.is_none_or(is_same), "something else is delivered");
            if is_whole && has_header {
                assert_eq!(got, Some(frame), "a whole frame is not delivered");
            }
            whole += usize::from(got.is_some());
        }
    }
    assert_eq!(whole, found.len(), "something is delivered that was never written");
    assert!(delivered(&fs) == found, "the next start finds something else");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frames = [0x02u8, 40, 0x06, 100, 0x00, 0x01, 0x2a, 7];
    let of = |how: u8, damage: &[u8]| {
        let segment: Vec<u8> = [&[how], &frames[..]].concat();
        [segment.as_slice(), &segment, damage].concat()
    };
    vec![
        of(5, &[]),
        of(0x5d, &[1, 5, 0x40, 0x10, 0, 0]),
        of(0x5d, &[2, 1, 0x40, 0x10, 5, 0, 0x90, 0x10, 0, 1, 0, 0, 0x11, 0]),
        of(5, &[1, 3, 0x30, 0x10, 8, 0, 0x11, 1, 4, 0x00, 0x10, 20, 9, 9, 9]),
        b"\x2c\x99\x84\x2c\x99\xdc\x99\x84\xfe\x2c\x99\x84\x2c\x99\xdc\x99\x84".to_vec(),
    ]
}
