//! The receiver's answer as the app's: what came over one transport said over the other. Pure.
//!
//! A status of the same transport goes through as it is. Over the other it becomes what means the same to a sender (OTLP's
//! lists of what is sent again): by the table of opentelemetry-proto `docs/specification.md` and gRPC's
//! `http-grpc-status-mapping.md`. Two answers are not the app's to hear:
//! - that *our* credentials are refused (401, 403 and their like): the app would throw its data away for what somebody is
//!   about to set right. It is asked to come again.
//! - an answer that is none of OTLP's, such as a web page or a redirection: so is it.

use std::time::Duration;

use http::StatusCode;
use sonde_daemon::client::otlp::verdict::Verdict;
use sonde_daemon::receive::refusal::Refusal;
use sonde_wire::answer::Answer;
use sonde_wire::grpc::{Status, StatusDetails};
use sonde_wire::response::PartialSuccess;

/// When to come again, where the receiver does not say.
const COME_AGAIN: Duration = Duration::from_secs(5);

/// Why an app is not acknowledged.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// By us.
    Refused(Refusal),
    /// By the receiver.
    Relayed(Relayed),
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Relayed> for NotTaken {
    fn from(relayed: Relayed) -> Self {
        Self::Relayed(relayed)
    }
}

/// An answer of the receiver that is no success, for both transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relayed {
    /// For an app that came over HTTP.
    pub http: StatusCode,
    /// For one that came over gRPC, and the body for the other.
    pub details: StatusDetails,
    /// The label `outcome`.
    pub outcome: &'static str,
}

impl Relayed {
    /// For a receiver that is away, or asked not to be asked before `after`.
    pub fn away(message: String, after: Option<Duration>) -> Self {
        Self {
            http: StatusCode::SERVICE_UNAVAILABLE,
            details: StatusDetails {
                status: Status::Unavailable,
                message,
                retry_delay: Some(after.unwrap_or(COME_AGAIN)),
            },
            outcome: "unavailable",
        }
    }

    /// What the receiver said.
    ///
    /// # Errors
    /// It did not take the request.
    pub fn of(verdict: Verdict) -> Result<PartialSuccess, Self> {
        let Verdict { answer, code, words, .. } = verdict;
        let (after, outcome) = match answer {
            Answer::Accepted { rejected, message } => return Ok(PartialSuccess { rejected, message }),
            Answer::Retry { after } => (after, "retry"),
            Answer::Hold => (None, "held"),
            Answer::Reject => (None, "rejected"),
        };
        let message = if words.is_empty() { format!("the receiver answers {code}") } else { words };
        let said = match code.parse() {
            Ok(status) => of_http(status, after),
            Err(_) => of_grpc(Status::from_name(&code).unwrap_or(Status::Unknown), after),
        };
        Err(match said {
            None => {
                let away = Self::away(format!("the receiver refuses the agent ({code}): {message}"), None);
                Self { outcome: "held", ..away }
            }
            Some((http, status)) => {
                Self { http, details: StatusDetails { status, message, retry_delay: after }, outcome }
            }
        })
    }
}

/// Over both transports, an answer that came as a gRPC status; `None` where it is not the app's.
fn of_grpc(status: Status, after: Option<Duration>) -> Option<(StatusCode, Status)> {
    let http = match status {
        Status::Unauthenticated | Status::PermissionDenied => return None,
        Status::InvalidArgument => StatusCode::BAD_REQUEST,
        Status::ResourceExhausted if after.is_some() => StatusCode::TOO_MANY_REQUESTS,
        Status::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        Status::Unimplemented => StatusCode::NOT_FOUND,
        Status::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Status::Cancelled | Status::Aborted | Status::OutOfRange | Status::Unavailable | Status::DataLoss => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Status::Ok
        | Status::Unknown
        | Status::Internal
        | Status::NotFound
        | Status::AlreadyExists
        | Status::FailedPrecondition => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Some((http, if status == Status::Ok { Status::Internal } else { status }))
}

/// The same for one that came as an HTTP status.
fn of_http(status: u16, after: Option<Duration>) -> Option<(StatusCode, Status)> {
    let http =
        StatusCode::from_u16(status).ok().filter(|http| http.is_client_error() || http.is_server_error())?;
    let status = match status {
        401 | 403 | 407 => return None,
        400 => Status::InvalidArgument,
        413 => Status::ResourceExhausted,
        429 if after.is_some() => Status::ResourceExhausted,
        408 | 429 | 502..=504 => Status::Unavailable,
        404 | 405 | 415 | 501 => Status::Unimplemented,
        500 => Status::Internal,
        _ => Status::Unknown,
    };
    Some((http, status))
}

#[cfg(test)]
mod tests;
