//! From the queue to the store: one thread that reads frames at the store's own cursor, hands their records over,
//! commits, and only then lets the queue forget them.
//!
//! The cursor is in the store's commits, so a crash between any two steps reads frames again, and the store knows
//! their records. What cannot be read for good (which `receive` refuses, so it is damage or a bug) is counted and kept
//! among the dead letters. While commits fail, frames are taken up to the store's memory bound; beyond it the queue
//! keeps them.
//!
//! Canaries are taken out on the way; theirs is the time at which queries find what was queued with them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sonde_daemon::health::Heartbeat;
use sonde_wire::canary;
use sonde_wire::view::LogsRequest;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::queue::{Cursor, Entry, Position, Queue, Reader, Signal};
use crate::store::{StoreError, Writer};

use super::canary::{Canaries, Seen};
use super::cluster;
use super::dead_letter::{self, Shelf};
use super::decode::{self, Decoder};

/// How often time is looked at while nothing comes.
const TICK: Duration = Duration::from_millis(500);
/// How often the store does its housekeeping.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Pauses between tries to commit.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of records that a step of a commit takes on at least, and for each byte of a request taken meanwhile: the
/// newest records never wait for a whole commit, and a commit ends however fast they come.
const COMMIT_STEP_BYTES: usize = 256 << 10;
const COMMIT_SHARE: usize = 3;
/// While a commit is under way, how long a step waits for the queue.
const BETWEEN_STEPS: Duration = Duration::from_millis(5);

/// What a delivery needs to know.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The sink's name: of its cursor, its metrics and its dead letters.
    pub sink: String,
    /// Largest request after decompression, bytes: what `receive` lets through now. Frames say their own size where
    /// they were taken under a larger one.
    pub request_bytes: usize,
    /// `k8s.cluster.name` of records that came without one; empty = none.
    pub cluster: String,
}

/// Numbers of a delivery.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Frames handed to the store.
    pub frames: AtomicU64,
    /// Records that could not be read and were set aside.
    pub dead_letters: AtomicU64,
    /// When the newest frame handed over was received, Unix nanoseconds.
    pub received_unix_nano: AtomicU64,
    /// When the newest frame handed over was handed over, Unix nanoseconds.
    pub delivered_unix_nano: AtomicU64,
    /// Its loop is at work that the disk may hold up for any time.
    pub on_disk: AtomicBool,
}

/// A running delivery.
pub struct Delivery {
    thread: JoinHandle<()>,
    numbers: Arc<Delivered>,
    canaries: Canaries,
    committed: watch::Receiver<Position>,
}

impl Delivery {
    /// Its numbers.
    pub fn numbers(&self) -> &Arc<Delivered> {
        &self.numbers
    }

    /// Its canaries.
    pub fn canaries(&self) -> &Canaries {
        &self.canaries
    }

    /// The queue's position up to which all is in the store for good.
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.committed.clone()
    }

    /// Waits until it has ended; blocks.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the delivery to the store ended with a panic");
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts the delivery on a thread of its own; to be called on the tokio runtime, which reads the queue for it. When
/// `stop` turns true (or its sender is gone), it commits what it has taken and ends; what is left is in the queue.
/// `heartbeat` beats each time around: twice a second and more, but for the disk ([`Delivered::on_disk`]).
pub fn start(
    queue: &Queue,
    store: Writer,
    options: StoreOptions,
    shelf: Shelf,
    stop: watch::Receiver<bool>,
    heartbeat: Heartbeat,
) -> io::Result<Delivery> {
    let numbers = Arc::new(Delivered::default());
    let known = Some(store.committed()).filter(|committed| *committed != Position::default());
    let cursor = queue.register(&options.sink, known);
    let reader = queue.reader(cursor.position);
    let (committed, committed_by) = watch::channel(cursor.position);
    let canaries = Canaries::default();
    let queue = queue.clone();
    let delivery = Loop {
        fresh_from: queue.first_fresh(),
        queue,
        reader,
        cursor,
        store,
        options,
        shelf,
        committed,
        numbers: Arc::clone(&numbers),
        canaries: canaries.clone(),
        decoder: Decoder::default(),
        heartbeat,
        retry_at: Instant::now(),
        pause: PAUSE,
    };
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("store".into()).spawn(move || delivery.run(&runtime, stop))?;
    Ok(Delivery { thread, numbers, canaries, committed: committed_by })
}

struct Loop {
    queue: Queue,
    reader: Reader,
    cursor: Cursor,
    store: Writer,
    options: StoreOptions,
    shelf: Shelf,
    committed: watch::Sender<Position>,
    numbers: Arc<Delivered>,
    canaries: Canaries,
    /// Frames before it may have been delivered by an earlier process.
    fresh_from: Position,
    decoder: Decoder,
    heartbeat: Heartbeat,
    /// Not before this time is a commit tried again; by a clock that nobody sets.
    retry_at: Instant,
    pause: Duration,
}

/// What a wait for the queue brought.
enum Came {
    Entry(Entry),
    Nothing,
    Stop,
}

impl Loop {
    fn run(mut self, runtime: &Handle, mut stop: watch::Receiver<bool>) {
        let mut ticked: Option<Instant> = None;
        loop {
            self.heartbeat.beat();
            let full = self.store.is_full();
            let patience = match self.store.is_committing() {
                true if full => Duration::ZERO,
                true => BETWEEN_STEPS,
                false => TICK,
            };
            let reader = &mut self.reader;
            let came = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => Came::Stop,
                    entry = reader.next(), if !full => entry.map_or(Came::Stop, Came::Entry),
                    () = tokio::time::sleep(patience) => Came::Nothing,
                }
            });
            // From here on: to take records, the store looks for them on the disk.
            self.numbers.on_disk.store(true, Ordering::Relaxed);
            let mut step_bytes = COMMIT_STEP_BYTES;
            match came {
                Came::Entry(entry) => {
                    step_bytes = step_bytes.max(COMMIT_SHARE * entry.frame.uncompressed_len as usize);
                    self.take(&entry);
                }
                Came::Nothing => {}
                Came::Stop => break,
            }
            let now = now_ms();
            if self.store.is_due(now) && Instant::now() >= self.retry_at {
                let result = self.store.commit_step(step_bytes, now);
                self.on_commit(result);
            }
            if ticked.is_none_or(|ticked| ticked.elapsed() >= TICK_EVERY) {
                self.store.tick(now);
                ticked = Some(Instant::now());
            }
            self.numbers.on_disk.store(false, Ordering::Relaxed);
        }
        self.numbers.on_disk.store(true, Ordering::Relaxed);
        let result = self.store.commit(now_ms()).map(Some);
        self.on_commit(result);
        self.heartbeat.finish();
    }

    fn take(&mut self, entry: &Entry) {
        let (frame, next, now) = (&entry.frame, entry.next_position, now_ms());
        if frame.signal != Signal::Logs {
            return self.store.skip(next, now);
        }
        // What was acknowledged under a larger limit is still a request.
        let limit = self.options.request_bytes.max(frame.uncompressed_len as usize);
        let decoded = self.decoder.decode(frame, limit);
        match decoded
            .and_then(|bytes| LogsRequest::check(bytes, &decode::LIMITS).map(|_| bytes).map_err(Into::into))
        {
            Ok(bytes) => {
                let (bytes, canaries) = canary::take_out(bytes);
                if bytes.is_empty() {
                    self.store.skip(next, now);
                } else {
                    let bytes = cluster::fill(&bytes, &self.options.cluster);
                    self.store.ingest(LogsRequest::trusted(&bytes), frame.received_unix_nano, next, now);
                }
                let fresh = entry.position >= self.fresh_from;
                self.canaries.arrived(&Seen::all(canaries, fresh, frame.resend));
            }
            Err(error) => {
                self.numbers.dead_letters.fetch_add(u64::from(frame.records), Ordering::Relaxed);
                let Position { segment, offset } = entry.position;
                tracing::error!(segment, offset, records = frame.records, %error, "a frame cannot be read; set aside");
                self.set_aside(entry, &error.to_string());
                self.store.skip(next, now);
            }
        }
        self.numbers.frames.fetch_add(1, Ordering::Relaxed);
        self.numbers.received_unix_nano.store(frame.received_unix_nano, Ordering::Relaxed);
        self.numbers.delivered_unix_nano.store(now * 1_000_000, Ordering::Relaxed);
    }

    /// A disk that does not take it costs the frame: the store's own commits wait for nothing else.
    fn set_aside(&self, entry: &Entry, reason: &str) {
        let line = dead_letter::unreadable(&self.options.sink, entry, reason);
        if let Err(error) = self.shelf.put(&line) {
            tracing::error!(%error, "the frame cannot be kept among the dead letters");
        }
    }

    fn on_commit(&mut self, result: Result<Option<Position>, StoreError>) {
        match result {
            Ok(None) => {}
            Ok(Some(committed)) => {
                if self.pause > PAUSE {
                    tracing::info!("the store commits again");
                }
                self.pause = PAUSE;
                self.queue.release(&self.cursor.name, committed);
                self.committed.send_replace(committed);
            }
            Err(error) => {
                tracing::error!(%error, pause_ms = self.pause.as_millis(), "the store cannot commit; the queue keeps the records");
                self.retry_at = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
