//! `ack: delivered`: a request is acknowledged when every required sink is done with it.
//!
//! # Promises
//! 1. The answer is yes only when the frame is in the queue and the cursor of every required sink is past it: each of
//!    its records was delivered, found to be there already, or refused for good and is durable among the dead letters
//!    (asking the sender to come again would not change that).
//! 2. Nobody waits longer than `patience`, and at a stop not beyond [`Acks::end_by`]: then the sender is asked to come
//!    again. Its frame stays in the queue and is delivered all the same; what comes again is told by its uid.
//! 3. While a frame whose wait was given up is not delivered, nothing is queued: senders are refused before their
//!    request takes space. So a sink that is away for hours costs the queue one round of requests and not one more
//!    for each try; the files of the senders are the buffer. A sender that goes away at once closes this for nobody.
//! 4. One exception: where all that is left in the required sinks are records that they cannot cope with, one request
//!    a second is let in, since only others that are taken show that it is those records ([`super::lane`]). It ends
//!    by itself with a sink that takes nothing, at the latest when the lane's `window_bytes` are full.
//! 5. A frame that the queue lost while somebody waited (damaged, deleted by somebody else) is never answered with
//!    yes: found damage asks all who wait at that time to come again, and ends a refusal by promise 3.
//!
//! # Memory
//! Who waits keeps what its request has reserved of `limits.in_flight`: its body. Beside that a waiting request costs
//! a few KiB for its task and headers; that part is bounded by `limits.connections` and the 32 streams of each, not
//! by `limits.in_flight`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{self, Source};
use sonde_daemon::receive::admission::Grant;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::queue::{Damaged, Frame, Position, Queue, Signal};
use crate::receive::{Appending, Intake, IntakeError};

/// How long a sender waits for the required sinks. Senders that wait less go away by themselves.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A sender that goes away after this share of it says that a sink is slow, and not only something of itself.
const SLOW_SHARE: u32 = 5;
/// One that goes away earlier says it too where nothing at all was settled in this time.
const STILL: Duration = Duration::from_secs(1);
/// Between two requests that are let in for sinks that cannot cope with what they have.
const LET_IN_EVERY: Duration = Duration::from_secs(1);

/// A sink that has to be done with a request before it is acknowledged.
#[derive(Clone, Debug)]
pub struct Required {
    /// Up to where it is done with all.
    pub settled: watch::Receiver<Position>,
    /// All that it has left are records that it cannot cope with.
    pub starved: Arc<AtomicBool>,
}

/// The intake of a collector that acknowledges what was delivered. Clones are the same one.
#[derive(Clone)]
pub struct Acks(Arc<Shared>);

struct Shared {
    queue: Queue,
    patience: Duration,
    /// Up to where each required sink is done; known before the first request is answered.
    required: OnceLock<Vec<Required>>,
    given_up: Mutex<Option<GivenUp>>,
    /// When a request was let in last for sinks that cannot cope with what they have.
    let_in: Mutex<Option<Instant>>,
    end: watch::Sender<Option<Instant>>,
    waiting: AtomicUsize,
}

/// The last frame that nobody waits for although a required sink is not done with it.
#[derive(Clone, Copy)]
struct GivenUp {
    position: Position,
    /// What was damaged in the queue before it was there.
    damaged: Damaged,
}

impl Acks {
    /// In front of `queue`. Nothing is acknowledged before [`Self::require`].
    pub fn new(queue: Queue, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            queue,
            patience,
            required: OnceLock::new(),
            given_up: Mutex::default(),
            let_in: Mutex::default(),
            end: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Says who has to be done with a frame. Counts once.
    pub fn require(&self, sinks: Vec<Required>) {
        let _ = self.0.required.set(sinks);
    }

    /// At a stop: no wait goes on beyond this instant.
    pub fn end_by(&self, end: Instant) {
        self.0.end.send_replace(Some(end));
    }

    /// What it shows on `/metrics`, as what is in front of a signal's queue.
    pub fn source(&self, signal: Signal) -> Box<dyn Source> {
        let acks = self.clone();
        page::source("ack", move |out| {
            let help = "Requests that are in the queue and wait for the required sinks.";
            out.gauge("sonde_collector_ack_waiting", help)
                .row(signal.label(), acks.0.waiting.load(Ordering::Relaxed) as u64);
            let help = "1 while requests are refused because a required sink has not taken earlier ones.";
            out.gauge("sonde_collector_ack_refusing", help)
                .row(signal.label(), u64::from(!acks.0.keeps_up()));
            Ok(())
        })
    }
}

impl Shared {
    /// Whether the required sinks are done with all that nobody waits for any more.
    fn keeps_up(&self) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(GivenUp { position, damaged }) = *given_up else { return true };
        // Damage may have been that frame, and then no sink ever gets past it before another comes.
        let done = self.queue.damaged() != damaged
            || self.required().iter().all(|sink| *sink.settled.borrow() > position);
        if done {
            *given_up = None;
        }
        done
    }

    fn required(&self) -> &[Required] {
        self.required.get().map_or(&[], Vec::as_slice)
    }

    /// Whether a request is let in although the sinks do not keep up (promise 4); then no other is for a while.
    fn lets_in(&self) -> bool {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = given_up.map(|given_up| given_up.position).unwrap_or_default();
        drop(given_up);
        let starved =
            |sink: &Required| *sink.settled.borrow() > passed || sink.starved.load(Ordering::Relaxed);
        if !self.required().iter().all(starved) {
            return false;
        }
        let mut let_in = self.let_in.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lets = let_in.is_none_or(|last| now.duration_since(last) >= LET_IN_EVERY);
        if lets {
            *let_in = Some(now);
        }
        lets
    }

    /// Up to where the slowest of the required sinks is.
    fn slowest(&self) -> Option<Position> {
        self.required().iter().map(|sink| *sink.settled.borrow()).min()
    }

    async fn append(&self, frame: Frame, grant: Arc<Grant>) -> Result<(), IntakeError> {
        if !self.keeps_up() && !self.lets_in() {
            return Err(IntakeError::Undelivered);
        }
        let damaged = self.queue.damaged();
        let position = self.queue.append_held(frame, Some(Arc::clone(&grant))).await?;
        let mut waiting = Waiting::begin(self, GivenUp { position, damaged });
        let mut end = self.end.subscribe();
        let stopped = async {
            let end = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
            tokio::time::sleep_until(end.unwrap_or_else(Instant::now)).await;
        };
        tokio::select! {
            biased;
            done = self.delivered(position) => {
                waiting.delivered = done;
                match done {
                    false => Err(IntakeError::Closed),
                    // The sinks may have stepped over it.
                    true if self.queue.damaged() != damaged => Err(IntakeError::Undelivered),
                    true => Ok(()),
                }
            }
            () = stopped => Err(IntakeError::Closed),
            () = tokio::time::sleep(self.patience) => Err(IntakeError::Undelivered),
        }
    }

    /// Waits until all required sinks are done with the frame; false if one has ended.
    async fn delivered(&self, position: Position) -> bool {
        let Some(required) = self.required.get() else { return false };
        for sink in required {
            if sink.settled.clone().wait_for(|settled| *settled > position).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// A sender that waits; also one whose request is dropped while it does.
struct Waiting<'a> {
    shared: &'a Shared,
    frame: GivenUp,
    since: Instant,
    /// Up to where the slowest sink was at its beginning.
    slowest: Option<Position>,
    delivered: bool,
}

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared, frame: GivenUp) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self { shared, frame, since: Instant::now(), slowest: shared.slowest(), delivered: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        let waited = self.since.elapsed();
        let slow = waited >= self.shared.patience / SLOW_SHARE
            || waited >= STILL && self.slowest == self.shared.slowest();
        if !self.delivered && slow {
            let mut given_up = self.shared.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            if given_up.is_none_or(|given_up| given_up.position < self.frame.position) {
                *given_up = Some(self.frame);
            }
        }
    }
}

impl Intake for Acks {
    fn append(&self, frame: Frame, grant: Grant) -> Appending<'_> {
        Box::pin(self.0.append(frame, Arc::new(grant)))
    }
}

#[cfg(test)]
mod tests;
