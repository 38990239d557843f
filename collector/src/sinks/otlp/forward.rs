//! The next request out of a batch: as it came where that is possible, else encoded anew.

use bytes::Bytes;
use sonde_daemon::client::otlp::Client;
use sonde_daemon::client::otlp::packer::{Encoding, PackError, Packed};

use crate::deliver::batch::{State, Unit};
use crate::deliver::select::select;
use crate::queue::Codec;

/// Requests are joined up to so many bytes before compression.
pub const JOINED: usize = 1 << 20;
/// A request of at least so many bytes goes alone, as it came.
const ALONE: usize = 64 << 10;

/// How much goes into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes before compression; one record always goes.
    pub bytes: usize,
    /// Records.
    pub records: usize,
    /// One that came goes as it is, however large.
    pub whole: bool,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: JOINED, records: usize::MAX, whole: true }
    }
}

impl Piece {
    /// After a request that was too much.
    pub fn half_of(request: &Request) -> Self {
        Self { bytes: request.packed.raw_bytes / 2, records: request.records.len() / 2, whole: false }
    }

    /// After a success: back towards the default.
    pub fn doubled(self) -> Self {
        let (bytes, records) = (self.bytes.saturating_mul(2), self.records.saturating_mul(2));
        if self.whole || bytes >= JOINED { Self::default() } else { Self { bytes, records, whole: false } }
    }
}

/// A request, ready to be sent.
pub struct Request {
    /// Its bytes.
    pub packed: Packed,
    /// The records in it, by their numbers in the batch, ascending; never empty.
    pub records: Vec<usize>,
    /// One of them may have been sent before.
    pub in_doubt: bool,
}

/// The next unsettled records from number `from` on; `None` when there are none.
pub fn next(
    units: &[Unit],
    states: &[State],
    from: usize,
    piece: Piece,
    client: &Client,
) -> Result<Option<Request>, PackError> {
    let (mut body, mut records, mut alone) = (Vec::new(), Vec::new(), None);
    for unit in units.iter().filter(|unit| unit.first + unit.records > from) {
        let wanted: Vec<usize> = (from.max(unit.first)..unit.first + unit.records)
            .filter(|record| states.get(*record).is_some_and(|state| state.is_open()))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let fits =
            body.len() + unit.bytes.len() <= piece.bytes && records.len() + wanted.len() <= piece.records;
        let large = unit.bytes.len() >= ALONE;
        if wanted.len() == unit.records && (fits || piece.whole) {
            if !records.is_empty() && (large || !fits) {
                break;
            }
            alone = records.is_empty().then_some(unit);
            if records.is_empty() && large {
                records = wanted;
                break;
            }
            // A message that follows another is the same as both in one (protobuf, "Last One Wins").
            body.extend_from_slice(&unit.bytes);
            records.extend(wanted);
            continue;
        }
        alone = None;
        let (some, taken) = select(
            unit,
            &wanted,
            piece.bytes.saturating_sub(body.len()),
            piece.records.saturating_sub(records.len()),
            records.is_empty(),
        );
        body.extend_from_slice(&some);
        let all = taken.len() == wanted.len();
        records.extend(taken);
        if !all {
            break;
        }
    }
    if records.is_empty() {
        return Ok(None);
    }
    let packed = match alone {
        Some(unit) => as_it_came(unit, client)?,
        None => client.pack(&Bytes::from(body))?,
    };
    let in_doubt = records.iter().any(|record| states.get(*record) == Some(&State::InDoubt));
    Ok(Some(Request { packed, records, in_doubt }))
}

/// A request with all its records, in the compression that it has; one that has none gets what the receiver takes.
fn as_it_came(unit: &Unit, client: &Client) -> Result<Packed, PackError> {
    match &unit.came {
        Some((codec, payload))
            if *codec != Codec::Identity && Encoding::from(*codec) <= client.encoding() =>
        {
            client.packed(payload.clone(), Encoding::from(*codec), unit.bytes.len())
        }
        _ => client.pack(&unit.bytes),
    }
}
