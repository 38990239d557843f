//! The program.

use std::process::ExitCode;

use clap::Parser;
use sonde_collector::args::Args;

fn main() -> ExitCode {
    sonde_collector::run(&Args::parse())
}
