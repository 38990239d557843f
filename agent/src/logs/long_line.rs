//! A line that is longer than a window: its end is looked for, and it is read again when it is there.

use std::io;

use sonde_wire::uid::FileHash;

use super::checkpoint::Cut;
use super::core::{Core, Now};
use super::emit::{Last, Unread};
use super::format::{AnyLines, Lines};
use super::fs::LogFs;
use super::group::Line;
use super::grouping::Pass;
use super::join::{Extent, Joined, Step, index, most_extents};
use super::lineage::LineageId;
use super::open::read_file;
use super::parsed::Window;
use super::tail::FileId;
use super::window::{Progress, next_line, within};

impl<F: LogFs> Core<F> {
    /// Looks for the end of a line that is longer than a window, and emits it when it is there.
    pub(super) fn scan_long_line(
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
        let settled = file.settled.next_after(start).filter(|span| span.0 <= start);
        let found = next_line(window, start, base, &file.cuts);
        let found = within(found, window.len(), base, settled.map_or(u64::MAX, |span| span.1));
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
        let (cuts, bindings) = (file.cuts.clone(), file.bindings.clone());
        let is_settled = file.settled.covers(start, end);
        let context = self.context(lineage, hash, now);
        let mut lines = AnyLines::new(context.format);
        let mut head = std::mem::take(&mut self.side);
        head.resize(usize::try_from(line_end - start).unwrap_or(usize::MAX).min(lines.most_header()), 0);
        let head_len = read_file::<F>(&self.files, &mut self.gz, id, &mut head, start);
        let header = head_len.as_ref().ok().and_then(|len| lines.header(&head[..*len]));
        self.side = head;
        head_len?;
        let entry = Extent { file: id, start, end };
        let is_apart = start >= bindings.late_from();
        if let Some(header) = header.filter(|_| !is_apart && !is_settled)
            && self.late_streams(lineage, id)[index(header.stream)]
            && (header.partial || bindings.joins() || self.has_unfinished(lineage))
        {
            return Ok(if self.mark_late(id, start, now) { Progress::Read } else { Progress::Passed });
        }
        let mut done = Window::new(end, self.gate(lineage));
        let mut groups = self.lineages.get_mut(&lineage).and_then(|lineage| lineage.groups.take());
        let is_open = groups.as_ref().is_some_and(|groups| groups.is_open());
        let of = Pass { context, window: None, now };
        let alone = |stamp| Joined {
            extents: vec![entry],
            time_unix_nano: stamp,
            touched: now.mono,
            cut: false,
            lines: 1,
        };
        let joined = match (header, self.lineages.get_mut(&lineage)) {
            _ if is_settled => {
                if let Some(header) = header.filter(|_| !is_apart) {
                    let is_cut = cuts.contains(&Cut { offset: end, stream: Some(header.stream) });
                    self.end_group(&mut groups, header, is_cut, of, &mut done);
                }
                None
            }
            (Some(header), _) if is_apart => Some(alone(header.time_unix_nano)),
            (Some(header), Some(lineage)) => match lineage.joiner.push(
                header.stream,
                header.partial,
                header.time_unix_nano,
                entry,
                most_extents(self.settings.max_line),
                now.mono,
            ) {
                Step::Held => {
                    let is_cut = cuts.contains(&Cut { offset: end, stream: Some(header.stream) });
                    lineage.joiner.take_if(header.stream, is_cut)
                }
                Step::Single => Some(alone(header.time_unix_nano)),
                Step::Whole(joined) => Some(joined),
            },
            _ => Some(alone(u64::MAX)),
        };
        if let Some(header) = header.filter(|_| !is_settled && !is_apart) {
            done.streams[index(header.stream)] = true;
        }
        if let Some(joined) = joined {
            let stamp = header.map(|header| header.time_unix_nano);
            let is_cut = cuts.contains(&Cut { offset: end, stream: header.map(|header| header.stream) });
            match header {
                Some(header) if !is_apart && (is_open || bindings.joins()) => {
                    let rule = bindings.of_line(end).cloned();
                    match self.rule_and_text(rule, &joined, context.format, None) {
                        Ok((rule, text)) => {
                            let line = Line::of(header.stream, &joined, header.time_unix_nano, &text);
                            self.group_line(&mut groups, line, rule.as_ref(), is_cut, of, &mut done);
                        }
                        Err(Unread::Lost(reason)) => {
                            Self::lose_line(&mut groups, &joined, reason, &mut done);
                        }
                        Err(Unread::Later) => {
                            if let Some(lineage) = self.lineages.get_mut(&lineage) {
                                lineage.joiner.put_back(header.stream, joined, entry);
                                lineage.groups = groups;
                            }
                            return Err(io::Error::other("the beginning of a line cannot be read"));
                        }
                    }
                }
                _ => {
                    let by_clock = is_cut && header.is_some_and(|header| header.partial);
                    self.emit_joined(context, &joined, Last { stamp, by_clock }, None, &mut done, now);
                }
            }
        }
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.groups = groups;
        }
        self.commit(lineage, id, done);
        if let Some(file) = self.files.get_mut(&id) {
            file.scanned = end;
            file.check = None;
        }
        Ok(Progress::Read)
    }
}
