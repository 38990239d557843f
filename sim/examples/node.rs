//! A simulated node to point an agent at by hand, or from a test in another language:
//! `cargo run -p sonde-sim --example node -- DIR LINES_PER_SECOND [trouble] [steady] [resting]` (0 = as fast as
//! possible; `trouble`: with the pods of `troubled_pods`; `steady`: no other pod starts, ends or restarts; `resting`: it
//! rests until it is told to work). Prints one JSON object a line: first where it is, then an answer to each line of
//! its input, until that ends:
//!
//! - `load`: what each pod uses now, and what was written; while it rests, as the files say
//! - `rest`: nothing is written, starts or ends until `work`; answers as `load`, when all files say so
//! - `kubelet STATUS`: the kubelet answers with this HTTP status; `kubelet 0`: properly again
//! - `stop`, or the end of the input: writes no more, and says where every line is

use std::io::{BufRead, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};
use sonde_sim::{Rate, SimNode, SimOptions, troubled_pods};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: node DIR LINES_PER_SECOND [trouble] [steady] [resting]")?;
    let rate: u64 = args.next().context("LINES_PER_SECOND")?.parse()?;
    let mut options = SimOptions::new(dir);
    options.rate = if rate == 0 { Rate::Burst } else { Rate::PerSecond(rate) };
    let mut resting = false;
    for word in args {
        match word.as_str() {
            "resting" => resting = true,
            "trouble" => options.pods.extend(troubled_pods(options.seed)),
            "steady" => options.churn = None,
            _ => anyhow::bail!("`{word}` is none of trouble, steady, resting"),
        }
    }
    let node = SimNode::start(options)?;
    if resting {
        node.rest()?;
    }
    say(&json!({"root": node.root(), "kubelet": format!("http://{}", node.kubelet_address())}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["load"] => say(&load(&node))?,
            ["rest"] => {
                node.rest()?;
                say(&load(&node))?;
            }
            ["work"] => {
                node.work()?;
                say(&json!({"works": true}))?;
            }
            ["kubelet", status] => {
                node.fail_kubelet(Some(status.parse()?).filter(|status| *status != 0));
                say(&json!({"kubelet": status}))?;
            }
            ["stop"] => break,
            _ => {
                say(&json!({"error": format!("`{line}` is none of load, rest, work, kubelet STATUS, stop")}))?
            }
        }
    }
    let truth = node.stop()?;
    let stats = truth.stats;
    say(
        &json!({"archive": truth.archive, "lines": stats.lines, "bytes": stats.bytes, "rotations": stats.rotations}),
    )
}

fn load(node: &SimNode) -> Value {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let stats = node.stats();
    json!({"at": at, "lines": stats.lines, "bytes": stats.bytes, "asked": stats.asked, "pods": node.load()})
}

fn say(answer: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}
