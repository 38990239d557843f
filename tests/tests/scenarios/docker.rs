//! Docker's json-file layout, with its own rotation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sonde_tests::stack::Settings;
use sonde_tests::{corpus, http, verify};

use crate::rig::{Rig, until};

/// A container as Docker keeps it.
struct Container {
    dir: PathBuf,
    id: String,
    written: Vec<String>,
    stamp: u64,
}

impl Container {
    fn new(rig: &Rig, id: &str, labels: &Value) -> Self {
        let dir = rig.dir.path().join("docker").join(id);
        fs::create_dir_all(&dir).unwrap();
        let config = json!({"ID": id, "Name": "/x", "Config": {"Hostname": "h", "Labels": labels}});
        fs::write(dir.join("config.v2.json"), config.to_string()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self { dir, id: id.to_owned(), written: Vec::new(), stamp: now.as_secs() * 1_000_000_000 }
    }

    fn of_pod(rig: &Rig, id: &str, pod: &str) -> Self {
        let labels = json!({
            "io.kubernetes.pod.namespace": "ns",
            "io.kubernetes.pod.name": pod,
            "io.kubernetes.pod.uid": format!("uid-{pod}"),
            "io.kubernetes.container.name": "app",
            "annotation.io.kubernetes.container.restartCount": "2",
        });
        Self::new(rig, id, &labels)
    }

    fn live(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.id))
    }

    fn rotated(&self, number: u32, end: &str) -> PathBuf {
        PathBuf::from(format!("{}.{number}{end}", self.live().display()))
    }

    /// As the driver writes a line: fragments of 16 KiB, the last one with its newline.
    fn text(&mut self, stream: &str, body: &str) -> String {
        let mut text = String::new();
        let line = format!("{body}\n");
        for chunk in line.as_bytes().chunks(16 << 10) {
            self.stamp += 1;
            let seconds = corpus::rfc3339(self.stamp / 1_000_000_000);
            let time = format!("{seconds}.{:09}Z", self.stamp % 1_000_000_000);
            let log = str::from_utf8(chunk).unwrap();
            let entry = json!({"log": log, "stream": stream, "attrs": {"tag": self.id}, "time": time});
            // As the driver does it, beyond what JSON asks for.
            text += &entry.to_string().replace('<', "\\u003c").replace('&', "\\u0026");
            text.push('\n');
        }
        self.written.push(body.to_owned());
        text
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.live()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Lines with all that is escaped, every fiftieth of them of three fragments.
    fn lines(&mut self, name: &str, count: usize) {
        let mut text = String::new();
        for line in 0..count {
            let filler = if line % 50 == 7 { "=".repeat(40_000) } else { "=".repeat(100) };
            text += &self.text("stdout", &format!("{name} {line:06} \"<&>\\\t\u{1b}[0m é😀 {filler}"));
        }
        self.append(&text);
    }

    /// As Docker rotates with `max-file: 9` and `compress`: numbers move up, the live file becomes `.1`, and is compressed.
    fn rotate(&self) {
        for number in (1..8).rev() {
            for end in ["", ".gz"] {
                let _ = fs::rename(self.rotated(number, end), self.rotated(number + 1, end));
            }
        }
        fs::rename(self.live(), self.rotated(1, "")).unwrap();
    }

    fn compress(&self, number: u32) {
        let plain = self.rotated(number, "");
        let packed = File::create(self.rotated(number, ".gz")).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        encoder.write_all(&fs::read(&plain).unwrap()).unwrap();
        encoder.finish().unwrap();
        fs::remove_file(plain).unwrap();
    }
}

#[test]
fn dockers_rotations_with_new_numbers_and_compression_around_a_kill_store_every_line_once() {
    let mut rig = Rig::started("");
    let mut pod = Container::of_pod(&rig, &"ab".repeat(32), "dockered");
    pod.lines("read", 200);
    rig.until_stored(200);
    pod.rotate();
    pod.compress(1);
    rig.stack.kill_collector().unwrap();
    pod.lines("half, unread", 3_000);
    let (size, read) = rig.until_read(&pod.live());
    assert!(read < size / 2, "{read} of {size} bytes are read without a collector");
    rig.stack.kill_agent().unwrap();
    for round in 0..3 {
        pod.rotate();
        pod.compress(1);
        pod.lines(&format!("away {round}"), 100);
    }
    // The newest is not compressed yet.
    pod.rotate();
    pod.lines("live", 10);
    rig.stack.start().unwrap();
    rig.until_stored(3_510);
    assert_eq!(rig.bodies("dockered"), pod.written);
    for record in rig.records("dockered") {
        assert_eq!((&record["namespace"], &record["container"]), (&"ns".into(), &"app".into()), "{record}");
        let attributes = &record["attributes"];
        assert_eq!(attributes["container.id"], "ab".repeat(32), "{record}");
        assert_eq!(attributes["k8s.pod.uid"], "uid-dockered", "{record}");
        assert_eq!(attributes["k8s.container.restart_count"].to_string().trim_matches('"'), "2", "{record}");
    }
    assert_eq!((rig.ledger("lost_bytes_total", ""), rig.ledger("gaps_total", "")), (0, 0));
    if verify::python() {
        verify::verify(&[rig.dir.path().join("docker")], rig.stack.collector_http).unwrap();
    }
}

#[test]
fn a_container_without_labels_has_its_id_and_one_that_the_pod_path_links_to_is_stored_once() {
    // The host's root is the test's directory: the kubelet's links lead from it.
    let mut rig = Rig::with(Settings::default());
    let mut linked = Container::of_pod(&rig, &"cd".repeat(32), "linked");
    let mut alone = Container::new(&rig, &"ef".repeat(32), &Value::Null);
    linked.lines("rotated", 20);
    linked.rotate();
    linked.lines("live", 20);
    alone.lines("alone", 20);
    let place = rig.stack.pod_logs.join("ns_linked_uid-linked/app");
    fs::create_dir_all(&place).unwrap();
    symlink(linked.live(), place.join("2.log")).unwrap();
    rig.stack.start().unwrap();
    rig.until_stored(60);
    assert_eq!(rig.bodies("linked"), linked.written);
    linked.rotate();
    linked.lines("after", 20);
    rig.until_stored(80);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rig.resent(), 0);
    let page = http::text(rig.stack.collector_http, "/api/v1/logs?limit=0&q=alone").unwrap();
    let records: Vec<Value> = page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 20);
    for record in &records {
        assert_eq!(record["attributes"]["container.id"], "ef".repeat(32), "{record}");
        assert!(record["pod"].is_null() && record["namespace"].is_null(), "{record}");
    }
    until("the rows of both", || {
        let id = format!("namespace=\"\",pod=\"\",container=\"{}\"", "ef".repeat(32));
        let acked = |labels: &str| rig.ledger("acked_bytes_total", labels);
        acked(&id) == fs::metadata(alone.live()).unwrap().len() && acked("pod=\"linked\"") > 0
    });
}

#[test]
fn files_whose_long_first_messages_are_alike_are_each_stored_once_around_kills() {
    let mut rig = Rig::started("");
    let mut pod = Container::of_pod(&rig, &"ac".repeat(32), "bannered");
    let banner = "=".repeat(5_000);
    for round in 0..4 {
        if round > 0 {
            // As with `max-file: 1`, while no agent runs.
            rig.until_persisted(&pod.live());
            rig.stack.kill_agent().unwrap();
            fs::remove_file(pod.live()).unwrap();
        }
        let text = pod.text("stdout", &banner) + &pod.text("stdout", &format!("line of round {round}"));
        pod.append(&text);
        if round > 0 {
            rig.stack.start_agent().unwrap();
        }
        rig.until_stored(2 * (round + 1));
    }
    assert_eq!(rig.bodies("bannered"), pod.written);
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}
