//! What gRPC puts around an OTLP message: the five-byte prefix, status codes, error details, and
//! percent-encoding (gRPC's `doc/PROTOCOL-HTTP2.md` and `doc/statuscodes.md`;
//! `google/rpc/{status,error_details}.proto`).

use std::time::Duration;

use crate::base64;
use crate::limits::MESSAGE_BYTES;
use crate::proto::{ProtoError, Reader, Value, put_bytes, put_uint};
use crate::response::cut_message;

/// `:path` of the logs service.
pub const LOGS_EXPORT_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// The path of the metrics service's one call.
pub const METRICS_EXPORT_PATH: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// The path of the trace service's one call.
pub const TRACES_EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Metadata (and HTTP header) of a request that may hold records that were sent before; its value is `1`.
pub const RESEND_HEADER: &str = "x-sonde-resend";

/// Trailer that holds a [`StatusDetails`] in base64.
pub const STATUS_DETAILS_TRAILER: &str = "grpc-status-details-bin";

/// The five bytes before each gRPC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Compressed as `grpc-encoding` says.
    pub compressed: bool,
    /// Length of the message as sent, bytes.
    pub len: u32,
}

/// Why a prefix is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// A compressed flag that is neither 0 nor 1: [`Status::Internal`].
    #[error("the compressed flag of the message is {0} (expected 0 or 1)")]
    Flag(u8),
    /// [`Status::ResourceExhausted`], without RetryInfo.
    #[error("the message has {len} bytes (limit {limit})")]
    TooLarge {
        /// The message's length.
        len: u32,
        /// What is allowed.
        limit: usize,
    },
}

impl Prefix {
    /// Length of a prefix, bytes.
    pub const LEN: usize = 5;

    /// The bytes to send.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.len.to_be_bytes();
        [self.compressed as u8, a, b, c, d]
    }

    /// Reads a prefix, and refuses messages of more than `limit` bytes.
    pub fn decode(bytes: [u8; Self::LEN], limit: usize) -> Result<Self, PrefixError> {
        let [flag, a, b, c, d] = bytes;
        let len = u32::from_be_bytes([a, b, c, d]);
        if flag > 1 {
            return Err(PrefixError::Flag(flag));
        }
        if u64::from(len) > limit as u64 {
            return Err(PrefixError::TooLarge { len, limit });
        }
        Ok(Self { compressed: flag == 1, len })
    }
}

/// The seventeen status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the codes are gRPC's own and described in its statuscodes.md")]
pub enum Status {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// Every code with its name, by number.
const STATUSES: [(Status, &str); 17] = [
    (Status::Ok, "OK"),
    (Status::Cancelled, "CANCELLED"),
    (Status::Unknown, "UNKNOWN"),
    (Status::InvalidArgument, "INVALID_ARGUMENT"),
    (Status::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Status::NotFound, "NOT_FOUND"),
    (Status::AlreadyExists, "ALREADY_EXISTS"),
    (Status::PermissionDenied, "PERMISSION_DENIED"),
    (Status::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Status::FailedPrecondition, "FAILED_PRECONDITION"),
    (Status::Aborted, "ABORTED"),
    (Status::OutOfRange, "OUT_OF_RANGE"),
    (Status::Unimplemented, "UNIMPLEMENTED"),
    (Status::Internal, "INTERNAL"),
    (Status::Unavailable, "UNAVAILABLE"),
    (Status::DataLoss, "DATA_LOSS"),
    (Status::Unauthenticated, "UNAUTHENTICATED"),
];

impl Status {
    /// By number; one that gRPC does not know is [`Status::Unknown`], as clients must read it.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|i| STATUSES.get(i))
            .map_or(Self::Unknown, |&(status, _)| status)
    }

    /// By the value of the `grpc-status` trailer, which is digits alone (gRPC over HTTP/2, "Responses"); anything else is
    /// [`Status::Unknown`].
    #[must_use]
    pub fn from_trailer(value: &[u8]) -> Self {
        std::str::from_utf8(value)
            .ok()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map_or(Self::Unknown, Self::from_number)
    }

    /// By name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        STATUSES.iter().find(|(_, own)| *own == name).map(|&(status, _)| status)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name, as in `RESOURCE_EXHAUSTED`.
    #[must_use]
    pub fn name(self) -> &'static str {
        STATUSES[usize::from(self.number())].1
    }

    /// What a status means that came without a `grpc-status`, by the HTTP status of the response (gRPC's
    /// `doc/http-grpc-status-mapping.md`).
    #[must_use]
    pub const fn from_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// `google.rpc.Status` with the one detail that OTLP uses: in [`STATUS_DETAILS_TRAILER`], and as the body of
/// an OTLP/HTTP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusDetails {
    /// The code.
    pub status: Status,
    /// For developers, English; when read, at most [`MESSAGE_BYTES`].
    pub message: String,
    /// `google.rpc.RetryInfo.retry_delay`: try again, and not before. There with zero is not the same as
    /// absent. When read, as the peer sent it: callers bound it.
    pub retry_delay: Option<Duration>,
}

/// Why error details cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetailsError {
    /// Not base64.
    #[error("error details are not base64")]
    Base64,
    /// Not a `google.rpc.Status`.
    #[error("error details are not a google.rpc.Status: {0}")]
    Proto(#[from] ProtoError),
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

impl StatusDetails {
    /// The bytes of a `google.rpc.Status`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.status != Status::Ok {
            put_uint(&mut out, 1, u64::from(self.status.number()));
        }
        if !self.message.is_empty() {
            put_bytes(&mut out, 2, self.message.as_bytes());
        }
        if let Some(delay) = self.retry_delay {
            let mut duration = Vec::new();
            // google.protobuf.Duration ends at 10,000 years.
            put_uint(&mut duration, 1, delay.as_secs().min(315_576_000_000));
            put_uint(&mut duration, 2, u64::from(delay.subsec_nanos()));
            let mut retry_info = Vec::new();
            put_bytes(&mut retry_info, 1, &duration);
            let mut any = Vec::new();
            put_bytes(&mut any, 1, RETRY_INFO.as_bytes());
            put_bytes(&mut any, 2, &retry_info);
            put_bytes(&mut out, 3, &any);
        }
        out
    }

    /// As the value of [`STATUS_DETAILS_TRAILER`].
    #[must_use]
    pub fn encode_trailer(&self) -> String {
        base64::encode(&self.encode())
    }

    /// Reads the bytes of a `google.rpc.Status`. Details of other types are passed over; a negative delay is
    /// zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, DetailsError> {
        let mut details = Self { status: Status::Ok, message: String::new(), retry_delay: None };
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.field()? {
            match field {
                (1, Value::Varint(code)) => {
                    details.status = Status::from_number(u32::try_from(code).unwrap_or(u32::MAX));
                }
                (2, Value::Len(text)) => details.message = cut_message(text),
                (3, Value::Len(any)) => {
                    if let Some(delay) = retry_info(any)? {
                        details.retry_delay = Some(delay);
                    }
                }
                _ => {}
            }
        }
        Ok(details)
    }

    /// Reads the value of [`STATUS_DETAILS_TRAILER`].
    pub fn decode_trailer(value: &[u8]) -> Result<Self, DetailsError> {
        Self::decode(&base64::decode(value).ok_or(DetailsError::Base64)?)
    }
}

/// The delay in a `google.protobuf.Any`, if it is a RetryInfo. One without a delay says "at once".
fn retry_info(any: &[u8]) -> Result<Option<Duration>, ProtoError> {
    let (mut type_url, mut value) = (&[][..], &[][..]);
    let mut reader = Reader::new(any);
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Len(bytes)) => type_url = bytes,
            (2, Value::Len(bytes)) => value = bytes,
            _ => {}
        }
    }
    // The part before the last slash names a registry, not the type (any.proto).
    if type_url.rsplit(|&b| b == b'/').next() != Some(b"google.rpc.RetryInfo") {
        return Ok(None);
    }
    let mut delay = Duration::ZERO;
    let mut reader = Reader::new(value);
    while let Some(field) = reader.field()? {
        if let (1, Value::Len(bytes)) = field {
            delay = duration(bytes)?;
        }
    }
    Ok(Some(delay))
}

fn duration(bytes: &[u8]) -> Result<Duration, ProtoError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Varint(v)) => seconds = v.cast_signed(),
            (2, Value::Varint(v)) => nanos = v.cast_signed(),
            _ => {}
        }
    }
    let nanos = u32::try_from(nanos.clamp(0, 999_999_999)).unwrap_or(0);
    Ok(u64::try_from(seconds).map_or(Duration::ZERO, |s| Duration::new(s, nanos)))
}

/// `message` as the value of the `grpc-message` trailer: what is not printable ASCII, and `%`, as `%XX`. At
/// most [`MESSAGE_BYTES`] of it.
#[must_use]
pub fn encode_message(message: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let message = cut_message(message.as_bytes());
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// The value of a `grpc-message` trailer as text. Never fails, as gRPC asks: a `%` that is not followed by
/// two hex digits stays, what is not UTF-8 is replaced. At most [`MESSAGE_BYTES`] of it.
#[must_use]
pub fn decode_message(value: &[u8]) -> String {
    let mut out = Vec::with_capacity(value.len().min(MESSAGE_BYTES));
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        if out.len() > MESSAGE_BYTES {
            break;
        }
        let escaped = match after {
            [high, low, ..] if byte == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            out.push(high << 4 | low);
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    cut_message(&out)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests;
