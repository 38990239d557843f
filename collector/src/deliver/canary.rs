//! The agents' canaries at a sink: how long they were under way, and which are missing.
//!
//! A canary ([`sonde_wire::canary`]) goes through intake and queue as any record does. Where frames leave the queue it is taken
//! out of them, so that no sink ever has it, an OTLP receiver neither: it ends at the first collector. For a sink it counts as
//! delivered when all that was queued before it is settled there, which for the store means that queries find it, for an OTLP
//! sink that the next hop has acknowledged it. So its delay is that of a line that was written at the same time; where there
//! are no lines, a sink that is away is not noticed by canaries.
//!
//! Numbers of a run come in order from an agent of ours, see there; up to [`OUT_OF_ORDER`] are waited for, in case that something
//! in between sends several requests at once. What is missing then was acknowledged and lost, or acknowledged by another
//! replica: with several, only the sum of what all of them have, beside what the agents have acknowledged, says which.
//!
//! What tells nothing is not counted as something: the first number seen of a run is where counting begins (a collector that
//! starts knows nothing of before), frames that were queued before this start may have been delivered then and have no delay,
//! and after records were skipped (`when_behind`) counting begins anew.
//!
//! Memory, a sink: [`NODES`] rows and as many runs, each with a name of at most 253 bytes: below 5 MiB, whatever senders
//! invent. A run that was silent for [`SILENT`] makes room for another; while there is none, canaries are counted as
//! `untracked`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{self, Kind, Sink, Source};
use sonde_wire::canary::Canary;

/// Nodes with rows of their own, and runs whose numbers are followed.
const NODES: usize = 4096;
/// How long a run is silent before another may have its place.
const SILENT: Duration = Duration::from_secs(600);
/// How often such are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many numbers beyond one that is missing come before it is counted.
const OUT_OF_ORDER: i64 = 8;
/// A gap of more is another counting, or nonsense.
const GAP: i64 = 10_000;
/// Delays are counted as at most so many seconds: one nonsensical stamp must not be most of the sum.
const LONGEST_S: f64 = 86_400.0;
/// Upper ends of the delays, in seconds: those of the agent's `sonde_agent_canary_ack_seconds`.
const SECONDS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, f64::INFINITY];

/// A canary out of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// It.
    pub canary: Canary,
    /// Its frame was queued by this process, so it was not delivered before.
    pub fresh: bool,
    /// Its frame is marked as possibly sent before.
    pub resend: bool,
}

impl Seen {
    /// Those of a frame.
    pub fn all(canaries: Vec<Canary>, fresh: bool, resend: bool) -> Vec<Self> {
        canaries.into_iter().map(|canary| Self { canary, fresh, resend }).collect()
    }
}

/// A sink's canaries; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Canaries(Arc<Mutex<Account>>);

impl Canaries {
    /// All that was queued before these is settled, and so are they; in the queue's order.
    pub fn arrived(&self, seen: &[Seen]) {
        if seen.is_empty() {
            return;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (now, wall) = (Instant::now(), u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        let mut account = self.lock();
        seen.iter().for_each(|seen| account.arrived(seen, now, wall));
    }

    /// Some went by unseen: what is missing from here on is not told from those.
    pub fn begin_anew(&self) {
        self.lock().runs.clear();
    }

    /// What is shown of them, for the sink of this name.
    pub fn source(&self, sink: String) -> Box<dyn Source> {
        let canaries = self.clone();
        page::source("canary", move |out| {
            canaries.lock().show(&sink, out);
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outcomes of a node's canaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    missing: u64,
    /// Came again in a request that says that it may.
    resent: u64,
    /// Came again in one that does not.
    duplicate: u64,
}

/// Pure: times come in.
#[derive(Debug, Default)]
struct Account {
    nodes: HashMap<Box<str>, Counts>,
    runs: HashMap<(Box<str>, i64), Numbers>,
    delays: [u64; SECONDS.len()],
    delay_seconds: f64,
    /// Written after they arrived, by the clocks of node and collector.
    ahead: u64,
    untracked: u64,
    /// When silent runs were looked for.
    looked: Option<Instant>,
}

impl Account {
    fn arrived(&mut self, seen: &Seen, now: Instant, wall_unix_nano: u64) {
        let Canary { node, run, number, written_unix_nano } = &seen.canary;
        if !self.has_room(node, *run, now) {
            self.untracked += 1;
            return;
        }
        let counts = self.nodes.entry(node.clone()).or_default();
        let numbers = self.runs.entry((node.clone(), *run));
        let numbers = numbers.or_insert_with(|| Numbers::begin(*number, now));
        let (is_new, missing) = numbers.take(*number, now);
        counts.missing += missing;
        if !is_new {
            if seen.resend {
                counts.resent += 1;
            } else {
                counts.duplicate += 1;
            }
            return;
        }
        counts.delivered += 1;
        if seen.fresh {
            self.observe(*written_unix_nano, wall_unix_nano);
        }
    }

    fn observe(&mut self, written_unix_nano: u64, wall_unix_nano: u64) {
        self.ahead += u64::from(written_unix_nano > wall_unix_nano);
        let delay = Duration::from_nanos(wall_unix_nano.saturating_sub(written_unix_nano));
        let seconds = delay.as_secs_f64().min(LONGEST_S);
        self.delay_seconds += seconds;
        let at = SECONDS.iter().position(|end| seconds <= *end).unwrap_or(SECONDS.len() - 1);
        self.delays[at] += 1;
    }

    /// Whether node and run are known, or there is a place for them.
    fn has_room(&mut self, node: &str, run: i64, now: Instant) -> bool {
        let is_known = self.runs.contains_key(&(node.into(), run));
        let is_full = self.runs.len() >= NODES || self.nodes.len() >= NODES;
        let looked = self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY);
        if !is_known && is_full && !looked {
            self.looked = Some(now);
            self.runs.retain(|_, numbers| now.saturating_duration_since(numbers.last) < SILENT);
            let alive: HashSet<&str> = self.runs.keys().map(|(node, _)| &**node).collect();
            self.nodes.retain(|node, _| alive.contains(&**node));
        }
        is_known || self.runs.len() < NODES && (self.nodes.contains_key(node) || self.nodes.len() < NODES)
    }

    fn show(&self, sink: &str, out: &mut Sink) {
        let delays: Vec<(f64, u64)> = SECONDS.into_iter().zip(self.delays).collect();
        let help = "Time from writing a canary on its node until all that was queued up to it is settled at the sink.";
        out.family(Kind::Histogram, "sonde_collector_canary_delay_seconds", help).histogram(
            [("sink", sink)],
            self.delay_seconds,
            &delays,
        );
        let help = "Canaries by node and what became of them at the sink; missing = lost, or gone to another replica.";
        let mut rows = out.counter("sonde_collector_canary_records_total", help);
        for (node, counts) in &self.nodes {
            for (outcome, count) in [
                ("delivered", counts.delivered),
                ("missing", counts.missing),
                ("resent", counts.resent),
                ("duplicate", counts.duplicate),
            ] {
                rows.row([("sink", sink), ("node", node), ("outcome", outcome)], count);
            }
        }
        let help = "Canaries that were written after they arrived, by the clocks of node and collector: their delay counts as 0.";
        out.counter("sonde_collector_canary_ahead_total", help).row([("sink", sink)], self.ahead);
        let help = "Canaries of more nodes than are followed.";
        out.counter("sonde_collector_canary_untracked_total", help).row([("sink", sink)], self.untracked);
    }
}

/// Which numbers of a run came.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The highest so far.
    highest: i64,
    /// Bit n: `highest - n` came, or is none of ours.
    came: u16,
    last: Instant,
}

// The bits are those of the numbers that are waited for, and of the highest.
const _: () = assert!(OUT_OF_ORDER < 16);

impl Numbers {
    /// Counting begins before this number.
    fn begin(number: i64, now: Instant) -> Self {
        Self { highest: number - 1, came: u16::MAX, last: now }
    }

    /// Whether the number is new, and how many are given up by it.
    fn take(&mut self, number: i64, now: Instant) -> (bool, u64) {
        self.last = now;
        let ahead = number.saturating_sub(self.highest);
        if ahead > GAP {
            *self = Self::begin(number, now);
            return self.take(number, now);
        }
        if ahead <= 0 {
            let back = -ahead;
            let bit = if back <= OUT_OF_ORDER { 1_u16 << back } else { 0 };
            let is_new = bit != 0 && self.came & bit == 0;
            self.came |= bit;
            return (is_new, 0);
        }
        let mut missing = 0;
        for _ in 0..ahead {
            missing += u64::from(self.came >> OUT_OF_ORDER & 1 == 0);
            self.came <<= 1;
        }
        self.came |= 1;
        self.highest = number;
        (true, missing)
    }
}

#[cfg(test)]
mod tests;
