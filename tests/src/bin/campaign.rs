//! The long campaign: `cargo build --workspace && cargo run -p sonde-tests --bin campaign -- --seed 1`.
//!
//! Prints its events as they happen, the verifier's verdict, and one row of the table that `benches/results` keeps; exits 1
//! when the verifier does not agree, with the directory of the run kept, 2 for arguments that it does not know.
//! `--sabotage drop|double` shows that it can.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use sonde_tests::campaign::schedule::Plan;
use sonde_tests::campaign::{Campaign, Report, Sabotage, Server};

/// A seeded torture run of the real daemons on a simulated node; a verifier compares the files with what is stored.
#[derive(Parser)]
#[command(name = "campaign")]
struct Arguments {
    /// Instants, contents and the order of events are a function of it
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Collectors that share nothing behind one name; more than one feed a shared Elasticsearch-compatible sink, and another
    /// one that dies again and again
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// The shared sink is a real OpenSearch (tests/servers/opensearch), not a strict stand-in
    #[arg(long)]
    opensearch: bool,
    /// OTLP/HTTP in place of gRPC
    #[arg(long)]
    http: bool,
    /// Lines a second, all containers together
    #[arg(long, default_value_t = 2_500, value_name = "N")]
    rate: u64,
    /// Period at which every file is rotated, milliseconds
    #[arg(long, default_value_t = 500, value_name = "N")]
    rotation_ms: u64,
    /// kill -9 of the agent, beside those at which its state is deleted
    #[arg(long, default_value_t = 140, value_name = "N")]
    agent_kills: u32,
    /// kill -9 of the collectors, all together [default: 80]
    #[arg(long, value_name = "N")]
    collector_kills: Option<u32>,
    /// kill -9 of agent and collectors together, 4 of 11 of them collectors'; in place of the two above
    #[arg(long, value_name = "N", conflicts_with_all = ["agent_kills", "collector_kills"])]
    kills: Option<u32>,
    /// Kills of the agent at which its state directory is deleted
    #[arg(long, default_value_t = 2, value_name = "N")]
    forgets: u32,
    /// SIGSTOP of the agent, and as many of each collector
    #[arg(long, default_value_t = 15, value_name = "N")]
    stops: u32,
    /// Outages of the way to each collector
    #[arg(long, default_value_t = 60, value_name = "N")]
    outages: u32,
    /// Spells in which the disk of the agent's state is full
    #[arg(long, default_value_t = 10, value_name = "N")]
    full_disks: u32,
    /// Deaths of the sink that dies; with several collectors [default: 40]
    #[arg(long, value_name = "N")]
    deaths: Option<u32>,
    /// Rollovers of the shared stream; with several collectors [default: 8]
    #[arg(long, value_name = "N")]
    rollovers: Option<u32>,
    /// Mean time between two events of the busiest kind, milliseconds: how long the run takes
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pause_ms: u64,
    /// Breaks the promise once: a request that is acknowledged and thrown away, or a line that is stored twice
    #[arg(long)]
    sabotage: Option<Broken>,
    /// Events are not printed
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Broken {
    Drop,
    Double,
}

impl Arguments {
    fn campaign(&self) -> Campaign {
        let collectors = u32::from(self.replicas);
        let several = collectors > 1 || self.opensearch;
        let (agent_kills, collector_kills) = match self.kills {
            Some(both) => (both - both * 4 / 11, both * 4 / 11),
            None => (self.agent_kills, self.collector_kills.unwrap_or(80)),
        };
        let plan = Plan {
            collectors: usize::from(self.replicas),
            agent_kills,
            collector_kills: collector_kills.div_ceil(collectors),
            forgets: self.forgets,
            stops: self.stops,
            outages: self.outages,
            full_disks: self.full_disks,
            deaths: self.deaths.unwrap_or(if several { 40 } else { 0 }),
            rollovers: self.rollovers.unwrap_or(if several { 8 } else { 0 }),
            pause: Duration::from_millis(self.pause_ms),
        };
        Campaign {
            seed: self.seed,
            rate: self.rate,
            rotation: Duration::from_millis(self.rotation_ms),
            plan,
            shared: several.then_some(if self.opensearch { Server::OpenSearch } else { Server::Stub }),
            http: self.http,
            sabotage: self.sabotage.map(|broken| match broken {
                Broken::Drop => Sabotage::Drop,
                Broken::Double => Sabotage::Double,
            }),
            verbose: !self.quiet,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let campaign = Arguments::parse().campaign();
    let dir = tempfile::Builder::new().prefix("sonde-campaign-").disable_cleanup(true).tempdir()?;
    println!("seed {}, in {}", campaign.seed, dir.path().display());
    let report = campaign.run(dir.path())?;
    println!("{}\n{}\n{report}", report.verdict, Report::HEAD);
    std::fs::remove_dir_all(dir.path())?;
    Ok(())
}
