//! A request's body while it arrives: bounded, paid for in advance, and looked at early.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{Admission, Grant};
use super::decoders::{Decoders, Leave};
use super::inflate::{self, Impression};
use super::outline::Outline;
use super::refusal::{Reason, Refusal};
use crate::client::otlp::packer::Encoding;

/// The first allocation for a body; it doubles from there.
const FIRST_BYTES: usize = 16 << 10;
/// When this much of a compressed body has come, the first few KiB of its content are looked at.
const PEEK_BYTES: usize = 16 << 10;
/// When this much has come, all of it is decoded to see how long it becomes, and again each time it is four times
/// as long. A bomb that begins like a request is refused here, with most of it still at the sender.
const PROBE_BYTES: usize = 128 << 10;

/// How slow a sender may be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two pieces of a body.
    pub idle: Duration,
    /// For a whole body.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), whole: Duration::from_secs(120) }
    }
}

impl Patience {
    /// How long a body that expands unusually waits for its turn: it is our delay and not the sender's, and the rest of
    /// the time is left for what has not arrived.
    pub fn turn(&self) -> Duration {
        self.whole / 2
    }
}

/// What a body's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OTLP protobuf.
    Protobuf,
    /// OTLP/JSON.
    Json,
}

/// A body that arrived whole, not yet checked.
#[derive(Debug)]
pub struct Gathered {
    /// As received.
    pub bytes: Vec<u8>,
    /// How it is compressed.
    pub codec: Encoding,
    /// What it is.
    pub format: Format,
    /// The memory that covers `bytes`.
    pub grant: Grant,
    /// Held by one that expands unusually, until it is checked.
    pub leave: Option<Leave>,
}

/// A body that is arriving.
#[derive(Debug)]
pub struct Gather {
    body: Gathered,
    /// Its length where it was announced.
    known: Option<usize>,
    limit: usize,
    /// The scan of what is not compressed.
    outline: Option<Outline>,
    peeked: bool,
    next_probe: usize,
}

impl Gather {
    /// Nothing arrived yet. `known` is the announced length.
    ///
    /// # Errors
    /// `TooLarge` where the announced length is above `limit`, `Overload` where not even the start fits.
    pub fn new(
        codec: Encoding,
        format: Format,
        known: Option<u64>,
        limit: usize,
        admission: &Admission,
    ) -> Result<Self, Refusal> {
        let known = match known.map(usize::try_from) {
            None => None,
            Some(Ok(known)) if known <= limit => Some(known),
            Some(_) => return Err(Refusal::too_large(limit)),
        };
        let grant = admission.reserve(known.unwrap_or(FIRST_BYTES).min(FIRST_BYTES))?;
        let outline = (format == Format::Protobuf && codec == Encoding::Identity)
            .then(|| Outline::new(known.map(|known| known as u64), limit as u64));
        let body = Gathered { bytes: Vec::new(), codec, format, grant, leave: None };
        Ok(Self { body, known, limit, outline, peeked: false, next_probe: PROBE_BYTES })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// `TooLarge`, `Malformed` (also where more comes than was announced), `Overload`.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let length = self.body.bytes.len() + piece.len();
        if self.known.is_some_and(|known| length > known) {
            return Err(Refusal::malformed("the body is longer than announced"));
        }
        if length > self.limit {
            return Err(Refusal::too_large(self.limit));
        }
        if let Some(outline) = self.outline.as_mut() {
            outline.push(piece)?;
        }
        let capacity = self.body.bytes.capacity();
        if length > capacity {
            let wanted = (capacity * 2).max(FIRST_BYTES).min(self.known.unwrap_or(self.limit)).max(length);
            self.body.grant.grow_to(wanted)?;
            self.body.bytes.reserve_exact(wanted - self.body.bytes.len());
        }
        self.body.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Bytes that arrived.
    fn len(&self) -> usize {
        self.body.bytes.len()
    }

    /// Looks into a compressed body where it is time to. The bytes go to another thread and come back, together
    /// with the memory that pays for them: a sender who leaves meanwhile gives nothing back too early.
    ///
    /// # Errors
    /// `TooLarge` or `Malformed` where it can be told already, `Overload` where it expands unusually and others that
    /// do took all of `patience`.
    pub async fn probe(mut self, decoders: &Decoders, patience: Duration) -> Result<Self, Refusal> {
        if self.body.codec == Encoding::Identity {
            return Ok(self);
        }
        let mut seen = Impression::Usual;
        if !self.peeked && self.len() >= PEEK_BYTES {
            self.peeked = true;
            seen = inflate::peek(self.body.codec, &self.body.bytes, self.body.outline(self.limit))?;
        }
        if self.len() >= self.next_probe {
            self.next_probe = self.len().saturating_mul(4);
            let look = move || {
                let outline = self.body.outline(self.limit);
                let seen = inflate::probe(self.body.codec, &self.body.bytes, self.limit, outline)?;
                Ok::<_, Refusal>((self, seen))
            };
            (self, seen) = decoders.run(look).await??;
        }
        if seen == Impression::Suspect && self.body.leave.is_none() {
            self.body.leave = Some(decoders.leave(patience).await?);
        }
        Ok(self)
    }

    /// The whole body.
    ///
    /// # Errors
    /// `Malformed` where less came than was announced.
    pub fn finish(self) -> Result<Gathered, Refusal> {
        if self.known.is_some_and(|known| self.len() < known) {
            return Err(Refusal::malformed("the body is shorter than announced"));
        }
        Ok(self.body)
    }
}

impl Gathered {
    /// What its beginning looked like.
    pub fn impression(&self) -> Impression {
        if self.leave.is_some() { Impression::Suspect } else { Impression::Usual }
    }

    /// The scan that the decompressed content has to pass.
    pub fn outline(&self, limit: usize) -> Option<Outline> {
        (self.format == Format::Protobuf).then(|| Outline::new(None, limit as u64))
    }
}

/// The next piece of `body`, `None` at its end. Trailers are passed over.
///
/// # Errors
/// `Slow` when the sender pauses for too long or the deadline has passed, `Aborted` when the connection broke or
/// the body is not what its framing says.
pub async fn next_piece<B>(body: &mut B, idle: Duration, deadline: Instant) -> Result<Option<Bytes>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        let next = timeout_at(deadline, timeout(idle, body.frame())).await;
        return match next {
            Err(_) | Ok(Err(_)) => Err(Refusal::new(Reason::Slow, "the request did not arrive in time")),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(Err(_)))) => Err(Refusal::new(Reason::Aborted, "the request broke off")),
            Ok(Ok(Some(Ok(frame)))) => match frame.into_data() {
                Ok(data) => Ok(Some(data)),
                Err(_trailers) => continue,
            },
        };
    }
}
