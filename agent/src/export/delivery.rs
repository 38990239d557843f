//! One request until the receiver has answered for good: sent, sent again, held, or given back as refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sonde_daemon::backoff::Backoff;
use sonde_daemon::client::gate::{Change, Gate};
use sonde_daemon::client::pool::{CallError, Pool};
use sonde_daemon::log::RateLimit;
use sonde_wire::answer::Answer;

use super::ladder::Ladder;
use super::metrics::Metrics;
use super::packer::{Encoding, Packed, Packer};
use super::target::Target;
use super::verdict::{self, EncodingDoubt, Verdict};
use crate::batch::Outcome;
use crate::config::Protocol;

/// The code of a connection that could not be made, or broke.
const CONNECTION: &str = "connection";

/// What all deliveries of an exporter share.
pub(super) struct Shared {
    pub pool: Arc<Pool>,
    pub target: Target,
    pub protocol: Protocol,
    pub gate: Gate,
    pub ladder: Mutex<Ladder>,
    pub packer: Mutex<Packer>,
    pub metrics: Metrics,
    pub deadline: Duration,
    pub complaints: RateLimit,
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
                    let others = shared.pool.healthy();
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

    /// Sends the request, and in simpler encodings too while its encoding may be why it is refused. While a receiver
    /// goes on holding us a `probe` is one request: the next probe tries the next encoding.
    pub async fn attempt(&mut self, probe: bool) -> Result<Verdict, CallError> {
        let shared = Arc::clone(&self.shared);
        let used = shared.ladder().encoding();
        if used < self.packed.encoding
            && let Some(repacked) = shared.repack(&self.packed, used)
        {
            self.packed = repacked;
        }
        let first = if probe { shared.ladder().probe() } else { used };
        let first = if first < self.packed.encoding { shared.repack(&self.packed, first) } else { None };
        let first = first.unwrap_or_else(|| self.packed.clone());
        let mut sent = first.encoding;
        // A probe whose turn it was to be simpler: that it is taken says nothing of the others.
        let turn = (probe && sent < used).then_some(sent);
        let mut verdict = self.send(&first).await?;
        while verdict.encoding != EncodingDoubt::None {
            let Some(simpler) = shared.ladder().simpler(sent, &verdict.encoding) else { break };
            if probe && verdict.answer == Answer::Hold {
                shared.ladder().probe_next_with(simpler);
                break;
            }
            let Some(trial) = shared.repack(&self.packed, simpler) else { break };
            sent = simpler;
            verdict = self.send(&trial).await?;
        }
        if let Answer::Accepted { .. } = verdict.answer
            && turn != Some(sent)
        {
            shared.ladder().accepted(sent);
            if sent != self.packed.encoding {
                tracing::info!(
                    refused = self.packed.encoding.name(),
                    used = sent.name(),
                    "the receiver refuses a compression, a simpler one is used from here on"
                );
            }
        }
        Ok(verdict)
    }

    async fn send(&mut self, packed: &Packed) -> Result<Verdict, CallError> {
        let shared = &self.shared;
        let request = shared.target.request(packed, self.resend);
        shared.metrics.sent(packed.encoding, packed.body_bytes());
        let (address, reply) = match shared.pool.call(&request, shared.deadline).await {
            Ok(answered) => answered,
            Err(error) => {
                shared.metrics.answered(CONNECTION);
                self.resend |= matches!(error, CallError::Unknown { .. });
                return Err(error);
            }
        };
        let verdict = match shared.protocol {
            Protocol::Grpc => verdict::of_grpc(&reply, packed.encoding),
            Protocol::Http => verdict::of_http(&reply, packed.encoding, SystemTime::now()),
        };
        shared.metrics.answered(&verdict.code);
        if matches!(verdict.answer, Answer::Retry { .. } | Answer::Hold) {
            shared.pool.avoid(address);
        }
        self.resend |= !verdict.surely_not_kept();
        Ok(verdict)
    }
}

impl Shared {
    pub fn ladder(&self) -> MutexGuard<'_, Ladder> {
        self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn packer(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repack(&self, packed: &Packed, encoding: Encoding) -> Option<Packed> {
        match self.packer().repack(packed, encoding) {
            Ok(packed) => Some(packed),
            Err(error) => {
                tracing::error!(%error, "a request stays in the compression that it has");
                None
            }
        }
    }

    /// Says each change once: while held, an answer that is the same as before is not news.
    fn hold(&self, verdict: &Verdict) {
        let Change::Held(old) = self.gate.hold(&verdict.code) else { return };
        self.metrics.blocked(old.as_deref(), Some(&verdict.code));
        let (code, words, endpoint) = (&verdict.code, &verdict.words, self.target.endpoint());
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
            let endpoint = self.target.endpoint();
            tracing::warn!(code, words, suppressed, %endpoint, "the receiver did not take a request");
        }
    }
}
