//! What the receivers count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::page::Sink;
use sonde_daemon::receive::refusal::Refusal;
use sonde_wire::grpc::Status;

use crate::queue::Signal;

/// Upper ends of the acknowledgement's buckets, seconds: from a queue on fast flash to one that stands.
const ACK_SECONDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, f64::INFINITY];

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP.
    Http,
}

/// The receivers' counters; shared by all connections.
#[derive(Debug, Default)]
pub struct Metrics {
    answers: Mutex<Answers>,
    /// By signal.
    taken: [Taken; Signal::ALL.len()],
}

/// What was acknowledged of a signal.
#[derive(Debug, Default)]
struct Taken {
    records: AtomicU64,
    bytes: AtomicU64,
    uncompressed_bytes: AtomicU64,
}

/// Counted once a request.
#[derive(Debug, Default)]
struct Answers {
    /// By transport and code.
    requests: BTreeMap<(&'static str, String), u64>,
    refused: BTreeMap<&'static str, u64>,
    ack: [u64; ACK_SECONDS.len()],
    ack_sum: f64,
}

impl Metrics {
    /// A request was acknowledged: its records, and its bytes before and after decompression.
    pub(super) fn taken(&self, signal: Signal, records: u32, received: usize, uncompressed: u32) {
        let taken = &self.taken[signal as usize];
        taken.records.fetch_add(u64::from(records), Ordering::Relaxed);
        taken.bytes.fetch_add(received as u64, Ordering::Relaxed);
        taken.uncompressed_bytes.fetch_add(u64::from(uncompressed), Ordering::Relaxed);
    }

    /// A request was answered.
    pub(super) fn answered(
        &self,
        transport: Transport,
        signal: Option<Signal>,
        result: Result<(), &Refusal>,
        took: Duration,
    ) {
        let key = match transport {
            Transport::Grpc => {
                let status = result.map_or_else(|refusal| refusal.reason.grpc(), |()| Status::Ok);
                ("grpc", status.name().to_owned())
            }
            Transport::Http => {
                let status = result.map_or_else(|refusal| refusal.reason.http().as_u16(), |()| 200);
                ("http", status.to_string())
            }
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.requests.entry(key).or_default() += 1;
        match result {
            // Metrics may be acknowledged without a disk: among logs they would make those look faster.
            Ok(()) if signal != Some(Signal::Logs) => {}
            Ok(()) => {
                let seconds = took.as_secs_f64();
                answers.ack_sum += seconds;
                let bucket = ACK_SECONDS.iter().position(|end| seconds <= *end).unwrap_or(0);
                answers.ack[bucket] += 1;
            }
            Err(refusal) => *answers.refused.entry(refusal.reason.name()).or_default() += 1,
        }
    }

    /// Puts all of them on a page; `in_flight` is the memory that is reserved now.
    pub(super) fn collect(&self, in_flight: u64, out: &mut Sink) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Answered OTLP requests, by gRPC status name or HTTP status.";
        let mut rows = out.counter("sonde_collector_requests_total", help);
        for ((transport, code), count) in &answers.requests {
            rows.row([("transport", *transport), ("code", code.as_str())], *count);
        }
        let mut rows =
            out.counter("sonde_collector_requests_refused_total", "OTLP requests that were not taken.");
        for (reason, count) in &answers.refused {
            rows.row([("reason", *reason)], *count);
        }
        for (signal, taken) in Signal::ALL.into_iter().zip(&self.taken) {
            let counters = [
                (
                    "sonde_collector_received_records_total",
                    "Records acknowledged; with a signal, the data points and spans that were queued.",
                    &taken.records,
                ),
                ("sonde_collector_received_bytes_total", "Acknowledged requests as received.", &taken.bytes),
                (
                    "sonde_collector_received_uncompressed_bytes_total",
                    "Acknowledged requests after decompression.",
                    &taken.uncompressed_bytes,
                ),
            ];
            for (name, help, counter) in counters {
                out.counter(name, help).row(signal.label(), counter.load(Ordering::Relaxed));
            }
        }
        let help = "Memory reserved for requests under way.";
        out.gauge("sonde_collector_in_flight_bytes", help).row([], in_flight);
        let buckets: Vec<_> = ACK_SECONDS.into_iter().zip(answers.ack).collect();
        let help = "Time from the head of a request for logs to its acknowledgement.";
        out.family(sonde_daemon::page::Kind::Histogram, "sonde_collector_ack_seconds", help).histogram(
            [],
            answers.ack_sum,
            &buckets,
        );
    }
}
