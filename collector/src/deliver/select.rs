//! Some records of a request, with all that they had around them.
//!
//! A record is a log record, a data point or a span. Around it are the messages that hold it, each with its other fields
//! (a resource, a scope, the name of a metric), which are copied as they are where a record in them is taken.

use sonde_wire::proto::{PADDED, Value, put_bytes, raw_fields};

use crate::deliver::batch::Unit;
use crate::queue::Signal;

/// The fields that lead from a request to its records, from the outside in.
type Way = &'static [&'static [u32]];

// `resource_…` of the request (collector/*/v1/*_service.proto), `scope_…` of that, and what is in a scope (logs.proto,
// trace.proto).
const RECORDS: Way = &[&[1], &[2], &[2]];
// In metrics.proto: `metrics` of a scope, `gauge`, `sum`, `histogram`, `exponential_histogram` and `summary` of a metric, and
// `data_points` of those.
const POINTS: Way = &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]];
/// Key and length of a message, at most.
const HEAD: usize = 1 + PADDED;

/// What may still be taken.
struct Left<'a> {
    wanted: std::slice::Iter<'a, usize>,
    next: Option<usize>,
    /// The record that comes next in the request.
    number: usize,
    bytes: usize,
    records: usize,
    /// The next one is taken, whatever it costs.
    one: bool,
    taken: Vec<usize>,
    full: bool,
}

impl Left<'_> {
    /// Whether the record that comes next, with what has to be written around it, is taken.
    fn takes(&mut self, cost: usize) -> bool {
        let number = self.number;
        self.number += 1;
        if self.full || self.next != Some(number) {
            return false;
        }
        if !self.one && (cost > self.bytes || self.taken.len() >= self.records) {
            self.full = true;
            return false;
        }
        self.one = false;
        self.bytes = self.bytes.saturating_sub(cost);
        self.taken.push(number);
        self.next = self.wanted.next().copied();
        true
    }
}

/// The first of the `wanted` records (numbers in the batch, ascending) of a unit that have room in so many `bytes` and
/// `records`, the very first in any case where `one` is set: the request, and which they are.
pub fn select(
    unit: &Unit,
    wanted: &[usize],
    bytes: usize,
    records: usize,
    one: bool,
) -> (Vec<u8>, Vec<usize>) {
    let mut wanted = wanted.iter();
    let next = wanted.next().copied();
    let mut left =
        Left { wanted, next, number: unit.first, bytes, records, one, taken: Vec::new(), full: false };
    let way = if unit.signal == Signal::Metrics { POINTS } else { RECORDS };
    let mut out = Vec::new();
    for (field, value, raw) in raw_fields(&unit.bytes) {
        match value {
            Value::Len(group) if way[0].contains(&field) => {
                let some = within(group, &way[1..], 0, &mut left);
                if !some.is_empty() {
                    put(&mut out, field, &some);
                }
            }
            _ => out.extend_from_slice(raw),
        }
    }
    (out, left.taken)
}

/// A message with those of the records in it that are taken; empty without any. `outer` is what has to be written
/// around it if its first record is the first one there.
fn within(message: &[u8], way: Way, outer: usize, left: &mut Left<'_>) -> Vec<u8> {
    let Some((inner, rest)) = way.split_first() else { return Vec::new() };
    let is_inner = |field: u32, value: &Value<'_>| inner.contains(&field) && matches!(value, Value::Len(_));
    let around = raw_fields(message).filter(|(field, value, _)| !is_inner(*field, value));
    let mut cost = outer + HEAD + around.map(|(_, _, raw)| raw.len()).sum::<usize>();
    let (mut out, mut any) = (Vec::new(), false);
    for (field, value, raw) in raw_fields(message) {
        match value {
            Value::Len(contents) if inner.contains(&field) && !rest.is_empty() => {
                let some = within(contents, rest, cost, left);
                if !some.is_empty() {
                    (cost, any) = (0, true);
                    put(&mut out, field, &some);
                }
            }
            Value::Len(_) if inner.contains(&field) => {
                if left.takes(cost + raw.len()) {
                    (cost, any) = (0, true);
                    out.extend_from_slice(raw);
                }
            }
            _ => out.extend_from_slice(raw),
        }
    }
    if any { out } else { Vec::new() }
}

fn put(out: &mut Vec<u8>, field: u32, contents: &[u8]) {
    // All of the way are below 16.
    if let Ok(field) = u8::try_from(field) {
        put_bytes(out, field, contents);
    }
}

#[cfg(test)]
mod tests;
