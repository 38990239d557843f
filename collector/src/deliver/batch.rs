//! Some frames of the queue on their way to a sink, and what has become of each record in them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use crate::queue::{Codec, Position, Signal};

/// Records of a batch that may be put off one by one; where there are more, it is not they who are at fault.
const PUT_OFF: usize = 256;

/// Bytes of different reasons that a batch keeps; beyond that, one for each further code. A destination may name each
/// record in its reason.
const WHY_BYTES: usize = 1 << 20;

/// After this time since a frame was received, its sender may have sent it through another collector, which has sent it on.
pub const OLD: Duration = Duration::from_secs(30);

/// A frame, decoded and checked.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What the request is of.
    pub signal: Signal,
    /// Where it is in the queue.
    pub position: Position,
    /// When it was received, Unix nanoseconds.
    pub received_unix_nano: u64,
    /// The request; passed `wire`'s check. Its records are log records, data points or spans.
    pub bytes: Bytes,
    /// Number of its first record in the batch.
    pub first: usize,
    /// How many it has.
    pub records: usize,
    /// The request as it came, for a sink that sends it on; where it came compressed and nothing was added to it.
    pub came: Option<(Codec, Bytes)>,
    /// Its sender marked it as possibly sent before.
    pub resend: bool,
}

impl Unit {
    fn is_old(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.received_unix_nano)) > OLD
    }
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
    /// Refused for good by a destination that says how many of a request it refused, and not which: stands for one of
    /// them. Nothing of it is kept.
    Rejected,
    /// The destination has no form for it.
    LeftOut,
}

/// A record that the destination will never take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The record's number in the batch.
    pub record: usize,
    /// Why; shared with others.
    pub why: Arc<Why>,
}

/// Why a record was refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Why {
    /// A short word: a status, an error type.
    pub code: String,
    /// For people. Where a batch has more than [`WHY_BYTES`] of different ones, another record's with the same code.
    pub reason: String,
}

/// Some frames in the queue's order. Records are numbered through all of them.
#[derive(Debug)]
pub struct Batch {
    units: Arc<[Unit]>,
    states: Vec<State>,
    refusals: Vec<Refusal>,
    left_out: BTreeMap<&'static str, u64>,
    /// Of the refusals, each once.
    whys: BTreeSet<Arc<Why>>,
    why_bytes: usize,
    put_off: BTreeMap<usize, PutOff>,
    open: usize,
}

/// What the destination says of a record that it does not take, for a fault of its own.
#[derive(Debug)]
struct PutOff {
    tries: u32,
    /// Tries at the last [`Batch::looked_at`].
    seen: u32,
    /// Tries between which the destination took others.
    rounds: u32,
    since: Instant,
    code: String,
    reason: String,
}

impl Batch {
    /// `units` with, for each, whether it may have been sent before.
    pub fn new(units: Vec<Unit>, mut in_doubt: impl FnMut(&Unit) -> bool) -> Self {
        let mut states = Vec::new();
        for unit in &units {
            let state = if in_doubt(unit) { State::InDoubt } else { State::Open };
            states.resize(states.len() + unit.records, state);
        }
        let open = states.len();
        Self {
            units: units.into(),
            open,
            states,
            refusals: Vec::new(),
            left_out: BTreeMap::new(),
            whys: BTreeSet::new(),
            why_bytes: 0,
            put_off: BTreeMap::new(),
        }
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

    /// One of the records like this one was refused by the destination, which does not say which.
    pub fn reject(&mut self, record: usize) {
        self.settle(record, State::Rejected);
    }

    /// The destination will never take this record.
    pub fn refuse(&mut self, record: usize, code: impl Into<String>, reason: impl Into<String>) {
        if self.settle(record, State::Refused) {
            let why = self.why(Why { code: code.into(), reason: reason.into() });
            self.refusals.push(Refusal { record, why });
        }
    }

    /// The destination has no form for this record: it is not sent, and nothing of it is kept. The reason is a word for
    /// metrics.
    pub fn leave_out(&mut self, record: usize, reason: &'static str) {
        if self.settle(record, State::LeftOut) {
            *self.left_out.entry(reason).or_default() += 1;
        }
    }

    /// It as it is kept already, or as it is kept from now on.
    fn why(&mut self, why: Why) -> Arc<Why> {
        if let Some(known) = self.whys.get(&why) {
            return Arc::clone(known);
        }
        let bytes = size_of::<Why>() + why.code.len() + why.reason.len();
        if self.why_bytes + bytes > WHY_BYTES {
            let first = Why { code: why.code.clone(), reason: String::new() };
            if let Some(other) = self.whys.range(first..).next().filter(|other| other.code == why.code) {
                return Arc::clone(other);
            }
        }
        self.why_bytes += bytes;
        let why = Arc::new(why);
        self.whys.insert(Arc::clone(&why));
        why
    }

    /// The destination cannot cope with this record, by its own word about this one (a 500). It is tried again; where
    /// others are taken meanwhile, not for ever ([`Self::give_up`]).
    pub fn put_off(&mut self, record: usize, code: impl Into<String>, reason: impl Into<String>) {
        let is_open = self.states.get(record).is_some_and(|state| state.is_open());
        if is_open && (self.put_off.len() < PUT_OFF || self.put_off.contains_key(&record)) {
            let first = PutOff {
                tries: 0,
                seen: 0,
                rounds: 0,
                since: Instant::now(),
                code: String::new(),
                reason: String::new(),
            };
            let put_off = self.put_off.entry(record).or_insert(first);
            put_off.tries += 1;
            (put_off.code, put_off.reason) = (code.into(), reason.into());
        }
    }

    /// The records that were put off at least so many times and are not settled.
    pub fn put_off_records(&self, tries: u32) -> HashSet<usize> {
        let over = self.put_off.iter().filter(|(_, put_off)| put_off.tries >= tries);
        over.map(|(record, _)| *record).collect()
    }

    /// Whether a record that is not settled was put off.
    pub fn has_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }

    /// Whether those of these records that are not settled were all put off.
    pub fn are_put_off(&self, records: &[usize]) -> bool {
        let open = |record: &&usize| self.states.get(**record).is_some_and(|state| state.is_open());
        records.iter().filter(open).all(|record| self.put_off.contains_key(record))
    }

    /// Whether records were put off, and all that are left are such.
    pub fn is_stuck(&self) -> bool {
        self.open > 0 && self.put_off.len() == self.open
    }

    /// To be called after each try of the batch: whether the destination took records of others since the last call.
    pub fn looked_at(&mut self, others_taken: bool) {
        for put_off in self.put_off.values_mut() {
            // What was taken before its first try says nothing of it.
            if others_taken && put_off.seen > 0 && put_off.tries > put_off.seen {
                put_off.rounds += 1;
            }
            put_off.seen = put_off.tries;
        }
    }

    /// Refuses what was put off so many times, between so many of which others were taken, and for so long.
    pub fn give_up(&mut self, tries: u32, rounds: u32, patience: Duration) {
        let over = |_: &usize, put_off: &mut PutOff| {
            put_off.tries >= tries && put_off.rounds >= rounds && put_off.since.elapsed() >= patience
        };
        let over: Vec<(usize, PutOff)> = self.put_off.extract_if(.., over).collect();
        for (record, PutOff { tries, since, code, reason, .. }) in over {
            let seconds = since.elapsed().as_secs();
            let reason =
                format!("{tries} tries in {seconds} s failed while other records were taken: {reason}");
            self.refuse(record, code, reason);
        }
    }

    /// This record is about to be sent, or was, and nobody knows yet what came of it.
    pub fn doubt(&mut self, record: usize) {
        if let Some(state) = self.states.get_mut(record).filter(|state| state.is_open()) {
            *state = State::InDoubt;
        }
    }

    /// Records of frames that are [`OLD`] meanwhile are in doubt from now on, such as those that were made ready and then waited
    /// for a process that was stopped. Whether there were any that were not before.
    pub fn doubt_old(&mut self, now: SystemTime) -> bool {
        let units = Arc::clone(&self.units);
        let mut any = false;
        for unit in units.iter().filter(|unit| unit.is_old(now)) {
            for state in &mut self.states[unit.first..unit.first + unit.records] {
                if *state == State::Open {
                    (*state, any) = (State::InDoubt, true);
                }
            }
        }
        any
    }

    /// Whether this record came so long ago.
    pub fn is_old(&self, record: usize, now: SystemTime) -> bool {
        let at = self.units.partition_point(|unit| unit.first + unit.records <= record);
        self.units.get(at).is_some_and(|unit| unit.is_old(now))
    }

    /// Refusals since the last call.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        (self.whys, self.why_bytes) = (BTreeSet::new(), 0);
        std::mem::take(&mut self.refusals)
    }

    /// What was left out since the last call, by reason.
    pub fn take_left_out(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.left_out)
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
                self.put_off.remove(&record);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_keeps_of_reasons_is_bounded_and_each_refusal_has_one_of_its_code() {
        const RECORDS: usize = 20_000;
        let (position, bytes) = (Position::default(), Bytes::new());
        let unit = Unit {
            signal: Signal::Logs,
            position,
            received_unix_nano: 1,
            bytes,
            first: 0,
            records: RECORDS,
            came: None,
            resend: false,
        };
        let mut batch = Batch::new(vec![unit], |_| false);
        for record in 0..RECORDS {
            batch.refuse(record, if record % 2 == 0 { "400" } else { "413" }, format!("{record:0300}"));
        }
        let refusals = batch.take_refusals();
        assert_eq!(refusals.len(), RECORDS);
        let whys: BTreeSet<&Why> = refusals.iter().map(|refusal| &*refusal.why).collect();
        let kept: usize =
            refusals.iter().map(|refusal| Arc::as_ptr(&refusal.why)).collect::<BTreeSet<_>>().len();
        assert_eq!(kept, whys.len(), "each is there once");
        assert!((1000..4000).contains(&kept), "{kept} texts of 300 bytes");
        for Refusal { record, why } in &refusals {
            assert_eq!(why.code, if record % 2 == 0 { "400" } else { "413" });
            assert!(*record > 1000 || why.reason == format!("{record:0300}"), "the first have their own");
        }
    }
}
