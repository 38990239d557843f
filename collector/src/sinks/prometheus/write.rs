//! The next `WriteRequest` (prometheus `prompb/remote.proto`, remote write specification 1.0) out of a batch.
//!
//! A request holds points that follow each other in the queue, and of each series one sample: what was sent last is then
//! the newest of its series, and a server that has it already says yes to it again. So a request whose answer was lost
//! is sent again as it was, and harms nothing.

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sonde_wire::proto::put_bytes;
use sonde_wire::view::MetricsRequest;

use super::series::{self, LeftOut, Resource, Series};
use crate::deliver::batch::{State, Unit};

/// Bytes of a request before compression; a point always goes, whatever it takes.
pub const BYTES: usize = 1 << 20;
/// Points of a request.
const POINTS: usize = 10_000;
/// How often `target_info` of a resource goes: well within the five minutes after which Prometheus takes a series for gone.
const INFO_MS: i64 = 60_000;
/// Resources whose last `target_info` is remembered; beyond that all are forgotten, which costs a sample each.
const INFOS: usize = 10_000;

/// How much goes into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes before compression.
    pub bytes: usize,
    /// Points.
    pub points: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: BYTES, points: POINTS }
    }
}

impl Piece {
    /// After a request that was too much, or held something that was refused.
    pub fn half_of(request: &Request) -> Self {
        Self { bytes: (request.bytes / 2).max(1), points: (request.points.len() / 2).max(1) }
    }

    /// After a success: twice as much, within `most`.
    pub fn doubled(self, most: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_mul(2).clamp(1, most.bytes),
            points: self.points.saturating_mul(2).clamp(1, most.points),
        }
    }
}

/// A request, ready to be sent, or nothing but points that have no series.
#[derive(Debug, Default)]
pub struct Request {
    /// Snappy, block format; empty without points.
    pub body: Bytes,
    /// The points in it, by their numbers in the batch, ascending.
    pub points: Vec<usize>,
    /// Points that were passed on the way and have no series.
    pub left_out: Vec<(usize, LeftOut)>,
    /// Bytes before compression.
    pub bytes: usize,
    /// There is `target_info` of a resource in it, which is no point of the batch. It goes once; the next request of the same
    /// points is without.
    pub with_info: bool,
}

/// What is remembered from request to request.
#[derive(Default)]
pub struct Memory {
    hash: RandomState,
    /// When `target_info` of a resource went last, Unix milliseconds of its own sample.
    infos: Mutex<HashMap<u64, i64>>,
}

/// A request while points are put into it.
struct Open<'m> {
    memory: &'m Memory,
    piece: Piece,
    message: Vec<u8>,
    seen: HashSet<u64>,
    request: Request,
    full: bool,
}

/// The next open points of a batch, but for those that are put aside; none are left where there is neither a point nor one
/// that is left out.
pub fn next(
    memory: &Memory,
    units: &[Unit],
    states: &[State],
    aside: &HashSet<usize>,
    piece: Piece,
    selected: &[String],
) -> Request {
    let mut open = Open {
        memory,
        piece,
        message: Vec::new(),
        seen: HashSet::new(),
        request: Request::default(),
        full: false,
    };
    for unit in units {
        let is_open = |number: usize| {
            states.get(number).is_some_and(|state| state.is_open()) && !aside.contains(&number)
        };
        if !(unit.first..unit.first + unit.records).any(is_open) {
            continue;
        }
        open.unit(unit, is_open, selected);
        if open.full {
            break;
        }
    }
    let Open { message, mut request, .. } = open;
    request.bytes = message.len();
    if !request.points.is_empty() {
        // Fails only beyond 4 GiB; a request is one point or a megabyte.
        request.body = snap::raw::Encoder::new().compress_vec(&message).unwrap_or_default().into();
    }
    request
}

impl Open<'_> {
    fn unit(&mut self, unit: &Unit, is_open: impl Fn(usize) -> bool, selected: &[String]) {
        let mut number = unit.first;
        for group in MetricsRequest::trusted(&unit.bytes).resources() {
            let mut resource = None;
            let mut first = None;
            'points: for metric in group.scopes().flat_map(|scope| scope.metrics()) {
                for point in metric.every_point() {
                    let this = number;
                    number += 1;
                    if !is_open(this) {
                        continue;
                    }
                    let resource =
                        resource.get_or_insert_with(|| Resource::new(group.attributes(), selected));
                    let received = unit.received_unix_nano;
                    match series::of_point(&self.memory.hash, resource, &metric, point, received) {
                        Ok((series, time)) if self.takes(&series) => {
                            self.request.points.push(this);
                            first.get_or_insert(time);
                        }
                        Ok(_) => {
                            self.full = true;
                            break 'points;
                        }
                        Err(reason) => self.request.left_out.push((this, reason)),
                    }
                }
            }
            // A point that is tried alone is judged alone. The time is that of the first point: a request that is made
            // anew after a kill may end elsewhere, and begins with the same.
            if let (Some(resource), Some(first)) = (&resource, first)
                && self.piece.points > 1
            {
                self.info(resource, first);
            }
            if self.full {
                return;
            }
        }
    }

    /// Whether there is room for a point, which is in then.
    fn takes(&mut self, series: &[Series]) -> bool {
        let bytes: usize = series.iter().map(|one| one.bytes.len() + 6).sum();
        let first = self.request.points.is_empty();
        let fits =
            self.message.len() + bytes <= self.piece.bytes && self.request.points.len() < self.piece.points;
        if !first && (!fits || series.iter().any(|one| self.seen.contains(&one.identity))) {
            return false;
        }
        for one in series {
            // A point that has one series twice (two labels that became one) has the first of them.
            if self.seen.insert(one.identity) {
                put_bytes(&mut self.message, 1, &one.bytes);
            }
        }
        true
    }

    fn info(&mut self, resource: &Resource, time: i64) {
        let Some(info) = resource.target_info(&self.memory.hash, time) else { return };
        let mut infos = self.memory.infos.lock().unwrap_or_else(PoisonError::into_inner);
        let last = infos.get(&info.identity).copied();
        if last.is_some_and(|last| time < last.saturating_add(INFO_MS)) || !self.seen.insert(info.identity) {
            return;
        }
        if infos.len() >= INFOS {
            infos.clear();
        }
        infos.insert(info.identity, time);
        put_bytes(&mut self.message, 1, &info.bytes);
        self.request.with_info = true;
    }
}
