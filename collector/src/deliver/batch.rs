//! Some frames of the queue on their way to a sink, and what has become of each record in them.

use std::sync::Arc;

use bytes::Bytes;

use crate::queue::Position;

/// A frame, decoded and checked.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Where it is in the queue.
    pub position: Position,
    /// When it was received, Unix nanoseconds.
    pub received_unix_nano: u64,
    /// The request; passed `wire`'s check.
    pub bytes: Bytes,
    /// Number of its first record in the batch.
    pub first: usize,
    /// How many it has.
    pub records: usize,
}

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was never sent.
    Open,
    /// It may be at the destination or not: sent with an unknown outcome, by this process, by one before it, or by
    /// another collector.
    InDoubt,
    /// The destination has it from us.
    Delivered,
    /// The destination had it already.
    Duplicate,
    /// Refused for good.
    Refused,
}

/// A record that the destination will never take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The record's number in the batch.
    pub record: usize,
    /// A short word: a status, an error type.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// Some frames in the queue's order. Records are numbered through all of them.
#[derive(Debug)]
pub struct Batch {
    units: Arc<[Unit]>,
    states: Vec<State>,
    refusals: Vec<Refusal>,
    open: usize,
}

impl Batch {
    /// `units` with, for each, whether it may have been sent before.
    pub fn new(units: Vec<Unit>, mut in_doubt: impl FnMut(&Unit) -> bool) -> Self {
        let mut states = Vec::new();
        for unit in &units {
            let state = if in_doubt(unit) { State::InDoubt } else { State::Open };
            states.resize(states.len() + unit.records, state);
        }
        Self { units: units.into(), open: states.len(), states, refusals: Vec::new() }
    }

    /// The frames.
    pub fn units(&self) -> &Arc<[Unit]> {
        &self.units
    }

    /// Every record's state, by its number.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// How many records are not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The destination has this record now.
    pub fn delivered(&mut self, record: usize) {
        self.settle(record, State::Delivered);
    }

    /// The destination had this record already.
    pub fn duplicate(&mut self, record: usize) {
        self.settle(record, State::Duplicate);
    }

    /// The destination will never take this record.
    pub fn refuse(&mut self, record: usize, code: impl Into<String>, reason: impl Into<String>) {
        if self.settle(record, State::Refused) {
            self.refusals.push(Refusal { record, code: code.into(), reason: reason.into() });
        }
    }

    /// This record is about to be sent, or was, and nobody knows yet what came of it.
    pub fn doubt(&mut self, record: usize) {
        if let Some(state) = self.states.get_mut(record).filter(|state| state.is_open()) {
            *state = State::InDoubt;
        }
    }

    /// It is known that this record is not at the destination.
    pub fn believe(&mut self, record: usize) {
        if let Some(state) = self.states.get_mut(record).filter(|state| state.is_open()) {
            *state = State::Open;
        }
    }

    /// Refusals since the last call.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    /// How many records are in a state.
    pub fn count(&self, wanted: State) -> u64 {
        self.states.iter().filter(|state| **state == wanted).count() as u64
    }

    /// A settled record stays what it is: an answer that comes twice changes nothing.
    fn settle(&mut self, record: usize, to: State) -> bool {
        match self.states.get_mut(record) {
            Some(state) if state.is_open() => {
                *state = to;
                self.open -= 1;
                true
            }
            _ => false,
        }
    }
}

impl State {
    /// Not settled.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::InDoubt)
    }
}
