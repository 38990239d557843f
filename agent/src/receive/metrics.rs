//! `sonde_agent_receive_*`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sonde_daemon::client::otlp::Service;
use sonde_daemon::page::Sink;
use sonde_wire::response::PartialSuccess;

use super::relay::NotTaken;

/// What is counted of apps' requests.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counts: Mutex<Counts>,
}

/// Signals, outcomes and senders are our own few words, so their number is bounded.
#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, &'static str), u64>,
    bytes: BTreeMap<&'static str, u64>,
    rejected: BTreeMap<&'static str, u64>,
    senders: BTreeMap<&'static str, u64>,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, service: Option<Service>, result: &Result<PartialSuccess, NotTaken>) {
        let outcome = match result {
            Ok(_) => "accepted",
            Err(NotTaken::Refused(refusal)) => refusal.reason.name(),
            Err(NotTaken::Relayed(relayed)) => relayed.outcome,
        };
        let signal = service.map_or("unknown", Service::signal);
        *self.lock().requests.entry((signal, outcome)).or_default() += 1;
    }

    /// The receiver has one: its bytes as the app made them, and records that the receiver refused.
    pub fn taken(&self, service: Service, bytes: usize, rejected: u64) {
        let mut counts = self.lock();
        *counts.bytes.entry(service.signal()).or_default() += bytes as u64;
        *counts.rejected.entry(service.signal()).or_default() += rejected;
    }

    /// Who sent one.
    pub fn sender(&self, kind: &'static str) {
        *self.lock().senders.entry(kind).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts all of them on a page; `in_flight` is the memory that is reserved now.
    pub fn collect(&self, in_flight: u64, out: &mut Sink) {
        let counts = self.lock();
        let help = "Requests of apps, by what became of them.";
        let mut rows = out.counter("sonde_agent_receive_requests_total", help);
        for ((signal, outcome), count) in &counts.requests {
            rows.row([("signal", *signal), ("outcome", *outcome)], *count);
        }
        let families = [
            (
                "sonde_agent_receive_bytes_total",
                "Requests of apps that the receiver has, as the apps made them, uncompressed.",
                "signal",
                &counts.bytes,
            ),
            (
                "sonde_agent_receive_rejected_total",
                "Log records, data points and spans of apps that the receiver refused (partial success).",
                "signal",
                &counts.rejected,
            ),
            (
                "sonde_agent_receive_senders_total",
                "Requests of apps, by what their address says: a pod, or just this node.",
                "sender",
                &counts.senders,
            ),
        ];
        for (name, help, label, family) in families {
            let mut rows = out.counter(name, help);
            for (value, count) in family {
                rows.row([(label, *value)], *count);
            }
        }
        let help = "Memory reserved for requests of apps that are under way.";
        out.gauge("sonde_agent_receive_in_flight_bytes", help).row([], in_flight);
    }
}
