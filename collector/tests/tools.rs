//! `sonde-collector queue …` as people and scripts use it, on a collector that runs and on one that was killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
#![allow(clippy::zombie_processes, reason = "`Running` waits when it is dropped")]
#![allow(dead_code, reason = "`client` is shared with another test")]

mod client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use client::{http, valid};
use serde_json::Value;

struct Running {
    child: Child,
    http: String,
    pages: String,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let text = format!(
            "data_dir: {}\nlisten: {{otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, http: 127.0.0.1:0}}\nqueue: {{max_bytes: 1GiB, min_free: 0B}}\n",
            dir.join("data").display()
        );
        Self::start_with(dir, &text)
    }

    fn start_with(dir: &Path, text: &str) -> Self {
        let config = dir.join("collector.yaml");
        std::fs::write(&config, text).unwrap();
        let log = dir.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_sonde-collector"))
            .arg("--config")
            .arg(&config)
            .stderr(std::fs::File::create(&log).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Self { child, http: String::new(), pages: String::new() };
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains("\"listening\"")) {
                let line: Value = serde_json::from_str(line).unwrap();
                running.http = line["otlp_http"].as_str().unwrap().to_owned();
                running.pages = line["http"].as_str().unwrap().to_owned();
                return running;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come up: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn send(&self, records: usize) {
        for n in 0..records {
            let sent = http(&self.http, &[("content-type", "application/x-protobuf")], &valid(100 + n));
            assert_eq!(sent, 200);
        }
    }

    fn count(&self) -> String {
        self.page("/api/v1/logs/count")
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.pages).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split("\r\n\r\n").nth(1).unwrap().trim().to_owned()
    }
}

impl Drop for Running {
    /// Kill -9: nothing is flushed or committed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sonde-collector"))
        .arg("--config")
        .arg(dir.join("collector.yaml"))
        .args(words)
        .output()
        .unwrap()
}

/// What a tool says, and its exit code.
fn said(dir: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = tool(dir, words);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn json(dir: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = said(dir, words);
    (code, serde_json::from_str(&text).unwrap())
}

fn segment(dir: &Path) -> PathBuf {
    let mut files: Vec<_> =
        std::fs::read_dir(dir.join("data/queue")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "segment"));
    files.sort();
    files.remove(0)
}

#[test]
fn the_queue_can_be_looked_into_while_it_is_used_and_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let running = Running::start(dir);
    running.send(20);
    let (code, queue) = json(dir, &["queue", "ls", "--json"]);
    assert_eq!((code, queue["segments"].as_array().unwrap().len()), (Some(0), 1), "{queue}");
    let (code, text) = said(dir, &["queue", "ls"]);
    assert!(code == Some(0) && text.contains("1 segments, "), "{text}");
    let (code, whole) = json(dir, &["queue", "verify", "--json"]);
    assert_eq!(code, Some(0), "{whole}");
    assert_eq!((&whole["whole"], &whole["segments"][0]["records"]), (&true.into(), &20.into()), "{whole}");
    let (code, text) = said(dir, &["queue", "verify"]);
    assert!(
        code == Some(0) && text.contains("20 frames, 20 records, ") && text.ends_with(": whole\n"),
        "{text}"
    );
    let (code, text) = said(dir, &["queue", "dump", "--limit", "3", "--content"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (Some(0), 3));
    let record = &lines[1]["request"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["body"]["stringValue"].as_str().unwrap().len(), 101);
    let from = lines[2]["position"].as_str().unwrap();
    let (_, text) = said(dir, &["queue", "dump", "--from", from]);
    assert!(text.lines().count() == 18 && text.starts_with(from), "{text}");
    let output = tool(dir, &["queue", "drain"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    let holder = format!("in use by sonde-collector with pid {} (", running.child.id());
    assert!(why.contains(&holder), "{why}");
    drop(running);

    // A flipped bit is found, told where, and costs its frame.
    let path = segment(dir);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + 48 + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (code, damaged) = json(dir, &["queue", "verify", "--json"]);
    assert_eq!((code, &damaged["segments"][0]["damaged"][0]["from"]), (Some(1), &4096.into()), "{damaged}");
    let (code, text) = said(dir, &["queue", "verify"]);
    assert!(
        code == Some(1) && text.contains("1 frames at least, from 4096 to") && text.ends_with(": damaged\n"),
        "{text}"
    );
    assert_eq!(json(dir, &["queue", "ls", "--json"]).0, Some(0));
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("collector.yaml"), "data_dir: /nonexistent\n").unwrap();
    assert_eq!(tool(other.path(), &["queue", "ls"]).status.code(), Some(1));
    assert_eq!(tool(other.path(), &["queue", "lss"]).status.code(), Some(2));
}

#[test]
fn a_directory_that_holds_no_queue_is_said_with_the_key_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("elsewhere");
    std::fs::write(dir.path().join("collector.yaml"), format!("data_dir: {}\n", data.display())).unwrap();
    for words in [["queue", "ls"], ["queue", "verify"], ["queue", "dump"]] {
        let output = tool(dir.path(), &words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said.starts_with(&format!("no queue in {}/queue", data.display())), "{said}");
        assert!(said.contains("data_dir"), "{said}");
    }
}

#[test]
fn a_drain_delivers_what_a_killed_collector_left_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let running = Running::start(dir);
    running.send(20);
    drop(running);
    let behind = |queue: &Value| queue["cursors"][0]["bytes_behind_at_most"].as_u64();
    let (_, queue) = json(dir, &["queue", "ls", "--json"]);
    assert!(behind(&queue).is_none_or(|bytes| bytes > 20 * 148), "{queue}");
    let output = tool(dir, &["queue", "drain"]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("the queues are empty"), "{log}");
    let (_, queue) = json(dir, &["queue", "ls", "--json"]);
    assert_eq!(behind(&queue), Some(0), "{queue}");
    // Again: there is nothing to do.
    assert_eq!(tool(dir, &["queue", "drain"]).status.code(), Some(0));
    let running = Running::start(dir);
    assert_eq!(running.count(), "{\"count\": 20}");
}

#[test]
fn dead_letters_are_counted_and_sent_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let running = Running::start(dir);
    let letter = |n: usize| {
        let record = serde_json::json!({"timeUnixNano": "1", "body": {"stringValue": format!("letter {n}")}});
        let request = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]});
        format!("{}\n", serde_json::json!({"code": "400", "reason": format!("no {n}"), "request": request}))
    };
    let sink = dir.join("data/dead-letter/es");
    std::fs::create_dir_all(&sink).unwrap();
    std::fs::write(sink.join("0000000000001-9.ndjson"), letter(0) + &letter(1)).unwrap();
    // The newest, with a line that is still being written and one without a request.
    let unreadable = "{\"code\":\"unreadable\",\"reason\":\"x\",\"payload\":\"AA==\"}\n";
    let newest = sink.join("0000000000001-10.ndjson");
    std::fs::write(&newest, letter(2) + unreadable + letter(3).trim_end()).unwrap();
    let (code, listed) = json(dir, &["dead-letter", "ls", "--json"]);
    assert_eq!((code, &listed["sinks"][0]["letters"]), (Some(0), &5.into()), "{listed}");
    assert_eq!(
        listed["sinks"][0]["codes"][0],
        serde_json::json!({"code": "400", "letters": 4, "last_reason": "no 3"})
    );
    let (_, text) = said(dir, &["dead-letter", "ls"]);
    assert!(text.starts_with("es: 5 letters, ") && text.contains("400: 4, the last: no 3"), "{text}");

    // The listener has a port of its own choice here; a real one is in the file.
    let config = std::fs::read_to_string(dir.join("collector.yaml")).unwrap();
    let named = config.replace("otlp_http: 127.0.0.1:0", &format!("otlp_http: \"{}\"", running.http));
    std::fs::write(dir.join("collector.yaml"), named).unwrap();
    let (code, done) = json(dir, &["dead-letter", "replay", "--sink", "other", "--json"]);
    assert_eq!((code, &done["replayed"]), (Some(0), &0.into()), "{done}");
    let (code, done) = json(dir, &["dead-letter", "replay", "--json"]);
    assert_eq!((code, &done["replayed"], &done["not_replayable"]), (Some(0), &3.into(), &1.into()), "{done}");
    let left: Vec<_> = std::fs::read_dir(&sink).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the newest and how far it is: {left:?}");
    std::fs::OpenOptions::new().append(true).open(&newest).unwrap().write_all(b"\n").unwrap();
    let (_, done) = json(dir, &["dead-letter", "replay", "--json"]);
    assert_eq!(done["replayed"], 1, "only what is new: {done}");
    let start = Instant::now();
    while running.count() != "{\"count\": 4}" {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", running.count());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(running);
    std::fs::write(&newest, letter(5)).unwrap();
    std::fs::remove_file(newest.with_extension("ndjson.replayed")).unwrap();
    let (code, text) = said(dir, &["dead-letter", "replay"]);
    assert!(code == Some(1) && text.contains("no collector answers on 127.0.0.1:"), "{text}");
    assert!(newest.exists());
}

#[test]
fn the_queues_of_metrics_and_traces_are_looked_into_and_drained_as_that_of_logs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let letters = dir.join("data/dead-letter/next");
    let config = |port: u16| {
        let listen = "listen: {otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, http: 127.0.0.1:0}";
        let sink = format!(
            "sinks: [{{name: next, type: otlp, endpoint: \"http://127.0.0.1:{port}\", protocol: http, signals: [metrics, traces]}}]"
        );
        format!("data_dir: {}\n{listen}\nqueue: {{min_free: 0B}}\n{sink}\n", dir.join("data").display())
    };
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start_with(dir, &config(away.local_addr().unwrap().port()));
    running.send(2);
    let json_type = [("content-type", "application/json")];
    let point = "{\"asInt\":1,\"timeUnixNano\":\"5\"}";
    let metrics = format!(
        "{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{{\"name\":\"m\",\"gauge\":{{\"dataPoints\":[{point},{point}]}}}}]}}]}}]}}"
    );
    assert_eq!(client::post(&running.http, "/v1/metrics", &json_type, metrics.as_bytes()), 200);
    let traces = "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"c\"}]}]}]}";
    assert_eq!(client::post(&running.http, "/v1/traces", &json_type, traces.as_bytes()), 200);
    let (code, text) = said(dir, &["queue", "verify"]);
    let titles: Vec<&str> = text.lines().filter(|line| line.ends_with(':')).collect();
    assert_eq!((code, titles), (Some(0), vec!["logs:", "metrics:", "traces:"]), "{text}");
    for (signal, records) in [("logs", 2), ("metrics", 2), ("traces", 3)] {
        let (code, queue) = json(dir, &["queue", "verify", "--json", "--signal", signal]);
        assert_eq!((code, &queue["signal"]), (Some(0), &signal.into()), "{queue}");
        assert_eq!(queue["segments"][0]["records"], records, "{queue}");
    }
    let (_, text) = said(dir, &["queue", "dump", "--content", "--signal", "traces"]);
    let frame: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(frame["request"]["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["name"], "b", "{frame}");
    let (_, text) = said(dir, &["queue", "dump"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    drop(running);
    drop(away);

    // A receiver that refuses the points for good, and takes the spans.
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    std::fs::write(dir.join("collector.yaml"), config(port)).unwrap();
    std::thread::spawn(move || {
        for stream in receiver.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                client::answer(&mut stream, |path| if path == "/v1/traces" { 200 } else { 400 })
            });
        }
    });
    let output = tool(dir, &["queue", "drain"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, queue) = json(dir, &["queue", "ls", "--json", "--signal", "traces"]);
    assert_eq!(queue["cursors"][0]["bytes_behind_at_most"], 0, "{queue}");
    let file = std::fs::read_dir(&letters).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(file).unwrap();
    let kept: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [letter] = &kept[..] else { panic!("{text}") };
    assert_eq!((&letter["signal"], &letter["records"]), (&"metrics".into(), &2.into()), "{letter}");
    let metric = &letter["request"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
    assert_eq!((&metric["name"], metric["gauge"]["dataPoints"].as_array().unwrap().len()), (&"m".into(), 2));

    // What was refused is sent to the running collector as what it is, and refused again.
    let running = Running::start_with(dir, &config(port));
    let named = config(port).replace("otlp_http: 127.0.0.1:0", &format!("otlp_http: \"{}\"", running.http));
    std::fs::write(dir.join("collector.yaml"), named).unwrap();
    let (code, done) = json(dir, &["dead-letter", "replay", "--json"]);
    assert_eq!((code, &done["replayed"]), (Some(0), &1.into()), "{done}");
    let start = Instant::now();
    while json(dir, &["dead-letter", "ls", "--json"]).1["sinks"][0]["letters"] != 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", said(dir, &["dead-letter", "ls"]).1);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn dead_letters_are_sent_again_over_tls_and_what_is_gone_then_is_no_longer_counted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["collector.example".to_owned()]).unwrap();
    std::fs::write(dir.join("crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
    let sink = dir.join("data/dead-letter/es");
    std::fs::create_dir_all(&sink).unwrap();
    let letter = |n: usize| {
        let request = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": format!("{n}")}}]}]}]});
        format!("{}\n", serde_json::json!({"code": "400", "reason": "no", "request": request}))
    };
    std::fs::write(sink.join("0000000000001-0.ndjson"), letter(0) + &letter(1)).unwrap();
    std::fs::write(sink.join("0000000000001-1.ndjson"), letter(2)).unwrap();
    let config = |address: &str| {
        let listen =
            format!("listen: {{otlp_grpc: 127.0.0.1:0, otlp_http: \"{address}\", http: 127.0.0.1:0}}");
        let tls = format!(
            "tls: {{cert_file: {}, key_file: {}}}",
            dir.join("crt").display(),
            dir.join("key").display()
        );
        format!("data_dir: {}\n{listen}\n{tls}\nqueue: {{min_free: 0B}}\n", dir.join("data").display())
    };
    let running = Running::start_with(dir, &config("127.0.0.1:0"));
    std::fs::write(dir.join("collector.yaml"), config(&running.http)).unwrap();
    let counted = || {
        let page = running.page("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix("sonde_collector_dead_letter_bytes "));
        line.unwrap_or_else(|| panic!("{page}")).parse::<f64>().unwrap()
    };
    assert_eq!(counted(), (3 * letter(0).len()) as f64);
    let output = tool(dir, &["dead-letter", "replay"]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("ertificate"), "nobody is trusted: {text}");
    let trusted = dir.join("crt").display().to_string();
    let words = ["--ca-file", &trusted, "--server-name", "collector.example", "--json"];
    let (code, done) = json(dir, &[&["dead-letter", "replay"][..], &words].concat());
    assert_eq!((code, &done["replayed"]), (Some(0), &3.into()), "{done}");
    assert_eq!(counted(), letter(0).len() as f64, "of the newest file");
}
