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
//!
//! # Memory
//! Who waits keeps what its request has reserved of `limits.in_flight`, so that bounds how many wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{self, Source};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::queue::{Frame, Position, Queue};
use crate::receive::{Intake, IntakeError};

/// How long a sender waits for the required sinks. Senders that wait less go away by themselves.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A sender that goes away after this share of it says that a sink is slow, and not only something of itself.
const SLOW_SHARE: u32 = 5;

/// The intake of a collector that acknowledges what was delivered. Clones are the same one.
#[derive(Clone)]
pub struct Acks(Arc<Shared>);

struct Shared {
    queue: Queue,
    patience: Duration,
    /// Up to where each required sink is done; known before the first request is answered.
    required: OnceLock<Vec<watch::Receiver<Position>>>,
    /// The last frame that nobody waits for although a required sink is not done with it.
    given_up: Mutex<Option<Position>>,
    end: watch::Sender<Option<Instant>>,
    waiting: AtomicUsize,
}

impl Acks {
    /// In front of `queue`. Nothing is acknowledged before [`Self::require`].
    pub fn new(queue: Queue, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            queue,
            patience,
            required: OnceLock::new(),
            given_up: Mutex::default(),
            end: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Says who has to be done with a frame, by the position up to which all is settled. Counts once.
    pub fn require(&self, sinks: Vec<watch::Receiver<Position>>) {
        let _ = self.0.required.set(sinks);
    }

    /// At a stop: no wait goes on beyond this instant.
    pub fn end_by(&self, end: Instant) {
        self.0.end.send_replace(Some(end));
    }

    /// What it shows on `/metrics`.
    pub fn source(&self) -> Box<dyn Source> {
        let acks = self.clone();
        page::source("ack", move |out| {
            let help = "Requests that are in the queue and wait for the required sinks.";
            out.gauge("sonde_collector_ack_waiting", help)
                .row([], acks.0.waiting.load(Ordering::Relaxed) as u64);
            let help = "1 while requests are refused because a required sink has not taken earlier ones.";
            out.gauge("sonde_collector_ack_refusing", help).row([], u64::from(!acks.0.keeps_up()));
            Ok(())
        })
    }
}

impl Shared {
    /// Whether the required sinks are done with all that nobody waits for any more.
    fn keeps_up(&self) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(position) = *given_up else { return true };
        let required = self.required.get().into_iter().flatten();
        let done = required.into_iter().all(|settled| *settled.borrow() > position);
        if done {
            *given_up = None;
        }
        done
    }

    async fn append(&self, frame: Frame) -> Result<(), IntakeError> {
        if !self.keeps_up() {
            return Err(IntakeError::Undelivered);
        }
        let position = self.queue.append(frame).await?;
        let mut waiting = Waiting::begin(self, position);
        let mut end = self.end.subscribe();
        let stopped = async {
            let end = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
            tokio::time::sleep_until(end.unwrap_or_else(Instant::now)).await;
        };
        tokio::select! {
            biased;
            done = self.delivered(position) => {
                waiting.delivered = done;
                if done { Ok(()) } else { Err(IntakeError::Closed) }
            }
            () = stopped => Err(IntakeError::Closed),
            () = tokio::time::sleep(self.patience) => Err(IntakeError::Undelivered),
        }
    }

    /// Waits until all required sinks are done with the frame; false if one has ended.
    async fn delivered(&self, position: Position) -> bool {
        let Some(required) = self.required.get() else { return false };
        for settled in required {
            if settled.clone().wait_for(|settled| *settled > position).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// A sender that waits; also one whose request is dropped while it does.
struct Waiting<'a> {
    shared: &'a Shared,
    position: Position,
    since: Instant,
    delivered: bool,
}

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared, position: Position) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self { shared, position, since: Instant::now(), delivered: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.delivered && self.since.elapsed() >= self.shared.patience / SLOW_SHARE {
            let mut given_up = self.shared.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            *given_up = (*given_up).max(Some(self.position));
        }
    }
}

impl Intake for Acks {
    fn append(&self, frame: Frame) -> Pin<Box<dyn Future<Output = Result<(), IntakeError>> + Send + '_>> {
        Box::pin(self.0.append(frame))
    }
}

#[cfg(test)]
mod tests;
