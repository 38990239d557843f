//! What becomes of a request's bytes: acknowledged, or refused.

use super::core::{Core, Now};
use super::fs::LogFs;
use super::ledger::{Account, Excluded, Lost};
use super::lineage::LineageId;
use super::outbox::Range;
use super::redo::Refused;
use super::tail::FileId;
use crate::batch::{Outcome, Settlement};

impl<F: LogFs> Core<F> {
    /// The exporter's word on a batch.
    pub fn on_settlement(&mut self, settlement: Settlement, now: Now) {
        let Some(batch) = self.outbox.settled(settlement.id) else { return };
        match settlement.outcome {
            Outcome::Accepted { rejected, message } => {
                if rejected > 0 {
                    tracing::warn!(rejected, message, "the receiver refused records of a request for good");
                }
                let rejected = rejected.min(u64::from(batch.records));
                self.records.rejected += rejected;
                self.records.acked += u64::from(batch.records) - rejected;
                self.settle_answered(&batch.ranges, rejected, u64::from(batch.records));
            }
            Outcome::Refused { code } => {
                if batch.records <= 1 {
                    tracing::warn!(
                        code,
                        bytes = batch.bytes,
                        "the receiver refuses a record for good: it is lost"
                    );
                    self.records.rejected += u64::from(batch.records);
                    for range in &batch.ranges {
                        self.settle_range(range, Account::Lost(Lost::Rejected));
                    }
                } else {
                    self.refused.push_back(Refused {
                        ranges: batch.ranges,
                        bytes: batch.bytes / 2,
                        count: batch.records / 2,
                    });
                    self.read_refused(now);
                }
            }
            // Nothing moves: an earlier position is read again by the next process.
            Outcome::Abandoned => {}
        }
    }

    /// Settles what the receiver took, but for `rejected` of `records`. It does not say which ones: their bytes are
    /// counted as that share of the batch's.
    fn settle_answered(&mut self, ranges: &[Range], rejected: u64, records: u64) {
        let (mut bytes, mut lost) = (0u64, 0u64);
        for range in ranges {
            let Some((lineage, new)) = self.settle_uncut(range) else { continue };
            bytes += new;
            let share = u128::from(bytes) * u128::from(rejected) / u128::from(records.max(1));
            let share = u64::try_from(share).unwrap_or(bytes) - lost;
            lost += share;
            if let Some(lineage) = self.lineages.get(&lineage) {
                self.ledger.settle(&lineage.row, share, Account::Lost(Lost::Rejected));
                self.ledger.settle(&lineage.row, new - share, Account::Acked);
            }
        }
    }

    pub(super) fn settle_range(&mut self, range: &Range, account: Account) {
        let Some((lineage, bytes)) = self.settle_uncut(range) else { return };
        if let Some(lineage) = self.lineages.get(&lineage) {
            self.ledger.settle(&lineage.row, bytes, account);
        }
    }

    /// Settles a range's bytes beyond `max_line`; gives the number of its other new ones, for the caller to settle.
    fn settle_uncut(&mut self, range: &Range) -> Option<(LineageId, u64)> {
        let cut = range.cut.min(range.end - range.start);
        let file = self.files.get_mut(&range.file)?;
        let new = file.settled.insert(range.start, range.end);
        if file.pending() == 0 {
            file.behind_since = None;
        }
        self.dirty_files.insert(range.file);
        let cut = cut.min(new);
        if let Some(lineage) = self.lineages.get(&file.lineage) {
            self.ledger.settle(&lineage.row, cut, Account::Excluded(Excluded::MaxLine));
        }
        Some((file.lineage, new - cut))
    }

    /// Settles what of `start..end` is not settled yet.
    pub(super) fn settle(&mut self, id: FileId, start: u64, end: u64, account: Account) {
        self.settle_range(&Range { file: id, start, end, cut: 0, group: 0 }, account);
    }
}
