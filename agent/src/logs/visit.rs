//! One visit to a lineage: read a window of the file that is due, cut it into lines, and put their records into the open
//! request.

use std::io;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::Stream;
use sonde_wire::uid::FileHash;

use super::checkpoint::Cut;
use super::core::{Core, Now, QUANTUM, read_file};
use super::cri::{self, CriLine, MAX_HEADER};
use super::fs::LogFs;
use super::identity::UNFINISHED_HEAD;
use super::join::{Extent, Joined, MAX_WAIT, Step};
use super::ledger::{Account, Excluded, Lost};
use super::lineage::{FIRST_LOOK, LAST_LOOK, LineageId};
use super::record::{self, Context};
use super::resource;
use super::tail::{CHECK_BYTES, FileId, Handle, TailFile};
use crate::config::Parse;

/// How long a rotated file is looked at after the next one has bytes: the runtime may still hold it.
pub const GRACE: Duration = Duration::from_secs(10);
/// A file this quiet is left to a notice of its growth.
const QUIET: Duration = Duration::from_secs(5);
/// How long the first batch of a new container waits for its pod to be known.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// What a visit leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// There is more to read.
    More,
    /// The open request is full and every slot is taken.
    Blocked,
    /// Nothing to read now; look again then.
    Later(Instant),
    /// Nothing to read; the kernel will say when there is.
    Asleep,
}

/// What a window leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes were parsed, or scanned.
    Read,
    /// At the end of what is there.
    End,
    /// The open request is full and every slot is taken.
    Blocked,
}

/// What the lines of a window did to the file.
struct Window {
    position: u64,
    records: u64,
    old: Vec<(u64, u64)>,
    lost: Vec<Extent>,
    blocked: bool,
}

impl<F: LogFs> Core<F> {
    pub(super) fn visit(&mut self, id: LineageId, now: Now) -> Visit {
        if let Some(until) = self.wait_for_pod(id, now.mono) {
            return Visit::Later(until);
        }
        let mut at = 0;
        while let Some(file) = self.lineages.get(&id).and_then(|lineage| lineage.files.get(at).copied()) {
            // Asked before the file is read: what is read to its end after the next one has bytes is finished.
            let has_successor = self.has_successor(id, at, now);
            self.current = Some(file);
            match self.visit_file(id, file, has_successor, now) {
                Ok(Progress::Read) => {
                    self.current = None;
                    self.note_activity(id);
                    return Visit::More;
                }
                Ok(Progress::Blocked) => return Visit::Blocked,
                Ok(Progress::End) => {}
                Err(error) => self.read_failed(id, file, &error, now),
            }
            self.current = None;
            let finished = self.files.get(&file).is_none_or(|file| {
                file.aside.is_some()
                    || file.superseded.is_some()
                    || (!file.is_named() && file.handle.is_none())
            });
            if !finished && has_successor {
                if let Some(file) = self.files.get_mut(&file) {
                    file.superseded = Some(now.mono);
                }
            } else if !finished && self.files.get(&file).is_some_and(TailFile::is_named) {
                break;
            }
            at += 1;
        }
        self.current = None;
        self.rest(id, now)
    }

    /// Until when the lineage waits for its pod to be known.
    fn wait_for_pod(&mut self, id: LineageId, now: Instant) -> Option<Instant> {
        let version = self.pods.version();
        let lineage = self.lineages.get_mut(&id)?;
        if lineage.attributes.as_ref().is_some_and(|(_, of)| *of == version) {
            return None;
        }
        let meta = self.pods.get(&lineage.pod.uid);
        if meta.is_none() && lineage.attributes.is_none() {
            if lineage.hold_until.is_none() {
                self.pods.want();
            }
            if self.settings.wait_for_metadata {
                let until = *lineage.hold_until.get_or_insert(now + METADATA_WAIT);
                if now < until {
                    return Some(until.min(now + FIRST_LOOK));
                }
            }
        }
        let set = resource::attributes(
            &self.settings.node,
            &lineage.pod,
            &lineage.container,
            lineage.restart,
            meta.as_deref(),
        );
        lineage.attributes = Some((set, version));
        None
    }

    fn note_activity(&mut self, id: LineageId) {
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.period = FIRST_LOOK;
        }
    }

    /// Whether a later file of the lineage has bytes.
    fn has_successor(&mut self, id: LineageId, at: usize, now: Now) -> bool {
        let Some(lineage) = self.lineages.get(&id) else { return false };
        let later: Vec<FileId> = lineage.files[at + 1..].to_vec();
        for file in later {
            if self.files.get(&file).is_some_and(|file| file.seen > 0) {
                return true;
            }
            if let Ok(size) = self.size_of(file) {
                self.note_size(file, size, now);
                if size > 0 {
                    return true;
                }
            }
        }
        false
    }

    fn visit_file(
        &mut self,
        lineage: LineageId,
        id: FileId,
        has_successor: bool,
        now: Now,
    ) -> io::Result<Progress> {
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        if file.aside.is_some() {
            return Ok(Progress::End);
        }
        let out_of_grace = file
            .superseded
            .is_some_and(|since| now.mono.saturating_duration_since(since.max(file.grown)) >= GRACE);
        if out_of_grace && file.is_drained() {
            return Ok(Progress::End);
        }
        if file.handle.is_none() && file.is_drained() && !file.is_named() {
            return Ok(Progress::End);
        }
        self.ensure_open(id)?;
        if self.files.get(&id).is_some_and(|file| file.identity.is_none()) {
            let size = self.size_of(id)?;
            self.note_size(id, size, now);
            let force = self.files.get(&id).is_some_and(|file| {
                let quiet = now.mono.saturating_duration_since(file.grown);
                let ended = has_successor || !file.is_named();
                size > 0 && (quiet >= UNFINISHED_HEAD || (ended && quiet >= MAX_WAIT))
            });
            if !self.identify(id, force, now)? {
                return Ok(Progress::End);
            }
        }
        self.read_window(lineage, id, now)
    }

    /// Reads the next window of an identified, open file.
    fn read_window(&mut self, lineage: LineageId, id: FileId, now: Now) -> io::Result<Progress> {
        self.skip_settled(id);
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        let (Some(identity), true) = (file.identity, file.handle.is_some()) else { return Ok(Progress::End) };
        // A line longer than the window: only its end is looked for.
        let is_scanning = file.scanned > file.read;
        let from = file.scanned.max(file.read);
        let back = if is_scanning { 0 } else { from.min(CHECK_BYTES as u64) };
        let base = from - back;
        let is_gz = matches!(file.handle, Some(Handle::Gz(_)));
        let back = usize::try_from(back).unwrap_or(0);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(QUANTUM + CHECK_BYTES, 0);
        let read = read_file::<F>(&self.files, &mut self.gz, id, &mut buffer, base);
        let outcome = match read {
            Ok(read) => self.parse_window(lineage, id, identity.hash, &buffer[..read], base, back, now),
            Err(error) => Err(error),
        };
        let read = *outcome.as_ref().map(|(_, read)| read).unwrap_or(&0);
        self.buffer = buffer;
        let (progress, _) = outcome?;
        if progress == Progress::End && is_gz && read < QUANTUM + CHECK_BYTES {
            self.end_of_gz(id, base + read as u64);
        }
        Ok(progress)
    }

    /// Moves over what an earlier process settled.
    fn skip_settled(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        while let Some((start, end)) = file.settled.next_after(file.read)
            && start <= file.read
        {
            file.read = end;
            file.scanned = file.scanned.max(end);
            file.check = None;
        }
        if file.scanned < file.read {
            file.scanned = file.read;
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn parse_window(
        &mut self,
        lineage: LineageId,
        id: FileId,
        hash: FileHash,
        window: &[u8],
        base: u64,
        back: usize,
        now: Now,
    ) -> io::Result<(Progress, usize)> {
        let Some(file) = self.files.get(&id) else { return Ok((Progress::End, 0)) };
        let start = file.read;
        let is_scanning = file.scanned > file.read;
        let checked = window.get(..back);
        let is_other = match checked {
            None => true,
            Some(before) => back > 0 && file.check.is_some_and(|check| crc32fast::hash(before) != check),
        };
        if is_other && matches!(file.handle, Some(Handle::Plain(_))) {
            self.truncated(lineage, id, now);
            return Ok((Progress::Read, window.len()));
        }
        let end = base + window.len() as u64;
        self.note_size(id, end, now);
        if is_scanning {
            return self
                .scan_long_line(lineage, id, hash, window, base, now)
                .map(|progress| (progress, window.len()));
        }
        if window.len() <= back {
            return Ok((Progress::End, window.len()));
        }
        let is_full = window.len() == QUANTUM + CHECK_BYTES || window.len() - back >= QUANTUM;
        let done = self.parse_lines(lineage, id, hash, window, base, now);
        let progressed = done.position > start;
        self.commit(lineage, id, &done);
        if progressed && let Some(file) = self.files.get_mut(&id) {
            file.scanned = file.read;
            let consumed = usize::try_from(done.position.saturating_sub(base)).unwrap_or(usize::MAX);
            let keep = CHECK_BYTES.min(usize::try_from(done.position).unwrap_or(CHECK_BYTES));
            file.check = window
                .get(consumed.saturating_sub(keep)..consumed)
                .filter(|kept| kept.len() == keep)
                .map(crc32fast::hash);
        }
        let progress = if done.blocked {
            Progress::Blocked
        } else if progressed {
            Progress::Read
        } else if is_full {
            // Not one newline in a whole window.
            if let Some(file) = self.files.get_mut(&id) {
                file.scanned = end;
            }
            Progress::Read
        } else {
            Progress::End
        };
        Ok((progress, window.len()))
    }

    /// Cuts a window into lines and emits what they complete.
    fn parse_lines(
        &mut self,
        lineage: LineageId,
        id: FileId,
        hash: FileHash,
        window: &[u8],
        base: u64,
        now: Now,
    ) -> Window {
        let context =
            Context { observed_nanos: now.wall_nanos, parse: self.settings.parse == Parse::Auto, hash };
        let (Some(file), Some(set)) = (self.files.get(&id), self.attributes_of(lineage)) else {
            return Window { position: 0, records: 0, old: Vec::new(), lost: Vec::new(), blocked: false };
        };
        let mut done =
            Window { position: file.read, records: 0, old: Vec::new(), lost: Vec::new(), blocked: false };
        let (cutoff, resend_below, max_line) = (file.cutoff, file.resend_below, self.settings.max_line);
        let cuts = file.cuts.clone();
        let mut skip = file.settled.next_after(file.read).unwrap_or((u64::MAX, u64::MAX));
        let end = base + window.len() as u64;
        self.outbox.open(&set);
        // Out of the map for the time of the loop: no look-up a line.
        let mut joiner = self
            .lineages
            .get_mut(&lineage)
            .map(|lineage| std::mem::take(&mut lineage.joiner))
            .unwrap_or_default();
        loop {
            while done.position >= skip.0 {
                done.position = done.position.max(skip.1);
                skip = self
                    .files
                    .get(&id)
                    .and_then(|file| file.settled.next_after(done.position))
                    .unwrap_or((u64::MAX, u64::MAX));
            }
            if done.position >= end {
                break;
            }
            if !self.outbox.accepts(&set) {
                done.blocked = true;
                break;
            }
            let rest = usize::try_from(done.position - base)
                .ok()
                .and_then(|at| window.get(at..))
                .unwrap_or_default();
            let Some((len, step)) = next_line(rest, done.position, done.position, &cuts) else { break };
            let line = &rest[..len];
            let entry = Extent { file: id, start: done.position, end: done.position + step as u64 };
            done.position = entry.end;
            let header = cri::parse(line);
            match header {
                Some(header) => {
                    let mut step =
                        joiner.push(header.stream, header.partial, header.time_unix_nano, entry, now.mono);
                    let is_cut = matches!(step, Step::Held)
                        && cuts.contains(&Cut { offset: entry.end, stream: Some(header.stream) });
                    if let Some(joined) = joiner.take_if(header.stream, is_cut) {
                        step = Step::Whole(joined);
                    }
                    match step {
                        Step::Held => {}
                        Step::Single => self.emit_single(
                            context,
                            Some(header),
                            &line[header.body..],
                            entry,
                            cutoff,
                            resend_below,
                            max_line,
                            &mut done,
                            now,
                        ),
                        Step::Whole(joined) => {
                            self.emit_joined(context, &joined, Some((window, base)), &mut done, now)
                        }
                    }
                }
                None => self.emit_single(
                    context,
                    None,
                    line,
                    entry,
                    cutoff,
                    resend_below,
                    max_line,
                    &mut done,
                    now,
                ),
            }
        }
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.joiner = joiner;
        }
        done
    }

    #[allow(clippy::too_many_arguments)]
    #[inline]
    fn emit_single(
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
    fn emit_joined(
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
            done.lost.extend_from_slice(&joined.extents);
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
        if !self.emit_extents(context, &joined.extents, joined.cut, window, now) {
            done.lost.extend_from_slice(&joined.extents);
            return;
        }
        done.records += 1;
    }

    /// Reads a record's entries and adds it to the open request; false if they cannot be read any more.
    pub(super) fn emit_extents(
        &mut self,
        context: Context,
        extents: &[Extent],
        is_cut: bool,
        window: Option<(&[u8], u64)>,
        now: Now,
    ) -> bool {
        let Some(first) = extents.first().copied() else { return true };
        for extent in extents {
            if window
                .is_none_or(|(bytes, base)| extent.start < base || extent.end > base + bytes.len() as u64)
                && self.ensure_open(extent.file).is_err()
            {
                return false;
            }
        }
        let mut joined = std::mem::take(&mut self.joined);
        let mut side = std::mem::take(&mut self.side);
        let current = self.current;
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
        let is_ok = gathered.is_ok();
        if let Ok(gathered) = gathered {
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
        is_ok
    }

    fn count(&mut self, body: &record::Body<'_>, is_malformed: bool) {
        self.records.truncated += u64::from(body.truncated);
        self.records.malformed += u64::from(is_malformed);
        self.invalid_utf8 += u64::from(body.invalid);
    }

    /// Looks for the end of a line that is longer than a window, and emits it when it is there.
    fn scan_long_line(
        &mut self,
        lineage: LineageId,
        id: FileId,
        hash: FileHash,
        window: &[u8],
        base: u64,
        now: Now,
    ) -> io::Result<Progress> {
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        let start = file.read;
        let found = next_line(window, start, base, &file.cuts);
        let Some((len, step)) = found else {
            if let Some(file) = self.files.get_mut(&id) {
                file.scanned = base + window.len() as u64;
            }
            return Ok(if window.is_empty() { Progress::End } else { Progress::Read });
        };
        let Some(set) = self.attributes_of(lineage) else { return Ok(Progress::End) };
        if !self.outbox.accepts(&set) {
            return Ok(Progress::Blocked);
        }
        self.outbox.open(&set);
        let (line_end, end) = (base + len as u64, base + step as u64);
        let cuts = file.cuts.clone();
        let context =
            Context { observed_nanos: now.wall_nanos, parse: self.settings.parse == Parse::Auto, hash };
        let mut head = [0u8; MAX_HEADER];
        let head_len = read_file::<F>(&self.files, &mut self.gz, id, &mut head, start)?;
        let head_len = head_len.min(usize::try_from(line_end - start).unwrap_or(head_len));
        let header = cri::parse(&head[..head_len]);
        let entry = Extent { file: id, start, end };
        let mut done =
            Window { position: end, records: 0, old: Vec::new(), lost: Vec::new(), blocked: false };
        let joined = match (header, self.lineages.get_mut(&lineage)) {
            (Some(header), Some(lineage)) => match lineage.joiner.push(
                header.stream,
                header.partial,
                header.time_unix_nano,
                entry,
                now.mono,
            ) {
                Step::Held => {
                    let is_cut = cuts.contains(&Cut { offset: end, stream: Some(header.stream) });
                    lineage.joiner.take_if(header.stream, is_cut)
                }
                Step::Single => Some(Joined {
                    extents: vec![entry],
                    time_unix_nano: header.time_unix_nano,
                    touched: now.mono,
                    cut: false,
                }),
                Step::Whole(joined) => Some(joined),
            },
            _ => {
                Some(Joined { extents: vec![entry], time_unix_nano: u64::MAX, touched: now.mono, cut: false })
            }
        };
        if let Some(joined) = joined {
            self.emit_joined(context, &joined, None, &mut done, now);
        }
        self.commit(lineage, id, &done);
        if let Some(file) = self.files.get_mut(&id) {
            file.scanned = end;
            file.check = None;
        }
        Ok(Progress::Read)
    }

    /// Moves the read position over what was parsed.
    fn commit(&mut self, lineage: LineageId, id: FileId, done: &Window) {
        if let Some(file) = self.files.get_mut(&id) {
            file.read = file.read.max(done.position);
            self.dirty_files.insert(id);
        }
        if let Some(lineage) = self.lineages.get(&lineage) {
            self.ledger.count_records(&lineage.row, done.records);
        }
        for (start, end) in &done.old {
            self.settle(id, *start, *end, Account::Excluded(Excluded::Old));
        }
        for extent in &done.lost {
            self.settle(extent.file, extent.start, extent.end, Account::Lost(Lost::RotatedUnread));
        }
    }

    pub(super) fn attributes_of(&self, lineage: LineageId) -> Option<AttrSet> {
        self.lineages.get(&lineage)?.attributes.as_ref().map(|(set, _)| set.clone())
    }

    /// The end of a compressed file is known only when it is reached. A last line without a newline is left to the clock.
    fn end_of_gz(&mut self, id: FileId, end: u64) {
        let Some(file) = self.files.get(&id) else { return };
        let (start, seen) = (end.max(file.read), file.seen);
        if start < seen && !file.settled.covers(start, seen) {
            tracing::warn!(file = %file.name, bytes = seen - start, "a compressed log file is shorter than it states");
            self.settle(id, start, seen, Account::Lost(Lost::Truncated));
        }
        self.skip_settled(id);
        if self.files.get(&id).is_none_or(TailFile::is_drained) {
            self.gz.forget(id);
        }
    }

    /// A file that cannot be read: a damaged compression is given up, anything else is tried again.
    fn read_failed(&mut self, lineage: LineageId, id: FileId, error: &io::Error, now: Now) {
        let Some(file) = self.files.get(&id) else { return };
        let is_gz = matches!(file.handle, Some(Handle::Gz(_)));
        let is_damaged = is_gz
            && matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
            );
        if is_damaged {
            tracing::warn!(file = %file.name, %error, "a compressed log file is damaged: the rest of it is lost");
            self.set_aside += 1;
            self.give_up(id, Lost::Truncated, now.mono);
            return;
        }
        if error.kind() == io::ErrorKind::NotFound && !file.is_named() {
            let has_mates = self.lineages.get(&lineage).is_some_and(|lineage| lineage.files.len() > 1);
            let reason = if has_mates { Lost::RotatedUnread } else { Lost::DeletedUnread };
            if file.pending() > 0 && has_mates {
                self.gaps += 1;
                self.gaps_dirty = true;
            }
            self.give_up(id, reason, now.mono);
            return;
        }
        tracing::debug!(file = %file.name, %error, "cannot read a log file now");
    }

    /// All is read: when to look again, and what the clock ends by then.
    fn rest(&mut self, id: LineageId, now: Now) -> Visit {
        let Some(lineage) = self.lineages.get_mut(&id) else { return Visit::Asleep };
        lineage.period = (lineage.period * 2).min(LAST_LOOK);
        let period = lineage.period;
        let mut next = now.mono + period;
        let mut waits = false;
        let mut is_due = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(open) = lineage.joiner.open(stream) {
                waits = true;
                is_due |= now.mono.saturating_duration_since(open.touched) >= MAX_WAIT;
                next = next.min((open.touched + MAX_WAIT).max(now.mono + FIRST_LOOK));
            }
        }
        let files = lineage.files.clone();
        for file in &files {
            let Some(file) = self.files.get(file) else { continue };
            if file.aside.is_some() {
                continue;
            }
            if file.read < file.seen || file.identity.is_none() {
                waits |= file.seen > 0;
                is_due |= file.identity.is_some()
                    && file.handle.is_some()
                    && now.mono.saturating_duration_since(file.grown) >= MAX_WAIT;
            }
            let in_grace = file
                .superseded
                .is_some_and(|since| now.mono.saturating_duration_since(since.max(file.grown)) < GRACE);
            waits |= in_grace || now.mono.saturating_duration_since(file.grown) < QUIET;
        }
        if is_due {
            self.cuts_due.push(id);
        }
        if waits {
            return Visit::Later(next);
        }
        // The last file is the one that can grow. Watched first, then looked at once more, so that nothing falls between.
        let Some(last) = files.last().copied() else { return Visit::Asleep };
        let Some(file) = self.files.get(&last) else { return Visit::Asleep };
        if file.aside.is_some() || !file.is_named() {
            return Visit::Later(now.mono + LAST_LOOK);
        }
        let seen = file.seen;
        let opened = self.ensure_open(last).is_ok();
        let watched = match self.files.get(&last).and_then(|file| file.handle.as_ref()) {
            Some(Handle::Plain(handle)) if opened => {
                let handle = handle.clone();
                self.fs.watch_growth(&handle, last)
            }
            _ => matches!(self.files.get(&last), Some(file) if file.plain.is_none()),
        };
        if !watched {
            return Visit::Later(now.mono + LAST_LOOK);
        }
        match self.size_of(last) {
            Ok(size)
                if size != seen && !matches!(self.files.get(&last), Some(file) if file.plain.is_none()) =>
            {
                Visit::More
            }
            _ => Visit::Asleep,
        }
    }
}

impl Window {
    fn set_old(&mut self, entry: Extent) {
        match self.old.last_mut() {
            Some(last) if last.1 == entry.start => last.1 = entry.end,
            _ => self.old.push((entry.start, entry.end)),
        }
    }
}

/// Length of the next line and of the step over it; none if it is not complete. A durable cut ends a line without its
/// newline.
#[inline]
fn next_line(rest: &[u8], line_start: u64, position: u64, cuts: &[Cut]) -> Option<(usize, usize)> {
    let newline = memchr::memchr(b'\n', rest);
    if !cuts.is_empty() {
        let cut = cuts
            .iter()
            .filter(|cut| cut.stream.is_none() && cut.offset > line_start && cut.offset >= position)
            .map(|cut| cut.offset - position)
            .min();
        if let Some(cut) = cut.and_then(|cut| usize::try_from(cut).ok())
            && cut <= rest.len()
            && newline.is_none_or(|newline| cut <= newline)
        {
            return Some((cut, cut));
        }
    }
    newline.map(|newline| (newline, newline + 1))
}
