//! What drives a sink: reads the queue at the sink's cursor, keeps a few batches under way, moves the cursor.
//!
//! # Promises
//! 1. The cursor moves over a frame only when every record in it, and in all frames before it, is settled; refused
//!    ones are durable among the dead letters then.
//! 2. Frames that an earlier process, or an earlier try of this one, may have sent are handed over in doubt
//!    ([`State::InDoubt`]); so are those that their sender marked, and those that waited long enough for another
//!    collector to have got them too.
//! 3. A destination that is away or answers nonsense costs a wait: 0.5 to 30 s with jitter, never less than it asked
//!    for; one that has to be set right first is probed once a minute. How many requests it gets at a time adapts to it
//!    ([`mod@super::limit`]).
//! 4. With `when_behind: skip`, what lies more than `max_lag_bytes` behind the queue's end is given up and counted.
//! 5. A panic in a sink costs the batches under way a new start from the cursor, in doubt, and nobody else anything.
//!
//! # Memory
//! Decoded batches under way: `window_bytes`, or one request where that is larger; beside it the payloads of the batch
//! that is being gathered (`batch_bytes`, or one request), one decoded request for each batch while it is unpacked, and
//! what the sink says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sonde_daemon::backoff::{Backoff, LONGEST_ASKED};
use sonde_daemon::client::gate::{Change, Gate};
use sonde_daemon::health::Heartbeat;
use sonde_daemon::log::RateLimit;
use sonde_wire::view::LogsRequest;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::batch::{Batch, Refusal, State, Unit};
use super::dead_letter::{self, Shelf};
use super::decode::{self, Decoder};
use super::limit::Limit;
use super::{Class, Sink, Trouble};
use crate::queue::{Entry, Position, Queue, Reader, Signal};

/// How long a frame waits for others before it goes alone.
const LINGER: Duration = Duration::from_millis(200);
/// What requests that are under way at a stop may take to end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After this time in the queue, a frame may have come to another collector as well and gone out from there.
const OLD: Duration = Duration::from_secs(30);
/// After a panic.
const REST: Duration = Duration::from_secs(30);
/// Different codes in metrics; a destination may answer anything.
const CODES: usize = 64;
/// While skipping, how often the lag is looked at, frames.
const LOOK_EVERY: u32 = 16;

/// What a lane needs to know.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The sink's name: of its cursor, its metrics and its dead letters.
    pub name: String,
    /// Give up what lies this far behind; `None` = hold it.
    pub skip_beyond: Option<u64>,
    /// Largest request after decompression, bytes, as for the store's delivery.
    pub request_bytes: usize,
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
}

impl Default for Timing {
    fn default() -> Self {
        Self { probe_every: Duration::from_secs(60), longest_wait: LONGEST_ASKED }
    }
}

/// A sink's numbers.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Records that the destination took from us.
    pub delivered: AtomicU64,
    /// Records that it had already.
    pub duplicate: AtomicU64,
    /// Records that it refused for good.
    pub dead_letter: AtomicU64,
    /// Records that were given up for being too far behind.
    pub skipped: AtomicU64,
    retries: Mutex<BTreeMap<String, u64>>,
    blocked: Mutex<Option<String>>,
}

impl Numbers {
    /// Tries that failed, by code.
    pub fn retries(&self) -> BTreeMap<String, u64> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer that holds us, if one does.
    pub fn blocked(&self) -> Option<String> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn retried(&self, code: &str) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let code = if retries.len() < CODES || retries.contains_key(code) { code } else { "other" };
        *retries.entry(code.to_owned()).or_default() += 1;
    }

    fn set_blocked(&self, code: Option<&str>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = code.map(str::to_owned);
    }
}

/// A running lane.
pub struct Lane {
    task: JoinHandle<()>,
    numbers: Arc<Numbers>,
    settled: watch::Receiver<Position>,
}

impl Lane {
    /// Its numbers.
    pub fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }

    /// The position up to which all is settled.
    pub fn settled(&self) -> watch::Receiver<Position> {
        self.settled.clone()
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
    let numbers = Arc::new(Numbers::default());
    let cursor = queue.register(&options.name, None).position;
    let (settled, settled_by) = watch::channel(cursor);
    let shared = Arc::new(Shared {
        sink,
        limit: Limit::new(options.in_flight),
        gate: Gate::new(options.timing.probe_every),
        shelf: Arc::new(shelf),
        numbers: Arc::clone(&numbers),
        complaints: RateLimit::new(Duration::from_secs(30)),
        stop,
        options,
    });
    let turns = Turns {
        reader: queue.reader(cursor),
        queue: queue.clone(),
        shared,
        settled,
        fresh_from: queue.first_fresh(),
        gathered: Vec::new(),
        gathered_bytes: 0,
        since: Instant::now(),
        window: VecDeque::new(),
        window_bytes: 0,
        running: JoinSet::new(),
        closed: false,
        skipping: false,
        looked: 0,
        rest_until: None,
    };
    Lane { task: tokio::spawn(turns.run(heartbeat)), numbers, settled: settled_by }
}

struct Shared<S> {
    sink: S,
    limit: Limit,
    gate: Gate,
    shelf: Arc<Shelf>,
    numbers: Arc<Numbers>,
    complaints: RateLimit,
    stop: watch::Receiver<bool>,
    options: LaneOptions,
}

/// Frames that are under way together.
struct Slot {
    task: Id,
    /// Behind the last of them.
    next: Position,
    bytes: u64,
    records: u64,
    /// Of those, how many were settled and counted.
    counted: Arc<AtomicU64>,
    done: bool,
}

struct Turns<S> {
    queue: Queue,
    reader: Reader,
    shared: Arc<Shared<S>>,
    settled: watch::Sender<Position>,
    /// Frames before it may have been sent before.
    fresh_from: Position,
    gathered: Vec<Entry>,
    gathered_bytes: u64,
    /// When the first of them was gathered.
    since: Instant,
    window: VecDeque<Slot>,
    window_bytes: u64,
    /// What each gives: whether it settled all.
    running: JoinSet<bool>,
    closed: bool,
    skipping: bool,
    looked: u32,
    /// After a panic, nothing is read before this.
    rest_until: Option<Instant>,
}

impl<S: Sink> Turns<S> {
    async fn run(mut self, heartbeat: Heartbeat) {
        let mut stop = self.shared.stop.clone();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            heartbeat.beat();
            let due = self.since + LINGER;
            let full = self.gathered_bytes >= self.shared.options.batch_bytes;
            let rests = self.rest_until.is_some_and(|until| Instant::now() < until);
            let reads = !full && !self.closed && !rests;
            let may_send = !self.gathered.is_empty() && self.has_room();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => self.ended(ended),
                () = std::future::ready(()), if may_send && full => self.dispatch(),
                entry = self.reader.next(), if reads => match entry {
                    Some(entry) => self.take(entry),
                    None => self.closed = true,
                },
                () = tokio::time::sleep_until(due), if may_send => self.dispatch(),
                _ = tick.tick() => self.look_behind(),
            }
        }
        let ends = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, ends).await.is_err() {
            tracing::warn!(
                sink = self.shared.options.name,
                "requests are given up; they are looked up at the next start"
            );
        }
        heartbeat.finish();
    }

    /// Whether the gathered frames may get under way. Those that were sent again wait for all before them, among
    /// which their first copies are: of two at once, the destination might keep both, each in an index of its own.
    fn has_room(&self) -> bool {
        let options = &self.shared.options;
        self.running.is_empty()
            || !self.gathered.iter().any(|entry| entry.frame.resend)
                && self.running.len() < options.in_flight as usize
                && self.running.len() as f64 <= self.shared.limit.allowed()
                && self.window_bytes + self.gathered_bytes <= options.window_bytes
    }

    fn take(&mut self, entry: Entry) {
        if self.skipping {
            return self.skip(&entry);
        }
        if self.gathered.is_empty() {
            self.since = Instant::now();
        }
        self.gathered_bytes += u64::from(entry.frame.uncompressed_len).max(entry.frame.payload.len() as u64);
        self.gathered.push(entry);
    }

    fn dispatch(&mut self) {
        let entries = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.gathered_bytes);
        let Some(next) = entries.last().map(|entry| entry.next_position) else { return };
        let records = entries.iter().filter(|entry| entry.frame.signal == Signal::Logs);
        let records = records.map(|entry| u64::from(entry.frame.records)).sum();
        let counted = Arc::new(AtomicU64::new(0));
        let carried = carry(Arc::clone(&self.shared), entries, self.fresh_from, Arc::clone(&counted));
        let task = self.running.spawn(carried).id();
        self.window.push_back(Slot { task, next, bytes, records, counted, done: false });
        self.window_bytes += bytes;
    }

    fn ended(&mut self, ended: Result<(Id, bool), JoinError>) {
        let (task, settled) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            Err(_) => return self.begin_again(),
        };
        // One that did not settle all was told to stop.
        let Some(slot) = self.window.iter_mut().find(|slot| slot.task == task).filter(|_| settled) else {
            return;
        };
        slot.done = true;
        let mut moved = None;
        while let Some(slot) = self.window.pop_front_if(|slot| slot.done) {
            self.window_bytes -= slot.bytes;
            moved = Some(slot.next);
        }
        if let Some(position) = moved {
            self.release(position);
        }
    }

    fn release(&self, position: Position) {
        self.queue.release(&self.shared.options.name, position);
        self.settled.send_replace(position);
    }

    /// After a panic: all that is under way starts anew from the cursor, as possibly sent.
    fn begin_again(&mut self) {
        let pause = REST.min(self.shared.options.timing.longest_wait);
        tracing::error!(
            sink = self.shared.options.name,
            pause_s = pause.as_secs(),
            "a delivery panicked; its records are read again"
        );
        self.shared.numbers.retried("panic");
        self.abandon();
        self.fresh_from = self.fresh_from.max(self.reader.position());
        self.reader = self.queue.reader(*self.settled.borrow());
        self.rest_until = Some(Instant::now() + pause);
    }

    fn abandon(&mut self) {
        self.running.abort_all();
        self.window.clear();
        self.window_bytes = 0;
        self.gathered.clear();
        self.gathered_bytes = 0;
    }

    fn lag(&self) -> u64 {
        let status = self.queue.status();
        status
            .cursors
            .iter()
            .find(|cursor| cursor.name == self.shared.options.name)
            .map_or(0, |cursor| cursor.bytes)
    }

    /// Gives up what is under way when it lies too far behind, and goes on giving up until it does not.
    fn look_behind(&mut self) {
        let Some(most) = self.shared.options.skip_beyond else { return };
        if self.skipping || self.lag() <= most {
            return;
        }
        tracing::warn!(
            sink = self.shared.options.name,
            max_lag_bytes = most,
            "the sink is too far behind: records are skipped"
        );
        self.skipping = true;
        self.looked = 0;
        let under_way =
            self.window.iter().map(|slot| slot.records.saturating_sub(slot.counted.load(Ordering::Relaxed)));
        let waiting = self.gathered.iter().map(|entry| u64::from(entry.frame.records));
        let records: u64 = under_way.chain(waiting).sum();
        self.shared.numbers.skipped.fetch_add(records, Ordering::Relaxed);
        self.abandon();
        self.release(self.reader.position());
    }

    fn skip(&mut self, entry: &Entry) {
        self.shared.numbers.skipped.fetch_add(u64::from(entry.frame.records), Ordering::Relaxed);
        self.release(entry.next_position);
        self.looked += 1;
        if self.looked.is_multiple_of(LOOK_EVERY)
            && self.shared.options.skip_beyond.is_some_and(|most| self.lag() <= most)
        {
            self.skipping = false;
        }
    }
}

/// Carries frames to the sink until all their records are settled; false when it was told to stop before.
async fn carry<S: Sink>(
    shared: Arc<Shared<S>>,
    entries: Vec<Entry>,
    fresh_from: Position,
    counted: Arc<AtomicU64>,
) -> bool {
    let mut stop = shared.stop.clone();
    let mut counts = Counts { told: [0; 3], counted };
    let Some(mut batch) = shared.unpack(entries, fresh_from, &mut counts).await else { return false };
    let mut backoff = Backoff::new();
    while batch.open() > 0 {
        let wait = {
            let turn = async {
                let pass = shared.gate.pass().await;
                (pass, shared.limit.acquire().await)
            };
            let (pass, permit) = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return false,
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
            trouble.map(|trouble| {
                permit.pushed_back();
                shared.troubled(&trouble, &mut backoff)
            })
        };
        if !shared.settle(&mut batch, &mut counts).await {
            return false;
        }
        if let Some(wait) = wait {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
    true
}

/// What was added to the numbers for a batch: delivered, duplicate, refused.
struct Counts {
    told: [u64; 3],
    counted: Arc<AtomicU64>,
}

impl<S: Sink> Shared<S> {
    /// Decodes and checks the frames; what cannot be read is a dead letter. `None` when it was told to stop.
    async fn unpack(&self, entries: Vec<Entry>, fresh_from: Position, counts: &mut Counts) -> Option<Batch> {
        let (name, most) = (self.options.name.clone(), self.options.request_bytes);
        let unpacked = tokio::task::spawn_blocking(move || unpack(&name, entries, most, fresh_from)).await;
        let (batch, letters, unreadable) = passed_on(unpacked)?;
        if !self.keep(letters).await {
            return None;
        }
        self.numbers.dead_letter.fetch_add(unreadable, Ordering::Relaxed);
        counts.counted.fetch_add(unreadable, Ordering::Relaxed);
        Some(batch)
    }

    /// Makes refusals durable and counts what is new. False when it was told to stop before that.
    async fn settle(&self, batch: &mut Batch, counts: &mut Counts) -> bool {
        let refusals = batch.take_refusals();
        if !refusals.is_empty() {
            for refusal in refusals.iter().take(1) {
                if let Some(suppressed) = self.complaints.allow() {
                    let Refusal { code, reason, .. } = refusal;
                    tracing::warn!(
                        sink = self.options.name,
                        code,
                        reason,
                        records = refusals.len(),
                        suppressed,
                        "the sink refused records for good; they are among the dead letters"
                    );
                }
            }
            let (name, units) = (self.options.name.clone(), Arc::clone(batch.units()));
            let made =
                tokio::task::spawn_blocking(move || dead_letter::lines(&name, &units, &refusals)).await;
            let Some(lines) = passed_on(made) else { return false };
            if !self.keep(lines).await {
                return false;
            }
        }
        let now = [State::Delivered, State::Duplicate, State::Refused].map(|state| batch.count(state));
        let numbers = [&self.numbers.delivered, &self.numbers.duplicate, &self.numbers.dead_letter];
        for ((now, told), number) in now.iter().zip(&mut counts.told).zip(numbers) {
            number.fetch_add(now - *told, Ordering::Relaxed);
            counts.counted.fetch_add(now - *told, Ordering::Relaxed);
            *told = *now;
        }
        true
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
            if let Change::Held(_) = self.gate.hold(code) {
                self.numbers.set_blocked(Some(code));
                tracing::error!(
                    sink,
                    code,
                    message,
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
                message,
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
        if let Change::Opened(code) = self.gate.open() {
            self.numbers.set_blocked(None);
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

/// Frames as a batch, dead letters for those that cannot be read, and how many records were in those.
fn unpack(name: &str, entries: Vec<Entry>, most: usize, fresh_from: Position) -> (Batch, Vec<u8>, u64) {
    let (mut units, mut doubts, mut letters, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut decoder, mut first) = (Decoder::default(), 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for entry in entries {
        let frame = &entry.frame;
        if frame.signal != Signal::Logs {
            continue;
        }
        let limit = most.max(frame.uncompressed_len as usize);
        let decoded = decoder.decode(frame, limit);
        match decoded.and_then(|bytes| Ok((LogsRequest::check(bytes, &decode::LIMITS)?.1.records, bytes))) {
            Ok((records, bytes)) => {
                let records = records as usize;
                let waited = now.saturating_sub(Duration::from_nanos(frame.received_unix_nano));
                doubts.push(frame.resend || entry.position < fresh_from || waited > OLD);
                // What is not compressed is not copied.
                let bytes = if bytes.as_ptr() == frame.payload.as_ptr() {
                    frame.payload.clone()
                } else {
                    Bytes::copy_from_slice(bytes)
                };
                let received_unix_nano = frame.received_unix_nano;
                units.push(Unit { position: entry.position, received_unix_nano, bytes, first, records });
                first += records;
            }
            Err(error) => {
                tracing::error!(sink = name, segment = entry.position.segment, offset = entry.position.offset, records = frame.records, %error, "a frame cannot be read; set aside");
                unreadable += u64::from(frame.records);
                letters.extend(dead_letter::unreadable(name, &entry, &error.to_string()));
            }
        }
    }
    let mut doubts = doubts.into_iter();
    (Batch::new(units, |_| doubts.next().unwrap_or(true)), letters, unreadable)
}

#[cfg(test)]
mod tests;
