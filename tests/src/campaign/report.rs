//! What a run did, as a row of a table.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use super::Server;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// `kill -9` of the agent.
    pub agent_kills: u32,
    /// Of the collectors.
    pub collector_kills: u32,
    /// Kills of the agent while a collector was down, and of a collector while the agent was.
    pub both_down: u32,
    /// Deletions of the agent's state.
    pub forgets: u32,
    /// SIGSTOP of the agent.
    pub agent_stops: u32,
    /// SIGSTOP of the collectors.
    pub collector_stops: u32,
    /// Outages: refused, muted, slow, overloaded, cut.
    pub outages: [u32; 5],
    /// Deaths of the sink that dies: refused, muted, nonsense, overloaded, cut.
    pub deaths: [u32; 5],
    /// Rollovers of the shared stream.
    pub rollovers: u32,
    /// Spells of a full state disk.
    pub full_disks: u32,
    /// The same that could not be made: no right to mount.
    pub full_disks_skipped: u32,
    /// Pods that lived for a second, and whose files were shipped and deleted.
    pub short_pods: u64,
    /// Compressed files that were shipped and deleted.
    pub deleted_gz: u64,
}

/// What a run did and what the verifier said.
#[derive(Clone, Debug)]
pub struct Report {
    /// The campaign's.
    pub seed: u64,
    /// The commit that this is of, with `-dirty` where it has changes.
    pub commit: String,
    /// OTLP/HTTP in place of gRPC.
    pub http: bool,
    /// How many there were.
    pub collectors: usize,
    /// What they shared.
    pub shared: Option<Server>,
    /// Lines written.
    pub lines: u64,
    /// Rotations.
    pub rotations: u64,
    /// `.gz` files that ever were.
    pub compressed: u64,
    /// Files that were read on from within after they had been compressed; those of the last second before a kill are not
    /// among them.
    pub resumes: u64,
    /// What was done.
    pub counts: Counts,
    /// Records that came again and were not stored again, at all collectors and sinks; those of the last second before a kill are not
    /// among them.
    pub duplicates: u64,
    /// Bytes that the agent's ledger has, all of them acknowledged.
    pub ledger: f64,
    /// From the first line to the last one stored.
    pub took: Duration,
    /// The verifier's table.
    pub verdict: String,
}

impl Report {
    /// The heads of the columns of [`Report`]'s row.
    pub const HEAD: &str = "\
| seed | commit | transport | collectors | into | lines | rotations | .gz | .gz resumes \
| kills agent/collectors (with the other down) | state deleted | stops agent/collectors \
| outages refused/muted/slow/overloaded/cut | full disk | other sink refused/muted/nonsense/overloaded/cut | rollovers \
| one-second pods | .gz deleted | resent and absorbed | MB in the ledger | seconds | verdict |
|---:|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|";
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let transport = if self.http { "HTTP" } else { "gRPC" };
        let into = match self.shared {
            None => "own store",
            Some(Server::Stub) => "shared stand-in",
            Some(Server::OpenSearch) => "shared OpenSearch",
        };
        write!(out, "| {} | {} | {transport} | {} | {into} ", self.seed, self.commit, self.collectors)?;
        write!(out, "| {} | {} | {} | {} ", self.lines, self.rotations, self.compressed, self.resumes)?;
        write!(out, "| {}/{} ({}) ", counts.agent_kills, counts.collector_kills, counts.both_down)?;
        write!(out, "| {} | {}/{} ", counts.forgets, counts.agent_stops, counts.collector_stops)?;
        write!(out, "| {} | {}", by_kind(counts.outages), counts.full_disks)?;
        if counts.full_disks_skipped > 0 {
            write!(out, " ({} SKIPPED)", counts.full_disks_skipped)?;
        }
        write!(out, " | {} | {} ", by_kind(counts.deaths), counts.rollovers)?;
        write!(out, "| {} | {} | {} ", counts.short_pods, counts.deleted_gz, self.duplicates)?;
        write!(out, "| {:.0} | {:.0} | agrees |", self.ledger / 1e6, self.took.as_secs_f64())
    }
}

fn by_kind(counts: [u32; 5]) -> String {
    counts.map(|count| count.to_string()).join("/")
}

/// What the working tree is, as git says it.
pub(super) fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(crate::root()).args(["describe", "--always", "--dirty", "--exclude=*"]);
    let said = git.output().ok().filter(|out| out.status.success());
    said.map_or("unknown".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
