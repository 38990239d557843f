//! What files cost that nobody writes to: an agent with 5,000 of them, beside an agent with one, and beside a control: a process that
//! asks each of the 5,000 for its size once a second, which is the least that a reader by polling does.
//!
//! `cargo run --release -p sonde-benches --bin idle -- [--files 5000] [--seconds 60] [--dir /dev/shm]` prints a table: CPU of each
//! as a share of one core and of the control's, in the same seconds, and resident memory at the begin and the end of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use sonde_benches::agent::{self, Running, Usage, Way, usage};
use sonde_benches::corpus::{self, Corpus, Shape};
use sonde_benches::sink;

#[derive(Parser)]
struct Args {
    /// Files that nobody writes to.
    #[arg(long, default_value_t = 5000)]
    files: usize,
    /// How long all are watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the files go; memory-backed, so that the disk does not count.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// The agent; by default the one beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Be the control of this directory.
    #[arg(long, hide = true)]
    control: Option<PathBuf>,
}

const WAY: Way = Way { protocol: "grpc", compression: "auto", redact: &[] };
/// Bytes of a file: some lines.
const FILE_BYTES: u64 = 2000;
/// After the last line is acknowledged, until what was needed to get there is put away.
const SETTLE: Duration = Duration::from_secs(15);

/// The control, ended when it is dropped.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(dir) = &args.control {
        return control(dir);
    }
    let binary = args.agent.clone().map_or_else(agent::binary, Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (address, _received) = runtime.block_on(sink::serve())?;
    let (many, one) = (tempfile::tempdir_in(&args.dir)?, tempfile::tempdir_in(&args.dir)?);
    let many = corpus::write(many.path(), Shape::Plain, args.files, FILE_BYTES * args.files as u64)
        .map(|of| (of, many))?;
    let one = corpus::write(one.path(), Shape::Plain, 1, FILE_BYTES).map(|of| (of, one))?;
    let start = |corpus: &Corpus| -> anyhow::Result<Running> {
        let agent = Running::start(&binary, &corpus.pod_logs, WAY, address.port(), &args.dir)?;
        let begin = Instant::now();
        while agent.acked().unwrap_or_default() < corpus.bytes {
            anyhow::ensure!(begin.elapsed() < Duration::from_secs(120), "the files are not read");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(agent)
    };
    let (with_many, with_one) = (start(&many.0)?, start(&one.0)?);
    let control = Command::new(std::env::current_exe()?).arg("--control").arg(&many.0.pod_logs).spawn()?;
    let control = Control(control);
    std::thread::sleep(SETTLE);
    let look = || -> anyhow::Result<[Usage; 3]> {
        Ok([with_many.usage()?, with_one.usage()?, usage(control.0.id()).context("the control has ended")?])
    };
    let (before, began) = (look()?, Instant::now());
    std::thread::sleep(Duration::from_secs(args.seconds));
    let (after, took) = (look()?, began.elapsed());

    println!(
        "| process | CPU, % of a core | share of the control's | RSS at the begin, MiB | RSS at the end, MiB |"
    );
    println!("|---|---:|---:|---:|---:|");
    let cpu: Vec<f64> =
        before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64()).collect();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (at, name) in [format!("agent, {} idle files", args.files), "agent, one".into(), "control".into()]
        .iter()
        .enumerate()
    {
        println!(
            "| {name} | {:.3} | {:.3} | {:.1} | {:.1} |",
            cpu[at] / took.as_secs_f64() * 100.0,
            cpu[at] / cpu[2],
            mib(before[at].resident),
            mib(after[at].resident),
        );
    }
    Ok(())
}

/// Asks each log for its size, once a second, until it is killed.
fn control(dir: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for pod in std::fs::read_dir(dir)? {
        files.push(pod?.path().join("app/0.log"));
    }
    loop {
        let begin = Instant::now();
        for file in &files {
            std::fs::metadata(file)?;
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    }
}
