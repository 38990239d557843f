//! What the collector takes on one core: from receipt through the queue to the acknowledgement, and on to a server's
//! `_bulk`, beside the floor, which is writing the same bytes with as many fdatasyncs.
//!
//! `cargo run --release -p sonde-benches --bin intake -- [--seconds 5] [--runs 5] [--dir DIR]` prints a table, medians of runs that
//! alternate. The real collector has one core and a data directory below `--dir` (`TMPDIR`, else `/tmp`); four senders on the
//! other core post requests of about 1 MiB (3,400 records with bodies of 300 bytes) over OTLP/HTTP, each as soon as the one before
//! was acknowledged. For the queue alone the only sink is down, so nothing is delivered; for bulk the sink is of type
//! elasticsearch before a server in this process that says 201 to each item and reads no more than it must. Rows with 5 ms
//! have each fdatasync of the collector, and of the floor, take that much longer (`src/fsync.c`, preloaded; needs `cc` and `taskset`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use sonde_benches::median;
use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::{LogEncoder, LogRecord, Stream};
use sonde_wire::uid::{FileHash, RecordUid};

#[derive(Parser)]
struct Args {
    /// For how long requests are sent in a run.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Alternated runs of each way.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the data directories go.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

/// Records of a request, and the bytes of their bodies.
const RECORDS: u64 = 3_400;
const BODY: usize = 300;
/// Requests that differ; the senders take turns with them.
const REQUESTS: u64 = 64;
/// Requests under way.
const SENDERS: usize = 4;
/// The collector's core, and that of senders and server.
const CORES: [&str; 2] = ["1", "0"];

/// What is measured.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    zstd: bool,
    bulk: bool,
    sync_ms: u64,
}

const WAYS: [Way; 6] = [
    Way { name: "queue, as it is", zstd: false, bulk: false, sync_ms: 0 },
    Way { name: "queue, zstd", zstd: true, bulk: false, sync_ms: 0 },
    Way { name: "queue, zstd, fsync + 5 ms", zstd: true, bulk: false, sync_ms: 5 },
    Way { name: "bulk, as it is", zstd: false, bulk: true, sync_ms: 0 },
    Way { name: "bulk, zstd", zstd: true, bulk: true, sync_ms: 0 },
    Way { name: "bulk, zstd, fsync + 5 ms", zstd: true, bulk: true, sync_ms: 5 },
];

/// What a run showed.
struct Figures {
    records_per_second: f64,
    /// Bytes of the requests before compression, MB/s.
    megabytes_per_second: f64,
    /// CPU of the collector, microseconds a record.
    cpu_micros: f64,
    /// Wall time of the floor to that of the collector.
    to_floor: f64,
    records_per_sync: f64,
    peak_mib: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tools = tempfile::tempdir()?;
    let shim = compile(tools.path())?;
    ensure!(pin(std::process::id())?, "taskset cannot bind this process to core {}", CORES[1]);
    let plain: Vec<Vec<u8>> = (0..REQUESTS).map(request).collect();
    let zstd = plain.iter().map(|body| zstd::bulk::compress(body, 1)).collect::<Result<Vec<_>, _>>()?;
    let (plain, zstd) = (Arc::new(plain), Arc::new(zstd));
    let mut figures: Vec<Vec<Figures>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..args.runs {
        for (way, figures) in WAYS.iter().zip(&mut figures) {
            let bodies = if way.zstd { &zstd } else { &plain };
            let uncompressed = plain[0].len();
            figures.push(run(&args, *way, bodies, uncompressed, &shim).with_context(|| way.name)?);
        }
    }
    println!(
        "| way | records/s | MB/s | floor's time to ours | CPU us a record | records an fsync | peak RSS MiB |\n|---|---:|---:|---:|---:|---:|---:|"
    );
    for (way, figures) in WAYS.iter().zip(&figures) {
        let middle = |of: fn(&Figures) -> f64| median(figures.iter().map(of).collect());
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} |",
            way.name,
            middle(|run| run.records_per_second),
            middle(|run| run.megabytes_per_second),
            middle(|run| run.to_floor),
            middle(|run| run.cpu_micros),
            middle(|run| run.records_per_sync),
            middle(|run| run.peak_mib),
        );
    }
    Ok(())
}

/// Binds a process to the senders' core.
fn pin(pid: u32) -> anyhow::Result<bool> {
    let taskset = Command::new("taskset").args(["-c", "-p", CORES[1], &pid.to_string()]).output();
    Ok(taskset.context("taskset")?.status.success())
}

fn compile(dir: &Path) -> anyhow::Result<PathBuf> {
    let (source, library) = (dir.join("fsync.c"), dir.join("fsync.so"));
    std::fs::write(&source, include_str!("../fsync.c"))?;
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    ensure!(cc.status().context("cc")?.success(), "cc failed");
    Ok(library)
}

/// A request whose records no other has.
fn request(number: u64) -> Vec<u8> {
    let mut encoder = LogEncoder::with_capacity(2 << 20);
    encoder.open(
        &AttrSet::builder()
            .str("k8s.namespace.name", "shop")
            .str("k8s.pod.name", "web-0")
            .str("k8s.pod.uid", "0b1c2d3e-0000-4000-8000-000000000001")
            .str("k8s.container.name", "app")
            .build(),
    );
    let now = nanos();
    for record in 0..RECORDS {
        let seed = number * RECORDS + record;
        let mut body = format!("GET /api/v1/items/{seed} 200 {}us user={:016x} ", seed % 9973, mix(seed));
        while body.len() < BODY {
            body += &format!("{:08x} ", mix(seed + body.len() as u64) >> 32);
        }
        body.truncate(BODY);
        encoder.push(&LogRecord {
            time_unix_nano: now + seed,
            observed_time_unix_nano: now,
            severity_number: 9,
            severity_text: "INFO",
            body: &body,
            trace_id: None,
            span_id: None,
            stream: Stream::Stdout,
            uid: RecordUid { file: FileHash([7; 10]), offset: seed * 400 },
            truncated: false,
            malformed: false,
            attributes: &[],
        });
    }
    encoder.take()
}

/// Numbers without a pattern (the finalizer of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// One run of one way: the collector, then the floor of what it did.
fn run(
    args: &Args,
    way: Way,
    bodies: &Arc<Vec<Vec<u8>>>,
    uncompressed: usize,
    shim: &Path,
) -> anyhow::Result<Figures> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let taken = Arc::new(AtomicU64::new(0));
    let server = if way.bulk { bulk(&taken)? } else { 1 };
    let collector = Collector::start(dir.path(), server, way.sync_ms, shim)?;
    let (syncs, cpu) = (collector.syncs()?, collector.cpu()?);
    let start = Instant::now();
    let sent = send(collector.otlp, way.zstd, bodies, Duration::from_secs(args.seconds))?;
    if way.bulk {
        // The queue is emptied too.
        while taken.load(Ordering::Relaxed) < sent * RECORDS {
            ensure!(start.elapsed() < Duration::from_secs(args.seconds * 20), "the server was not given all");
            thread::sleep(Duration::from_millis(5));
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let (syncs, cpu, peak) = (collector.syncs()? - syncs, collector.cpu()? - cpu, collector.peak()?);
    drop(collector);
    ensure!(syncs > 0, "no fdatasync was counted: is the collector linked to another libc?");
    let payload = bodies[0].len() as u64 * sent;
    let floor = floor(dir.path(), payload, syncs, way.sync_ms)?;
    let records = (sent * RECORDS) as f64;
    Ok(Figures {
        records_per_second: records / wall,
        megabytes_per_second: (uncompressed as u64 * sent) as f64 / 1e6 / wall,
        cpu_micros: cpu.as_secs_f64() * 1e6 / records,
        to_floor: floor.as_secs_f64() / wall,
        records_per_sync: records / syncs as f64,
        peak_mib: peak,
    })
}

/// So many bytes into one file, in equal parts with an fdatasync after each.
fn floor(dir: &Path, bytes: u64, syncs: u64, sync_ms: u64) -> anyhow::Result<Duration> {
    let file = std::fs::File::create(dir.join("floor"))?;
    let part = vec![0x5a; usize::try_from(bytes / syncs)?];
    let start = Instant::now();
    for number in 0..syncs {
        file.write_all_at(&part, number * part.len() as u64)?;
        thread::sleep(Duration::from_millis(sync_ms));
        file.sync_data()?;
    }
    Ok(start.elapsed())
}

/// The collector on its core; killed when it is dropped.
struct Collector {
    child: Child,
    otlp: u16,
    syncs: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collector {
    fn start(dir: &Path, server: u16, sync_ms: u64, shim: &Path) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("sonde-collector");
        ensure!(binary.exists(), "{} is not built: cargo build --release --workspace", binary.display());
        let [otlp, grpc, http] = [free_port()?, free_port()?, free_port()?];
        let config = dir.join("collector.yaml");
        std::fs::write(
            &config,
            format!(
                "data_dir: {}\nlisten: {{otlp_grpc: 127.0.0.1:{grpc}, otlp_http: 127.0.0.1:{otlp}, http: 127.0.0.1:{http}}}\n\
                 queue: {{min_free: 0B}}\nsinks:\n  - {{name: es, type: elasticsearch, templates: false, endpoints: [\"http://127.0.0.1:{server}\"]}}\n",
                dir.join("data").display()
            ),
        )?;
        let syncs = dir.join("syncs");
        std::fs::write(&syncs, [0; 8])?;
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new("taskset")
            .args(["-c", CORES[0]])
            .arg(binary)
            .arg("--config")
            .arg(&config)
            .env("LD_PRELOAD", shim)
            .env("BENCH_SYNCS", &syncs)
            .env("BENCH_SYNC_MS", sync_ms.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let collector = Self { child, otlp, syncs };
        let start = Instant::now();
        while get(http, "/readyz").is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("the collector is not ready: {}", std::fs::read_to_string(dir.join("log"))?);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(collector)
    }

    fn syncs(&self) -> anyhow::Result<u64> {
        let bytes = std::fs::read(&self.syncs)?;
        Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| anyhow::anyhow!("not eight bytes"))?))
    }

    /// User and system time of all threads (`proc(5)`, fields 14 and 15, in hundredths of a second).
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("stat");
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    fn peak(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("VmHWM")?;
        Ok(line.split_whitespace().nth(1).context("VmHWM")?.parse::<f64>()? / 1024.0)
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn get(port: u16, path: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// Posts bodies for so long; gives the number of acknowledged requests.
fn send(port: u16, zstd: bool, bodies: &Arc<Vec<Vec<u8>>>, time: Duration) -> anyhow::Result<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (stop, bodies) = (Arc::clone(&stop), Arc::clone(bodies));
            thread::spawn(move || -> anyhow::Result<u64> {
                let encoding = if zstd { "content-encoding: zstd\r\n" } else { "" };
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_nodelay(true)?;
                let mut input = BufReader::new(stream.try_clone()?);
                let mut sent = 0;
                for body in bodies.iter().cycle().skip(sender * bodies.len() / SENDERS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let head = format!(
                        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n{encoding}content-length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(head.as_bytes())?;
                    stream.write_all(body)?;
                    let (first, _) = message(&mut input)?.context("the collector has closed the connection")?;
                    ensure!(first.contains(" 200 "), "{first}");
                    sent += 1;
                }
                Ok(sent)
            })
        })
        .collect();
    thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for sender in senders {
        sent += sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    Ok(sent)
}

/// First line and body of a message with a content-length; `None` at the end.
fn message(input: &mut BufReader<TcpStream>) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    let mut first = String::new();
    if input.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let (mut length, mut gzip, mut line) = (0, false, String::new());
    loop {
        line.clear();
        input.read_line(&mut line)?;
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(("content-encoding", value)) => gzip = value == "gzip",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    if gzip {
        let mut plain = Vec::with_capacity(length * 8);
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
        body = plain;
    }
    Ok(Some((first, body)))
}

/// A server that takes every document, and counts them; gives its port. It serves until the process ends.
fn bulk(taken: &Arc<AtomicU64>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let taken = Arc::clone(taken);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = Arc::clone(&taken);
            thread::spawn(move || serve(stream, &taken));
        }
    });
    Ok(port)
}

fn serve(stream: TcpStream, taken: &AtomicU64) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(1 << 20, stream);
    while let Some((first, body)) = message(&mut input)? {
        let answer = if first.contains("/_bulk") {
            let (answer, items) = items(&body)?;
            taken.fetch_add(items, Ordering::Relaxed);
            answer
        } else if first.contains("/_data_stream/") {
            r#"{"data_streams":[{"indices":[{"index_name":".ds-1"}]}]}"#.to_owned()
        } else {
            r#"{"version":{"distribution":"opensearch","number":"2.19.3"}}"#.to_owned()
        };
        write!(out, "HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
    }
    Ok(())
}

/// The answer to a bulk of `create`s, and how many there are.
fn items(body: &[u8]) -> anyhow::Result<(String, u64)> {
    let mut answer = String::from(r#"{"took":1,"errors":false,"items":["#);
    let mut count = 0;
    let mut rest = body;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let action = std::str::from_utf8(&rest[..end])?;
        let id = action.split(r#""_id":""#).nth(1).and_then(|id| id.split('"').next()).context("no _id")?;
        let comma = if count == 0 { "" } else { "," };
        answer += &format!(r#"{comma}{{"create":{{"_index":".ds-1","_id":"{id}","status":201}}}}"#);
        count += 1;
        rest = &rest[end + 1..];
        let document = memchr::memchr(b'\n', rest).context("an action without its document")?;
        rest = &rest[document + 1..];
    }
    answer += "]}";
    Ok((answer, count))
}
