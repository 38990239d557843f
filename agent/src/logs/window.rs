//! One window of a file: read, checked against what was there before, cut into lines, and parsed.

use std::io;

use sonde_wire::uid::FileHash;

use super::checkpoint::Cut;
use super::core::{Core, Now, QUANTUM};
use super::emit::{Last, Unread};
use super::format::{CriLines, DockerLines, Format, Lines, PlainLines};
use super::fs::LogFs;
use super::group::{Groups, Line};
use super::grouping::Pass;
use super::join::{Extent, Step, index, most_extents};
use super::ledger::{Account, Lost};
use super::limits::Gate;
use super::lineage::LineageId;
use super::open::read_file;
use super::parsed::Window;
use super::tail::{CHECK_BYTES, FileId, Handle, TailFile};

/// What a window leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Bytes were parsed, or scanned.
    Read,
    /// At the end of what is there.
    End,
    /// The open request is full and every slot is taken.
    Blocked,
    /// It is not this container's turn to decode.
    Waits,
    /// The rule for its lines is not in its state yet.
    Unbound,
    /// A file before it grew while it was read: that one goes first.
    Before,
    /// What is there came late, and cannot be said to the state now.
    Passed,
}

impl<F: LogFs> Core<F> {
    /// Reads the next window of an identified, open file.
    pub(super) fn read_window(&mut self, lineage: LineageId, id: FileId, now: Now) -> io::Result<Progress> {
        if self.has_open_group(lineage) {
            self.pass_settled(id);
        } else {
            self.skip_settled(id);
        }
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        let (Some(identity), true) = (file.identity, file.handle.is_some()) else { return Ok(Progress::End) };
        // A line longer than the window: only its end is looked for.
        let is_scanning = file.scanned > file.read;
        let from = file.scanned.max(file.read);
        let back = if is_scanning { 0 } else { from.min(CHECK_BYTES as u64) };
        let base = from - back;
        let is_gz = matches!(file.handle, Some(Handle::Gz(_)));
        let before = file.read;
        let back = usize::try_from(back).unwrap_or(0);
        if self.prove_first(id)? {
            self.unbound.push(lineage);
            return Ok(Progress::Unbound);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(QUANTUM + CHECK_BYTES, 0);
        let read = read_file::<F>(&self.files, &mut self.gz, id, &mut buffer, base);
        // Behind the window: whatever the window shows was written before, so what is parsed is of the known file.
        let read = read
            .map(|read| read.min(self.readable_below(lineage, id, base)).min(self.proved_below(id, base)));
        if self.grew_before(lineage, id, now) {
            self.buffer = buffer;
            return Ok(Progress::Before);
        }
        let outcome = match read
            // Before a window in a long line nothing of what was read is in it.
            .and_then(|read| Ok((read, !is_scanning || self.is_still_known(id)?)))
            .and_then(|(read, is_it)| {
                Ok((read, is_it && self.begins_as_before(id)? && self.begins_as_proved(id)?))
            }) {
            Ok((_, false)) => {
                self.truncated(lineage, id, now);
                Ok((Progress::Read, 0))
            }
            Ok((read, true)) => {
                self.parse_window(lineage, id, identity.hash, &buffer[..read], base, back, now)
            }
            Err(error) => Err(error),
        };
        let read = *outcome.as_ref().map(|(_, read)| read).unwrap_or(&0);
        self.buffer = buffer;
        let (progress, _) = outcome?;
        if progress == Progress::Passed {
            // All of it, so that nobody waits for it.
            let size = self.size_of(id)?;
            self.note_stated(id, size, now);
        } else if is_gz {
            self.count_resume(id, before);
        }
        let is_whole = read < QUANTUM + CHECK_BYTES && !self.is_excluded(lineage);
        if progress == Progress::End && is_gz && is_whole {
            self.end_of_gz(id, base + read as u64, now);
        }
        Ok(progress)
    }

    /// Of a compressed file bytes were read, from `before` on.
    fn count_resume(&mut self, id: FileId, before: u64) {
        if let Some(file) = self.files.get_mut(&id)
            && file.read > before
            && !std::mem::replace(&mut file.unpacked, true)
        {
            self.compressed_resumes += u64::from(before > 0);
        }
    }

    pub(super) fn has_open_group(&self, lineage: LineageId) -> bool {
        let groups = self.lineages.get(&lineage).and_then(|lineage| lineage.groups.as_ref());
        groups.is_some_and(|groups| groups.is_open())
    }

    /// Goes back to the beginning of what was settled when the file was found: a record that is open in the file before it ends
    /// with the first of these lines that is of its stream.
    pub(super) fn pass_settled(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(&id)
            && std::mem::take(&mut file.unpassed)
        {
            (file.read, file.scanned, file.check) = (0, 0, None);
        }
    }

    /// Moves over what an earlier process settled.
    pub(super) fn skip_settled(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.unpassed = false;
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
        if checked.is_none() && file.is_copy {
            return Ok((Progress::End, window.len()));
        }
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
        let format = self.lineages.get(&lineage).map(|lineage| lineage.format).unwrap_or_default();
        let done = match format {
            Format::Cri => self.parse_lines(CriLines::default(), lineage, id, hash, window, base, now),
            Format::Plain => self.parse_lines(PlainLines, lineage, id, hash, window, base, now),
            Format::Docker => self.parse_lines(DockerLines::default(), lineage, id, hash, window, base, now),
        };
        let (position, blocked) = (done.position, done.blocked);
        let (late, failed) = (done.late, done.failed);
        let progressed = position > start;
        self.commit(lineage, id, done);
        if progressed && let Some(file) = self.files.get_mut(&id) {
            file.scanned = file.read;
            let consumed = usize::try_from(position.saturating_sub(base)).unwrap_or(usize::MAX);
            let keep = CHECK_BYTES.min(usize::try_from(position).unwrap_or(CHECK_BYTES));
            file.check = window
                .get(consumed.saturating_sub(keep)..consumed)
                .filter(|kept| kept.len() == keep)
                .map(crc32fast::hash);
        }
        if failed {
            return Err(io::Error::other("the beginning of a line cannot be read"));
        }
        let progress = if let Some(at) = late {
            if self.mark_late(id, at, now) { Progress::Read } else { Progress::Passed }
        } else if blocked {
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
    #[allow(clippy::too_many_arguments)]
    fn parse_lines<L: Lines>(
        &mut self,
        mut lines: L,
        lineage: LineageId,
        id: FileId,
        hash: FileHash,
        window: &[u8],
        base: u64,
        now: Now,
    ) -> Window {
        let context = self.context(lineage, hash, now);
        let (Some(file), Some(set)) = (self.files.get(&id), self.attributes_of(lineage)) else {
            return Window::new(0, Gate::default());
        };
        let (read, cutoff, resend_below) = (file.read, file.cutoff, file.resend_below);
        let max_line = self.settings.max_line;
        let most_extents = most_extents(max_line);
        let (cuts, bindings) = (file.cuts.clone(), file.bindings.clone());
        let mut skip = file.settled.next_after(read).unwrap_or((u64::MAX, u64::MAX));
        let mut done = Window::new(read, self.gate(lineage));
        let end = base + window.len() as u64;
        self.outbox.open(&set);
        // Out of the map for the time of the loop: no look-up a line.
        let (mut joiner, mut groups) = self
            .lineages
            .get_mut(&lineage)
            .map(|lineage| (std::mem::take(&mut lineage.joiner), lineage.groups.take()))
            .unwrap_or_default();
        let is_open = |groups: &Option<Box<Groups>>| groups.as_ref().is_some_and(|groups| groups.is_open());
        let is_grouping = bindings.joins() || is_open(&groups);
        let of = Pass { context, window: Some((window, base)), now };
        let (late, late_from) = (self.late_streams(lineage, id), bindings.late_from());
        while !done.stopped {
            let mut is_settled = false;
            while done.position >= skip.0 {
                // What is settled ends the open record of its stream: which that is stands in it.
                if done.position < skip.1 && is_grouping && is_open(&groups) {
                    is_settled = true;
                    break;
                }
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
            let found = next_line(rest, done.position, done.position, &cuts);
            let limit = if is_settled { skip.1 } else { u64::MAX };
            let Some((len, step)) = within(found, rest.len(), done.position, limit) else { break };
            let line = &rest[..len];
            let entry = Extent { file: id, start: done.position, end: done.position + step as u64 };
            done.position = entry.end;
            let header = lines.header(line);
            match header {
                // Settled or not: it is no part of what is open.
                Some(header) if entry.start >= late_from => {
                    if !is_settled {
                        let text = lines.body(line, &header);
                        self.emit_single(
                            context,
                            Some(header),
                            text,
                            entry,
                            cutoff,
                            resend_below,
                            max_line,
                            &mut done,
                            now,
                        );
                    }
                }
                Some(header) if is_settled => {
                    let is_cut = cuts.contains(&Cut { offset: entry.end, stream: Some(header.stream) });
                    self.end_group(&mut groups, header, is_cut, of, &mut done);
                }
                None if is_settled => {}
                Some(header)
                    if late[index(header.stream)]
                        && (is_grouping || header.partial || joiner.open(header.stream).is_some()) =>
                {
                    done.late = Some(entry.start);
                    done.stop_before(entry);
                }
                Some(header) => {
                    done.streams[index(header.stream)] = true;
                    let mut step = joiner.push(
                        header.stream,
                        header.partial,
                        header.time_unix_nano,
                        entry,
                        most_extents,
                        now.mono,
                    );
                    let is_cut = matches!(step, Step::Held)
                        && cuts.contains(&Cut { offset: entry.end, stream: Some(header.stream) });
                    if let Some(joined) = joiner.take_if(header.stream, is_cut) {
                        step = Step::Whole(joined);
                    }
                    match step {
                        Step::Held => {}
                        step if is_grouping => {
                            let is_cut =
                                cuts.contains(&Cut { offset: entry.end, stream: Some(header.stream) });
                            let rule = bindings.of_line(entry.end);
                            let text = lines.body(line, &header);
                            let line = Line {
                                stream: header.stream,
                                extents: &[entry],
                                first_stamp: header.time_unix_nano,
                                last_stamp: header.time_unix_nano,
                                cut: false,
                                text,
                                bytes: text.len() as u64,
                            };
                            if let Step::Whole(joined) = step {
                                match self.rule_and_text(rule.cloned(), &joined, context.format, of.window) {
                                    Ok((rule, text)) => {
                                        let line =
                                            Line::of(header.stream, &joined, header.time_unix_nano, &text);
                                        self.group_line(
                                            &mut groups,
                                            line,
                                            rule.as_ref(),
                                            is_cut,
                                            of,
                                            &mut done,
                                        );
                                    }
                                    Err(Unread::Lost(reason)) => {
                                        Self::lose_line(&mut groups, &joined, reason, &mut done);
                                    }
                                    Err(Unread::Later) => {
                                        joiner.put_back(header.stream, joined, entry);
                                        done.failed = true;
                                        done.stop_before(entry);
                                    }
                                }
                            } else {
                                self.group_line(&mut groups, line, rule, is_cut, of, &mut done);
                            }
                        }
                        Step::Single => self.emit_single(
                            context,
                            Some(header),
                            lines.body(line, &header),
                            entry,
                            cutoff,
                            resend_below,
                            max_line,
                            &mut done,
                            now,
                        ),
                        Step::Whole(joined) => {
                            let last = Last { stamp: Some(header.time_unix_nano), by_clock: is_cut };
                            self.emit_joined(context, &joined, last, Some((window, base)), &mut done, now)
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
            (lineage.joiner, lineage.groups) = (joiner, groups);
        }
        done
    }

    /// The end of a compressed file is known only when it is reached. A last line without a newline is left to the clock.
    fn end_of_gz(&mut self, id: FileId, end: u64, now: Now) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if !std::mem::replace(&mut file.ended, true) {
            let start = end.max(file.read);
            if let Some(damage) = self.gz.damage(id) {
                self.say_damaged(id, &damage, start);
                // How long it was is known if it was seen before; else there were at least as many bytes as are left.
                if self.files.get(&id).is_some_and(|file| file.seen <= end) {
                    self.note_size(id, end + damage.unread, now);
                }
            }
            let seen = self.files.get(&id).map_or(start, |file| file.seen);
            self.settle(id, start, seen, Account::Lost(Lost::Truncated));
        }
        self.skip_settled(id);
        if self.files.get(&id).is_none_or(TailFile::is_drained) {
            self.gz.forget(id);
        }
    }
}

/// The same for a line of which only what lies below `limit` is settled: it was cut there, and what stands behind is another
/// line. The cut itself is forgotten once all below it is settled.
#[inline]
pub(super) fn within(
    found: Option<(usize, usize)>,
    rest: usize,
    position: u64,
    limit: u64,
) -> Option<(usize, usize)> {
    match usize::try_from(limit.saturating_sub(position)) {
        Ok(limit) if limit <= rest && found.is_none_or(|(_, step)| step > limit) => {
            Some((found.map_or(limit, |(len, _)| len.min(limit)), limit))
        }
        _ => found,
    }
}

/// Length of the next line and of the step over it; none if it is not complete. A durable cut ends a line without its
/// newline.
#[inline]
pub(super) fn next_line(rest: &[u8], line_start: u64, position: u64, cuts: &[Cut]) -> Option<(usize, usize)> {
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
