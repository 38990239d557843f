//! A seeded torture run: a simulated node that rotates and compresses without a pause, the real binaries, kill -9 at
//! random instants, the agent's state deleted once; at the end the verifier compares the files with the store.
//!
//! Rotation goes on while a process is down. What the kubelet would delete for good is kept on disk (the truth must
//! exist for an agent that was away), under names and in forms that change as they do on a node.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use sonde_sim::{Rate, SimNode, SimOptions};

use crate::stack::{Settings, Stack};
use crate::verify;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Instants, contents and the order of kills are a function of it; what the processes had done by then is not.
    pub seed: u64,
    /// Lines a second, all containers together.
    pub rate: u64,
    /// Period at which every file is rotated.
    pub rotation: Duration,
    /// `kill -9` of the agent.
    pub agent_kills: u32,
    /// `kill -9` of the collector.
    pub collector_kills: u32,
    /// Longest time between two kills; the shortest is a fifth of it.
    pub pause: Duration,
    /// Longest time a killed process stays away.
    pub away: Duration,
    /// Whether the agent's state directory is deleted at one of its kills.
    pub delete_state: bool,
    /// OTLP/HTTP in place of gRPC.
    pub http: bool,
}

/// What a run did and what the verifier said.
#[derive(Clone, Debug)]
pub struct Report {
    /// Lines written.
    pub lines: u64,
    /// Rotations.
    pub rotations: u64,
    /// `.gz` files at the end.
    pub compressed: u64,
    /// `kill -9` done: agent, collector.
    pub kills: (u32, u32),
    /// Records that the collector received again and did not store again, since its last start.
    pub duplicates: u64,
    /// From the first line to the last one stored.
    pub took: Duration,
    /// The verifier's table.
    pub verdict: String,
}

/// xorshift64*: small, seeded, good enough to choose instants.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound.max(1)
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from(to.saturating_sub(from).as_millis()).unwrap_or(0);
        from + Duration::from_millis(self.below(span + 1))
    }
}

impl Campaign {
    /// Runs it below `dir`, which must be empty.
    ///
    /// # Errors
    /// A process that ends by itself, a stack that does not drain, or what the verifier found; `dir` holds the files.
    pub fn run(&self, dir: &Path) -> anyhow::Result<Report> {
        let mut random = Random(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut options = SimOptions::new(dir.join("node"));
        options.seed = self.seed;
        options.rate = Rate::PerSecond(self.rate);
        options.rotation.period = Some(self.rotation);
        options.rotation.gap = (Duration::from_millis(2), self.rotation / 4);
        options.rotation.max_files = 1_000_000;
        options.churn = Some(Duration::from_secs(2));
        let mut node = SimNode::start(options)?;
        node.pause_deletions(true);
        let settings = Settings {
            http: self.http,
            kubelet: format!("http://{}", node.kubelet_address()),
            ..Settings::default()
        };
        let mut stack = Stack::with_logs(dir, &node.pod_logs(), &settings)?;
        let start = Instant::now();
        stack.start()?;
        let (mut agents, mut collectors) = (0, 0);
        let wipe = self.delete_state.then_some(self.agent_kills / 2);
        while agents < self.agent_kills || collectors < self.collector_kills {
            sleep(random.between(self.pause / 5, self.pause));
            let left = u64::from(self.agent_kills - agents + self.collector_kills - collectors);
            if random.below(left) < u64::from(self.agent_kills - agents) {
                stack.kill_agent()?;
                if wipe == Some(agents) {
                    std::fs::remove_dir_all(dir.join("agent-state"))?;
                }
                agents += 1;
                sleep(random.between(Duration::ZERO, self.away));
                stack.start_agent()?;
            } else {
                stack.kill_collector()?;
                collectors += 1;
                sleep(random.between(Duration::ZERO, self.away));
                stack.start_collector()?;
            }
        }
        let stats = node.finish_writing()?;
        stack.wait_ready()?;
        stack.wait_drained(Duration::from_secs(600))?;
        let took = start.elapsed();
        let page = "/metrics";
        let duplicates = crate::http::metric(
            stack.collector_http,
            page,
            "sonde_collector_records_total",
            "outcome=\"duplicate\"",
        )?;
        let compressed = count_gz(&node.pod_logs())?;
        let verdict = verify::verify(&[node.pod_logs()], stack.collector_http)?;
        node.stop().context("the simulated node")?;
        #[allow(clippy::cast_possible_truncation)] // a count, exact up to 2^53
        let duplicates = duplicates as u64;
        Ok(Report {
            lines: stats.lines,
            rotations: stats.rotations,
            compressed,
            kills: (agents, collectors),
            duplicates,
            took,
            verdict,
        })
    }
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
