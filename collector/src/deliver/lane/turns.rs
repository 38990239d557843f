//! The loop of a lane: reads, gathers, hands over, and moves the cursor over what is settled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sonde_daemon::health::Heartbeat;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::carry::{Shared, carry};
use crate::deliver::Sink;
use crate::deliver::canary::Seen;
use crate::queue::{Entry, Position, Queue, Reader};

/// How long a frame waits for others before it goes alone.
const LINGER: Duration = Duration::from_millis(200);
/// What requests that are under way at a stop may take to end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After a panic.
const REST: Duration = Duration::from_secs(30);
/// While skipping, how often the lag is looked at, frames.
const LOOK_EVERY: u32 = 16;
/// Canaries of batches that are settled behind one that is not, at most; some 100 bytes each.
const HELD: usize = 16_384;

/// Frames that are under way together.
struct Slot {
    task: Id,
    /// Behind the last of them.
    next: Position,
    bytes: u64,
    records: u64,
    /// Of those, how many were settled and counted.
    counted: Arc<AtomicU64>,
    /// The canaries in it, when it is done; `None` where they were too many to be kept.
    canaries: Option<Vec<Seen>>,
    done: bool,
}

/// A lane's own state.
pub(super) struct Turns<S> {
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
    /// What each gives: the canaries, when it settled all.
    running: JoinSet<Option<Vec<Seen>>>,
    /// Canaries in the window.
    held: usize,
    closed: bool,
    skipping: bool,
    looked: u32,
    /// After a panic, nothing is read before this.
    rest_until: Option<Instant>,
}

impl<S: Sink> Turns<S> {
    pub fn new(
        queue: &Queue,
        from: Position,
        shared: Arc<Shared<S>>,
        settled: watch::Sender<Position>,
    ) -> Self {
        Self {
            reader: queue.reader(from),
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
            held: 0,
            closed: false,
            skipping: false,
            looked: 0,
            rest_until: None,
        }
    }

    pub async fn run(mut self, heartbeat: Heartbeat) {
        let mut stop = self.shared.stop.clone();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            heartbeat.beat();
            self.show_stuck();
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
    /// Not for batches that are stuck: what those still have open is in doubt, and is looked up at each try.
    fn has_room(&self) -> bool {
        let options = &self.shared.options;
        // Batches that wait for a record that the sink cannot cope with leave the way to the others.
        let running = self.not_stuck();
        let fits = self.window_bytes + self.gathered_bytes <= options.window_bytes;
        self.running.is_empty()
            || fits
                && (running == 0
                    || !self.gathered.iter().any(|entry| entry.frame.resend)
                        && running < options.in_flight as usize
                        && running as f64 <= self.shared.limit.allowed())
    }

    /// How many batches are under way and do not only wait for records that were put off.
    fn not_stuck(&self) -> usize {
        self.running.len().saturating_sub(self.shared.stuck.load(Ordering::Relaxed))
    }

    /// Says whether all that is under way are records that were put off, and whether there are others for which they
    /// leave no room: only others could show who is at fault.
    fn show_stuck(&self) {
        let stuck = !self.running.is_empty() && self.not_stuck() == 0;
        self.shared.starved.store(stuck && self.gathered.is_empty(), Ordering::Relaxed);
        let blocked = stuck && !self.gathered.is_empty() && !self.has_room();
        self.shared.blocked.store(blocked, Ordering::Relaxed);
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
        let signal = self.shared.options.signal;
        let records = entries.iter().filter(|entry| entry.frame.signal == signal);
        let records = records.map(|entry| u64::from(entry.frame.records)).sum();
        let counted = Arc::new(AtomicU64::new(0));
        let carried = carry(Arc::clone(&self.shared), entries, self.fresh_from, Arc::clone(&counted));
        let task = self.running.spawn(carried).id();
        self.window.push_back(Slot { task, next, bytes, records, counted, canaries: None, done: false });
        self.window_bytes += bytes;
    }

    fn ended(&mut self, ended: Result<(Id, Option<Vec<Seen>>), JoinError>) {
        let (task, canaries) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            Err(_) => return self.begin_again(),
        };
        // One that did not settle all was told to stop.
        let Some(canaries) = canaries else { return };
        let Some(slot) = self.window.iter_mut().find(|slot| slot.task == task) else { return };
        slot.done = true;
        if self.held + canaries.len() <= HELD {
            self.held += canaries.len();
            slot.canaries = Some(canaries);
        }
        // Its memory is free, whatever the cursor waits for.
        self.window_bytes -= slot.bytes;
        let mut moved = None;
        while let Some(slot) = self.window.pop_front_if(|slot| slot.done) {
            moved = Some(slot.next);
            match slot.canaries {
                Some(canaries) => {
                    self.held -= canaries.len();
                    self.shared.canaries.arrived(&canaries);
                }
                None => self.shared.canaries.begin_anew(),
            }
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
        (self.window_bytes, self.held) = (0, 0);
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
        self.shared.canaries.begin_anew();
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
