//! Another OTLP receiver: the next collector, ours or somebody else's. At least once, with the uid. One of these for each
//! signal that the sink takes, with connections of its own; a record is a log record, a data point or a span.
//!
//! A request goes on as it came, still compressed. Small ones are joined, since a request to the receiver costs the
//! same whatever is in it. What has to be left out, or what the receiver finds too much, is encoded anew
//! ([`forward`]). A receiver that is ours is told where records may have been sent before (`x-sonde-resend`), so that
//! it stores them once.
//!
//! Answers fall in contract section 8's classes, by the same code as the agent's. A request that is refused as it is
//! is halved, down to the one record, which is a dead letter then. Of a partial success nothing is sent again: where
//! every record was refused, they are dead letters; else the receiver does not say which they are, and they are
//! counted as `rejected`. One that refused none of them is a warning, which is said in the log.
//!
//! # Memory
//! For each of the lane's tries a request of at most [`forward::JOINED`] before compression, or one that came and is
//! larger, and its compressed bytes; beside them an answer of at most 64 KiB, and one compressor for all tries.

mod forward;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sonde_daemon::client::names::System;
use sonde_daemon::client::otlp::packer::PackError;
use sonde_daemon::client::otlp::{CONNECTION, Client, Options, Service};
use sonde_daemon::client::pool::CallError;
use sonde_daemon::log::RateLimit;
use sonde_daemon::secret::Token;
use sonde_wire::answer::Answer;

use self::forward::{Piece, Request};
use super::login::tls_options;
use super::{SinkError, blocking};
use crate::config;
use crate::deliver::{Batch, Sink, Trouble};
use crate::queue::Signal;

/// Addresses behind the endpoint's name that are used at a time.
const SPREAD: usize = 4;
/// From sending a request to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The sink.
pub struct Otlp {
    name: String,
    client: Arc<Client>,
    /// The receiver's last answer holds us: a try is one request then.
    held: AtomicBool,
    complaints: RateLimit,
}

/// What came of a request that was answered.
enum Sent {
    /// Its records are settled.
    Settled,
    /// Too much at once, or something in it: code and reason.
    Halve(String, String),
}

impl Otlp {
    /// Reads token and TLS files; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink, signal: Signal) -> Result<Self, SinkError> {
        Self::with_deadline(sink, signal, DEADLINE)
    }

    fn with_deadline(sink: &config::Sink, signal: Signal, deadline: Duration) -> Result<Self, SinkError> {
        let protocol = sink.protocol.unwrap_or_default();
        let token = sink.token_file.as_deref().filter(|file| !file.is_empty());
        let options = Options {
            endpoint: protocol.endpoint(sink.endpoint.as_deref().unwrap_or_default())?,
            protocol,
            service: service(signal),
            compression: sink.compression.unwrap_or_default(),
            headers: sink.headers.clone().unwrap_or_default(),
            token: token.map(|file| Token::open(Path::new(file))).transpose()?,
            tls: tls_options(&sink.tls.clone().unwrap_or_default(), &protocol.alpn()),
            user_agent: concat!("sonde-collector/", env!("CARGO_PKG_VERSION")),
            spread: SPREAD,
            deadline,
        };
        Ok(Self {
            name: sink.name.clone(),
            client: Arc::new(Client::new(options, Box::new(System))?),
            held: AtomicBool::new(false),
            complaints: RateLimit::new(Duration::from_secs(30)),
        })
    }

    async fn next(&self, batch: &Batch, from: usize, piece: Piece) -> Result<Option<Request>, Trouble> {
        let (units, states) = (Arc::clone(batch.units()), batch.states().to_vec());
        let client = Arc::clone(&self.client);
        let next = blocking(move || forward::next(&units, &states, from, piece, &client)).await?;
        next.map_err(|error: PackError| Trouble::retry("compressor", error.to_string()))
    }

    /// Sends a request and settles what the answer says.
    async fn send(&self, request: &mut Request, batch: &mut Batch) -> Result<Sent, Trouble> {
        let mut resend = request.in_doubt;
        let probe = self.held.load(Ordering::Relaxed);
        let answered = self.client.attempt(&mut request.packed, &mut resend, probe, &()).await;
        if resend {
            request.records.iter().for_each(|record| batch.doubt(*record));
        }
        let verdict = answered.map_err(|error: CallError| Trouble::retry(CONNECTION, error.to_string()))?;
        self.held.store(verdict.answer == Answer::Hold, Ordering::Relaxed);
        match verdict.answer {
            Answer::Accepted { rejected, message } => {
                self.settle(&request.records, rejected, &message, batch);
                Ok(Sent::Settled)
            }
            Answer::Reject => Ok(Sent::Halve(verdict.code, verdict.words)),
            Answer::Retry { after } => Err(Trouble { after, ..Trouble::retry(verdict.code, verdict.words) }),
            Answer::Hold => Err(Trouble::hold(verdict.code, verdict.words)),
        }
    }

    fn settle(&self, records: &[usize], rejected: u64, message: &str, batch: &mut Batch) {
        if rejected >= records.len() as u64 {
            records.iter().for_each(|record| batch.refuse(*record, "partial_success", message));
            return;
        }
        // With nothing rejected a message is a warning (opentelemetry.proto.collector.*, `error_message`).
        let told = rejected > 0 || !message.is_empty();
        if told && let Some(suppressed) = self.complaints.allow() {
            let what = if rejected > 0 {
                "the receiver refused records for good and does not say which"
            } else {
                "the receiver took all records, with a warning"
            };
            tracing::warn!(
                sink = self.name,
                rejected,
                of = records.len(),
                words = message,
                suppressed,
                "{what}"
            );
        }
        for (number, record) in records.iter().enumerate() {
            if (number as u64) < rejected {
                batch.reject(*record);
            } else {
                batch.delivered(*record);
            }
        }
    }
}

fn service(signal: Signal) -> Service {
    match signal {
        Signal::Logs => Service::Logs,
        Signal::Metrics => Service::Metrics,
        Signal::Traces => Service::Traces,
    }
}

impl Sink for Otlp {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let (mut from, mut piece) = (0, Piece::default());
        while let Some(mut request) = self.next(batch, from, piece).await? {
            let (first, last) = (request.records[0], request.records[request.records.len() - 1]);
            match self.send(&mut request, batch).await? {
                Sent::Settled => {
                    from = last + 1;
                    piece = piece.doubled();
                }
                Sent::Halve(code, reason) if first == last => {
                    batch.refuse(first, code, reason);
                    from = last + 1;
                }
                Sent::Halve(..) => piece = Piece::half_of(&request),
            }
        }
        Ok(())
    }

    fn forwards(&self) -> bool {
        true
    }
}
