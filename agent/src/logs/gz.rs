//! Compressed rotated files, read at uncompressed offsets.
//!
//! A decoder only goes forward; a window of what it gave last serves the short ways back that a tail reader takes (the
//! check bytes, a line that was not complete). Few decoders live at a time: each is about 40 KiB of state and a window.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::fs::LogFile;
use super::tail::FileId;

const WINDOW: usize = 512 << 10;
const CHUNK: usize = 64 << 10;
const ALIVE: usize = 2;

/// The decoders that are alive, most recently used last.
pub struct GzPool<F> {
    streams: Vec<(FileId, GzStream<F>)>,
}

impl<F: LogFile> GzPool<F> {
    /// None alive.
    pub fn new() -> Self {
        Self { streams: Vec::new() }
    }

    /// `pread` on the uncompressed bytes.
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
            None => GzStream::new(file.clone()),
        };
        let read = stream.read_at(buffer, offset);
        if read.is_ok() {
            if self.streams.len() >= ALIVE {
                self.streams.remove(0);
            }
            self.streams.push((id, stream));
        }
        read
    }

    /// Drops a file's decoder.
    pub fn forget(&mut self, id: FileId) {
        self.streams.retain(|(owner, _)| *owner != id);
    }
}

struct GzStream<F> {
    file: Arc<F>,
    decoder: MultiGzDecoder<Sequential<F>>,
    window: Vec<u8>,
    start: u64,
    ended: bool,
}

struct Sequential<F> {
    file: Arc<F>,
    position: u64,
}

impl<F: LogFile> Read for Sequential<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<F: LogFile> GzStream<F> {
    fn new(file: Arc<F>) -> Self {
        let decoder = MultiGzDecoder::new(Sequential { file: file.clone(), position: 0 });
        Self { file, decoder, window: Vec::new(), start: 0, ended: false }
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < self.start {
            *self = Self::new(self.file.clone());
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
        if self.window.len() >= WINDOW + CHUNK {
            let before_keep = usize::try_from(keep.saturating_sub(self.start)).unwrap_or(usize::MAX);
            let drop = (self.window.len() - WINDOW).min(before_keep);
            self.window.drain(..drop);
            self.start += drop as u64;
        }
        let len = self.window.len();
        self.window.resize(len + CHUNK, 0);
        let read = loop {
            match self.decoder.read(&mut self.window[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.window.truncate(len + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        Ok(())
    }
}

/// Uncompressed size modulo 2^32 as a gzip file states it at its end (RFC 1952, ISIZE).
pub fn stated_size<F: LogFile>(file: &F, compressed_size: u64) -> Option<u64> {
    let mut bytes = [0u8; 4];
    let at = compressed_size.checked_sub(4).filter(|at| *at >= 14)?;
    (file.read_at(&mut bytes, at).ok()? == 4).then(|| u64::from(u32::from_le_bytes(bytes)))
}
