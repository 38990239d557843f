//! `sonde_agent_push_*`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{Sink, Source};

/// Why an interval's sample is not with the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The push before it took longer than the interval.
    Late,
    /// The receiver cannot be reached, or did not answer.
    Unreachable,
    /// It asks for time.
    Retry,
    /// Its answer holds us.
    Held,
    /// It refuses what it was sent.
    Refused,
}

impl Dropped {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Late, "late"),
        (Self::Unreachable, "unreachable"),
        (Self::Retry, "retry"),
        (Self::Held, "held"),
        (Self::Refused, "refused"),
    ];
}

/// The push's numbers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PushMetrics(Arc<Mutex<Counts>>);

/// Codes are gRPC status names and HTTP statuses, so their number is bounded.
#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<String, u64>,
    /// By [`Dropped::ALL`].
    dropped: [u64; Dropped::ALL.len()],
    points: u64,
    raw_bytes: u64,
    bytes: u64,
    rejected: u64,
    last_success: f64,
    blocked: BTreeMap<String, bool>,
}

impl PushMetrics {
    pub(super) fn sent(&self, code: &str, points: u64, raw_bytes: usize, bytes: usize) {
        let mut counts = self.lock();
        *counts.requests.entry(code.to_owned()).or_default() += 1;
        counts.points = points;
        counts.raw_bytes = raw_bytes as u64;
        counts.bytes += bytes as u64;
    }

    pub(super) fn accepted(&self, rejected: u64, at: SystemTime) {
        let mut counts = self.lock();
        counts.rejected = counts.rejected.saturating_add(rejected);
        counts.last_success = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    }

    pub(super) fn dropped(&self, why: Dropped, intervals: u64) {
        let mut counts = self.lock();
        for ((each, _), sum) in Dropped::ALL.iter().zip(&mut counts.dropped) {
            if *each == why {
                *sum += intervals;
            }
        }
    }

    /// At most one code is 1; one that held us before stays on the page as 0.
    pub(super) fn blocked(&self, code: Option<&str>) {
        let mut counts = self.lock();
        counts.blocked.values_mut().for_each(|blocked| *blocked = false);
        if let Some(code) = code {
            counts.blocked.insert(code.to_owned(), true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for PushMetrics {
    fn name(&self) -> &'static str {
        "push"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let counts = self.lock();
        let help = "Pushes of metrics that were answered, by the answer.";
        let mut rows = out.counter("sonde_agent_push_requests_total", help);
        for (code, count) in &counts.requests {
            rows.row([("code", code.as_str())], *count);
        }
        let help = "Intervals whose sample the receiver does not have.";
        let mut rows = out.counter("sonde_agent_push_dropped_total", help);
        for ((_, reason), count) in Dropped::ALL.iter().zip(counts.dropped) {
            rows.row([("reason", *reason)], count);
        }
        let help = "Bytes of pushes as they were sent.";
        out.counter("sonde_agent_push_bytes_total", help).row([], counts.bytes);
        let help = "Data points that the receiver did not keep of pushes that it accepted.";
        out.counter("sonde_agent_push_rejected_points_total", help).row([], counts.rejected);
        out.gauge("sonde_agent_push_points", "Data points of the last push.").row([], counts.points);
        let help = "Bytes of the last push before compression.";
        out.gauge("sonde_agent_push_uncompressed_bytes", help).row([], counts.raw_bytes);
        if counts.last_success > 0.0 {
            let help = "When the receiver last accepted a push.";
            out.gauge("sonde_agent_push_last_success_timestamp_seconds", help).row([], counts.last_success);
        }
        let help = "1 while the receiver's answer holds the push: one a minute is tried then.";
        let mut rows = out.gauge("sonde_agent_push_blocked", help);
        for (code, blocked) in &counts.blocked {
            rows.row([("code", code.as_str())], *blocked);
        }
        Ok(())
    }
}
