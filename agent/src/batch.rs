//! One export request on its way from the log reader to the receiver, and what became of it.
//!
//! The reader owns the records: it knows which byte ranges a batch covers and moves its positions on
//! [`Outcome::Accepted`] only. The exporter owns the bytes: it compresses, sends and sends again until the receiver
//! has answered for good. At most `export.in_flight` batches are unsettled at any time; the reader counts them.

use std::time::Instant;

use bytes::Bytes;

/// Names a batch between reader and exporter; unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// A sealed request.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name.
    pub id: BatchId,
    /// An uncompressed `ExportLogsServiceRequest`.
    pub payload: Bytes,
    /// Log records in it.
    pub records: u32,
    /// When its oldest record was read.
    pub oldest: Instant,
    /// It may hold records that were sent before (by an earlier process, or in a request of unknown outcome).
    pub resend: bool,
}

/// What became of a batch, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it; of its records it refused `rejected` for good and said why.
    Accepted {
        /// OTLP partial success: `rejected_log_records`.
        rejected: u64,
        /// The receiver's words.
        message: String,
    },
    /// The receiver refuses the request as it is (contract section 8, class Reject): too large, or invalid. The
    /// reader halves it down to the one record that is at fault.
    Refused {
        /// gRPC status name or HTTP status.
        code: String,
    },
    /// The process stops before the outcome is known. Nothing moves.
    Abandoned,
}

/// The exporter's word on one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Which batch.
    pub id: BatchId,
    /// What became of it.
    pub outcome: Outcome,
}
