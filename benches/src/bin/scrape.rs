//! What a scrape costs the agent: the node's page beside a real node_exporter on this machine, and all pages of simulated nodes
//! with 250, 500 and 1,000 containers, with logs read and metrics pushed meanwhile.
//!
//! `cargo run --release -p sonde-benches --bin scrape -- [--scrapes 40] [--dir /dev/shm] [--node-exporter FILE]` prints two tables. CPU
//! is that of the whole process while it is scraped once in 1.05 s (a sample is shared for one), less what it used in as long
//! a time without scrapes just before. The two programs of the first table are scraped in turn, in one run. The simulated
//! cgroups are plain files in memory: what the kernel does to make the text of a real one is not in the second table.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use sonde_benches::{agent, median, sink};
use sonde_sim::{ContainerSpec, PodSpec, Profile, Rate, SimNode, SimOptions, default_pods};

#[derive(Parser)]
struct Args {
    /// Scrapes of each page.
    #[arg(long, default_value_t = 40)]
    scrapes: u32,
    /// Where the simulated nodes go; memory-backed, as cgroups are.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// A node_exporter; `tests/servers/install` has one.
    #[arg(long, default_value = "target/servers/root/usr/bin/prometheus-node-exporter")]
    node_exporter: PathBuf,
}

/// Two scrapes are never within the second for which a sample is shared.
const BETWEEN: Duration = Duration::from_millis(1050);
/// Lines a second that the simulated node writes.
const LINES: u64 = 2000;

/// A program that answers on a port; killed when it is dropped.
struct Daemon {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(mut command: Command, dir: tempfile::TempDir, port: u16, path: &str) -> anyhow::Result<Self> {
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let daemon = Self { child, port, _dir: dir };
        let start = Instant::now();
        while daemon.scrape(path).is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("{:?} does not answer", command.get_program());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn agent(scratch: &Path, config: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(scratch)?;
        let port = free_port()?;
        let file = dir.path().join("agent.yaml");
        let state = dir.path().join("state");
        std::fs::write(
            &file,
            format!(
                "node: {{name: sim-node-1}}\nstate_dir: {}\nlisten: 127.0.0.1:{port}\n{config}",
                state.display()
            ),
        )?;
        let mut command = Command::new(agent::binary()?);
        command.arg("--config").arg(&file);
        Self::start(command, dir, port, "/readyz")
    }

    /// A page's length.
    fn scrape(&self, path: &str) -> anyhow::Result<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nAccept-Encoding: identity\r\n\r\n")?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        anyhow::ensure!(page.starts_with(b"HTTP/1.") && page[8..].starts_with(b" 200"), "{path} is refused");
        Ok(page.len())
    }

    /// CPU time of all its threads, milliseconds.
    fn cpu(&self) -> anyhow::Result<f64> {
        let mut nanos = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += stat.split_whitespace().next().context("schedstat")?.parse::<f64>()?;
        }
        Ok(nanos / 1e6)
    }

    /// Resident memory now, and the most that it ever was, MiB.
    fn memory(&self) -> anyhow::Result<[f64; 2]> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |key: &str| -> anyhow::Result<f64> {
            let line = status.lines().find(|line| line.starts_with(key)).context("status")?;
            Ok(line.split_whitespace().nth(1).context("status")?.parse::<f64>()? / 1024.0)
        };
        Ok([of("VmRSS:")?, of("VmHWM:")?])
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// CPU milliseconds a scrape of each of these, scraped in turn, less what they use unscraped; and the pages' lengths.
fn cost(daemons: &[(&Daemon, &str)], scrapes: u32) -> anyhow::Result<Vec<(f64, usize)>> {
    let mut sizes = vec![0; daemons.len()];
    for ((daemon, path), size) in daemons.iter().zip(&mut sizes) {
        *size = daemon.scrape(path)?;
    }
    let mut spent = vec![Vec::new(); 2];
    for (scraped, spent) in [false, true].into_iter().zip(&mut spent) {
        let before: Vec<f64> = daemons.iter().map(|(daemon, _)| daemon.cpu()).collect::<Result<_, _>>()?;
        for _ in 0..scrapes {
            let next = Instant::now() + BETWEEN;
            for (daemon, path) in daemons.iter().filter(|_| scraped) {
                daemon.scrape(path)?;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        for ((daemon, _), before) in daemons.iter().zip(before) {
            spent.push(daemon.cpu()? - before);
        }
    }
    let each = spent[1].iter().zip(&spent[0]).map(|(scraped, idle)| (scraped - idle) / f64::from(scrapes));
    Ok(each.zip(sizes).collect())
}

/// The node's page beside node_exporter's, each with what it collects by default.
fn node_page(args: &Args) -> anyhow::Result<()> {
    let quiet = "kubelet: {url: \"\"}\nlogs: {enabled: false}\nmetrics: {push: false}\nexport: {endpoint: \"http://127.0.0.1:9\"}\n";
    let ours = Daemon::agent(&args.dir, quiet)?;
    let port = free_port()?;
    let mut command = Command::new(&args.node_exporter);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let theirs = Daemon::start(command, tempfile::tempdir_in(&args.dir)?, port, "/metrics")
        .context("node_exporter: tests/servers/install has one")?;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(cost(&[(&ours, "/metrics/node"), (&theirs, "/metrics")], args.scrapes)?);
    }
    let of = |which: usize| median(runs.iter().map(|run| run[which].0).collect());
    let ratio = median(runs.iter().map(|run| run[0].0 / run[1].0).collect());
    println!("| page | CPU ms a scrape | KiB | RSS MiB |\n|---|---:|---:|---:|");
    for (which, (name, daemon)) in
        [("/metrics/node", &ours), ("node_exporter", &theirs)].into_iter().enumerate()
    {
        println!("| {name} | {:.2} | {} | {:.1} |", of(which), runs[0][which].1 >> 10, daemon.memory()?[0]);
    }
    println!(
        "\nThe agent's to node_exporter's: {ratio:.2} (median of three runs of {} scrapes each).\n",
        args.scrapes
    );
    Ok(())
}

/// Pods with two or three containers each: of 11 pods 25 containers.
fn pods(containers: usize) -> Vec<PodSpec> {
    let made_after = default_pods(1);
    (0..containers * 11 / 25)
        .map(|number| {
            let mut pod = made_after[number % made_after.len()].clone();
            pod.namespace = format!("team-{}", number % 10);
            pod.name = format!("load-{number}");
            pod.uid = format!("{number:08x}-0000-4000-8000-000000000000");
            pod.host_network = false;
            let names = ["app", "proxy", "agent"].iter().take(if number % 11 < 3 { 3 } else { 2 });
            pod.containers = names.map(|name| ContainerSpec::new(name, Profile::Json)).collect();
            pod
        })
        .collect()
}

/// All pages of a simulated node, with logs and metrics on.
fn simulated(args: &Args, containers: usize, receiver: u16) -> anyhow::Result<[f64; 4]> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let mut options = SimOptions::new(dir.path());
    (options.pods, options.churn, options.rate) = (pods(containers), None, Rate::PerSecond(LINES));
    options.max_bytes = 256 << 20;
    let count: usize = options.pods.iter().map(|pod| pod.containers.len()).sum();
    let node = SimNode::start(options)?;
    let config = format!(
        "host: {{root: {}}}\nkubelet: {{url: \"http://{}\"}}\nexport: {{endpoint: \"http://127.0.0.1:{receiver}\"}}\n",
        node.root().display(),
        node.kubelet_address()
    );
    let agent = Daemon::agent(&args.dir, &config)?;
    std::thread::sleep(Duration::from_secs(15));
    let [(all, size)] = cost(&[(&agent, "/metrics")], args.scrapes)?[..] else { bail!("one page") };
    let [(rows, _)] = cost(&[(&agent, "/metrics/containers")], args.scrapes)?[..] else { bail!("one page") };
    let [now, peak] = agent.memory()?;
    println!(
        "| {count} | {} | {all:.1} | {rows:.1} | {:.1} | {} | {now:.1} | {peak:.1} |",
        pods(containers).len(),
        1e3 * all / count as f64,
        size >> 10
    );
    drop(agent);
    node.stop()?;
    Ok([count as f64, all, now, peak])
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    node_page(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (address, _received) = runtime.block_on(sink::serve())?;
    println!(
        "| containers | pods | CPU ms a scrape of `/metrics` | of `/metrics/containers` | µs a container | KiB | RSS MiB | peak |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut nodes = Vec::new();
    for containers in [250, 500, 1000] {
        nodes.push(simulated(&args, containers, address.port())?);
    }
    let (few, many) = (nodes[0], nodes[2]);
    println!(
        "\nFour times the containers cost {:.2} times the CPU and {:.2} times the memory.",
        many[1] / few[1],
        many[2] / few[2]
    );
    Ok(())
}
