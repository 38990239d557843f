//! A pass over the queue, from a position on: frames in order, and behind the last one a wait for more.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::segment::{Gap, Step, Walk};
use super::state::Shared;
use super::{Frame, Position};

/// Payload bytes that are read ahead of what was handed out, beyond one frame.
const AHEAD: u64 = 256 << 10;
/// Pauses between tries to read what the disk refuses.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A frame and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// Where the next one may be: what a reader that is done with this one releases up to.
    pub next_position: Position,
    /// What was appended. The payload shares a buffer of at most 256 KiB, or one of its own size.
    pub frame: Frame,
}

/// Reads a queue. It sees only frames that are durable.
pub struct Reader {
    shared: Arc<Shared>,
    end: watch::Receiver<Position>,
    /// Where the next entry is looked for.
    position: Position,
    ahead: VecDeque<Entry>,
    walk: Option<Walk>,
    /// The trip to the disk that is under way; it goes on when nobody waits for it, and its result is taken later.
    fetching: Option<JoinHandle<Fetched>>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: Position) -> Self {
        let end = shared.end.subscribe();
        Self { shared, end, position: from, ahead: VecDeque::new(), walk: None, fetching: None }
    }

    /// Where the next entry will be looked for.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next frame; waits for one. `None` once the queue is closed and all of it was read. What is damaged is
    /// counted and left out. Nothing is lost when the future is dropped, not even the time that a slow disk took so
    /// far. Runs on a tokio runtime: files are read on its blocking threads, on one of them at a time.
    pub async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ahead.pop_front() {
                self.position = entry.next_position;
                return Some(entry);
            }
            if let Some(fetching) = &mut self.fetching {
                let fetched = fetching.await;
                self.fetching = None;
                // An error here is the runtime's end.
                let fetched = fetched.ok()?;
                self.position = fetched.entries.front().map_or(fetched.next, |entry| entry.position);
                self.ahead = fetched.entries;
                self.walk = fetched.walk;
                continue;
            }
            // Marked as seen before it is looked at, so that no later move is missed.
            self.end.borrow_and_update();
            let closed = self.shared.state().closed;
            if self.shared.state().resolve(self.position).is_some() {
                let (shared, from, walk) = (self.shared.clone(), self.position, self.walk.take());
                self.fetching = Some(tokio::task::spawn_blocking(move || fetch(&shared, from, walk)));
            } else if closed {
                return None;
            } else {
                // The sender lives in `shared`.
                self.end.changed().await.ok()?;
            }
        }
    }
}

/// What one trip to the disk brought.
pub(super) struct Fetched {
    pub entries: VecDeque<Entry>,
    /// Where to go on behind the entries.
    pub next: Position,
    pub walk: Option<Walk>,
}

/// Reads some frames from `from` on: those of one window, or one that is larger; none where all of it was damaged.
pub(super) fn fetch(shared: &Shared, from: Position, walk: Option<Walk>) -> Fetched {
    let mut fetched = Fetched { entries: VecDeque::new(), next: from, walk: None };
    let Some((start, end)) = shared.state().resolve(from) else { return fetched };
    fetched.next = start;
    let mut patience = Patience::new(shared.options.read_patience);
    let mut walk = match walk.filter(|walk| walk.number() == start.segment && walk.offset() == start.offset) {
        Some(walk) => walk,
        None => match open(shared, start, &mut patience) {
            Some(walk) => walk,
            None => {
                let gap = Gap { offset: start.offset, next: end, frames: 1, records: 0 };
                say(shared, start.segment, &gap, "segment cannot be opened");
                fetched.next.offset = end;
                return fetched;
            }
        },
    };
    walk.extend(end);
    let mut bytes = 0;
    loop {
        let segment = start.segment;
        match walk.step() {
            Ok(Some(Step::Frame { offset, next, frame, .. })) => {
                bytes += frame.payload.len() as u64;
                let position = Position { segment, offset };
                let next_position = Position { segment, offset: next };
                fetched.entries.push_back(Entry { position, next_position, frame });
            }
            Ok(Some(Step::Gap(gap))) => say(shared, segment, &gap, "frames do not check"),
            Ok(Some(Step::End { .. }) | None) => break,
            Err(error) if patience.wait(&error) => continue,
            Err(_) => {
                say(shared, segment, &walk.skip(), "frames cannot be read");
                patience = Patience::new(shared.options.read_patience);
            }
        }
        if bytes >= AHEAD || !walk.buffered() && !fetched.entries.is_empty() {
            break;
        }
    }
    fetched.next.offset = walk.offset();
    fetched.walk = Some(walk);
    fetched
}

fn open(shared: &Shared, at: Position, patience: &mut Patience) -> Option<Walk> {
    let (stamp, end) = shared.state().segments.get(&at.segment).map(|known| (known.stamp, known.end))?;
    loop {
        match shared.fs.open(&shared.segment_path(at.segment)) {
            Ok(file) => return Some(Walk::new(file, stamp, at.offset, end)),
            Err(error) if error.kind() != io::ErrorKind::NotFound && patience.wait(&error) => {}
            Err(_) => return None,
        }
    }
}

fn say(shared: &Shared, segment: u64, gap: &Gap, what: &str) {
    if shared.count_gap(segment, gap) {
        let Gap { offset, next, frames, records } = *gap;
        tracing::error!(segment, offset, bytes = next - offset, frames, records, "queue damaged: {what}");
    }
}

/// How long a disk that refuses to read is asked again before the place counts as damaged: long enough for a volume
/// that comes back, since what is stepped over is not delivered.
pub(super) struct Patience {
    left: Duration,
    pause: Duration,
    said: Option<Instant>,
}

impl Patience {
    pub fn new(left: Duration) -> Self {
        Self { left, pause: PAUSE, said: None }
    }

    /// Waits before another try; false when it is time to give up.
    pub fn wait(&mut self, error: &io::Error) -> bool {
        if self.left.is_zero() {
            return false;
        }
        if self.said.is_none() {
            self.said = Some(Instant::now());
            tracing::warn!(%error, "queue cannot be read, trying again");
        }
        let pause = self.pause.min(self.left);
        std::thread::sleep(pause);
        self.left -= pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
