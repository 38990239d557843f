//! One lineage and what its directory shows: which listed file is which known one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::core::{Core, Now};
use super::discover::Listed;
use super::format::Format;
use super::fs::{LogFs, Stat};
use super::layout::Layout;
use super::lineage::{FIRST_LOOK, Lineage, LineageId};
use super::naming::Naming;
use super::tail::{Aside, FileId, Handle, TailFile};
use super::twins::hash;

/// What a directory shows of a lineage, by suffix.
pub(super) type Files = BTreeMap<Option<String>, Listed>;

impl<F: LogFs> Core<F> {
    /// Brings a lineage in line with what its directory shows.
    pub(super) fn reconcile(&mut self, id: LineageId, listing: &mut Files, now: Now) {
        self.list_copies(id, listing);
        let Some(lineage) = self.lineages.get(&id) else { return };
        let known = lineage.files.clone();
        let mut named: Vec<FileId> = Vec::new();
        let mut changed = false;
        // By inode first: a rename is the common change.
        for (suffix, listed) in listing.iter_mut() {
            let plain_node = listed.plain.map(|stat| stat.node);
            let gz_node = listed.gz.map(|stat| stat.node);
            let found = self.find_node(&known, &named, suffix.as_deref(), listed);
            if let Some(found) = found {
                changed |= self.files.get(&found).is_some_and(|file| {
                    let grown = listed.plain.is_some_and(|stat| stat.size != file.seen);
                    grown || file.suffix != *suffix || file.plain != plain_node || file.gz != gz_node
                });
                self.set_names(found, suffix.as_deref(), plain_node, gz_node);
                self.note_grown_late(found, listed.plain, now);
                if !self.unreadable.is_empty()
                    && let Some((lineage, file)) = self.lineages.get(&id).zip(self.files.get(&found))
                {
                    self.unreadable.remove(&lineage.path(&file.name));
                }
                named.push(found);
                (listed.plain, listed.gz) = (None, None);
            }
        }
        // Those without a name come before whatever is new.
        for file in known {
            if !named.contains(&file)
                && let Some(known) = self.files.get_mut(&file)
            {
                changed |= known.is_named();
                known.nameless.get_or_insert(now.mono);
                (known.plain, known.gz) = (None, None);
            }
        }
        changed |= self.add_new(id, listing, named, now);
        self.go_on_in_copies(id);
        if !changed {
            return;
        }
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.period = FIRST_LOOK;
        }
        self.wake(id);
    }

    /// A renamed file that a listing shows larger than it was is looked at again.
    fn note_grown_late(&mut self, id: FileId, listed: Option<Stat>, now: Now) {
        if let (Some(file), Some(stat)) = (self.files.get_mut(&id), listed)
            && file.superseded.is_some()
            && file.identity.is_some()
            && stat.size > file.seen
        {
            file.grown = now.mono;
        }
    }

    /// Adds the listed files that are not known; whether there are any.
    fn add_new(&mut self, id: LineageId, listing: &Files, mut named: Vec<FileId>, now: Now) -> bool {
        let newest = self.lineages.get(&id).and_then(|lineage| lineage.files.last().copied());
        // The live file last: the state of an unfinished first line is an older file's before it is this one's.
        // Before both, what an earlier process knew by its inode, the live one first: a copy of it must not take its place, whatever
        // inode that was given.
        let of_earlier = self.nodes_of_earlier(id);
        let mut order: Vec<(&Option<String>, &Listed)> = listing.iter().collect();
        order.sort_by_key(|(suffix, listed)| {
            let node = listed.plain.map(|stat| stat.node);
            let is_known = node.is_some_and(|node| of_earlier.contains(&node));
            (!is_known, suffix.is_none() != is_known)
        });
        let (mut new, mut is_any) = (Vec::new(), false);
        for (suffix, listed) in order {
            if listed.plain.or(listed.gz).is_none() {
                continue;
            }
            is_any = true;
            let gz_only = listed.plain.is_none();
            let plain_node = listed.plain.map(|stat| stat.node);
            let gz_node = listed.gz.map(|stat| stat.node);
            let compressed_from =
                if gz_only { self.find_compressed(id, &named, suffix.as_deref(), now) } else { None };
            if let Some(found) = compressed_from {
                self.set_names(found, suffix.as_deref(), None, gz_node);
                self.set_shown(found, listed.gz);
                named.push(found);
                continue;
            }
            let file = self.insert(id, suffix.clone(), plain_node, gz_node, now);
            self.set_shown(file, listed.plain.or(listed.gz));
            if let Err(error) = self.ensure_open(file) {
                let path = self
                    .lineages
                    .get(&id)
                    .map(|lineage| lineage.path(&lineage.file_name(suffix.as_deref(), gz_only)));
                self.remove_file(file);
                if error.kind() != io::ErrorKind::NotFound {
                    self.say_unreadable(&path.unwrap_or_default(), &error);
                }
                continue;
            }
            if let Some(path) = self
                .lineages
                .get(&id)
                .map(|lineage| lineage.path(&lineage.file_name(suffix.as_deref(), gz_only)))
            {
                self.unreadable.remove(&path);
            }
            named.push(file);
            self.note_overtaken(id, newest);
            new.push(file);
        }
        // When all of them are there: one may be a copy of another.
        for file in new {
            let identified =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.identify(file, false, now)));
            match identified {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "cannot identify a log file yet"),
                Err(_) => self.set_aside(file),
            }
        }
        is_any
    }

    /// The known file with one of these inodes. A file that nobody holds may have lost its own to another: it has to begin as
    /// it did.
    fn find_node(
        &mut self,
        known: &[FileId],
        named: &[FileId],
        suffix: Option<&str>,
        listed: &Listed,
    ) -> Option<FileId> {
        let (plain, gz) = (listed.plain.map(|stat| stat.node), listed.gz.map(|stat| stat.node));
        let free = || {
            known
                .iter()
                .copied()
                .filter(|id| !named.contains(id))
                .filter_map(|id| Some((id, self.files.get(&id)?)))
        };
        let by_plain = plain.and_then(|node| free().find(|(_, file)| file.plain == Some(node)));
        let by_gz = gz.and_then(|node| free().find(|(_, file)| file.gz == Some(node)));
        // One that a listing missed, while it was closed.
        let by_shown = |node| {
            let was = |file: &TailFile<F::File>| {
                !file.is_named() && file.handle.is_none() && file.aside.is_none() && file.shown.is_some()
            };
            free().find(|(_, file)| was(file) && file.shown.map(|stat| stat.node) == node)
        };
        // A listing taken during a rename shows the file nowhere; while it is open, its inode is its own.
        let by_handle = || {
            free().filter(|(_, file)| !file.is_named()).find(|(_, file)| {
                let (Some(Handle::Plain(handle) | Handle::Gz(handle)), true) =
                    (&file.handle, file.aside.is_none())
                else {
                    return false;
                };
                super::fs::LogFile::stat(&**handle)
                    .is_ok_and(|stat| Some(stat.node) == plain || Some(stat.node) == gz)
            })
        };
        let by_handle = by_handle().map(|(id, _)| id);
        let candidates = [
            (by_plain.or_else(|| by_shown(plain)), listed.plain, false),
            (by_gz.or_else(|| by_shown(gz)), listed.gz, true),
        ];
        let candidates = candidates.map(|(found, stat, gz)| (found.map(|(id, _)| id), stat, gz));
        for (found, stat, gz) in candidates {
            if let (Some(found), Some(stat)) = (found, stat)
                && self.is_still(found, suffix, stat, gz)
            {
                return Some(found);
            }
        }
        by_handle
    }

    /// Whether a file that had this inode has it still. What is open keeps its own; of another one that a listing shows as it was
    /// shown before nothing is asked, so that thousands of idle files are not opened; of any other its beginning is read.
    fn is_still(&mut self, id: FileId, suffix: Option<&str>, stat: Stat, gz: bool) -> bool {
        let Some(file) = self.files.get(&id) else { return false };
        let is_held = match &file.handle {
            Some(Handle::Plain(_)) => !gz,
            Some(Handle::Gz(_)) => gz,
            None => false,
        };
        let is_as_shown = file.shown == Some(stat) && file.suffix.as_deref() == suffix;
        // The live file that was emptied in its place: whoever reads it on finds that out.
        let is_live = suffix.is_none() && file.suffix.is_none() && file.superseded.is_none() && !gz;
        if !is_held && !is_as_shown && file.aside.is_none() {
            let of = file.lineage;
            let Some(lineage) = self.lineages.get(&of) else { return false };
            let path = lineage.path(&lineage.file_name(suffix, gz));
            match self.is_alike_at(id, &path, stat, gz) {
                Some(true) => {}
                Some(false) if is_live => self.wake(of),
                Some(false) => return false,
                None => return true,
            }
        }
        self.set_shown(id, Some(stat));
        true
    }

    fn set_shown(&mut self, id: FileId, stat: Option<Stat>) {
        if let Some(file) = self.files.get_mut(&id) {
            file.shown = stat;
        }
    }

    /// The file of a lineage that a new compressed file was made from.
    fn find_compressed(
        &mut self,
        id: LineageId,
        named: &[FileId],
        suffix: Option<&str>,
        now: Now,
    ) -> Option<FileId> {
        let lineage = self.lineages.get(&id)?;
        let candidates: Vec<FileId> = lineage
            .files
            .iter()
            .copied()
            .filter(|file| {
                !named.contains(file)
                    && self.files.get(file).is_some_and(|file| file.aside != Some(Aside::Gone))
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let path = lineage.path(&lineage.file_name(suffix, true));
        let key = (lineage.pod.uid.clone(), lineage.container.clone(), lineage.restart);
        let format = lineage.format;
        let file = Arc::new(self.fs.open(&path).ok()?);
        let beginning = Self::head_of_gz(&file, format)?;
        let naming = Naming::of(format, &beginning);
        let fits = candidates.into_iter().rev().filter_map(|candidate| {
            // Found when it was empty, and not visited since (every slot was taken): its first entry is there by now.
            if self.files.get(&candidate).is_some_and(|file| file.identity.is_none()) {
                self.identify_compressed(candidate, now);
            }
            self.prove(candidate);
            let (identity, salt, proof) =
                self.files.get(&candidate).and_then(|file| Some((file.identity?, file.salt, file.proof)))?;
            let len = usize::from(identity.head_len);
            let fit = naming.fit(len)?;
            let is_same = hash(format, &key.0, &key.1, key.2, salt, &naming.bytes()[..len]) == identity.alike
                && proof.is_none_or(|proof| proof.fits(&beginning));
            is_same.then_some((fit, candidate))
        });
        // Of those that fit alike, the oldest.
        fits.max_by_key(|(fit, _)| *fit).map(|(_, candidate)| candidate)
    }

    /// Names a file that was compressed. What it may be a copy of is named before, since nothing more will say whether it is.
    fn identify_compressed(&mut self, id: FileId, now: Now) {
        let is_unnamed = |file: &TailFile<F::File>| file.identity.is_none() && file.has_bytes();
        for _ in 0..3 {
            let _ = self.identify(id, true, now);
            let Some(file) = self.files.get(&id).filter(|file| file.identity.is_none()) else { return };
            let Some(lineage) = self.lineages.get(&file.lineage) else { return };
            if lineage.format != Format::Plain {
                return;
            }
            for mate in lineage.files.clone() {
                if mate != id && self.files.get(&mate).is_some_and(is_unnamed) {
                    let _ = self.identify(mate, true, now);
                }
            }
        }
    }

    fn set_names(
        &mut self,
        id: FileId,
        suffix: Option<&str>,
        plain: Option<(u64, u64)>,
        gz: Option<(u64, u64)>,
    ) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            let name = lineage.file_name(suffix, plain.is_none());
            if file.name != name {
                file.name = name;
            }
        }
        file.suffix = suffix.map(str::to_owned);
        // A compressed copy of it was found.
        file.is_copy |= file.emptied.take().is_some();
        file.nameless = None;
        file.plain = plain;
        file.gz = gz;
        file.is_gap = false;
    }

    /// New files are there, and the newest known one is neither listed nor compressed: there may have been more between them. Should
    /// a listing show it yet, there were not.
    fn note_overtaken(&mut self, id: LineageId, newest: Option<FileId>) {
        // A link to Docker's live file shows none of those that were renamed.
        let is_link = |lineage: &Lineage| lineage.layout == Layout::Pods && lineage.format == Format::Docker;
        if self
            .lineages
            .get(&id)
            .is_none_or(|lineage| lineage.excluded || lineage.format == Format::Plain || is_link(lineage))
        {
            return;
        }
        if let Some(file) = newest.and_then(|newest| self.files.get_mut(&newest)) {
            file.is_gap |= !file.is_named();
        }
    }

    fn insert(
        &mut self,
        lineage: LineageId,
        suffix: Option<String>,
        plain: Option<(u64, u64)>,
        gz: Option<(u64, u64)>,
        now: Now,
    ) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        let name = self
            .lineages
            .get(&lineage)
            .map(|lineage| lineage.file_name(suffix.as_deref(), plain.is_none()))
            .unwrap_or_default();
        let mut file = TailFile::new(lineage, &name, suffix, now.mono);
        (file.plain, file.gz) = (plain, gz);
        file.is_reused = plain.is_some_and(|node| self.nodes_of_earlier(lineage).contains(&node));
        let at = self.chain_position(lineage, file.suffix.as_deref());
        self.files.insert(id, file);
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            lineage.files.insert(at, id);
        }
        id
    }

    /// Known files keep their order; a new one comes behind all of them but those that are still there under a later
    /// name.
    fn chain_position(&self, lineage: LineageId, suffix: Option<&str>) -> usize {
        let Some(lineage) = self.lineages.get(&lineage) else { return 0 };
        let mut at = lineage.files.len();
        while at > 0 {
            let Some(before) = self.files.get(&lineage.files[at - 1]) else { break };
            if !before.is_named() || lineage.layout.order(before.suffix.as_deref(), suffix).is_le() {
                break;
            }
            at -= 1;
        }
        at
    }
}
