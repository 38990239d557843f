//! Records of a refused request, sent again in smaller ones until the one at fault is found.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use sonde_wire::logs::Stream;

use super::checkpoint::Cut;
use super::core::{Core, Now};
use super::cri::CriLine;
use super::emit::{Shape, Unread};
use super::format::{AnyLines, Lines};
use super::fs::LogFs;
use super::join::{Extent, Joined, Joiner, Step, most_extents};
use super::ledger::{Account, Lost};
use super::lineage::{LAST_LOOK, LineageId};
use super::open::read_file;
use super::outbox::Range;
use super::tail::FileId;
use super::visit::Visit;

/// How long the disk is asked again for a record that it does not give. Then it is lost, and what lies behind it is read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Records of a refused batch, to be sent again in smaller ones.
pub struct Redo {
    pub(super) records: VecDeque<Again>,
    pub(super) bytes: usize,
    /// Records of the next batch: halved with each refusal, so that one record is found whatever their sizes.
    pub(super) count: u32,
}

/// A whole record that is read again: it was sent before, or could not be read when it ended.
#[derive(Clone, Debug)]
pub struct Again {
    pub(super) extents: Vec<Extent>,
    pub(super) shape: Shape,
    /// Whether the receiver refused it in a larger request.
    pub(super) was_sent: bool,
}

impl Again {
    /// Of a record that was not sent.
    pub(super) fn of(joined: &Joined) -> Self {
        Self { extents: joined.extents.clone(), shape: Shape::of(joined), was_sent: false }
    }
}

/// A refused batch whose records are not found yet: a file of it waits for its copy ([`super::copies`]), ten seconds at most.
pub struct Refused {
    pub(super) ranges: Vec<Range>,
    /// Of the next batch.
    pub(super) bytes: usize,
    pub(super) count: u32,
}

impl Redo {
    /// All entries that it holds.
    pub fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.records.iter().flat_map(|record| &record.extents)
    }
}

impl<F: LogFs> Core<F> {
    /// A batch's records again: ranges hold whole records, so a fresh joiner finds the lines, and those of several lines
    /// are kept apart.
    pub(super) fn records_of(&mut self, ranges: &[Range], now: Instant) -> VecDeque<Again> {
        let mut groups: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
        for range in ranges.iter().filter(|range| range.group > 0) {
            let Range { file, start, end, .. } = *range;
            groups.entry(range.group).or_default().push(Extent { file, start, end });
        }
        // Of one that was cut by the number of its extents there is no room for a second line.
        let whole = Shape { is_cut: false, is_group: true };
        let groups = groups.into_values().map(|extents| Again { extents, shape: whole, was_sent: true });
        let mut ranges: Vec<Range> = ranges.iter().filter(|range| range.group == 0).copied().collect();
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
        let most_extents = most_extents(self.settings.max_line);
        let mut records: VecDeque<Again> = groups.collect();
        let line = |extents, is_cut| {
            let shape = Shape { is_cut, is_group: false };
            Again { extents, shape, was_sent: true }
        };
        let mut joiners: HashMap<LineageId, Joiner> = HashMap::new();
        for range in ranges {
            if self.ensure_open(range.file).is_err() {
                self.settle_range(&range, Account::Lost(Lost::RotatedUnread));
                continue;
            }
            let Some(file) = self.files.get(&range.file) else { continue };
            let late_from = file.bindings.late_from();
            let joiner = joiners.entry(file.lineage).or_default();
            let mut at = range.start;
            while at < range.end {
                let Some((end, header)) = self.entry_at(range.file, at, range.end) else {
                    // The file lost it since.
                    self.settle(range.file, at, range.end, Account::Lost(Lost::Truncated));
                    break;
                };
                let entry = Extent { file: range.file, start: at, end };
                // What came late was sent entry by entry.
                let step = header.filter(|_| at < late_from).map_or(Step::Single, |header| {
                    joiner.push(
                        header.stream,
                        header.partial,
                        header.time_unix_nano,
                        entry,
                        most_extents,
                        now,
                    )
                });
                match step {
                    Step::Single => records.push_back(line(vec![entry], false)),
                    Step::Whole(joined) => records.push_back(line(joined.extents, joined.cut)),
                    Step::Held => {
                        let cut = header.map(|header| Cut { offset: end, stream: Some(header.stream) });
                        let is_cut = self
                            .files
                            .get(&range.file)
                            .is_some_and(|file| cut.is_some_and(|cut| file.cuts.contains(&cut)));
                        if let Some(joined) = header.and_then(|header| joiner.take_if(header.stream, is_cut))
                        {
                            records.push_back(line(joined.extents, joined.cut));
                        }
                    }
                }
                at = end;
            }
        }
        // What its joiner still holds ended by a cut that is known no more; it is a record all the same.
        for mut joiner in joiners.into_values() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                records.extend(joiner.take(stream).map(|joined| line(joined.extents, joined.cut)));
            }
        }
        records
    }

    /// End and header of the entry at `at`, which ends by `limit`.
    fn entry_at(&mut self, id: FileId, at: u64, limit: u64) -> Option<(u64, Option<CriLine>)> {
        let of = self.files.get(&id).and_then(|file| self.lineages.get(&file.lineage));
        let mut lines = AnyLines::new(of.map(|lineage| lineage.format).unwrap_or_default());
        let mut buffer = std::mem::take(&mut self.side);
        buffer.resize(lines.most_header().max(16 << 10), 0);
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
                header = lines.header(&buffer[..newline.unwrap_or(read)]);
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

    /// Finds the records of refused batches whose files wait for nothing.
    pub(super) fn read_refused(&mut self, now: Now) {
        for _ in 0..self.refused.len() {
            let Some(Refused { ranges, bytes, count }) = self.refused.pop_front() else { return };
            let files = || ranges.iter().map(|range| range.file);
            if !self.wait_for_copies(files(), now) {
                let records = self.records_of(&ranges, now.mono);
                // Asked again behind the reading: what was found is of the known files.
                if !self.wait_for_copies(files(), now) {
                    self.redo.push_back(Redo { records, bytes, count });
                    continue;
                }
            }
            self.refused.push_back(Refused { ranges, bytes, count });
        }
    }

    /// Sends refused records again, before anything new.
    pub(super) fn run_redo(&mut self, now: Now) {
        self.read_refused(now);
        while let Some(mut redo) = self.redo.pop_front() {
            if !self.outbox.has_slot() || !self.outbox.seal() || !self.outbox.has_slot() {
                self.redo.push_front(redo);
                return;
            }
            for _ in 0..redo.count.max(1) {
                let Some(record) = redo.records.pop_front() else { break };
                if self.emit_again(&record, true, now)
                    && let Some(first) = record.extents.first()
                    && let Some(lineage) = self.files.get(&first.file).map(|file| file.lineage)
                {
                    self.keep_unread(lineage, record);
                }
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

    /// Emits a record; whether that has to wait for the disk. An impatient one is lost instead.
    fn emit_again(&mut self, again: &Again, is_patient: bool, now: Now) -> bool {
        let extents = again.extents.as_slice();
        let Some(first) = extents.first() else { return false };
        let of = self.files.get(&first.file).and_then(|file| Some((file.lineage, file.identity?.hash)));
        let Some((lineage, hash)) = of else { return false };
        if let Some(set) = self.attributes_of(lineage) {
            self.outbox.open(&set);
        }
        let context = self.context(lineage, hash, now);
        let reason = match self.emit_extents(context, extents, again.shape, None, now) {
            Ok(()) if again.was_sent => {
                self.outbox.mark_resend();
                return false;
            }
            Ok(()) => {
                if let Some(lineage) = self.lineages.get(&lineage) {
                    self.ledger.count_records(&lineage.row, 1);
                }
                return false;
            }
            Err(Unread::Later) if is_patient => return true,
            Err(Unread::Later) => Lost::RotatedUnread,
            Err(Unread::Lost(reason)) => reason,
        };
        for extent in extents {
            self.settle(extent.file, extent.start, extent.end, Account::Lost(reason));
        }
        false
    }

    /// Keeps a record until the disk gives it. Nothing more is read of its container before.
    pub(super) fn keep_unread(&mut self, id: LineageId, again: Again) {
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.unread.push_back(again);
        }
        self.wake(id);
    }

    /// Emits records that could not be read before; what a visit to their container leads to while that is so.
    pub(super) fn emit_unread(&mut self, id: LineageId, now: Now) -> Option<Visit> {
        let lineage = self.lineages.get_mut(&id)?;
        if lineage.unread.is_empty() {
            return None;
        }
        let is_past = |since| now.mono.saturating_duration_since(since) >= PATIENCE;
        let is_patient = !lineage.unread_since.is_some_and(is_past);
        while let Some(again) = self.lineages.get_mut(&id).and_then(|lineage| lineage.unread.pop_front()) {
            let has_room = self.attributes_of(id).is_some_and(|set| self.outbox.accepts(&set));
            if !has_room || self.emit_again(&again, is_patient, now) {
                let lineage = self.lineages.get_mut(&id)?;
                lineage.unread.push_front(again);
                if !has_room {
                    lineage.unread_since = None;
                    return Some(Visit::Blocked);
                }
                lineage.unread_since.get_or_insert(now.mono);
                return Some(Visit::Later(now.mono + LAST_LOOK));
            }
        }
        self.lineages.get_mut(&id)?.unread_since = None;
        None
    }
}
