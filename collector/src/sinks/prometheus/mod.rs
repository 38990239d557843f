//! Prometheus and what speaks its remote write (version 1.0: protobuf in snappy's block format): Mimir, Thanos, VictoriaMetrics.
//!
//! Points become series as [`series`] says, under the names that Prometheus' own OTLP endpoint gives them ([`names`]). A
//! batch is under way at a time, and one request of it, so that the samples of a series arrive in the order of the queue.
//!
//! What a server refuses (400) costs the one point: the request is halved down to it, and it is a dead letter with the
//! server's words; all others are stored, whether the server drops a whole request for one sample (Prometheus 2) or stores
//! the rest of it.
//! A 500 is the server's trouble, and so is a refusal without a word, which may be about anything: all wait. A point alone that gets it three times is put aside, so that the others go on, and is
//! given up when they are taken meanwhile ([`crate::deliver::lane`]).
//!
//! # What is sent twice
//! Nothing that is known to be stored: how far the sink has come is written down after each request ([`sent`]), and a
//! request whose answer was lost is sent again as it was ([`write`]), which Prometheus says yes to, since nothing newer of its
//! series went out meanwhile. So "out of order" is said of what was never stored, however long it waited and whatever became
//! of a request before, and it is a dead letter. Only where the sender says that it may have sent a point before, through another
//! collector perhaps, it is taken for a duplicate: the newer one that the server has may be its copy's successor.
//!
//! # Memory
//! One request of at most [`write::BYTES`] (or one point: [`series::MOST_BYTES`]) before compression and its snappy, 10 bytes for each of the batch's
//! points and 20 for each series of the request, an answer of at most 64 KiB, 16 bytes for each of 10,000 resources, and 24 for
//! each of 1,024 points that wait for a server which cannot cope with them.

pub(crate) mod answer;
mod names;
mod sent;
pub(crate) mod series;
#[cfg(test)]
mod tests;
pub(crate) mod write;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sonde_daemon::client::endpoint::{Endpoint, EndpointError};

use self::answer::Whole;
pub use self::sent::forget_all;
use self::sent::{Refusals, Sent};
use self::write::{Memory, Piece};
use super::target::{Options, Target};
use super::{SinkError, blocking};
use crate::config;
use crate::deliver::{Batch, Sink, Trouble};
use crate::queue::Signal;

/// Ports where an endpoint names none: Prometheus' own, and that of https.
const PORTS: (u16, u16) = (9090, 443);
/// Where an endpoint without a path means.
const PATH: &str = "/api/v1/write";
/// Batches under way at a time: two of one series would overtake each other.
pub const IN_FLIGHT: u32 = 1;
/// Addresses behind the endpoint's name that are used at a time: of several, one could get the older sample later.
const SPREAD: usize = 1;
/// From sending a request to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_BYTES: usize = 64 << 10;
/// How often a point alone may be answered with 500 in its place, before the points behind it go on without it.
const IN_ITS_PLACE: u32 = 3;
/// Points that are put aside and tried in a row, each answered with 500, at most.
const ASIDE: usize = 64;

/// The sink.
pub struct Prometheus {
    target: Target,
    /// Resource attributes that are labels of every series.
    selected: Vec<String>,
    memory: Arc<Memory>,
    sent: Sent,
}

/// Reads an endpoint.
///
/// # Errors
/// It is no URL.
pub fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
    Endpoint::parse(url, PORTS)
}

impl Prometheus {
    /// Reads secrets and TLS files, and how far an earlier process came; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink, data_dir: &Path) -> Result<Self, SinkError> {
        Self::with_deadline(sink, data_dir, DEADLINE)
    }

    fn with_deadline(sink: &config::Sink, data_dir: &Path, deadline: Duration) -> Result<Self, SinkError> {
        let endpoint = endpoint(sink.endpoint.as_deref().unwrap_or_default())?;
        let path = if endpoint.path.is_empty() { PATH } else { endpoint.path.as_str() };
        let options = Options {
            path: path.to_owned(),
            headers: &[("content-encoding", "snappy"), ("x-prometheus-remote-write-version", "0.1.0")],
            spread: SPREAD,
            answer_bytes: ANSWER_BYTES,
            deadline,
        };
        let place = data_dir.join(Signal::Metrics.directory()).join(format!("{}.sent", sink.name));
        Ok(Self {
            target: Target::new(sink, endpoint, &options)?,
            selected: sink.resource_labels.clone().unwrap_or_default(),
            memory: Arc::default(),
            sent: Sent::open(&place).map_err(|error| SinkError::Place(place, error))?,
        })
    }

    async fn next(
        &self,
        batch: &Batch,
        aside: &HashSet<usize>,
        piece: Piece,
    ) -> Result<write::Request, Trouble> {
        let (units, states) = (Arc::clone(batch.units()), batch.states().to_vec());
        let (memory, aside, selected) = (Arc::clone(&self.memory), aside.clone(), self.selected.clone());
        blocking(move || write::next(&memory, &units, &states, &aside, piece, &selected)).await
    }

    async fn send(&self, body: Bytes) -> Whole {
        let is_trouble = |answer: &Whole| matches!(answer, Whole::Trouble(_));
        self.target.send(body, answer::whole, is_trouble).await.unwrap_or_else(Whole::Trouble)
    }

    /// Sends what is open in its order, but for what is not coped with time after time, and then that, each point alone.
    async fn work(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let aside = batch.put_off_records(IN_ITS_PLACE);
        self.pass(batch, aside.clone(), Piece::default()).await?;
        if !aside.is_empty() {
            self.pass(batch, HashSet::new(), Piece { points: 1, ..Piece::default() }).await?;
        }
        Ok(())
    }

    /// Sends what is open, but for what is put `aside`, in requests of at most so much, until all of it is settled. A point
    /// alone that the server does not cope with ends it: what comes behind it in its series must not overtake it, as long as
    /// this may be the server's trouble.
    async fn pass(&self, batch: &mut Batch, mut aside: HashSet<usize>, most: Piece) -> Result<(), Trouble> {
        let (mut piece, mut sick) = (most, None);
        loop {
            let request = self.next(batch, &aside, piece).await?;
            for (point, reason) in &request.left_out {
                batch.leave_out(*point, reason.name());
            }
            if request.points.is_empty() {
                match sick {
                    _ if !request.left_out.is_empty() => continue,
                    Some((code, reason)) => return Err(Trouble::retry(code, reason)),
                    None => return Ok(()),
                }
            }
            match (self.send(request.body.clone()).await, request.points.as_slice()) {
                (Whole::Taken, points) => {
                    points.iter().for_each(|point| batch.delivered(*point));
                    self.sent.note(batch, Refusals::MayBeLost);
                    piece = piece.doubled(most);
                }
                // Who knows whether it is about the point: once more, without.
                (Whole::Halve { .. } | Whole::Sick { .. }, [_]) if request.with_info => {}
                (Whole::Halve { code, reason }, [point]) => {
                    if came_before(batch, *point) && answer::is_before(&reason) {
                        batch.duplicate(*point);
                    } else {
                        // The next is tried alone too: what is refused comes in rows.
                        batch.refuse(*point, code, reason);
                    }
                    self.sent.note(batch, Refusals::MayBeLost);
                }
                (Whole::Sick { code, reason }, [point]) => {
                    batch.put_off(*point, code.clone(), reason.clone());
                    aside.insert(*point);
                    // Among those that were put aside before, the others have their turn too.
                    if most.points > 1 || aside.len() >= ASIDE {
                        return Err(Trouble::retry(code, reason));
                    }
                    sick = Some((code, reason));
                }
                (Whole::Halve { .. } | Whole::Sick { .. }, _) => piece = Piece::half_of(&request),
                (Whole::Trouble(trouble), _) => return Err(trouble),
            }
        }
    }
}

/// Whether a point's sender says that it may have been sent before, through this collector or another.
fn came_before(batch: &Batch, point: usize) -> bool {
    let units = batch.units();
    let at = units.partition_point(|unit| unit.first + unit.records <= point);
    units.get(at).is_some_and(|unit| unit.resend)
}

impl Sink for Prometheus {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        self.sent.recall(batch);
        self.work(batch).await
    }

    fn settled(&self, batch: &Batch) {
        self.sent.note(batch, Refusals::AreDurable);
    }
}
