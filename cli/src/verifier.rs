//! The stand-alone verifier, carried along and run where Python is installed.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

const PROGRAM: &str = include_str!("../../tests/verify.py");

/// Its verdict.
pub(crate) enum Verdict {
    Agrees(String),
    Differs(String),
    /// There is no python3 on this machine.
    NotRun,
}

/// Runs it on the log files and the export.
pub(crate) fn run(dir: &Path, logs: &Path, export: &Path) -> anyhow::Result<Verdict> {
    let program = dir.join("verify.py");
    std::fs::write(&program, PROGRAM)?;
    let mut command = Command::new("python3");
    command.arg(&program).arg("--logs").arg(logs).arg("--export").arg(export);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Verdict::NotRun),
        Err(error) => return Err(error).context("starting python3"),
    };
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(if output.status.success() { Verdict::Agrees(text) } else { Verdict::Differs(text) })
}
