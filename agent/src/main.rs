//! The program `sonde-agent`.

use std::process::ExitCode;

use sonde_daemon::args::Args;

fn main() -> ExitCode {
    sonde_agent::run(&Args::parse_for("sonde-agent", env!("CARGO_PKG_VERSION"), sonde_agent::ABOUT))
}
