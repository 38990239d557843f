//! From the queue to the sinks: each has its own cursor, its own task and its own troubles.
//!
//! The embedded store is delivered to by a thread of its own ([`store`]): its cursor is part of its commits. Every
//! other sink implements [`Sink`] and is driven by a [`lane`], which reads frames at the sink's cursor, decodes them
//! into a [`Batch`], and hands the batch over until every record in it is settled: delivered, found to be there
//! already, or refused for good, in which case it is in the [`dead_letter`]s before the cursor passes. What one sink
//! does costs no other anything but disk space in the queue they share.

pub mod ack;
pub mod batch;
pub mod canary;
mod cluster;
pub mod dead_letter;
mod decode;
pub mod lane;
mod limit;
pub mod select;
pub mod store;

use std::future::Future;
use std::time::Duration;

pub use batch::Batch;

use crate::queue::Queue;

/// A destination.
pub trait Sink: Send + Sync + 'static {
    /// Works on the records of a batch that are not settled yet, and settles them. `Ok` means that all are; after an
    /// error it is called again later with the same batch, which remembers what was reached. The future may be
    /// dropped at any time: what was under way then may have happened or not, and is met again as such.
    fn deliver(&self, batch: &mut Batch) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// What of the batch was refused up to now is durable among the dead letters: no kill loses it any more.
    fn settled(&self, _batch: &Batch) {}

    /// Whether it sends requests on as they came: then batches have them beside their content
    /// ([`batch::Unit::came`]), which costs their compressed bytes more.
    fn forwards(&self) -> bool {
        false
    }
}

/// Why a sink could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Trouble {
    /// What to do about it.
    pub class: Class,
    /// A short word for metrics: an HTTP status, an error type.
    pub code: String,
    /// The destination asks not to be bothered for so long.
    pub after: Option<Duration>,
    /// For people.
    pub message: String,
}

/// The classes of contract section 8 that are left when records have been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again, with backoff, for ever.
    Retry,
    /// Something has to be set right first: one probe a minute.
    Hold,
}

impl Trouble {
    /// To be tried again.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: Class::Retry, code: code.into(), after: None, message: message.into() }
    }

    /// To be set right by somebody.
    pub fn hold(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: Class::Hold, ..Self::retry(code, message) }
    }
}

/// Drops the cursors of sinks that are not configured any more, which would hold the queue's segments for ever. To be
/// called when those that are have been started: a queue without a cursor holds nothing.
pub fn forget_all_but(queue: &Queue, sinks: &[&str]) {
    for name in queue.cursors().iter().filter(|name| !sinks.contains(&name.as_str())) {
        tracing::warn!(sink = name, "no such sink is configured any more: the queue keeps nothing for it");
        queue.forget(name);
    }
}

#[cfg(test)]
mod tests;
