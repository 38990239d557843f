//! The core on a simulated node: random appends, rotations, compressions, restarts, lost acknowledgements and refusals.
//! After each step the ledger's sum is counted a second way; at the end every line arrived, and once per uid.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use proptest::prelude::*;
use prost::Message;
use tokio::sync::mpsc;

use super::checkpoint::Store;
use super::core::{Core, Now, Settings};
use super::filter::Filter;
use super::fs::{Changes, LogFile, LogFs, Place, Stat};
use super::ledger::RowKey;
use super::outbox::Outbox;
use super::resource::Node;
use super::tail::FileId;
use crate::batch::{Batch, Outcome, Settlement};
use crate::config::{Parse, ReadExisting};
use crate::pods::PodIndex;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files by path; an inode lives on in whoever has it open.
#[derive(Clone, Default)]
pub(super) struct Disk {
    inner: Arc<Mutex<DiskInner>>,
}

#[derive(Default)]
struct DiskInner {
    files: BTreeMap<String, (u64, Bytes)>,
    next: u64,
}

#[derive(Clone)]
pub(super) struct SimFile {
    inode: u64,
    bytes: Bytes,
}

impl Disk {
    pub(super) fn append(&self, path: &str, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap();
        inner.next += 1;
        let next = inner.next;
        let file = inner.files.entry(path.to_owned()).or_insert_with(|| (next, Bytes::default()));
        file.1.lock().unwrap().extend_from_slice(bytes);
    }
    pub(super) fn rename(&self, from: &str, to: &str) {
        let mut inner = self.inner.lock().unwrap();
        if let Some(file) = inner.files.remove(from) {
            inner.files.insert(to.to_owned(), file);
        }
    }
    pub(super) fn remove(&self, path: &str) {
        self.inner.lock().unwrap().files.remove(path);
    }
    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        self.inner.lock().unwrap().files[path].1.lock().unwrap().clone()
    }
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.inner.lock().unwrap().files.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }
    pub(super) fn truncate(&self, path: &str) {
        self.inner.lock().unwrap().files[path].1.lock().unwrap().clear();
    }
    pub(super) fn corrupt(&self, path: &str) {
        let inner = self.inner.lock().unwrap();
        let mut bytes = inner.files[path].1.lock().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8].fill(0xff);
    }
    pub(super) fn gzip(&self, path: &str) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.read(path)).unwrap();
        self.append(&format!("{path}.gz"), &encoder.finish().unwrap());
    }
}

impl LogFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            node: (1, self.inode),
            size: self.bytes.lock().unwrap().len() as u64,
            mtime_nanos: u64::MAX,
            regular: true,
        })
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let is_trap = memchr::memmem::find(&bytes, b"TRAP").is_some();
        if is_trap {
            drop(bytes);
            panic!("an error of our own");
        }
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }
}

impl LogFs for Disk {
    type File = SimFile;
    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut names: Vec<String> = self
            .names(&prefix)
            .iter()
            .map(|path| path[prefix.len()..].split('/').next().unwrap().to_owned())
            .collect();
        names.dedup();
        if names.is_empty() && !dir.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }
    fn stat(&mut self, path: &str) -> io::Result<Stat> {
        match self.open(path) {
            Ok(file) => file.stat(),
            // A directory: its time of change is not simulated, the regular listing finds what is new.
            Err(_) => Ok(Stat::default()),
        }
    }
    fn open(&mut self, path: &str) -> io::Result<SimFile> {
        let inner = self.inner.lock().unwrap();
        let (inode, bytes) = inner.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { inode: *inode, bytes: bytes.clone() })
    }
    fn watch(&mut self, _: &str, _: Place) -> bool {
        false
    }
    fn watch_growth(&mut self, _: &SimFile, _: FileId) -> bool {
        false
    }
    fn changes(&mut self) -> Changes {
        Changes { overflow: true, ..Changes::default() }
    }
}

#[derive(Clone, Default)]
pub(super) struct MemStore {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
    pub(super) full: Arc<Mutex<bool>>,
}

impl Store for MemStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.bytes.lock().unwrap().clone())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap().get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.bytes.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }
    fn set_aside(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record as the receiver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) pod: String,
    pub(super) stream: String,
    pub(super) body: String,
    pub(super) truncated: bool,
    pub(super) malformed: bool,
}

/// All records of a request, by uid.
pub(super) fn decode(payload: &[u8]) -> Vec<(String, Got)> {
    let text = |value: Option<opentelemetry_proto::tonic::common::v1::AnyValue>| match value
        .and_then(|value| value.value)
    {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    let mut records = Vec::new();
    for resource in ExportLogsServiceRequest::decode(payload).unwrap().resource_logs {
        let attributes = resource.resource.unwrap().attributes;
        let pod =
            text(attributes.into_iter().find(|attribute| attribute.key == "k8s.pod.name").unwrap().value);
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

/// A node, an agent on it, and a receiver.
pub(super) struct World {
    pub(super) disk: Disk,
    pub(super) store: MemStore,
    pub(super) core: Core<Disk>,
    batches: mpsc::Receiver<Batch>,
    pub(super) unsettled: Vec<Batch>,
    pub(super) got: HashMap<String, Got>,
    pub(super) order: Vec<String>,
    pub(super) resent_unmarked: usize,
    pub(super) now: Now,
    read_existing: ReadExisting,
    slots: usize,
}

fn settings(read_existing: ReadExisting) -> Settings {
    Settings {
        node: Node { cluster: String::new(), name: "n1".into(), labels: vec![] },
        filter: Filter::default(),
        read_existing,
        max_line: 4096,
        parse: Parse::Auto,
        pinned_deleted: 1 << 30,
        wait_for_metadata: false,
    }
}

impl World {
    pub(super) fn new(read_existing: ReadExisting) -> Self {
        Self::with_slots(read_existing, 4)
    }

    pub(super) fn with_slots(read_existing: ReadExisting, slots: usize) -> Self {
        let now = Now { mono: Instant::now(), wall_nanos: 1_795_192_501_000_000_000 };
        let (disk, store) = (Disk::default(), MemStore::default());
        let (core, batches) = Self::boot(&disk, &store, read_existing, slots, now);
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
            read_existing,
            slots,
        }
    }

    fn boot(
        disk: &Disk,
        store: &MemStore,
        read_existing: ReadExisting,
        slots: usize,
        now: Now,
    ) -> (Core<Disk>, mpsc::Receiver<Batch>) {
        let (sender, batches) = mpsc::channel(slots);
        let outbox = Outbox::new(1500, Duration::from_secs(1), slots, sender);
        let core = Core::new(
            disk.clone(),
            settings(read_existing),
            PodIndex::default(),
            outbox,
            Box::new(store.clone()),
            now.mono,
        )
        .unwrap();
        (core, batches)
    }

    /// Kill -9 and a new start.
    pub(super) fn restart(&mut self) {
        let (core, batches) = Self::boot(&self.disk, &self.store, self.read_existing, self.slots, self.now);
        (self.core, self.batches) = (core, batches);
        self.unsettled.clear();
    }

    pub(super) fn turn(&mut self, millis: u64) {
        self.now.mono += Duration::from_millis(millis);
        self.now.wall_nanos += millis * 1_000_000;
        self.core.turn(self.now);
        while let Ok(batch) = self.batches.try_recv() {
            self.unsettled.push(batch);
        }
        self.check_ledger();
    }

    /// The receiver takes a batch; the answer arrives unless it is lost.
    pub(super) fn accept(&mut self, at: usize, is_answered: bool) {
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

    pub(super) fn settle(&mut self, at: usize, outcome: Outcome) {
        let batch = self.unsettled.remove(at);
        self.core.on_settlement(Settlement { id: batch.id, outcome }, self.now);
        self.check_ledger();
    }

    /// Until nothing moves for 15 seconds.
    pub(super) fn drain(&mut self) {
        for _ in 0..300 {
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
            *pending.entry(super::core::row_of(key).unwrap()).or_default() += state.seen - settled;
        }
        for (key, row) in self.core.ledger.rows() {
            let parts = row.acked + row.shed.iter().chain(&row.lost).chain(&row.excluded).sum::<u64>();
            assert_eq!(row.observed, parts + pending.get(key).copied().unwrap_or(0), "{key:?} {row:?}");
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.core.ledger.rows().map(|(_, row)| row.lost.iter().sum::<u64>()).sum()
    }

    pub(super) fn bodies(&self, pod: &str, stream: &str) -> Vec<String> {
        self.order
            .iter()
            .map(|uid| &self.got[uid])
            .filter(|got| got.pod == pod && got.stream == stream)
            .map(|got| got.body.clone())
            .collect()
    }
}

/// The container's side: what it writes, and the lines it means.
struct Writer {
    dir: String,
    pod: String,
    stamp: u64,
    rotations: u64,
    lines: [Vec<String>; 2],
    open: [Option<String>; 2],
}

impl Writer {
    fn new(n: usize) -> Self {
        let pod = format!("pod-{n}");
        Self {
            dir: format!("ns_{pod}_uid-{n}/app"),
            pod,
            stamp: 0,
            rotations: 0,
            lines: Default::default(),
            open: Default::default(),
        }
    }

    fn write(&mut self, disk: &Disk, stderr: bool, partial: bool, len: usize) {
        self.stamp += 1;
        let index = usize::from(stderr);
        let text = format!("{}:{}", self.stamp, "x".repeat(len));
        let stream = if stderr { "stderr" } else { "stdout" };
        let tag = if partial { "P" } else { "F" };
        let entry = format!(
            "2026-11-20T16:{:02}:{:02}.{:09}Z {stream} {tag} {text}\n",
            self.stamp / 60 % 60,
            self.stamp % 60,
            self.stamp
        );
        disk.append(&format!("{}/0.log", self.dir), entry.as_bytes());
        let line = self.open[index].take().unwrap_or_default() + &text;
        if partial { self.open[index] = Some(line) } else { self.lines[index].push(line) }
    }

    fn rotate(&mut self, disk: &Disk, compress: bool) {
        let live = format!("{}/0.log", self.dir);
        if !disk.names(&self.dir).contains(&live) {
            return;
        }
        if compress {
            for path in disk.names(&self.dir).iter().filter(|path| !path.ends_with(".gz") && **path != live) {
                disk.gzip(path);
                disk.remove(path);
            }
        }
        self.rotations += 1;
        disk.rename(&live, &format!("{live}.20261120-{:06}", self.rotations));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { container: usize, stderr: bool, fragments: usize, len: usize },
    Rotate { container: usize, compress: bool },
    Turn { millis: u64 },
    Accept { which: usize, answered: bool },
    Refuse { which: usize },
    Restart,
    Full { full: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0usize..3, any::<bool>(), 0usize..3, 0usize..300).prop_map(|(container, stderr, fragments, len)| Step::Write { container, stderr, fragments, len }),
        2 => (0usize..3, any::<bool>()).prop_map(|(container, compress)| Step::Rotate { container, compress }),
        8 => (0u64..1500).prop_map(|millis| Step::Turn { millis }),
        6 => (0usize..4, prop::bool::weighted(0.8)).prop_map(|(which, answered)| Step::Accept { which, answered }),
        1 => (0usize..4).prop_map(|which| Step::Refuse { which }),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(|full| Step::Full { full }),
    ];
    proptest::collection::vec(step, 1..120)
}

fn run(steps: Vec<Step>) {
    let mut world = World::new(ReadExisting::All);
    let mut writers: Vec<Writer> = (0..3).map(Writer::new).collect();
    for step in steps {
        match step {
            Step::Write { container, stderr, fragments, len } => {
                for _ in 0..fragments {
                    writers[container].write(&world.disk, stderr, true, len);
                    writers[container].write(&world.disk, !stderr, false, 3);
                }
                writers[container].write(&world.disk, stderr, false, len);
            }
            Step::Rotate { container, compress } => writers[container].rotate(&world.disk, compress),
            Step::Turn { millis } => world.turn(millis),
            Step::Accept { which, answered } => {
                if !world.unsettled.is_empty() {
                    let at = which % world.unsettled.len();
                    world.accept(at, answered);
                }
            }
            Step::Refuse { which } => {
                if !world.unsettled.is_empty() {
                    let at = which % world.unsettled.len();
                    if world.unsettled[at].records > 1 {
                        world.settle(at, Outcome::Refused { code: "413".into() });
                    }
                }
            }
            Step::Restart => world.restart(),
            Step::Full { full } => *world.store.full.lock().unwrap() = full,
        }
    }
    *world.store.full.lock().unwrap() = false;
    world.drain();
    for writer in &writers {
        for (index, stream) in ["stdout", "stderr"].into_iter().enumerate() {
            let mut got = world.bodies(&writer.pod, stream);
            let mut expected = writer.lines[index].clone();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{} {stream}", writer.pod);
        }
    }
    assert_eq!(world.lost(), 0);
    let pending: u64 = world.core.ledger.rows().map(|(_, row)| row.pending()).sum();
    assert_eq!(pending, 0);
    // What is acknowledged is never sent again, by this process or the next.
    world.core.finish(world.now.mono);
    let before = world.got.len();
    world.restart();
    for _ in 0..50 {
        world.turn(100);
    }
    assert!(
        world.unsettled.is_empty(),
        "resent {} of {before}",
        world.unsettled.iter().map(|batch| batch.records).sum::<u32>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_line_arrives_once_per_uid_whatever_happens_and_every_byte_is_accounted_for(steps in steps()) {
        run(steps);
    }
}
