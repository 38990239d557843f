//! The one request to stop, and until when.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The side that asks for the stop. There is one, and main owns it.
#[derive(Debug)]
pub struct Trigger {
    deadline: watch::Sender<Option<Instant>>,
}

/// The side that is asked; cheap to clone, for tasks and for threads.
#[derive(Clone, Debug)]
pub struct Shutdown {
    deadline: watch::Receiver<Option<Instant>>,
}

/// A request to stop that was not made yet.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (Trigger { deadline: sender }, Shutdown { deadline: receiver })
}

impl Trigger {
    /// Asks everyone to stop within `grace` from now. The first call sets the deadline, later ones do nothing.
    pub fn fire(&self, grace: Duration) {
        self.deadline.send_if_modified(|deadline| {
            let first = deadline.is_none();
            if first {
                *deadline = Some(Instant::now() + grace);
            }
            first
        });
    }
}

impl Shutdown {
    /// Whether the stop was asked for. Threads look at this between two pieces of work.
    pub fn requested(&self) -> bool {
        self.deadline().is_some()
    }

    /// Until when to be done; `None` before the stop is asked for. A trigger that is gone means now.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = *self.deadline.borrow();
        deadline.or_else(|| self.deadline.has_changed().is_err().then(Instant::now))
    }

    /// Time that is left; `None` before the stop is asked for, zero after the deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits until the stop is asked for and returns the deadline. May be dropped and called again at will.
    pub async fn wait(&self) -> Instant {
        let mut deadline = self.deadline.clone();
        match deadline.wait_for(Option::is_some).await {
            Ok(at) => at.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }
}

/// SIGTERM and SIGINT, registered; see [`Signals::drive`].
#[derive(Debug)]
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes over both signals. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot register them.
    pub fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// At the first signal fires `trigger`; at the second, someone is out of patience: exits 1 at once.
    /// Spawn it; it never returns.
    pub async fn drive(mut self, trigger: Trigger, grace: Duration) {
        let name = self.next().await;
        tracing::info!(signal = name, grace_seconds = grace.as_secs_f64(), "stopping");
        trigger.fire(grace);
        let name = self.next().await;
        tracing::error!(signal = name, "second signal, leaving at once");
        // The log is written by a thread of its own; give the line a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_learns_of_the_stop_and_of_the_same_deadline() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.requested());
        assert_eq!(shutdown.remaining(), None);
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        trigger.fire(Duration::from_secs(5));
        trigger.fire(Duration::from_secs(500));
        let deadline = waiting.await.unwrap();
        assert_eq!(shutdown.deadline(), Some(deadline));
        assert_eq!(shutdown.wait().await, deadline);
        assert!(shutdown.remaining().unwrap() <= Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_trigger_that_is_gone_stops_everyone_now() {
        let (trigger, shutdown) = channel();
        drop(trigger);
        shutdown.wait().await;
        assert!(shutdown.requested());
        assert_eq!(shutdown.remaining(), Some(Duration::ZERO));
    }
}
