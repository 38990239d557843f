//! One visit to a lineage: which of its files is read now, and when to look again.

use std::io;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::Stream;

use super::core::{Core, Now};
use super::fs::LogFs;
use super::identity::UNFINISHED_HEAD;
use super::join::MAX_WAIT;
use super::ledger::Lost;
use super::lineage::{FIRST_LOOK, LAST_LOOK, LineageId};
use super::resource;
use super::rules::Wishes;
use super::tail::{FileId, Handle, TailFile};
use super::window::Progress;

/// How long a rotated file is looked at after the next one has bytes: the runtime may still hold it.
pub const GRACE: Duration = Duration::from_secs(10);
/// A file this quiet is left to a notice of its growth.
const QUIET: Duration = Duration::from_secs(5);
/// How long the first batch of a new container waits for its pod to be known.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// What a visit leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// There is more to read.
    More,
    /// The open request is full and every slot is taken.
    Blocked,
    /// Other containers' compressed files are decoded now.
    Waits,
    /// Nothing to read now; look again then.
    Later(Instant),
    /// Nothing to read; the kernel will say when there is.
    Asleep,
}

impl<F: LogFs> Core<F> {
    pub(super) fn visit(&mut self, id: LineageId, now: Now) -> Visit {
        if let Some(until) = self.wait_for_pod(id, now.mono) {
            return Visit::Later(until);
        }
        if let Some(visit) = self.emit_unread(id, now) {
            return visit;
        }
        let cannot_cut = self.checkpoints.failing();
        let groups = self.lineages.get_mut(&id).and_then(|lineage| lineage.groups.as_mut());
        if let Some(groups) = groups
            && groups.is_sealed()
            && {
                if cannot_cut {
                    groups.unseal();
                }
                groups.is_sealed()
            }
        {
            self.cuts_due.push(id);
            return Visit::Later(now.mono + FIRST_LOOK);
        }
        let mut at = 0;
        while let Some(file) = self.lineages.get(&id).and_then(|lineage| lineage.files.get(at).copied()) {
            // Asked before the file is read: what is read to its end after the next one has bytes is finished.
            let has_successor = self.has_successor(id, at, now);
            self.current = Some(file);
            match self.visit_file(id, file, has_successor, now) {
                Ok(Progress::Read) => {
                    self.current = None;
                    self.note_activity(id);
                    return Visit::More;
                }
                Ok(Progress::Blocked) => {
                    self.current = None;
                    return Visit::Blocked;
                }
                Ok(Progress::Waits) => {
                    self.current = None;
                    return Visit::Waits;
                }
                Ok(Progress::Unbound) => {
                    self.current = None;
                    return Visit::Asleep;
                }
                Ok(Progress::Before) => {
                    self.current = None;
                    return Visit::Later(now.mono + FIRST_LOOK);
                }
                // What is open may go on in its copy. What was written since it was emptied does not: that waits until the copy
                // is found, or the clock ends what is open.
                Ok(Progress::End) if self.is_open_in_emptied(id, file) => {
                    self.current = None;
                    return self.rest(id, now);
                }
                Ok(Progress::End | Progress::Passed) => {}
                Err(error) => {
                    self.read_failed(id, file, &error, now);
                    let is_gone = self.files.get(&file).is_none_or(|file| file.aside.is_some());
                    if !is_gone && self.has_unfinished(id) {
                        // What is open may go on in it: it waits for the disk, or for the clock's durable word.
                        self.current = None;
                        self.end_decoding(file);
                        return self.rest(id, now);
                    }
                }
            }
            self.current = None;
            self.end_decoding(file);
            let finished = self.files.get(&file).is_none_or(|file| {
                file.aside.is_some()
                    || file.superseded.is_some()
                    || (!file.is_named() && file.handle.is_none())
            });
            if !finished && has_successor {
                if let Some(file) = self.files.get_mut(&file) {
                    file.superseded = Some(now.mono);
                }
            } else if !finished && self.files.get(&file).is_some_and(TailFile::is_named) {
                break;
            }
            // What turned out to be a copy is none of its files any more.
            at += usize::from(self.files.contains_key(&file));
        }
        self.current = None;
        self.rest(id, now)
    }

    /// Whether a line or a record is open.
    pub(super) fn has_unfinished(&self, id: LineageId) -> bool {
        let unfinished = |stream| self.lineages.get(&id).and_then(|lineage| lineage.unfinished(stream));
        [Stream::Stdout, Stream::Stderr].into_iter().any(|stream| unfinished(stream).is_some())
    }

    /// Whether a line or a record is open of which a part was read in a file that was emptied since.
    fn is_open_in_emptied(&self, id: LineageId, file: FileId) -> bool {
        let is_emptied = self.files.get(&file).is_some_and(|file| file.emptied.is_some());
        let lineage = self.lineages.get(&id).filter(|_| is_emptied);
        lineage.is_some_and(|lineage| lineage.open_extents().any(|extent| extent.file == file))
    }

    /// Until when the lineage waits for its pod to be known.
    fn wait_for_pod(&mut self, id: LineageId, now: Instant) -> Option<Instant> {
        let version = self.pods.version();
        let lineage = self.lineages.get_mut(&id)?;
        if lineage.attributes.as_ref().is_some_and(|(_, of)| *of == version) {
            return None;
        }
        let has_pod = lineage.has_pod();
        let meta = if has_pod { self.pods.get(&lineage.pod.uid) } else { None };
        if has_pod && meta.is_none() && lineage.attributes.is_none() {
            if lineage.hold_until.is_none() {
                self.pods.want();
            }
            if self.settings.wait_for_metadata {
                let until = *lineage.hold_until.get_or_insert(now + METADATA_WAIT);
                if now < until {
                    return Some(until.min(now + FIRST_LOOK));
                }
            }
        }
        let set = resource::attributes(&self.settings.node, &lineage.source(), meta.as_deref());
        if lineage.attributes.replace((set, version)).is_none() {
            // What is kept of them says less until now.
            self.dirty_files.extend(&lineage.files);
        }
        let annotations = meta.as_ref().map(|meta| &meta.annotations);
        self.choose_rule(id, annotations);
        if let Some(annotations) = annotations {
            self.obey(id, Wishes::of(annotations));
        }
        None
    }

    fn note_activity(&mut self, id: LineageId) {
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.period = FIRST_LOOK;
        }
    }

    /// Whether a later file of the lineage has bytes.
    fn has_successor(&mut self, id: LineageId, at: usize, now: Now) -> bool {
        let Some(lineage) = self.lineages.get(&id) else { return false };
        let later: Vec<FileId> = lineage.files[at + 1..].to_vec();
        for file in later {
            if self.files.get(&file).is_some_and(TailFile::has_bytes) {
                return true;
            }
            if let Ok(size) = self.size_of(file) {
                self.note_unnamed(file, size, now);
                if size > 0 {
                    return true;
                }
            }
        }
        false
    }

    fn visit_file(
        &mut self,
        lineage: LineageId,
        id: FileId,
        has_successor: bool,
        now: Now,
    ) -> io::Result<Progress> {
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        if file.aside.is_some() || file.emptied.is_some() {
            return Ok(Progress::End);
        }
        if file.unpassed && self.has_open_group(lineage) {
            self.pass_settled(id);
        }
        let Some(file) = self.files.get(&id) else { return Ok(Progress::End) };
        if file.is_out_of_grace(now.mono) && file.is_drained() {
            return Ok(Progress::End);
        }
        // A compressed file is not written to: to look at its end again is to decode all of it.
        if file.ended && file.superseded.is_some() && file.is_drained() {
            return Ok(Progress::End);
        }
        if file.handle.is_none() && file.is_drained() && !file.is_named() {
            return Ok(Progress::End);
        }
        self.ensure_open(id)?;
        let is_gz = self.files.get(&id).is_some_and(|file| matches!(file.handle, Some(Handle::Gz(_))));
        if is_gz && !self.may_decode(lineage, id) {
            return Ok(Progress::Waits);
        }
        if self.files.get(&id).is_some_and(|file| file.identity.is_none()) {
            let size = self.size_of(id)?;
            self.note_unnamed(id, size, now);
            let force = self.files.get(&id).is_some_and(|file| {
                let quiet = now.mono.saturating_duration_since(file.grown);
                let ended = has_successor || !file.is_named();
                size > 0 && (quiet >= UNFINISHED_HEAD || (ended && quiet >= MAX_WAIT))
            });
            if !self.identify(id, force, now)? {
                return Ok(Progress::End);
            }
        }
        if self.must_bind(id, now) {
            return Ok(Progress::Unbound);
        }
        self.lose_what_no_copy_has(id);
        if self.is_excluded(lineage) {
            return self.visit_excluded(lineage, id, has_successor, now);
        }
        self.read_window(lineage, id, now)
    }

    pub(super) fn attributes_of(&self, lineage: LineageId) -> Option<AttrSet> {
        self.lineages.get(&lineage)?.attributes.as_ref().map(|(set, _)| set.clone())
    }

    /// A file that cannot be read: one that is gone is given up, anything else is tried again.
    fn read_failed(&mut self, lineage: LineageId, id: FileId, error: &io::Error, now: Now) {
        let Some(file) = self.files.get(&id) else { return };
        if error.kind() == io::ErrorKind::NotFound && !file.is_named() {
            let has_mates = self.lineages.get(&lineage).is_some_and(|lineage| lineage.files.len() > 1);
            let reason = if has_mates { Lost::RotatedUnread } else { Lost::DeletedUnread };
            if let Some(file) = self.files.get_mut(&id) {
                file.is_gap |= file.pending() > 0 && has_mates;
            }
            self.give_up(id, reason, now.mono);
            return;
        }
        tracing::debug!(file = %file.name, %error, "cannot read a log file now");
    }

    /// All is read: when to look again, and what the clock ends by then.
    fn rest(&mut self, id: LineageId, now: Now) -> Visit {
        let Some(lineage) = self.lineages.get_mut(&id) else { return Visit::Asleep };
        lineage.period = (lineage.period * 2).min(LAST_LOOK);
        let period = lineage.period;
        let mut next = now.mono + period;
        let mut waits = false;
        let mut is_due = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some((due, ..)) = lineage.unfinished(stream) {
                waits = true;
                is_due |= now.mono >= due;
                next = next.min(due.max(now.mono + FIRST_LOOK));
            }
        }
        let files = lineage.files.clone();
        for file in &files {
            let Some(file) = self.files.get(file) else { continue };
            if file.aside.is_some() || file.emptied.is_some() {
                continue;
            }
            if file.read < file.seen || file.identity.is_none() {
                waits |= file.has_bytes() || !file.is_drained();
                is_due |= file.identity.is_some()
                    && file.handle.is_some()
                    && now.mono.saturating_duration_since(file.grown) >= MAX_WAIT;
            }
            let in_grace = file.superseded.is_some() && !file.is_out_of_grace(now.mono);
            waits |= in_grace || now.mono.saturating_duration_since(file.grown) < QUIET;
        }
        if is_due {
            self.cuts_due.push(id);
        }
        if waits {
            return Visit::Later(next);
        }
        // The last file is the one that can grow. Watched first, then looked at once more, so that nothing falls between.
        let Some(last) = files.last().copied() else { return Visit::Asleep };
        let Some(file) = self.files.get(&last) else { return Visit::Asleep };
        if file.aside.is_some() || !file.is_named() {
            return Visit::Later(now.mono + LAST_LOOK);
        }
        let seen = file.seen;
        let opened = self.ensure_open(last).is_ok();
        let watched = match self.files.get(&last).and_then(|file| file.handle.as_ref()) {
            Some(Handle::Plain(handle)) if opened => {
                let handle = handle.clone();
                self.fs.watch_growth(&handle, last)
            }
            _ => matches!(self.files.get(&last), Some(file) if file.plain.is_none()),
        };
        if !watched {
            return Visit::Later(now.mono + LAST_LOOK);
        }
        match self.size_of(last) {
            Ok(size)
                if size != seen && !matches!(self.files.get(&last), Some(file) if file.plain.is_none()) =>
            {
                Visit::More
            }
            _ => Visit::Asleep,
        }
    }
}
