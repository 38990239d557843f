//! The main path beside the floor: files from their start to a receiver that takes everything.
//!
//! `cargo run --release -p sonde-benches --bin main_path -- [--gb 1] [--runs 5] [--dir /dev/shm]` prints a table: CPU
//! seconds per GB of the floor and of the agent (uncompressed, and with the shipped defaults), their ratio run by
//! run, MB/s and peak memory; medians of alternated runs. `--redact` compares the shipped defaults with rules of `logs.redact`
//! instead.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use sonde_benches::agent::{self, Cost, Way};
use sonde_benches::corpus::{self, Corpus, Shape};
use sonde_benches::{floor, median, sink};

#[derive(Parser)]
struct Args {
    /// Size of each corpus, GB.
    #[arg(long, default_value_t = 1.0)]
    gb: f64,
    /// Alternated runs of each way.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the corpora go; memory-backed, so that the disk does not count.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Only corpora whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only ways whose name contains this.
    #[arg(long, default_value = "")]
    way: String,
    /// What redaction costs, instead.
    #[arg(long)]
    redact: bool,
    /// Agents to be measured beside each other; given again for each. By default the one beside this program.
    #[arg(long)]
    agent: Vec<PathBuf>,
}

/// A corpus by name: shape and number of files.
const CORPORA: [(&str, Shape, usize); 3] = [
    ("plain 1 file", Shape::Plain, 1),
    ("plain 1000 files", Shape::Plain, 1000),
    ("json 30 files", Shape::Json, 30),
];

/// The ways beside each other; the last one is what ships.
const WAYS: [(&str, Way); 3] = [
    ("http none", Way { protocol: "http", compression: "none", redact: &[] }),
    ("grpc none", Way { protocol: "grpc", compression: "none", redact: &[] }),
    ("grpc auto (default)", Way { protocol: "grpc", compression: "auto", redact: &[] }),
];

/// What ships, and the same with rules that each line is searched by; none of them finds anything in these lines.
const REDACTING: [(&str, Way); 4] = [
    WAYS[2],
    ("redact card", Way { redact: &["card"], ..WAYS[2].1 }),
    ("redact bearer, key", Way { redact: &["bearer", "key"], ..WAYS[2].1 }),
    ("redact all four", Way { redact: &["email", "card", "bearer", "key"], ..WAYS[2].1 }),
];

#[allow(clippy::cast_possible_truncation)] // GB to bytes
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let agents = if args.agent.is_empty() { vec![agent::binary()?] } else { args.agent.clone() };
    let several = agents.len() > 1;
    let ways = if args.redact { &REDACTING[..] } else { &WAYS };
    let ways: Vec<(String, Way, &PathBuf)> = ways
        .iter()
        .filter(|(name, _)| name.contains(&args.way))
        .flat_map(|(name, way)| agents.iter().map(move |agent| (label(name, agent, several), *way, agent)))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (address, _received) = runtime.block_on(sink::serve())?;
    println!("| corpus | way | floor CPU s/GB | agent CPU s/GB | ratio | MB/s | peak RSS MiB |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for (name, shape, files) in CORPORA.iter().filter(|(name, ..)| name.contains(&args.only)) {
        let dir = tempfile::tempdir_in(&args.dir)?;
        let corpus = corpus::write(dir.path(), *shape, *files, (args.gb * 1e9) as u64)?;
        floor::run(&corpus.files)?;
        let mut runs: Vec<Vec<(Duration, Cost)>> = vec![Vec::new(); ways.len()];
        for _ in 0..args.runs {
            for (way, runs) in ways.iter().zip(&mut runs) {
                let (newlines, floor) = floor::run(&corpus.files)?;
                anyhow::ensure!(
                    newlines == corpus.lines,
                    "the floor counted {newlines} of {} lines",
                    corpus.lines
                );
                runs.push((floor, agent::run(way.2, &corpus, way.1, address.port(), &args.dir)?));
            }
        }
        for ((way, ..), runs) in ways.iter().zip(&runs) {
            row(name, way, &corpus, runs);
        }
    }
    Ok(())
}

fn label(way: &str, agent: &std::path::Path, several: bool) -> String {
    if several { format!("{way}, {}", agent.display()) } else { way.to_owned() }
}

fn row(name: &str, way: &str, corpus: &Corpus, runs: &[(Duration, Cost)]) {
    let gb = corpus.bytes as f64 / 1e9;
    let of = |figure: &dyn Fn(&(Duration, Cost)) -> f64| median(runs.iter().map(figure).collect());
    println!(
        "| {name} | {way} | {:.3} | {:.3} | {:.1} | {:.0} | {:.1} |",
        of(&|(floor, _)| floor.as_secs_f64() / gb),
        of(&|(_, cost)| cost.cpu.as_secs_f64() / gb),
        of(&|(floor, cost)| cost.cpu.as_secs_f64() / floor.as_secs_f64()),
        of(&|(_, cost)| gb * 1e3 / cost.wall.as_secs_f64()),
        of(&|(_, cost)| cost.peak as f64 / f64::from(1 << 20)),
    );
}
