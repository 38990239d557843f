//! One run of the real agent over a corpus, from the files' start until the last byte is acknowledged.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::corpus::Corpus;

/// How the agent sends.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// `export.protocol`.
    pub protocol: &'static str,
    /// `export.compression`.
    pub compression: &'static str,
    /// Presets of `logs.redact`.
    pub redact: &'static [&'static str],
}

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU time of the whole process, user and system.
    pub cpu: Duration,
    /// From the start of the process to the last acknowledgement.
    pub wall: Duration,
    /// Most resident memory, bytes.
    pub peak: u64,
}

/// What a process has taken and holds.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time of all threads that still run.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub resident: u64,
}

/// An agent that runs; killed when it is dropped.
pub struct Running {
    child: Child,
    dir: tempfile::TempDir,
    http: u16,
    start: Instant,
}

impl Running {
    /// Starts `binary` over a directory of logs to the receiver on `port`, with a fresh state directory below `scratch`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        binary: &Path,
        pod_logs: &Path,
        way: Way,
        port: u16,
        scratch: &Path,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(scratch)?;
        let http = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.path().join("agent.yaml");
        let rules: String = way.redact.iter().map(|preset| format!("{{preset: {preset}}}, ")).collect();
        std::fs::write(
            &config,
            format!(
                "node: {{name: bench}}\nhost: {{pod_logs: {}, docker_logs: /nonexistent}}\nstate_dir: {}\nlisten: 127.0.0.1:{http}\n\
                 kubelet: {{url: \"\"}}\nlogs: {{read_existing: true, redact: [{rules}]}}\nmetrics: {{push: false}}\n\
                 export: {{endpoint: \"http://127.0.0.1:{port}\", protocol: {}, compression: {}}}\n",
                pod_logs.display(),
                dir.path().join("state").display(),
                way.protocol,
                way.compression
            ),
        )?;
        let start = Instant::now();
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child =
            Command::new(binary).arg("--config").arg(&config).stdin(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { child, dir, http, start })
    }

    /// Bytes that are acknowledged.
    ///
    /// # Errors
    /// It does not answer.
    pub fn acked(&self) -> anyhow::Result<u64> {
        acked(self.http)
    }

    /// What it has taken and holds.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.child.id())
    }

    /// Kills it, and says what it cost.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn end(&mut self) -> anyhow::Result<Cost> {
        if !self.is_alive() {
            bail!("the agent has ended: {}", self.log());
        }
        let cost = cost(self.child.id(), self.start.elapsed());
        let _ = self.child.kill();
        let _ = self.child.wait();
        cost
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `binary` over `corpus` to the receiver on `port`, with a fresh state directory below `scratch`.
///
/// # Errors
/// The agent ends early, or does not finish within five minutes.
pub fn run(binary: &Path, corpus: &Corpus, way: Way, port: u16, scratch: &Path) -> anyhow::Result<Cost> {
    let mut agent = Running::start(binary, &corpus.pod_logs, way, port, scratch)?;
    until_acked(agent.http, corpus.bytes, agent.start, || agent.is_alive()).with_context(|| agent.log())?;
    agent.end()
}

fn until_acked(port: u16, bytes: u64, start: Instant, mut alive: impl FnMut() -> bool) -> anyhow::Result<()> {
    loop {
        if !alive() {
            bail!("the agent has ended");
        }
        if start.elapsed() > Duration::from_secs(300) {
            bail!("not done after five minutes: {:?} of {bytes} bytes acknowledged", acked(port));
        }
        if acked(port).is_ok_and(|acked| acked >= bytes) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[allow(clippy::cast_possible_truncation)] // a count of bytes, exact up to 2^53
fn acked(port: u16) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET /metrics/self HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let samples = page.lines().filter(|line| line.starts_with("sonde_agent_log_acked_bytes_total"));
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}

fn cost(pid: u32, wall: Duration) -> anyhow::Result<Cost> {
    Ok(Cost { cpu: usage(pid)?.cpu, wall, peak: status(pid, "VmHWM:")? })
}

/// What a process has taken ([`crate::clock`]) and holds: `VmRSS`.
///
/// # Errors
/// There is no such process.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    Ok(Usage { cpu: crate::clock::cpu(pid)?, resident: status(pid, "VmRSS:")? })
}

/// A size of `/proc/<pid>/status`, bytes.
fn status(pid: u32, key: &'static str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(key)).context(key)?;
    Ok(line.split_whitespace().nth(1).context(key)?.parse::<u64>()? << 10)
}

/// `sonde-agent` beside this program.
///
/// # Errors
/// It is not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("sonde-agent");
    if path.is_file() {
        Ok(path)
    } else {
        bail!("{} is not built: cargo build --release --workspace", path.display())
    }
}
