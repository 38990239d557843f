//! Sonde's central collector: receives OTLP, queues it durably, delivers it to sinks, searches the embedded store.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod app;
pub mod config;
pub mod deliver;
mod front;
mod page;
pub mod queue;
pub mod receive;
mod stats;
pub mod store;
mod validate;

use std::process::ExitCode;
use std::time::Duration;

use sonde_daemon::args::{Args, FAILED};
use sonde_daemon::shutdown::{self, Signals};
use sonde_daemon::{log, memory, panic, telemetry, tls};

use crate::app::{App, AppError};
use crate::config::Config;

/// What `--version` and `--help` say.
pub const ABOUT: &str = "Sonde's collector: receives OTLP logs, keeps them, searches them";

/// What threads that hang, and the last of our own telemetry, may take at a stop.
const END: Duration = Duration::from_millis(500);

/// Runs a collector as `args` say, until SIGTERM or SIGINT: 0 after a clean stop, 1 after a failure, 2 for a bad
/// configuration. Call it first thing in main.
pub fn run(args: &Args) -> ExitCode {
    memory::tune();
    let config: Config = match args.settle() {
        Ok(config) => config,
        Err(code) => return code,
    };
    // Dropped last, it waits for the last lines.
    let _log = match log::init(args.log_format, std::env::var("SONDE_LOG").ok().as_deref()) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(FAILED);
        }
    };
    panic::install();
    tls::install();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the collector cannot go on");
            ExitCode::from(FAILED)
        }
    }
}

fn serve(config: Config) -> Result<(), AppError> {
    if let Err(error) = memory::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let grace = config.shutdown_grace.0;
    let app = App::build(config)?;
    let own = telemetry::start(app::PROGRAM, env!("CARGO_PKG_VERSION"), |name| std::env::var(name).ok())?;
    // Two threads: what takes long runs beside them, and memory is a sum that does not grow with the machine.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_name("collector")
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let (trigger, shutdown) = shutdown::channel();
        tokio::spawn(Signals::new()?.drive(trigger, grace));
        app.run(shutdown).await
    });
    runtime.shutdown_timeout(END);
    if let Some(own) = own {
        own.stop(END);
    }
    result
}
