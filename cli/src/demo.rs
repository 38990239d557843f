//! `sonde demo`: the main job on one machine with nothing installed.

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sonde_daemon::units::Interval;
use sonde_sim::{Rate, SimNode, SimOptions, Truth};

use crate::child::Daemon;
use crate::compare::{Lines, Report};
use crate::fetch;
use crate::sabotage::{self, Sabotage};
use crate::setup::{self, Ports, Source};
use crate::status::{Counts, Memory, grouped, line, stored};
use crate::verifier::{self, Verdict};

/// How long the demo waits for the last line to be stored, while it gets on.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// A daemon's `shutdown_grace` and some.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Options of `sonde demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Demo {
    /// End by itself after this long; without it, Ctrl-C ends it.
    #[arg(long, value_name = "TIME")]
    duration: Option<Interval>,
    /// Lines a second that the simulated pods write together.
    #[arg(long, value_name = "LINES", default_value_t = 5000)]
    rate: u64,
    /// Break the promise once on the way to the collector: the demo must notice and fail.
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "host")]
    sabotage: Option<Sabotage>,
    /// Read this machine's own pods instead of simulated ones; nothing is compared.
    #[arg(long)]
    host: bool,
    /// Keep the directory with logs, state, store and export.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. The exit code is 0 only if every line of the files is in the store exactly once.
pub(crate) fn run(demo: &Demo) -> ExitCode {
    match try_run(demo) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sonde demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(demo: &Demo) -> anyhow::Result<bool> {
    let mut dir = tempfile::Builder::new().prefix("sonde-demo-").tempdir()?;
    dir.disable_cleanup(demo.keep);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let ports = Ports::choose()?;
        if demo.host {
            on_host(demo, dir.path(), ports).await
        } else {
            simulated(demo, dir.path(), ports).await
        }
    });
    if demo.keep {
        println!("kept: {}", dir.path().display());
    }
    result
}

async fn simulated(demo: &Demo, dir: &Path, ports: Ports) -> anyhow::Result<bool> {
    setup::write_collector(dir, ports)?;
    let collector = Daemon::start("collector", dir)?;
    let proxy = match demo.sabotage {
        Some(how) => Some(sabotage::start(how, SocketAddr::from(([127, 0, 0, 1], ports.http))).await?.port()),
        None => None,
    };
    let mut options = SimOptions::new(dir.join("node"));
    options.rate = Rate::PerSecond(demo.rate);
    let node = SimNode::start(options)?;
    let kubelet = format!("http://{}", node.kubelet_address());
    setup::write_agent(dir, ports, &Source::Simulated { root: node.root(), kubelet }, proxy)?;
    let agent = Daemon::start("agent", dir)?;
    let mut pair = Pair { ports, agent, collector };
    println!(
        "Sonde demo: {} simulated pods write {} lines a second; a real agent ships them to a real collector.",
        node.stats().pods,
        grouped(demo.rate)
    );
    if let Some(how) = demo.sabotage {
        println!("Sabotage ({how:?}): one request will be tampered with. This run must fail.");
    }
    pair.wait_ready().await?;
    banner(ports, demo.duration);
    pair.watch(demo.duration, || Some(node.stats().lines)).await?;
    finish(demo, dir, node, pair).await
}

/// Drain, stop, export, compare.
async fn finish(demo: &Demo, dir: &Path, mut node: SimNode, mut pair: Pair) -> anyhow::Result<bool> {
    let written = node.finish_writing()?;
    println!("\nstopping: waiting until the last of {} lines is stored", grouped(written.lines));
    pair.drain(written.lines).await?;
    let ports = pair.ports;
    let agent_status = pair.agent.stop(STOP_LIMIT)?;
    settle(ports).await;
    let export = dir.join("export.ndjson");
    fetch::download(ports.page, "/api/v1/logs?limit=0", &export).await.context("exporting the store")?;
    let collector_status = pair.collector.stop(STOP_LIMIT)?;
    let truth = node.stop()?;
    let report = compare(&truth, &export)?;
    print_report(&truth, &report);
    let mut good = report.agrees() && report.in_files == truth.stats.lines;
    if report.in_files != truth.stats.lines {
        println!("the files hold {} lines, {} were written", report.in_files, truth.stats.lines);
    }
    for (name, status) in [("agent", agent_status), ("collector", collector_status)] {
        if !status.success() {
            println!("the {name} did not end cleanly: {status}");
            good = false;
        }
    }
    match verifier::run(dir, &truth.archive, &export)? {
        Verdict::Agrees(text) => println!("verify.py (shares no code with Sonde) agrees:\n{text}"),
        Verdict::Differs(text) => {
            println!("verify.py (shares no code with Sonde) does not agree:\n{text}");
            good = false;
        }
        Verdict::NotRun => println!("verify.py was not run: there is no python3 here"),
    }
    let is_noticed = match demo.sabotage {
        Some(Sabotage::Drop) => report.missing > 0,
        Some(Sabotage::Double) => report.twice > 0,
        None => false,
    };
    match (good, demo.sabotage) {
        (_, Some(_)) if is_noticed => println!("FAILED, as it must: the sabotage was noticed"),
        (_, Some(_)) => println!("FAILED to notice the sabotage"),
        (true, None) => println!("PASSED: every line is in the store exactly once"),
        (false, None) => println!("FAILED"),
    }
    Ok(good && demo.sabotage.is_none())
}

async fn on_host(demo: &Demo, dir: &Path, ports: Ports) -> anyhow::Result<bool> {
    setup::write_collector(dir, ports)?;
    setup::write_agent(dir, ports, &Source::Host, None)?;
    let mut pair =
        Pair { ports, collector: Daemon::start("collector", dir)?, agent: Daemon::start("agent", dir)? };
    println!("Sonde demo: a real agent on this machine's own pods, cgroups and /proc, and a real collector.");
    if !Path::new("/var/log/pods").is_dir() {
        println!("There is no /var/log/pods here, so no container logs will be found.");
    }
    pair.wait_ready().await?;
    banner(ports, demo.duration);
    pair.watch(demo.duration, || None).await?;
    let count = stored(ports).await.unwrap_or(0);
    let agent = pair.agent.stop(STOP_LIMIT)?;
    let collector = pair.collector.stop(STOP_LIMIT)?;
    println!(
        "\n{} records are in the store; the agent ended with {agent}, the collector with {collector}",
        grouped(count)
    );
    Ok(agent.success() && collector.success())
}

fn banner(ports: Ports, duration: Option<Interval>) {
    println!(
        "
  page               http://127.0.0.1:{page}/ (the logs: /logs)
  agent's metrics    http://127.0.0.1:{agent}/metrics
  log files' state   http://127.0.0.1:{agent}/debug/files
  ask for logs       curl 'http://127.0.0.1:{page}/api/v1/logs?namespace=shop&severity=error&limit=5'
  follow them        curl -N 'http://127.0.0.1:{page}/api/v1/logs/tail?namespace=payments'
",
        page = ports.page,
        agent = ports.agent
    );
    if duration.is_none() {
        println!("Ctrl-C ends it with a summary.\n");
    }
}

/// The two daemons.
struct Pair {
    ports: Ports,
    agent: Daemon,
    collector: Daemon,
}

impl Pair {
    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        for port in [self.ports.page, self.ports.agent] {
            while fetch::text(port, "/readyz").await.is_err() {
                self.collector.check()?;
                self.agent.check()?;
                if start.elapsed() > Duration::from_secs(60) {
                    bail!(
                        "not ready after a minute:\n{}\n{}",
                        self.collector.log_tail(),
                        self.agent.log_tail()
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// A status line a second until the time is over or somebody presses Ctrl-C.
    async fn watch(
        &mut self,
        duration: Option<Interval>,
        written: impl Fn() -> Option<u64>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let limit = duration.map(|duration| duration.0);
        let mut memory = Memory::of(self.agent.id(), self.collector.id())?;
        let mut counts = Counts::default();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        ticks.tick().await;
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                pressed = &mut interrupt => return Ok(pressed?),
                _ = ticks.tick() => {}
            }
            counts.refresh(self.ports).await;
            println!("{}", line(start.elapsed(), written(), &counts, memory.refresh()));
            self.agent.check()?;
            self.collector.check()?;
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(());
            }
        }
    }

    /// Waits until as much is stored as was written, or nothing moves any more.
    async fn drain(&mut self, written: u64) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut counts = Counts::default();
        let mut moved = Instant::now();
        while start.elapsed() < DRAIN_LIMIT {
            let before = (counts.acknowledged, counts.stored);
            counts.refresh(self.ports).await;
            if (counts.acknowledged, counts.stored) != before {
                moved = Instant::now();
            }
            let settled = counts.pending_bytes == 0 && counts.stored >= written;
            // Less than written is what a sabotaged run ends with; the comparison will say it.
            let stuck = moved.elapsed() > Duration::from_secs(if counts.pending_bytes == 0 { 6 } else { 30 });
            if settled || stuck {
                return Ok(());
            }
            self.agent.check()?;
            self.collector.check()?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("not everything is stored after {DRAIN_LIMIT:?}");
        Ok(())
    }
}

/// What the agent sent while it stopped is in the store when the count stands still.
async fn settle(ports: Ports) {
    let mut last = None;
    for _ in 0..20 {
        let now = stored(ports).await;
        if now.is_some() && now == last {
            return;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn compare(truth: &Truth, export: &PathBuf) -> anyhow::Result<Report> {
    let lines = Lines::read(&truth.archive)?;
    lines.compare(BufReader::with_capacity(1 << 18, File::open(export)?))
}

fn print_report(truth: &Truth, report: &Report) {
    let stats = truth.stats;
    println!(
        "\n{} lines ({} CRI entries, {} MiB) by {} pods, {} rotations\n",
        grouped(stats.lines),
        grouped(stats.entries),
        stats.bytes >> 20,
        stats.pods_started,
        grouped(stats.rotations)
    );
    println!("files against store, line by line");
    for (what, count) in [
        ("lines in the files", report.in_files),
        ("records in the store", report.in_store),
        ("missing in the store", report.missing),
        ("stored more than once", report.twice),
        ("not in the files", report.unknown),
    ] {
        println!("  {what:<24}{:>12}", grouped(count));
    }
    for example in &report.examples {
        println!("  {example}");
    }
    println!();
}
