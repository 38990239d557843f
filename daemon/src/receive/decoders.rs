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
    /// How many there are.
    count: usize,
    threads: Arc<Semaphore>,
    suspects: Arc<Semaphore>,
    /// Asked before the threads, by those who leave one of them to others.
    aside: Option<Arc<Semaphore>>,
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
        Self {
            count: threads,
            threads: Arc::new(Semaphore::new(threads)),
            suspects: Arc::new(Semaphore::new(SUSPECTS)),
            aside: None,
        }
    }

    /// The same threads, of which one is always left to the others where there are several; with half as many suspects, of
    /// its own.
    pub fn aside(&self) -> Self {
        let most = self.count.saturating_sub(1).max(1);
        Self {
            count: self.count,
            threads: Arc::clone(&self.threads),
            suspects: Arc::new(Semaphore::new(SUSPECTS / 2)),
            aside: Some(Arc::new(Semaphore::new(most))),
        }
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
        let stopping = |_| Refusal::new(Reason::Draining, "this process is stopping");
        let aside = match &self.aside {
            Some(aside) => Some(Arc::clone(aside).acquire_owned().await.map_err(stopping)?),
            None => None,
        };
        let permit = Arc::clone(&self.threads).acquire_owned().await.map_err(stopping)?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop((permit, aside));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn however_many_work_aside_a_thread_is_left_for_the_others() {
        let decoders = Decoders::new(2);
        let aside = decoders.aside();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let stuck: Vec<_> = (0..10)
            .map(|_| {
                let (aside, ended) = (aside.clone(), Arc::clone(&ended));
                tokio::spawn(async move { aside.run(move || ended.lock().unwrap().recv().is_err()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let others = tokio::time::timeout(Duration::from_secs(20), decoders.run(|| 7));
        assert_eq!(others.await.expect("no thread was left"), Ok(7));
        drop(end);
        for one in stuck {
            assert_eq!(one.await.unwrap(), Ok(true));
        }
    }
}
