//! The long campaign: `cargo build --workspace && cargo run -p sonde-tests --bin campaign -- --seed 1`.
//!
//! Prints its events as they happen, the verifier's verdict, and one row of the table that `benches/results` keeps; exits 1
//! when the verifier does not agree, with the directory of the run kept. `--sabotage drop|double` shows that it can.

use std::time::Duration;

use sonde_tests::campaign::schedule::Plan;
use sonde_tests::campaign::{Campaign, Report, Sabotage, number};

fn main() -> anyhow::Result<()> {
    let mut campaign = Campaign {
        seed: 1,
        rate: 2_500,
        rotation: Duration::from_millis(500),
        plan: Plan {
            agent_kills: 140,
            collector_kills: 80,
            forgets: 2,
            stops: 15,
            outages: 60,
            full_disks: 10,
            pause: Duration::from_secs(2),
        },
        http: false,
        sabotage: None,
        verbose: true,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--http" => campaign.http = true,
            "--quiet" => campaign.verbose = false,
            "--sabotage" => {
                campaign.sabotage = Some(match arguments.next().as_deref() {
                    Some("drop") => Sabotage::Drop,
                    Some("double") => Sabotage::Double,
                    other => anyhow::bail!("--sabotage drop or double, not {other:?}"),
                });
            }
            name => set(&mut campaign, name, number(name, arguments.next())?)?,
        }
    }
    let dir = tempfile::Builder::new().prefix("sonde-campaign-").disable_cleanup(true).tempdir()?;
    println!("seed {}, in {}", campaign.seed, dir.path().display());
    let report = campaign.run(dir.path())?;
    println!("{}\n{}\n{report}", report.verdict, Report::HEAD);
    std::fs::remove_dir_all(dir.path())?;
    Ok(())
}

fn set(campaign: &mut Campaign, name: &str, value: u64) -> anyhow::Result<()> {
    let plan = &mut campaign.plan;
    let count = u32::try_from(value)?;
    match name {
        "--seed" => campaign.seed = value,
        "--rate" => campaign.rate = value,
        "--rotation-ms" => campaign.rotation = Duration::from_millis(value),
        // Of both daemons together, as they are by default.
        "--kills" => (plan.agent_kills, plan.collector_kills) = (count - count * 4 / 11, count * 4 / 11),
        "--agent-kills" => plan.agent_kills = count,
        "--collector-kills" => plan.collector_kills = count,
        "--forgets" => plan.forgets = count,
        "--stops" => plan.stops = count,
        "--outages" => plan.outages = count,
        "--full-disks" => plan.full_disks = count,
        "--pause-ms" => plan.pause = Duration::from_millis(value),
        other => anyhow::bail!("unknown argument {other}"),
    }
    Ok(())
}
