//! The request being filled, and the one that is unsettled: one at a time, so that positions move in their order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::{LogEncoder, LogRecord, Mark};
use tokio::sync::mpsc;

use super::core::Core;
use super::dirs::Dirs;
use super::pages::JournalId;
use crate::batch::{Batch, BatchId, Outcome, Settlement};
use crate::buffers::Buffers;
use crate::logs::ledger::{Account, Excluded, Lost, RowKey};
use crate::logs::metrics::Records;

/// Marks the batches of the journals' reader among those of the process.
const OURS: u64 = 1 << 63;
/// As in the reader of log files: what fits behind a full request.
const HEADROOM: usize = 64 << 10;
/// How old the oldest record may get.
const EAGER: Duration = Duration::from_millis(200);

/// Whether a batch is of this reader.
pub fn is_ours(id: BatchId) -> bool {
    id.0 & OURS != 0
}

/// Bytes of one row, to be settled together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In records.
    pub sent: u64,
    /// Of messages, beyond `max_line`.
    pub cut: u64,
    /// Of entries that are left out.
    pub excluded: u64,
}

/// Of each row, what was read since the last request was sealed.
pub type Shares = BTreeMap<String, Share>;

/// A request whose outcome is not known.
struct Unsettled {
    id: BatchId,
    /// To where each journal is read with it.
    marks: Vec<(JournalId, u64)>,
    shares: Shares,
    records: u32,
    bytes: usize,
}

/// One open request, and one under way.
pub struct Outgoing {
    encoder: LogEncoder,
    shares: Shares,
    oldest: Option<Instant>,
    resend: bool,
    bytes: usize,
    age: Duration,
    /// Records of a request, after a refusal: halved with each, doubled with each that was taken.
    most: Option<u32>,
    next: u64,
    unsettled: Option<Unsettled>,
    sender: mpsc::Sender<Batch>,
    buffers: Buffers,
    sent: u64,
    records: Records,
}

/// A point to go back to.
pub struct OutgoingMark {
    encoder: Mark,
    shares: Shares,
    next: u64,
}

impl Outgoing {
    /// Requests of `bytes`, at most `age` old.
    pub fn new(bytes: usize, age: Duration, sender: mpsc::Sender<Batch>) -> Self {
        Self {
            encoder: LogEncoder::with_capacity(bytes + HEADROOM),
            shares: Shares::new(),
            oldest: None,
            resend: false,
            bytes,
            age,
            most: None,
            next: 0,
            unsettled: None,
            sender,
            buffers: Buffers::new(1, 2 * (bytes + HEADROOM)),
            sent: 0,
            records: Records::default(),
        }
    }

    /// Adds a record of `bytes` of the journal, of which `cut` are not in it.
    pub fn push(
        &mut self,
        record: &LogRecord<'_>,
        of: (&AttrSet, &str),
        size: (u64, u64),
        resend: bool,
        now: Instant,
    ) {
        self.encoder.open(of.0);
        self.encoder.push(record);
        self.oldest.get_or_insert(now);
        self.resend |= resend;
        let cut = size.1.min(size.0);
        let share = self.share(of.1);
        share.sent += size.0 - cut;
        share.cut += cut;
        self.records.truncated += u64::from(record.truncated);
        self.records.malformed += u64::from(record.malformed);
    }

    /// Adds what is left out.
    pub fn leave_out(&mut self, row: &str, bytes: u64) {
        self.share(row).excluded += bytes;
    }

    fn share(&mut self, row: &str) -> &mut Share {
        if !self.shares.contains_key(row) {
            self.shares.insert(row.to_owned(), Share::default());
        }
        self.shares.entry(row.to_owned()).or_default()
    }

    /// Whether the open request holds what it may.
    pub fn is_full(&self) -> bool {
        self.encoder.len() >= self.bytes || self.most.is_some_and(|most| self.encoder.records() >= most)
    }

    /// Whether nothing is open or under way.
    pub fn is_idle(&self) -> bool {
        self.encoder.is_empty() && self.unsettled.is_none()
    }

    /// Whether the open request is to be sent.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| now >= due)
    }

    /// When it is; none while another is under way.
    pub fn due(&self) -> Option<Instant> {
        self.oldest.filter(|_| self.unsettled.is_none()).map(|oldest| oldest + EAGER.min(self.age))
    }

    /// Records sent, counting each sending.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Records by outcome.
    pub fn records(&self) -> Records {
        self.records
    }

    /// A point to go back to.
    pub fn mark(&self) -> OutgoingMark {
        OutgoingMark { encoder: self.encoder.mark(), shares: self.shares.clone(), next: self.next }
    }

    /// Takes back what was added since; what was sealed meanwhile stays sent.
    pub fn rewind(&mut self, mark: OutgoingMark) {
        if mark.next == self.next && self.encoder.rewind(&mark.encoder) {
            self.shares = mark.shares;
        }
    }

    fn seal(&mut self, marks: impl FnOnce() -> Vec<(JournalId, u64)>) -> bool {
        if self.unsettled.is_some() || self.encoder.is_empty() {
            return self.unsettled.is_none();
        }
        let Ok(permit) = self.sender.try_reserve() else { return false };
        let id = BatchId(OURS | self.next);
        self.next += 1;
        let records = self.encoder.records();
        let payload = self.buffers.lend(self.encoder.replace(self.buffers.take()));
        let shares = std::mem::take(&mut self.shares);
        self.unsettled = Some(Unsettled { id, marks: marks(), shares, records, bytes: payload.len() });
        self.sent += u64::from(records);
        let oldest = self.oldest.take().unwrap_or_else(Instant::now);
        permit.send(Batch { id, payload, records, oldest, resend: std::mem::take(&mut self.resend) });
        true
    }
}

impl<D: Dirs> Core<D> {
    /// Sends the open request, if nothing is under way; false = it has to wait.
    pub(super) fn seal(&mut self) -> bool {
        let files = &self.files;
        self.out.seal(|| {
            let is_ahead = files.iter().filter(|known| known.read > known.settled);
            is_ahead.map(|known| (known.id, known.read)).collect()
        })
    }

    /// With nothing under way, what was read is settled: it held no record.
    pub(super) fn settle_idle(&mut self) {
        if !self.out.is_idle() {
            return;
        }
        let shares = std::mem::take(&mut self.out.shares);
        self.settle_shares(&shares, 0, 0);
        for known in &mut self.files {
            if known.settled < known.read {
                known.settled = known.read;
                known.is_dirty = true;
            }
        }
    }

    /// The exporter's word on a batch.
    pub fn on_settlement(&mut self, settlement: Settlement) {
        let Some(batch) = self.out.unsettled.take() else { return };
        if batch.id != settlement.id {
            self.out.unsettled = Some(batch);
            return;
        }
        let records = u64::from(batch.records);
        match settlement.outcome {
            Outcome::Accepted { rejected, message } => {
                if rejected > 0 {
                    tracing::warn!(rejected, message, "the receiver refused records of a request for good");
                }
                self.out.most =
                    self.out.most.map(|most| most.saturating_mul(2)).filter(|most| *most < 1 << 20);
                self.settle_batch(&batch, rejected.min(records));
            }
            Outcome::Refused { code } if batch.records <= 1 => {
                tracing::warn!(
                    code,
                    bytes = batch.bytes,
                    "the receiver refuses a record for good: it is lost"
                );
                self.settle_batch(&batch, records);
            }
            Outcome::Refused { .. } => {
                self.out.most = Some(batch.records / 2);
                self.read_again();
            }
            // Nothing moves: the next process reads it again.
            Outcome::Abandoned => self.out.unsettled = Some(batch),
        }
    }

    fn settle_batch(&mut self, batch: &Unsettled, rejected: u64) {
        let records = u64::from(batch.records);
        self.out.records.rejected += rejected;
        self.out.records.acked += records - rejected;
        self.settle_shares(&batch.shares, rejected, records);
        for (id, read) in &batch.marks {
            if let Some(known) = self.files.iter_mut().find(|known| known.id == *id) {
                known.settled = known.settled.max(*read);
                known.is_dirty = true;
            }
        }
    }

    /// Moves bytes out of pending. The receiver does not say which records it refused: their bytes are counted as that share
    /// of the request's.
    fn settle_shares(&mut self, shares: &Shares, rejected: u64, records: u64) {
        let (mut bytes, mut lost) = (0u64, 0u64);
        for (name, share) in shares {
            let row = row_key(name);
            bytes += share.sent;
            let part = u128::from(bytes) * u128::from(rejected) / u128::from(records.max(1));
            let part = u64::try_from(part).unwrap_or(bytes) - lost;
            lost += part;
            self.ledger.settle(&row, part, Account::Lost(Lost::Rejected));
            self.ledger.settle(&row, share.sent - part, Account::Acked);
            self.ledger.settle(&row, share.cut, Account::Excluded(Excluded::MaxLine));
            self.ledger.settle(&row, share.excluded, Account::Excluded(Excluded::Rule));
        }
    }

    /// Forgets the open request and goes back to what is settled: a refused request is made again, smaller.
    fn read_again(&mut self) {
        self.out.encoder.clear();
        self.out.shares.clear();
        (self.out.oldest, self.out.resend) = (None, false);
        for known in &mut self.files {
            if known.read > known.settled {
                known.resend_below = known.resend_below.max(known.read);
                known.read = known.settled;
                known.is_finished = false;
                if let Some(journal) = &mut known.journal {
                    journal.rewind();
                }
            }
        }
        self.is_busy = true;
    }
}

/// The ledger's row of that name.
pub(super) fn row_key(name: &str) -> RowKey {
    RowKey { namespace: String::new(), pod: String::new(), container: name.to_owned() }
}
