//! From a whole line to a record in the open request.

use std::io;

use sonde_wire::uid::FileHash;

use super::core::{Core, Now};
use super::cri::CriLine;
use super::format::Format;
use super::fs::LogFs;
use super::join::{Extent, Joined};
use super::ledger::{Account, Excluded, Lost};
use super::limits::Gate;
use super::lineage::LineageId;
use super::open::read_file;
use super::outbox::Made;
use super::parsed::Window;
use super::record::{self, Context, Gathered};
use super::redact::{self, RuleSet};
use super::redo::Again;
use super::tail::FileId;

/// How a line of several entries ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// Stamp of its last entry.
    pub(super) stamp: Option<u64>,
    /// The clock ended it.
    pub(super) by_clock: bool,
}

/// What of a record cannot be told from its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Cut, beside what `max_line` cuts.
    pub(super) is_cut: bool,
    /// It is several lines.
    pub(super) is_group: bool,
}

/// Why a record's entries cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// They are gone for good.
    Lost(Lost),
    /// The disk does not give them now.
    Later,
}

impl Unread {
    /// What an error of a file means; `may_come`: whether it has a name in its directory, or may get one.
    fn of(error: &io::Error, may_come: bool) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound if may_come => Self::Later,
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::Lost(Lost::RotatedUnread)
            }
            _ => Self::Later,
        }
    }
}

impl Shape {
    pub(super) fn of(joined: &Joined) -> Self {
        Self { is_cut: joined.cut, is_group: joined.lines > 1 }
    }
}

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
            done.settle(entry, Account::Excluded(Excluded::Old));
            return;
        }
        let stamp = header.map(|header| header.time_unix_nano);
        if !done.gate.admits(entry.end - entry.start, stamp, entry.start < resend_below) {
            done.settle(entry, Account::Shed);
            return;
        }
        let keep = kept(context.redact, bytes, max_line, false);
        let mut body = record::body(bytes, keep, false);
        self.redact(context.redact, &mut body);
        let cut = (bytes.len() - keep) as u64;
        self.count(&body, header.is_none());
        done.records += 1;
        let record = record::record(context, header, &body, entry.start);
        let made = Made { cut, resend: entry.start < resend_below, is_group: false };
        self.outbox.push(&record, &[entry], made, now.mono);
    }

    /// Emits a line of several entries: from the window if all of them lie in it, else from their files.
    pub(super) fn emit_joined(
        &mut self,
        context: Context,
        joined: &Joined,
        last: Last,
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
            joined.extents.iter().for_each(|extent| done.settle(*extent, Account::Lost(Lost::RotatedUnread)));
            return;
        };
        if joined.time_unix_nano < cutoff {
            joined.extents.iter().for_each(|extent| done.settle(*extent, Account::Excluded(Excluded::Old)));
            return;
        }
        let Last { stamp, by_clock } = last;
        if !by_clock
            && !done.gate.admits(joined.bytes() as u64, stamp, self.may_have_been_sent(&joined.extents))
        {
            joined.extents.iter().for_each(|extent| done.settle(*extent, Account::Shed));
            return;
        }
        let context = Context { hash: hash.unwrap_or(context.hash), ..context };
        match self.emit_extents(context, &joined.extents, Shape::of(joined), window, now) {
            Ok(()) => done.records += 1,
            Err(Unread::Lost(reason)) => {
                joined.extents.iter().for_each(|extent| done.settle(*extent, Account::Lost(reason)));
            }
            Err(Unread::Later) => done.keep(Again::of(joined)),
        }
    }

    /// Reads a record's entries and adds it to the open request, or says why they cannot be read any more.
    pub(super) fn emit_extents(
        &mut self,
        context: Context,
        extents: &[Extent],
        shape: Shape,
        window: Option<(&[u8], u64)>,
        now: Now,
    ) -> Result<(), Unread> {
        let Some(first) = extents.first().copied() else { return Ok(()) };
        let mut joined = std::mem::take(&mut self.joined);
        let mut gathered = self.gather(context.format, extents, self.settings.max_line, window, &mut joined);
        if let Err(Unread::Lost(Lost::Truncated)) = gathered
            && self.wait_for_copies(extents.iter().map(|extent| extent.file), now)
        {
            gathered = Err(Unread::Later);
        }
        if let Ok(gathered) = &gathered {
            let was_cut = gathered.cut > 0 || shape.is_cut;
            let keep = kept(context.redact, &joined, self.settings.max_line, was_cut);
            let mut body = record::body(&joined, keep, was_cut);
            self.redact(context.redact, &mut body);
            self.count(&body, gathered.first.is_none());
            let resend = self.may_have_been_sent(extents);
            let record = record::record(context, gathered.first, &body, first.start);
            let cut = gathered.cut + (joined.len() - keep) as u64;
            let made = Made { cut, resend, is_group: shape.is_group };
            self.outbox.push(&record, extents, made, now.mono);
        }
        joined.clear();
        self.joined = joined;
        gathered.map(|_| ())
    }

    /// Reads the bodies of entries, up to `limit` bytes: from the window if they lie in it, else from their files.
    pub(super) fn gather(
        &mut self,
        format: Format,
        extents: &[Extent],
        limit: usize,
        window: Option<(&[u8], u64)>,
        out: &mut Vec<u8>,
    ) -> Result<Gathered, Unread> {
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
            let opened = self.ensure_open(*file);
            // The copy of one that was emptied may turn up.
            let may_come = self.files.get(file).is_some_and(|file| file.is_named() || file.emptied.is_some());
            opened.map_err(|error| Unread::of(&error, may_come))?;
        }
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
        let gathered = record::gather(&mut read_at, format, extents, limit, out, &mut side);
        self.side = side;
        // Behind the reading: what was put in its place since must not get its name.
        if again.iter().any(|file| matches!(self.is_still_known(*file), Ok(false))) {
            return Err(Unread::Lost(Lost::Truncated));
        }
        gathered.map_err(|error| Unread::of(&error, false))
    }

    /// What is the same for all records that are read now and begin in a file with this identity.
    pub(super) fn context(&self, lineage: LineageId, hash: FileHash, now: Now) -> Context {
        let of = self.lineages.get(&lineage).map(|lineage| (lineage.parse, lineage.redact, lineage.format));
        let (parse, redact, format) = of.unwrap_or_default();
        Context { observed_nanos: now.wall_nanos, parse, redact, format, hash }
    }

    /// The budgets of a lineage's container.
    pub(super) fn gate(&mut self, lineage: LineageId) -> Gate {
        let Some(lineage) = self.lineages.get(&lineage) else { return Gate::default() };
        if lineage.format == Format::Plain {
            // Limits are of the log's own time, which a plain line does not say.
            return Gate::default();
        }
        self.limits.enter(&lineage.row, lineage.quota)
    }

    /// Puts them back.
    pub(super) fn leave_gate(&mut self, lineage: LineageId, gate: Gate) {
        self.records.shed += gate.shed_records();
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.quota = gate.quota();
            self.limits.leave(&lineage.row, gate);
        }
    }

    /// Whether an earlier process may have sent a record with one of these extents.
    pub(super) fn may_have_been_sent(&self, extents: &[Extent]) -> bool {
        extents
            .iter()
            .any(|extent| self.files.get(&extent.file).is_some_and(|file| extent.start < file.resend_below))
    }

    /// A body in which nothing is found stays where it is, in the read buffer as a rule.
    #[inline]
    fn redact(&mut self, rules: RuleSet, body: &mut record::Body<'_>) {
        if !rules.is_empty()
            && let Some(text) = self.redactor.apply(rules, &body.text)
        {
            body.text = text.into();
        }
    }

    fn count(&mut self, body: &record::Body<'_>, is_malformed: bool) {
        self.records.truncated += u64::from(body.truncated);
        self.records.malformed += u64::from(is_malformed);
        self.invalid_utf8 += u64::from(body.invalid);
    }
}

/// How many bytes of a body are sent: up to the limit, and where a rule may look for what the limit cuts in two, up to the last
/// whole word.
#[inline]
fn kept(rules: RuleSet, bytes: &[u8], max_line: usize, was_cut: bool) -> usize {
    let within = bytes.get(..max_line).unwrap_or(bytes);
    if rules.is_empty() || !(was_cut || bytes.len() > max_line) {
        return within.len();
    }
    redact::without_last_word(within)
}
