//! One source's turn on a page: timed, caught, and for those that may hang, on a thread of its own.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Sink, Source};
use crate::log::RateLimit;

/// See the module's head.
pub(super) struct Turn {
    source: Arc<dyn Source>,
    panics: Arc<AtomicU64>,
    complaints: RateLimit,
    worker: Mutex<Option<Worker>>,
}

/// How a turn went.
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) took: Duration,
}

type Answer = (Sink, Result<(), String>);

struct Worker {
    ask: SyncSender<()>,
    answers: Receiver<Answer>,
    /// It was asked and has not answered yet.
    busy: bool,
}

impl Turn {
    pub(super) fn new(source: Box<dyn Source>) -> Self {
        Self {
            source: source.into(),
            panics: Arc::default(),
            complaints: RateLimit::new(Duration::from_secs(60)),
            worker: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.source.name()
    }

    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, out: &mut Sink) -> Outcome {
        let start = Instant::now();
        let answer = match self.source.patience() {
            None => Ok(ask(&*self.source, &self.panics)),
            Some(patience) => self.ask_worker(patience),
        };
        let result = answer.and_then(|(sink, result)| {
            out.absorb(sink);
            result
        });
        if let Err(error) = &result
            && let Some(suppressed) = self.complaints.allow()
        {
            tracing::warn!(source = self.name(), %error, suppressed, "a source of metrics failed");
        }
        Outcome { success: result.is_ok(), took: start.elapsed() }
    }

    fn ask_worker(&self, patience: Duration) -> Result<Answer, String> {
        let mut slot = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *slot {
            Some(worker) => worker,
            none => none.insert(self.start().map_err(|error| format!("no thread: {error}"))?),
        };
        // An answer that came after the last scrape had left is old.
        if worker.busy {
            let late = worker.answers.try_recv();
            drop(late.map_err(|_| "has not answered since an earlier scrape".to_owned())?);
        }
        let gone = |_| "its thread is gone".to_owned();
        worker.ask.try_send(()).map_err(|_| "its thread is gone".to_owned())?;
        worker.busy = true;
        match worker.answers.recv_timeout(patience) {
            Ok(answer) => {
                worker.busy = false;
                Ok(answer)
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("did not answer within {} ms", patience.as_millis()))
            }
            Err(error) => Err(gone(error)),
        }
    }

    fn start(&self) -> std::io::Result<Worker> {
        let (ask_sender, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let (source, panics) = (Arc::clone(&self.source), Arc::clone(&self.panics));
        let name = format!("source {}", source.name());
        std::thread::Builder::new().name(name).spawn(move || {
            for () in asked {
                if answer.send(ask(&*source, &panics)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Worker { ask: ask_sender, answers, busy: false })
    }
}

/// A panic costs what the source had put in: it may be half a row.
fn ask(source: &dyn Source, panics: &AtomicU64) -> Answer {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut sink = Sink::default();
        let result = source.collect(&mut sink);
        (sink, result)
    }));
    caught.unwrap_or_else(|_| {
        panics.fetch_add(1, Ordering::Relaxed);
        (Sink::default(), Err("panicked".to_owned()))
    })
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("source", &self.name()).finish_non_exhaustive()
    }
}
