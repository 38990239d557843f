//! The long campaign: `cargo build --workspace && cargo run -p sonde-tests --bin campaign -- --seed 1`.
//!
//! Prints one row of the table that `benches/results` keeps, and the verifier's verdict; exits 1 when it does not
//! agree, with the directory of the run kept.

use std::time::Duration;

use sonde_tests::campaign::Campaign;

fn main() -> anyhow::Result<()> {
    let mut campaign = Campaign {
        seed: 1,
        rate: 20_000,
        rotation: Duration::from_millis(400),
        agent_kills: 20,
        collector_kills: 10,
        pause: Duration::from_secs(4),
        away: Duration::from_secs(3),
        delete_state: true,
        http: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--http" {
            campaign.http = true;
            continue;
        }
        let value: u64 = arguments.next().unwrap_or_default().parse()?;
        match name.as_str() {
            "--seed" => campaign.seed = value,
            "--rate" => campaign.rate = value,
            "--rotation-ms" => campaign.rotation = Duration::from_millis(value),
            "--agent-kills" => campaign.agent_kills = u32::try_from(value)?,
            "--collector-kills" => campaign.collector_kills = u32::try_from(value)?,
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    let dir = tempfile::Builder::new().prefix("sonde-campaign-").disable_cleanup(true).tempdir()?;
    println!("seed {}, in {}", campaign.seed, dir.path().display());
    let report = campaign.run(dir.path())?;
    println!(
        "| seed | lines | rotations | .gz | kills agent/collector | resent and absorbed | seconds | verdict |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---|");
    println!(
        "| {} | {} | {} | {} | {}/{} | {} | {:.0} | agrees |",
        campaign.seed,
        report.lines,
        report.rotations,
        report.compressed,
        report.kills.0,
        report.kills.1,
        report.duplicates,
        report.took.as_secs_f64()
    );
    println!("{}", report.verdict);
    std::fs::remove_dir_all(dir.path())?;
    Ok(())
}
