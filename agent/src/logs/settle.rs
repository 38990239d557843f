//! What becomes of bytes: acknowledged, refused, lost; and the cuts of the clock.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use sonde_wire::logs::Stream;

use super::checkpoint::Cut;
use super::core::{Core, Now, read_file};
use super::cri;
use super::fs::LogFs;
use super::join::{Extent, Joined, Joiner, MAX_WAIT, Step};
use super::ledger::{Account, Excluded, Lost};
use super::lineage::{FIRST_LOOK, LineageId};
use super::outbox::Range;
use super::record::Context;
use super::tail::{Aside, FileId, Handle, TailFile};
use crate::batch::{Outcome, Settlement};
use crate::config::Parse;

/// Records of a refused batch, to be sent again in smaller ones.
pub struct Redo {
    records: VecDeque<Vec<Extent>>,
    bytes: usize,
    /// Records of the next batch: halved with each refusal, so that one record is found whatever their sizes.
    count: u32,
}

impl<F: LogFs> Core<F> {
    /// The exporter's word on a batch.
    pub fn on_settlement(&mut self, settlement: Settlement, now: Now) {
        let Some(batch) = self.outbox.settled(settlement.id) else { return };
        match settlement.outcome {
            Outcome::Accepted { rejected, message } => {
                if rejected > 0 {
                    tracing::warn!(rejected, message, "the receiver refused records of a request for good");
                }
                let rejected = rejected.min(u64::from(batch.records));
                self.records.rejected += rejected;
                self.records.acked += u64::from(batch.records) - rejected;
                self.settle_answered(&batch.ranges, rejected, u64::from(batch.records));
            }
            Outcome::Refused { code } => {
                if batch.records <= 1 {
                    tracing::warn!(
                        code,
                        bytes = batch.bytes,
                        "the receiver refuses a record for good: it is lost"
                    );
                    self.records.rejected += u64::from(batch.records);
                    for range in &batch.ranges {
                        self.settle_range(range, Account::Lost(Lost::Rejected));
                    }
                } else {
                    let records = self.records_of(&batch.ranges, now.mono);
                    self.redo.push_back(Redo { records, bytes: batch.bytes / 2, count: batch.records / 2 });
                }
            }
            // Nothing moves: an earlier position is read again by the next process.
            Outcome::Abandoned => {}
        }
    }

    /// Settles what the receiver took, but for `rejected` of `records`. It does not say which ones: their bytes are
    /// counted as that share of the batch's.
    fn settle_answered(&mut self, ranges: &[Range], rejected: u64, records: u64) {
        let (mut bytes, mut lost) = (0u64, 0u64);
        for range in ranges {
            let Some((lineage, new)) = self.settle_uncut(range) else { continue };
            bytes += new;
            let share = u128::from(bytes) * u128::from(rejected) / u128::from(records.max(1));
            let share = u64::try_from(share).unwrap_or(bytes) - lost;
            lost += share;
            if let Some(lineage) = self.lineages.get(&lineage) {
                self.ledger.settle(&lineage.row, share, Account::Lost(Lost::Rejected));
                self.ledger.settle(&lineage.row, new - share, Account::Acked);
            }
        }
    }

    fn settle_range(&mut self, range: &Range, account: Account) {
        let Some((lineage, bytes)) = self.settle_uncut(range) else { return };
        if let Some(lineage) = self.lineages.get(&lineage) {
            self.ledger.settle(&lineage.row, bytes, account);
        }
    }

    /// Settles a range's bytes beyond `max_line`; gives the number of its other new ones, for the caller to settle.
    fn settle_uncut(&mut self, range: &Range) -> Option<(LineageId, u64)> {
        let cut = range.cut.min(range.end - range.start);
        let file = self.files.get_mut(&range.file)?;
        let new = file.settled.insert(range.start, range.end);
        if file.pending() == 0 {
            file.behind_since = None;
        }
        self.dirty_files.insert(range.file);
        let cut = cut.min(new);
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            self.ledger.settle(&lineage.row, cut, Account::Excluded(Excluded::MaxLine));
        }
        Some((file.lineage, new - cut))
    }

    /// Settles what of `start..end` is not settled yet.
    pub(super) fn settle(&mut self, id: FileId, start: u64, end: u64, account: Account) {
        self.settle_range(&Range { file: id, start, end, cut: 0 }, account);
    }

    /// A batch's records again: its ranges hold whole records, so a fresh joiner finds the same ones.
    fn records_of(&mut self, ranges: &[Range], now: Instant) -> VecDeque<Vec<Extent>> {
        let mut ranges = ranges.to_vec();
        let place = |id: &FileId| {
            self.files.get(id).map(|file| {
                let position = self
                    .lineages
                    .get(&file.lineage)
                    .and_then(|lineage| lineage.files.iter().position(|other| other == id));
                (file.lineage, position)
            })
        };
        ranges.sort_by_key(|range| (place(&range.file), range.start));
        let mut records = VecDeque::new();
        let mut joiners: HashMap<LineageId, Joiner> = HashMap::new();
        for range in ranges {
            if self.ensure_open(range.file).is_err() {
                self.settle_range(&range, Account::Lost(Lost::RotatedUnread));
                continue;
            }
            let Some(file) = self.files.get(&range.file) else { continue };
            let joiner = joiners.entry(file.lineage).or_default();
            let mut at = range.start;
            while at < range.end {
                let Some((end, header)) = self.entry_at(range.file, at, range.end) else {
                    // The file lost it since.
                    self.settle(range.file, at, range.end, Account::Lost(Lost::Truncated));
                    break;
                };
                let entry = Extent { file: range.file, start: at, end };
                let step = header.map_or(Step::Single, |header| {
                    joiner.push(header.stream, header.partial, header.time_unix_nano, entry, now)
                });
                match step {
                    Step::Single => records.push_back(vec![entry]),
                    Step::Whole(joined) => records.push_back(joined.extents),
                    Step::Held => {
                        let cut = header.map(|header| Cut { offset: end, stream: Some(header.stream) });
                        let is_cut = self
                            .files
                            .get(&range.file)
                            .is_some_and(|file| cut.is_some_and(|cut| file.cuts.contains(&cut)));
                        if let Some(joined) = header.and_then(|header| joiner.take_if(header.stream, is_cut))
                        {
                            records.push_back(joined.extents);
                        }
                    }
                }
                at = end;
            }
        }
        // What its joiner still holds ended by a cut that is known no more; it is a record all the same.
        for mut joiner in joiners.into_values() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                records.extend(joiner.take(stream).map(|joined| joined.extents));
            }
        }
        records
    }

    /// End and header of the entry at `at`, which ends by `limit`.
    fn entry_at(&mut self, id: FileId, at: u64, limit: u64) -> Option<(u64, Option<cri::CriLine>)> {
        let mut buffer = std::mem::take(&mut self.side);
        buffer.resize(16 << 10, 0);
        let mut from = at;
        let mut header = None;
        let mut found = None;
        let cut = self
            .files
            .get(&id)?
            .cuts
            .iter()
            .filter(|cut| cut.stream.is_none() && cut.offset > at)
            .map(|cut| cut.offset)
            .min();
        let limit = limit.min(cut.unwrap_or(u64::MAX));
        while from < limit {
            let wanted = usize::try_from(limit - from).unwrap_or(usize::MAX).min(buffer.len());
            let Ok(read) = read_file::<F>(&self.files, &mut self.gz, id, &mut buffer[..wanted], from) else {
                break;
            };
            if read == 0 {
                break;
            }
            let newline = memchr::memchr(b'\n', &buffer[..read]);
            if from == at {
                header = cri::parse(&buffer[..newline.unwrap_or(read)]);
            }
            if let Some(newline) = newline {
                found = Some(from + newline as u64 + 1);
                break;
            }
            from += read as u64;
        }
        self.side = buffer;
        Some((found.or((from >= limit).then_some(limit))?, header))
    }

    /// Sends refused records again, before anything new.
    pub(super) fn run_redo(&mut self, now: Now) {
        while let Some(mut redo) = self.redo.pop_front() {
            if !self.outbox.has_slot() || !self.outbox.seal() || !self.outbox.has_slot() {
                self.redo.push_front(redo);
                return;
            }
            for _ in 0..redo.count.max(1) {
                let Some(record) = redo.records.pop_front() else { break };
                self.emit_again(&record, now);
                if self.outbox.len() >= redo.bytes.max(1) {
                    break;
                }
            }
            self.outbox.seal();
            if !redo.records.is_empty() {
                self.redo.push_front(redo);
            }
        }
    }

    fn emit_again(&mut self, extents: &[Extent], now: Now) {
        let Some(first) = extents.first() else { return };
        let of = self.files.get(&first.file).and_then(|file| Some((file.lineage, file.identity?.hash)));
        let Some((lineage, hash)) = of else { return };
        if let Some(set) = self.attributes_of(lineage) {
            self.outbox.open(&set);
        }
        let context =
            Context { observed_nanos: now.wall_nanos, parse: self.settings.parse == Parse::Auto, hash };
        if self.emit_extents(context, extents, false, None, now) {
            self.outbox.mark_resend();
        } else {
            for extent in extents {
                self.settle(extent.file, extent.start, extent.end, Account::Lost(Lost::RotatedUnread));
            }
        }
    }

    /// Ends what the clock ends: the cuts are on disk before their records are sent, one write for as many as requests
    /// have room for. The rest stays due: hundreds of lines of a mebibyte may end in the same instant.
    pub(super) fn run_cuts(&mut self, now: Now) {
        if self.cuts_due.is_empty() || (self.outbox.is_full() && !self.outbox.seal()) {
            return;
        }
        let mut due = std::mem::take(&mut self.cuts_due);
        due.sort_unstable();
        due.dedup();
        if !self.checkpoints.may_write(now.mono) {
            for id in due {
                self.look_again(id, now.mono + FIRST_LOOK);
            }
            return;
        }
        let mut lines: Vec<(LineageId, FileId, Cut)> = Vec::new();
        let mut joins: Vec<(LineageId, FileId, Cut)> = Vec::new();
        let mut room = self.outbox.room();
        let mut fitting = 0;
        for id in &due {
            if room == 0 {
                break;
            }
            fitting += 1;
            let Some(lineage) = self.lineages.get(id) else { continue };
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(open) = lineage.joiner.open(stream)
                    && now.mono.saturating_duration_since(open.touched) >= MAX_WAIT
                    && let Some(last) = open.extents.last()
                {
                    room = room.saturating_sub(open.bytes().min(self.settings.max_line));
                    joins.push((*id, last.file, Cut { offset: last.end, stream: Some(stream) }));
                }
            }
            for file in &lineage.files {
                let Some(known) = self.files.get(file) else { continue };
                let is_quiet = now.mono.saturating_duration_since(known.grown) >= MAX_WAIT;
                if known.aside.is_none() && known.identity.is_some() && known.handle.is_some() && is_quiet {
                    // What is settled beyond (a compressed file is shorter than it stated) is not part of the line.
                    let settled = known.settled.next_after(known.read).map_or(u64::MAX, |(start, _)| start);
                    let end = known.seen.min(settled);
                    if known.read < end {
                        lines.push((*id, *file, Cut { offset: end, stream: None }));
                    }
                }
            }
        }
        self.cuts_due = due.split_off(fitting);
        for (_, file, cut) in lines.iter().chain(&joins) {
            if let Some(file) = self.files.get_mut(file)
                && !file.cuts.contains(cut)
            {
                file.cuts.push(*cut);
            }
            self.dirty_files.insert(*file);
        }
        if !self.flush(now.mono) {
            // Not durable: the records wait.
            for (_, file, cut) in lines.iter().chain(&joins) {
                if let Some(file) = self.files.get_mut(file) {
                    file.cuts.retain(|other| other != cut);
                }
            }
            for id in due {
                self.look_again(id, now.mono + super::lineage::LAST_LOOK);
            }
            return;
        }
        for (id, _, cut) in joins {
            let Some(stream) = cut.stream else { continue };
            let joined = self.lineages.get_mut(&id).and_then(|lineage| lineage.joiner.take(stream));
            if let Some(joined) = joined {
                self.emit_cut(id, &joined, now);
            }
        }
        for id in due {
            self.wake(id);
        }
    }

    fn emit_cut(&mut self, id: LineageId, joined: &Joined, now: Now) {
        let Some(first) = joined.extents.first() else { return };
        let hash = self.files.get(&first.file).and_then(|file| file.identity).map(|identity| identity.hash);
        let (Some(set), Some(hash)) = (self.attributes_of(id), hash) else { return };
        // Sealed if it is full; the room was counted before, so what does not fit is one record.
        self.outbox.accepts(&set);
        self.outbox.open(&set);
        let context =
            Context { observed_nanos: now.wall_nanos, parse: self.settings.parse == Parse::Auto, hash };
        if self.emit_extents(context, &joined.extents, false, None, now) {
            if let Some(lineage) = self.lineages.get(&id) {
                self.ledger.count_records(&lineage.row, 1);
            }
        } else {
            for extent in &joined.extents {
                self.settle(extent.file, extent.start, extent.end, Account::Lost(Lost::RotatedUnread));
            }
        }
    }

    /// The file was cut under us: what of it was not read is gone, and what it holds now is another file.
    pub(super) fn truncated(&mut self, lineage: LineageId, id: FileId, now: Now) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let handle = file.handle.take();
        let (plain, gz, suffix, name) =
            (file.plain.take(), file.gz.take(), file.suffix.clone(), file.name.clone());
        self.give_up(id, Lost::Truncated, now.mono);
        let new = FileId(self.next_file);
        self.next_file += 1;
        let mut file = TailFile::new(lineage, &name, suffix, now.mono);
        (file.plain, file.gz) = (plain, gz);
        file.handle = handle.filter(|handle| matches!(handle, Handle::Plain(_)));
        self.files.insert(new, file);
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            let at =
                lineage.files.iter().position(|other| *other == id).map_or(lineage.files.len(), |at| at + 1);
            lineage.files.insert(at, new);
        }
    }

    /// Counts as lost what of a file is neither settled nor on its way, and leaves the file aside.
    pub(super) fn give_up(&mut self, id: FileId, reason: Lost, now: Instant) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.aside = Some(Aside::Gone);
        file.handle = None;
        file.behind_since.get_or_insert(now);
        let lineage = file.lineage;
        self.gz.forget(id);
        let Some(file) = self.files.get(&id) else { return };
        // What is in a batch may yet be acknowledged.
        let mut covered = file.settled.clone();
        for range in self.outbox.ranges().filter(|range| range.file == id) {
            covered.insert(range.start, range.end);
        }
        for extent in
            self.redo.iter().flat_map(|redo| redo.records.iter().flatten()).filter(|extent| extent.file == id)
        {
            covered.insert(extent.start, extent.end);
        }
        for (start, end) in covered.gaps(file.seen) {
            self.settle(id, start, end, Account::Lost(reason));
        }
        // A line that began in it cannot be read again; its entries in other files go with it.
        let Some(lineage) = self.lineages.get_mut(&lineage) else { return };
        for stream in [Stream::Stdout, Stream::Stderr] {
            if lineage
                .joiner
                .open(stream)
                .is_some_and(|open| open.extents.iter().any(|extent| extent.file == id))
            {
                for extent in lineage.joiner.take(stream).map(|open| open.extents).unwrap_or_default() {
                    let file = extent.file;
                    if let Some(known) = self.files.get_mut(&file) {
                        let new = known.settled.insert(extent.start, extent.end);
                        self.ledger.settle(&lineage.row, new, Account::Lost(reason));
                    }
                    self.dirty_files.insert(file);
                }
            }
        }
    }

    /// Bytes of deleted files are held open only up to the limit; the oldest go first.
    pub(super) fn limit_pinned(&mut self, now: Now) {
        let mut pinned: Vec<(Instant, FileId, u64)> = self
            .files
            .iter()
            .filter(|(_, file)| {
                matches!(file.handle, Some(Handle::Plain(_))) && file.plain.is_none() && file.pending() > 0
            })
            .map(|(id, file)| (file.grown, *id, file.seen))
            .collect();
        let mut total: u64 = pinned.iter().map(|(_, _, bytes)| bytes).sum();
        if total <= self.settings.pinned_deleted {
            return;
        }
        pinned.sort_unstable();
        for (_, id, bytes) in pinned {
            if total <= self.settings.pinned_deleted {
                return;
            }
            total -= bytes;
            if !self.reopen_compressed(id) {
                tracing::warn!(
                    bytes,
                    "more bytes of deleted log files than may be held open: the oldest are lost"
                );
                self.give_up(id, Lost::PinnedLimit, now.mono);
            }
        }
    }
}
