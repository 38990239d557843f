//! The verifier: a program in another language that shares no code with the agent or the collector.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

/// Compares the log files below `trees` with the export of the collector on `http_port`, line by line.
///
/// # Errors
/// What differs, as the verifier prints it.
pub fn verify(trees: &[PathBuf], http_port: u16) -> anyhow::Result<String> {
    against(trees, format!("http://127.0.0.1:{http_port}/api/v1/logs?limit=0").as_ref(), &[])
}

/// The same with an export that is a file of the API's lines.
///
/// # Errors
/// What differs, as the verifier prints it.
pub fn verify_file(trees: &[PathBuf], export: &Path) -> anyhow::Result<String> {
    against(trees, export.as_os_str(), &[])
}

/// The same with what an Elasticsearch has: a file of its hits, one a line.
///
/// # Errors
/// What differs, as the verifier prints it.
pub fn verify_documents(trees: &[PathBuf], hits: &Path) -> anyhow::Result<String> {
    against(trees, hits.as_os_str(), &["--documents"])
}

fn against(trees: &[PathBuf], export: &OsStr, options: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("python3");
    command.arg(crate::root().join("tests/verify.py"));
    command.arg("--logs").args(trees).args(["--unfinished", "require"]);
    command.arg("--export").arg(export).args(options);
    let out = command.output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if !out.status.success() {
        bail!("the verifier does not agree:\n{text}");
    }
    Ok(text)
}

/// Whether this machine can run it; a test that needs it says so when it cannot.
pub fn python() -> bool {
    Command::new("python3").arg("--version").output().is_ok_and(|out| out.status.success())
}

/// The files of a directory tree, copied.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
