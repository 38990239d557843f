//! The newest lines in the file, known for a while after a start.
//!
//! The queue's cursor reaches the disk about a second after a batch is durable in the file, so after a kill the batches of
//! that second come again, in doubt; and so do requests that agents had no answer to, seconds later. A record in doubt
//! whose line is there, byte for byte, is not written again: one with a uid, that is, since lines without one may be
//! alike and not the same record.
//!
//! # Memory
//! 20 bytes for each of the lines in [`BYTES`] and one file more, at least 200 bytes each, and of [`LINES`] that are written
//! since: 45 MB at most, usually far less, and one line; for [`WHILE`] after the start.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of lines that are looked at, from the end back. Faster than this a second no disk is filled through us.
const BYTES: u64 = 128 << 20;
/// Lines that are written after the start, at most.
const LINES: usize = 1 << 20;
/// An agent that had no answer comes again within half a minute.
const WHILE: Duration = Duration::from_secs(120);
/// A compressed file that is larger is not looked into: more than a second's lines are behind it.
const PACKED: u64 = 32 << 20;
/// The longest line.
const LONGEST: u64 = 256 << 20;

/// The lines, by their marks.
pub struct Before {
    keys: [RandomState; 2],
    lines: HashSet<u128>,
    until: Instant,
    room: usize,
}

/// What a line is known by.
pub type Mark = u128;

impl Before {
    /// Reads the ends of these files, newest first. What cannot be read is left out: its lines may be written again.
    pub fn read(files: &[PathBuf]) -> Self {
        let keys = [RandomState::new(), RandomState::new()];
        let mut before = Self { keys, lines: HashSet::new(), until: Instant::now() + WHILE, room: LINES };
        let mut bytes = 0;
        for path in files {
            if bytes >= BYTES {
                break;
            }
            match before.read_end(path, BYTES - bytes) {
                Ok(Some(read)) => bytes += read,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what is in a file is not known, some lines may come twice");
                    break;
                }
            }
        }
        before
    }

    /// What this line, with its newline, is known by, and whether it is known.
    pub fn look_up(&self, line: &[u8]) -> (Mark, bool) {
        let mark = self.mark(line);
        (mark, self.lines.contains(&mark))
    }

    /// These lines are in the file now; whether there is still something to be known.
    pub fn add(&mut self, marks: &HashSet<Mark>) -> bool {
        self.room = self.room.saturating_sub(marks.len());
        self.lines.extend(marks);
        self.room > 0 && Instant::now() < self.until
    }

    fn mark(&self, line: &[u8]) -> Mark {
        let [high, low] = [0, 1].map(|key| u128::from(self.keys[key].hash_one(line)));
        high << 64 | low
    }

    /// The bytes of the lines that were looked at; `None` = the file was not looked into.
    fn read_end(&mut self, path: &Path, most: u64) -> io::Result<Option<u64>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let packed = path.extension().is_some_and(|end| end == "gz" || end == "zst");
        if packed && len > PACKED {
            return Ok(None);
        }
        match path.extension().and_then(|end| end.to_str()) {
            Some("gz") => self.lines_of(BufReader::new(flate2::read::MultiGzDecoder::new(file))).map(Some),
            Some("zst") => self.lines_of(BufReader::new(zstd::stream::read::Decoder::new(file)?)).map(Some),
            _ => {
                // The first line of these is cut off, and like no other.
                file.seek(SeekFrom::Start(len.saturating_sub(most)))?;
                self.lines_of(BufReader::new(file)).map(Some)
            }
        }
    }

    fn lines_of(&mut self, mut file: impl BufRead) -> io::Result<u64> {
        let (mut line, mut bytes) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = file.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
            if read == 0 || bytes > BYTES {
                return Ok(bytes);
            }
            bytes += read as u64;
            let mark = self.mark(&line);
            self.lines.insert(mark);
        }
    }
}
