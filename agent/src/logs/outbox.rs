//! The request being filled, and those that are unsettled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::{LogEncoder, LogRecord, Mark};
use tokio::sync::mpsc;

use super::join::Extent;
use super::tail::FileId;
use crate::batch::{Batch, BatchId};
use crate::buffers::Buffers;

/// A request is full when it has reached its size; most records that take it there fit in this.
const HEADROOM: usize = 64 << 10;

/// How old the oldest record may get while a slot is free.
const EAGER: Duration = Duration::from_millis(200);

/// Records of one file, in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// File.
    pub file: FileId,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Bytes of it beyond `max_line`.
    pub cut: u64,
    /// Of the record of several lines with this number in its batch; 0 = of records that are a line each.
    pub group: u32,
}

/// How a record was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// Bytes of its extents that are beyond `max_line`.
    pub cut: u64,
    /// An earlier process may have sent it.
    pub resend: bool,
    /// It is several lines.
    pub is_group: bool,
}

/// A batch that is not settled.
#[derive(Debug)]
pub struct Unsettled {
    /// What it holds.
    pub ranges: Vec<Range>,
    /// Records in it.
    pub records: u32,
    /// Bytes of its payload.
    pub bytes: usize,
}

/// One open request for all containers. Invariant: at most `slots` batches are unsettled.
pub struct Outbox {
    encoder: LogEncoder,
    ranges: Vec<Range>,
    groups: u32,
    oldest: Option<Instant>,
    resend: bool,
    bytes: usize,
    age: Duration,
    slots: usize,
    next: u64,
    unsettled: HashMap<BatchId, Unsettled>,
    sender: mpsc::Sender<Batch>,
    buffers: Buffers,
    sent: u64,
}

/// A point to go back to.
pub struct OutboxMark {
    encoder: Mark,
    ranges: usize,
    last: Option<Range>,
    next: u64,
}

impl Outbox {
    /// Requests of `bytes` at most `age` old, `slots` of them unsettled.
    pub fn new(bytes: usize, age: Duration, slots: usize, sender: mpsc::Sender<Batch>) -> Self {
        Self {
            encoder: LogEncoder::with_capacity(bytes + HEADROOM),
            ranges: Vec::new(),
            groups: 0,
            oldest: None,
            resend: false,
            bytes,
            age,
            slots: slots.max(1),
            next: 0,
            unsettled: HashMap::new(),
            sender,
            // All may come back at once; a line of a mebibyte may have made one grow.
            buffers: Buffers::new(slots.max(1), 2 * (bytes + HEADROOM)),
            sent: 0,
        }
    }

    /// The records that follow belong to this resource.
    pub fn open(&mut self, resource: &AttrSet) {
        self.encoder.open(resource);
    }

    /// Whether a record can be added; seals the request if it is full and a slot is free.
    #[inline]
    pub fn accepts(&mut self, resource: &AttrSet) -> bool {
        if self.encoder.len() < self.bytes {
            return true;
        }
        if !self.seal() {
            return false;
        }
        self.encoder.open(resource);
        true
    }

    /// Adds a record made of these extents, of which `cut` bytes are not in it. Of a line its range is enough to find it
    /// again; the ranges of a record of several lines are kept apart.
    #[inline]
    pub fn push(&mut self, record: &LogRecord<'_>, extents: &[Extent], of: Made, now: Instant) {
        let Made { cut, resend, is_group } = of;
        self.groups += u32::from(is_group);
        let group = if is_group { self.groups } else { 0 };
        self.encoder.push(record);
        self.oldest.get_or_insert(now);
        self.resend |= resend;
        let last_extent = extents.len().saturating_sub(1);
        for (at, extent) in extents.iter().enumerate() {
            let cut = if at == last_extent { cut } else { 0 };
            match self.ranges.last_mut() {
                Some(last) if last.file == extent.file && last.end == extent.start && last.group == group => {
                    last.end = extent.end;
                    last.cut += cut;
                }
                _ => {
                    let Extent { file, start, end } = *extent;
                    self.ranges.push(Range { file, start, end, cut, group });
                }
            }
        }
    }

    /// The open request holds records that were sent before.
    pub fn mark_resend(&mut self) {
        self.resend = true;
    }

    /// Whether the open request has reached its size.
    pub fn is_full(&self) -> bool {
        self.encoder.len() >= self.bytes
    }

    /// Sends the open request; false if it has to wait for a slot.
    pub fn seal(&mut self) -> bool {
        if self.encoder.is_empty() {
            self.oldest = None;
            return true;
        }
        if !self.has_slot() {
            return false;
        }
        // Full only if the channel is smaller than the slots, closed only at the end.
        let Ok(permit) = self.sender.try_reserve() else { return false };
        let id = BatchId(self.next);
        self.next += 1;
        let records = self.encoder.records();
        let payload = self.buffers.lend(self.encoder.replace(self.buffers.take()));
        let ranges = std::mem::take(&mut self.ranges);
        self.groups = 0;
        self.unsettled.insert(id, Unsettled { ranges, records, bytes: payload.len() });
        self.sent += u64::from(records);
        let oldest = self.oldest.take().unwrap_or_else(Instant::now);
        permit.send(Batch { id, payload, records, oldest, resend: std::mem::take(&mut self.resend) });
        true
    }

    /// Sends the open request if it is old enough, or if it is old enough to go early and a slot is free.
    pub fn seal_due(&mut self, now: Instant) {
        let early = EAGER.min(self.age);
        if self.oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) >= early) {
            self.seal();
        }
    }

    /// When [`Outbox::seal_due`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        let oldest = self.oldest?;
        self.has_slot().then(|| oldest + EAGER.min(self.age))
    }

    /// The batch that the exporter has settled.
    pub fn settled(&mut self, id: BatchId) -> Option<Unsettled> {
        self.unsettled.remove(&id)
    }

    /// Whether a batch may be sent.
    pub fn has_slot(&self) -> bool {
        self.unsettled.len() < self.slots
    }

    /// Bytes that can be added before every slot is taken and the open request is full.
    pub fn room(&self) -> usize {
        let free = self.slots.saturating_sub(self.unsettled.len());
        ((free + 1) * self.bytes).saturating_sub(self.encoder.len())
    }

    /// Uncompressed bytes of the open request.
    pub fn len(&self) -> usize {
        self.encoder.len()
    }

    /// Whether nothing is open or unsettled.
    pub fn is_idle(&self) -> bool {
        self.unsettled.is_empty() && self.encoder.is_empty()
    }

    /// Batches that are not settled.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Records sent, counting each sending.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// All ranges that are open or unsettled.
    pub fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().chain(self.unsettled.values().flat_map(|batch| &batch.ranges))
    }

    /// A point to go back to.
    pub fn mark(&self) -> OutboxMark {
        OutboxMark {
            encoder: self.encoder.mark(),
            ranges: self.ranges.len(),
            last: self.ranges.last().copied(),
            next: self.next,
        }
    }

    /// Takes back what was added since; what was sealed meanwhile stays sent.
    pub fn rewind(&mut self, mark: &OutboxMark) {
        if mark.next == self.next && self.encoder.rewind(&mark.encoder) {
            self.ranges.truncate(mark.ranges);
            if let (Some(last), Some(before)) = (self.ranges.last_mut(), mark.last) {
                *last = before;
            }
        }
    }
}

#[cfg(test)]
#[path = "outbox/tests.rs"]
mod tests;
