//! Grafana Loki, by its own push API: protobuf in snappy's block format, `POST /loki/api/v1/push`.
//!
//! A stream is named by four labels that never change while a container lives (`label_names`), all else is structured
//! metadata. Loki merges entries of one stream with equal time, line and metadata, so what this sink sends again is stored
//! once; what the agent sends again is while the pod's metadata are what they were. Entries of a stream go in the order of
//! the queue, by their times within a request: one batch is under way at a time, and of each stream one request, since Loki
//! refuses what lies too far behind the newest entry of its stream.
//!
//! A request holds one stream ([`push::Push`] says why). What Loki answers is read in [`answer`]. A 400 says that something
//! in the request was refused, and the rest of it may have been stored: what is older than the oldest entry that Loki says it
//! takes are dead letters at once, else it is halved down to the one entry, which is a dead letter with Loki's reason; the
//! others are sent again, and merged there. After a 429 requests are smaller until one is taken, since a burst that is
//! larger than the limit would never be; other streams of the batch go on.
//!
//! # Memory
//! For the one batch under way: of each stream a request of at most [`push::BYTES`] (or one entry), together no more than the
//! batch as it is written for Loki, as snappy; [`STREAMS`] answers of at most 256 KiB.

pub(crate) mod answer;
mod push;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::client::endpoint::{Endpoint, EndpointError};
use tokio::task::JoinSet;

use self::answer::Whole;
use self::push::{Piece, Push};
use super::target::{Options, Target};
use super::{SinkError, blocking};
use crate::config::{self, LabelNames};
use crate::deliver::{Batch, Sink, Trouble};

/// Ports where an endpoint names none: Loki's own, and that of https.
const PORTS: (u16, u16) = (3100, 443);
/// Batches under way at a time: two of one stream would overtake each other.
pub const IN_FLIGHT: u32 = 1;
const PATH: &str = "/loki/api/v1/push";
/// Addresses behind the endpoint's name that are used at a time.
const SPREAD: usize = 4;
/// From sending a request to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is read of an answer: a refusal may say a few words about ten entries.
const ANSWER_BYTES: usize = 256 << 10;
/// Streams that are written to at a time.
const STREAMS: usize = 8;

/// The sink.
pub struct Loki {
    target: Arc<Target>,
    names: LabelNames,
    /// How much the server takes at once, as its last 429s let us guess.
    piece: Mutex<Piece>,
}

/// Reads an endpoint.
///
/// # Errors
/// It is no URL.
pub fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
    Endpoint::parse(url, PORTS)
}

impl Loki {
    /// Reads secrets and TLS files; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink) -> Result<Self, SinkError> {
        Self::with_deadline(sink, DEADLINE)
    }

    fn with_deadline(sink: &config::Sink, deadline: Duration) -> Result<Self, SinkError> {
        let endpoint = endpoint(sink.endpoint.as_deref().unwrap_or_default())?;
        // Who gives the whole path as the endpoint means the place that it is in.
        let place = endpoint.path.strip_suffix(PATH).unwrap_or(&endpoint.path);
        let options = Options {
            path: format!("{place}{PATH}"),
            headers: &[],
            spread: SPREAD,
            answer_bytes: ANSWER_BYTES,
            deadline,
        };
        Ok(Self {
            target: Arc::new(Target::new(sink, endpoint, &options)?),
            names: sink.label_names.unwrap_or_default(),
            piece: Mutex::default(),
        })
    }

    /// Of each stream the next request: as large as `pieces` says, or as all may be.
    async fn next(&self, batch: &Batch, pieces: &HashMap<String, Piece>) -> Result<Vec<Push>, Trouble> {
        let (units, states, names) = (Arc::clone(batch.units()), batch.states().to_vec(), self.names);
        let (pieces, most) = (pieces.clone(), self.piece());
        let piece = move |labels: &str| pieces.get(labels).copied().unwrap_or(most);
        blocking(move || push::encode(&units, &states, piece, names)).await
    }

    /// Settles what an answer says, and how large the stream's next request may be.
    fn settle(
        &self,
        push: &Push,
        answer: Whole,
        batch: &mut Batch,
        pieces: &mut HashMap<String, Piece>,
    ) -> Result<(), Trouble> {
        let larger = |most: Piece, piece: Option<&Piece>| piece.map_or(most, |piece| piece.doubled(most));
        match answer {
            Whole::Taken => {
                push.records.iter().for_each(|record| batch.delivered(*record));
                let most = self.remember(self.piece().grown());
                let next = larger(most, pieces.get(&push.labels));
                pieces.insert(push.labels.clone(), next);
            }
            Whole::Halve { code, reason, oldest } => {
                let old = |time: u64| oldest.is_some_and(|oldest| time < oldest);
                let refused: Vec<usize> = if push.records.len() == 1 {
                    push.records.clone()
                } else {
                    let times = push.records.iter().zip(&push.times);
                    times.filter(|(_, time)| old(**time)).map(|(record, _)| *record).collect()
                };
                let next = if refused.is_empty() {
                    Piece::half_of(push)
                } else {
                    larger(self.piece(), pieces.get(&push.labels))
                };
                pieces.insert(push.labels.clone(), next);
                for record in refused {
                    batch.refuse(record, code.clone(), reason.clone());
                }
            }
            Whole::Trouble(trouble) => {
                if trouble.code == answer::TOO_FAST {
                    self.remember(Piece::half_of(push));
                }
                return Err(trouble);
            }
        }
        Ok(())
    }

    fn piece(&self) -> Piece {
        *self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, piece: Piece) -> Piece {
        *self.piece.lock().unwrap_or_else(PoisonError::into_inner) = piece;
        piece
    }
}

impl Sink for Loki {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let mut pieces = HashMap::new();
        loop {
            let mut pushes = self.next(batch, &pieces).await?.into_iter();
            if pushes.len() == 0 {
                return Ok(());
            }
            let (mut under_way, mut trouble) = (JoinSet::new(), None::<Trouble>);
            loop {
                // That one stream has too much says nothing about the others.
                let goes_on = trouble.as_ref().is_none_or(|trouble| trouble.code == answer::TOO_FAST);
                if goes_on
                    && under_way.len() < STREAMS
                    && let Some(push) = pushes.next()
                {
                    let target = Arc::clone(&self.target);
                    under_way.spawn(async move {
                        let is_trouble = |answer: &Whole| matches!(answer, Whole::Trouble(_));
                        let answer = target.send(push.body.clone(), answer::whole, is_trouble).await;
                        (push, answer.unwrap_or_else(Whole::Trouble))
                    });
                    continue;
                }
                let Some(ended) = under_way.join_next().await else { break };
                let settled = match ended {
                    Ok((push, answer)) => self.settle(&push, answer, batch, &mut pieces),
                    Err(error) => Err(Trouble::retry("internal", error.to_string())),
                };
                if let Err(worse) = settled
                    && trouble.as_ref().is_none_or(|trouble| trouble.code == answer::TOO_FAST)
                {
                    trouble = Some(worse);
                }
            }
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
        }
    }
}
