//! Sonde's central collector: receives OTLP, queues it durably, delivers it to sinks, searches the embedded store.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod app;
pub mod args;
pub mod config;
pub mod deliver;
mod front;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod json;
pub mod metrics;
mod page;
pub mod queue;
pub mod receive;
pub mod severity;
pub mod sinks;
mod stats;
pub mod store;
pub mod time;
mod tools;
mod validate;

use std::process::ExitCode;
use std::time::Duration;

use sonde_daemon::args::FAILED;
use sonde_daemon::shutdown::{self, Signals, Trigger};
use sonde_daemon::{log, memory, panic, telemetry, tls};

use crate::app::{App, AppError, Queues};
use crate::args::{Action, Args, DeadLetterAction, QueueAction};
use crate::config::Config;
use crate::queue::Signal;
use crate::tools::ToolError;
use crate::tools::post::{Access, Receiver};

/// What `--version` and `--help` say.
pub const ABOUT: &str =
    "Sonde's collector: receives OTLP, keeps logs and searches them, delivers to other systems";

/// What threads that hang, and the last of our own telemetry, may take at a stop.
const END: Duration = Duration::from_millis(500);

/// Runs a collector as `args` say, until SIGTERM or SIGINT, or a tool over its data: 0 after a clean stop, 1 after a
/// failure, 2 for a bad configuration. Call it first thing in main.
pub fn run(args: &Args) -> ExitCode {
    memory::tune();
    let config: Config = match args.common().settle() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let drain = match &args.action {
        Some(Action::Queue(QueueAction::Drain)) => true,
        Some(Action::Queue(action)) => return queue(&config, action),
        Some(Action::DeadLetter(action)) => return dead_letter(&config, action),
        Some(Action::Check) | None => false,
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
    match serve(config, drain) {
        Ok(()) => {
            tracing::info!("sonde-collector has stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "the collector cannot go on");
            ExitCode::from(FAILED)
        }
    }
}

/// Looks at the queues' files.
fn queue(config: &Config, action: &QueueAction) -> ExitCode {
    use crate::tools::queue::{Dirs, Dump, dump, ls, verify};
    let dirs = |signal: Option<Signal>| Dirs::of(&config.data_dir, signal);
    tools::run(|out| match *action {
        QueueAction::Ls { json, signal } => ls(&dirs(signal), json, out),
        QueueAction::Verify { json, signal } => verify(&dirs(signal), json, out),
        QueueAction::Dump { from, limit, json, content, signal } => {
            dump(&dirs(signal), Dump { from, limit, json, content }, out)
        }
        // It is the collector's own work, see `serve`.
        QueueAction::Drain => Ok(ExitCode::from(FAILED)),
    })
}

/// Looks at dead letters, or sends them to the collector that runs.
fn dead_letter(config: &Config, action: &DeadLetterAction) -> ExitCode {
    let dir = config.data_dir.join("dead-letter");
    tools::run(|out| match action {
        DeadLetterAction::Ls { json } => tools::dead_letter::ls(&dir, *json, out),
        DeadLetterAction::Replay { sink, token_file, ca_file, server_name, cert_file, key_file, json } => {
            let access = Access {
                token_file: token_file.clone(),
                ca_file: ca_file.clone(),
                server_name: server_name.clone(),
                identity: cert_file.clone().zip(key_file.clone()),
            };
            let mut receiver = Receiver::of(config, &access).map_err(ToolError::NoReceiver)?;
            tools::dead_letter::replay(&dir, sink.as_deref(), &mut receiver, *json, out)
        }
    })
}

fn serve(mut config: Config, drain: bool) -> Result<(), AppError> {
    if drain {
        // Nothing is taken, so nobody needs to find the way.
        config.listen.otlp_grpc = "127.0.0.1:0".to_owned();
        config.listen.otlp_http = "127.0.0.1:0".to_owned();
    }
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
        if !drain {
            tokio::spawn(Signals::new()?.drive(trigger, grace));
            return app.run(shutdown).await;
        }
        let queues = app.drain();
        tokio::spawn(stop_when_empty(queues.clone(), Signals::new()?, trigger, grace));
        app.run(shutdown).await?;
        match queues.left() {
            0 => Ok(()),
            bytes => Err(AppError::NotDrained { bytes }),
        }
    });
    runtime.shutdown_timeout(END);
    if let Some(own) = own {
        own.stop(END);
    }
    result
}

/// How often it is looked whether the queue is empty.
const LOOK: Duration = Duration::from_millis(100);

/// Stops the collector once every sink has all that is in the queues, or at a signal.
async fn stop_when_empty(queues: Queues, mut signals: Signals, trigger: Trigger, grace: Duration) {
    tracing::info!(bytes = queues.left(), "draining: what is left is delivered, nothing is taken");
    let empty = async {
        while queues.left() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = empty => tracing::info!("the queues are empty"),
        signal = signals.next() => tracing::info!(signal, "stopping before the queues are empty"),
    }
    trigger.fire(grace);
    // A trigger that is dropped would mean now.
    std::future::pending::<()>().await;
}
