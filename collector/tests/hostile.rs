//! The real binary under hostile requests: the right status for each, and a memory that stays where it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
#![allow(clippy::zombie_processes, reason = "`Collector` waits when it is dropped")]

#[path = "hostile/attacks.rs"]
mod attacks;
mod client;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attacks::{Attack, INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED, noise};
use client::{GRPC_PATH, GrpcClient, KeptClient, framed, gzip, http, valid, zstd_sized};

/// What the collector may take above its own size at rest.
const ALLOWANCE_KIB: u64 = 20 << 10;
const REQUEST_LIMIT: usize = 64 << 20;

struct Collector {
    child: Child,
    grpc: String,
    http: String,
    pages: String,
}

impl Collector {
    fn start(dir: &Path, extra: &str) -> Self {
        let config = dir.join("collector.yaml");
        let data = dir.join("data");
        let text = format!(
            "data_dir: {}\nlisten: {{otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, http: 127.0.0.1:0}}\nqueue: {{max_bytes: 1GiB, min_free: 0B}}\n{extra}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = dir.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_sonde-collector"))
            .arg("--config")
            .arg(&config)
            .stderr(std::fs::File::create(&log).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains("\"listening\"")) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let address = |key: &str| line[key].as_str().expect(key).to_owned();
                return Self {
                    child,
                    grpc: address("otlp_grpc"),
                    http: address("otlp_http"),
                    pages: address("http"),
                };
            }
            assert!(start.elapsed() < Duration::from_secs(30), "it does not come up: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `VmRSS` or `VmHWM`, KiB.
    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.pages).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a status after `request` was written and, for a half-closed one, our side was closed.
fn raw(address: &str, request: &[u8], close: bool) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request).unwrap();
    if close {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    client::status(&mut stream)
}

/// One in so many requests of the thousand is larger than a request may be, with all its bytes.
const OVERSIZED_EACH: usize = 20;

/// Sends its share of 500 requests over one connection as long as the server keeps it; says what was sent, by name, and what was
/// answered, by number. `next` counts the requests of all connections of this protocol.
fn assault(collector: &Collector, attacks: &[&Attack], next: &AtomicUsize) -> Assault {
    let grpc = attacks[0].grpc;
    let runtime = runtime();
    let client = grpc.then(|| runtime.block_on(GrpcClient::connect(&collector.grpc)));
    let mut web = KeptClient::new(&collector.http);
    let mut assault = Assault::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= 500 {
            break;
        }
        let large = number % OVERSIZED_EACH == OVERSIZED_EACH - 1;
        let attack = if large { attacks[0] } else { attacks[1 + number % (attacks.len() - 1)] };
        assert_eq!(large, attack.name == "oversized");
        let headers: Vec<_> = attack.headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let status = match &client {
            Some(client) => runtime.block_on(client.call(GRPC_PATH, &headers, attack.body.clone())),
            None => web.post(&headers, &attack.body),
        };
        assert_eq!(status, attack.expected, "{} (grpc: {grpc})", attack.name);
        *assault.sent.entry(attack.name).or_default() += 1;
        *assault.answered.entry((grpc, status)).or_default() += 1;
    }
    assault.connections = if grpc { 1 } else { web.opened };
    assault
}

#[derive(Default)]
struct Assault {
    sent: BTreeMap<&'static str, usize>,
    answered: BTreeMap<(bool, u16), usize>,
    connections: usize,
}

impl Assault {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        for (name, count) in other.sent {
            *self.sent.entry(name).or_default() += count;
        }
        for (status, count) in other.answered {
            *self.answered.entry(status).or_default() += count;
        }
    }
}

#[test]
fn a_thousand_hostile_requests_on_fifty_connections_get_the_right_status_and_cost_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), "");
    let attacks = attacks::attacks();
    // At rest, but with its code paths touched once.
    let warm = runtime();
    warm.block_on(async {
        let client = GrpcClient::connect(&collector.grpc).await;
        assert_eq!(client.call(GRPC_PATH, &[], framed(0, &valid(100)).into()).await, OK);
    });
    let baseline = collector.memory("VmRSS:");
    // Each connection speaks one protocol and always has a request under way, so none is closed for being idle.
    let mut sides = Vec::new();
    for grpc in [true, false] {
        let attacks: Vec<&Attack> = attacks.iter().filter(|attack| attack.grpc == grpc).collect();
        let next = AtomicUsize::new(0);
        sides.push((attacks, next));
    }
    let mut done = [Assault::default(), Assault::default()];
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|connection| {
                let (collector, (attacks, next)) = (&collector, &sides[connection % 2]);
                scope.spawn(move || assault(collector, attacks, next))
            })
            .collect();
        for (connection, thread) in threads.into_iter().enumerate() {
            done[connection % 2].add(thread.join().unwrap());
        }
    });
    let (now, peak) = (collector.memory("VmRSS:"), collector.memory("VmHWM:"));
    println!("baseline {baseline} KiB, afterwards {now} KiB, peak {peak} KiB");
    assert!(peak <= baseline + ALLOWANCE_KIB, "peak {peak} KiB, baseline {baseline} KiB");
    for ((attacks, _), done) in sides.iter().zip(&done) {
        println!("{} connections: {:?}", done.connections, done.sent);
        assert_eq!(done.sent.values().sum::<usize>(), 500);
        assert_eq!(done.sent["oversized"], 500 / OVERSIZED_EACH);
        // All others as often as each other.
        for attack in &attacks[1..] {
            assert!(done.sent[attack.name] >= 475 / attacks.len(), "{}: {:?}", attack.name, done.sent);
        }
    }
    assert_eq!(done[0].connections, 25, "gRPC: a connection outlives every request");
    assert!(done[1].connections <= 100, "HTTP: {} connections for 500 requests", done[1].connections);
    assert_eq!(collector.get("/healthz").0, 200);
    let (_, page) = collector.get("/metrics");
    assert!(page.contains("sonde_collector_in_flight_bytes 0"), "{page}");
    // And it counted each of them, under the answer that it gave.
    for ((grpc, status), count) in done.iter().flat_map(|done| &done.answered) {
        let code = code(*grpc, *status);
        let transport = if *grpc { "grpc" } else { "http" };
        let count = count + usize::from(code == "OK");
        let row =
            format!("sonde_collector_requests_total{{transport=\"{transport}\",code=\"{code}\"}} {count}\n");
        assert!(page.contains(&row), "{row} is not in {page}");
    }
    assert_eq!(collector.stop(), Some(0));
}

/// As the collector's page names an answer.
fn code(grpc: bool, status: u16) -> String {
    let names = [
        (OK, "OK"),
        (INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
        (UNIMPLEMENTED, "UNIMPLEMENTED"),
    ];
    let named = names.iter().find(|(number, _)| grpc && *number == status);
    named.map_or_else(|| status.to_string(), |(_, name)| (*name).to_owned())
}

#[test]
fn the_slow_the_lying_and_the_half_closed_get_an_answer_too() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), "");
    let body = valid(100);
    let head = |length: usize| {
        format!("POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    };
    let address = collector.http.as_str();
    let whole = [head(body.len()), body.clone()].concat();
    assert_eq!(raw(address, &whole, true), 200, "half-closed after a whole request");
    // Half of a request and no more to come: nobody may be there to read, but the connection ends at once.
    let start = Instant::now();
    let status = raw(address, &[head(body.len() + 10), body.clone()].concat(), true);
    assert!(matches!(status, 0 | 400), "{status}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut too_long = head(body.len() - 10);
    too_long.extend_from_slice(&body);
    assert_eq!(raw(address, &too_long, true), 400, "more than announced");
    let chunked = b"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    assert!(matches!(raw(address, chunked, false), 0 | 400));
    // 50 that send a byte and then nothing, while others are served.
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| raw(address, &[head(1000), vec![0x0a]].concat(), false)))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        assert_eq!(raw(address, &whole, false), 200);
        assert!(start.elapsed() < Duration::from_secs(2), "served beside the slow ones");
        for each in slow {
            assert_eq!(each.join().unwrap(), 408);
        }
    });
    assert!(collector.get("/metrics").1.contains("sonde_collector_in_flight_bytes 0"));
    assert_eq!(collector.stop(), Some(0));
}

#[test]
fn the_second_collector_on_a_directory_names_the_first_and_a_bad_file_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), "");
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sonde-collector")).args(words).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let config = dir.path().join("collector.yaml");
    let (code, text, _) = run(&["--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("pid {}", collector.child.id())), "{text}");
    let (code, _, effective) = run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(effective.contains("\n  otlp_grpc: 127.0.0.1:0\n"), "{effective}");
    let mistakes = "limits:\n  request: 1GiB\n  in_flight: 1MiB\nack: delivered\nqueue: {max_byte: 1GiB}\nlisten:\n  http: here\ndata_dir: \"\"\n";
    std::fs::write(&config, mistakes).unwrap();
    let file = config.to_str().unwrap();
    for words in [&["check", "--config", file][..], &["--config", file]] {
        let (code, text, _) = run(words);
        assert_eq!(code, Some(2));
        let lines: Vec<&str> = text.lines().collect();
        let starts = [
            "2: limits.request: 1GiB is out of range",
            "3: limits.in_flight: 1MiB is less",
            "4: ack: `delivered`",
            "5: queue.max_byte: ",
            "7: listen.http: `here`",
            "8: data_dir: is empty",
        ];
        assert_eq!(lines.len(), starts.len(), "{text}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(&format!("{file}:{start}")), "{line}");
        }
        assert!(lines[3].contains("max_bytes"), "the nearest key is named: {text}");
    }
    assert_eq!(collector.get("/readyz").0, 200);
    assert_eq!(collector.get("/nothing").0, 404);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Letters by chance: three quarters of their size when they are compressed.
fn letters(length: usize) -> Vec<u8> {
    let mut request = valid(length);
    let start = request.len() - length;
    for (byte, noise) in request[start..].iter_mut().zip(noise(length)) {
        *byte = b'0' + (noise & 0x3f);
    }
    request
}

#[test]
fn under_a_load_of_large_compressed_requests_the_sum_of_memory_holds_and_the_rest_is_asked_to_come_again() {
    const IN_FLIGHT: u64 = 32 << 20;
    const SENDERS: usize = 24;
    let dir = tempfile::tempdir().unwrap();
    // A sink that takes nothing: what is accepted has to be on disk.
    let limits = format!(
        "limits: {{request: 16MiB, in_flight: {IN_FLIGHT}B}}\n\
         sinks: [{{name: es, type: elasticsearch, endpoints: [\"http://127.0.0.1:9\"]}}]"
    );
    let collector = Collector::start(dir.path(), &limits);
    let baseline = collector.memory("VmRSS:");
    let plain = letters(8 << 20);
    let bodies = [("gzip", gzip(&plain)), ("zstd", zstd_sized(&plain))];
    let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (collector, bodies, taken, refused) = (&collector, &bodies, &taken, &refused);
            scope.spawn(move || {
                for _ in 0..6 {
                    let (encoding, body) = &bodies[sender % 2];
                    let headers =
                        [("content-type", "application/x-protobuf"), ("content-encoding", *encoding)];
                    match http(&collector.http, &headers, body) {
                        200 => taken.fetch_add(1, Ordering::Relaxed),
                        429 | 503 => refused.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                    let page = collector.get("/metrics").1;
                    let used =
                        page.lines().find_map(|line| line.strip_prefix("sonde_collector_in_flight_bytes "));
                    let used: u64 = used.unwrap().parse().unwrap();
                    assert!(used <= IN_FLIGHT, "{used}");
                }
            });
        }
    });
    let peak = collector.memory("VmHWM:");
    let (taken, refused) = (taken.into_inner(), refused.into_inner());
    println!("taken {taken}, refused {refused}; baseline {baseline} KiB, peak {peak} KiB");
    assert!(taken > 0 && refused > 0, "{taken} {refused}");
    // Beside the requests: two decoders, and a lane's 32 MiB of decoded requests, 4 MiB gathered, one unpacked.
    let sum = (IN_FLIGHT >> 10) + ((2 * 9 + 32 + 4 + 16) << 10);
    assert!(
        peak <= baseline + sum + ALLOWANCE_KIB,
        "peak {peak} KiB, baseline {baseline} KiB, sum {sum} KiB"
    );
    assert!(collector.get("/metrics").1.contains("sonde_collector_in_flight_bytes 0"));
    assert_eq!(collector.stop(), Some(0));
}
