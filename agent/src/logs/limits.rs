//! How much of a container's and a namespace's log leaves the node: `logs.limits`, bytes of log files a second.
//!
//! Time is the log's own: the runtime's stamp of a record. Each ten seconds of it ([`SLOT`]) have a budget of ten times the
//! rate; a record is sent while its ten seconds have something left, so their first bytes go out and the rest is shed:
//! runs of lines, not every other one. So the burst is ten seconds' worth (twice that over a turn of the slot),
//! and one record. A backlog is measured by when it was written, not by how fast it is read: what a container wrote
//! within its limit while the receiver was away is not shed when the receiver is back.
//!
//! What is shed is settled like what is acknowledged: its range and the ledger's row go to disk in one frame, so it is
//! neither counted twice nor sent later. What was sent is not shed by a replay: a container's log is measured from where the
//! process began to read, so a replay finds each record at most as far into its ten seconds as it was before, and sends
//! at least the same ones (it costs one budget above the limit). A line that only the clock ends is sent in any case, and
//! not measured: a replay finds it at another place than where it was sent from. A namespace's budget is for whoever comes
//! first, and who that is may differ: there, all that lay in the files when this process began goes out, because an
//! earlier one may have sent it and died before the acknowledgement was written.
//!
//! Memory: 24 bytes a container; [`SLOTS`] x 50 bytes (50 kB) for each namespace that was read within the last hour
//! ([`FORGOTTEN`]); about 200 bytes for each container and namespace of which something was shed in the last minute.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::ledger::RowKey;
use crate::config;

/// Seconds of a slot.
const SLOT: u64 = 10;
/// Slots of a namespace that are remembered: almost three hours.
const SLOTS: usize = 1000;
/// Minutes without a read after which a namespace's budgets are forgotten: whoever comes back has whole ones.
const FORGOTTEN: u32 = 60;
/// Slots by which a container's clock may go back before that is taken for a new time.
const BACK: u64 = 6;
/// Time between two summaries.
const SUMMARY: Duration = Duration::from_secs(60);
/// Containers and namespaces that a summary names, those first that lost most.
const NAMED: usize = 10;

/// The limits, and what is used of the namespaces' budgets.
#[derive(Debug)]
pub struct Limits {
    per_container: u64,
    per_namespace: u64,
    namespaces: HashMap<String, Slots>,
    shed: HashMap<Subject, Shed>,
    next_summary: Instant,
}

/// What is used of a container's budget: the newest slot alone, for its log is read in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    slot: u64,
    used: u64,
}

/// What is used of a namespace's budgets: its containers are read at different times of their logs.
#[derive(Debug, Default)]
struct Slots {
    used: BTreeMap<u64, u64>,
    /// Minutes since it was read.
    idle: u32,
}

/// Whose limit sheds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A container's.
    Container(RowKey),
    /// A namespace's.
    Namespace(String),
}

/// What was shed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Budgets of one container, for the time of one window.
#[derive(Debug, Default)]
pub struct Gate {
    container: Option<(Quota, u64)>,
    namespace: Option<(Slots, u64)>,
    slot: u64,
    by_container: Shed,
    by_namespace: Shed,
}

impl Quota {
    /// What is used of a slot. Behind a turn of the slot nothing is; a stamp that is a little older counts as now.
    fn used(&mut self, slot: u64) -> &mut u64 {
        if slot > self.slot || slot + BACK < self.slot {
            *self = Self { slot, used: 0 };
        }
        &mut self.used
    }
}

impl Slots {
    fn used(&mut self, slot: u64) -> &mut u64 {
        self.used.entry(slot).or_default()
    }

    /// Forgets the oldest: the lines of a backlog that long are sent rather than shed for want of memory.
    fn trim(&mut self) {
        while self.used.len() > SLOTS {
            self.used.pop_first();
        }
    }
}

impl Shed {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

impl Gate {
    /// Whether a record of `bytes` is sent, whose last entry has this stamp: those ascend in a log. Without a stamp it belongs to
    /// the one before.
    #[inline]
    pub fn admits(&mut self, bytes: u64, stamp_nanos: Option<u64>, may_have_been_sent: bool) -> bool {
        if self.container.is_none() && self.namespace.is_none() {
            return true;
        }
        self.slot = stamp_nanos.map_or(self.slot, |nanos| nanos / (SLOT * 1_000_000_000));
        if self.slot == 0 {
            return true;
        }
        let one = Shed { records: 1, bytes };
        if let Some((quota, most)) = &mut self.container {
            let used = quota.used(self.slot);
            let is_spent = *used >= *most;
            // Whether it is sent or not, so that what is sent is the same whatever a namespace's limit makes of it.
            *used = used.saturating_add(bytes);
            if is_spent {
                self.by_container.add(one);
                return false;
            }
        }
        if let Some((slots, most)) = &mut self.namespace {
            let used = slots.used(self.slot);
            if *used >= *most && !may_have_been_sent {
                self.by_namespace.add(one);
                return false;
            }
            *used = used.saturating_add(bytes);
        }
        true
    }

    /// Records that were shed.
    pub fn shed_records(&self) -> u64 {
        self.by_container.records + self.by_namespace.records
    }

    /// What is used of the container's budget by now.
    pub fn quota(&self) -> Quota {
        self.container.map(|(quota, _)| quota).unwrap_or_default()
    }
}

impl Limits {
    /// Whole budgets.
    pub fn new(limits: &config::Limits, now: Instant) -> Self {
        Self {
            per_container: limits.per_container.0,
            per_namespace: limits.per_namespace.0,
            namespaces: HashMap::new(),
            shed: HashMap::new(),
            next_summary: now + SUMMARY,
        }
    }

    /// The budgets of a container. Its records before any stamp are not measured.
    pub fn enter(&mut self, row: &RowKey, quota: Quota) -> Gate {
        let budget = |rate: u64| (rate > 0).then(|| rate.saturating_mul(SLOT));
        let slots = |known: Option<&mut Slots>| known.map(std::mem::take).unwrap_or_default();
        Gate {
            container: budget(self.per_container).map(|most| (quota, most)),
            namespace: budget(self.per_namespace)
                .map(|most| (slots(self.namespaces.get_mut(&row.namespace)), most)),
            slot: quota.slot,
            ..Gate::default()
        }
    }

    /// Puts a namespace's budgets back, and notes what was shed.
    pub fn leave(&mut self, row: &RowKey, gate: Gate) {
        if let Some((mut slots, _)) = gate.namespace {
            slots.trim();
            slots.idle = 0;
            // A key is copied only when it is new.
            match self.namespaces.get_mut(&row.namespace) {
                Some(known) => *known = slots,
                None => {
                    self.namespaces.insert(row.namespace.clone(), slots);
                }
            }
        }
        if gate.by_container.records > 0 {
            self.shed.entry(Subject::Container(row.clone())).or_default().add(gate.by_container);
        }
        if gate.by_namespace.records > 0 {
            self.shed.entry(Subject::Namespace(row.namespace.clone())).or_default().add(gate.by_namespace);
        }
    }

    /// Once a minute: what was shed since the last time, most first.
    pub fn summary(&mut self, now: Instant) -> Vec<(Subject, Shed)> {
        if now < self.next_summary {
            return Vec::new();
        }
        self.next_summary = now + SUMMARY;
        self.namespaces.retain(|_, slots| {
            slots.idle += 1;
            slots.idle <= FORGOTTEN
        });
        let mut shed: Vec<_> = self.shed.drain().collect();
        shed.sort_unstable_by_key(|(_, shed)| std::cmp::Reverse(shed.bytes));
        shed
    }

    /// Says a summary: a line each for those that lost most, and one for all others.
    pub fn say(&mut self, now: Instant) {
        let shed = self.summary(now);
        let (named, others) = shed.split_at(shed.len().min(NAMED));
        for (subject, Shed { records, bytes }) in named {
            match subject {
                Subject::Container(row) => tracing::warn!(
                    namespace = row.namespace,
                    pod = row.pod,
                    container = row.container,
                    records,
                    bytes,
                    limit_bytes_per_second = self.per_container,
                    "lines were left out in the last minute: more than logs.limits.per_container"
                ),
                Subject::Namespace(namespace) => tracing::warn!(
                    namespace,
                    records,
                    bytes,
                    limit_bytes_per_second = self.per_namespace,
                    "lines were left out in the last minute: more than logs.limits.per_namespace"
                ),
            }
        }
        if !others.is_empty() {
            let mut all = Shed::default();
            others.iter().for_each(|(_, shed)| all.add(*shed));
            tracing::warn!(
                containers_and_namespaces = others.len(),
                records = all.records,
                bytes = all.bytes,
                "lines of others were left out in the last minute: more than logs.limits"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sonde_daemon::units::Size;

    use super::*;

    fn limits(per_container: u64, per_namespace: u64) -> Limits {
        let config =
            config::Limits { per_container: Size(per_container), per_namespace: Size(per_namespace) };
        Limits::new(&config, Instant::now())
    }

    fn row(pod: &str) -> RowKey {
        RowKey { namespace: "shop".into(), pod: pod.into(), container: "app".into() }
    }

    /// Bytes that go through of `records` of `bytes`, stamped `millis` after 1000 s.
    fn sent(
        limits: &mut Limits,
        pod: &str,
        quota: &mut Quota,
        (records, bytes): (u64, u64),
        millis: u64,
    ) -> u64 {
        let mut gate = limits.enter(&row(pod), *quota);
        let stamp = Some((1_000_000 + millis) * 1_000_000);
        let sent = (0..records).filter(|_| gate.admits(bytes, stamp, false)).count() as u64 * bytes;
        *quota = gate.quota();
        limits.leave(&row(pod), gate);
        sent
    }

    #[test]
    fn a_container_has_its_budget_at_once_then_none_until_ten_seconds_of_its_log_are_over() {
        let (mut limits, mut a, mut b) = (limits(1000, 0), Quota::default(), Quota::default());
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 0), 10_000);
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 9999), 0);
        assert_eq!(sent(&mut limits, "b", &mut b, (1000, 100), 0), 10_000, "another one's");
        assert_eq!(sent(&mut limits, "a", &mut a, (50, 100), 10_000), 5000);
        assert_eq!(
            sent(&mut limits, "a", &mut a, (1000, 100), 9000),
            5000,
            "a stamp a little older counts as now"
        );
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 20_000), 10_000);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let (mut limits, mut a) = (limits(1000, 0), Quota::default());
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 500_000), 10_000);
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 0), 10_000);
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 100), 1), 0);
    }

    #[test]
    fn a_namespaces_limit_is_shared_and_what_a_containers_limit_sheds_takes_nothing_of_it() {
        let (mut limits, mut a, mut b) = (limits(100, 150), Quota::default(), Quota::default());
        assert_eq!(sent(&mut limits, "a", &mut a, (1000, 10), 0), 1000);
        assert_eq!(sent(&mut limits, "b", &mut b, (1000, 10), 0), 500);
        let now = Instant::now() + SUMMARY;
        let summary = limits.summary(now);
        let container = |pod| (Subject::Container(row(pod)), Shed { records: 900, bytes: 9000 });
        assert_eq!(summary.len(), 3);
        assert!(summary[..2].contains(&container("a")) && summary[..2].contains(&container("b")));
        assert_eq!(summary[2], (Subject::Namespace("shop".into()), Shed { records: 50, bytes: 500 }));
        assert_eq!(sent(&mut limits, "a", &mut a, (1, 10), 0), 0);
        assert!(limits.summary(now + SUMMARY / 2).is_empty(), "said once a minute");
        assert_eq!(limits.summary(now + SUMMARY).len(), 1);
    }

    #[test]
    fn two_backlogs_of_a_namespace_have_the_budget_of_the_time_they_were_written_in() {
        let (mut limits, mut a, mut b) = (limits(0, 100), Quota::default(), Quota::default());
        for slot in 0..5000 {
            assert_eq!(sent(&mut limits, "a", &mut a, (5, 100), slot * 10_000), 500);
        }
        // The other one's, from the beginning.
        for slot in 0..5000 {
            assert_eq!(sent(&mut limits, "b", &mut b, (5, 100), slot * 10_000), 500);
        }
        assert!(limits.namespaces["shop"].used.len() <= SLOTS);
        assert_eq!(sent(&mut limits, "b", &mut b, (1, 100), 4999 * 10_000), 0);
    }

    #[test]
    fn a_namespace_that_is_not_read_for_an_hour_is_forgotten_and_one_that_is_read_is_not() {
        let (mut limits, mut a) = (limits(0, 100), Quota::default());
        let mut now = Instant::now();
        let other = RowKey { namespace: "gone".into(), ..row("b") };
        let gate = limits.enter(&other, Quota::default());
        limits.leave(&other, gate);
        for minute in 0..=u64::from(FORGOTTEN) {
            assert_eq!(limits.namespaces.len(), if minute == 0 { 1 } else { 2 });
            sent(&mut limits, "a", &mut a, (1, 10), minute * 60_000);
            now += SUMMARY;
            limits.summary(now);
        }
        assert_eq!(limits.namespaces.keys().collect::<Vec<_>>(), ["shop"]);
    }

    #[test]
    fn what_may_have_been_sent_goes_through_a_namespaces_limit_and_is_counted() {
        let mut limits = limits(0, 100);
        let mut gate = limits.enter(&row("a"), Quota::default());
        assert!((0..1000).all(|_| gate.admits(100, Some(1 << 50), true)));
        assert!(!gate.admits(1, Some(1 << 50), false));
        assert!(!gate.admits(1, None, false), "a line without a stamp belongs to the one before");
        assert_eq!(gate.shed_records(), 2);
    }

    proptest! {
        /// The reason why a container's limit needs no memory of what was sent: `Gate::admits` after a restart at any
        /// record lets through all that it let through without the restart.
        #[test]
        fn a_replay_sends_at_least_what_was_sent_and_each_ten_seconds_have_their_budget(
            rate in 1u64..200,
            records in proptest::collection::vec((0u64..4000, 1u64..500), 1..80),
            restart in 0usize..80,
        ) {
            let mut stamp = 0;
            let records: Vec<(u64, u64)> =
                records.into_iter().map(|(millis, bytes)| { stamp += millis; (stamp, bytes) }).collect();
            let run = |records: &[(u64, u64)]| {
                let (mut limits, mut quota) = (limits(rate, 0), Quota::default());
                let one = |(stamp, bytes): &(u64, u64)| sent(&mut limits, "a", &mut quota, (1, *bytes), *stamp) > 0;
                records.iter().map(one).collect::<Vec<bool>>()
            };
            let whole = run(&records);
            let from = restart.min(records.len());
            for (before, after) in whole[from..].iter().zip(run(&records[from..])) {
                prop_assert!(!before || after);
            }
            let mut slots: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for ((stamp, bytes), is_sent) in records.iter().zip(&whole) {
                let slot = slots.entry(stamp / 10_000).or_default();
                slot.0 += if *is_sent { *bytes } else { 0 };
                slot.1 += bytes;
            }
            for (sent, offered) in slots.values() {
                prop_assert!(*sent < rate * SLOT + 500 && (*sent == *offered || *sent >= rate * SLOT));
            }
        }
    }
}
