//! Ports and configuration files of the demo's two daemons.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::Path;

use anyhow::Context;

/// Where the two listen, on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) agent: u16,
    pub(crate) grpc: u16,
    pub(crate) http: u16,
    pub(crate) page: u16,
}

impl Ports {
    /// The usual ones where they are free, others where not.
    pub(crate) fn choose() -> anyhow::Result<Self> {
        // All are held until the last is chosen, so that no two are the same.
        let held = [9464, 4317, 4318, 8080].map(|usual| {
            TcpListener::bind(("127.0.0.1", usual)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        });
        let mut ports = [0; 4];
        for (port, listener) in ports.iter_mut().zip(held) {
            *port = listener.context("no free port on 127.0.0.1")?.local_addr()?.port();
        }
        let [agent, grpc, http, page] = ports;
        Ok(Self { agent, grpc, http, page })
    }
}

/// What the agent reads.
pub(crate) enum Source<'a> {
    /// A simulated node below this root, with its kubelet's URL.
    Simulated { root: &'a Path, kubelet: String },
    /// This machine.
    Host,
}

/// Writes `collector.yaml` into `dir`. Its queue holds little and for seconds: a disk with less than the usual tenth free
/// will do.
pub(crate) fn write_collector(dir: &Path, ports: Ports) -> anyhow::Result<()> {
    let text = format!(
        "cluster: demo\ndata_dir: {}\nlisten:\n  otlp_grpc: 127.0.0.1:{}\n  otlp_http: 127.0.0.1:{}\n  http: \
         127.0.0.1:{}\nqueue: {{min_free: 256MiB}}\n",
        dir.join("collector").display(),
        ports.grpc,
        ports.http,
        ports.page
    );
    Ok(std::fs::write(dir.join("collector.yaml"), text)?)
}

/// Writes `agent.yaml` into `dir`. With a proxy in between the agent speaks what the proxy understands.
pub(crate) fn write_agent(
    dir: &Path,
    ports: Ports,
    source: &Source<'_>,
    proxy: Option<u16>,
) -> anyhow::Result<()> {
    let mut text = String::from("cluster: demo\n");
    match source {
        Source::Simulated { root, kubelet } => {
            writeln!(text, "node: {{name: sim-node-1}}")?;
            writeln!(text, "host: {{root: {}}}", root.display())?;
            writeln!(text, "kubelet: {{url: \"{kubelet}\", interval: 2s}}")?;
            writeln!(text, "logs: {{read_existing: true}}")?;
            // The page shows rates after two pushes: a short demo should not end before them.
            writeln!(text, "metrics: {{interval: 2s}}")?;
        }
        Source::Host => writeln!(text, "kubelet: {{url: \"\"}}")?,
    }
    writeln!(text, "state_dir: {}", dir.join("agent").display())?;
    writeln!(text, "listen: 127.0.0.1:{}", ports.agent)?;
    match proxy {
        None => writeln!(text, "export: {{endpoint: \"http://127.0.0.1:{}\"}}", ports.grpc)?,
        Some(port) => writeln!(
            text,
            "export: {{endpoint: \"http://127.0.0.1:{port}\", protocol: http, compression: none}}"
        )?,
    }
    Ok(std::fs::write(dir.join("agent.yaml"), text)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn four_different_ports_are_chosen_even_when_a_usual_one_is_taken() {
        let _taken = TcpListener::bind(("127.0.0.1", 9464));
        let ports = Ports::choose().unwrap();
        let mut all = [ports.agent, ports.grpc, ports.http, ports.page];
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
        assert_ne!(ports.agent, 9464);
    }
}
