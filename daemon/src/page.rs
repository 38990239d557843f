//! A page of metrics: sources are asked one by one, each timed, bounded and caught; what they say is merged by
//! family and written as text.
//!
//! The format is classic Prometheus text 0.0.4: names and types come out exactly as a source gives them, which
//! OpenMetrics cannot promise (`container_memory_failcnt` is a counter without `_total`). A page of our own names
//! may allow OpenMetrics to those who ask for it.

mod process;
mod sink;
mod text;
mod turn;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::Full;

pub use process::{Build, Process, Usage};
pub use sink::{Buckets, Cell, Family, Kind, LabelSet, Labels, Rows, Sink, Value};
use turn::{Outcome, Slow, Turn};

/// A part of the daemon that has metrics to show.
pub trait Source: Send + Sync + 'static {
    /// Its name in the page's accounting, as `cpu` or `log_ledger`.
    fn name(&self) -> &str;

    /// Puts everything it has now into `out`. What was put in before an error stays on the page.
    ///
    /// # Errors
    /// A message for the log; the source is accounted as failed.
    fn collect(&self, out: &mut Sink) -> Result<(), String>;

    /// How long it may take. `None`: it never waits for anything, and is asked on the scrape's own thread. Given,
    /// it is asked on another thread, after the others of its kind, and one that has not answered in time is left out of the
    /// page from then until it has.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// Sources that are accounted under one name.
#[derive(Debug)]
pub struct Section {
    turns: Vec<Turn>,
    /// Asks those that may hang.
    slow: Option<Mutex<Slow>>,
    accounting: Option<Accounting>,
}

/// How the success of a section's sources is told.
#[derive(Clone, Debug)]
pub struct Accounting {
    /// Start of the names `…_success`, `…_duration_seconds` and `…_panics_total`: `sonde_agent_source`.
    pub prefix: String,
    /// The label that names the source: `source`.
    pub label: String,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    sections: Vec<Arc<Section>>,
    openmetrics: bool,
}

/// A text format of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// A source made of a name and a closure.
pub fn source(
    name: &'static str,
    collect: impl Fn(&mut Sink) -> Result<(), String> + Send + Sync + 'static,
) -> Box<dyn Source> {
    Box::new(Closure { name, collect })
}

struct Closure<F> {
    name: &'static str,
    collect: F,
}

impl<F: Fn(&mut Sink) -> Result<(), String> + Send + Sync + 'static> Source for Closure<F> {
    fn name(&self) -> &str {
        self.name
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        (self.collect)(out)
    }
}

impl Section {
    /// Sources in the order of the page, those that may hang after the others.
    pub fn new(accounting: Option<Accounting>, sources: Vec<Box<dyn Source>>) -> Arc<Self> {
        let turns: Vec<Turn> = sources.into_iter().map(Turn::new).collect();
        let slow = turn::slow(&turns).map(Mutex::new);
        Arc::new(Self { turns, slow, accounting })
    }

    /// Asks every source as a page does, for who reads the rows instead of writing them. Blocks for the sources'
    /// patience at worst.
    pub fn sample(&self) -> Sink {
        let mut out = Sink::with_room();
        self.collect(&mut out);
        out
    }

    /// Asks the sources that may hang beside the others.
    fn take_turns(&self, out: &mut Sink) -> Vec<(&Turn, Outcome)> {
        let mut slow = self.slow.as_ref().map(|slow| slow.lock().unwrap_or_else(PoisonError::into_inner));
        let patient = || self.turns.iter().enumerate().filter_map(|(at, turn)| Some((at, turn.patience()?)));
        let round = slow.as_mut().map(|slow| slow.begin(patient().collect()));
        let quick = self.turns.iter().filter(|turn| turn.patience().is_none());
        let mut outcomes: Vec<_> = quick.map(|turn| (turn, turn.take(out))).collect();
        if let (Some(slow), Some(round)) = (&mut slow, round) {
            for ((at, _), answer) in patient().zip(slow.finish(round, None)) {
                let turn = &self.turns[at];
                outcomes.push((turn, turn.settle(answer, out)));
            }
        }
        outcomes
    }

    fn collect(&self, out: &mut Sink) {
        let outcomes = self.take_turns(out);
        let Some(Accounting { prefix, label }) = &self.accounting else { return };
        let mut rows = out.gauge(format!("{prefix}_success"), "Whether the source was collected.");
        for (turn, outcome) in &outcomes {
            rows.row([(label.as_str(), turn.name())], u64::from(outcome.success));
        }
        let mut rows = out.gauge(format!("{prefix}_duration_seconds"), "How long the source took.");
        for (turn, outcome) in &outcomes {
            rows.row([(label.as_str(), turn.name())], outcome.took.as_secs_f64());
        }
        let mut rows =
            out.counter(format!("{prefix}_panics_total"), "Panics of the source that were caught.");
        for turn in &self.turns {
            rows.row([(label.as_str(), turn.name())], turn.panics());
        }
    }
}

impl Page {
    /// A page of these sections. `openmetrics`: whether it may be had as OpenMetrics; for names of our own only.
    pub fn new(sections: Vec<Arc<Section>>, openmetrics: bool) -> Self {
        Self { sections, openmetrics }
    }

    /// Asks every source and writes the page. Blocks for the sources' patience at worst.
    pub fn render(&self, format: Format) -> String {
        let mut sink = Sink::with_room();
        for section in &self.sections {
            section.collect(&mut sink);
        }
        text::render(&sink, format)
    }

    /// The answer to a scrape: the format by `Accept`, gzip by `Accept-Encoding`. Blocks as [`Page::render`].
    pub fn answer(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let format = text::format(request, self.openmetrics);
        let (body, gzip) = text::encode(self.render(format), request);
        let mut response = Response::new(Full::new(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl Format {
    /// The format's media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests;
