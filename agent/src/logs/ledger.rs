//! Every byte that was seen in a log file is in exactly one place: acknowledged, shed, lost, excluded, or pending.
//!
//! A row's `pending` is what is left: `observed` minus the rest. It equals, at every instant, the bytes of the row's
//! files that are not in their settled ranges; the tests count both ways. Rows are per container; ten minutes after a
//! pod's last file is gone its rows fold into the row of its namespace (pod and container empty). Of containers that are known
//! by their ids alone (Docker's without labels) that is the row without any name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Reasons of `shed`.
pub const SHED: [&str; 1] = ["rate_limit"];
/// Reasons of `lost`, in the order of [`Lost`].
pub const LOST: [&str; 5] = ["rotated_unread", "deleted_unread", "truncated", "pinned_limit", "rejected"];
/// Reasons of `excluded`, in the order of [`Excluded`].
pub const EXCLUDED: [&str; 3] = ["rule", "old", "max_line"];

/// How long a dead pod's rows stay.
pub const DEAD_ROW: Duration = Duration::from_secs(600);

/// Why bytes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A rotated file was removed before it was read.
    RotatedUnread,
    /// The pod's files were removed before they were read.
    DeletedUnread,
    /// The file was truncated before it was read.
    Truncated,
    /// More bytes of deleted files than may be held open.
    PinnedLimit,
    /// The receiver refuses the record.
    Rejected,
}

/// Why bytes were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// `logs.include` and `logs.exclude`.
    Rule,
    /// `logs.read_existing`.
    Old,
    /// The part of a line beyond `logs.max_line`.
    MaxLine,
}

/// Where settled bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Acknowledged.
    Acked,
    /// Left out by a limit.
    Shed,
    /// Lost.
    Lost(Lost),
    /// Left out.
    Excluded(Excluded),
}

/// Whose bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Namespace.
    pub namespace: String,
    /// Pod; empty in the row of a namespace's dead pods.
    pub pod: String,
    /// Container; empty in the row of a namespace's dead pods.
    pub container: String,
}

/// One row, in bytes of uncompressed files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Seen.
    pub observed: u64,
    /// Acknowledged.
    pub acked: u64,
    /// By [`SHED`].
    pub shed: [u64; SHED.len()],
    /// By [`LOST`].
    pub lost: [u64; LOST.len()],
    /// By [`EXCLUDED`].
    pub excluded: [u64; EXCLUDED.len()],
    /// Records that were read, for `sonde_namespace_log_lines_total`.
    pub records: u64,
}

/// What was read of a namespace's logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// Bytes seen, as [`Row::observed`].
    pub bytes: u64,
    /// Records taken out of them, as [`Row::records`].
    pub records: u64,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: BTreeMap<RowKey, Entry>,
    /// What the rows of an earlier process had, by namespace.
    begun: BTreeMap<String, Intake>,
    changes: u64,
}

#[derive(Debug, Default)]
struct Entry {
    row: Row,
    dirty: bool,
    dead_since: Option<Instant>,
}

impl RowKey {
    /// The labels of its metrics.
    pub fn labels(&self) -> [(&'static str, &str); 3] {
        [("namespace", &self.namespace), ("pod", &self.pod), ("container", &self.container)]
    }

    /// Whether it is that of a namespace's dead pods. A container that is known by its id alone has no pod either.
    fn is_of_namespace(&self) -> bool {
        self.pod.is_empty() && self.container.is_empty()
    }

    fn of_namespace(&self) -> Self {
        Self { namespace: self.namespace.clone(), ..Self::default() }
    }
}

impl Row {
    /// Bytes that are settled, for whatever reason.
    pub fn settled(&self) -> u64 {
        let parts = self.shed.iter().chain(&self.lost).chain(&self.excluded);
        self.acked + parts.sum::<u64>()
    }

    /// Bytes that are not settled.
    pub fn pending(&self) -> u64 {
        self.observed.saturating_sub(self.settled())
    }

    fn add(&mut self, other: &Self) {
        self.observed += other.observed;
        self.acked += other.acked;
        self.records += other.records;
        let pairs = self.shed.iter_mut().chain(&mut self.lost).chain(&mut self.excluded);
        let others = other.shed.iter().chain(&other.lost).chain(&other.excluded);
        for (mine, theirs) in pairs.zip(others) {
            *mine += theirs;
        }
    }
}

impl Ledger {
    /// Counts `bytes` more that were seen.
    pub fn observe(&mut self, key: &RowKey, bytes: u64) {
        if bytes > 0 {
            self.entry(key).row.observed += bytes;
        }
    }

    /// Counts records that were read.
    pub fn count_records(&mut self, key: &RowKey, records: u64) {
        if records > 0 {
            self.entry(key).row.records += records;
        }
    }

    /// Moves `bytes` from pending to `account`.
    pub fn settle(&mut self, key: &RowKey, bytes: u64, account: Account) {
        if bytes == 0 {
            return;
        }
        let row = &mut self.entry(key).row;
        match account {
            Account::Acked => row.acked += bytes,
            Account::Shed => row.shed[0] += bytes,
            Account::Lost(reason) => row.lost[reason as usize] += bytes,
            Account::Excluded(reason) => row.excluded[reason as usize] += bytes,
        }
    }

    /// Puts a row of an earlier process in place.
    pub fn restore(&mut self, key: RowKey, row: Row, now: Instant) {
        // Nobody may come for it: it is dead until one of its files is seen.
        self.rows.insert(key, Entry { row, dirty: false, dead_since: Some(now) });
    }

    /// After all files of an earlier process are back: what is pending in a row is what its files say.
    pub fn reconcile(&mut self, pending: &BTreeMap<RowKey, u64>) {
        for key in pending.keys() {
            self.entry(key);
        }
        for (key, entry) in &mut self.rows {
            let observed = entry.row.settled() + pending.get(key).copied().unwrap_or(0);
            entry.dirty |= observed != entry.row.observed;
            entry.row.observed = observed;
        }
        self.begun = self.intake().into_iter().collect();
    }

    /// What was read of each namespace since this process began. It never falls: folding moves rows within their
    /// namespace, and no row is removed otherwise.
    pub fn intake_since_start(&self) -> Vec<(String, Intake)> {
        let mut namespaces = self.intake();
        for (namespace, sum) in &mut namespaces {
            if let Some(before) = self.begun.get(namespace) {
                sum.bytes = sum.bytes.saturating_sub(before.bytes);
                sum.records = sum.records.saturating_sub(before.records);
            }
        }
        namespaces
    }

    /// Sums over the rows of each namespace, in the order of their names.
    fn intake(&self) -> Vec<(String, Intake)> {
        let mut namespaces: Vec<(String, Intake)> = Vec::new();
        for (key, entry) in &self.rows {
            // Rows of a namespace stand together.
            if namespaces.last().is_none_or(|(last, _)| *last != key.namespace) {
                namespaces.push((key.namespace.clone(), Intake::default()));
            }
            if let Some((_, sum)) = namespaces.last_mut() {
                sum.bytes += entry.row.observed;
                sum.records += entry.row.records;
            }
        }
        namespaces
    }

    /// Says whether the row's pod has files.
    pub fn set_alive(&mut self, key: &RowKey, alive: bool, now: Instant) {
        let entry = self.rows.entry(key.clone()).or_default();
        if alive {
            entry.dead_since = None;
        } else {
            entry.dead_since.get_or_insert(now);
        }
    }

    /// Folds rows that have been dead for [`DEAD_ROW`] into their namespace's; gives their keys.
    pub fn fold(&mut self, now: Instant) -> Vec<RowKey> {
        let is_due = |entry: &Entry| {
            entry.row.pending() == 0
                && entry.dead_since.is_some_and(|since| now.saturating_duration_since(since) >= DEAD_ROW)
        };
        let due: Vec<RowKey> = self
            .rows
            .iter()
            .filter(|(key, entry)| !key.is_of_namespace() && is_due(entry))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &due {
            if let Some(entry) = self.rows.remove(key) {
                self.entry(&key.of_namespace()).row.add(&entry.row);
            }
        }
        due
    }

    /// Whether a row changed since [`Ledger::clear_dirty`].
    pub fn is_dirty(&self) -> bool {
        self.rows.values().any(|entry| entry.dirty)
    }

    /// Rows that changed since [`Ledger::clear_dirty`].
    pub fn dirty_rows(&self) -> impl Iterator<Item = (&RowKey, &Row)> {
        self.rows.iter().filter(|(_, entry)| entry.dirty).map(|(key, entry)| (key, &entry.row))
    }

    /// All rows are on disk.
    pub fn clear_dirty(&mut self) {
        for entry in self.rows.values_mut() {
            entry.dirty = false;
        }
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (&RowKey, &Row)> {
        self.rows.iter().map(|(key, entry)| (key, &entry.row))
    }

    /// Grows with each change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn entry(&mut self, key: &RowKey) -> &mut Entry {
        self.changes += 1;
        if !self.rows.contains_key(key) {
            self.rows.insert(key.clone(), Entry::default());
        }
        let entry = self.rows.entry(key.clone()).or_default();
        entry.dirty = true;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_pods_row_folds_into_its_namespace_and_no_byte_is_lost_on_the_way() {
        let start = Instant::now();
        let key = RowKey { namespace: "shop".into(), pod: "web-0".into(), container: "app".into() };
        let mut ledger = Ledger::default();
        ledger.observe(&key, 100);
        ledger.settle(&key, 60, Account::Acked);
        ledger.settle(&key, 40, Account::Lost(Lost::DeletedUnread));
        ledger.set_alive(&key, false, start);
        assert!(ledger.fold(start + DEAD_ROW - Duration::from_secs(1)).is_empty());
        assert_eq!(ledger.fold(start + DEAD_ROW), std::slice::from_ref(&key));
        let rows: Vec<_> = ledger.rows().map(|(key, row)| (key.clone(), *row)).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].0, key.of_namespace());
        assert_eq!(
            (rows[0].1.observed, rows[0].1.acked, rows[0].1.lost[1], rows[0].1.pending()),
            (100, 60, 40, 0)
        );
    }

    #[test]
    fn a_namespaces_intake_begins_at_nothing_with_the_process_and_stays_when_its_pods_fold() {
        let start = Instant::now();
        let key = |pod: &str| RowKey { namespace: "shop".into(), pod: pod.into(), container: "app".into() };
        let shop = |ledger: &Ledger| {
            let all = ledger.intake_since_start();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].0, "shop");
            (all[0].1.bytes, all[0].1.records)
        };
        let mut ledger = Ledger::default();
        let before = Row { observed: 1000, acked: 900, records: 10, ..Row::default() };
        ledger.restore(key("web-0"), before, start);
        // Of the hundred that were pending, one file with sixty is still there.
        ledger.reconcile(&BTreeMap::from([(key("web-0"), 60)]));
        assert_eq!(shop(&ledger), (0, 0));
        ledger.observe(&key("web-0"), 40);
        ledger.count_records(&key("web-0"), 3);
        ledger.observe(&key("web-1"), 7);
        ledger.count_records(&key("web-1"), 1);
        assert_eq!(shop(&ledger), (47, 4));
        ledger.settle(&key("web-0"), 100, Account::Acked);
        ledger.settle(&key("web-1"), 7, Account::Acked);
        ledger.set_alive(&key("web-1"), false, start);
        assert_eq!(ledger.fold(start + DEAD_ROW).len(), 2);
        assert_eq!(shop(&ledger), (47, 4));
    }

    #[test]
    fn a_row_with_pending_bytes_never_folds() {
        let start = Instant::now();
        let key = RowKey { namespace: "shop".into(), pod: "web-0".into(), container: "app".into() };
        let mut ledger = Ledger::default();
        ledger.observe(&key, 1);
        ledger.set_alive(&key, false, start);
        assert!(ledger.fold(start + DEAD_ROW * 2).is_empty());
    }
}
