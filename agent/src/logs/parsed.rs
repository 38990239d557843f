//! What came of the lines of a window, and what it moves.

use super::core::Core;
use super::fs::LogFs;
use super::join::Extent;
use super::ledger::Account;
use super::limits::Gate;
use super::lineage::LineageId;
use super::redo::Again;
use super::tail::FileId;

/// What the lines of a window did to the file.
pub(super) struct Window {
    pub(super) position: u64,
    pub(super) records: u64,
    /// What is not sent, and why.
    pub(super) settled: Vec<(Extent, Account)>,
    pub(super) gate: Gate,
    pub(super) blocked: bool,
    /// Records that ended and that the disk does not give.
    unread: Vec<Again>,
    /// Streams of which entries were read.
    pub(super) streams: [bool; 2],
    /// Nothing more is read now.
    pub(super) stopped: bool,
    /// For an entry here that came late.
    pub(super) late: Option<u64>,
    /// For a line whose beginning the disk does not give.
    pub(super) failed: bool,
}

impl Window {
    pub(super) fn new(position: u64, gate: Gate) -> Self {
        Self {
            position,
            records: 0,
            settled: Vec::new(),
            gate,
            blocked: false,
            unread: Vec::new(),
            streams: [false; 2],
            stopped: false,
            late: None,
            failed: false,
        }
    }

    /// Keeps a record that the disk does not give. Nothing behind it is read before it is sent.
    pub(super) fn keep(&mut self, record: Again) {
        self.unread.push(record);
        self.stopped = true;
    }

    /// Nothing more is read now.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Goes back before an entry, with which it cannot go on now.
    pub(super) fn stop_before(&mut self, entry: Extent) {
        (self.position, self.stopped) = (entry.start, true);
    }

    pub(super) fn settle(&mut self, entry: Extent, account: Account) {
        match self.settled.last_mut() {
            Some((last, of)) if last.file == entry.file && last.end == entry.start && *of == account => {
                last.end = entry.end;
            }
            _ => self.settled.push((entry, account)),
        }
    }
}

impl<F: LogFs> Core<F> {
    /// Moves the read position over what was parsed.
    pub(super) fn commit(&mut self, lineage: LineageId, id: FileId, done: Window) {
        if let Some(file) = self.files.get_mut(&id) {
            self.windows += u64::from(done.position > file.read);
            file.read = file.read.max(done.position);
            self.dirty_files.insert(id);
        }
        let late = self.late_streams(lineage, id);
        if let Some(lineage) = self.lineages.get_mut(&lineage) {
            self.ledger.count_records(&lineage.row, done.records);
            lineage.unread.extend(done.unread);
            for (at, reached) in lineage.reached.iter_mut().enumerate() {
                if done.streams[at] && !late[at] {
                    *reached = Some(id);
                }
            }
        }
        self.leave_gate(lineage, done.gate);
        for (extent, account) in &done.settled {
            self.settle(extent.file, extent.start, extent.end, *account);
        }
    }
}
