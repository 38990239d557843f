//! Which containers' logs are read, and how: `logs.include`, `logs.exclude`, and what pods say in their annotations.
//!
//! A container that is left out keeps its files' identities and positions like any other, and its bytes are settled as they
//! come ([`Excluded::Rule`]), whole lines first. So a rule or an annotation that comes or goes applies above the read
//! position: nothing is counted twice, and nothing that was left out is sent later.
//!
//! | annotation | value | means |
//! |---|---|---|
//! | `sonde.io/logs` | `"false"` | the pod's logs are left out |
//! | `sonde.io/parse` | `"off"`, `"auto"` | `logs.parse` for this pod |
//! | `sonde.io/multiline`, `sonde.io/multiline.<container>` | `"off"`, a preset, a pattern | a rule before those of `logs.multiline` (`bindings`) |
//!
//! Another value is as none. An annotation is known when the pod is: a new container waits up to a second for that and is
//! then read; what an annotation that comes later says applies from there on. Of a pod that the kubelet does not name any
//! more, what it said last stays.

use std::collections::BTreeMap;
use std::io;

use super::core::{Core, Now, QUANTUM};
use super::fs::LogFs;
use super::join::MAX_WAIT;
use super::ledger::{Account, Excluded};
use super::lineage::LineageId;
use super::open::read_file;
use super::tail::{FileId, Handle};
use super::window::Progress;
use crate::config::Parse;

/// What a pod wants for its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// They are read.
    pub logs: bool,
    /// Instead of `logs.parse`.
    pub parse: Option<Parse>,
}

impl Wishes {
    /// From a pod's annotations.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let value = |key: &str| annotations.get(key).map(String::as_str);
        Self {
            logs: value("sonde.io/logs") != Some("false"),
            parse: match value("sonde.io/parse") {
                Some("off") => Some(Parse::Off),
                Some("auto") => Some(Parse::Auto),
                _ => None,
            },
        }
    }
}

impl<F: LogFs> Core<F> {
    /// What a pod's annotations say applies from here on.
    pub(super) fn obey(&mut self, id: LineageId, wishes: Wishes) {
        let Some(lineage) = self.lineages.get_mut(&id) else { return };
        lineage.parse = wishes.parse.unwrap_or(self.settings.parse) == Parse::Auto;
        let is_excluded = lineage.ruled_out || !wishes.logs;
        if !std::mem::replace(&mut lineage.excluded, is_excluded) && is_excluded {
            for file in lineage.files.clone() {
                if let Some(file) = self.files.get_mut(&file) {
                    // What an earlier process read is read again, and may have been stored.
                    file.rule_from = file.rule_from.max(file.read);
                }
            }
        }
    }

    /// Whether a lineage is left out, from each file's `rule_from` on.
    pub(super) fn is_excluded(&self, id: LineageId) -> bool {
        self.lineages.get(&id).is_some_and(|lineage| lineage.excluded)
    }

    /// How many bytes of a window that begins at `base` may be looked at.
    pub(super) fn readable_below(&self, lineage: LineageId, id: FileId, base: u64) -> usize {
        let below = self.files.get(&id).map_or(0, |file| file.rule_from).saturating_sub(base);
        if self.is_excluded(lineage) { usize::try_from(below).unwrap_or(usize::MAX) } else { usize::MAX }
    }

    /// A visit to an open file of a container that is left out: what lies below the rule is read, the rest is not.
    pub(super) fn visit_excluded(
        &mut self,
        lineage: LineageId,
        id: FileId,
        has_successor: bool,
        now: Now,
    ) -> io::Result<Progress> {
        let progress = match self.files.get(&id) {
            Some(file) if file.read < file.rule_from => self.read_window(lineage, id, now)?,
            _ => Progress::End,
        };
        // Records that are open end before anything behind them is left out.
        if let Some(groups) = self.lineages.get_mut(&lineage).and_then(|lineage| lineage.groups.as_mut())
            && groups.is_open()
        {
            groups.seal();
            return Ok(progress);
        }
        self.leave_out(lineage, id, has_successor, now)?;
        Ok(progress)
    }

    /// Settles what a file has grown by since. Its last line waits for its end like any other's, but is not counted before,
    /// so that no later process finds bytes that were seen and not left out.
    pub(super) fn leave_out(
        &mut self,
        lineage: LineageId,
        id: FileId,
        has_successor: bool,
        now: Now,
    ) -> io::Result<()> {
        let Some(file) = self.files.get(&id) else { return Ok(()) };
        let from = file.settled_from(file.rule_from);
        let is_over = has_successor
            || !file.is_named()
            || file.superseded.is_some()
            || now.mono.saturating_duration_since(file.grown) >= MAX_WAIT;
        let size = self.size_of(id)?;
        let end = match file.handle {
            Some(Handle::Gz(_)) if file.ended => return Ok(()),
            Some(Handle::Gz(_)) => size,
            _ if size < from || !self.begins_as_before(id)? => {
                self.truncated(lineage, id, now);
                return Ok(());
            }
            _ if is_over => size,
            _ => self.end_of_lines(id, from, size)?,
        };
        self.note_size(id, end, now);
        self.settle(id, from, end, Account::Excluded(Excluded::Rule));
        if let Some(file) = self.files.get_mut(&id) {
            file.ended |= matches!(file.handle, Some(Handle::Gz(_)));
        }
        self.skip_settled(id);
        Ok(())
    }

    /// Where the last whole line above `from` ends; a line longer than a window ends where the file does.
    fn end_of_lines(&mut self, id: FileId, from: u64, size: u64) -> io::Result<u64> {
        let len = (QUANTUM as u64).min(size.saturating_sub(from));
        let mut tail = vec![0; usize::try_from(len).unwrap_or(0)];
        let start = size - len;
        let read = read_file::<F>(&self.files, &mut self.gz, id, &mut tail, start)?;
        Ok(match memchr::memrchr(b'\n', &tail[..read]) {
            Some(newline) => start + newline as u64 + 1,
            None if len < QUANTUM as u64 => from,
            None => size,
        })
    }
}
