//! Decompression of what a stranger sent: in steps, within a limit, and with memory reserved before each step.
//!
//! A stream whose output stays within 16 times its input, or within 1 MiB, is decoded straight into memory. One
//! that expands more is first decoded once for its length alone, into a scratch buffer of 16 KiB, so that a bomb
//! costs its compressed bytes, a decoder, and nothing else, of whatever codec and in however many members.
//!
//! A decoder takes about 50 KiB (gzip) or up to [`WINDOW_LOG_MAX`] and 400 KiB (zstd; nothing where the frame
//! states its size and is decoded in one go). How many run at once is bounded by the caller.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::admission::{Exhausted, Grant};
use super::outline::{Outline, OutlineError};
use crate::client::otlp::packer::Encoding;

/// The largest zstd window that is accepted, as a power of two: 8 MiB, the least that RFC 8878 section 3.1.1.1.2
/// asks a decoder to support. Level 19 and below never exceed it.
pub const WINDOW_LOG_MAX: u32 = 23;

/// gzip members or zstd frames in one request.
const MEMBERS_MAX: u32 = 1024;
const SCRATCH_BYTES: usize = 16 << 10;
const PEEK_CONTENT_BYTES: usize = 128 << 10;
/// Below this size a high ratio is nothing unusual.
const TRUSTED_BYTES: usize = 1 << 20;
const TRUSTED_RATIO: usize = 16;
/// What gzip makes of log text, when its trailer does not say.
const GZIP_RATIO: usize = 8;

/// Why a body was not decompressed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// It becomes larger than a request may be.
    #[error("larger than {0} bytes after decompression")]
    TooLarge(usize),
    /// It is not what its encoding says.
    #[error("the compressed body is malformed: {0}")]
    Malformed(&'static str),
    /// Its content is no request, as its first bytes show.
    #[error(transparent)]
    Outline(#[from] OutlineError),
    /// The memory is not there now.
    #[error(transparent)]
    Memory(#[from] Exhausted),
}

/// Decodes `input` and returns its content; `held` bytes of the grant are taken already.
///
/// What made a suspect `impression` is measured before any of it is kept.
/// `outline` is asked about the content while it is decoded; without it anything goes (JSON).
///
/// # Errors
/// See [`InflateError`]. Bytes behind the last complete member are an error as well as a missing end.
pub fn inflate(
    codec: Encoding,
    input: &[u8],
    limit: usize,
    outline: Option<&Outline>,
    impression: Impression,
    grant: &mut Grant,
    held: usize,
) -> Result<Vec<u8>, InflateError> {
    let trusted = input.len().saturating_mul(TRUSTED_RATIO).max(TRUSTED_BYTES);
    let hint = size_hint(codec, input, limit)?;
    if impression == Impression::Usual
        && hint <= trusted
        && let Some(output) = within(codec, input, limit, hint, trusted, grant, held)?
    {
        return Ok(output);
    }
    grant.shrink_to(held.saturating_add(SCRATCH_BYTES));
    let length = count(codec, input, limit, outline.cloned(), End::Whole)?;
    match within(codec, input, limit, length, length, grant, held)? {
        Some(output) => Ok(output),
        None => Err(InflateError::Malformed("its length changed between two passes")),
    }
}

/// What the first part of a body says about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impression {
    /// It expands as logs do.
    Usual,
    /// It expands more.
    Suspect,
}

impl Impression {
    fn of(input: usize, output: usize) -> Self {
        if output > input.saturating_mul(TRUSTED_RATIO) { Self::Suspect } else { Self::Usual }
    }
}

/// Decodes the first 128 KiB of a body that is still arriving: what is no request shows that in its first bytes,
/// and is refused there with the rest of it still at the sender. Cheap enough for any thread.
///
/// # Errors
/// As [`inflate`]; that the end is missing is no error here.
pub fn peek(codec: Encoding, input: &[u8], mut outline: Option<Outline>) -> Result<Impression, InflateError> {
    let mut steps = Steps::new(codec, input)?;
    let mut scratch = Vec::with_capacity(SCRATCH_BYTES);
    let mut length = 0;
    loop {
        scratch.clear();
        let progress = steps.fill(&mut scratch)?;
        if let Some(outline) = outline.as_mut() {
            outline.push(&scratch)?;
        } else if length == 0 && scratch.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(InflateError::Malformed("its content is not a JSON object"));
        }
        length += scratch.len();
        if length >= PEEK_CONTENT_BYTES || !matches!(progress, Progress::Full) {
            return Ok(Impression::of(input.len() - steps.input.len(), length));
        }
    }
}

/// Decodes the first part of a body that is still arriving, to refuse early what cannot become a request.
///
/// # Errors
/// As [`inflate`]; that the end is missing is no error here.
pub fn probe(
    codec: Encoding,
    input: &[u8],
    limit: usize,
    outline: Option<Outline>,
) -> Result<Impression, InflateError> {
    if codec == Encoding::Zstd {
        size_hint(codec, input, limit)?;
    }
    count(codec, input, limit, outline, End::Open).map(|length| Impression::of(input.len(), length))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The input is all there is.
    Whole,
    /// More is to come.
    Open,
}

/// The length of the content, keeping none of it.
fn count(
    codec: Encoding,
    input: &[u8],
    limit: usize,
    mut outline: Option<Outline>,
    end: End,
) -> Result<usize, InflateError> {
    let mut steps = Steps::new(codec, input)?;
    let mut scratch = Vec::with_capacity(SCRATCH_BYTES);
    let mut length = 0usize;
    loop {
        scratch.clear();
        let progress = steps.fill(&mut scratch)?;
        length += scratch.len();
        if length > limit {
            return Err(InflateError::TooLarge(limit));
        }
        if let Some(outline) = outline.as_mut() {
            outline.push(&scratch)?;
        }
        match progress {
            Progress::Full => {}
            Progress::Ended => return Ok(length),
            Progress::Unfinished if end == End::Open => return Ok(length),
            Progress::Unfinished => return Err(InflateError::Malformed("it ends too early")),
        }
    }
}

/// The content, if it is not longer than `bound`; `first` bytes are allocated to start with.
fn within(
    codec: Encoding,
    input: &[u8],
    limit: usize,
    first: usize,
    bound: usize,
    grant: &mut Grant,
    held: usize,
) -> Result<Option<Vec<u8>>, InflateError> {
    let mut steps = Steps::new(codec, input)?;
    // One byte more than the content, so that its end shows without another allocation.
    let mut capacity = first.saturating_add(1);
    let mut output = Vec::new();
    loop {
        grant.grow_to(held.saturating_add(capacity))?;
        output.reserve_exact(capacity - output.len());
        let progress = steps.fill(&mut output)?;
        if output.len() > limit {
            return Err(InflateError::TooLarge(limit));
        }
        match progress {
            Progress::Ended => return Ok(Some(output)),
            Progress::Unfinished => return Err(InflateError::Malformed("it ends too early")),
            Progress::Full if output.len() > bound => return Ok(None),
            Progress::Full => {
                capacity = output.len().saturating_mul(2).min(bound.saturating_add(1)).max(output.len() + 1)
            }
        }
    }
}

/// What the sender says, or what is usual; a guess that may be wrong in both directions.
fn size_hint(codec: Encoding, input: &[u8], limit: usize) -> Result<usize, InflateError> {
    let said = match codec {
        Encoding::Identity => Some(input.len() as u64),
        // RFC 1952 section 2.3.1: the last four bytes are the length modulo 2^32.
        // One that says too much may lie or be the last member of a bomb: the first pass will tell.
        Encoding::Gzip => {
            input.last_chunk::<4>().map(|tail| u64::from(u32::from_le_bytes(*tail)).min(limit as u64))
        }
        Encoding::Zstd => match zstd::zstd_safe::get_frame_content_size(input) {
            Ok(Some(size)) if size > limit as u64 => return Err(InflateError::TooLarge(limit)),
            Ok(size) => size,
            Err(_) => return Err(InflateError::Malformed("it does not start with a zstd frame")),
        },
    };
    let usual = input.len().saturating_mul(GZIP_RATIO);
    let said = said.and_then(|said| usize::try_from(said).ok()).filter(|&said| said > 0 && said <= limit);
    Ok(said.unwrap_or(usual).min(limit))
}

enum Progress {
    /// The output is full; there may be more.
    Full,
    /// The input is used up, and the last member complete.
    Ended,
    /// The input is used up in the middle of a member, or is empty.
    Unfinished,
}

/// A decoder over input that is all there, filling what output it is given.
struct Steps<'a> {
    kind: Kind,
    input: &'a [u8],
    members: u32,
    /// At the end of a member.
    complete: bool,
}

enum Kind {
    Identity,
    Gzip(Box<Decompress>),
    Zstd(Decoder<'static>, Said),
}

/// What a zstd frame says of its length, and what came of it so far. The decoder compares the two itself, but not where an empty
/// block is the last.
struct Said {
    size: Option<u64>,
    decoded: usize,
}

impl Said {
    /// Of the frame that begins here.
    fn of(input: &[u8]) -> Self {
        Self { size: zstd::zstd_safe::get_frame_content_size(input).ok().flatten(), decoded: 0 }
    }

    fn is_true(&self) -> bool {
        self.size.is_none_or(|size| size == self.decoded as u64)
    }
}

impl<'a> Steps<'a> {
    fn new(codec: Encoding, input: &'a [u8]) -> Result<Self, InflateError> {
        let kind = match codec {
            Encoding::Identity => Kind::Identity,
            Encoding::Gzip => Kind::Gzip(Box::new(Decompress::new_gzip(15))),
            Encoding::Zstd => {
                let mut decoder = Decoder::new().map_err(|_| Exhausted::Now)?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                    .map_err(|_| Exhausted::Now)?;
                Kind::Zstd(decoder, Said::of(input))
            }
        };
        Ok(Self { kind, input, members: 0, complete: false })
    }

    /// Decodes into the spare capacity of `output`, which is never grown.
    fn fill(&mut self, output: &mut Vec<u8>) -> Result<Progress, InflateError> {
        while output.len() < output.capacity() {
            if self.complete && self.input.is_empty() {
                return Ok(Progress::Ended);
            }
            let (input_before, output_before) = (self.input.len(), output.len());
            self.step(output)?;
            let stuck = self.input.len() == input_before && output.len() == output_before;
            if stuck && !self.complete {
                return match self.input {
                    [] => Ok(Progress::Unfinished),
                    _ => Err(InflateError::Malformed("it cannot be decoded")),
                };
            }
        }
        Ok(if self.complete && self.input.is_empty() { Progress::Ended } else { Progress::Full })
    }

    fn step(&mut self, output: &mut Vec<u8>) -> Result<(), InflateError> {
        let ended = match &mut self.kind {
            Kind::Identity => {
                let take = self.input.len().min(output.capacity() - output.len());
                output.extend_from_slice(&self.input[..take]);
                self.input = &self.input[take..];
                self.input.is_empty()
            }
            Kind::Gzip(decoder) => {
                if self.complete {
                    **decoder = Decompress::new_gzip(15);
                }
                let before = decoder.total_in();
                let status = decoder
                    .decompress_vec(self.input, output, FlushDecompress::None)
                    .map_err(|_| InflateError::Malformed("it is not gzip"))?;
                let used = usize::try_from(decoder.total_in() - before).unwrap_or(usize::MAX);
                self.input = self.input.get(used..).unwrap_or_default();
                status == Status::StreamEnd
            }
            Kind::Zstd(decoder, said) => {
                if self.complete {
                    *said = Said::of(self.input);
                }
                let mut from = InBuffer::around(self.input);
                let position = output.len();
                let mut to = OutBuffer::around_pos(output, position);
                let left =
                    decoder.run(&mut from, &mut to).map_err(|_| InflateError::Malformed("it is not zstd"))?;
                let used = from.pos();
                self.input = self.input.get(used..).unwrap_or_default();
                said.decoded += output.len() - position;
                if left == 0 && !said.is_true() {
                    return Err(InflateError::Malformed("a zstd frame is not as long as it says"));
                }
                left == 0
            }
        };
        if ended {
            self.members += 1;
            if self.members > MEMBERS_MAX {
                return Err(InflateError::Malformed("it has too many members"));
            }
        }
        self.complete = ended;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
