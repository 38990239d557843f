//! How long the lines of quiet containers take while others write a hundred times as much, or have a backlog.
//!
//! `cargo run --release -p sonde-benches --bin fairness -- [--seconds 8] [--rounds 3] [--dir /dev/shm]` prints a table: the time
//! from a line's writing until the receiver has it, of 20 containers with 10 lines a second each; alone, and beside loud ones.
//! Each row is a fresh agent with its defaults, uncompressed, to a receiver that takes everything at once; rounds alternate the
//! rows. The backlog of 500 files is one file under 500 names, each a container's; that of one container is 10 GB long, so `--dir`
//! needs room for it. A backlog that is read before the row ends, and an agent that takes more than 40 MiB, fail the run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use sonde_benches::agent::{self, Way};
use sonde_benches::corpus::{self, Shape};
use sonde_benches::{median, sink};
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::{AnyValueView, LogsRequest};

#[derive(Parser)]
struct Args {
    /// Seconds of each row, after two to begin with.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Alternated runs of each row.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Lines of each file of the backlog of 500.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u64,
    /// Bytes of the backlog of one container.
    #[arg(long, default_value_t = 10_000_000_000)]
    one: u64,
    /// Where the files go; memory-backed, so that the disk does not count.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
}

const QUIET: usize = 20;
/// Most memory of the agent, in MiB: what the contract promises.
const MOST: f64 = 40.0;
const PERIOD: Duration = Duration::from_millis(100);

/// What stands beside the quiet ones.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loud {
    Nobody,
    /// A hundred times the lines of a quiet one.
    Writer,
    /// One container with a backlog of these lines.
    One,
    /// 500 of them.
    Many,
}

const ROWS: [(&str, Loud); 4] = [
    ("alone", Loud::Nobody),
    ("beside one that writes 100 times as much", Loud::Writer),
    ("beside one container with 10 GB of backlog", Loud::One),
    ("beside 500 files of backlog", Loud::Many),
];

/// One row's run.
#[derive(Clone, Copy, Default)]
struct Run {
    p50: f64,
    p99: f64,
    samples: usize,
    megabytes_per_second: f64,
    peak: f64,
}

type Delays = Arc<Mutex<Vec<f64>>>;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let binary = agent::binary()?;
    let scratch = tempfile::tempdir_in(&args.dir)?;
    // Lines of about 200 bytes.
    let backlog = corpus::write(&scratch.path().join("backlog"), Shape::Plain, 1, args.lines * 200)?;
    let one = scratch.path().join("one");
    repeat(&backlog.files[0], args.one, &one)?;
    let delays = Delays::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let seen = delays.clone();
    let (address, _) = runtime.block_on(sink::serve_and_watch(Arc::new(move |body| note(body, &seen))))?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); ROWS.len()];
    for _ in 0..args.rounds {
        for ((_, loud), runs) in ROWS.iter().zip(&mut runs) {
            let pods = tempfile::tempdir_in(scratch.path())?;
            let backlog = if *loud == Loud::One { &one } else { &backlog.files[0] };
            runs.push(run(&binary, pods.path(), *loud, backlog, &args, address.port(), &delays)?);
        }
    }
    println!(
        "| quiet containers | delay p50 s | p99 s | beside alone: p50 | p99 | agent MB/s | peak RSS MiB | lines timed |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let of = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    for ((name, _), row) in ROWS.iter().zip(&runs) {
        let beside = |figure: fn(&Run) -> f64| {
            median(row.iter().zip(&runs[0]).map(|(with, alone)| figure(with) / figure(alone)).collect())
        };
        println!(
            "| {name} | {:.2} | {:.2} | {:.1} x | {:.1} x | {:.0} | {:.1} | {} |",
            of(row, |run| run.p50),
            of(row, |run| run.p99),
            beside(|run| run.p50),
            beside(|run| run.p99),
            of(row, |run| run.megabytes_per_second),
            of(row, |run| run.peak),
            row.iter().map(|run| run.samples).sum::<usize>()
        );
    }
    Ok(())
}

fn run(
    binary: &Path,
    pods: &Path,
    loud: Loud,
    backlog: &Path,
    args: &Args,
    port: u16,
    delays: &Delays,
) -> anyhow::Result<Run> {
    let names = match loud {
        Loud::One => 1,
        Loud::Many => 500,
        Loud::Nobody | Loud::Writer => 0,
    };
    for name in 0..names {
        std::fs::hard_link(backlog, container(pods, &format!("backlog-{name}"))?)?;
    }
    let mut quiet = Vec::new();
    for name in 0..QUIET {
        quiet.push(open(&container(pods, &format!("quiet-{name}"))?)?);
    }
    let mut writer = if loud == Loud::Writer { Some(open(&container(pods, "loud")?)?) } else { None };
    let stop = Arc::new(AtomicBool::new(false));
    let done = stop.clone();
    let writers = std::thread::spawn(move || -> std::io::Result<()> {
        let mut due = Instant::now();
        while !done.load(Ordering::Relaxed) {
            if let Some(file) = &mut writer {
                file.write_all(entry("loud").repeat(100).as_bytes())?;
            }
            for file in &mut quiet {
                file.write_all(entry("quiet").as_bytes())?;
            }
            due += PERIOD;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    let way = Way { protocol: "http", compression: "none", redact: &[] };
    let mut agent = agent::Running::start(binary, pods, way, port, &args.dir)?;
    std::thread::sleep(Duration::from_secs(2));
    let (begin, since) = (agent.acked().unwrap_or(0), Instant::now());
    lock(delays).clear();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let mut sorted = std::mem::take(&mut *lock(delays));
    let acked = agent.acked()?.saturating_sub(begin);
    let seconds = since.elapsed().as_secs_f64();
    let all = std::fs::metadata(backlog)?.len() * names;
    anyhow::ensure!(
        names == 0 || begin + acked < all,
        "the backlog was read before the row ended: it shows nothing"
    );
    let cost = agent.end()?;
    stop.store(true, Ordering::Relaxed);
    writers.join().map_err(|_| anyhow::anyhow!("the writers ended early"))??;
    let peak = cost.peak as f64 / f64::from(1 << 20);
    anyhow::ensure!(peak < MOST, "{peak:.1} MiB at most, and {MOST} are promised");
    sorted.sort_by(f64::total_cmp);
    let at = |share: usize| sorted.get(sorted.len() * share / 100).copied().unwrap_or(f64::INFINITY);
    Ok(Run {
        p50: at(50),
        p99: at(99),
        samples: sorted.len(),
        megabytes_per_second: acked as f64 / 1e6 / seconds,
        peak,
    })
}

/// Writes a file again and again until there are so many bytes.
fn repeat(file: &Path, bytes: u64, to: &Path) -> std::io::Result<()> {
    let text = std::fs::read(file)?;
    let mut out = File::create(to)?;
    let mut written = 0;
    while written < bytes {
        out.write_all(&text)?;
        written += text.len() as u64;
    }
    Ok(())
}

/// The log file of a new container.
fn container(pods: &Path, name: &str) -> std::io::Result<PathBuf> {
    let dir = pods.join(format!("bench_{name}_00000000-0000-4000-8000-{name:0>12}")).join("app");
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join("0.log"))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A line written now. The stamp has whole seconds; the body has the rest.
fn entry(who: &str) -> String {
    let now = nanos();
    let (hour, minute, second) =
        (now / 3_600_000_000_000 % 24, now / 60_000_000_000 % 60, now / 1_000_000_000 % 60);
    format!("2026-11-20T{hour:02}:{minute:02}:{second:02}Z stdout F {who} {now} {}\n", "x".repeat(150))
}

fn nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Times the quiet ones' lines of a request.
fn note(body: &[u8], delays: &Delays) {
    let now = nanos();
    let Ok((request, _)) = LogsRequest::check(body, &ViewLimits::default()) else { return };
    let mut found = Vec::new();
    for record in request.resources().flat_map(|resource| resource.scopes()).flat_map(|scope| scope.records())
    {
        let AnyValueView::Str(text) = record.body else { continue };
        let Some(rest) = text.strip_prefix("quiet ") else { continue };
        if let Some(then) = rest.split(' ').next().and_then(|text| text.parse::<u128>().ok()) {
            found.push(
                Duration::from_nanos(u64::try_from(now.saturating_sub(then)).unwrap_or(u64::MAX))
                    .as_secs_f64(),
            );
        }
    }
    lock(delays).extend(found);
}

fn lock(delays: &Delays) -> std::sync::MutexGuard<'_, Vec<f64>> {
    delays.lock().unwrap_or_else(PoisonError::into_inner)
}
