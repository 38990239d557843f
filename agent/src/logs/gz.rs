//! Compressed rotated files, read at uncompressed offsets.
//!
//! A decoder only goes forward; a window of what it gave last serves the short ways back that a tail reader takes (the
//! check bytes, a line that was not complete). Longer ones, to the beginning of a record whose end is read now, are served by
//! decoders that stay behind: of each stream such beginnings ascend, and so do those of the lines in its records, so with
//! [`BEHIND`] of them each goes forward too, and a file is decoded a few times, however many such records it has.
//!
//! Few decoders live at a time: each is about 100 KiB of state and a window, and those behind are made only when they are wanted.
//!
//! Several members in one file are one text, and what stands behind the last one (padding, garbage) is ignored, as by
//! gzip(1). Where the data are damaged the text ends: every byte that was decoded before is given, and
//! [`GzPool::damage`] says that there was more.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use flate2::bufread::GzDecoder;

use super::fs::LogFile;
use super::tail::FileId;

const WINDOW: usize = 512 << 10;
/// The same of a decoder that stays behind.
const WINDOW_BEHIND: usize = 64 << 10;
const CHUNK: usize = 64 << 10;
const INPUT: usize = 32 << 10;
/// Decoders that live at a time.
pub const ALIVE: usize = 2;
/// Decoders of a file that stay behind, at most.
const BEHIND: usize = 4;
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why the text of a compressed file ends before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What the decoder said.
    pub error: String,
    /// Compressed bytes behind the place: of the text that was lost, all that is known.
    pub unread: u64,
}

/// The decoders that are alive, most recently used last.
pub struct GzPool<F> {
    streams: Vec<(FileId, Decoders<F>)>,
}

/// Those of one file.
struct Decoders<F> {
    /// Where it is read.
    ahead: GzStream<F>,
    /// Where records are read again, most recently used last.
    behind: Vec<GzStream<F>>,
}

impl<F: LogFile> Decoders<F> {
    fn new(file: Arc<F>) -> Self {
        Self { ahead: GzStream::new(file, WINDOW), behind: Vec::new() }
    }

    /// From the decoder that has the shortest way there.
    fn read_at(&mut self, file: &Arc<F>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.ahead.start {
            return self.ahead.read_at(buffer, offset);
        }
        let before = self.behind.iter().enumerate().filter(|(_, stream)| stream.start <= offset);
        let nearest = before.max_by_key(|(_, stream)| stream.start).map(|(at, _)| at);
        let mut stream = match nearest {
            Some(at) => self.behind.remove(at),
            None => GzStream::new(file.clone(), WINDOW_BEHIND),
        };
        let read = stream.read_at(buffer, offset);
        if self.behind.len() >= BEHIND {
            self.behind.remove(0);
        }
        self.behind.push(stream);
        read
    }

    fn damage(&self) -> Option<Damage> {
        self.behind.iter().chain([&self.ahead]).find_map(|stream| stream.damage.clone())
    }
}

impl<F: LogFile> GzPool<F> {
    /// None alive.
    pub fn new() -> Self {
        Self { streams: Vec::new() }
    }

    /// `pread` on the uncompressed bytes; fewer than asked for only at the end, or where they are damaged.
    pub fn read_at(
        &mut self,
        id: FileId,
        file: &Arc<F>,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        let at = self.streams.iter().position(|(owner, _)| *owner == id);
        let mut stream = match at {
            Some(at) => self.streams.remove(at).1,
            None => Decoders::new(file.clone()),
        };
        let read = stream.read_at(file, buffer, offset);
        if read.is_ok() {
            if self.streams.len() >= ALIVE {
                self.streams.remove(0);
            }
            self.streams.push((id, stream));
        }
        read
    }

    /// The first bytes of a file, by a decoder of their own: nobody's place is lost to them.
    pub fn head(file: &Arc<F>, buffer: &mut [u8]) -> io::Result<usize> {
        GzStream::new(file.clone(), WINDOW).read_at(buffer, 0)
    }

    /// What is wrong with a file whose end was read just now.
    pub fn damage(&self, id: FileId) -> Option<Damage> {
        self.streams.iter().find(|(owner, _)| *owner == id).and_then(|(_, stream)| stream.damage())
    }

    /// Drops a file's decoder.
    pub fn forget(&mut self, id: FileId) {
        self.streams.retain(|(owner, _)| *owner != id);
    }
}

struct GzStream<F> {
    file: Arc<F>,
    members: Members<F>,
    window: Vec<u8>,
    /// Bytes of it that are kept.
    kept: usize,
    start: u64,
    ended: bool,
    damage: Option<Damage>,
    /// The next bytes are damaged somewhere: one is asked for at a time, since what a decoder gives together with an
    /// error is lost.
    careful: bool,
}

impl<F: LogFile> GzStream<F> {
    fn new(file: Arc<F>, kept: usize) -> Self {
        let members = Members::new(file.clone());
        Self { file, members, window: Vec::new(), kept, start: 0, ended: false, damage: None, careful: false }
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < self.start {
            *self = Self::new(self.file.clone(), self.kept);
        }
        let wanted = offset + buffer.len() as u64;
        while self.end() < wanted && !self.ended {
            self.decode(offset)?;
        }
        let Some(skip) = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()) else {
            return Ok(0);
        };
        let Some(from) = self.window.get(skip..) else { return Ok(0) };
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn end(&self) -> u64 {
        self.start + self.window.len() as u64
    }

    /// Decodes one chunk more; drops what lies further back than the window, but nothing from `keep` on.
    fn decode(&mut self, keep: u64) -> io::Result<()> {
        if self.window.len() >= self.kept + CHUNK {
            let before_keep = usize::try_from(keep.saturating_sub(self.start)).unwrap_or(usize::MAX);
            let drop = (self.window.len() - self.kept).min(before_keep);
            self.window.drain(..drop);
            self.start += drop as u64;
        }
        let len = self.window.len();
        self.window.resize(len + if self.careful { 1 } else { CHUNK }, 0);
        let read = self.members.read(&mut self.window[len..]);
        self.window.truncate(len + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(read) => self.ended = read == 0,
            Err(error) if !is_damage(&error) => return Err(error),
            Err(error) if self.careful => {
                self.ended = true;
                let size = self.file.stat()?.size;
                let unread = size.saturating_sub(self.members.consumed());
                self.damage = Some(Damage { error: error.to_string(), unread });
            }
            Err(_) => self.decode_again()?,
        }
        Ok(())
    }

    /// A decoder at the same place that has not met the damage yet.
    fn decode_again(&mut self) -> io::Result<()> {
        self.members = Members::new(self.file.clone());
        self.careful = true;
        let mut left = self.end();
        let mut scratch = vec![0; CHUNK];
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match self.members.read(&mut scratch[..len]) {
                // It was longer a moment ago: somebody writes to it.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => left -= read as u64,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
    )
}

/// The text of all members.
struct Members<F> {
    /// None = behind the last one.
    decoder: Option<GzDecoder<Input<F>>>,
}

impl<F: LogFile> Members<F> {
    fn new(file: Arc<F>) -> Self {
        let input = Input { file, position: 0, buffer: vec![0; INPUT], at: 0, len: 0 };
        Self { decoder: Some(GzDecoder::new(input)) }
    }

    /// Compressed bytes that were taken.
    fn consumed(&self) -> u64 {
        let input = self.decoder.as_ref().map(GzDecoder::get_ref);
        input.map_or(0, |input| input.position - (input.len - input.at) as u64)
    }
}

impl<F: LogFile> Read for Members<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            match decoder.read(buffer) {
                Ok(0) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            let Some(mut input) = self.decoder.take().map(GzDecoder::into_inner) else { break };
            if input.peek()? == MAGIC {
                self.decoder = Some(GzDecoder::new(input));
            }
        }
        Ok(0)
    }
}

/// The compressed bytes in order.
struct Input<F> {
    file: Arc<F>,
    position: u64,
    buffer: Vec<u8>,
    at: usize,
    len: usize,
}

impl<F: LogFile> Input<F> {
    /// The next two bytes, if there are as many.
    fn peek(&mut self) -> io::Result<&[u8]> {
        if self.len - self.at < MAGIC.len() {
            self.buffer.copy_within(self.at..self.len, 0);
            (self.at, self.len) = (0, self.len - self.at);
            let read = self.file.read_at(&mut self.buffer[self.len..], self.position)?;
            self.position += read as u64;
            self.len += read;
        }
        Ok(&self.buffer[self.at..self.len.min(self.at + MAGIC.len())])
    }
}

impl<F: LogFile> Read for Input<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl<F: LogFile> BufRead for Input<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.len {
            self.len = self.file.read_at(&mut self.buffer, self.position)?;
            self.at = 0;
            self.position += self.len as u64;
        }
        Ok(&self.buffer[self.at..self.len])
    }

    fn consume(&mut self, len: usize) {
        self.at = (self.at + len).min(self.len);
    }
}

/// Uncompressed size modulo 2^32 as the last member of a gzip file states it at its end (RFC 1952, ISIZE). It is nonsense
/// where the file is damaged or something stands behind the last member, so it is a hint and never counted as seen.
pub fn stated_size<F: LogFile>(file: &F, compressed_size: u64) -> Option<u32> {
    let mut bytes = [0u8; 4];
    let at = compressed_size.checked_sub(4).filter(|at| *at >= 14)?;
    (file.read_at(&mut bytes, at).ok()? == 4).then(|| u32::from_le_bytes(bytes))
}
