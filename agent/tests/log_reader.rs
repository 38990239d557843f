//! The log reader on real files, with an exporter that takes everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use prost::Message;
use sonde_agent::batch::{Batch, Outcome, Settlement};
use sonde_agent::config;
use sonde_agent::logs::{LogsDeps, Reader};
use sonde_agent::pods::PodIndex;
use tokio::sync::mpsc;

struct Rig {
    root: PathBuf,
    state: PathBuf,
    reader: Option<Reader>,
    batches: mpsc::Receiver<Batch>,
    got: HashMap<String, Got>,
    doubled: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    container: String,
    stream: String,
    body: String,
}

fn start(root: &Path, state: &Path) -> (Reader, mpsc::Receiver<Batch>) {
    let (sender, batches) = mpsc::channel(4);
    let reader = Reader::start(LogsDeps {
        config: config::Logs { read_existing: config::ReadExisting::All, ..config::Logs::default() },
        cluster: String::new(),
        node_name: "n1".into(),
        batch: config::Batch::default(),
        in_flight: 4,
        pod_labels: vec![],
        host_root: root.to_owned(),
        pod_logs_dir: root.join("pods"),
        docker_logs_dir: root.join("docker"),
        state_dir: state.to_owned(),
        pods: PodIndex::default(),
        wait_for_metadata: false,
        batches: sender,
        heartbeat: Box::new(|| {}),
        metrics: Default::default(),
    });
    (reader.unwrap(), batches)
}

impl Rig {
    fn new(dir: &Path) -> Self {
        let (root, state) = (dir.join("root"), dir.join("state"));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        let (reader, batches) = start(&root, &state);
        Self { root, state, reader: Some(reader), batches, got: HashMap::new(), doubled: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.root.join("pods").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn append(&self, name: &str, text: &str) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Takes what comes for this long.
    fn take(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            match self.batches.try_recv() {
                Ok(batch) => self.accept(&batch),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn take_until(&mut self, records: usize, limit: Duration) {
        let end = Instant::now() + limit;
        while self.got.len() < records && Instant::now() < end {
            self.take(Duration::from_millis(20));
        }
        assert_eq!(self.got.len(), records);
    }

    fn accept(&mut self, batch: &Batch) {
        let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        };
        for resource in ExportLogsServiceRequest::decode(batch.payload.clone()).unwrap().resource_logs {
            let mut at: BTreeMap<String, Option<AnyValue>> = resource
                .resource
                .unwrap()
                .attributes
                .into_iter()
                .map(|attribute| (attribute.key, attribute.value))
                .collect();
            let pod = format!(
                "{}_{}_{}",
                text(at.remove("k8s.namespace.name").unwrap()),
                text(at.remove("k8s.pod.name").unwrap()),
                text(at.remove("k8s.pod.uid").unwrap())
            );
            let container = format!("{pod}/{}", text(at.remove("k8s.container.name").unwrap()));
            for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                let mut at: BTreeMap<String, Option<AnyValue>> =
                    record.attributes.into_iter().map(|attribute| (attribute.key, attribute.value)).collect();
                let uid = text(at.remove("log.record.uid").unwrap());
                let got = Got {
                    container: container.clone(),
                    stream: text(at.remove("log.iostream").unwrap()),
                    body: text(record.body),
                };
                if let Some(known) = self.got.insert(uid, got.clone()) {
                    assert_eq!(known, got);
                    assert!(batch.resend, "sent twice without saying so");
                    self.doubled += 1;
                }
            }
        }
        let outcome = Outcome::Accepted { rejected: 0, message: String::new() };
        self.reader.as_ref().unwrap().inbox().settle(Settlement { id: batch.id, outcome });
    }

    fn restart(&mut self) {
        self.stop();
        let (reader, batches) = start(&self.root, &self.state);
        (self.reader, self.batches) = (Some(reader), batches);
    }

    fn stop(&mut self) {
        let reader = self.reader.take().unwrap();
        reader.inbox().stop(Instant::now() + Duration::from_secs(5));
        while let Ok(batch) = self.batches.try_recv() {
            reader.inbox().settle(Settlement { id: batch.id, outcome: Outcome::Abandoned });
        }
        reader.join();
    }
}

fn entry(second: u32, body: &str) -> String {
    format!("2026-11-20T16:35:{second:02}.000000001Z stdout F {body}\n")
}

const LIVE: &str = "shop_web-0_11111111-2222-3333-4444-555555555555/app/0.log";

#[test]
fn a_new_file_is_found_and_a_line_is_read_long_before_the_next_regular_listing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.take(Duration::from_millis(300));
    assert!(rig.reader.as_ref().unwrap().ready());
    rig.append(LIVE, &entry(1, "hello"));
    // A listing is regular each ten seconds at most.
    rig.take_until(1, Duration::from_secs(6));
    // Long enough for the file to be left to the kernel's notice.
    rig.take(Duration::from_secs(8));
    rig.append(LIVE, &entry(2, "again"));
    rig.take_until(2, Duration::from_secs(6));
    rig.restart();
    rig.take(Duration::from_millis(500));
    assert_eq!((rig.got.len(), rig.doubled), (2, 0));
}

#[test]
fn a_file_rotated_ten_times_a_second_with_compression_loses_nothing_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    let mut lines = 0;
    let mut rotated: Vec<PathBuf> = Vec::new();
    for rotation in 0..40 {
        for _ in 0..200 {
            rig.append(LIVE, &entry(rotation, &format!("line {lines}")));
            lines += 1;
        }
        if rotation == 15 || rotation == 28 {
            rig.restart();
        }
        rig.take(Duration::from_millis(40));
        let live = rig.path(LIVE);
        if let Some(last) = rotated.last() {
            let gz = PathBuf::from(format!("{}.gz", last.display()));
            let temporary = PathBuf::from(format!("{}.tmp", last.display()));
            let mut encoder =
                flate2::write::GzEncoder::new(File::create(&temporary).unwrap(), flate2::Compression::fast());
            encoder.write_all(&std::fs::read(last).unwrap()).unwrap();
            encoder.finish().unwrap();
            std::fs::rename(&temporary, gz).unwrap();
            std::fs::remove_file(last).unwrap();
        }
        let old = PathBuf::from(format!("{}.20261120-1635{rotation:02}", live.display()));
        std::fs::rename(&live, &old).unwrap();
        rotated.push(old);
        rig.take(Duration::from_millis(20));
    }
    rig.take_until(lines, Duration::from_secs(30));
    let mut bodies: Vec<_> = rig.got.values().map(|got| got.body.clone()).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), lines);
}

#[test]
fn a_fifo_a_directory_and_a_link_out_of_the_root_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    let fifo = rig.path("ns_fifo_u/app/0.log");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    std::fs::create_dir_all(rig.path("ns_dir_u/app/0.log/x")).unwrap();
    let secret = dir.path().join("outside");
    std::fs::write(&secret, entry(1, "outside")).unwrap();
    std::os::unix::fs::symlink(&secret, rig.path("ns_link_u/app/0.log")).unwrap();
    // An absolute link is resolved inside the root, as the kubelet's to /var/lib/docker/containers.
    std::fs::create_dir_all(rig.root.join("var/lib")).unwrap();
    std::fs::write(rig.root.join("var/lib/real.log"), entry(1, "inside")).unwrap();
    std::os::unix::fs::symlink("/var/lib/real.log", rig.path("ns_docker_u/app/0.log")).unwrap();
    // Names that are nobody's: not UTF-8, a directory that is a link out of the root.
    let odd = std::ffi::OsStr::from_bytes(b"ns_p\xffd_u").to_owned();
    std::fs::create_dir_all(rig.root.join("pods").join(&odd).join("app")).unwrap();
    std::fs::write(rig.root.join("pods").join(&odd).join("app/0.log"), entry(1, "odd")).unwrap();
    std::fs::create_dir_all(dir.path().join("away/app")).unwrap();
    std::fs::write(dir.path().join("away/app/0.log"), entry(1, "away")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("away"), rig.root.join("pods/ns_away_u")).unwrap();
    rig.append(LIVE, &entry(1, "hello"));
    rig.take_until(2, Duration::from_secs(3));
    rig.take(Duration::from_millis(500));
    let mut bodies: Vec<_> = rig.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["hello", "inside"]);
}

#[test]
fn damaged_positions_are_set_aside_and_everything_is_sent_as_a_resend() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.append(LIVE, &entry(1, "hello"));
    rig.take_until(1, Duration::from_secs(20));
    rig.take(Duration::from_millis(1500));
    rig.stop();
    std::fs::write(rig.state.join("positions"), [0x55; 4096]).unwrap();
    let (reader, batches) = start(&rig.root, &rig.state);
    (rig.reader, rig.batches) = (Some(reader), batches);
    rig.take(Duration::from_secs(1));
    assert_eq!((rig.got.len(), rig.doubled), (1, 1));
}

/// The reference: a container's files in order, split at newlines, joined per stream.
fn reference(dir: &Path) -> Vec<(String, String)> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_by_key(|name| {
        let (restart, suffix) = name.split_once(".log").unwrap();
        (restart.parse::<u32>().unwrap(), suffix.is_empty(), suffix.to_owned())
    });
    let mut lines = Vec::new();
    let mut open: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    for name in names {
        let mut bytes = std::fs::read(dir.join(&name)).unwrap();
        if name.ends_with(".gz") {
            let compressed = std::mem::take(&mut bytes);
            flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut bytes).unwrap();
        }
        let restart = name.split('.').next().unwrap().to_owned();
        for entry in bytes.split_inclusive(|byte| *byte == b'\n') {
            let entry = entry.strip_suffix(b"\n").unwrap();
            let mut parts = entry.splitn(4, |byte| *byte == b' ');
            let (_, stream, tag, body) =
                (parts.next(), parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let key = (restart.clone(), String::from_utf8(stream.to_vec()).unwrap());
            open.entry(key.clone()).or_default().extend_from_slice(body);
            if tag == b"F" {
                let body = open.remove(&key).unwrap();
                lines.push((key.1, String::from_utf8_lossy(&body).into_owned()));
            }
        }
    }
    lines.extend(open.into_iter().map(|(key, body)| (key.1, String::from_utf8_lossy(&body).into_owned())));
    lines
}

#[test]
fn the_recorded_nodes_logs_give_exactly_their_records() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/logs");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(&root).unwrap();
    let tar = Command::new("tar")
        .arg("-xzf")
        .arg(fixtures.join("var-log-pods-and-containers.tar.gz"))
        .arg("-C")
        .arg(&root)
        .status();
    assert!(tar.unwrap().success());
    let truth: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fixtures.join("ground-truth.json")).unwrap()).unwrap();
    let expected: usize = truth
        .values()
        .map(|container| {
            container["logical_lines"].as_u64().unwrap() as usize
                + usize::from(container["trailing_partial"].as_bool().unwrap())
        })
        .sum();
    let mut rig = Rig::new(dir.path());
    rig.take_until(expected, Duration::from_secs(20));
    rig.take(Duration::from_secs(1));
    assert_eq!((rig.got.len(), rig.doubled), (expected, 0));
    for container in truth.keys() {
        let mut wanted = reference(&root.join("pods").join(container));
        let mut got: Vec<_> = rig
            .got
            .values()
            .filter(|got| got.container == *container)
            .map(|got| (got.stream.clone(), got.body.clone()))
            .collect();
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted, "{container}");
    }
    // The account is published once a second.
    let rows = |rig: &Rig| rig.reader.as_ref().unwrap().metrics().snapshot().rows.clone();
    let is_balanced =
        |rig: &Rig| rows(rig).iter().all(|(_, row)| row.observed == row.acked && row.pending() == 0);
    let end = Instant::now() + Duration::from_secs(20);
    while !is_balanced(&rig) && Instant::now() < end {
        rig.take(Duration::from_millis(20));
    }
    assert!(is_balanced(&rig), "{:?}", rows(&rig));
    rig.restart();
    rig.take(Duration::from_secs(1));
    assert_eq!((rig.got.len(), rig.doubled), (expected, 0), "nothing acknowledged is sent again");
}
