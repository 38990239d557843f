//! Whether requests may go: held while the receiver's answer says that all would fail (contract section 8, class
//! Hold), paused while it asked for time.
//!
//! While held, one request at a time passes as a probe, at most once a minute. Any other class of answer opens the
//! gate: what comes back then is that class's business.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The gate of one receiver.
pub struct Gate {
    state: Mutex<State>,
    changed: Notify,
    probe_every: Duration,
}

#[derive(Default)]
struct State {
    hold: Option<Hold>,
    pause_until: Option<Instant>,
}

struct Hold {
    code: String,
    probe_at: Instant,
    probing: bool,
}

/// Leave to send one request; to be kept until its answer was reported.
pub struct Pass<'a> {
    gate: &'a Gate,
    probe: bool,
}

/// What a report changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that has to be said.
    None,
    /// Held now, for another reason than before (which is given).
    Held(Option<String>),
    /// Was held for this reason and is open now.
    Opened(String),
}

impl Pass<'_> {
    /// Whether the receiver holds us and this request is to find out if it still does.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

enum Next {
    Go { probe: bool },
    WaitUntil(Instant),
    WaitForChange,
}

impl Gate {
    /// Open. While held, `probe_every` lies between two probes.
    pub fn new(probe_every: Duration) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), probe_every }
    }

    /// Waits until a request may go.
    pub async fn pass(&self) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the state is read, so that no change is missed in between.
            changed.as_mut().enable();
            match self.next(Instant::now()) {
                Next::Go { probe } => return Pass { gate: self, probe },
                Next::WaitForChange => changed.await,
                Next::WaitUntil(at) => {
                    tokio::select! {
                        () = &mut changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// The receiver answered with a code of class Hold.
    pub fn hold(&self, code: &str) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let probe_at = Instant::now() + self.probe_every;
        let probing = state.hold.as_ref().is_some_and(|hold| hold.probing);
        let old = state.hold.replace(Hold { code: code.to_owned(), probe_at, probing }).map(|hold| hold.code);
        if old.as_deref() == Some(code) { Change::None } else { Change::Held(old) }
    }

    /// The receiver answered, or could not be reached: not a reason to hold.
    pub fn open(&self) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hold) = state.hold.take() else { return Change::None };
        drop(state);
        self.changed.notify_waiters();
        Change::Opened(hold.code)
    }

    /// The receiver asked for this much time: nobody sends before it is over.
    pub fn pause(&self, wait: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pause_until = state.pause_until.max(Some(Instant::now() + wait));
    }

    fn next(&self, now: Instant) -> Next {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = state.pause_until.filter(|until| *until > now) {
            return Next::WaitUntil(until);
        }
        match &mut state.hold {
            None => Next::Go { probe: false },
            Some(hold) if hold.probing => Next::WaitForChange,
            Some(hold) if hold.probe_at <= now => {
                hold.probing = true;
                Next::Go { probe: true }
            }
            Some(hold) => Next::WaitUntil(hold.probe_at),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.probe {
            return;
        }
        let mut state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = &mut state.hold {
            hold.probing = false;
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Stands for the minute.
    const PERIOD: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn while_held_one_probe_a_period_passes() {
        let gate = Arc::new(Gate::new(PERIOD));
        drop(gate.pass().await);
        assert_eq!(gate.hold("UNAUTHENTICATED"), Change::Held(None));
        let start = Instant::now();
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let _pass = gate.pass().await;
                    let at = start.elapsed();
                    tokio::time::sleep(PERIOD / 10).await;
                    assert_eq!(gate.hold("UNAUTHENTICATED"), Change::None);
                    at
                })
            })
            .collect();
        let mut probes = Vec::new();
        for task in tasks {
            probes.push(task.await.unwrap());
        }
        probes.sort_unstable();
        assert!(probes[0] >= PERIOD, "{probes:?}");
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] >= PERIOD), "{probes:?}");
    }

    #[tokio::test]
    async fn an_answer_of_another_class_lets_everyone_through_at_once() {
        let gate = Arc::new(Gate::new(Duration::from_secs(3600)));
        gate.hold("404");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { drop(gate.pass().await) })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(gate.hold("401"), Change::Held(Some("404".to_owned())));
        assert_eq!(gate.open(), Change::Opened("401".to_owned()));
        assert_eq!(gate.open(), Change::None);
        for task in waiting {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_probe_that_is_given_up_lets_the_next_one_probe() {
        let gate = Gate::new(PERIOD);
        gate.hold("INTERNAL");
        let probe = gate.pass().await;
        assert!(tokio::time::timeout(3 * PERIOD, gate.pass()).await.is_err());
        drop(probe);
        gate.pass().await;
    }

    #[tokio::test]
    async fn nobody_sends_before_the_time_that_the_receiver_asked_for() {
        let gate = Gate::new(PERIOD);
        gate.pause(Duration::from_millis(70));
        gate.pause(Duration::from_millis(30));
        let start = Instant::now();
        gate.pass().await;
        assert!(start.elapsed() >= Duration::from_millis(70));
    }
}
