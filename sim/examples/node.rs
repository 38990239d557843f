//! A simulated node to point an agent at by hand: `cargo run -p sonde-sim --example node -- DIR SECONDS LINES_PER_SECOND`
//! (0 = as fast as possible). Prints the kubelet's address, then what was written and where the truth is.

use std::time::Duration;

use anyhow::Context;
use sonde_sim::{Rate, SimNode, SimOptions};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: node DIR SECONDS LINES_PER_SECOND")?;
    let seconds: u64 = args.next().context("SECONDS")?.parse()?;
    let rate: u64 = args.next().context("LINES_PER_SECOND")?.parse()?;
    let mut options = SimOptions::new(dir);
    options.rate = if rate == 0 { Rate::Burst } else { Rate::PerSecond(rate) };
    let node = SimNode::start(options)?;
    println!("root {}, kubelet http://{}", node.root().display(), node.kubelet_address());
    std::thread::sleep(Duration::from_secs(seconds));
    let truth = node.stop()?;
    println!("{:?}\ntruth in {}", truth.stats, truth.archive.display());
    Ok(())
}
