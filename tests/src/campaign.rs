//! A seeded torture run: a simulated node of 63 writers that rotates and compresses without a pause, the real binaries, and
//! everything that can happen to them at drawn instants; at the end the verifier compares the files with the store.
//!
//! What happens, when, and for how long is a function of the seed ([`mod@schedule`]), and so are the writers' lines. What the
//! processes had done by each instant is not: that is the scheduler's and the disk's; on a machine that is busy an event may
//! come late. The log of a run (`events.log`) has both instants, the planned and the real one.
//!
//! Only what the promise covers is taken away for good, as a kubelet would after its grace: the directory of an ended pod, and
//! a compressed file behind five newer ones, once the agent has shipped them. Copies are kept for the verifier.

mod housekeeping;
mod random;
mod run;
pub mod schedule;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sonde_sim::{PodSpec, Rate, SimNode, SimOptions, default_pods};

use crate::link::{Fault, Link};
use crate::stack::{Settings, Stack};
use crate::{verify, wait_until};
use run::Run;
use schedule::{Plan, schedule};

/// Nodes' worth of pods: 21 containers each.
const NODES: u64 = 3;
/// How long the store may take to have everything once all is well again.
const DRAIN: Duration = Duration::from_secs(900);

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Instants, contents and the order of events are a function of it.
    pub seed: u64,
    /// Lines a second, all containers together.
    pub rate: u64,
    /// Period at which every file is rotated.
    pub rotation: Duration,
    /// What happens, and how often.
    pub plan: Plan,
    /// OTLP/HTTP in place of gRPC.
    pub http: bool,
    /// Breaks the promise once, to show that it is noticed.
    pub sabotage: Option<Sabotage>,
    /// Events go to stderr too.
    pub verbose: bool,
}

/// How the promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One request is acknowledged and thrown away.
    Drop,
    /// One line stands twice in the store's export.
    Double,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// `kill -9` of the agent.
    pub agent_kills: u32,
    /// Of the collector.
    pub collector_kills: u32,
    /// Kills at which the other process was down too.
    pub both_down: u32,
    /// Deletions of the agent's state.
    pub forgets: u32,
    /// SIGSTOP of the agent.
    pub agent_stops: u32,
    /// SIGSTOP of the collector.
    pub collector_stops: u32,
    /// Outages: refused, muted, slow, overloaded, cut.
    pub outages: [u32; 5],
    /// Spells of a full state disk.
    pub full_disks: u32,
    /// The same that could not be made: no right to mount.
    pub full_disks_skipped: u32,
    /// Pods that lived for a second, and whose files were shipped and deleted.
    pub short_pods: u64,
    /// Compressed files that were shipped and deleted.
    pub deleted_gz: u64,
}

/// What a run did and what the verifier said.
#[derive(Clone, Debug)]
pub struct Report {
    /// The campaign's.
    pub seed: u64,
    /// The commit that this is of, with `-dirty` where it has changes.
    pub commit: String,
    /// OTLP/HTTP in place of gRPC.
    pub http: bool,
    /// Lines written.
    pub lines: u64,
    /// Rotations.
    pub rotations: u64,
    /// `.gz` files that ever were.
    pub compressed: u64,
    /// Files that were read on from within after they had been compressed; those of the last second before a kill are not
    /// among them.
    pub resumes: u64,
    /// What was done.
    pub counts: Counts,
    /// Records that the collector received again and did not store again; those of the last second before a kill are not
    /// among them.
    pub duplicates: u64,
    /// From the first line to the last one stored.
    pub took: Duration,
    /// The verifier's table.
    pub verdict: String,
}

impl Report {
    /// The heads of the columns of [`Report`]'s row.
    pub const HEAD: &str = "\
| seed | commit | transport | lines | rotations | .gz | .gz resumes | kills agent/collector (with the other down) \
| state deleted | stops agent/collector | outages refused/muted/slow/overloaded/cut | full disk \
| one-second pods | .gz deleted | resent and absorbed | seconds | verdict |
|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|";
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let transport = if self.http { "HTTP" } else { "gRPC" };
        write!(out, "| {} | {} | {transport} | {} ", self.seed, self.commit, self.lines)?;
        write!(out, "| {} | {} | {} ", self.rotations, self.compressed, self.resumes)?;
        write!(out, "| {}/{} ({}) ", counts.agent_kills, counts.collector_kills, counts.both_down)?;
        write!(out, "| {} | {}/{} ", counts.forgets, counts.agent_stops, counts.collector_stops)?;
        let outages: Vec<String> = counts.outages.iter().map(u32::to_string).collect();
        write!(out, "| {} | {}", outages.join("/"), counts.full_disks)?;
        if counts.full_disks_skipped > 0 {
            write!(out, " ({} SKIPPED)", counts.full_disks_skipped)?;
        }
        write!(out, " | {} | {} | {} ", counts.short_pods, counts.deleted_gz, self.duplicates)?;
        write!(out, "| {:.0} | agrees |", self.took.as_secs_f64())
    }
}

impl Campaign {
    /// Runs it below `dir`, which must be empty.
    ///
    /// # Errors
    /// A process that ends by itself, a stack that does not drain, or what the verifier found; `dir` holds the files.
    pub fn run(&self, dir: &Path) -> anyhow::Result<Report> {
        let link = Link::start(self.http)?;
        let mut node = self.node(dir)?;
        node.pause_deletions(true);
        let settings = Settings {
            http: self.http,
            kubelet: format!("http://{}", node.kubelet_address()),
            endpoint: format!("http://127.0.0.1:{}", link.port),
            export: vec!["batch: {bytes: 128KiB, age: 200ms}".to_owned()],
            ..Settings::default()
        };
        let mut stack = Stack::with_logs(dir, &node.pod_logs(), &settings)?;
        link.forward_to(if self.http { stack.otlp_http } else { stack.otlp_grpc });
        let mut run = Run::new(dir, self.plan.full_disks > 0, self.verbose, &mut stack, &link)?;
        let start = Instant::now();
        run.play(&schedule(self.seed, &self.plan), &node)?;
        if self.sabotage == Some(Sabotage::Drop) {
            link.set(Fault::Lying);
            wait_until("a lie", Duration::from_secs(60), || link.lies() > 0)?;
            link.set(Fault::None);
        }
        let stats = node.finish_writing()?;
        let (counts, resumes, duplicates) = run.end(DRAIN)?;
        let took = start.elapsed();
        let trees = [node.archive(), node.pod_logs()];
        let verdict = self.verify(&trees, stack.collector_http, dir)?;
        let compressed = count_gz(&trees[0])? + count_gz(&trees[1])?;
        node.stop().context("the simulated node")?;
        Ok(Report {
            seed: self.seed,
            commit: commit(),
            http: self.http,
            lines: stats.lines,
            rotations: stats.rotations,
            compressed,
            resumes,
            counts,
            duplicates,
            took,
            verdict,
        })
    }

    fn node(&self, dir: &Path) -> anyhow::Result<SimNode> {
        let mut options = SimOptions::new(dir.join("node"));
        options.seed = self.seed;
        options.rate = Rate::PerSecond(self.rate);
        options.rotation.period = Some(self.rotation);
        options.rotation.gap = (Duration::from_millis(2), self.rotation / 4);
        options.rotation.max_files = 1_000_000;
        options.churn = Some(Duration::from_secs(1));
        options.pods = (0..NODES).flat_map(|node| pods_of(self.seed.wrapping_add(node), node)).collect();
        Ok(SimNode::start(options)?)
    }

    fn verify(&self, trees: &[PathBuf], collector: u16, dir: &Path) -> anyhow::Result<String> {
        if self.sabotage != Some(Sabotage::Double) {
            return verify::verify(trees, collector);
        }
        let export = crate::http::text(collector, "/api/v1/logs?limit=0")?;
        let half = export[..export.len() / 2].rfind('\n').context("an empty export")? + 1;
        let line = export[half..].lines().next().context("an empty export")?;
        let file = dir.join("export.ndjson");
        std::fs::write(&file, format!("{}{line}\n{}", &export[..half], &export[half..]))?;
        verify::verify_file(trees, &file)
    }
}

/// The demo's pods, in namespaces of their own for all but the first node.
fn pods_of(seed: u64, node: u64) -> Vec<PodSpec> {
    let mut pods = default_pods(seed);
    if node > 0 {
        pods.iter_mut().for_each(|pod| pod.namespace = format!("{}-{node}", pod.namespace));
    }
    pods
}

fn count_gz(dir: &Path) -> anyhow::Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            count += count_gz(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            count += 1;
        }
    }
    Ok(count)
}

/// What the working tree is, as git says it.
fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(crate::root()).args(["describe", "--always", "--dirty", "--exclude=*"]);
    let said = git.output().ok().filter(|out| out.status.success());
    said.map_or("unknown".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The number that follows a name in the arguments.
///
/// # Errors
/// There is none.
pub fn number(name: &str, value: Option<String>) -> anyhow::Result<u64> {
    let Some(value) = value else { bail!("{name} needs a number") };
    value.parse().with_context(|| format!("{name} {value}"))
}
