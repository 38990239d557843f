//! What a scrape costs the agent: the node's page beside a real node_exporter on this machine, and all pages of simulated nodes
//! with 250, 500 and 1,000 containers, with logs read and metrics pushed meanwhile.
//!
//! `cargo run --release -p sonde-benches --bin scrape -- [--scrapes 40] [--dir /dev/shm] [--node-exporter FILE]` prints two tables. CPU
//! is that of the whole process, of threads that have ended too, while it is scraped once in 1.05 s (a sample is shared for
//! one), less what it used in as long a time without scrapes just before. The programs of the first table are scraped in turn,
//! in one run, each page in two ways: on a connection of its own and as it is, and as Prometheus does, on one kept connection
//! and compressed. With `--before AGENT` another build of the agent is scraped beside them. The simulated cgroups are plain
//! files in memory: what the kernel does to make the text of a real one is not in the second table.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use sonde_benches::{agent, clock, median, sink};
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
    /// Another agent, to compare with.
    #[arg(long)]
    before: Option<PathBuf>,
    /// The node's page alone.
    #[arg(long)]
    node_only: bool,
}

/// Two scrapes are never within the second for which a sample is shared.
const BETWEEN: Duration = Duration::from_millis(1050);
/// The node's page.
const NODE: &str = "/metrics/node";
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
        while daemon.scrape(path, &mut None).is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("{:?} does not answer", command.get_program());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn agent(binary: &Path, scratch: &Path, config: &str) -> anyhow::Result<Self> {
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
        let mut command = Command::new(binary);
        command.arg("--config").arg(&file);
        Self::start(command, dir, port, "/readyz")
    }

    /// A page's length as it is sent. With a connection that is kept, as Prometheus scrapes: compressed, and there is one
    /// afterwards.
    fn scrape(&self, path: &str, kept: &mut Option<Kept>) -> anyhow::Result<usize> {
        let Some(kept) = kept else {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let request = format!("GET {path} HTTP/1.0\r\nAccept-Encoding: identity\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut page = Vec::new();
            stream.read_to_end(&mut page)?;
            anyhow::ensure!(
                page.starts_with(b"HTTP/1.") && page[8..].starts_with(b" 200"),
                "{path} is refused"
            );
            return Ok(page.len());
        };
        kept.scrape(self.port, path)
    }

    /// CPU time of the process, milliseconds.
    fn cpu(&self) -> anyhow::Result<f64> {
        Ok(clock::cpu(self.child.id())?.as_secs_f64() * 1e3)
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

/// A connection that is kept between scrapes.
#[derive(Default)]
struct Kept(Option<BufReader<TcpStream>>);

impl Kept {
    fn scrape(&mut self, port: u16, path: &str) -> anyhow::Result<usize> {
        let stream = match &mut self.0 {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                none.insert(BufReader::new(stream))
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nAccept-Encoding: gzip\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            anyhow::ensure!(stream.read_line(&mut head)? > 0, "{path}: the connection has ended");
        }
        let head = head.to_ascii_lowercase();
        anyhow::ensure!(
            head.starts_with("http/1.1 200") && head.contains("content-encoding: gzip"),
            "{path}: {head}"
        );
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut size = 0;
        match length {
            Some(length) => size += Self::skip(stream, length.trim().parse()?)?,
            // In chunks: a length, so many bytes, and a line's end each, and an empty one at the end.
            None => loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                let chunk = usize::from_str_radix(line.trim(), 16).context("a chunk's length")?;
                size += chunk;
                Self::skip(stream, chunk + 2)?;
                if chunk == 0 {
                    break;
                }
            },
        }
        Ok(size)
    }

    fn skip(stream: &mut BufReader<TcpStream>, bytes: usize) -> anyhow::Result<usize> {
        let mut page = vec![0; bytes];
        stream.read_exact(&mut page)?;
        Ok(bytes)
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// CPU milliseconds a scrape of each of these, scraped in turn, less what they use unscraped; and the pages' lengths.
fn cost(daemons: &[(&Daemon, &str)], scrapes: u32, keep: bool) -> anyhow::Result<Vec<(f64, usize)>> {
    let mut sizes = vec![0; daemons.len()];
    let mut spent = vec![Vec::new(); 2];
    for (scraped, spent) in [false, true].into_iter().zip(&mut spent) {
        // None is kept while nothing is asked for: the agent closes it.
        let mut kept: Vec<_> = daemons.iter().map(|_| keep.then(Kept::default)).collect();
        for (((daemon, path), size), kept) in daemons.iter().zip(&mut sizes).zip(&mut kept) {
            *size = daemon.scrape(path, kept)?;
        }
        let before: Vec<f64> = daemons.iter().map(|(daemon, _)| daemon.cpu()).collect::<Result<_, _>>()?;
        for _ in 0..scrapes {
            let next = Instant::now() + BETWEEN;
            for ((daemon, path), kept) in daemons.iter().zip(&mut kept).filter(|_| scraped) {
                daemon.scrape(path, kept)?;
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
    let port = free_port()?;
    let mut command = Command::new(&args.node_exporter);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let theirs = Daemon::start(command, tempfile::tempdir_in(&args.dir)?, port, "/metrics")
        .context("node_exporter: tests/servers/install has one")?;
    let mut daemons = vec![
        ("node_exporter", theirs, "/metrics"),
        ("`/metrics/node`", Daemon::agent(&agent::binary()?, &args.dir, quiet)?, NODE),
    ];
    if let Some(before) = &args.before {
        daemons.push(("`/metrics/node` of the other agent", Daemon::agent(before, &args.dir, quiet)?, NODE));
    }
    let pages: Vec<(&Daemon, &str)> = daemons.iter().map(|(_, daemon, path)| (daemon, *path)).collect();
    println!(
        "| page | asked for | CPU ms a scrape | to node_exporter's | KiB | RSS MiB |\n|---|---|---:|---:|---:|---:|"
    );
    for (keep, way) in [(false, "a connection each, as it is"), (true, "as Prometheus does: kept, gzip")] {
        let mut runs = Vec::new();
        for _ in 0..3 {
            runs.push(cost(&pages, args.scrapes, keep)?);
        }
        for (at, (name, daemon, _)) in daemons.iter().enumerate() {
            let cpu = median(runs.iter().map(|run| run[at].0).collect());
            let ratio = median(runs.iter().map(|run| run[at].0 / run[0].0).collect());
            let (size, memory) = (runs[0][at].1 >> 10, daemon.memory()?[0]);
            println!("| {name} | {way} | {cpu:.2} | {ratio:.2} | {size} | {memory:.1} |");
        }
    }
    println!("\nMedians of three runs of {} scrapes each.\n", args.scrapes);
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
    let agent = Daemon::agent(&agent::binary()?, &args.dir, &config)?;
    std::thread::sleep(Duration::from_secs(15));
    let [(all, size)] = cost(&[(&agent, "/metrics")], args.scrapes, false)?[..] else { bail!("one page") };
    let [(rows, _)] = cost(&[(&agent, "/metrics/containers")], args.scrapes, false)?[..] else {
        bail!("one page")
    };
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
    if args.node_only {
        return Ok(());
    }
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
