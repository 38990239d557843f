//! What a sender does with a receiver's answer: contract section 8, for OTLP over gRPC and over HTTP, and for
//! the HTTP backends of the sinks.
//!
//! Codes that the contract does not list are [`Answer::Hold`]: nothing is lost by it, and it is said.

use std::time::Duration;

use crate::grpc::Status;
use crate::response::PartialSuccess;

/// The sender's next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The receiver has it; `rejected` of its records it refused for good.
    Accepted {
        /// Records refused for good.
        rejected: u64,
        /// The receiver's words.
        message: String,
    },
    /// Send the same again, for ever, with backoff.
    Retry {
        /// Not before this, as the receiver said it; callers bound it.
        after: Option<Duration>,
    },
    /// Something has to be set right first: keep the position, probe at most once a minute, say so.
    Hold,
    /// The request as it is will never be taken: halve it down to the record at fault.
    Reject,
}

impl Answer {
    /// For a connection that broke, or gave no answer.
    pub const BROKEN: Self = Self::Retry { after: None };

    /// Accepted, with what the response says.
    #[must_use]
    pub fn accepted(partial: PartialSuccess) -> Self {
        Self::Accepted { rejected: partial.rejected, message: partial.message }
    }
}

/// For OTLP/gRPC. `retry_delay` is that of [`StatusDetails`](crate::grpc::StatusDetails), `Some` whenever
/// there was a RetryInfo. For OK the response has yet to be read ([`Answer::accepted`]).
#[must_use]
pub fn from_grpc(status: Status, retry_delay: Option<Duration>) -> Answer {
    match status {
        Status::Ok => Answer::accepted(PartialSuccess::default()),
        Status::Cancelled
        | Status::DeadlineExceeded
        | Status::Aborted
        | Status::OutOfRange
        | Status::Unavailable
        | Status::DataLoss => Answer::Retry { after: retry_delay },
        Status::ResourceExhausted if retry_delay.is_some() => Answer::Retry { after: retry_delay },
        Status::ResourceExhausted | Status::InvalidArgument => Answer::Reject,
        Status::Unauthenticated
        | Status::PermissionDenied
        | Status::Unimplemented
        | Status::Internal
        | Status::Unknown
        | Status::NotFound
        | Status::AlreadyExists
        | Status::FailedPrecondition => Answer::Hold,
    }
}

/// For HTTP. `retry_after` is the Retry-After header as a duration from now. Of the 2xx only 200, 201, 202
/// and 204 mean that the data was taken: Loki says 260 when it is told to drop everything.
#[must_use]
pub fn from_http(status: u16, retry_after: Option<Duration>) -> Answer {
    match status {
        200 | 201 | 202 | 204 => Answer::accepted(PartialSuccess::default()),
        408 | 429 | 502 | 503 | 504 => Answer::Retry { after: retry_after },
        400 | 413 => Answer::Reject,
        _ => Answer::Hold,
    }
}

#[cfg(test)]
mod tests;
