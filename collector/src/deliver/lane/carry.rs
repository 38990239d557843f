//! Some frames on their way to the sink, until every record in them is settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sonde_daemon::backoff::Backoff;
use sonde_daemon::client::gate::{Change, Gate};
use sonde_daemon::log::RateLimit;
use tokio::sync::watch;
use tokio::task::JoinError;

use super::unpack::{Unpacked, unpack};
use super::{LaneOptions, Numbers};
use crate::deliver::batch::{Batch, Refusal, State, Unit};
use crate::deliver::canary::{Canaries, Seen};
use crate::deliver::dead_letter::{Lines, Shelf};
use crate::deliver::limit::Limit;
use crate::deliver::{Class, Sink, Trouble};
use crate::queue::{Entry, Position};

/// Tries of a record that the destination cannot cope with, at least.
const TRIES: u32 = 5;

/// What all batches of a lane share.
pub(super) struct Shared<S> {
    pub sink: S,
    pub limit: Limit,
    /// Batches that wait for nothing but records that were put off.
    pub stuck: AtomicUsize,
    /// There are no others.
    pub starved: Arc<AtomicBool>,
    /// There are others, for which these leave no room.
    pub blocked: AtomicBool,
    pub gate: Gate,
    pub shelf: Arc<Shelf>,
    pub numbers: Arc<Numbers>,
    pub canaries: Canaries,
    pub complaints: RateLimit,
    pub stop: watch::Receiver<bool>,
    pub options: LaneOptions,
}

/// Carries frames to the sink until all their records are settled, and gives the canaries that were among them; `None` when
/// it was told to stop before.
pub(super) async fn carry<S: Sink>(
    shared: Arc<Shared<S>>,
    entries: Vec<Entry>,
    fresh_from: Position,
    counted: Arc<AtomicU64>,
) -> Option<Vec<Seen>> {
    let mut stop = shared.stop.clone();
    let mut counts = Counts { told: [0; 4], counted };
    let (mut batch, canaries) = shared.unpack(entries, fresh_from, &mut counts).await?;
    let mut backoff = Backoff::new();
    let timing = shared.options.timing;
    // What the sink had taken of other batches when it was last looked at.
    let mut others = counts.others(&shared.numbers);
    while batch.open() > 0 {
        let asked;
        let wait = {
            let turn = async {
                let pass = shared.gate.pass().await;
                (pass, shared.limit.acquire().await)
            };
            let (pass, permit) = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return None,
                turn = turn => turn,
            };
            let before = batch.open();
            let result = shared.sink.deliver(&mut batch).await;
            if batch.open() < before {
                backoff.reset();
            }
            let trouble = match result {
                Ok(()) if batch.open() == 0 => {
                    permit.worked();
                    shared.opened();
                    None
                }
                Ok(()) => Some(Trouble::retry("incomplete", "the sink left records unsettled")),
                Err(trouble) => Some(trouble),
            };
            drop(pass);
            asked = trouble.as_ref().is_some_and(|trouble| trouble.after.is_some());
            trouble.map(|trouble| {
                // A record that it cannot cope with says nothing of how much it can.
                if !batch.is_stuck() {
                    permit.pushed_back();
                }
                shared.troubled(&trouble, &mut backoff)
            })
        };
        if !shared.settle(&mut batch, &mut counts).await {
            return None;
        }
        let before = std::mem::replace(&mut others, counts.others(&shared.numbers));
        if batch.has_put_off() {
            batch.looked_at(others > before);
            // Without room for others there is no more to be learnt than that some were taken.
            let rounds = if shared.blocked.load(Ordering::Relaxed) { 1 } else { timing.rounds };
            batch.give_up(TRIES, rounds, timing.put_off);
            if !shared.settle(&mut batch, &mut counts).await {
                return None;
            }
        }
        if let Some(wait) = wait.filter(|_| batch.open() > 0) {
            let stuck = batch.is_stuck().then(|| Stuck::begin(&shared.stuck));
            // Several tries have their place in its time.
            let wait = if stuck.is_some() && !asked { wait.min(timing.put_off / 4) } else { wait };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
    Some(canaries)
}

/// Counts a batch among those that are stuck, for as long as it lives.
struct Stuck<'a>(&'a AtomicUsize);

impl<'a> Stuck<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was added to the numbers for a batch: delivered, duplicate, refused, rejected.
struct Counts {
    told: [u64; 4],
    counted: Arc<AtomicU64>,
}

impl Counts {
    /// What the sink took of other batches.
    fn others(&self, numbers: &Numbers) -> u64 {
        let [delivered, duplicate, ..] = self.told;
        numbers.taken().saturating_sub(delivered + duplicate)
    }
}

impl<S: Sink> Shared<S> {
    /// Decodes and checks the frames; what cannot be read is a dead letter. `None` when it was told to stop.
    async fn unpack(
        &self,
        entries: Vec<Entry>,
        fresh_from: Position,
        counts: &mut Counts,
    ) -> Option<(Batch, Vec<Seen>)> {
        let (options, forwards) = (self.options.clone(), self.sink.forwards());
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(&options, forwards, entries, fresh_from)).await;
        let Unpacked { batch, canaries, letters, unreadable } = passed_on(unpacked)?;
        if !self.keep(letters).await {
            return None;
        }
        self.numbers.dead_letter.fetch_add(unreadable, Ordering::Relaxed);
        counts.counted.fetch_add(unreadable + canaries.len() as u64, Ordering::Relaxed);
        Some((batch, canaries))
    }

    /// Makes refusals durable and counts what is new. False when it was told to stop before that.
    async fn settle(&self, batch: &mut Batch, counts: &mut Counts) -> bool {
        let refusals = batch.take_refusals();
        if !refusals.is_empty() {
            if let Some(Refusal { why, .. }) = refusals.first()
                && let Some(suppressed) = self.complaints.allow()
            {
                tracing::warn!(
                    sink = self.options.name,
                    code = why.code,
                    reason = why.reason,
                    records = refusals.len(),
                    suppressed,
                    "the sink refused records for good; they are among the dead letters"
                );
            }
            if !self.bury(batch.units(), refusals).await {
                return false;
            }
        }
        let left_out = batch.take_left_out();
        if !left_out.is_empty() {
            counts.counted.fetch_add(left_out.values().sum(), Ordering::Relaxed);
            self.numbers.leave_out(&left_out);
            if let Some(suppressed) = self.complaints.allow() {
                tracing::warn!(
                    sink = self.options.name,
                    ?left_out,
                    suppressed,
                    "the sink has no form for some records: they are left out"
                );
            }
        }
        let states = [State::Delivered, State::Duplicate, State::Refused, State::Rejected];
        let now = states.map(|state| batch.count(state));
        let numbers = &self.numbers;
        let numbers = [&numbers.delivered, &numbers.duplicate, &numbers.dead_letter, &numbers.rejected];
        for ((now, told), number) in now.iter().zip(&mut counts.told).zip(numbers) {
            number.fetch_add(now - *told, Ordering::Relaxed);
            counts.counted.fetch_add(now - *told, Ordering::Relaxed);
            *told = *now;
        }
        self.sink.settled(batch);
        true
    }

    /// Puts refused records among the dead letters, some at a time: as JSON, each with its resource, they may be many
    /// times as large as the batch. False when it was told to stop before.
    async fn bury(&self, units: &Arc<[Unit]>, refusals: Vec<Refusal>) -> bool {
        let (name, units) = (self.options.name.clone(), Arc::clone(units));
        let made = tokio::task::spawn_blocking(move || Lines::new(name, units, refusals)).await;
        let Some(mut lines) = passed_on(made) else { return false };
        loop {
            let made = tokio::task::spawn_blocking(move || (lines.some(), lines)).await;
            let Some((some, rest)) = passed_on(made) else { return false };
            if some.is_empty() {
                return true;
            }
            if !self.keep(some).await {
                return false;
            }
            lines = rest;
        }
    }

    /// Puts lines among the dead letters, for as long as the disk needs. False when it was told to stop before.
    async fn keep(&self, lines: Vec<u8>) -> bool {
        let mut stop = self.stop.clone();
        let lines = Arc::new(lines);
        let mut backoff = Backoff::new();
        loop {
            let (shelf, copy) = (Arc::clone(&self.shelf), Arc::clone(&lines));
            let error = match tokio::task::spawn_blocking(move || shelf.put(&copy)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            self.numbers.retried("dead_letter");
            if let Some(suppressed) = self.complaints.allow() {
                tracing::error!(
                    sink = self.options.name,
                    error,
                    suppressed,
                    "dead letters cannot be written; the queue keeps the records"
                );
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return false,
                () = tokio::time::sleep(backoff.next(None)) => {}
            }
        }
    }

    /// Says and counts what is wrong; gives the time to wait.
    fn troubled(&self, trouble: &Trouble, backoff: &mut Backoff) -> Duration {
        let Trouble { class, code, after, message } = trouble;
        let sink = &self.options.name;
        self.numbers.retried(code);
        if *class == Class::Hold {
            if let Change::Held(_) = self.numbers.blocked_by(Some(code), || self.gate.hold(code)) {
                tracing::error!(
                    sink,
                    code,
                    words = message,
                    "the sink's answer holds us: nothing is lost, one request a minute is sent until this is set right"
                );
            }
            return Duration::ZERO;
        }
        self.opened();
        if let Some(suppressed) = self.complaints.allow() {
            tracing::warn!(
                sink,
                code,
                words = message,
                suppressed,
                "the sink did not take all records; they are tried again"
            );
        }
        let wait = backoff.next(*after).min(self.options.timing.longest_wait);
        if after.is_some() {
            self.gate.pause(wait);
        }
        wait
    }

    fn opened(&self) {
        if let Change::Opened(code) = self.numbers.blocked_by(None, || self.gate.open()) {
            tracing::info!(sink = self.options.name, code, "the sink holds us no longer");
        }
    }
}

/// The result of work on a blocking thread; a panic there goes on here. `None` = the runtime ends.
fn passed_on<T>(result: Result<T, JoinError>) -> Option<T> {
    match result.map_err(JoinError::try_into_panic) {
        Ok(value) => Some(value),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}
