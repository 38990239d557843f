//! Requests that are sent once: who sends them has something newer when one fails.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::names;
use sonde_daemon::client::otlp::packer::PackError;
use sonde_daemon::client::otlp::verdict::Verdict;
use sonde_daemon::client::pool::CallError;

use super::delivery::{Delivery, Shared};
use super::{ExportError, Service, Timing, share};
use crate::config::Export;

/// Sends requests to one service of a receiver, over connections of its own.
pub struct Courier(Arc<Shared>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The receiver could not be asked, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Courier {
    /// Reads the token and TLS files; connects to nothing.
    pub fn build(config: &Export, timing: Timing, service: Service) -> Result<Self, ExportError> {
        // One request is under way at a time, so one address serves.
        let config = Export { in_flight: 1, ..config.clone() };
        Ok(Self(Arc::new(share(&config, timing, service, Box::new(names::System))?)))
    }

    /// Where it sends to.
    pub fn endpoint(&self) -> &Endpoint {
        self.0.client.target.endpoint()
    }

    /// Compresses a request and sends it, in simpler encodings too while its encoding may be why it is refused.
    /// With `probe`, of a receiver that holds us, each call is one request at most. Returns the answer and the bytes of
    /// the request's body.
    pub async fn send(&self, payload: &Bytes, probe: bool) -> Result<(Verdict, usize), SendError> {
        let packed = self.0.client.pack(payload)?;
        let shared = Arc::clone(&self.0);
        let mut delivery = Delivery { shared, packed, resend: false, taken_over: Instant::now() };
        let verdict = delivery.attempt(probe).await?;
        Ok((verdict, delivery.packed.body_bytes()))
    }
}
