//! Several collectors behind one name, in front of one OpenSearch: they share nothing, and are stopped, killed and started again
//! under load.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sonde_tests::daemon::Daemon;
use sonde_tests::opensearch::OpenSearch;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, wait_until};

const STREAM: &str = "logs-kubernetes.container_logs.otel-default";
const FILES: usize = 12;
const LIMIT: Duration = Duration::from_secs(120);

/// One collector on an address of its own: 127.0.0.1, 127.0.0.2, …
struct Replica {
    dir: PathBuf,
    http: u16,
    running: Option<Daemon>,
}

impl Replica {
    fn new(dir: PathBuf, number: usize, otlp: (u16, u16), sink: u16) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let http = free_port().unwrap();
        let config = format!(
            "data_dir: {}\nlisten: {{otlp_grpc: \"127.0.0.{number}:{}\", otlp_http: \"127.0.0.{number}:{}\", http: \"127.0.0.1:{http}\"}}\n\
             queue: {{min_free: 0B}}\nlimits: {{connection_age: 2s}}\n\
             sinks: [{{name: es, type: elasticsearch, endpoints: [\"http://127.0.0.1:{sink}\"]}}]\n",
            dir.join("data").display(),
            otlp.0,
            otlp.1,
        );
        fs::write(dir.join("collector.yaml"), config).unwrap();
        Self { dir, http, running: None }
    }

    fn start(&mut self) {
        let (config, log) = (self.dir.join("collector.yaml"), self.dir.join("collector.log"));
        self.running = Some(Daemon::start("sonde-collector", &config, &log).unwrap());
        let ready = || http::get(self.http, "/readyz").is_ok_and(|answer| answer.status == 200);
        wait_until("a replica", LIMIT, ready)
            .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(&log).unwrap()));
    }

    /// SIGTERM: it answers what it has taken, and ends with 0.
    fn stop(&mut self) {
        let status = self.running.take().unwrap().stop(LIMIT).unwrap();
        assert!(
            status.success(),
            "{status}: {}",
            fs::read_to_string(self.dir.join("collector.log")).unwrap()
        );
    }

    fn kill(&mut self) {
        self.running.take().unwrap().kill().unwrap();
    }

    /// Records that it has taken since it was started.
    fn taken(&self) -> f64 {
        http::metric(self.http, "/metrics", "sonde_collector_received_records_total", "").unwrap_or(0.0)
    }

    /// Bytes that its sink has not taken yet.
    fn waiting(&self) -> f64 {
        http::metric(self.http, "/metrics", "sonde_collector_queue_bytes", "sink=\"es\"").unwrap_or(1.0)
    }
}

/// Writes about 1,200 lines a second until it is told to end; its result is how many there are.
struct Writer {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(pod_logs: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let mut files: Vec<File> = (0..FILES)
            .map(|file| {
                let uid = format!("{file:08x}-0000-4000-8000-000000000000");
                let dir = pod_logs.join(format!("shop_pod-{file}_{uid}/app"));
                fs::create_dir_all(&dir).unwrap();
                File::create(dir.join("0.log")).unwrap()
            })
            .collect();
        let thread = std::thread::spawn(move || {
            let mut lines = 0;
            while !stop.load(Ordering::Relaxed) {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let stamp = format!("{}.{:09}Z", corpus::rfc3339(now.as_secs()), now.subsec_nanos());
                for (number, file) in files.iter_mut().enumerate() {
                    writeln!(file, "{stamp} stdout F file={number} seq={lines} hello").unwrap();
                    lines += 1;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            lines
        });
        Self { ended, thread }
    }

    fn end(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn rolling_restarts_of_three_replicas_lose_nothing_and_double_nothing_in_elasticsearch() {
    let test = "rolling_restarts_of_three_replicas_lose_nothing_and_double_nothing_in_elasticsearch";
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, (1..=3).map(|n| format!("127.0.0.{n} collectors.test\n")).collect::<String>()).unwrap();
    if !Daemon::may_have_hosts() {
        eprintln!("SKIPPED {test}: no right to make a mount namespace, where a name has three addresses");
        return;
    }
    let Some(mut server) = OpenSearch::new(test, dir.path().join("opensearch")).unwrap() else { return };
    server.start().unwrap();

    let otlp = (free_port().unwrap(), free_port().unwrap());
    let mut replicas: Vec<Replica> = (1..=3)
        .map(|number| Replica::new(dir.path().join(format!("replica-{number}")), number, otlp, server.port))
        .collect();
    replicas.iter_mut().for_each(Replica::start);
    let settings = Settings {
        endpoint: format!("http://collectors.test:{}", otlp.0),
        agent: "metrics: {push: false}".to_owned(),
        ..Settings::default()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    let (config, log) = (dir.path().join("agent.yaml"), dir.path().join("agent.log"));
    let agent = || Daemon::start_with_hosts("sonde-agent", &config, &log, &hosts).unwrap();
    let writer = Writer::start(&stack.pod_logs);
    stack.agent = Some(agent());
    let all_take = |replicas: &[Replica]| {
        let each = || replicas.iter().all(|replica| replica.taken() > 0.0);
        wait_until("records at each replica", LIMIT, each)
            .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(&log).unwrap()));
    };
    all_take(&replicas);

    // One after the other is stopped, gone for a while, and comes back; a second time they are killed, and the agent too.
    for replica in &mut replicas {
        replica.stop();
        std::thread::sleep(Duration::from_millis(500));
        replica.start();
    }
    all_take(&replicas);
    for (at, replica) in replicas.iter_mut().enumerate() {
        replica.kill();
        std::thread::sleep(Duration::from_millis(500));
        if at == 1 {
            stack.kill_agent().unwrap();
            stack.agent = Some(agent());
        }
        replica.start();
    }
    all_take(&replicas);

    let written = writer.end();
    let done = || server.total(STREAM) >= written && replicas.iter().all(|replica| replica.waiting() == 0.0);
    wait_until("every line in the stream", LIMIT, done).unwrap_or_else(|error| {
        let waiting: Vec<f64> = replicas.iter().map(Replica::waiting).collect();
        panic!("{error}: {} of {written}, waiting {waiting:?}", server.total(STREAM))
    });
    let texts = server.texts(STREAM, "body.text").unwrap();
    let different: HashSet<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!((texts.len() as u64, different.len() as u64), (written, written));
    let refused = |replica: &Replica| replica.dir.join("data/dead-letter").exists();
    assert!(!replicas.iter().any(refused), "nothing was refused");
}
