//! What takes requests in: OTLP over gRPC and over HTTP, as far as the queue.
//!
//! A request passes these stations, and each may refuse it ([`Refusal`]):
//! stopping? → allowed? → its head → its body within limits, in memory that was reserved first
//! ([`sonde_daemon::receive`]) → decompressed and walked in full on one of a few threads ([`mod@check`]) → the queue
//! ([`Intake`]), whose answer comes after its fsync. Only then the sender is told that it was taken.
//!
//! Metrics and traces pass the same stations to queues of their own, where a sink wants them. What is of our agents goes to
//! [`crate::metrics`], which keeps the newest in memory, and to the queue only where that is asked for. Metrics that
//! nobody wants are answered with a partial success that says so; traces that nobody wants, as a service that is not there.
//!
//! Logs never wait for the others: those have at most half of the memory ([`Admission::part`]) and all but one of the
//! threads ([`Decoders::aside`]).
//!
//! # Memory
//! The sum of all requests under way is at most `limits.in_flight`; what a request has reserved goes with it into the
//! queue and is held until it is written, also where its sender has given up. Beside it: `DECODERS` × (8 MiB
//! window of zstd + 0.5 MiB), and for each connection what [`options`] allows: over HTTP/2 at most 64 KiB sent
//! ahead and 16 KiB of headers a request, over HTTP/1 a buffer of 16 KiB.

mod accounts;
pub(crate) mod check;
mod grpc;
mod http;
pub(crate) mod json;
mod metrics;
mod senders;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::HeaderMap;
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::http::{Http2, Limits, Options};
use sonde_daemon::page::{self, Source};
use sonde_daemon::receive::Bounds;
use sonde_daemon::receive::admission::{Admission, Grant};
use sonde_daemon::receive::decoders::Decoders;
use sonde_daemon::receive::gather::Gathered;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::tls;
use sonde_wire::limits::ViewLimits;
use sonde_wire::response::PartialSuccess;
use sonde_wire::view::MetricsRequest;
use tokio::time::Instant;

pub use self::accounts::{Accounts, AccountsError, Options as AccountsOptions};
use self::check::{Checked, check, check_and};
use self::metrics::{Metrics, Transport};
pub use self::senders::Senders;
use crate::metrics::Metrics as Pushed;
use crate::queue::{AppendError, Frame, Queue, Signal};

pub use self::grpc::serve as serve_grpc;
pub use self::http::serve as serve_http;
pub use sonde_daemon::receive::gather::Patience;
pub use sonde_daemon::receive::reply::Reply;

/// What a sender is told whose metrics nobody uses: they were not kept, and sending them again would change nothing.
const NOBODY_USES: &str =
    "this collector shows the metrics of sonde-agent and keeps no others: none of its sinks takes metrics";

/// Bodies up to this size that are not compressed are checked where they arrived: handing them over costs more.
const CHECK_INLINE_BYTES: usize = 256 << 10;

/// Threads that decompress and check.
const DECODERS: usize = 2;

/// Where accepted requests go; the queue, or a stand-in in tests.
pub trait Intake: Send + Sync + 'static {
    /// Resolves when `frame` is as safe as the configuration asks for. Dropping the future does not take the frame
    /// back, nor `grant`, the memory that covers it, before it is out of memory.
    fn append(&self, frame: Frame, grant: Grant) -> Appending<'_>;
}

/// An append under way.
pub type Appending<'a> = Pin<Box<dyn Future<Output = Result<(), IntakeError>> + Send + 'a>>;

/// Where the requests of each signal go.
#[derive(Clone)]
pub struct Intakes {
    /// Logs.
    pub logs: Arc<dyn Intake>,
    /// Metrics; `None` = no sink wants them.
    pub metrics: Option<Arc<dyn Intake>>,
    /// Traces; `None` = no sink wants them.
    pub traces: Option<Arc<dyn Intake>>,
    /// What our agents push for the page is queued too.
    pub agents: bool,
}

impl Intakes {
    /// For logs alone.
    pub fn logs(intake: Arc<dyn Intake>) -> Self {
        Self { logs: intake, metrics: None, traces: None, agents: false }
    }

    fn of(&self, signal: Signal) -> Option<&Arc<dyn Intake>> {
        match signal {
            Signal::Logs => Some(&self.logs),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Traces => self.traces.as_ref(),
        }
    }
}

/// Why a frame was not taken. But for `TooLarge` the sender is asked to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// No room.
    #[error("the queue is full")]
    Full,
    /// The disk failed.
    #[error("the queue's disk did not take the request")]
    Disk,
    /// It is stopping.
    #[error("the collector is stopping")]
    Closed,
    /// It is in the queue, or is not even put there: the sinks that have to take it first do not keep up.
    #[error("the sinks that have to take the request first do not keep up")]
    Undelivered,
    /// There will never be room.
    #[error("the request is larger than the queue")]
    TooLarge,
}

impl Intake for Queue {
    fn append(&self, frame: Frame, grant: Grant) -> Appending<'_> {
        Box::pin(async move {
            self.append_held(frame, Some(Arc::new(grant))).await?;
            Ok(())
        })
    }
}

impl From<AppendError> for IntakeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full(_) => Self::Full,
            AppendError::Disk(_) => Self::Disk,
            AppendError::Closed => Self::Closed,
            AppendError::TooLarge { .. } => Self::TooLarge,
        }
    }
}

/// Bounds of a listener for OTLP: many connections, each able to make us hold little, none of more than `max_age` (0 = of
/// any).
pub fn options(connections: usize, max_age: Duration, tls: Option<Arc<tls::Server>>) -> Options {
    let limits = Limits {
        connections,
        // Between two batches of a quiet node a connection rests; this is also how long it may take to say hello.
        header_timeout: Duration::from_secs(30),
        ..Limits::default()
    };
    let http2 = Http2 {
        max_concurrent_streams: 32,
        stream_window: 64 << 10,
        connection_window: 64 << 10,
        max_frame_size: 16 << 10,
        ..Http2::default()
    };
    Options { limits, http2, tls, max_age: Some(max_age).filter(|age| !age.is_zero()) }
}

/// What a receiver is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most bytes of a request, before and after decompression.
    pub request_bytes: usize,
    /// Most bytes of all requests under way.
    pub in_flight_bytes: u64,
    /// How slow a sender may be.
    pub patience: Patience,
}

/// Takes requests, whatever connection they come by. Cheap to clone.
#[derive(Clone)]
pub struct Receiver(Arc<Shared>);

struct Shared {
    /// What requests may cost, and what those for metrics and traces may.
    bounds: Bounds,
    others: Bounds,
    view: ViewLimits,
    intakes: Intakes,
    senders: Senders,
    draining: AtomicBool,
    metrics: Metrics,
    /// What shows the metrics of our agents.
    pushed: Pushed,
}

impl Receiver {
    /// A receiver of what `senders` send, in front of `intakes`, and of `pushed` for the metrics of our agents.
    pub fn new(settings: Settings, senders: Senders, intakes: Intakes, pushed: Pushed) -> Self {
        let bounds = Bounds {
            request_bytes: settings.request_bytes,
            patience: settings.patience,
            admission: Admission::new(settings.in_flight_bytes),
            decoders: Decoders::new(DECODERS),
        };
        let others = Bounds {
            admission: bounds.admission.part(settings.in_flight_bytes / 2),
            decoders: bounds.decoders.aside(),
            ..bounds
        };
        Self(Arc::new(Shared {
            bounds,
            others,
            view: ViewLimits::default(),
            intakes,
            senders,
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            pushed,
        }))
    }

    /// What it counts, for `/metrics`.
    pub fn source(&self) -> Box<dyn Source> {
        let receiver = self.clone();
        page::source("receive", move |out| {
            receiver.0.metrics.collect(receiver.0.bounds.admission.used_bytes(), out);
            Ok(())
        })
    }

    /// From here on new requests are refused; those that are under way end as they would.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// What is asked of a request before anything else of it is looked at.
    async fn admit(&self, headers: &HeaderMap, signal: Option<Signal>) -> Result<(), Refusal> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Err(Refusal::new(Reason::Draining, "the collector is stopping"));
        }
        self.0.senders.admit(headers).await?;
        if signal == Some(Signal::Traces) && self.0.intakes.traces.is_none() {
            let message = "no sink of this collector takes traces (`signals` of a sink of type otlp)";
            return Err(Refusal::new(Reason::Unknown, message));
        }
        Ok(())
    }

    /// What a request of this signal may cost.
    fn bounds(&self, signal: Signal) -> &Bounds {
        if signal == Signal::Logs { &self.0.bounds } else { &self.0.others }
    }

    /// Takes `body` as the signal's part of the collector does.
    async fn take(&self, signal: Signal, body: Gathered, resend: bool) -> Result<PartialSuccess, Refusal> {
        match signal {
            Signal::Metrics => self.take_metrics(body, resend).await,
            _ => self.keep(signal, body, resend).await.map(|()| PartialSuccess::default()),
        }
    }

    /// Checks `body`, metrics, shows what of them is our agents' at once, and queues what a sink wants.
    async fn take_metrics(&self, body: Gathered, resend: bool) -> Result<PartialSuccess, Refusal> {
        let shared = Arc::clone(&self.0);
        let (limit, view) = (shared.bounds.request_bytes, shared.view);
        let (now, received) = (crate::metrics::unix_seconds(), body.bytes.len());
        let show = move |content: &[u8]| shared.pushed.take(MetricsRequest::trusted(content), now);
        let work = move || check_and(Signal::Metrics, body, limit, &view, show);
        let (checked, taken) = self.bounds(Signal::Metrics).decoders.run(work).await??;
        let wanted = taken.rejected > 0 || self.0.intakes.agents && checked.records > 0;
        if self.0.intakes.metrics.is_some() && wanted {
            self.queue(Signal::Metrics, checked, received, resend).await?;
            return Ok(PartialSuccess::default());
        }
        self.0.pushed.rejected(taken.rejected);
        let message = if taken.rejected > 0 { NOBODY_USES } else { "" };
        Ok(PartialSuccess { rejected: taken.rejected, message: message.to_owned() })
    }

    /// Checks `body`, queues it, and returns when it is safe.
    async fn keep(&self, signal: Signal, body: Gathered, resend: bool) -> Result<(), Refusal> {
        let (limit, view) = (self.0.bounds.request_bytes, self.0.view);
        let received = body.bytes.len();
        let checked = if body.codec == Encoding::Identity && received <= CHECK_INLINE_BYTES {
            check(signal, body, limit, &view)?
        } else {
            self.bounds(signal).decoders.run(move || check(signal, body, limit, &view)).await??
        };
        self.queue(signal, checked, received, resend).await
    }

    /// Queues a request, and returns when it is safe.
    async fn queue(
        &self,
        signal: Signal,
        checked: Checked,
        received: usize,
        resend: bool,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal::new(Reason::Unknown, "no sink of this collector takes this");
        let intake = self.0.intakes.of(signal).ok_or_else(unknown)?;
        let Checked { bytes, codec, records, uncompressed_len, grant } = checked;
        let frame = Frame {
            signal,
            codec: codec.into(),
            resend,
            received_unix_nano: unix_nanos(),
            records,
            uncompressed_len,
            payload: Bytes::from(bytes),
        };
        intake.append(frame, grant).await?;
        self.0.metrics.taken(signal, records, received, uncompressed_len);
        Ok(())
    }

    /// Counts an answer.
    fn answered(
        &self,
        transport: Transport,
        signal: Option<Signal>,
        result: Result<(), &Refusal>,
        started: Instant,
    ) {
        self.0.metrics.answered(transport, signal, result, started.elapsed());
    }
}

impl From<IntakeError> for Refusal {
    fn from(error: IntakeError) -> Self {
        let reason = match error {
            IntakeError::Full => Reason::QueueFull,
            IntakeError::Disk => Reason::Disk,
            IntakeError::Closed => Reason::Draining,
            IntakeError::Undelivered => Reason::Undelivered,
            IntakeError::TooLarge => Reason::TooLarge,
        };
        Self::new(reason, error.to_string())
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
