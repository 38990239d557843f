//! From a whole line to a record in the open request.

use super::core::{Core, Now};
use super::cri::CriLine;
use super::fs::LogFs;
use super::join::{Extent, Joined};
use super::ledger::{Account, Excluded, Lost};
use super::open::read_file;
use super::record::{self, Context};
use super::tail::FileId;
use super::window::Window;

impl<F: LogFs> Core<F> {
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(super) fn emit_single(
        &mut self,
        context: Context,
        header: Option<CriLine>,
        bytes: &[u8],
        entry: Extent,
        cutoff: u64,
        resend_below: u64,
        max_line: usize,
        done: &mut Window,
        now: Now,
    ) {
        if header.is_some_and(|header| header.time_unix_nano < cutoff) {
            done.set_old(entry);
            return;
        }
        let body = record::body(bytes, max_line, false);
        let cut = bytes.len().saturating_sub(max_line) as u64;
        self.count(&body, header.is_none());
        done.records += 1;
        let record = record::record(context, header, &body, entry.start);
        self.outbox.push(&record, &[entry], cut, entry.start < resend_below, now.mono);
    }

    /// Emits a line of several entries: from the window if all of them lie in it, else from their files.
    pub(super) fn emit_joined(
        &mut self,
        context: Context,
        joined: &Joined,
        window: Option<(&[u8], u64)>,
        done: &mut Window,
        now: Now,
    ) {
        let Some(first) = joined.extents.first().copied() else { return };
        let Some((hash, cutoff)) = self
            .files
            .get(&first.file)
            .map(|file| (file.identity.map(|identity| identity.hash), file.cutoff))
        else {
            done.lost.extend(joined.extents.iter().map(|extent| (*extent, Lost::RotatedUnread)));
            return;
        };
        if joined.time_unix_nano < cutoff {
            for extent in &joined.extents {
                if let Some(file) = self.files.get(&extent.file) {
                    let row = self.lineages.get(&file.lineage).map(|lineage| lineage.row.clone());
                    let bytes = self
                        .files
                        .get_mut(&extent.file)
                        .map_or(0, |file| file.settled.insert(extent.start, extent.end));
                    if let Some(row) = row {
                        self.ledger.settle(&row, bytes, Account::Excluded(Excluded::Old));
                    }
                    self.dirty_files.insert(extent.file);
                }
            }
            return;
        }
        let context = Context { hash: hash.unwrap_or(context.hash), ..context };
        match self.emit_extents(context, &joined.extents, joined.cut, window, now) {
            Ok(()) => done.records += 1,
            Err(reason) => done.lost.extend(joined.extents.iter().map(|extent| (*extent, reason))),
        }
    }

    /// Reads a record's entries and adds it to the open request, or says why they cannot be read any more.
    pub(super) fn emit_extents(
        &mut self,
        context: Context,
        extents: &[Extent],
        is_cut: bool,
        window: Option<(&[u8], u64)>,
        now: Now,
    ) -> Result<(), Lost> {
        let Some(first) = extents.first().copied() else { return Ok(()) };
        let current = self.current;
        // Those that are read again, once a file.
        let mut again: Vec<FileId> = extents
            .iter()
            .filter(|extent| {
                Some(extent.file) != current
                    || window.is_none_or(|(bytes, base)| {
                        extent.start < base || extent.end > base + bytes.len() as u64
                    })
            })
            .map(|extent| extent.file)
            .collect();
        again.dedup();
        for file in &again {
            self.ensure_open(*file).map_err(|_| Lost::RotatedUnread)?;
        }
        let mut joined = std::mem::take(&mut self.joined);
        let mut side = std::mem::take(&mut self.side);
        let (files, gz) = (&self.files, &mut self.gz);
        let mut read_at = |extent: &Extent, buffer: &mut [u8], offset: u64| {
            if let Some((bytes, base)) = window
                && Some(extent.file) == current
                && offset >= base
                && let Some(from) =
                    usize::try_from(offset - base).ok().and_then(|at| bytes.get(at..)?.get(..buffer.len()))
            {
                buffer.copy_from_slice(from);
                return Ok(buffer.len());
            }
            read_file::<F>(files, gz, extent.file, buffer, offset)
        };
        let gathered = record::gather(&mut read_at, extents, self.settings.max_line, &mut joined, &mut side);
        // Behind the reading: what was put in its place since must not get its name.
        let is_other = again.iter().any(|file| matches!(self.begins_as_before(*file), Ok(false)));
        let outcome = match gathered {
            _ if is_other => Err(Lost::Truncated),
            Err(_) => Err(Lost::RotatedUnread),
            Ok(_) => Ok(()),
        };
        if let (Ok(gathered), Ok(())) = (gathered, outcome) {
            let body = record::body(&joined, self.settings.max_line, gathered.cut > 0 || is_cut);
            self.count(&body, gathered.first.is_none());
            let resend = extents.iter().any(|extent| {
                self.files.get(&extent.file).is_some_and(|file| extent.start < file.resend_below)
            });
            let record = record::record(context, gathered.first, &body, first.start);
            self.outbox.push(&record, extents, gathered.cut, resend, now.mono);
        }
        joined.clear();
        (self.joined, self.side) = (joined, side);
        outcome
    }

    fn count(&mut self, body: &record::Body<'_>, is_malformed: bool) {
        self.records.truncated += u64::from(body.truncated);
        self.records.malformed += u64::from(is_malformed);
        self.invalid_utf8 += u64::from(body.invalid);
    }
}
