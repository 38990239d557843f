//! Liveness and readiness of a daemon.
//!
//! Liveness answers one question: do our own loops still turn? A restart helps against nothing else, so a
//! receiver that is down, a full disk or a kubelet that does not answer never turn `/healthz` red.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the daemon's loops and conditions say; shared by those who report and the HTTP server that answers.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    loops: Mutex<Vec<Arc<Loop>>>,
    conditions: Mutex<Vec<Arc<Condition>>>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    bound: Duration,
    /// Milliseconds from the start to the last beat.
    beat: AtomicU64,
    finished: AtomicBool,
}

#[derive(Debug)]
struct Condition {
    name: &'static str,
    met: AtomicBool,
}

/// One loop's side: it calls [`Heartbeat::beat`] each time around. A heartbeat that is dropped without
/// [`Heartbeat::finish`] (its thread panicked, say) counts as standing still.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    start: Instant,
    shared: Arc<Loop>,
}

/// One condition of readiness.
#[derive(Clone, Debug)]
pub struct Readiness {
    shared: Arc<Condition>,
}

impl Health {
    /// Alive, and ready as long as no condition is registered.
    pub fn new() -> Self {
        let inner = Inner { start: Instant::now(), loops: Mutex::default(), conditions: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Registers a loop that promises to beat at least every `bound`. It has beaten now.
    pub fn heartbeat(&self, name: &'static str, bound: Duration) -> Heartbeat {
        let shared =
            Arc::new(Loop { name, bound, beat: AtomicU64::new(0), finished: AtomicBool::new(false) });
        self.inner.loops.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shared));
        let heartbeat = Heartbeat { start: self.inner.start, shared };
        heartbeat.beat();
        heartbeat
    }

    /// Registers a condition that is not met yet.
    pub fn readiness(&self, name: &'static str) -> Readiness {
        let shared = Arc::new(Condition { name, met: AtomicBool::new(false) });
        self.inner.conditions.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shared));
        Readiness { shared }
    }

    /// The loops that stand still, with the time since their last beat. Empty = alive.
    pub fn stuck(&self) -> Vec<(&'static str, Duration)> {
        self.stuck_at(self.inner.start.elapsed())
    }

    fn stuck_at(&self, now: Duration) -> Vec<(&'static str, Duration)> {
        let mut loops = self.inner.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|each| !each.finished.load(Ordering::Relaxed));
        loops
            .iter()
            .map(|each| {
                let beat = Duration::from_millis(each.beat.load(Ordering::Relaxed));
                (each, now.saturating_sub(beat))
            })
            .filter(|(each, silent)| *silent > each.bound)
            .map(|(each, silent)| (each.name, silent))
            .collect()
    }

    /// The conditions that are not met. Empty = ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.inner.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().filter(|each| !each.met.load(Ordering::Relaxed)).map(|each| each.name).collect()
    }

    /// The answer to `/healthz` and `/readyz`: whether it is good, and a line for people. `None` for any other path.
    pub fn answer(&self, path: &str) -> Option<(bool, String)> {
        match path {
            "/healthz" => {
                let stuck = self.stuck();
                let names: Vec<String> = stuck
                    .iter()
                    .map(|(name, silent)| format!("{name} has stood still for {} s", silent.as_secs()))
                    .collect();
                Some((
                    stuck.is_empty(),
                    if stuck.is_empty() { "ok\n".to_owned() } else { names.join("\n") + "\n" },
                ))
            }
            "/readyz" => {
                let missing = self.missing();
                let text = if missing.is_empty() {
                    "ok\n".to_owned()
                } else {
                    format!("waiting for {}\n", missing.join(", "))
                };
                Some((missing.is_empty(), text))
            }
            _ => None,
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeat {
    /// The loop came around. A clock read and a relaxed store.
    pub fn beat(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.beat.store(millis, Ordering::Relaxed);
    }

    /// The loop ended on purpose: its silence means nothing from here on.
    pub fn finish(self) {
        self.shared.finished.store(true, Ordering::Relaxed);
    }
}

impl Readiness {
    /// Whether the condition is met from here on.
    pub fn set(&self, met: bool) {
        self.shared.met.store(met, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_has_not_beaten_for_its_bound_turns_health_red_and_a_beat_turns_it_green() {
        let health = Health::new();
        let reader = health.heartbeat("reader", Duration::from_secs(10));
        let _slow = health.heartbeat("slow", Duration::from_secs(1000));
        assert_eq!(health.answer("/healthz"), Some((true, "ok\n".to_owned())));
        let later = Duration::from_secs(60);
        assert_eq!(health.stuck_at(later).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["reader"]);
        reader.shared.beat.store(55_000, Ordering::Relaxed);
        assert!(health.stuck_at(later).is_empty());
        reader.finish();
        assert!(health.stuck_at(Duration::from_secs(900)).is_empty());
    }

    #[test]
    fn a_heartbeat_that_was_dropped_counts_as_standing_still() {
        let health = Health::new();
        drop(health.heartbeat("reader", Duration::from_secs(10)));
        assert_eq!(health.stuck_at(Duration::from_secs(11)).len(), 1);
    }

    #[test]
    fn ready_when_every_condition_is_met() {
        let health = Health::new();
        assert_eq!(health.answer("/readyz"), Some((true, "ok\n".to_owned())));
        let discovery = health.readiness("first discovery");
        assert_eq!(health.answer("/readyz"), Some((false, "waiting for first discovery\n".to_owned())));
        discovery.set(true);
        assert!(health.missing().is_empty());
        assert_eq!(health.answer("/metrics"), None);
    }
}
