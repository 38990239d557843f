//! An agent, a collector, and containers that write.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, wait_until};
use tempfile::TempDir;

/// An agent and a collector below a directory of their own; requests are small, so that much can be unread.
pub struct Rig {
    pub stack: Stack,
    pub dir: TempDir,
}

impl Rig {
    /// With `logs` as the agent's section of that name.
    pub fn new(logs: &str) -> Self {
        Self::with(Settings { agent: format!("logs: {{{logs}}}"), ..Settings::default() })
    }

    pub fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pod_logs = dir.path().join("var/log/pods");
        let mut settings = settings;
        settings.export.push("batch: {bytes: 64KiB, age: 200ms}".to_owned());
        settings.agent += "\nshutdown_grace: 1s\nmetrics: {push: false}";
        let stack = Stack::with_logs(dir.path(), &pod_logs, &settings).unwrap();
        Self { stack, dir }
    }

    /// Both are up.
    pub fn started(logs: &str) -> Self {
        let mut rig = Self::new(logs);
        rig.stack.start().unwrap();
        rig
    }

    /// The agent, and no collector.
    pub fn start_agent(&mut self) {
        self.stack.start_agent().unwrap();
        let port = self.stack.agent_http;
        until("the agent", || http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200));
    }

    pub fn stop_agent(&mut self) {
        self.stack.agent.take().unwrap().stop(Duration::from_secs(30)).unwrap();
    }

    pub fn container(&self, pod: &str) -> Container {
        Container::new(&self.stack.pod_logs, pod, pod)
    }

    /// A container whose file has all its lines when the agent finds it.
    pub fn found_whole(&self, pod: &str, lines: usize) -> Container {
        let mut container = Container::new(&self.dir.path().join("elsewhere"), pod, pod);
        container.lines(pod, lines);
        let place = self.stack.pod_logs.join(container.pod_dir().file_name().unwrap());
        fs::rename(container.pod_dir(), &place).unwrap();
        container.dir = place.join("app");
        container
    }

    /// The pod's records as the API gives them, in the order of their stamps.
    pub fn records(&self, pod: &str) -> Vec<Value> {
        let page = http::text(self.stack.collector_http, &format!("/api/v1/logs?limit=0&pod={pod}")).unwrap();
        page.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn bodies(&self, pod: &str) -> Vec<String> {
        self.records(pod).iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect()
    }

    /// Until so many records are stored and the agent has nothing pending.
    pub fn until_stored(&self, records: usize) {
        until(&format!("{records} records"), || {
            self.stack.stored().is_ok_and(|stored| stored >= records as u64)
        });
        // What the page shows is at most a second old.
        std::thread::sleep(Duration::from_millis(1200));
        until("the agent to have nothing pending", || self.ledger("pending_bytes", "") == 0);
        assert_eq!(self.stack.stored().unwrap(), records as u64);
    }

    /// A sum of the agent's ledger.
    pub fn ledger(&self, name: &str, labels: &str) -> u64 {
        let name = format!("sonde_agent_log_{name}");
        let sum = http::metric(self.stack.agent_http, "/metrics/self", &name, labels).unwrap_or(f64::MAX);
        sum as u64
    }

    /// Records that the collector was sent again since its start.
    pub fn resent(&self) -> u64 {
        let labels = "outcome=\"duplicate\"";
        http::metric(self.stack.collector_http, "/metrics", "sonde_collector_records_total", labels).unwrap()
            as u64
    }

    /// A log file as the agent has it.
    fn entry(&self, path: &Path) -> Option<Value> {
        let page = http::text(self.stack.agent_http, "/debug/files").ok()?;
        let files: Value = serde_json::from_str(&page).ok()?;
        let files = files.as_array().or_else(|| files["files"].as_array())?.clone();
        // Of Docker's containers the page shows the directory by another name.
        let shown = if path.to_string_lossy().contains("-json.log") { 2 } else { 3 };
        let end =
            path.components().rev().take(shown).collect::<Vec<_>>().into_iter().rev().collect::<PathBuf>();
        files
            .into_iter()
            .find(|file| file["path"].as_str().is_some_and(|path| Path::new(path).ends_with(&end)))
    }

    /// Size and read position of a log file as the agent has them.
    pub fn file(&self, path: &Path) -> Option<(u64, u64)> {
        let file = self.entry(path)?;
        Some((file["size"].as_u64()?, file["read"].as_u64()?))
    }

    /// Until the agent's state on disk says that all of the file was acknowledged: from then on it may be deleted.
    pub fn until_persisted(&self, path: &Path) {
        until(&format!("{} in the state", path.display()), || {
            let len = fs::metadata(path).unwrap().len();
            self.entry(path)
                .is_some_and(|file| file["size"] == len && file["acked"] == len && file["persisted"] == true)
        });
    }

    /// Until as much of the file is read as can be; its size, and the bytes that are read.
    pub fn until_read(&self, path: &Path) -> (u64, u64) {
        let mut before = (None, 0);
        until(&format!("{} to be read", path.display()), || {
            let file = self.file(path);
            before = if file == before.0 { (file, before.1 + 1) } else { (file, 0) };
            // What the page shows is at most a second old.
            before.1 >= 30 && file.is_some_and(|(_, read)| read > 0)
        });
        (fs::metadata(path).unwrap().len(), before.0.unwrap().1)
    }
}

/// Waits, and fails after a time that no machine needs.
pub fn until(what: &str, ready: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(90), ready).unwrap();
}

/// What a container writes, and the lines it means.
pub struct Container {
    pub dir: PathBuf,
    pub written: Vec<String>,
    stamp: u64,
    rotations: u32,
}

impl Container {
    pub fn new(pod_logs: &Path, pod: &str, uid: &str) -> Self {
        let dir = pod_logs.join(format!("ns_{pod}_{uid}")).join("app");
        fs::create_dir_all(&dir).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stamp = now.as_secs() * 1_000_000_000;
        Self { dir, written: Vec::new(), stamp, rotations: 0 }
    }

    pub fn live(&self) -> PathBuf {
        self.dir.join("0.log")
    }

    pub fn pod_dir(&self) -> &Path {
        self.dir.parent().unwrap()
    }

    pub fn append(&self, bytes: &[u8]) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.live()).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// An entry's text, with a stamp of its own.
    pub fn text(&mut self, stream: &str, tag: &str, body: &str) -> String {
        self.stamp += 1;
        let seconds = corpus::rfc3339(self.stamp / 1_000_000_000);
        format!("{seconds}.{:09}Z {stream} {tag} {body}\n", self.stamp % 1_000_000_000)
    }

    pub fn entry(&mut self, stream: &str, tag: &str, body: &str) {
        let text = self.text(stream, tag, body);
        self.append(text.as_bytes());
    }

    pub fn line(&mut self, body: &str) {
        self.entry("stdout", "F", body);
        self.written.push(body.to_owned());
    }

    /// So many lines of about 200 bytes.
    pub fn lines(&mut self, name: &str, count: usize) {
        let mut text = String::new();
        for line in 0..count {
            let body = format!("{name} {line:06} {}", "=".repeat(140));
            text += &self.text("stdout", "F", &body);
            self.written.push(body);
        }
        self.append(text.as_bytes());
    }

    /// As the kubelet rotates: the live file gets another name, and none is in its place until the runtime writes.
    pub fn rotate(&mut self) -> PathBuf {
        self.rotations += 1;
        let old = self.dir.join(format!("0.log.20261121-{:06}", self.rotations));
        fs::rename(self.live(), &old).unwrap();
        old
    }

    /// As the kubelet compresses: into `.tmp`, renamed to `.gz`, the plain file removed.
    pub fn compress(&self, old: &Path) {
        let temporary = PathBuf::from(format!("{}.tmp", old.display()));
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&temporary).unwrap(), flate2::Compression::fast());
        encoder.write_all(&fs::read(old).unwrap()).unwrap();
        encoder.finish().unwrap();
        fs::rename(&temporary, format!("{}.gz", old.display())).unwrap();
        fs::remove_file(old).unwrap();
    }
}
