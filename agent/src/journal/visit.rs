//! From the entries of a journal to records in the open request.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use sonde_wire::logs::{LogRecord, Stream as Iostream};

use super::core::{Core, Known, Stream};
use super::dirs::Dirs;
use super::entry::{self, LEFT_OUT_ROW, OTHER};
use super::file::{Journal, Next};
use super::format::Entry;
use super::outgoing::row_key;
use crate::config::Parse;
use crate::logs::core::Now;
use crate::logs::fields;
use crate::logs::filter::glob;
use crate::logs::pod_path::PodDir;

/// Items of one journal that are looked at in a turn.
const STEPS: usize = 512;
/// How long the disk is asked again for what it does not give.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows of units; those of further units share one.
const MOST_ROWS: usize = 200;
/// Resources whose attributes are kept.
const MOST_RESOURCES: usize = 256;

/// How a visit to a journal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// There is more.
    More,
    /// The open request is full.
    Blocked,
    /// There is no more, for now.
    End,
    /// The disk does not give it; it may at the next look.
    Failed,
}

impl<D: Dirs> Core<D> {
    /// Reads what there is, of each stream the oldest journal first, and of each not more than its share.
    pub(super) fn read(&mut self, now: Now) {
        self.is_busy = false;
        let mut streams = HashSet::new();
        for at in self.by_turns() {
            let Some(known) = self.files.get(at) else { break };
            if streams.contains(&known.stream) {
                continue;
            }
            let (stream, before) = (known.stream.clone(), known.read);
            let visit = self.visit_caught(at, now);
            if self.files.get(at).is_some_and(|known| known.read > before) {
                self.served = Some(stream.clone());
            }
            match visit {
                Visit::More => {
                    self.is_busy = true;
                    streams.insert(stream);
                }
                Visit::Blocked => {
                    self.is_busy = self.seal();
                    return;
                }
                Visit::End => self.finish_if_final(at),
                Visit::Failed => {
                    streams.insert(stream);
                }
            }
        }
    }

    /// Which journals are read now, in their order: within a stream the oldest first; that stream last which was read last, so
    /// that each has its turn where a request is full before all had theirs.
    fn by_turns(&self) -> Vec<usize> {
        let open = || {
            let files = self.files.iter().enumerate();
            files.filter(|(_, known)| !known.is_finished && known.journal.is_some())
        };
        let mut streams: Vec<&Stream> = Vec::new();
        for (_, known) in open() {
            if !streams.contains(&&known.stream) {
                streams.push(&known.stream);
            }
        }
        if let Some(at) = streams.iter().position(|stream| Some(*stream) == self.served.as_ref()) {
            streams.rotate_left(at + 1);
        }
        let of = |stream: &Stream| {
            open().filter(|(_, known)| known.stream == *stream).map(|(at, _)| at).collect::<Vec<_>>()
        };
        streams.into_iter().flat_map(of).collect()
    }

    /// A panic of our own costs the one journal it happened at.
    fn visit_caught(&mut self, at: usize, now: Now) -> Visit {
        let mut known = self.files.remove(at);
        let (mark, before) = (self.out.mark(), known.read);
        let caught = catch_unwind(AssertUnwindSafe(|| self.visit(&mut known, now)));
        let visit = caught.unwrap_or_else(|_| {
            self.out.rewind(mark);
            known.read = before;
            known.is_finished = true;
            self.counts.set_aside += 1;
            tracing::error!(path = known.path, "a journal is set aside after an error of our own");
            Visit::Failed
        });
        self.files.insert(at, known);
        visit
    }

    fn visit(&mut self, known: &mut Known<D::File>, now: Now) -> Visit {
        let Some(mut journal) = known.journal.take() else { return Visit::End };
        let visit = self.visit_open(known, &mut journal, now);
        known.journal = Some(journal);
        visit
    }

    fn visit_open(&mut self, known: &mut Known<D::File>, journal: &mut Journal<D::File>, now: Now) -> Visit {
        if journal.passed() == 0 && known.read > 0 {
            let read = known.read;
            if journal.seek(&mut self.pages, |entry| entry.seqnum < read).is_err() {
                // Then from its beginning, past what was read.
                journal.rewind();
            }
        }
        for _ in 0..STEPS {
            if self.out.is_full() {
                return Visit::Blocked;
            }
            match journal.next(&mut self.pages) {
                Ok(Next::Entry(entry, offset)) => {
                    if entry.seqnum >= known.read {
                        if self.take(known, journal, &entry, offset, now).is_err() {
                            if !self.gives_up(known, now) {
                                journal.rewind();
                                return Visit::Failed;
                            }
                            self.counts.damaged += 1;
                        }
                        known.read = entry.seqnum.saturating_add(1);
                    }
                    let is_patient = |since: &mut Instant| now.mono.duration_since(*since) < PATIENCE;
                    known.failing.take_if(is_patient);
                }
                Ok(Next::Damaged) => self.counts.damaged += 1,
                Ok(Next::End) => {
                    known.failing = None;
                    return Visit::End;
                }
                Err(_) if self.gives_up(known, now) => self.counts.damaged += journal.pass_over(),
                Err(_) => return Visit::Failed,
            }
        }
        Visit::More
    }

    /// Whether the disk has failed for so long that what it does not give is given up: a bad place must not hold back for ever
    /// what lies behind it, and the journals after this one.
    fn gives_up(&self, known: &mut Known<D::File>, now: Now) -> bool {
        now.mono.duration_since(*known.failing.get_or_insert(now.mono)) >= PATIENCE
    }

    /// Adds the record of an entry, or says why there is none.
    fn take(
        &mut self,
        known: &mut Known<D::File>,
        journal: &Journal<D::File>,
        found: &Entry,
        offset: u64,
        now: Now,
    ) -> std::io::Result<()> {
        let max_line = self.settings.max_line;
        let fields = &mut self.fields;
        fields.clear();
        let sum = journal.fields(
            &mut self.pages,
            offset,
            &mut self.scratch,
            |name| entry::wanted(name, max_line),
            |name, value, len| fields.take(name, value, len),
        )?;
        self.counts.unreadable_fields += u64::from(sum.unreadable);
        let is_new = found.seqnum >= known.counted;
        known.counted = known.counted.max(found.seqnum.saturating_add(1));
        let is_wanted = self.admits();
        let row = if is_wanted { self.row() } else { LEFT_OUT_ROW.to_owned() };
        if is_new {
            self.ledger.observe(&row_key(&row), sum.bytes);
        }
        if !is_wanted {
            self.counts.left_out += u64::from(is_new);
            self.out.leave_out(&row, sum.bytes);
            return Ok(());
        }
        if is_new {
            self.ledger.count_records(&row_key(&row), 1);
        }
        let uid = entry::uid(known.file_id, found);
        let is_damaged = sum.unreadable > 0 && !self.fields.has_message();
        let resend = found.seqnum < known.resend_below;
        self.push(found, uid, &row, sum.bytes, is_damaged, resend, now);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn push(
        &mut self,
        found: &Entry,
        uid: sonde_wire::uid::RecordUid,
        row: &str,
        bytes: u64,
        malformed: bool,
        resend: bool,
        now: Now,
    ) {
        // By the unit's own name: the ledger's row may be that of the others.
        let rules = self.redactor.rules_for(&PodDir::default(), &self.fields.row());
        let (fields, redactor) = (&self.fields, &mut self.redactor);
        let mut redact = |text: &str| if rules.is_empty() { None } else { redactor.apply(rules, text) };
        fields.attributes(&mut self.attributes, !rules.is_empty(), &mut redact);
        let kept = fields.kept(!rules.is_empty());
        let mut body = fields.body(kept, self.settings.max_line);
        if let Some(text) = redact(&body.text) {
            body.text = text.into();
        }
        let parsed = match self.settings.parse {
            Parse::Auto => fields::parse(&body.text),
            Parse::Off => fields::Fields::default(),
        };
        let (severity_number, severity_text) = match parsed.severity_number {
            0 => entry::klog(&body.text).unwrap_or_else(|| entry::severity(fields.priority())),
            number => (number, parsed.severity_text),
        };
        let key = fields.resource_key();
        let key = (key.0.to_owned(), key.1.to_owned(), key.2.to_owned());
        if self.resources.len() >= MOST_RESOURCES && !self.resources.contains_key(&key) {
            self.resources.clear();
        }
        let resource = self.resources.entry(key).or_insert_with(|| fields.resource(&self.settings.node));
        self.counts.invalid_utf8 += u64::from(body.invalid);
        let record = LogRecord {
            time_unix_nano: fields.time_nanos(found),
            observed_time_unix_nano: now.wall_nanos,
            severity_number,
            severity_text,
            body: &body.text,
            trace_id: parsed.trace_id,
            span_id: parsed.span_id,
            stream: Iostream::Unknown,
            uid,
            truncated: body.truncated,
            malformed,
            attributes: self.attributes.bytes(),
        };
        self.out.push(&record, (resource, row), (bytes, fields.cut(kept)), resend, now.mono);
    }

    /// Whether `units` and `priority` want the entry.
    fn admits(&self) -> bool {
        let unit = self.fields.unit();
        let is_meant =
            self.settings.units.is_empty() || self.settings.units.iter().any(|pattern| glob(pattern, unit));
        is_meant && self.fields.priority() <= self.settings.priority
    }

    /// The ledger's row of the entry.
    fn row(&mut self) -> String {
        let row = self.fields.row();
        if self.rows.contains(&row) {
            return row;
        }
        if self.rows.len() >= MOST_ROWS {
            return OTHER.to_owned();
        }
        self.rows.insert(row.clone());
        row
    }

    /// A journal to which nothing is written any more and that has no more is finished; what its header promised is lost.
    fn finish_if_final(&mut self, at: usize) {
        let Some(known) = self.files.get_mut(at) else { return };
        if known.is_finished || !known.is_final() {
            return;
        }
        let Some(journal) = &mut known.journal else { return };
        // What was written between the last look and the loss of its name.
        if journal.refresh(&mut self.pages).is_ok_and(|is_new| is_new) {
            let header = *journal.header();
            known.see(header);
            self.is_busy = true;
            return;
        }
        let missing = journal.unread();
        if missing > 0 {
            self.counts.damaged += missing;
            tracing::warn!(
                path = known.path,
                entries = missing,
                "a journal is damaged: entries cannot be read"
            );
        }
        known.is_finished = true;
    }
}
