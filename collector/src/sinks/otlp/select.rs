//! Some records of a request, with all that they had around them.

use sonde_wire::proto::{PADDED, Value, put_bytes, raw_fields};

use crate::deliver::batch::Unit;

// `resource_logs` of ExportLogsServiceRequest (logs_service.proto), `scope_logs` of ResourceLogs and `log_records` of
// ScopeLogs (logs.proto).
const GROUP: u32 = 1;
const SCOPE: u32 = 2;
const RECORD: u32 = 2;
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
    let mut out = Vec::new();
    for (field, value, raw) in raw_fields(&unit.bytes) {
        match value {
            Value::Len(group) if field == GROUP => {
                let some = of_group(group, &mut left);
                if !some.is_empty() {
                    put_bytes(&mut out, 1, &some);
                }
            }
            _ => out.extend_from_slice(raw),
        }
    }
    (out, left.taken)
}

/// A ResourceLogs with those of its records that are taken; empty without any.
fn of_group(group: &[u8], left: &mut Left<'_>) -> Vec<u8> {
    let is_scope = |field: u32, value: &Value<'_>| field == SCOPE && matches!(value, Value::Len(_));
    let around = raw_fields(group).filter(|(field, value, _)| !is_scope(*field, value));
    let mut cost = HEAD + around.map(|(_, _, raw)| raw.len()).sum::<usize>();
    let (mut out, mut any) = (Vec::new(), false);
    for (field, value, raw) in raw_fields(group) {
        match value {
            Value::Len(scope) if field == SCOPE => {
                let some = of_scope(scope, cost, left);
                if !some.is_empty() {
                    (cost, any) = (0, true);
                    put_bytes(&mut out, 2, &some);
                }
            }
            _ => out.extend_from_slice(raw),
        }
    }
    if any { out } else { Vec::new() }
}

/// A ScopeLogs likewise; `group` is what the group around it costs if it is the first one there.
fn of_scope(scope: &[u8], group: usize, left: &mut Left<'_>) -> Vec<u8> {
    let is_record = |field: u32, value: &Value<'_>| field == RECORD && matches!(value, Value::Len(_));
    let around = raw_fields(scope).filter(|(field, value, _)| !is_record(*field, value));
    let mut cost = group + HEAD + around.map(|(_, _, raw)| raw.len()).sum::<usize>();
    let (mut out, mut any) = (Vec::new(), false);
    for (field, value, raw) in raw_fields(scope) {
        if !is_record(field, &value) {
            out.extend_from_slice(raw);
        } else if left.takes(cost + raw.len()) {
            (cost, any) = (0, true);
            out.extend_from_slice(raw);
        }
    }
    if any { out } else { Vec::new() }
}
