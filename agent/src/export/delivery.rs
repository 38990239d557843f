//! One request until the receiver has answered for good: sent, sent again, held, or given back as refused.

use std::sync::Arc;
use std::time::Instant;

use sonde_daemon::backoff::Backoff;
use sonde_daemon::client::gate::{Change, Gate};
use sonde_daemon::client::otlp::packer::{Encoding, Packed};
use sonde_daemon::client::otlp::verdict::Verdict;
use sonde_daemon::client::otlp::{CONNECTION, Client, Watch};
use sonde_daemon::client::pool::CallError;
use sonde_daemon::log::RateLimit;
use sonde_wire::answer::Answer;

use super::metrics::Metrics;
use crate::batch::Outcome;

/// What all deliveries of an exporter share.
pub(super) struct Shared {
    pub client: Client,
    pub gate: Gate,
    pub metrics: Metrics,
    pub complaints: RateLimit,
}

impl Watch for Metrics {
    fn sent(&self, encoding: Encoding, body_bytes: usize) {
        Self::sent(self, encoding, body_bytes);
    }

    fn answered(&self, code: &str) {
        Self::answered(self, code);
    }
}

/// One request.
pub(super) struct Delivery {
    pub shared: Arc<Shared>,
    pub packed: Packed,
    pub resend: bool,
    pub taken_over: Instant,
}

impl Delivery {
    /// Ends only with a final answer. May be dropped at any time; the outcome is then not known.
    pub async fn run(mut self) -> Outcome {
        let shared = Arc::clone(&self.shared);
        let mut backoff = Backoff::new();
        let mut elsewhere = 0;
        loop {
            let pass = shared.gate.pass().await;
            let verdict = match self.attempt(pass.is_probe()).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    shared.open();
                    drop(pass);
                    shared.metrics.retry(CONNECTION);
                    shared.complain(CONNECTION, &error.to_string());
                    // Another address is tried at once, each at most once before the first wait.
                    let others = shared.client.pool.healthy();
                    if others > elsewhere && matches!(error, CallError::Unknown { .. }) {
                        elsewhere += 1;
                        continue;
                    }
                    elsewhere = 0;
                    tokio::time::sleep(backoff.next(None)).await;
                    continue;
                }
            };
            elsewhere = 0;
            match verdict.answer {
                Answer::Hold => {
                    shared.hold(&verdict);
                    drop(pass);
                }
                Answer::Retry { after } => {
                    shared.open();
                    drop(pass);
                    shared.metrics.retry(&verdict.code);
                    shared.complain(&verdict.code, &verdict.words);
                    let wait = backoff.next(after);
                    if after.is_some() {
                        shared.gate.pause(wait);
                    }
                    tokio::time::sleep(wait).await;
                }
                Answer::Accepted { rejected, message } => {
                    shared.open();
                    shared.metrics.accepted(self.packed.raw_bytes, rejected, self.taken_over.elapsed());
                    if rejected > 0 {
                        shared.complain("partial success", &message);
                    }
                    return Outcome::Accepted { rejected, message };
                }
                Answer::Reject => {
                    shared.open();
                    shared.complain(&verdict.code, &verdict.words);
                    return Outcome::Refused { code: verdict.code };
                }
            }
        }
    }

    /// Sends the request once, see [`Client::attempt`].
    pub async fn attempt(&mut self, probe: bool) -> Result<Verdict, CallError> {
        let shared = &self.shared;
        shared.client.attempt(&mut self.packed, &mut self.resend, probe, &shared.metrics).await
    }
}

impl Shared {
    /// Says each change once: while held, an answer that is the same as before is not news.
    fn hold(&self, verdict: &Verdict) {
        let Change::Held(old) = self.gate.hold(&verdict.code) else { return };
        self.metrics.blocked(old.as_deref(), Some(&verdict.code));
        let (code, words, endpoint) = (&verdict.code, &verdict.words, self.client.target.endpoint());
        tracing::error!(code, words, %endpoint, "the receiver's answer holds us: nothing is lost, one request a minute is sent until this is set right");
    }

    fn open(&self) {
        if let Change::Opened(code) = self.gate.open() {
            self.metrics.blocked(Some(&code), None);
            tracing::info!(code, "the receiver holds us no longer");
        }
    }

    fn complain(&self, code: &str, words: &str) {
        if let Some(suppressed) = self.complaints.allow() {
            let endpoint = self.client.target.endpoint();
            tracing::warn!(code, words, suppressed, %endpoint, "the receiver did not take a request");
        }
    }
}
