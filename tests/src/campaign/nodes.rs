//! The agent, the collectors behind its endpoint, the way to each, and what they share.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use sonde_sim::SimNode;

use super::Campaign;
use super::shared::Shared;
use crate::daemon::Daemon;
use crate::link::Link;
use crate::stack::{Settings, Stack};
use crate::{free_port, wait_until};

/// The name behind which several collectors are.
const NAME: &str = "collectors.test";

pub(super) struct Nodes {
    /// Its agent alone.
    pub(super) agent: Stack,
    /// Their collectors alone.
    pub(super) collectors: Vec<Stack>,
    /// The way to each of them.
    pub(super) links: Vec<Link>,
    pub(super) shared: Option<Shared>,
}

impl Nodes {
    /// Everything but the daemons runs.
    pub(super) fn new(dir: &Path, campaign: &Campaign, node: &SimNode) -> anyhow::Result<Self> {
        let count = campaign.plan.collectors;
        let shared = campaign.shared.map(|server| Shared::start(server, dir)).transpose()?;
        let sinks = shared.as_ref().map(Shared::sinks).unwrap_or_default();
        let mut collectors = Vec::new();
        for number in 1..=count {
            let collector =
                if count > 1 { format!("limits: {{connection_age: 5s}}\n{sinks}") } else { sinks.clone() };
            let settings = Settings { collector, ..Settings::default() };
            collectors.push(Stack::new(&dir.join(format!("collector-{number}")), &settings)?);
        }
        let links = if count > 1 { links(count, campaign.http)? } else { vec![Link::start(campaign.http)?] };
        for (link, collector) in links.iter().zip(&collectors) {
            link.forward_to(if campaign.http { collector.otlp_http } else { collector.otlp_grpc });
        }
        let host = if count > 1 { NAME } else { "127.0.0.1" };
        let settings = Settings {
            http: campaign.http,
            kubelet: format!("http://{}", node.kubelet_address()),
            endpoint: format!("http://{host}:{}", links[0].port),
            export: vec!["batch: {bytes: 128KiB, age: 200ms}".to_owned()],
            ..Settings::default()
        };
        let mut agent = Stack::with_logs(dir, &node.pod_logs(), &settings)?;
        if count > 1 {
            ensure!(
                Daemon::may_have_hosts(),
                "no right to make a mount namespace, where a name has several addresses"
            );
            let mut hosts = String::new();
            for number in 1..=count {
                writeln!(hosts, "127.0.0.{number} {NAME}")?;
            }
            std::fs::write(dir.join("hosts"), hosts)?;
            agent.hosts = Some(dir.join("hosts"));
        }
        Ok(Self { agent, collectors, links, shared })
    }

    /// Starts all daemons and waits until they say that they are ready.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        self.collectors.iter_mut().try_for_each(Stack::start_collector)?;
        self.agent.start_agent()?;
        self.wait_ready()
    }

    pub(super) fn wait_ready(&self) -> anyhow::Result<()> {
        self.collectors.iter().try_for_each(Stack::wait_collector)?;
        self.agent.wait_agent()
    }
}

/// One on each of 127.0.0.1, 127.0.0.2, …, all on the same port.
fn links(count: usize, http: bool) -> anyhow::Result<Vec<Link>> {
    let mut links = Err(anyhow::anyhow!("no port was tried"));
    // A port that is free on one address may be taken on another.
    wait_until("a port that is free on every address", Duration::from_secs(30), || {
        links = free_port().and_then(|port| {
            (1..=count)
                .map(|number| Link::at(address(number, port)?, http))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        links.is_ok()
    })?;
    links
}

fn address(number: usize, port: u16) -> anyhow::Result<SocketAddr> {
    Ok((Ipv4Addr::new(127, 0, 0, u8::try_from(number)?), port).into())
}
