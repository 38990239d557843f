//! OTLP of apps through a real agent into a real collector: whose it is, what a crash may cost, and what hostile apps may not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use flate2::write::GzEncoder;
use serde_json::Value;
use sonde_tests::app::{self, STRANGER, Signal, WEB, message};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, free_port, http, root, verify, wait_until};

struct Node {
    stack: Stack,
    grpc: u16,
    http: u16,
    _dir: tempfile::TempDir,
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let (grpc, http) = (free_port().unwrap(), free_port().unwrap());
    let agent = format!(
        "cluster: lab\nmetrics: {{push: false}}\nreceive: {{otlp_grpc: \"127.0.0.1:{grpc}\", otlp_http: \"127.0.0.1:{http}\", limits: {{request: 1MiB, in_flight: 8MiB}}}}"
    );
    let settings = Settings { kubelet: app::kubelet().unwrap(), agent, ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    stack.start().unwrap();
    let ready = |port| http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200);
    wait_until("both daemons", Duration::from_secs(60), || {
        ready(stack.agent_http) && ready(stack.collector_http)
    })
    .unwrap();
    let pods = || http::metric(stack.agent_http, "/metrics", "kube_pod_info", "").is_ok_and(|sum| sum >= 2.0);
    wait_until("the pods", Duration::from_secs(60), pods).unwrap();
    Node { stack, grpc, http, _dir: dir }
}

/// An `ExportLogsServiceRequest` of one record: resource_logs { scope_logs { log_records { body { string } } } }.
fn request(body: &str) -> Vec<u8> {
    let record = message(5, &message(1, body.as_bytes()));
    message(1, &message(2, &message(2, &record)))
}

/// The agent's answer over HTTP: its status.
async fn post(from: Ipv4Addr, port: u16, body: Vec<u8>) -> u16 {
    app::post(from, port, Signal::Logs, body).await
}

/// Over gRPC: its `grpc-status`.
async fn call(from: Ipv4Addr, port: u16, body: &[u8]) -> u16 {
    app::call(from, port, Signal::Logs, body).await
}

/// The records that are stored of `filter`.
fn stored(node: &Node, filter: &str) -> Vec<Value> {
    let text = http::text(node.stack.collector_http, &format!("/api/v1/logs?limit=0{filter}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_sends_is_stored_with_the_attributes_of_its_pod_over_both_transports() {
    let node = node();
    assert_eq!(post(WEB, node.http, request("over http")).await, 200);
    assert_eq!(call(WEB, node.grpc, &request("over grpc")).await, 0);
    assert_eq!(post(STRANGER, node.http, request("from elsewhere")).await, 200);
    wait_until("three records", Duration::from_secs(30), || stored(&node, "").len() == 3).unwrap();
    let own = stored(&node, "&namespace=shop&pod=web-0&container=main&node=test-node");
    let mut bodies: Vec<_> = own.iter().map(|record| record["body"].as_str().unwrap()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["over grpc", "over http"]);
    for record in &own {
        let text = record.to_string();
        assert_eq!(record["cluster"], "lab");
        for part in ["uid-of-web-0", "registry/web-0", "k8s.pod.label.app"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let other = stored(&node, "&node=test-node");
    assert!(other.iter().any(|record| record["body"] == "from elsewhere" && record["pod"] != "web-0"));
    let metric = |name, labels| http::metric(node.stack.agent_http, "/metrics/self", name, labels).unwrap();
    let accepted = metric("sonde_agent_receive_requests_total", "signal=\"logs\",outcome=\"accepted\"");
    assert!((accepted - 3.0).abs() < 0.5, "{accepted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill_of_the_collector_and_the_rest_is_told_to_come_again() {
    let mut node = node();
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0..120 {
        if number == 40 {
            node.stack.collector.take().unwrap().kill().unwrap();
        }
        if number == 60 {
            node.stack.start_collector().unwrap();
            let port = node.stack.collector_http;
            let ready = || http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200);
            wait_until("the collector", Duration::from_secs(60), ready).unwrap();
        }
        let body = format!("record {number}");
        let (ok, away) = if number % 2 == 0 {
            let status = post(WEB, node.http, request(&body)).await;
            (status == 200, status == 503)
        } else {
            let status = call(WEB, node.grpc, &request(&body)).await;
            (status == 0, status == 14)
        };
        assert!(ok || away, "record {number}");
        if ok { taken.push(body) } else { refused += 1 }
    }
    assert!(refused >= 20 && taken.len() >= 60, "{refused} refused, {} taken", taken.len());
    let all = || {
        let bodies: Vec<String> =
            stored(&node, "").iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect();
        taken.iter().all(|body| bodies.contains(body))
    };
    wait_until("all that was acknowledged", Duration::from_secs(60), all).unwrap();
}

#[test]
fn records_of_the_python_sdk_get_the_attributes_of_their_pod() {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().to_owned();
    let places = [target, root().join("target")].map(|place: PathBuf| place.join("interop/venv/bin/python"));
    let Some(python) = places.iter().find(|path| path.exists()) else {
        eprintln!(
            "SKIPPED records_of_the_python_sdk_get_the_attributes_of_their_pod: run tests/interop/install"
        );
        return;
    };
    let node = node();
    for (transport, port) in [("grpc", node.grpc), ("http", node.http)] {
        let out = Command::new(python)
            .arg(root().join("tests/interop/send_as_app.py"))
            .args([transport, &port.to_string(), "500"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let own = || stored(&node, "&namespace=shop&pod=sdk-0&container=main").len() == 1000;
    wait_until("1,000 records", Duration::from_secs(60), own).unwrap();
    let record = stored(&node, "&pod=sdk-0").remove(0).to_string();
    // The SDK's own name stays.
    assert!(record.contains("checkout") && record.contains("uid-of-sdk-0"), "{record}");
}

/// Keeps `count` connections open, each with the beginning of a request that never ends.
fn slow(port: u16, count: usize) -> Vec<TcpStream> {
    let head = "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000000\r\n\r\n";
    let mut all = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&[0x0a, 0x80, 0x89, 0x3d, 0]);
        all.push(stream);
    }
    all
}

/// Sends a body with a `Content-Encoding`; the answer's status line, if one came.
fn raw(port: u16, encoding: &str, body: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
    let mut answer = [0; 12];
    let _ = stream.read_exact(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn hostile_apps_cost_bounded_memory_and_no_log_line() {
    let mut node = node();
    let rss = |node: &Node| {
        let pid = node.stack.agent.as_ref().unwrap().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let before = rss(&node);
    let waiting = slow(node.http, 60);
    corpus::write(&node.stack.pod_logs, 10, 5_000, 200).unwrap();
    let mut bomb = GzEncoder::new(Vec::new(), flate2::Compression::best());
    // A request that is one long field: what it is shows at its end alone.
    bomb.write_all(&[0x0a, 0x80, 0x80, 0x80, 0x20]).unwrap();
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let noise: Vec<u8> = (0..1u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let groups = [0x0a, 0].repeat(1 << 19);
    let port = node.http;
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (bomb, noise, groups) = (bomb.clone(), noise.clone(), groups.clone());
            std::thread::spawn(move || {
                for _ in 0..10 {
                    for (encoding, body) in [
                        ("gzip", &bomb),
                        ("gzip", &noise),
                        ("zstd", &noise),
                        ("identity", &noise),
                        ("identity", &groups),
                    ] {
                        let answer = raw(port, encoding, body);
                        assert!(!answer.contains(" 200"), "{encoding}: {answer}");
                    }
                }
            })
        })
        .collect();
    node.stack.wait_drained(Duration::from_secs(120)).unwrap();
    for sender in senders {
        sender.join().unwrap();
    }
    drop(waiting);
    verify::verify(&[node.stack.pod_logs.clone()], node.stack.collector_http).unwrap();
    let grown = rss(&node).saturating_sub(before);
    // 8 MiB under way, 8.5 MiB to decompress, connections, and what reading 10 MB of logs takes.
    assert!(grown < 48, "{grown} MiB more than before");
    assert!(node.stack.agent.as_mut().unwrap().alive());
    // Who behaves is served as before.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(post(WEB, node.http, request("still here"))), 200);
}
