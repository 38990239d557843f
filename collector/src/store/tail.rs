//! The newest records as they come, for readers that follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::pending::Chunk;

/// Bytes that are kept for readers that are behind; who is further behind than that misses records and is told.
const KEPT_BYTES: usize = 16 << 20;

/// What was taken lately.
pub struct Tail {
    kept: Mutex<Kept>,
    /// Number of the next chunk.
    next: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// Each with the number of records before it.
    chunks: VecDeque<(u64, Arc<Chunk>)>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    records: u64,
}

/// One reader's place.
pub struct Follower {
    tail: Arc<Tail>,
    seen: watch::Receiver<u64>,
    next: u64,
    /// Records up to `next`.
    records: u64,
}

/// What a follower gets.
pub enum Followed {
    /// Records, in the order in which they were taken.
    Chunk(Arc<Chunk>),
    /// So many records were passed over, because the reader was too slow.
    Missed(u64),
}

impl Default for Tail {
    fn default() -> Self {
        Self { kept: Mutex::default(), next: watch::Sender::new(0) }
    }
}

impl Tail {
    /// Adds what was taken; never waits for a reader. Without readers nothing is kept.
    pub fn push(&self, chunks: Vec<Arc<Chunk>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, as followers begin under it: one that begins now misses nothing.
        let followed = self.next.receiver_count() > 0;
        for chunk in chunks {
            let before = kept.records;
            kept.records += u64::from(chunk.records);
            kept.bytes += chunk.rows.len();
            kept.chunks.push_back((before, chunk));
        }
        while kept.bytes > KEPT_BYTES || !followed && !kept.chunks.is_empty() {
            let Some((_, chunk)) = kept.chunks.pop_front() else { break };
            kept.bytes -= chunk.rows.len();
            kept.first += 1;
        }
        let next = kept.first + kept.chunks.len() as u64;
        drop(kept);
        self.next.send_replace(next);
    }

    /// A reader that gets what is taken from now on.
    pub fn follow(self: &Arc<Self>) -> Follower {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = kept.first + kept.chunks.len() as u64;
        Follower { tail: Arc::clone(self), seen: self.next.subscribe(), next, records: kept.records }
    }
}

impl Follower {
    /// What comes next; waits for it. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Followed {
        loop {
            self.seen.borrow_and_update();
            if let Some(followed) = self.take() {
                return followed;
            }
            // The sender lives in `tail`.
            let _ = self.seen.changed().await;
        }
    }

    fn take(&mut self) -> Option<Followed> {
        let kept = self.tail.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.next < kept.first {
            let before = kept.chunks.front().map_or(kept.records, |(before, _)| *before);
            let missed = before - self.records;
            (self.next, self.records) = (kept.first, before);
            return Some(Followed::Missed(missed));
        }
        let at = usize::try_from(self.next - kept.first).ok()?;
        let (_, chunk) = kept.chunks.get(at)?;
        self.next += 1;
        self.records += u64::from(chunk.records);
        Some(Followed::Chunk(Arc::clone(chunk)))
    }
}
