//! Sonde for people: `sonde demo` shows the whole path at work on this machine; `sonde agent` and `sonde collector` are
//! the daemons themselves.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod child;
mod compare;
mod demo;
mod fetch;
mod sabotage;
mod setup;
mod status;
mod verifier;

/// Node observability: container logs and metrics from a node to a store that can be searched.
#[derive(Debug, Parser)]
#[command(name = "sonde", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: a simulated node, a real agent, a real collector; then compare line by line.
    Demo(demo::Demo),
    /// The node agent, as `sonde-agent`.
    Agent(sonde_daemon::args::Args),
    /// The central collector, as `sonde-collector`.
    Collector(sonde_collector::args::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(demo) => demo::run(&demo),
        Command::Agent(args) => sonde_agent::run(&args),
        Command::Collector(args) => sonde_collector::run(&args),
    }
}
