//! What the clock ends: unfinished lines and records that nothing was added to for a while.

use std::sync::Arc;
use std::time::Duration;

use sonde_wire::logs::Stream;

use super::checkpoint::Cut;
use super::core::{Core, Now};
use super::emit::{Shape, Unread};
use super::fs::LogFs;
use super::join::{Extent, Joined, MAX_WAIT};
use super::ledger::Account;
use super::lineage::{FIRST_LOOK, LAST_LOOK, LineageId};
use super::multiline::Rule;
use super::redo::{Again, PATIENCE};
use super::tail::FileId;

/// Time between two writes of cuts: a container that writes a line now and then, under a multi-line rule, makes one for each.
const PERIOD: Duration = Duration::from_millis(200);

/// How the clock ends what is unfinished in a stream.
struct Ending {
    id: LineageId,
    stream: Stream,
    cuts: Vec<(FileId, Cut)>,
    /// Rule and text of the unfinished line, if it may belong to the open record.
    line: Option<(Arc<Rule>, Vec<u8>)>,
}

impl<F: LogFs> Core<F> {
    /// Ends what the clock ends: the cuts are on disk before their records are sent, one write for as many as requests
    /// have room for. The rest stays due: hundreds of lines of a mebibyte may end in the same instant.
    pub(super) fn run_cuts(&mut self, now: Now) {
        if self.cuts_due.is_empty() || (self.outbox.is_full() && !self.outbox.seal()) {
            return;
        }
        let mut due = std::mem::take(&mut self.cuts_due);
        due.sort_unstable();
        due.dedup();
        if !self.checkpoints.may_write(now.mono) || now.mono < self.next_cuts {
            for id in due {
                self.look_again(id, self.next_cuts.max(now.mono + FIRST_LOOK));
            }
            return;
        }
        self.next_cuts = now.mono + PERIOD;
        let mut lines: Vec<(LineageId, FileId, Cut)> = Vec::new();
        let mut joins: Vec<Ending> = Vec::new();
        let mut room = self.outbox.room();
        let mut fitting = 0;
        for id in &due {
            if room == 0 {
                break;
            }
            fitting += 1;
            for stream in [Stream::Stdout, Stream::Stderr] {
                let unfinished = self.lineages.get(id).and_then(|lineage| lineage.unfinished(stream));
                let Some((_, _, bytes)) = unfinished.filter(|(due, ..)| now.mono >= *due) else { continue };
                match self.ending_of(*id, stream, now) {
                    Some(ending) => {
                        room = room.saturating_sub(bytes.min(2 * self.settings.max_line));
                        joins.push(ending);
                    }
                    None => self.look_again(*id, now.mono + LAST_LOOK),
                }
            }
            let Some(lineage) = self.lineages.get(id) else { continue };
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
        let of_joins = joins.iter().flat_map(|ending| &ending.cuts);
        let cuts: Vec<(FileId, Cut)> =
            lines.iter().map(|(_, file, cut)| (*file, *cut)).chain(of_joins.copied()).collect();
        for (file, cut) in &cuts {
            if let Some(file) = self.files.get_mut(file)
                && !file.cuts.contains(cut)
            {
                file.cuts.push(*cut);
            }
            self.dirty_files.insert(*file);
        }
        if !self.flush(now.mono) {
            // Not durable: the records wait.
            for (file, cut) in &cuts {
                if let Some(file) = self.files.get_mut(file) {
                    file.cuts.retain(|other| other != cut);
                }
            }
            for id in due {
                self.look_again(id, now.mono + LAST_LOOK);
            }
            return;
        }
        for Ending { id, stream, line, .. } in joins {
            for record in self.take_unfinished(id, stream, line, now) {
                self.emit_cut(id, &record, now);
            }
        }
        for id in due {
            self.wake(id);
        }
    }

    /// Where the clock ends what is unfinished in a stream; none = the disk does not give now what decides it.
    fn ending_of(&mut self, id: LineageId, stream: Stream, now: Now) -> Option<Ending> {
        let lineage = self.lineages.get(&id)?;
        let (due, last, _) = lineage.unfinished(stream)?;
        let cut = |last: Extent| (last.file, Cut { offset: last.end, stream: Some(stream) });
        let mut ending = Ending { id, stream, cuts: vec![cut(last)], line: None };
        let line = lineage.joiner.open(stream).cloned();
        let record = lineage.groups.as_ref().and_then(|groups| groups.open(stream));
        let record = record.and_then(|(record, _)| record.extents.last().copied());
        if let (Some(line), Some(record)) = (line, record) {
            let (rule, format) = (self.rule_of_line(last.file, last.end), lineage.format);
            match self.rule_and_text(rule, &line, format, None) {
                Ok((Some(rule), text)) => ending.line = Some((rule, text)),
                Ok((None, _)) => {}
                Err(Unread::Later) if now.mono < due + PATIENCE => return None,
                // Whatever a replay can read of it: the record ends before it.
                Err(_) => ending.cuts.push(cut(record)),
            }
        }
        Some(ending)
    }

    fn emit_cut(&mut self, id: LineageId, joined: &Joined, now: Now) {
        let Some(first) = joined.extents.first() else { return };
        let hash = self.files.get(&first.file).and_then(|file| file.identity).map(|identity| identity.hash);
        let (Some(set), Some(hash)) = (self.attributes_of(id), hash) else { return };
        // Sealed if it is full; the room was counted before, so what does not fit is one record.
        self.outbox.accepts(&set);
        self.outbox.open(&set);
        let context = self.context(id, hash, now);
        match self.emit_extents(context, &joined.extents, Shape::of(joined), None, now) {
            Ok(()) => {
                if let Some(lineage) = self.lineages.get(&id) {
                    self.ledger.count_records(&lineage.row, 1);
                }
            }
            Err(Unread::Later) => self.keep_unread(id, Again::of(joined)),
            Err(Unread::Lost(reason)) => {
                for extent in &joined.extents {
                    self.settle(extent.file, extent.start, extent.end, Account::Lost(reason));
                }
            }
        }
    }
}
