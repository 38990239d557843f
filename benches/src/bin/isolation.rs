//! What a bad neighbour costs a good sink: the delay from the receipt of a request to its delivery, alone and beside a
//! sink that is down, slow or answers nonsense.
//!
//! `cargo run --release -p sonde-benches --bin isolation -- [--seconds 10] [--runs 3] [--rate 200]` prints a table:
//! p50 and p99 of the delay, and their ratio to the good sink alone; medians of runs that alternate. The good sink
//! settles what it is given; the neighbours are the real sink of type elasticsearch on the same queue, before servers
//! on 127.0.0.1. `--gathering` adds what the product waits for a larger batch (up to 200 ms); without it each request
//! is a batch of its own, so that a delay of a millisecond would show.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use sonde_benches::median;
use sonde_collector::config;
use sonde_collector::deliver::dead_letter::DeadLetters;
use sonde_collector::deliver::lane::{self, LaneOptions, Timing};
use sonde_collector::deliver::{Batch, Sink, Trouble};
use sonde_collector::queue::{Codec, Frame, MinFree, Queue, QueueOptions, RealFilesystem, Signal};
use sonde_collector::sinks::elasticsearch::Elasticsearch;
use sonde_daemon::health::Health;
use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::{LogEncoder, LogRecord, Stream};
use sonde_wire::uid::{FileHash, RecordUid};
use tokio::sync::watch;

#[derive(Parser)]
struct Args {
    /// Length of a run.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Alternated runs of each neighbour.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Requests of 100 records of 200 bytes a second.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Gather batches as the product does.
    #[arg(long)]
    gathering: bool,
}

/// Records in a request.
const RECORDS: usize = 100;

/// A neighbour by name, and what its server does.
const NEIGHBOURS: [(&str, Option<Server>); 5] = [
    ("none", None),
    ("down (connection refused)", Some(Server::Down)),
    ("slow (5 s for an answer, then 503)", Some(Server::Slow)),
    ("hangs (never answers)", Some(Server::Hangs)),
    ("answers nonsense (200 and a page)", Some(Server::Nonsense)),
];

#[derive(Clone, Copy)]
enum Server {
    Down,
    Slow,
    Hangs,
    Nonsense,
}

/// Settles all, and notes how long each request took to come.
#[derive(Clone, Default)]
struct Good(Arc<Mutex<Vec<f64>>>);

impl Sink for Good {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let now = unix_nanos();
        let mut delays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for unit in batch.units().iter() {
            delays.push(now.saturating_sub(unit.received_unix_nano) as f64 / 1e6);
        }
        drop(delays);
        (0..batch.states().len()).for_each(|record| batch.delivered(record));
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut delays = vec![(Vec::new(), Vec::new()); NEIGHBOURS.len()];
    for _ in 0..args.runs {
        for ((_, server), (p50s, p99s)) in NEIGHBOURS.iter().zip(&mut delays) {
            let mut sample = runtime.block_on(run(&args, *server))?;
            sample.sort_by(f64::total_cmp);
            p50s.push(at(&sample, 50));
            p99s.push(at(&sample, 99));
        }
    }
    println!("| neighbour | p50 ms | p99 ms | p50 to alone | p99 to alone |\n|---|---:|---:|---:|---:|");
    let (alone50, alone99) = (median(delays[0].0.clone()), median(delays[0].1.clone()));
    for ((name, _), (p50s, p99s)) in NEIGHBOURS.iter().zip(delays) {
        let (p50, p99) = (median(p50s), median(p99s));
        println!("| {name} | {p50:.2} | {p99:.2} | {:.2} | {:.2} |", p50 / alone50, p99 / alone99);
    }
    Ok(())
}

/// The value that so many hundredths are below.
fn at(sorted: &[f64], hundredths: usize) -> f64 {
    sorted.get(sorted.len() * hundredths / 100).copied().unwrap_or(0.0)
}

/// One run; gives the delays of all requests, milliseconds.
async fn run(args: &Args, server: Option<Server>) -> anyhow::Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let options = QueueOptions { min_free: MinFree::Bytes(0), ..QueueOptions::default() };
    let queue = Queue::open(&dir.path().join("queue"), options, Arc::new(RealFilesystem))?;
    let letters = DeadLetters::open(&dir.path().join("dead-letter"), 1 << 30)?;
    let (stop, stops) = watch::channel(false);
    let heartbeat = || Health::new().heartbeat("bench", Duration::from_secs(60));
    let mut neighbours = Vec::new();
    if let Some(server) = server {
        let sink = Elasticsearch::build(&elasticsearch(serve(server)?), dir.path())?;
        let (options, shelf) = (lane_options("bad", args), letters.shelf("bad"));
        neighbours.push(lane::start(&queue, sink, options, shelf, stops.clone(), heartbeat()));
    }
    let good = Good::default();
    let shelf = letters.shelf("good");
    let lane = lane::start(&queue, good.clone(), lane_options("good", args), shelf, stops, heartbeat());
    let payload = payload();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(args.rate)?);
    for _ in 0..args.seconds * args.rate {
        tick.tick().await;
        let frame = Frame {
            signal: Signal::Logs,
            codec: Codec::Identity,
            resend: false,
            received_unix_nano: unix_nanos(),
            records: u32::try_from(RECORDS)?,
            uncompressed_len: u32::try_from(payload.len())?,
            payload: payload.clone(),
        };
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(frame).await });
    }
    let wanted = usize::try_from(args.seconds * args.rate)?;
    let count = || good.0.lock().unwrap_or_else(PoisonError::into_inner).len();
    while count() < wanted {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send_replace(true);
    for lane in neighbours.into_iter().chain([lane]) {
        lane.join().await;
    }
    queue.close().await;
    Ok(std::mem::take(&mut *good.0.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn lane_options(name: &str, args: &Args) -> LaneOptions {
    LaneOptions {
        name: name.to_owned(),
        signal: Signal::Logs,
        skip_beyond: None,
        request_bytes: 64 << 20,
        cluster: String::new(),
        batch_bytes: if args.gathering { 4 << 20 } else { 1 },
        window_bytes: 32 << 20,
        in_flight: 8,
        timing: Timing::default(),
    }
}

fn elasticsearch(port: u16) -> config::Sink {
    config::Sink {
        name: "bad".to_owned(),
        kind: config::SinkKind::Elasticsearch,
        endpoints: Some(vec![format!("http://127.0.0.1:{port}")]),
        templates: Some(false),
        ..config::Sink::default()
    }
}

fn payload() -> Bytes {
    let mut encoder = LogEncoder::with_capacity(RECORDS * 400);
    encoder.open(&AttrSet::builder().str("k8s.pod.name", "web-0").str("k8s.namespace.name", "shop").build());
    let body = "x".repeat(200);
    for number in 0..RECORDS as u64 {
        encoder.push(&LogRecord {
            time_unix_nano: unix_nanos(),
            observed_time_unix_nano: unix_nanos(),
            severity_number: 0,
            severity_text: "",
            body: &body,
            trace_id: None,
            span_id: None,
            stream: Stream::Stdout,
            uid: RecordUid { file: FileHash([7; 10]), offset: number },
            truncated: false,
            malformed: false,
            attributes: &[],
        });
    }
    encoder.take().into()
}

/// A server that greets like one and takes no bulk; gives the port.
fn serve(server: Server) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    if !matches!(server, Server::Down) {
        // Until the process ends; a connection that breaks is the client's business.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(&stream, server));
            }
        });
    }
    Ok(port)
}

fn answer(stream: &TcpStream, server: Server) -> anyhow::Result<()> {
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("no path")?.to_owned();
        let mut length = 0;
        loop {
            line.clear();
            input.read_line(&mut line)?;
            match line.trim().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(_) => {}
                None => break,
            }
        }
        std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink())?;
        let (status, body) = match (path.contains("_bulk"), server) {
            (false, _) => (200, r#"{"version":{"distribution":"opensearch","number":"2.19.3"}}"#),
            (true, Server::Nonsense) => (200, "<html>welcome</html>"),
            (true, Server::Hangs) => {
                thread::sleep(Duration::from_secs(600));
                return Ok(());
            }
            (true, _) => {
                thread::sleep(Duration::from_secs(5));
                (503, "{}")
            }
        };
        let mut out = stream;
        write!(out, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
