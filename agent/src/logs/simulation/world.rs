//! A node, an agent on it, and a receiver.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::sync::mpsc;

use super::disk::{Disk, MemStore};
use crate::batch::{Batch, Outcome, Settlement};
use crate::config::{Logs, MultilineRule, ReadExisting};
use crate::logs::core::{Core, Now, Settings, row_of};
use crate::logs::filter::Filter;
use crate::logs::ledger::RowKey;
use crate::logs::multiline::Rules;
use crate::logs::outbox::Outbox;
use crate::logs::redact::Redactor;
use crate::logs::resource::Node;
use crate::pods::PodIndex;

/// A record as the receiver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs) struct Got {
    pub(in crate::logs) pod: String,
    pub(in crate::logs) stream: String,
    pub(in crate::logs) body: String,
    pub(in crate::logs) truncated: bool,
    pub(in crate::logs) malformed: bool,
}

/// All records of a request, by uid.
pub(in crate::logs) fn decode(payload: &[u8]) -> Vec<(String, Got)> {
    let text = |value: Option<opentelemetry_proto::tonic::common::v1::AnyValue>| match value
        .and_then(|value| value.value)
    {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    let mut records = Vec::new();
    for resource in ExportLogsServiceRequest::decode(payload).unwrap().resource_logs {
        let attributes = resource.resource.unwrap().attributes;
        let name = |key: &str| attributes.iter().find(|attribute| attribute.key == key).cloned();
        let pod = text(
            name("k8s.pod.name")
                .or_else(|| name("container.id"))
                .or_else(|| name("log.file.path"))
                .unwrap()
                .value,
        );
        for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let mut got = Got {
                pod: pod.clone(),
                stream: String::new(),
                body: text(record.body),
                truncated: false,
                malformed: false,
            };
            let mut uid = String::new();
            for attribute in record.attributes {
                match attribute.key.as_str() {
                    "log.record.uid" => uid = text(attribute.value),
                    "log.iostream" => got.stream = text(attribute.value),
                    "log.truncated" => got.truncated = true,
                    "log.malformed" => got.malformed = true,
                    other => panic!("{other}"),
                }
            }
            assert_eq!(uid.len(), 32);
            records.push((uid, got));
        }
    }
    records
}

/// Severity numbers of all records of a request.
pub(in crate::logs) fn severities(payload: &[u8]) -> Vec<i32> {
    let request = ExportLogsServiceRequest::decode(payload).unwrap();
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    scopes.flat_map(|scope| scope.log_records).map(|record| record.severity_number).collect()
}

/// A node, an agent on it, and a receiver.
pub(in crate::logs) struct World {
    pub(in crate::logs) disk: Disk,
    pub(in crate::logs) store: MemStore,
    pub(in crate::logs) core: Core<Disk>,
    batches: mpsc::Receiver<Batch>,
    pub(in crate::logs) unsettled: Vec<Batch>,
    pub(in crate::logs) got: HashMap<String, Got>,
    pub(in crate::logs) order: Vec<String>,
    pub(in crate::logs) resent_unmarked: usize,
    pub(in crate::logs) now: Now,
    /// What the next start is made with.
    pub(in crate::logs) config: Logs,
    pub(in crate::logs) pods: PodIndex,
    pub(in crate::logs) cluster: String,
    pub(in crate::logs) wait_for_metadata: bool,
    slots: usize,
}

impl World {
    pub(in crate::logs) fn new(read_existing: ReadExisting) -> Self {
        Self::with_slots(read_existing, 4)
    }

    pub(in crate::logs) fn with_slots(read_existing: ReadExisting, slots: usize) -> Self {
        Self::with(Logs { read_existing, ..Logs::default() }, slots)
    }

    /// With these rules; the limit of a line is the simulation's.
    pub(in crate::logs) fn with(config: Logs, slots: usize) -> Self {
        let now = Now { mono: Instant::now(), wall_nanos: 1_795_192_501_000_000_000 };
        let (disk, store, pods) = (Disk::default(), MemStore::default(), PodIndex::default());
        let (core, batches) = Self::boot(&disk, &store, &config, &pods, "", false, slots, now);
        Self {
            disk,
            store,
            core,
            batches,
            unsettled: vec![],
            got: HashMap::new(),
            order: vec![],
            resent_unmarked: 0,
            now,
            config,
            pods,
            cluster: String::new(),
            wait_for_metadata: false,
            slots,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn boot(
        disk: &Disk,
        store: &MemStore,
        config: &Logs,
        pods: &PodIndex,
        cluster: &str,
        wait_for_metadata: bool,
        slots: usize,
        now: Now,
    ) -> (Core<Disk>, mpsc::Receiver<Batch>) {
        let settings = Settings {
            node: Node { cluster: cluster.into(), name: "n1".into(), labels: vec![] },
            filter: Filter::new(&config.include, &config.exclude),
            read_existing: config.read_existing,
            max_line: 4096,
            parse: config.parse,
            pinned_deleted: config.pinned_deleted.0,
            limits: config.limits.clone(),
            files: config.files.clone(),
            wait_for_metadata,
        };
        let (sender, batches) = mpsc::channel(slots);
        let outbox = Outbox::new(1500, Duration::from_secs(1), slots, sender);
        let core = Core::new(
            disk.clone(),
            settings,
            pods.clone(),
            Redactor::new(&config.redact, 4096).unwrap(),
            Rules::new(&config.multiline, 4096).unwrap(),
            outbox,
            Box::new(store.clone()),
            now.mono,
        )
        .unwrap();
        (core, batches)
    }

    /// Kill -9 and a new start.
    pub(in crate::logs) fn restart(&mut self) {
        let (core, batches) = Self::boot(
            &self.disk,
            &self.store,
            &self.config,
            &self.pods,
            &self.cluster,
            self.wait_for_metadata,
            self.slots,
            self.now,
        );
        (self.core, self.batches) = (core, batches);
        self.unsettled.clear();
    }

    /// A clean stop and a new start.
    pub(in crate::logs) fn stop(&mut self) {
        self.core.finish(self.now.mono);
        self.restart();
    }

    /// A start with other multi-line rules, after a stop or a kill. Which files there are is in the state by then.
    pub(in crate::logs) fn change(&mut self, rules: Vec<MultilineRule>, is_stopped: bool) {
        if *self.store.full.lock().unwrap() {
            return;
        }
        self.turn(2000);
        for _ in 0..10 {
            if self.core.files.values().any(|file| file.identity.is_none()) {
                self.turn(2000);
            }
        }
        self.config.multiline = rules;
        if is_stopped { self.stop() } else { self.restart() }
    }

    pub(in crate::logs) fn turn(&mut self, millis: u64) {
        self.now.mono += Duration::from_millis(millis);
        self.now.wall_nanos += millis * 1_000_000;
        self.core.turn(self.now);
        while let Ok(batch) = self.batches.try_recv() {
            self.unsettled.push(batch);
        }
        self.check_ledger();
    }

    /// The receiver takes a batch; the answer arrives unless it is lost.
    pub(in crate::logs) fn accept(&mut self, at: usize, is_answered: bool) {
        let batch = self.unsettled[at].clone();
        for (uid, got) in decode(&batch.payload) {
            match self.got.get(&uid) {
                Some(known) => {
                    assert_eq!(known, &got, "one uid, two records");
                    self.resent_unmarked += usize::from(!batch.resend);
                }
                None => {
                    self.order.push(uid.clone());
                    self.got.insert(uid, got);
                }
            }
        }
        if is_answered {
            self.settle(at, Outcome::Accepted { rejected: 0, message: String::new() });
        }
    }

    pub(in crate::logs) fn settle(&mut self, at: usize, outcome: Outcome) {
        let batch = self.unsettled.remove(at);
        self.core.on_settlement(Settlement { id: batch.id, outcome }, self.now);
        self.check_ledger();
    }

    /// Until nothing moves for 15 seconds.
    pub(in crate::logs) fn drain(&mut self) {
        self.drain_for(15);
    }

    /// So many seconds.
    pub(in crate::logs) fn drain_for(&mut self, seconds: u32) {
        for _ in 0..20 * seconds {
            self.turn(50);
            while !self.unsettled.is_empty() {
                self.accept(0, true);
                self.turn(0);
            }
        }
    }

    /// Pending bytes of each row, counted from the files.
    fn check_ledger(&self) {
        let mut pending: BTreeMap<RowKey, u64> = BTreeMap::new();
        for file in self.core.files.values() {
            *pending.entry(self.core.lineages[&file.lineage].row.clone()).or_default() +=
                file.seen - file.settled.bytes();
        }
        for (key, state) in self.core.restored.values().flatten() {
            let settled: u64 = state.settled.iter().map(|(start, end)| end - start).sum();
            *pending.entry(row_of(key).unwrap()).or_default() += state.seen - settled;
        }
        for (key, row) in self.core.ledger.rows() {
            let parts = row.acked + row.shed.iter().chain(&row.lost).chain(&row.excluded).sum::<u64>();
            assert_eq!(row.observed, parts + pending.get(key).copied().unwrap_or(0), "{key:?} {row:?}");
        }
    }

    pub(in crate::logs) fn lost(&self) -> u64 {
        self.core.ledger.rows().map(|(_, row)| row.lost.iter().sum::<u64>()).sum()
    }

    pub(in crate::logs) fn bodies(&self, pod: &str, stream: &str) -> Vec<String> {
        self.order
            .iter()
            .map(|uid| &self.got[uid])
            .filter(|got| got.pod == pod && got.stream == stream)
            .map(|got| got.body.clone())
            .collect()
    }
}
