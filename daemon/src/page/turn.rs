//! One source's turn on a page: timed and caught; those that may hang are asked by [`Errands`], beside the others.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Sink, Source};
use crate::errands::{Errands, Late};
use crate::log::RateLimit;

/// See the module's head.
pub(super) struct Turn {
    asked: Arc<Asked>,
    complaints: RateLimit,
}

/// A source and what it did.
struct Asked {
    source: Box<dyn Source>,
    panics: AtomicU64,
}

/// How a turn went.
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) took: Duration,
}

/// What a source said by itself.
pub(super) struct Answer {
    said: Sink,
    result: Result<(), String>,
    took: Duration,
}

/// Asks sources by their place among the turns.
pub(super) type Slow = Errands<usize, Answer>;

impl Turn {
    pub(super) fn new(source: Box<dyn Source>) -> Self {
        let asked = Arc::new(Asked { source, panics: AtomicU64::new(0) });
        Self { asked, complaints: RateLimit::new(Duration::from_secs(60)) }
    }

    pub(super) fn name(&self) -> &str {
        self.asked.source.name()
    }

    pub(super) fn panics(&self) -> u64 {
        self.asked.panics.load(Ordering::Relaxed)
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.asked.source.patience()
    }

    /// Asks a source that never waits.
    pub(super) fn take(&self, out: &mut Sink) -> Outcome {
        let start = Instant::now();
        let result = self.asked.put_into(out);
        self.outcome(&result, start.elapsed())
    }

    /// Adds what a source has said that was asked on another thread.
    pub(super) fn settle(&self, answer: Result<Answer, Late>, out: &mut Sink) -> Outcome {
        let patience = self.patience().unwrap_or_default();
        let (error, took) = match answer {
            Ok(Answer { said, result, took }) => {
                out.absorb(said);
                return self.outcome(&result, took);
            }
            Err(Late::NotInTime) => (format!("did not answer within {} ms", patience.as_millis()), patience),
            Err(Late::Hangs) => ("has not answered since an earlier scrape".to_owned(), Duration::ZERO),
            Err(late) => (format!("was not asked: {late:?}"), Duration::ZERO),
        };
        self.outcome(&Err(error), took)
    }

    fn outcome(&self, result: &Result<(), String>, took: Duration) -> Outcome {
        if let Err(error) = result
            && let Some(suppressed) = self.complaints.allow()
        {
            tracing::warn!(source = self.name(), %error, suppressed, "a source of metrics failed");
        }
        Outcome { success: result.is_ok(), took }
    }
}

impl Asked {
    /// A panic costs what the source had put in: it may be half a row.
    fn put_into(&self, out: &mut Sink) -> Result<(), String> {
        let before = out.mark();
        catch_unwind(AssertUnwindSafe(|| self.source.collect(out))).unwrap_or_else(|_| {
            out.back_to(&before);
            self.panics.fetch_add(1, Ordering::Relaxed);
            Err("panicked".to_owned())
        })
    }
}

/// Who asks the sources among `turns` that may hang; `None` where there is none. All of them may hang at once.
pub(super) fn slow(turns: &[Turn]) -> Option<Slow> {
    if turns.iter().all(|turn| turn.patience().is_none()) {
        return None;
    }
    let asked: Vec<Arc<Asked>> = turns.iter().map(|turn| Arc::clone(&turn.asked)).collect();
    let most_stuck = asked.len();
    Some(Errands::new("sources", most_stuck, move |at: &usize| {
        let (start, mut said) = (Instant::now(), Sink::default());
        let result = asked.get(*at).map_or(Ok(()), |asked| asked.put_into(&mut said));
        Answer { said, result, took: start.elapsed() }
    }))
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("source", &self.name()).finish_non_exhaustive()
    }
}
