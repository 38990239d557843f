//! Lines that come to the open records of their lineage.

use std::sync::Arc;

use sonde_wire::logs::Stream;

use super::core::{Core, Now};
use super::cri::CriLine;
use super::emit::{Last, Unread};
use super::format::Format;
use super::fs::LogFs;
use super::group::{Groups, Line};
use super::join::{Joined, most_extents};
use super::ledger::{Account, Lost};
use super::lineage::LineageId;
use super::multiline::{LOOK, Rule};
use super::parsed::Window;
use super::record::Context;
use super::tail::FileId;

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

    /// The rule of a line of several entries, and the beginning of its text for it.
    pub(super) fn rule_and_text(
        &mut self,
        rule: Option<Arc<Rule>>,
        line: &Joined,
        format: Format,
        window: Option<(&[u8], u64)>,
    ) -> Result<(Option<Arc<Rule>>, Vec<u8>), Unread> {
        let mut text = Vec::new();
        if rule.is_some() {
            self.gather(format, &line.extents, LOOK, window, &mut text)?;
        }
        Ok((rule, text))
    }

    /// Of a line that may belong to the open record nothing can be read any more: it is lost, and the record ends before it.
    pub(super) fn lose_line(
        groups: &mut Option<Box<Groups>>,
        line: &Joined,
        reason: Lost,
        done: &mut Window,
    ) {
        line.extents.iter().for_each(|extent| done.settle(*extent, Account::Lost(reason)));
        if let Some(groups) = groups {
            groups.seal_for_loss();
        }
        done.stop();
    }

    /// The rule of the line that ends before `end`.
    pub(super) fn rule_of_line(&self, file: FileId, end: u64) -> Option<Arc<Rule>> {
        self.files.get(&file)?.bindings.of_line(end).cloned()
    }

    /// What is unfinished in a stream, as the records that the clock makes of it where it is; `of_line`: rule and text of its
    /// unfinished line.
    pub(super) fn take_unfinished(
        &mut self,
        id: LineageId,
        stream: Stream,
        of_line: Option<(Arc<Rule>, Vec<u8>)>,
        now: Now,
    ) -> Vec<Joined> {
        let most = most_extents(self.settings.max_line);
        let Some(lineage) = self.lineages.get_mut(&id) else { return Vec::new() };
        let line = lineage.joiner.take(stream);
        let Some(groups) = &mut lineage.groups else { return line.into_iter().collect() };
        let mut records = Vec::new();
        match (line, of_line) {
            (Some(line), Some((rule, text))) => {
                records.extend(groups.push(Line::of(stream, &line, 0, &text), &rule, most, now.mono));
                records.extend(groups.take(stream));
            }
            (line, _) => {
                records.extend(groups.take(stream));
                records.extend(line);
            }
        }
        records
    }
}
