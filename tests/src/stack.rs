//! An agent and a collector with configuration files in a directory of their own.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::daemon::Daemon;
use crate::{free_port, http, wait_until};

/// Directories, ports and configuration of one agent and one collector; both are started and killed at will.
pub struct Stack {
    /// Everything lives below.
    pub dir: PathBuf,
    /// `host.pod_logs` of the agent.
    pub pod_logs: PathBuf,
    /// Agent's HTTP port.
    pub agent_http: u16,
    /// Collector's HTTP port.
    pub collector_http: u16,
    /// Collector's OTLP/gRPC port.
    pub otlp_grpc: u16,
    /// Collector's OTLP/HTTP port.
    pub otlp_http: u16,
    /// The agent's own file for `/etc/hosts`; none = the machine's.
    pub hosts: Option<PathBuf>,
    /// The running agent.
    pub agent: Option<Daemon>,
    /// The running collector.
    pub collector: Option<Daemon>,
}

/// What a test sets apart from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `export.protocol`.
    pub http: bool,
    /// `export.compression`; empty = `auto`.
    pub compression: String,
    /// `kubelet.url`; empty = none.
    pub kubelet: String,
    /// `export.endpoint`; empty = this stack's collector.
    pub endpoint: String,
    /// The stack's collector is reached over TLS.
    pub tls: bool,
    /// Further lines of the agent's `export` section.
    pub export: Vec<String>,
    /// Further lines of the agent's file; without a section `logs`, lines of any age are read.
    pub agent: String,
    /// Further lines of the collector's file.
    pub collector: String,
}

impl Stack {
    /// Writes both configuration files; starts nothing.
    ///
    /// # Errors
    /// The disk's, or no free port.
    pub fn new(dir: &Path, settings: &Settings) -> anyhow::Result<Self> {
        Self::with_logs(dir, &dir.join("pods"), settings)
    }

    /// As [`Stack::new`], on pod logs that are elsewhere.
    ///
    /// # Errors
    /// The disk's, or no free port.
    pub fn with_logs(dir: &Path, pod_logs: &Path, settings: &Settings) -> anyhow::Result<Self> {
        std::fs::create_dir_all(pod_logs)?;
        let stack = Self {
            dir: dir.to_owned(),
            pod_logs: pod_logs.to_owned(),
            agent_http: free_port()?,
            collector_http: free_port()?,
            otlp_grpc: free_port()?,
            otlp_http: free_port()?,
            hosts: None,
            agent: None,
            collector: None,
        };
        let port = if settings.http { stack.otlp_http } else { stack.otlp_grpc };
        let endpoint = match settings.endpoint.as_str() {
            "" => format!("http{}://127.0.0.1:{port}", if settings.tls { "s" } else { "" }),
            given => given.to_owned(),
        };
        let mut agent = String::new();
        writeln!(agent, "node: {{name: test-node}}")?;
        let docker_logs = dir.join("docker");
        writeln!(
            agent,
            "host: {{pod_logs: {}, docker_logs: {}}}",
            pod_logs.display(),
            docker_logs.display()
        )?;
        writeln!(agent, "state_dir: {}", dir.join("agent-state").display())?;
        writeln!(agent, "listen: 127.0.0.1:{}", stack.agent_http)?;
        writeln!(agent, "kubelet: {{url: \"{}\"}}", settings.kubelet)?;
        writeln!(agent, "export:\n  endpoint: {endpoint}")?;
        writeln!(agent, "  protocol: {}", if settings.http { "http" } else { "grpc" })?;
        if !settings.compression.is_empty() {
            writeln!(agent, "  compression: {}", settings.compression)?;
        }
        for key in &settings.export {
            writeln!(agent, "  {key}")?;
        }
        writeln!(agent, "{}", settings.agent)?;
        if !settings.agent.contains("logs:") {
            // Lines of the tests have stamps of any age.
            writeln!(agent, "logs: {{read_existing: true}}")?;
        }
        std::fs::write(dir.join("agent.yaml"), agent)?;
        let mut collector = String::new();
        writeln!(collector, "data_dir: {}", dir.join("collector-data").display())?;
        writeln!(collector, "listen:\n  otlp_grpc: 127.0.0.1:{}", stack.otlp_grpc)?;
        writeln!(collector, "  otlp_http: 127.0.0.1:{}", stack.otlp_http)?;
        writeln!(collector, "  http: 127.0.0.1:{}", stack.collector_http)?;
        writeln!(collector, "{}", settings.collector)?;
        if !settings.collector.contains("queue:") {
            // The tests' disk may be fuller than a node's should be.
            writeln!(collector, "queue: {{min_free: 0B}}")?;
        }
        std::fs::write(dir.join("collector.yaml"), collector)?;
        Ok(stack)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        let (config, log) = (self.dir.join("agent.yaml"), self.dir.join("agent.log"));
        self.agent = Some(match &self.hosts {
            None => Daemon::start("sonde-agent", &config, &log)?,
            Some(hosts) => Daemon::start_with_hosts("sonde-agent", &config, &log, hosts)?,
        });
        Ok(())
    }

    /// Starts the collector.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_collector(&mut self) -> anyhow::Result<()> {
        let (config, log) = (self.dir.join("collector.yaml"), self.dir.join("collector.log"));
        self.collector = Some(Daemon::start("sonde-collector", &config, &log)?);
        Ok(())
    }

    /// Starts both and waits until both say that they are ready.
    ///
    /// # Errors
    /// One does not come up within 120 s; its log is in the message.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_collector()?;
        self.start_agent()?;
        self.wait_ready()
    }

    /// Waits for `/readyz` of both.
    ///
    /// # Errors
    /// One is not ready within 120 s.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        self.wait_collector()?;
        self.wait_agent()
    }

    /// Waits for `/readyz` of the collector.
    ///
    /// # Errors
    /// It is not ready within 120 s.
    pub fn wait_collector(&self) -> anyhow::Result<()> {
        self.wait("collector", self.collector_http)
    }

    /// Waits for `/readyz` of the agent.
    ///
    /// # Errors
    /// It is not ready within 120 s.
    pub fn wait_agent(&self) -> anyhow::Result<()> {
        self.wait("agent", self.agent_http)
    }

    fn wait(&self, name: &str, port: u16) -> anyhow::Result<()> {
        let ready = || http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200);
        wait_until(&format!("{name} to be ready"), Duration::from_secs(120), ready).with_context(|| {
            std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
        })
    }

    /// `kill -9` of the agent.
    ///
    /// # Errors
    /// It does not run, or had ended by itself.
    pub fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agent.take().context("the agent does not run")?.kill()
    }

    /// `kill -9` of the collector.
    ///
    /// # Errors
    /// It does not run, or had ended by itself.
    pub fn kill_collector(&mut self) -> anyhow::Result<()> {
        self.collector.take().context("the collector does not run")?.kill()
    }

    /// Records in the store, as the API counts them.
    ///
    /// # Errors
    /// No answer.
    pub fn stored(&self) -> anyhow::Result<u64> {
        let body = http::text(self.collector_http, "/api/v1/logs/count")?;
        let json: serde_json::Value = serde_json::from_str(&body)?;
        json["count"].as_u64().context("no count")
    }

    /// Waits until the agent has nothing pending and everything it shipped is in the store: the ledger says 0 bytes
    /// pending and the store's count has stood still for a second.
    ///
    /// # Errors
    /// `limit` has passed.
    pub fn wait_drained(&self, limit: Duration) -> anyhow::Result<()> {
        let mut before = (u64::MAX, 0);
        wait_until("everything to be stored", limit, || {
            let pending = http::metric(self.agent_http, "/metrics/self", "sonde_agent_log_pending_bytes", "")
                .unwrap_or(1.0);
            let stored = self.stored().unwrap_or(u64::MAX);
            before = if pending == 0.0 && stored == before.0 { (stored, before.1 + 1) } else { (stored, 0) };
            before.1 >= 20
        })
        .with_context(|| format!("stored {:?}; see {}", self.stored(), self.dir.display()))
    }
}
