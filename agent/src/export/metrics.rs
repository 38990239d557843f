//! `sonde_agent_export_*`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::page::{Kind, Sink, Source};

/// Upper ends of the acknowledgement times, in seconds.
const ACK_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, f64::INFINITY];

/// The exporter's numbers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    counts: Arc<Mutex<Counts>>,
}

/// Codes are gRPC status names, HTTP statuses and our own few words, so their number is bounded.
#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<String, u64>,
    retries: BTreeMap<String, u64>,
    /// By [`Encoding::ALL`].
    bytes: [u64; 3],
    uncompressed_bytes: u64,
    rejected_records: u64,
    blocked: BTreeMap<String, bool>,
    in_flight: u64,
    ack_seconds: f64,
    ack_buckets: [u64; ACK_SECONDS.len()],
}

impl Metrics {
    pub(super) fn answered(&self, code: &str) {
        *entry(&mut self.lock().requests, code) += 1;
    }

    pub(super) fn retry(&self, code: &str) {
        *entry(&mut self.lock().retries, code) += 1;
    }

    pub(super) fn sent(&self, encoding: Encoding, body_bytes: usize) {
        for (sum, each) in self.lock().bytes.iter_mut().zip(Encoding::ALL) {
            if each == encoding {
                *sum += body_bytes as u64;
            }
        }
    }

    pub(super) fn taken_over(&self) {
        self.lock().in_flight += 1;
    }

    pub(super) fn settled(&self) {
        let mut counts = self.lock();
        counts.in_flight = counts.in_flight.saturating_sub(1);
    }

    pub(super) fn accepted(&self, raw_bytes: usize, rejected: u64, after: Duration) {
        let mut counts = self.lock();
        counts.uncompressed_bytes += raw_bytes as u64;
        counts.rejected_records = counts.rejected_records.saturating_add(rejected);
        let seconds = after.as_secs_f64();
        counts.ack_seconds += seconds;
        let at = ACK_SECONDS.iter().position(|end| seconds <= *end).unwrap_or(ACK_SECONDS.len() - 1);
        counts.ack_buckets[at] += 1;
    }

    /// At most one code is 1; one that held us before stays on the page as 0.
    pub(super) fn blocked(&self, old: Option<&str>, new: Option<&str>) {
        let mut counts = self.lock();
        for (code, value) in [(old, false), (new, true)] {
            if let Some(code) = code {
                *entry(&mut counts.blocked, code) = value;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a, V: Default>(map: &'a mut BTreeMap<String, V>, code: &str) -> &'a mut V {
    map.entry(code.to_owned()).or_default()
}

impl Source for Metrics {
    fn name(&self) -> &'static str {
        "export"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let counts = self.lock();
        let mut rows =
            out.counter("sonde_agent_export_requests_total", "Requests sent, by the receiver's answer.");
        for (code, count) in &counts.requests {
            rows.row([("code", code.as_str())], *count);
        }
        let mut rows = out.counter(
            "sonde_agent_export_retries_total",
            "Requests that had to be sent again, by the reason.",
        );
        for (code, count) in &counts.retries {
            rows.row([("code", code.as_str())], *count);
        }
        let mut rows =
            out.counter("sonde_agent_export_bytes_total", "Bytes of request bodies as they were sent.");
        for (encoding, bytes) in Encoding::ALL.iter().zip(counts.bytes) {
            rows.row([("compression", encoding.name())], bytes);
        }
        out.counter(
            "sonde_agent_export_uncompressed_bytes_total",
            "Bytes of accepted requests before compression.",
        )
        .row([], counts.uncompressed_bytes);
        out.counter(
            "sonde_agent_export_rejected_records_total",
            "Records that the receiver refused for good while it accepted their request.",
        )
        .row([], counts.rejected_records);
        let mut rows = out.gauge(
            "sonde_agent_export_blocked",
            "1 while the receiver's answer holds us: one request a minute is sent then.",
        );
        for (code, blocked) in &counts.blocked {
            rows.row([("code", code.as_str())], *blocked);
        }
        out.gauge("sonde_agent_export_in_flight", "Requests that are not acknowledged.")
            .row([], counts.in_flight);
        let buckets: Vec<(f64, u64)> = ACK_SECONDS.into_iter().zip(counts.ack_buckets).collect();
        out.family(
            Kind::Histogram,
            "sonde_agent_export_ack_seconds",
            "Time from taking over a request to its acknowledgement, retries included.",
        )
        .histogram([], counts.ack_seconds, &buckets);
        Ok(())
    }
}
