//! What the queue holds: a request as it was received, with what a reader needs to know about it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::{self, Summary, ViewError};

/// How a frame's payload is compressed; the number is what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    Identity = 0,
    /// gzip.
    Gzip = 1,
    /// zstd.
    Zstd = 2,
}

impl From<Encoding> for Codec {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Gzip => Self::Gzip,
            Encoding::Zstd => Self::Zstd,
        }
    }
}

impl From<Codec> for Encoding {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Identity => Self::Identity,
            Codec::Gzip => Self::Gzip,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// What a frame's payload is; the number is what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Signal {
    /// `ExportLogsServiceRequest`.
    Logs = 0,
    /// `ExportMetricsServiceRequest`.
    Metrics = 1,
    /// `ExportTraceServiceRequest`.
    Traces = 2,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Metrics, Self::Traces];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// The directory of its queue, in `data_dir`.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Logs => "queue",
            Self::Metrics => "queue-metrics",
            Self::Traces => "queue-traces",
        }
    }

    /// The label that sets a series apart; those of logs have none.
    #[must_use]
    pub fn label(self) -> Option<(&'static str, &'static str)> {
        (self != Self::Logs).then(|| ("signal", self.name()))
    }

    /// Walks a request of this signal. Its log records, data points or spans count as records.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self, request: &[u8], limits: &ViewLimits) -> Result<Summary, ViewError> {
        match self {
            Self::Logs => view::check(request, limits),
            Self::Metrics => view::check_metrics(request, limits),
            Self::Traces => view::check_traces(request, limits),
        }
    }
}

/// One accepted request, opaque to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub signal: Signal,
    /// How it is compressed.
    pub codec: Codec,
    /// The sender marked it as possibly sent before (`x-sonde-resend: 1`).
    pub resend: bool,
    /// When it was received, Unix nanoseconds.
    pub received_unix_nano: u64,
    /// Records in it.
    pub records: u32,
    /// Size of the payload after decompression, bytes.
    pub uncompressed_len: u32,
    /// The request's bytes as received.
    pub payload: Bytes,
}

/// A place in the queue: the number of the segment and the byte offset of a frame in it. Positions grow with time
/// and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Position {
    /// Segment number.
    pub segment: u64,
    /// Byte offset in the segment.
    pub offset: u64,
}
