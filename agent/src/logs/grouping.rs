//! Lines that come to the open records of their lineage.

use std::sync::Arc;

use sonde_wire::logs::Stream;

use super::core::{Core, Now};
use super::cri::CriLine;
use super::emit::Last;
use super::format::Format;
use super::fs::LogFs;
use super::group::{Groups, Line};
use super::join::{Joined, most_extents};
use super::lineage::LineageId;
use super::multiline::{LOOK, Rule};
use super::record::Context;
use super::tail::FileId;
use super::window::Window;

/// What is the same for all lines of a window.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    /// For records.
    pub(super) context: Context,
    /// Bytes that need not be read again, and where they begin.
    pub(super) window: Option<(&'a [u8], u64)>,
    /// Both clocks.
    pub(super) now: Now,
}

impl<F: LogFs> Core<F> {
    /// Takes a line by its rule, and emits what it ends. With `is_cut` the clock ended the record behind it. The order of
    /// entries of a stream is kept: what was open before the line is emitted before it.
    pub(super) fn group_line(
        &mut self,
        groups: &mut Option<Box<Groups>>,
        line: Line<'_>,
        rule: Option<&Arc<Rule>>,
        is_cut: bool,
        of: Pass<'_>,
        done: &mut Window,
    ) {
        let most_extents = most_extents(self.settings.max_line);
        let last = Last { stamp: Some(line.last_stamp), by_clock: is_cut };
        let Some(rule) = rule else {
            self.close_group(groups, line.stream, last, of, done);
            let alone = line.alone(of.now.mono);
            return self.emit_joined(of.context, &alone, last, of.window, done, of.now);
        };
        if let Some(ended) = groups.get_or_insert_default().push(line, rule, most_extents, of.now.mono) {
            self.emit_joined(of.context, &ended, last, of.window, done, of.now);
        }
        if is_cut {
            self.close_group(groups, line.stream, last, of, done);
        }
    }

    /// Emits the open record of a stream. It is measured by the stamp of the line that ends it: a limit counts what a replay
    /// reads again in the same order.
    pub(super) fn close_group(
        &mut self,
        groups: &mut Option<Box<Groups>>,
        stream: Stream,
        last: Last,
        of: Pass<'_>,
        done: &mut Window,
    ) {
        if let Some(ended) = groups.as_mut().and_then(|groups| groups.take(stream)) {
            self.emit_joined(of.context, &ended, last, of.window, done, of.now);
        }
    }

    /// A settled entry ends the open record of its stream: no line behind it can be part of that one. It is emitted where the
    /// entry's line ends, as it was before.
    pub(super) fn end_group(
        &mut self,
        groups: &mut Option<Box<Groups>>,
        header: CriLine,
        is_cut: bool,
        of: Pass<'_>,
        done: &mut Window,
    ) {
        if !header.partial || is_cut {
            let last = Last { stamp: Some(header.time_unix_nano), by_clock: false };
            self.close_group(groups, header.stream, last, of, done);
        } else if let Some(groups) = groups {
            groups.end(header.stream);
        }
    }

    /// The rule of a line of several entries, and the beginning of its text for it; no rule if the text cannot be read any
    /// more, so that nobody's record is lost with it.
    pub(super) fn rule_and_text(
        &mut self,
        rule: Option<Arc<Rule>>,
        line: &Joined,
        format: Format,
        window: Option<(&[u8], u64)>,
    ) -> (Option<Arc<Rule>>, Vec<u8>) {
        let mut text = Vec::new();
        let Some(rule) = rule else { return (None, text) };
        let read = self.gather(format, &line.extents, LOOK, window, &mut text);
        (read.is_ok().then_some(rule), text)
    }

    /// The rule of the line that ends before `end`.
    pub(super) fn rule_of_line(&self, file: FileId, end: u64) -> Option<Arc<Rule>> {
        self.files.get(&file)?.bindings.of_line(end).cloned()
    }

    /// What is unfinished in a stream, as the records that the clock makes of it where it is.
    pub(super) fn take_unfinished(&mut self, id: LineageId, stream: Stream, now: Now) -> Vec<Joined> {
        let Some(lineage) = self.lineages.get_mut(&id) else { return Vec::new() };
        let format = lineage.format;
        let (line, groups) = (lineage.joiner.take(stream), lineage.groups.take());
        let Some(mut groups) = groups else { return line.into_iter().collect() };
        let mut records = Vec::new();
        if let Some(line) = line {
            let last = line.extents.last().and_then(|last| self.rule_of_line(last.file, last.end));
            match self.rule_and_text(last, &line, format, None) {
                (Some(rule), text) => {
                    let most = most_extents(self.settings.max_line);
                    let pushed = groups.push(Line::of(stream, &line, 0, &text), &rule, most, now.mono);
                    records.extend(pushed);
                }
                (None, _) => {
                    records.extend(groups.take(stream));
                    records.push(line);
                }
            }
        }
        records.extend(groups.take(stream));
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.groups = Some(groups);
        }
        records
    }
}
