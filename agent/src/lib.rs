//! Sonde's node agent: reads container logs, cgroups and pod state, ships OTLP, serves Prometheus pages.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)
)]

pub mod api_server;
pub mod app;
pub mod batch;
pub mod buffers;
pub mod canary;
pub mod config;
pub mod export;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod http;
pub mod inbox;
pub mod journal;
pub mod kubelet;
pub mod log_page;
pub mod logs;
pub mod metrics;
pub mod pods;
pub mod push;
pub mod receive;
pub mod teller;

use std::process::ExitCode;

use anyhow::anyhow;
use sonde_daemon::args::{Args, FAILED};
use sonde_daemon::lock::Lock;
use sonde_daemon::shutdown::{self, Signals};
use sonde_daemon::{http as daemon_http, log, memory, panic, telemetry, tls};

use crate::app::App;
use crate::config::Config;

/// What `--help` says the program is.
pub const ABOUT: &str = "Sonde's node agent: ships container logs as OTLP and serves Prometheus pages";

/// What the last of our own telemetry may take at a stop.
const TELEMETRY_END: std::time::Duration = std::time::Duration::from_millis(500);

/// The program `sonde-agent`, from its command line to its exit code: 0 after a clean stop, 1 after a run-time
/// failure, 2 for a bad configuration. Call it once, before the process has other threads.
pub fn run(args: &Args) -> ExitCode {
    memory::tune();
    panic::install();
    tls::install();
    let config: Config = match args.settle() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let filter = std::env::var("SONDE_LOG").ok();
    let _log = match log::init(args.log_format, filter.as_deref()) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("sonde-agent: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match serve(config) {
        Ok(()) => {
            tracing::info!("sonde-agent has stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Every error's own text holds what caused it.
            tracing::error!(%error, "sonde-agent ends");
            ExitCode::from(FAILED)
        }
    }
}

/// Lock, sockets, parts; then runs until a signal, and stops within the grace.
fn serve(config: Config) -> anyhow::Result<()> {
    let _lock =
        Lock::take(&config.state_dir, "sonde-agent").map_err(|error| anyhow!("state_dir: {error}"))?;
    let bound = daemon_http::bind(&config.listen).map_err(|error| anyhow!("listen: {error}"))?;
    let listeners = receive::Listeners::bind(&config.receive).map_err(|error| anyhow!("receive: {error}"))?;
    if let Err(error) = memory::raise_open_files() {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let grace = config.shutdown_grace.0;
    let app = App::build(config, bound, listeners)?;
    app.announce();
    let own = telemetry::start("sonde-agent", env!("CARGO_PKG_VERSION"), |name| std::env::var(name).ok())?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let (trigger, shutdown) = shutdown::channel();
        let signals = tokio::spawn(Signals::new()?.drive(trigger, grace));
        let result = app.run(shutdown).await;
        signals.abort();
        result.map_err(anyhow::Error::from)
    });
    // A name server or a disk that hangs must not keep a process that is done.
    runtime.shutdown_background();
    if let Some(own) = own {
        own.stop(TELEMETRY_END);
    }
    result
}
