//! The reader of journals on real files, with a receiver that the test plays and a clock that it turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use tokio::sync::mpsc;

use super::faults::{Faults, TestDirs};
use super::real::{BEGIN, Made, Tools};
use crate::batch::{Batch, Outcome, Settlement};
use crate::config::{Parse, ReadExisting, RedactRule};
use crate::journal::core::{Core, Settings};
use crate::journal::dirs::HostDirs;
use crate::journal::metrics::Snapshot;
use crate::journal::outgoing::Outgoing;
use crate::logs::checkpoint::DiskStore;
use crate::logs::core::Now;
use crate::logs::redact::Redactor;
use crate::logs::resource::Node;

/// A record as the receiver has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Got {
    pub body: String,
    pub time: u64,
    pub severity: (i32, String),
    pub resource: BTreeMap<String, String>,
    pub attributes: BTreeMap<String, String>,
}

/// What a test sets apart from the defaults.
pub struct Wanted {
    pub units: Vec<String>,
    pub priority: u8,
    pub read_existing: ReadExisting,
    pub max_line: usize,
    pub redact: Vec<RedactRule>,
    pub batch: usize,
    pub pinned_deleted: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            units: Vec::new(),
            priority: 7,
            read_existing: ReadExisting::All,
            max_line: 10_000,
            redact: Vec::new(),
            batch: 20_000,
            pinned_deleted: 1 << 30,
        }
    }
}

pub struct World {
    pub tools: Tools,
    pub dir: tempfile::TempDir,
    pub wanted: Wanted,
    core: Option<Core<TestDirs>>,
    faults: Arc<Mutex<Faults>>,
    batches: mpsc::Receiver<Batch>,
    now: Instant,
    /// By uid; how often it came.
    pub got: BTreeMap<String, (Got, u32)>,
    /// Whether each batch was marked as a possible resend.
    pub resends: Vec<bool>,
    /// Refuses requests with such a body.
    pub refused: Option<String>,
}

impl World {
    /// None = systemd's programs are not there.
    pub fn new(test: &str, wanted: Wanted) -> Option<Self> {
        let tools = Tools::find(test)?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("var/log/journal/0123")).unwrap();
        std::fs::create_dir_all(dir.path().join("state")).unwrap();
        let mut world = Self {
            tools,
            dir,
            wanted,
            core: None,
            faults: Arc::default(),
            batches: mpsc::channel(1).1,
            now: Instant::now(),
            got: BTreeMap::new(),
            resends: Vec::new(),
            refused: None,
        };
        world.start();
        Some(world)
    }

    /// A new process, in the place of the one before, which is killed.
    pub fn start(&mut self) {
        let wanted = &self.wanted;
        let paths = ["/var/log/journal".to_owned(), "/run/log/journal".to_owned()];
        let host = HostDirs::open(self.dir.path(), &paths).unwrap();
        let dirs = TestDirs { host, faults: self.faults.clone() };
        let settings = Settings {
            node: Node { cluster: "lab".into(), name: "n1".into(), labels: Vec::new() },
            units: wanted.units.clone(),
            priority: wanted.priority,
            read_existing: wanted.read_existing,
            max_line: wanted.max_line,
            parse: Parse::Auto,
            pinned_deleted: wanted.pinned_deleted,
        };
        let (sender, batches) = mpsc::channel(1);
        let out = Outgoing::new(wanted.batch, Duration::from_secs(1), sender);
        let store = Box::new(DiskStore::named(&self.dir.path().join("state"), "journal-positions"));
        let redactor = Redactor::new(&wanted.redact, wanted.max_line).unwrap();
        self.core = Some(Core::new(dirs, settings, redactor, out, store, self.now).unwrap());
        self.batches = batches;
    }

    pub fn journals(&self) -> PathBuf {
        self.dir.path().join("var/log/journal/0123")
    }

    /// The journal that is written to.
    pub fn active(&self) -> PathBuf {
        self.journals().join("system.journal")
    }

    pub fn write(&self, entries: &[Made]) {
        self.tools.write(&self.active(), entries, &[]);
    }

    /// Has journals renamed that systemd rotated; gives them in their order.
    pub fn archived(&self) -> Vec<PathBuf> {
        let dir = std::fs::read_dir(self.journals()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = dir.filter(|path| path.to_string_lossy().contains('@')).collect();
        all.sort();
        all
    }

    /// What goes wrong from now on.
    pub fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    pub fn core(&mut self) -> &mut Core<TestDirs> {
        self.core.as_mut().unwrap()
    }

    /// One turn, a quarter of a second after the one before. The clock on the wall stands a day after the first entries.
    pub fn turn(&mut self) {
        self.now += Duration::from_millis(250);
        let wall_nanos = (BEGIN + 24 * 3600 * 1_000_000) * 1000;
        let now = Now { mono: self.now, wall_nanos };
        self.core().turn(now);
        while self.core().next_turn().is_none() {
            self.core().turn(now);
        }
        self.check();
    }

    /// A turn, with a receiver that takes everything.
    pub fn turn_and_store(&mut self) {
        self.turn();
        while let Some(batch) = self.take() {
            self.store(&batch);
            self.settle(&batch, Outcome::Accepted { rejected: 0, message: String::new() });
        }
    }

    /// Every byte is in one place.
    fn check(&mut self) {
        let snapshot = self.snapshot();
        for (key, row) in &snapshot.rows {
            assert!(row.observed >= row.settled(), "{key:?} {row:?}");
        }
    }

    pub fn snapshot(&mut self) -> Snapshot {
        self.core().snapshot()
    }

    /// A batch that is under way, if there is one.
    pub fn take(&mut self) -> Option<Batch> {
        self.batches.try_recv().ok()
    }

    pub fn settle(&mut self, batch: &Batch, outcome: Outcome) {
        self.core().on_settlement(Settlement { id: batch.id, outcome });
    }

    /// The receiver has it, whether or not the agent hears of that.
    pub fn store(&mut self, batch: &Batch) {
        self.resends.push(batch.resend);
        for (uid, got) in records(batch) {
            let entry = self.got.entry(uid).or_insert_with(|| (got.clone(), 0));
            assert_eq!(entry.0, got, "one uid, two records");
            entry.1 += 1;
        }
    }

    /// Until nothing is left to do for some seconds: stores what comes, and says so.
    pub fn drain(&mut self) {
        let mut idle = 0;
        while idle < 30 {
            self.turn();
            idle += 1;
            while let Some(batch) = self.take() {
                idle = 0;
                let is_refused = self
                    .refused
                    .as_ref()
                    .is_some_and(|refused| records(&batch).any(|(_, got)| got.body.contains(refused)));
                if is_refused {
                    self.settle(&batch, Outcome::Refused { code: "INVALID_ARGUMENT".into() });
                    continue;
                }
                self.store(&batch);
                self.settle(&batch, Outcome::Accepted { rejected: 0, message: String::new() });
            }
        }
        for (key, row) in &self.snapshot().rows {
            assert_eq!(row.pending(), 0, "{key:?} {row:?}");
        }
    }

    /// Bodies in the order of their times.
    pub fn bodies(&self) -> Vec<String> {
        let mut all: Vec<_> = self.got.values().map(|(got, _)| (got.time, got.body.clone())).collect();
        all.sort();
        all.into_iter().map(|(_, body)| body).collect()
    }

    /// How often the record that came most often came.
    pub fn most_often(&self) -> u32 {
        self.got.values().map(|(_, times)| *times).max().unwrap_or(0)
    }

    /// A row of the ledger: observed, acknowledged, excluded by rule, cut.
    pub fn row(&mut self, container: &str) -> Option<(u64, u64, u64, u64)> {
        let snapshot = self.snapshot();
        let found = snapshot.rows.iter().find(|(key, _)| key.container == container);
        found.map(|(_, row)| (row.observed, row.acked, row.excluded[0], row.excluded[2]))
    }
}

fn records(batch: &Batch) -> impl Iterator<Item = (String, Got)> + use<> {
    let request = ExportLogsServiceRequest::decode(&batch.payload[..]).unwrap();
    request.resource_logs.into_iter().flat_map(|logs| {
        let resource = strings(&logs.resource.unwrap().attributes);
        logs.scope_logs.into_iter().flat_map(|scope| scope.log_records).map(move |record| {
            let mut attributes = strings(&record.attributes);
            let uid = attributes.remove("log.record.uid").unwrap();
            let body = match record.body.unwrap().value {
                Some(Value::StringValue(text)) => text,
                other => panic!("{other:?}"),
            };
            let got = Got {
                body,
                time: record.time_unix_nano,
                severity: (record.severity_number, record.severity_text),
                resource: resource.clone(),
                attributes,
            };
            (uid, got)
        })
    })
}

fn strings(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let map: BTreeMap<_, _> = attributes
        .iter()
        .map(|pair| (pair.key.clone(), text(pair.value.as_ref().unwrap().value.as_ref().unwrap())))
        .collect();
    assert_eq!(map.len(), attributes.len(), "keys differ");
    map
}

/// Bodies `line from` to `line to`.
pub fn lines(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|n| format!("line {n:05}")).collect()
}

/// Entries with those messages.
pub fn entries(from: u64, to: u64) -> Vec<Made> {
    (from..to).map(|n| super::real::made(n, &format!("line {n:05}"))).collect()
}

/// A copy of a file under another inode.
pub fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}
