//! The answers that are under way. One whose client takes nothing gives its place to one that somebody waits for.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::TURN;

/// Answers under way at a time.
pub const ANSWERS: usize = 16;
/// How long a client may take nothing before its place goes to another.
const SLOW: Duration = Duration::from_secs(1);
/// How often those that wait for a place look for such a client.
const LOOK: Duration = Duration::from_millis(100);

/// The places, and who waits for a client.
pub struct Answers {
    places: Arc<Semaphore>,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

struct Waiting {
    since: Instant,
    give_up: Arc<Notify>,
}

/// One answer's place; free again when this is dropped.
pub struct Place {
    answers: Arc<Answers>,
    _permit: OwnedSemaphorePermit,
}

/// While this lives, the answer may be given up for another.
struct Wait<'a> {
    answers: &'a Answers,
    id: u64,
}

impl Default for Answers {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(ANSWERS)), next: AtomicU64::new(0), waiting: Mutex::default() }
    }
}

impl Answers {
    /// A place, which may cost another answer its own; `None` where none came free in time.
    pub async fn place(self: &Arc<Self>) -> Option<Place> {
        let mut acquire = pin!(Arc::clone(&self.places).acquire_owned());
        let begun = Instant::now();
        while begun.elapsed() < TURN {
            match tokio::time::timeout(LOOK, acquire.as_mut()).await {
                Ok(permit) => return Some(Place { answers: Arc::clone(self), _permit: permit.ok()? }),
                Err(_) => self.give_up_slowest(),
            }
        }
        None
    }

    fn give_up_slowest(&self) {
        let mut waiting = self.waiting();
        let slowest = waiting.iter().min_by_key(|(_, waiting)| waiting.since).map(|(id, _)| *id);
        let slow =
            slowest.filter(|id| waiting.get(id).is_some_and(|waiting| waiting.since.elapsed() >= SLOW));
        if let Some(gone) = slow.and_then(|id| waiting.remove(&id)) {
            gone.give_up.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits for the client as `taking` does; `None` where the answer is given up for another.
    pub async fn wait<T>(&self, taking: impl Future<Output = T>) -> Option<T> {
        let (id, give_up) = (self.answers.next.fetch_add(1, Ordering::Relaxed), Arc::new(Notify::new()));
        self.answers.waiting().insert(id, Waiting { since: Instant::now(), give_up: Arc::clone(&give_up) });
        let _wait = Wait { answers: &self.answers, id };
        tokio::select! {
            taken = taking => Some(taken),
            () = give_up.notified() => None,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.answers.waiting().remove(&self.id);
    }
}
