//! The open multi-line records of a lineage: lines of one stream, as extents, until the line that does not go on.
//!
//! Where a record ends is decided by its own lines, its rule, and the line that comes next: a function of the files' bytes.
//! What an earlier process sent is settled whole, so a line that is settled ends the open record of its stream, and the next
//! one that is not begins one: a replay finds each record as it was, wherever its watermark lies.
//!
//! Memory: nothing for a lineage without a rule; with one, 2 x about 150 bytes and the extents, at most as many as
//! [`super::join::most_extents`] a record (24 bytes each), whatever the lines hold: 12.3 KiB a container with `max_line` of 1 MiB, and
//! that only where the two streams take turns 256 times within a record; 40 bytes more for each file that it goes on into. The text of a record is in memory while it is sent, at most
//! `max_line` of one record at a time.
//!
//! Cost without a rule: for each window, not each line, two looks at what is empty; for each line one branch on a flag that is
//! the same for the whole window.

use std::sync::Arc;
use std::time::Instant;

use sonde_wire::logs::Stream;

use super::join::{Extent, Joined, index};
use super::multiline::{Progress, Rule};
use super::tail::FileId;

/// The open records of both streams.
#[derive(Debug, Default)]
pub struct Groups {
    open: [Option<Open>; 2],
}

/// A record that may go on.
#[derive(Debug)]
struct Open {
    record: Joined,
    bytes: u64,
    progress: Progress,
    rule: Arc<Rule>,
    sealed: bool,
    /// Sealed for what was lost behind it.
    for_loss: bool,
    ended: bool,
    /// What it was before its first line in each further file, and how many extents it had.
    crossings: Vec<(usize, Before)>,
    /// It ends with a whole line.
    whole: bool,
}

/// An open record before one of its lines.
#[derive(Clone, Copy, Debug)]
struct Before {
    lines: u32,
    bytes: u64,
    progress: Progress,
}

/// A whole line that comes to the records of its stream.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Stream.
    pub stream: Stream,
    /// Its entries.
    pub extents: &'a [Extent],
    /// Stamp of the first one.
    pub first_stamp: u64,
    /// Stamp of the last one, at which what it ends is measured too: those of a log ascend.
    pub last_stamp: u64,
    /// Cut by [`super::join::most_extents`].
    pub cut: bool,
    /// Its text; of a line of several entries its beginning.
    pub text: &'a [u8],
    /// Bytes of its text at most.
    pub bytes: u64,
}

impl<'a> Line<'a> {
    /// A line of several entries, the last of which has this stamp.
    pub fn of(stream: Stream, line: &'a Joined, last_stamp: u64, text: &'a [u8]) -> Self {
        Line {
            stream,
            extents: &line.extents,
            first_stamp: line.time_unix_nano,
            last_stamp,
            cut: line.cut,
            text,
            bytes: line.bytes() as u64,
        }
    }

    /// As a record of its own.
    pub fn alone(&self, now: Instant) -> Joined {
        Joined {
            extents: self.extents.to_vec(),
            time_unix_nano: self.first_stamp,
            touched: now,
            cut: self.cut,
            lines: 1,
        }
    }
}

impl Groups {
    /// Takes the next line of a stream; gives the record that it ended.
    pub fn push(
        &mut self,
        line: Line<'_>,
        rule: &Arc<Rule>,
        most_extents: usize,
        now: Instant,
    ) -> Option<Joined> {
        let slot = &mut self.open[index(line.stream)];
        if let Some(open) = slot
            && open.takes(&line, rule, most_extents)
        {
            open.add(&line, now);
            return None;
        }
        let open = Open {
            record: line.alone(now),
            bytes: line.bytes,
            progress: rule.begin(line.text),
            rule: rule.clone(),
            sealed: false,
            for_loss: false,
            ended: false,
            crossings: Vec::new(),
            whole: true,
        };
        slot.replace(open).map(|open| open.record)
    }

    /// Ends the open record of a stream where it is.
    pub fn take(&mut self, stream: Stream) -> Option<Joined> {
        self.open[index(stream)].take().map(|open| open.record)
    }

    /// Whether a record is open.
    pub fn is_open(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// The open record of a stream, and when the clock ends it.
    pub fn open(&self, stream: Stream) -> Option<(&Joined, Instant)> {
        let open = self.open[index(stream)].as_ref()?;
        let wait = if open.sealed { std::time::Duration::ZERO } else { open.rule.max_wait };
        Some((&open.record, open.record.touched + wait))
    }

    /// Nothing more may come to the open records: the clock ends them now, before anything else is read.
    pub fn seal(&mut self) {
        self.open.iter_mut().flatten().for_each(|open| open.sealed = true);
    }

    /// Nothing more belongs to the open record of a stream, whatever its rule says.
    pub fn end(&mut self, stream: Stream) {
        if let Some(open) = &mut self.open[index(stream)] {
            open.ended = true;
        }
    }

    /// Whether a record waits for that.
    pub fn is_sealed(&self) -> bool {
        self.open.iter().flatten().any(|open| open.sealed)
    }

    /// Drops what of a stream's open record lies in a file that is gone, and behind; gives its entries.
    pub fn cut_off(&mut self, stream: Stream, id: FileId) -> Vec<Extent> {
        let slot = &mut self.open[index(stream)];
        let Some(open) = slot else { return Vec::new() };
        let Some(at) = open.record.extents.iter().position(|extent| extent.file == id) else {
            return Vec::new();
        };
        let gone = open.record.extents.split_off(at);
        let before = open.crossings.iter().find(|(extents, _)| *extents == at).map(|(_, before)| *before);
        open.crossings.retain(|(extents, _)| *extents < at);
        match before {
            _ if at == 0 => *slot = None,
            Some(Before { lines, bytes, progress }) => {
                (open.record.lines, open.bytes, open.progress) = (lines, bytes, progress);
            }
            None => open.whole = false,
        }
        gone
    }

    /// [`Groups::seal`], for what was lost behind the open records.
    pub fn seal_for_loss(&mut self) {
        self.open.iter_mut().flatten().for_each(|open| (open.sealed, open.for_loss) = (true, true));
    }

    /// The clock cannot end what is sealed: what ended with a whole line before the loss goes on, as if what was lost had never
    /// been, which is what a replay finds.
    pub fn unseal(&mut self) {
        for open in self.open.iter_mut().flatten().filter(|open| open.for_loss && open.whole) {
            (open.sealed, open.for_loss) = (false, false);
        }
    }
}

impl Open {
    fn takes(&mut self, line: &Line<'_>, rule: &Arc<Rule>, most_extents: usize) -> bool {
        let before = Before { lines: self.record.lines, bytes: self.bytes, progress: self.progress };
        let takes = self.goes_on(line, rule, most_extents);
        let last = self.record.extents.last().map(|extent| extent.file);
        if takes && last != line.extents.first().map(|extent| extent.file) {
            self.crossings.push((self.record.extents.len(), before));
        }
        takes
    }

    fn goes_on(&mut self, line: &Line<'_>, rule: &Arc<Rule>, most_extents: usize) -> bool {
        !self.ended
            && (Arc::ptr_eq(&self.rule, rule) || self.rule.spec() == rule.spec())
            && self.record.lines < rule.max_lines
            && self.bytes + 1 + line.bytes <= rule.max_bytes
            && self.record.extents.len() + line.extents.len() <= most_extents
            && rule.goes_on(&mut self.progress, line.text)
    }

    fn add(&mut self, line: &Line<'_>, now: Instant) {
        for extent in line.extents {
            match self.record.extents.last_mut() {
                Some(last) if last.file == extent.file && last.end == extent.start => last.end = extent.end,
                _ => self.record.extents.push(*extent),
            }
        }
        self.record.touched = now;
        self.record.cut |= line.cut;
        self.record.lines += 1;
        self.bytes += 1 + line.bytes;
    }
}
