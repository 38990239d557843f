//! Which journals are there, which of them are known by another name, and what was lost with those that are gone.

use std::collections::HashSet;
use std::io;

use super::core::{Core, Known, Passed, Stream, hex};
use super::dirs::{Dirs, Listing, dir_of, stream_name};
use super::file::{Journal, JournalError};
use super::pages::JournalId;
use crate::config::ReadExisting;
use crate::logs::checkpoint::FileState;
use crate::logs::core::Now;
use crate::logs::fs::{LogFile, Stat};

impl<D: Dirs> Core<D> {
    /// Lists the directories: opens what is new, renames what has another name, lets go of what is gone.
    pub(super) fn list(&mut self, now: Now) {
        let mut listing = self.dirs.list();
        let mut there = HashSet::new();
        listing.journals.retain(|(_, stat)| there.insert(stat.node));
        self.lose_names(&there, &listing);
        let mut opened = Vec::new();
        for (path, stat) in &listing.journals {
            self.doubt_closed(path, *stat);
            if let Some(known) = self.files.iter_mut().find(|known| known.node == Some(stat.node)) {
                known.mtime_nanos = stat.mtime_nanos;
                if known.path != *path {
                    known.path.clone_from(path);
                    known.is_dirty = true;
                }
            } else if self.passed_over.get(&stat.node) != Some(&Passed::Unlike(stat.mtime_nanos)) {
                opened.extend(self.open(path, *stat));
                let is_failed = self.passed_over.get(&stat.node) == Some(&Passed::Failed);
                listing.failed.extend(is_failed.then(|| path.clone()));
            }
        }
        self.passed_over.retain(|node, _| there.contains(node));
        // Those of one stream in their order, so that what lies between two of them is known.
        opened.sort_by_key(|known: &Known<D::File>| known.head_realtime);
        for known in opened {
            self.add(known, &listing, now);
        }
        self.files.sort_by_key(|known| known.head_realtime);
        self.limit_pinned();
        self.give_up_ghosts(&listing);
        self.listed = true;
    }

    /// An inode serves again once nobody holds it open: a closed journal is what it was only as long as nothing of it changes.
    fn doubt_closed(&mut self, path: &str, stat: Stat) {
        let is_other = |known: &Known<D::File>| {
            known.node == Some(stat.node)
                && known.journal.is_none()
                && (known.path != path || known.mtime_nanos != stat.mtime_nanos)
        };
        if let Some(at) = self.files.iter().position(is_other) {
            let (key, state) = self.files.remove(at).state();
            self.restored.insert(key.container.clone(), (key, state));
        }
    }

    /// Opens a journal that is not known by its inode. What is none is tried again when it has changed, all else at each listing.
    fn open(&mut self, path: &str, stat: Stat) -> Option<Known<D::File>> {
        let id = JournalId(self.next_id);
        self.next_id += 1;
        let opened =
            self.dirs.open(path).map_err(JournalError::from).and_then(|file| Journal::open(id, file));
        let journal = match opened {
            Ok(journal) => journal,
            Err(JournalError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                let is_io = matches!(error, JournalError::Io(_));
                let why = if is_io { Passed::Failed } else { Passed::Unlike(stat.mtime_nanos) };
                if self.passed_over.insert(stat.node, why).is_none() {
                    self.counts.unreadable_files += 1;
                    tracing::warn!(path, %error, "a journal cannot be read");
                }
                return None;
            }
        };
        let header = *journal.header();
        if self.files.iter().any(|known| known.file_id == header.file_id && known.node.is_some()) {
            if self.passed_over.insert(stat.node, Passed::Copy) != Some(Passed::Copy) {
                tracing::warn!(path, "a journal is a copy of another: it is not read a second time");
            }
            return None;
        }
        self.passed_over.remove(&stat.node);
        let mut seqnum_id = [0; 10];
        seqnum_id.copy_from_slice(&header.seqnum_id[..10]);
        Some(Known {
            id,
            journal: Some(journal),
            path: path.to_owned(),
            node: Some(stat.node),
            is_missed: false,
            file_id: header.file_id,
            stream: Stream { name: stream_name(path).to_owned(), seqnum_id },
            head_realtime: header.head_realtime,
            tail: header.tail_seqnum.saturating_add(1),
            settled: 0,
            read: 0,
            counted: 0,
            resend_below: 0,
            head: header.head_seqnum,
            mtime_nanos: stat.mtime_nanos,
            failing: None,
            is_finished: false,
            is_dirty: true,
        })
    }

    /// Gives it the position that an earlier process kept, or that of a new journal.
    fn add(&mut self, mut known: Known<D::File>, listing: &Listing, now: Now) {
        let head = known.journal.as_ref().map_or(0, |journal| journal.header().head_seqnum);
        // The same file under another inode: copied, and the first one removed.
        if let Some(at) = self.files.iter().position(|other| other.file_id == known.file_id) {
            let other = self.files.remove(at);
            known.go_on_at(other.settled);
        } else if let Some((_, state)) = self.restored.remove(&hex(&known.file_id)) {
            let (head, end) = settled(&state);
            known.go_on_at(if end > head { end } else { 0 });
        } else {
            if !self.listed {
                // An earlier process may have read it and not have written that down.
                known.resend_below = known.tail;
            }
            if self.first_start && !self.listed {
                self.leave_out_old(&mut known, now);
            }
            // What cannot be opened now may be what is missing.
            if listing.is_whole(dir_of(&known.path)) {
                self.count_gap(&known.stream, dir_of(&known.path), head);
            }
        }
        let end = self.ends.entry(known.stream.clone()).or_default();
        *end = (*end).max(known.tail);
        self.files.push(known);
    }

    /// What the first start finds is read from where `read_existing` says. From there on stamps do not matter: the clock of what
    /// is written later may be wrong.
    fn leave_out_old(&mut self, known: &mut Known<D::File>, now: Now) {
        let cutoff = match self.settings.read_existing {
            ReadExisting::All => return,
            ReadExisting::None => u64::MAX,
            ReadExisting::Within(age) => {
                let age = u64::try_from(age.0.as_micros()).unwrap_or(u64::MAX);
                (now.wall_nanos / 1000).saturating_sub(age)
            }
        };
        let tail = known.tail;
        let Some(journal) = &mut known.journal else { return };
        let begin = if journal.header().tail_realtime < cutoff {
            self.counts.old += journal.unread();
            Some(tail)
        } else {
            // What the disk does not give is not left out.
            let sought = journal.seek(&mut self.pages, |entry| entry.realtime < cutoff);
            let begin = sought.and_then(|()| journal.peek(&mut self.pages)).ok().flatten();
            self.counts.old += begin.map_or(0, |_| journal.passed());
            journal.rewind();
            begin
        };
        if let Some(begin) = begin {
            known.begin_at(begin);
        }
    }

    /// Entries between the last one of a stream that was seen and the first of its next journal: vacuumed unread, but for as
    /// many as other journals of the directory may have, with which they share their numbers.
    fn count_gap(&mut self, stream: &Stream, dir: &str, head: u64) {
        let Some(&end) = self.ends.get(stream).filter(|end| **end > 0 && head > **end) else { return };
        let mut missing = head - end;
        for other in self.files.iter().filter(|other| other.stream != *stream && dir_of(&other.path) == dir) {
            let Some(journal) = &other.journal else { continue };
            let header = journal.header();
            let overlap = (header.tail_seqnum + 1).min(head).saturating_sub(header.head_seqnum.max(end));
            missing -= overlap.min(header.n_entries).min(missing);
        }
        if missing > 0 {
            self.counts.deleted += missing;
            tracing::warn!(
                stream = stream.name,
                entries = missing,
                "a journal was removed before it was read: at most so many entries are lost"
            );
        }
    }

    /// Journals whose name is gone are read to their end through the open handle; one that is not open was read.
    fn lose_names(&mut self, there: &HashSet<(u64, u64)>, listing: &Listing) {
        for known in &mut self.files {
            let Some(node) = known.node else { continue };
            let is_missed = !there.contains(&node) && !listing.is_unknown(&known.path);
            if is_missed && known.is_missed {
                known.node = None;
                known.is_dirty = true;
            }
            known.is_missed = is_missed;
        }
    }

    /// Lets go of deleted journals beyond the bytes that may be held open, the oldest first.
    fn limit_pinned(&mut self) {
        let size = |known: &Known<D::File>| {
            let journal = known.journal.as_ref().filter(|_| known.node.is_none());
            journal.and_then(|journal| journal.file().stat().ok()).map_or(0, |stat| stat.size)
        };
        let mut pinned: u64 = self.files.iter().map(size).sum();
        for known in &mut self.files {
            if pinned <= self.settings.pinned_deleted {
                return;
            }
            let bytes = size(known);
            if bytes > 0
                && !known.is_finished
                && let Some(journal) = &known.journal
            {
                self.counts.pinned += journal.unread();
                tracing::warn!(
                    path = known.path,
                    entries = journal.unread(),
                    "a deleted journal is let go of unread: logs.pinned_deleted is reached"
                );
                known.is_finished = true;
                pinned -= bytes;
            }
        }
    }

    /// What an earlier process had not read of journals that are gone, where it can be seen that they are.
    fn give_up_ghosts(&mut self, listing: &Listing) {
        let ghosts: Vec<String> = self
            .restored
            .iter()
            .filter(|(_, (_, state))| listing.is_whole(dir_of(&state.name)))
            .map(|(file_id, _)| file_id.clone())
            .collect();
        for file_id in ghosts {
            let Some((key, state)) = self.restored.remove(&file_id) else { continue };
            let (head, end) = settled(&state);
            // One that had no entry yet had none to lose.
            let missing = if head > 0 { state.seen.saturating_sub(end) } else { 0 };
            if missing > 0 {
                self.counts.deleted += missing;
                tracing::warn!(
                    path = state.name,
                    entries = missing,
                    "a journal was removed while no agent ran: at most so many entries are lost"
                );
            }
            self.gone.push(key);
        }
    }

    /// Closes journals to which nothing is written any more when all of them is settled, and forgets those that are gone.
    pub(super) fn close_finished(&mut self) {
        let gone = &mut self.gone;
        self.files.retain_mut(|known| {
            if !known.is_finished || known.settled < known.read {
                return true;
            }
            known.journal = None;
            if known.node.is_none() {
                gone.push(known.key());
            }
            known.node.is_some()
        });
    }
}

impl<F: LogFile> Known<F> {
    /// Goes on behind what is settled. A journal that was set back to an older state since is read from its beginning: what was
    /// written to it then has numbers that other entries had, and what is sent again has the same uid.
    fn go_on_at(&mut self, settled: u64) {
        self.begin_at(if settled > self.tail { 0 } else { settled });
        self.resend_below = self.tail;
    }
}

/// The number of a journal's first entry, and one past the last one that is settled.
fn settled(state: &FileState) -> (u64, u64) {
    state.settled.last().copied().unwrap_or_default()
}
