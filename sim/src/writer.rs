//! The processes in the containers and the runtime's pipe readers, all in one thread.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Clock;
use crate::content::{Content, Profile};
use crate::cri::{MAX_CONTENT_BYTES, append_interleaved, append_line};
use crate::error::SimError;
use crate::logfile::LogFile;
use crate::random::Random;

/// Writes one container instance's log. Entries go out whole but for a torn end, whose rest comes with the next write;
/// a file ends at the end of an entry, though not always at the end of a line's last one.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) log: Arc<LogFile>,
    pub(crate) weight: f64,
    /// Lines that are due and not yet written.
    pub(crate) credit: f64,
    content: Content,
    random: Random,
    file: File,
    buffer: Vec<u8>,
    line: Vec<u8>,
    second_line: Vec<u8>,
}

/// What one turn appended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) lines: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Writer {
    pub(crate) fn start(
        log: Arc<LogFile>,
        profile: Profile,
        weight: u32,
        seed: u64,
        id: u64,
    ) -> Result<Self, SimError> {
        let file = log.open()?;
        // A weight of 0 is a trickle: a container of very long lines.
        let weight = if weight == 0 { 0.02 } else { f64::from(weight) };
        Ok(Self {
            log,
            weight,
            credit: 0.0,
            content: Content::new(profile, seed, id),
            random: Random::named(seed, &format!("pipe-{id}")),
            file,
            buffer: Vec::new(),
            line: Vec::new(),
            second_line: Vec::new(),
        })
    }

    /// Appends up to `lines` lines (one more where two are interleaved, unless `exact`) and writes them out, with what
    /// was held back before.
    pub(crate) fn turn(
        &mut self,
        lines: u64,
        exact: bool,
        clock: &mut Clock,
        torn: bool,
    ) -> Result<Written, SimError> {
        let mut written = Written::default();
        let before = self.buffer.len();
        while written.lines < lines && self.buffer.len() - before < 4 << 20 {
            let stream = self.content.next(&mut self.line);
            written.lines += 1;
            let room = !exact || written.lines < lines;
            if self.line.len() > MAX_CONTENT_BYTES && room && self.random.one_in(2) {
                self.content.next(&mut self.second_line);
                written.lines += 1;
                let (first, second) = ((stream, &self.line[..]), (stream.other(), &self.second_line[..]));
                written.entries += append_interleaved(&mut self.buffer, clock, first, second);
            } else {
                written.entries += append_line(&mut self.buffer, clock, stream, &self.line);
            }
        }
        written.bytes = (self.buffer.len() - before) as u64;
        self.log.total_lines.fetch_add(written.lines, Ordering::Relaxed);
        self.log.total_bytes.fetch_add(written.bytes, Ordering::Relaxed);
        self.flush(torn)?;
        Ok(written)
    }

    /// Writes the rest out; after it the file ends with a whole entry.
    pub(crate) fn finish(&mut self) -> Result<(), SimError> {
        self.flush(false)
    }

    fn flush(&mut self, torn: bool) -> Result<(), SimError> {
        if self.log.reopen.load(Ordering::Acquire) {
            self.reopen()?;
        }
        let mut end = self.buffer.len();
        if torn && end > 1 && self.random.one_in(16) {
            end = 1 + usize::try_from(self.random.below(end as u64 - 1)).unwrap_or(0);
        }
        self.write_out(end)
    }

    /// The old file gets whole entries up to an arbitrary one, the new one the rest.
    fn reopen(&mut self) -> Result<(), SimError> {
        let from = usize::try_from(self.random.below(self.buffer.len() as u64 + 1)).unwrap_or(0);
        let end = self.buffer[from..].iter().position(|&byte| byte == b'\n').map(|at| from + at + 1);
        self.write_out(end.unwrap_or(self.buffer.len()))?;
        self.file = self.log.open()?;
        self.log.reopen.store(false, Ordering::Release);
        Ok(())
    }

    fn write_out(&mut self, end: usize) -> Result<(), SimError> {
        if end == 0 {
            return Ok(());
        }
        self.file.write_all(&self.buffer[..end]).map_err(SimError::io(&self.log.dir))?;
        self.buffer.drain(..end);
        self.log.bytes.fetch_add(end as u64, Ordering::AcqRel);
        Ok(())
    }
}
