//! The program.

use std::process::ExitCode;

use sonde_daemon::args::Args;

fn main() -> ExitCode {
    sonde_collector::run(&Args::parse_for(
        "sonde-collector",
        env!("CARGO_PKG_VERSION"),
        sonde_collector::ABOUT,
    ))
}
