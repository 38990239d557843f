//! The OpenTelemetry Collector as a child process, and what else `tests/interop/install` brings.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{free_port, root, wait_until};

/// Where something of `target/interop` is; `None` and a loud word where it is not installed.
pub fn installed(name: &str, test: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let target = exe.ancestors().nth(3)?.to_owned();
    let places = [target.join("interop"), root().join("target/interop")];
    let found = places.iter().map(|place| place.join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED {test}: {name} is not below target/interop (run tests/interop/install)");
    }
    found
}

/// A process that is killed when this is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where an OpenTelemetry Collector sends what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To this port of 127.0.0.1, over OTLP/gRPC.
    Grpc(u16),
    /// The same over OTLP/HTTP.
    Http(u16),
}

/// A collector that writes what it receives of some signals to one file; its OTLP/gRPC and OTLP/HTTP ports, and the
/// file. `dir` is its own.
///
/// # Errors
/// It cannot be started, or does not listen within 30 s.
pub fn opentelemetry_collector(
    program: &Path,
    dir: &Path,
    signals: &[&str],
) -> anyhow::Result<(Killed, (u16, u16), PathBuf)> {
    let out = dir.join("received.jsonl");
    let (receiver, ports) = start(program, dir, signals, "file", &format!("path: {}", out.display()))?;
    Ok((receiver, ports, out))
}

/// A collector that sends what it receives of some signals on; its OTLP/gRPC and OTLP/HTTP ports. `dir` is its own.
///
/// # Errors
/// It cannot be started, or does not listen within 30 s.
pub fn relaying_collector(
    program: &Path,
    dir: &Path,
    signals: &[&str],
    to: To,
) -> anyhow::Result<(Killed, (u16, u16))> {
    match to {
        To::Grpc(port) => start(
            program,
            dir,
            signals,
            "otlp_grpc",
            &format!("endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}"),
        ),
        To::Http(port) => {
            start(program, dir, signals, "otlp_http", &format!("endpoint: \"http://127.0.0.1:{port}\""))
        }
    }
}

fn start(
    program: &Path,
    dir: &Path,
    signals: &[&str],
    exporter: &str,
    options: &str,
) -> anyhow::Result<(Killed, (u16, u16))> {
    std::fs::create_dir_all(dir)?;
    let (grpc, web) = (free_port()?, free_port()?);
    let config = dir.join("otelcol.yaml");
    let pipelines: Vec<String> = signals
        .iter()
        .map(|signal| format!("{signal}: {{receivers: [otlp], exporters: [{exporter}]}}"))
        .collect();
    let text = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{grpc}}}, http: {{endpoint: 127.0.0.1:{web}}}}}}}}}\n\
         exporters: {{{exporter}: {{{options}}}}}\n\
         service: {{telemetry: {{metrics: {{level: none}}}}, pipelines: {{{}}}}}\n",
        pipelines.join(", ")
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(dir.join("otelcol.log"))?;
    let child =
        Command::new(program).arg("--config").arg(&config).stdin(Stdio::null()).stderr(log).spawn()?;
    let receiver = Killed(child);
    let up = || std::net::TcpStream::connect(("127.0.0.1", grpc)).is_ok();
    wait_until("the OpenTelemetry Collector", Duration::from_secs(30), up)?;
    Ok((receiver, (grpc, web)))
}
