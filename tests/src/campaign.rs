//! A seeded torture run: a simulated node of 63 writers that rotates and compresses without a pause, the real binaries, and
//! everything that can happen to them at drawn instants; at the end the verifier compares the files with the store.
//!
//! What happens, when, and for how long is a function of the seed ([`mod@schedule`]), and so are the writers' lines. What the
//! processes had done by each instant is not: that is the scheduler's and the disk's; on a machine that is busy an event may
//! come late. The log of a run (`events.log`) has both instants, the planned and the real one.
//!
//! With several collectors ([`Server`]) they share nothing but the agent's endpoint, a name with an address for each, and two
//! sinks: an index, and another one that dies again and again. At the end, while that one is dead, the index has everything;
//! then it comes back, and has everything too.
//!
//! Only what the promise covers is taken away for good, as a kubelet would after its grace: the directory of an ended pod, and
//! a compressed file behind five newer ones, once the agent has shipped them. Copies are kept for the verifier.

mod housekeeping;
mod ledger;
mod nodes;
mod random;
mod report;
mod run;
pub mod schedule;
mod shared;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sonde_sim::{PodSpec, Rate, SimNode, SimOptions, default_pods};

pub use self::report::{Counts, Report};
use crate::verify;
use nodes::Nodes;
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
    /// What the collectors share; none = a single one, with its own store.
    pub shared: Option<Server>,
    /// OTLP/HTTP in place of gRPC.
    pub http: bool,
    /// Breaks the promise once, to show that it is noticed.
    pub sabotage: Option<Sabotage>,
    /// Events go to stderr too.
    pub verbose: bool,
}

/// What serves the index that the collectors share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The strict stand-in.
    Stub,
    /// A real OpenSearch.
    OpenSearch,
}

/// How the promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One request is acknowledged and thrown away.
    Drop,
    /// One line stands twice in the export of the store, or of the shared index.
    Double,
}

impl Campaign {
    /// Runs it below `dir`, which must be empty.
    ///
    /// # Errors
    /// A process that ends by itself, a stack that does not drain, or what the verifier found; `dir` holds the files.
    pub fn run(&self, dir: &Path) -> anyhow::Result<Report> {
        ensure!(
            self.shared.is_some() || self.plan.collectors == 1,
            "several collectors have nothing in common"
        );
        let mut node = self.node(dir)?;
        node.pause_deletions(true);
        let mut nodes = Nodes::new(dir, self, &node)?;
        let mut run = Run::new(dir, self.plan.full_disks > 0, self.verbose, &mut nodes)?;
        let start = Instant::now();
        run.play(&schedule(self.seed, &self.plan), &node)?;
        if self.sabotage == Some(Sabotage::Drop) {
            run.lie()?;
        }
        let stats = node.finish_writing()?;
        let done = run.end(DRAIN)?;
        let took = start.elapsed();
        let trees = [node.archive(), node.pod_logs()];
        let verdict = self.verify(&trees, &nodes, dir)?;
        let compressed = count_gz(&trees[0])? + count_gz(&trees[1])?;
        node.stop().context("the simulated node")?;
        Ok(Report {
            seed: self.seed,
            commit: report::commit(),
            http: self.http,
            collectors: self.plan.collectors,
            shared: self.shared,
            lines: stats.lines,
            rotations: stats.rotations,
            compressed,
            resumes: done.resumes,
            counts: done.counts,
            duplicates: done.duplicates,
            ledger: done.ledger,
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

    fn verify(&self, trees: &[PathBuf], nodes: &Nodes, dir: &Path) -> anyhow::Result<String> {
        let doubles = self.sabotage == Some(Sabotage::Double);
        if let Some(shared) = &nodes.shared {
            return shared.verify(trees, dir, |hits| if doubles { double_a_line(hits) } else { Ok(()) });
        }
        let collector = nodes.collectors[0].collector_http;
        if !doubles {
            return verify::verify(trees, collector);
        }
        let file = dir.join("export.ndjson");
        std::fs::write(&file, crate::http::text(collector, "/api/v1/logs?limit=0")?)?;
        double_a_line(&file)?;
        verify::verify_file(trees, &file)
    }
}

/// One in the middle.
fn double_a_line(export: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(export)?;
    let half = text[..text.len() / 2].rfind('\n').context("an empty export")? + 1;
    let line = text[half..].lines().next().context("an empty export")?;
    Ok(std::fs::write(export, format!("{}{line}\n{}", &text[..half], &text[half..]))?)
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
