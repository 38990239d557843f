//! What drives a sink: reads the queue at the sink's cursor, keeps a few batches under way, moves the cursor.
//!
//! # Promises
//! 1. The cursor moves over a frame only when every record in it, and in all frames before it, is settled; refused
//!    ones are durable among the dead letters then.
//! 2. Frames that an earlier process, or an earlier try of this one, may have sent are handed over in doubt
//!    ([`State::InDoubt`](super::batch::State::InDoubt)); so are those that their sender marked, and those that waited long enough for another
//!    collector to have got them too.
//! 3. A destination that is away or answers nonsense costs a wait: 0.5 to 30 s with jitter, never less than it asked
//!    for; one that has to be set right first is probed once a minute. How many requests it gets at a time adapts to it
//!    ([`super::limit`]).
//! 4. A record that the destination cannot cope with (by its own word about that one) is tried alone while all else goes
//!    on, within `window_bytes`; it is a dead letter after five tries, some time ([`Timing::put_off`]) and some tries
//!    between which others were taken ([`Timing::rounds`]; one where such records fill the window). While it takes no others, nothing is given up: it is the
//!    destination that has to be set right.
//! 5. With `when_behind: skip`, what lies more than `max_lag_bytes` behind the queue's end is given up and counted.
//! 6. Canaries are taken out of the frames and never handed over; they count as delivered when the cursor is past them.
//! 7. A panic in a sink costs the batches under way a new start from the cursor, in doubt, and nobody else anything.
//!
//! # Memory
//! Decoded batches under way: `window_bytes`, or one request where that is larger; beside it the payloads of the batch
//! that is being gathered (`batch_bytes`, or one request), one decoded request for each batch while it is unpacked, and
//! what the sink says; for a batch with refused records 17 bytes each, 1 MiB of reasons and some 4 MiB of their dead letters
//! ([`Lines`](super::dead_letter::Lines)); for a sink that [forwards](super::Sink::forwards), the compressed requests too, and some 100 bytes for each batch that is settled behind one that is not, and for 16,384 canaries in such.
//!
//! [`turns`] is the loop, [`mod@carry`] the way of one batch, [`mod@unpack`] its beginning, [`numbers`] what is shown.

mod carry;
mod numbers;
#[cfg(test)]
mod tests;
mod turns;
mod unpack;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use sonde_daemon::backoff::LONGEST_ASKED;
use sonde_daemon::client::gate::Gate;
use sonde_daemon::health::Heartbeat;
use sonde_daemon::log::RateLimit;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::numbers::Numbers;

use self::carry::Shared;
use self::turns::Turns;
use super::Sink;
use super::canary::Canaries;
use super::dead_letter::Shelf;
use super::limit::Limit;
use crate::queue::{Position, Queue, Signal};

/// What a lane needs to know.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The sink's name: of its cursor, its metrics and its dead letters.
    pub name: String,
    /// What is in the queue.
    pub signal: Signal,
    /// Give up what lies this far behind; `None` = hold it.
    pub skip_beyond: Option<u64>,
    /// Largest request after decompression, bytes, as for the store's delivery.
    pub request_bytes: usize,
    /// `k8s.cluster.name` of log records that came without one; empty = none. Metrics and traces stay as they came.
    pub cluster: String,
    /// Decoded bytes that are gathered into a batch.
    pub batch_bytes: u64,
    /// Decoded bytes of all batches under way.
    pub window_bytes: u64,
    /// Most requests to the destination at a time.
    pub in_flight: u32,
    /// How long things may take; other values are for tests.
    pub timing: Timing,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two probes of a destination that holds us.
    pub probe_every: Duration,
    /// Between two tries, whatever a destination asks for; also the rest after a panic.
    pub longest_wait: Duration,
    /// How long a record that the destination cannot cope with is tried at least, before it is a dead letter.
    pub put_off: Duration,
    /// And tries of it between which the destination took others, at least.
    pub rounds: u32,
}

impl Timing {
    /// Of a sink that senders wait for: they wait 20 s, and most of them send nothing else meanwhile.
    pub fn awaited() -> Self {
        Self { put_off: Duration::from_secs(5), rounds: 2, ..Self::default() }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_secs(60),
            longest_wait: LONGEST_ASKED,
            put_off: Duration::from_secs(120),
            rounds: 5,
        }
    }
}

/// A running lane.
pub struct Lane {
    task: JoinHandle<()>,
    numbers: Arc<Numbers>,
    canaries: Canaries,
    settled: watch::Receiver<Position>,
    starved: Arc<AtomicBool>,
}

impl Lane {
    /// Its numbers.
    pub fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }

    /// Its canaries.
    pub fn canaries(&self) -> &Canaries {
        &self.canaries
    }

    /// The position up to which all is settled.
    pub fn settled(&self) -> watch::Receiver<Position> {
        self.settled.clone()
    }

    /// Whether all that is left are records that the destination cannot cope with: without others that it takes,
    /// none of them is given up.
    pub fn starved(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.starved)
    }

    /// Waits until it has ended.
    pub async fn join(self) {
        if self.task.await.is_err() {
            tracing::error!("the delivery to a sink ended with a panic");
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// Starts a lane on the tokio runtime. When `stop` turns true (or its sender is gone), it lets requests that are under
/// way end, and ends; what is not settled is in the queue. `heartbeat` beats at least once a second.
pub fn start<S: Sink>(
    queue: &Queue,
    sink: S,
    options: LaneOptions,
    shelf: Shelf,
    stop: watch::Receiver<bool>,
    heartbeat: Heartbeat,
) -> Lane {
    let (numbers, canaries) = (Arc::new(Numbers::default()), Canaries::default());
    let cursor = queue.register(&options.name, None).position;
    let (settled, settled_by) = watch::channel(cursor);
    let starved = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(Shared {
        sink,
        limit: Limit::new(options.in_flight),
        stuck: AtomicUsize::new(0),
        starved: Arc::clone(&starved),
        blocked: AtomicBool::new(false),
        gate: Gate::new(options.timing.probe_every),
        shelf: Arc::new(shelf),
        numbers: Arc::clone(&numbers),
        canaries: canaries.clone(),
        complaints: RateLimit::new(Duration::from_secs(30)),
        stop,
        options,
    });
    let turns = Turns::new(queue, cursor, shared, settled);
    Lane { task: tokio::spawn(turns.run(heartbeat)), numbers, canaries, settled: settled_by, starved }
}
