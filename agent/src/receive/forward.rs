//! The way on: each request once, to the receiver of the export, while its app waits.
//!
//! The connections are of its own, shared by the three services, and so is what is learned of the receiver's compression.
//! What the export does that this does not: it sends nothing again and holds nothing back, since the app does both. One
//! thing is kept: a receiver that asked for time is left alone by all apps until then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::client::names;
use sonde_daemon::client::otlp::{Client, Service};
use sonde_daemon::log::RateLimit;
use sonde_wire::answer::Answer;
use sonde_wire::response::PartialSuccess;
use tokio::time::Instant;

use super::relay::Relayed;
use super::work::Prepared;
use crate::config::Export;
use crate::export::{self, ExportError, Timing};

/// From sending a request to the end of its answer: what the SDKs of OpenTelemetry wait at most, if nobody sets it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A receiver may not silence us for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The receiver's three services.
pub(super) struct Forward {
    lanes: [Lane; 3],
    complaints: RateLimit,
}

struct Lane {
    client: Arc<Client>,
    paused_until: Mutex<Option<Instant>>,
}

impl Lane {
    fn new(client: Client) -> Self {
        Self { client: Arc::new(client), paused_until: Mutex::default() }
    }
}

impl Forward {
    /// Reads the token and TLS files; connects to nothing.
    pub fn build(config: &Export) -> Result<Self, ExportError> {
        Self::patient(config, PATIENCE)
    }

    /// As [`Forward::build`], for a receiver that may take so long.
    pub fn patient(config: &Export, deadline: Duration) -> Result<Self, ExportError> {
        let timing = Timing { deadline, ..Timing::default() };
        let logs = export::client(config, timing, Service::Logs, Box::new(names::System))?;
        let [metrics, traces] = [logs.beside(Service::Metrics), logs.beside(Service::Traces)];
        let lanes = [Lane::new(logs), Lane::new(metrics?), Lane::new(traces?)];
        Ok(Self { lanes, complaints: RateLimit::new(Duration::from_secs(30)) })
    }

    /// What packs and sends to this service.
    pub fn client(&self, service: Service) -> &Arc<Client> {
        &self.lane(service).client
    }

    fn lane(&self, service: Service) -> &Lane {
        let [logs, metrics, traces] = &self.lanes;
        match service {
            Service::Logs => logs,
            Service::Metrics => metrics,
            Service::Traces => traces,
        }
    }

    /// Whether the receiver did not ask for time.
    ///
    /// # Errors
    /// It did, and for how long.
    pub fn ready(&self, service: Service) -> Result<(), Relayed> {
        let now = Instant::now();
        let until = *self.lane(service).paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        match until.filter(|until| *until > now) {
            Some(until) => {
                Err(Relayed::away("the receiver asked for time".to_owned(), Some(until.duration_since(now))))
            }
            None => Ok(()),
        }
    }

    /// Sends a request once and returns what the receiver said. To be dropped when the app is gone.
    ///
    /// # Errors
    /// It did not take the request, or is away.
    pub async fn send(
        &self,
        service: Service,
        prepared: Prepared,
        mut resend: bool,
    ) -> Result<PartialSuccess, Relayed> {
        let Prepared { mut packed, grant, .. } = prepared;
        let lane = self.lane(service);
        let sent = lane.client.attempt(&mut packed, &mut resend, false, &()).await;
        drop(grant);
        let verdict = match sent {
            Ok(verdict) => verdict,
            Err(error) => {
                self.complain("connection", &error.to_string());
                return Err(Relayed::away("the receiver cannot be reached".to_owned(), None));
            }
        };
        match &verdict.answer {
            Answer::Accepted { .. } => {}
            Answer::Retry { after } => {
                self.complain(&verdict.code, &verdict.words);
                if let Some(after) = after {
                    let until = Instant::now() + (*after).min(LONGEST_PAUSE);
                    let mut paused = lane.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
                    *paused = (*paused).max(Some(until));
                }
            }
            Answer::Hold | Answer::Reject => self.complain(&verdict.code, &verdict.words),
        }
        Relayed::of(verdict)
    }

    fn complain(&self, code: &str, words: &str) {
        if let Some(suppressed) = self.complaints.allow() {
            let [lane, ..] = &self.lanes;
            let endpoint = lane.client.target.endpoint();
            tracing::warn!(code, words, suppressed, %endpoint, "the receiver did not take a request of an app");
        }
    }
}
