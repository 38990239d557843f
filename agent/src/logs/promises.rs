//! Promises of the log reader, on the simulated node: one situation each.

use super::simulation::World;
use crate::config::ReadExisting;

mod compressed;
mod copies;
mod docker;
mod docker_names;
mod files;
mod files_anew;
mod files_known;
mod gaps;
mod late;
mod limits;
mod lines;
mod multiline;
mod pinned;
mod privacy;
mod quiet;
mod receiver;
mod reuse;
mod rotation;
mod rules;
mod starts;
mod truncation;

const LIVE: &str = "ns_pod_uid/app/0.log";

fn entry(second: u32, stream: &str, tag: &str, body: &str) -> String {
    format!("2026-11-20T16:35:{second:02}.000000001Z {stream} {tag} {body}\n")
}

fn full(second: u32, body: &str) -> String {
    entry(second, "stdout", "F", body)
}

fn world() -> World {
    World::new(ReadExisting::All)
}

fn pending(world: &World) -> u64 {
    world.core.ledger.rows().map(|(_, row)| row.pending()).sum()
}
