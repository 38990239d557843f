//! The canary: a synthetic record each `canary.interval`, in a request of its own, to measure how long the way to the sinks takes
//! and whether all arrives. [`sonde_wire::canary`] is its form; what the collector does with it is in its `deliver::canary`.
//!
//! It is put where the readers put their requests, not into a file that the log reader would find: a line of ours in a file
//! needs a row of the users' ledger, stands under their rules and limits, and says nothing of a file that the ledger does not
//! say byte by byte. So it waits for a slot among the users' requests, is compressed, sent, sent again and acknowledged as
//! they are; its time is that before the wait.
//!
//! - One canary is under way at a time, and it has the next number when the one before it was acknowledged: a number that a
//!   collector misses was acknowledged and lost, or went to another replica. While the receiver is away there is one, and its
//!   age is shown.
//! - One that the receiver refuses for good is counted, and its number is given to the next.
//! - Nothing is on the disk: after a restart there is another run, which begins at 1.
//!
//! Memory: one request of some 400 bytes.

pub mod metrics;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sonde_daemon::shutdown::Shutdown;
use sonde_wire::canary::Canary;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::metrics::CanaryMetrics;
use crate::batch::{Batch, BatchId, Outcome, Settlement};

/// Marks the canary's batches among those of the process.
const OURS: u64 = 1 << 62;

/// Whether a batch is a canary.
pub fn is_ours(id: BatchId) -> bool {
    id.0 >> 62 == 1
}

/// What a canary says of where it is from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// `k8s.cluster.name`; empty = none.
    pub cluster: String,
    /// `k8s.node.name`.
    pub node: String,
}

/// Which canary comes next, and what became of the last one.
struct Run {
    origin: Origin,
    /// Its name: when it began, Unix nanoseconds.
    name: i64,
    /// How many were acknowledged.
    acknowledged: i64,
    /// Batches so far.
    batches: u64,
    under_way: Option<(BatchId, Instant)>,
    metrics: CanaryMetrics,
}

impl Run {
    fn new(origin: Origin, began_unix_nano: u64, metrics: CanaryMetrics) -> Self {
        let name = i64::try_from(began_unix_nano).unwrap_or(i64::MAX);
        Self { origin, name, acknowledged: 0, batches: 0, under_way: None, metrics }
    }

    /// The next canary, unless one is under way.
    fn write(&mut self, now: Instant, wall_unix_nano: u64) -> Option<Batch> {
        if self.under_way.is_some() {
            return None;
        }
        let canary = Canary {
            node: self.origin.node.as_str().into(),
            run: self.name,
            number: self.acknowledged + 1,
            written_unix_nano: wall_unix_nano,
        };
        let id = BatchId(OURS | self.batches);
        self.batches += 1;
        self.under_way = Some((id, now));
        self.metrics.written(now);
        let payload = Bytes::from(canary.request(&self.origin.cluster));
        Some(Batch { id, payload, records: 1, oldest: now, resend: false })
    }

    /// The exporter's word.
    fn on_settlement(&mut self, settlement: &Settlement, now: Instant) {
        let Some((_, written)) = self.under_way.take_if(|(id, _)| *id == settlement.id) else { return };
        match &settlement.outcome {
            Outcome::Accepted { rejected: 0, .. } => {
                self.acknowledged += 1;
                self.metrics.acknowledged(now.saturating_duration_since(written));
            }
            Outcome::Accepted { message: words, .. } | Outcome::Refused { code: words } => {
                tracing::warn!(words, "the receiver refuses the canary for good");
                self.metrics.rejected();
            }
            Outcome::Abandoned => {}
        }
    }
}

/// Where the exporter's word on a canary goes.
#[derive(Clone, Debug)]
pub struct Door(mpsc::Sender<Settlement>);

/// The other side of a [`Door`].
#[derive(Debug)]
pub struct Words(mpsc::Receiver<Settlement>);

impl Door {
    /// A door and its inside. There is room for the one canary that is under way.
    pub fn new() -> (Self, Words) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), Words(receiver))
    }

    /// The exporter's word. Never waits.
    pub fn settle(&self, settlement: Settlement) {
        // Where nobody listens any more, the process is about to end.
        let _ = self.0.try_send(settlement);
    }
}

/// Sends a canary each `interval` until the stop, or until nobody else sends any more: a canary keeps no exporter running
/// whose readers have ended.
pub async fn run(
    origin: Origin,
    interval: Duration,
    batches: mpsc::WeakSender<Batch>,
    mut words: Words,
    metrics: CanaryMetrics,
    shutdown: Shutdown,
) {
    let mut run = Run::new(origin, wall_unix_nano(), metrics);
    let mut turn = tokio::time::interval(interval);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(shutdown.wait());
    loop {
        tokio::select! {
            _ = &mut stop => return,
            Some(settlement) = words.0.recv() => run.on_settlement(&settlement, Instant::now()),
            _ = turn.tick() => {
                let Some(sender) = batches.upgrade() else { return };
                if let Some(batch) = run.write(Instant::now(), wall_unix_nano()) {
                    tokio::select! {
                        _ = &mut stop => return,
                        sent = sender.send(batch) => if sent.is_err() { return },
                    }
                }
            }
        }
    }
}

fn wall_unix_nano() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
