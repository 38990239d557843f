//! The threads that decompress and check: few, so that the memory of decoders is a constant and the runtime's own
//! threads keep answering.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::refusal::{Reason, Refusal};

/// Bodies that expand unusually and may arrive at the same time. The others wait with what has come of them, so
/// that many bombs cost no more than a few.
const SUSPECTS: usize = 4;

/// A place to run what takes long.
#[derive(Clone, Debug)]
pub struct Decoders {
    threads: Arc<Semaphore>,
    suspects: Arc<Semaphore>,
}

/// Leave to go on for one body that expands unusually.
#[derive(Debug)]
pub struct Leave {
    _permit: OwnedSemaphorePermit,
}

impl Decoders {
    /// At most so many at work at the same time. Each may hold a zstd window of
    /// `2^`[`WINDOW_LOG_MAX`](super::inflate::WINDOW_LOG_MAX) bytes.
    pub fn new(threads: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads)), suspects: Arc::new(Semaphore::new(SUSPECTS)) }
    }

    /// Runs `work` on a thread where it may block, after those that came before. Once begun it ends, whether or
    /// not someone still waits for it.
    ///
    /// # Errors
    /// `Internal` if it panicked, or the process is stopping.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let failed = |_| Refusal::new(Reason::Internal, "the request could not be checked");
        let permit = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::new(Reason::Draining, "this process is stopping"))?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        })
        .await
        .map_err(failed)
    }

    /// Waits up to `patience` until a body that expands unusually may go on.
    ///
    /// # Errors
    /// `Overload` when others had it all the time.
    pub async fn leave(&self, patience: Duration) -> Result<Leave, Refusal> {
        match timeout(patience, Arc::clone(&self.suspects).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Leave { _permit: permit }),
            _ => Err(Refusal::new(Reason::Overload, "too many requests that expand unusually")),
        }
    }
}
