//! What was written before the first start: as much of it is read as `logs.read_existing` says.

use std::io;

use super::core::{Core, Now, QUANTUM};
use super::format::Format;
use super::fs::{LogFile, LogFs};
use super::ledger::{Account, Excluded};
use super::open::read_file;
use super::tail::{FileId, Handle};
use crate::config::ReadExisting;

impl<F: LogFs> Core<F> {
    /// `logs.read_existing`, for a file that was there at the first start.
    pub(super) fn start_existing(
        &mut self,
        id: FileId,
        is_first: bool,
        size: u64,
        now: Now,
    ) -> io::Result<()> {
        let is_gz = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Gz(_))));
        let of = self.files.get(&id).and_then(|file| self.lineages.get(&file.lineage));
        let is_plain = of.is_some_and(|lineage| lineage.format == Format::Plain);
        if let Some(file) = self.files.get_mut(&id) {
            file.resend_below = if is_gz { u64::MAX } else { size };
        }
        if !is_first {
            return Ok(());
        }
        match self.settings.read_existing {
            ReadExisting::All => {}
            ReadExisting::None if is_gz => self.skip_gz(id, size, now),
            ReadExisting::None => {
                let end = self.last_line_end(id, size)?;
                self.skip_to(id, end);
            }
            ReadExisting::Within(age) => {
                let cutoff =
                    now.wall_nanos.saturating_sub(u64::try_from(age.0.as_nanos()).unwrap_or(u64::MAX));
                let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
                if !is_plain {
                    file.cutoff = cutoff;
                }
                let mtime = match &file.handle {
                    Some(Handle::Plain(handle) | Handle::Gz(handle)) => LogFile::stat(&**handle)?.mtime_nanos,
                    None => return Ok(()),
                };
                // Not one line in it can be younger than its last write.
                if mtime != 0 && mtime < cutoff {
                    if is_gz { self.skip_gz(id, size, now) } else { self.skip_to(id, size) }
                }
            }
        }
        Ok(())
    }

    /// Leaves out a whole compressed file. It is not decoded for its size: what it states has to do.
    fn skip_gz(&mut self, id: FileId, size: u64, now: Now) {
        self.note_size(id, size, now);
        self.skip_to(id, size);
        if let Some(file) = self.files.get_mut(&id) {
            file.ended = true;
            file.superseded = Some(now.mono);
        }
    }

    fn skip_to(&mut self, id: FileId, end: u64) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let bytes = file.settled.insert(0, end);
        file.read = end;
        file.scanned = end;
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            self.ledger.settle(&lineage.row, bytes, Account::Excluded(Excluded::Old));
        }
    }

    /// Where the last whole line ends, looking back at most one quantum.
    fn last_line_end(&mut self, id: FileId, size: u64) -> io::Result<u64> {
        let len = (QUANTUM as u64).min(size);
        let mut tail = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = read_file::<F>(&self.files, &mut self.gz, id, &mut tail, size - len)?;
        let newline = memchr::memrchr(b'\n', &tail[..read]);
        Ok(newline.map_or(size, |at| size - len + at as u64 + 1))
    }
}
