//! Why a request was not taken, and how that is said over gRPC and over HTTP.
//!
//! The table is section 8 of the contract: what a sender may send again is said with a delay; what it must not
//! send again as it is, without one.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use sonde_wire::grpc::Status;

use super::admission::Exhausted;
use super::inflate::InflateError;
use super::outline::OutlineError;

/// A request that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub reason: Reason,
    /// For people; never a part of the request.
    pub message: Cow<'static, str>,
}

/// Classes of refusal; [`Reason::name`] is the label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Above `limits.request`, before or after decompression.
    TooLarge,
    /// Not a request.
    Malformed,
    /// Compressed in a way that we do not know.
    Encoding,
    /// Neither protobuf nor JSON.
    ContentType,
    /// Nothing is served under this name.
    Unknown,
    /// Not POST.
    Method,
    /// No accepted token.
    Unauthenticated,
    /// Nobody says whether the token is good.
    Unreviewed,
    /// The memory for requests under way is used up.
    Overload,
    /// The queue has no room.
    QueueFull,
    /// The disk did not take it.
    Disk,
    /// Sinks that have to take it first do not keep up.
    Undelivered,
    /// The collector is stopping.
    Draining,
    /// The body did not arrive in time.
    Slow,
    /// The connection broke, or the body was cut short.
    Aborted,
    /// A fault of ours.
    Internal,
}

impl Reason {
    /// The label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Encoding => "encoding",
            Self::ContentType => "content_type",
            Self::Unknown => "unknown",
            Self::Method => "method",
            Self::Unauthenticated => "unauthenticated",
            Self::Unreviewed => "unreviewed",
            Self::Overload => "overload",
            Self::QueueFull => "queue_full",
            Self::Disk => "disk",
            Self::Undelivered => "undelivered",
            Self::Draining => "draining",
            Self::Slow => "slow",
            Self::Aborted => "aborted",
            Self::Internal => "internal",
        }
    }

    /// The gRPC status.
    pub fn grpc(self) -> Status {
        match self {
            Self::TooLarge => Status::ResourceExhausted,
            Self::Malformed | Self::Aborted => Status::InvalidArgument,
            Self::Encoding | Self::ContentType | Self::Unknown | Self::Method => Status::Unimplemented,
            Self::Unauthenticated => Status::Unauthenticated,
            Self::Unreviewed
            | Self::Overload
            | Self::QueueFull
            | Self::Disk
            | Self::Undelivered
            | Self::Draining => Status::Unavailable,
            Self::Slow => Status::DeadlineExceeded,
            Self::Internal => Status::Internal,
        }
    }

    /// The HTTP status.
    pub fn http(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Malformed | Self::Aborted => StatusCode::BAD_REQUEST,
            Self::Encoding | Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Overload => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreviewed | Self::QueueFull | Self::Disk | Self::Undelivered | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// When to come again, where coming again helps.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Overload | Self::Draining => Some(Duration::from_secs(1)),
            Self::Unreviewed | Self::QueueFull | Self::Disk | Self::Undelivered => {
                Some(Duration::from_secs(5))
            }
            _ => None,
        }
    }
}

impl Refusal {
    /// A refusal for `reason`.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Not a request.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::Malformed, message)
    }

    /// Above `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Reason::TooLarge, format!("the request is larger than {limit} bytes"))
    }
}

impl From<Exhausted> for Refusal {
    fn from(error: Exhausted) -> Self {
        let reason = match error {
            Exhausted::Now => Reason::Overload,
            Exhausted::Ever => Reason::TooLarge,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<OutlineError> for Refusal {
    fn from(error: OutlineError) -> Self {
        let reason = match error {
            OutlineError::TooLarge(_) => Reason::TooLarge,
            OutlineError::Varint(_) | OutlineError::Key(_) | OutlineError::Beyond(_) => Reason::Malformed,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<InflateError> for Refusal {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Memory(error) => error.into(),
            InflateError::Outline(error) => error.into(),
            InflateError::TooLarge(_) => Self::new(Reason::TooLarge, error.to_string()),
            InflateError::Malformed(_) => Self::new(Reason::Malformed, error.to_string()),
        }
    }
}
