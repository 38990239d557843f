//! `sonde_agent_canary_*`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sonde_daemon::page::{Kind, Sink, Source};

/// Upper ends of the times, in seconds: those of the collector's `sonde_collector_canary_delay_seconds`.
const SECONDS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, f64::INFINITY];

/// The canary's numbers; clones share them.
#[derive(Clone, Debug, Default)]
pub struct CanaryMetrics(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    written: u64,
    acknowledged: u64,
    rejected: u64,
    under_way: Option<Instant>,
    seconds: f64,
    buckets: [u64; SECONDS.len()],
}

impl CanaryMetrics {
    pub(super) fn written(&self, now: Instant) {
        let mut counts = self.lock();
        counts.written += 1;
        counts.under_way = Some(now);
    }

    pub(super) fn acknowledged(&self, after: Duration) {
        let mut counts = self.lock();
        let seconds = after.as_secs_f64();
        counts.acknowledged += 1;
        counts.under_way = None;
        counts.seconds += seconds;
        let at = SECONDS.iter().position(|end| seconds <= *end).unwrap_or(SECONDS.len() - 1);
        counts.buckets[at] += 1;
    }

    pub(super) fn rejected(&self) {
        let mut counts = self.lock();
        counts.rejected += 1;
        counts.under_way = None;
    }

    /// Of the canary that is not acknowledged; zero without one.
    pub(super) fn age(&self) -> Duration {
        self.lock().under_way.map_or(Duration::ZERO, |written| written.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for CanaryMetrics {
    fn name(&self) -> &'static str {
        "canary"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let age = self.age().as_secs_f64();
        let counts = self.lock();
        for (name, help, value) in [
            ("sonde_agent_canary_written_total", "Canaries that were written.", counts.written),
            (
                "sonde_agent_canary_acknowledged_total",
                "Canaries that the receiver has acknowledged.",
                counts.acknowledged,
            ),
            (
                "sonde_agent_canary_rejected_total",
                "Canaries that the receiver refused for good.",
                counts.rejected,
            ),
        ] {
            out.counter(name, help).row([], value);
        }
        let help = "Age of the canary that is not acknowledged; 0 without one.";
        out.gauge("sonde_agent_canary_oldest_unacknowledged_seconds", help).row([], age);
        let buckets: Vec<(f64, u64)> = SECONDS.into_iter().zip(counts.buckets).collect();
        let help = "Time from writing a canary to its acknowledgement, with the wait among users' requests.";
        out.family(Kind::Histogram, "sonde_agent_canary_ack_seconds", help).histogram(
            [],
            counts.seconds,
            &buckets,
        );
        Ok(())
    }
}
