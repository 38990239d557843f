//! The daemon's own log: one JSON object a line on stderr, or text for people.
//!
//! Whoever logs never waits for stderr: lines go through a bounded queue to a thread that writes them. When the
//! reader of our stderr stands still or is gone, lines are dropped and counted, nothing else happens.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt};

/// Lines that wait for stderr; more are dropped. With the limit on a line this is at most 8 MiB.
const QUEUE_LINES: usize = 1024;
/// A text field is cut there, in bytes.
const LONGEST_FIELD: usize = 2048;
/// A line is cut there, in bytes.
const LONGEST_LINE: usize = 8192;

/// What the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line: `time`, `level`, `message`, `target`, and the event's fields.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Keeps the log going. Dropped at the end of main, it waits up to a second for the last lines.
#[derive(Debug)]
pub struct Guard {
    queue: SyncSender<Message>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writing thread could not be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// Another subscriber is in place.
    #[error("logging was set up before")]
    Twice,
}

/// Starts the process's log on stderr. `filter` is the value of `SONDE_LOG`, written as `RUST_LOG` is
/// (`debug`, `info,sonde_agent::export=trace`); `None` and what cannot be read mean `info`.
///
/// # Errors
/// When it was called before, or no thread can be started.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<Guard, LogError> {
    const DEFAULT: &str = "info,h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";
    let wanted = filter.filter(|text| !text.trim().is_empty());
    let (parsed, wrong) = match wanted.map(EnvFilter::try_new) {
        Some(Ok(parsed)) => (parsed, false),
        Some(Err(_)) => (EnvFilter::new(DEFAULT), true),
        None => (EnvFilter::new(DEFAULT), false),
    };
    let (sender, receiver) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&receiver, io::stderr))?;
    let output = Output { queue: sender.clone() };
    let base = fmt::Subscriber::builder().with_env_filter(parsed).with_writer(output);
    let done = match format {
        LogFormat::Json => tracing::subscriber::set_global_default(base.event_format(JsonLine).finish()),
        LogFormat::Text => tracing::subscriber::set_global_default(base.with_ansi(false).finish()),
    };
    done.map_err(|_| LogError::Twice)?;
    if wrong {
        tracing::warn!(
            value = wanted,
            "SONDE_LOG is not a filter such as `info` or `info,h2=debug`; using info"
        );
    }
    Ok(Guard { queue: sender })
}

/// Lines that were dropped because stderr was not read.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Drop for Guard {
    fn drop(&mut self) {
        let (sender, receiver) = sync_channel(1);
        // A full queue means that stderr stands still: then there is nothing to wait for.
        if self.queue.try_send(Message::Flush(sender)).is_ok() {
            let _ = receiver.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn write_lines<W: Write>(queue: &Receiver<Message>, open: impl Fn() -> W) {
    let mut told = 0;
    for message in queue {
        match message {
            // A closed or broken stderr leaves nobody to tell.
            Message::Line(line) => drop(open().write_all(&line)),
            Message::Flush(done) => drop(done.try_send(())),
        }
        let dropped = dropped();
        if dropped > told {
            let line = format!(
                "{{\"level\":\"WARN\",\"message\":\"log lines were dropped: stderr was not read\",\"dropped\":{}}}\n",
                dropped - told
            );
            drop(open().write_all(line.as_bytes()));
            told = dropped;
        }
    }
}

#[derive(Clone, Debug)]
struct Output {
    queue: SyncSender<Message>,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Output {
    /// tracing-subscriber formats an event into a buffer and writes it in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line.to_owned())) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats an event as one flat JSON object.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut out: format::Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut format::Writer::new(&mut time))?;
        let meta = event.metadata();
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        write!(out, "{{\"time\":\"{time}\",\"level\":\"{}\",\"message\":", level(*meta.level()))?;
        let message = if fields.message.is_empty() { "\"\"" } else { &fields.message };
        writeln!(out, "{message},\"target\":{}{}}}", quoted(meta.target()), fields.rest)
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, json: &str) {
        if field.name() == "message" {
            json.clone_into(&mut self.message);
            return;
        }
        if self.rest.len() + json.len() > LONGEST_LINE {
            return;
        }
        // Our own keys are not given away to a field of the same name.
        let own = matches!(field.name(), "time" | "level" | "target");
        let name = if own { format!("field_{}", field.name()) } else { field.name().to_owned() };
        // Writing to a String cannot fail.
        let _ = write!(self.rest, ",{}:{json}", quoted(&name));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        let json = if value.is_finite() { value.to_string() } else { quoted(&value.to_string()) };
        self.put(field, &json);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, if value { "true" } else { "false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &quoted(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, &quoted(&format!("{value:?}")));
    }
}

/// A JSON string, cut at [`LONGEST_FIELD`].
fn quoted(text: &str) -> String {
    let cut = text.floor_char_boundary(LONGEST_FIELD);
    // Serializing a string cannot fail.
    serde_json::to_string(&text[..cut]).unwrap_or_default()
}

/// At most one line an interval from one place. Make it a `static`.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    /// Nanoseconds since [`epoch`] at which the next line may pass; 0 = none has passed.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl RateLimit {
    /// One line every `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some(how many were suppressed since the last one)` when a line may be written now.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(epoch().elapsed())
    }

    fn allow_at(&self, now: Duration) -> Option<u64> {
        let now_nanos = nanos(now);
        let next = self.next.load(Ordering::Relaxed);
        let due = now_nanos >= next;
        let after = nanos(now.saturating_add(self.interval)).max(1);
        if due && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// At most one line an interval for each key. Remembers a bounded number of keys.
#[derive(Debug)]
pub struct KeyedRateLimit<K> {
    interval: Duration,
    most: usize,
    keys: Mutex<HashMap<K, Arc<RateLimit>>>,
    others: RateLimit,
}

impl<K: Hash + Eq> KeyedRateLimit<K> {
    /// One line every `interval` and key. Of keys beyond `most` at a time, one line every `interval` together.
    pub fn new(interval: Duration, most: usize) -> Self {
        Self { interval, most, keys: Mutex::default(), others: RateLimit::new(interval) }
    }

    /// `Some(how many were suppressed since the last one)` when a line about `key` may be written now.
    pub fn allow(&self, key: K) -> Option<u64> {
        self.allow_at(key, epoch().elapsed())
    }

    fn allow_at(&self, key: K, now: Duration) -> Option<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = keys.get(&key) {
            let limit = Arc::clone(limit);
            drop(keys);
            return limit.allow_at(now);
        }
        if keys.len() >= self.most {
            // Keys whose interval is over have nothing to hold back; what they suppressed is told no more.
            let now = nanos(now);
            keys.retain(|_, limit| limit.next.load(Ordering::Relaxed) > now);
        }
        if keys.len() >= self.most {
            drop(keys);
            return self.others.allow_at(now);
        }
        let limit = RateLimit::new(self.interval);
        let answer = limit.allow_at(now);
        keys.insert(key, Arc::new(limit));
        answer
    }
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(run: impl FnOnce()) -> Vec<serde_json::Value> {
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let subscriber = fmt::Subscriber::builder()
            .event_format(JsonLine)
            .with_max_level(Level::TRACE)
            .with_writer(Output { queue: sender })
            .finish();
        tracing::subscriber::with_default(subscriber, run);
        let text = |message| match message {
            Message::Line(line) => line,
            Message::Flush(_) => Vec::new(),
        };
        receiver
            .try_iter()
            .map(text)
            .map(|line| {
                assert_eq!(line.last(), Some(&b'\n'));
                assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
                serde_json::from_slice(&line).unwrap()
            })
            .collect()
    }

    #[test]
    fn every_event_is_one_flat_json_object_on_one_line() {
        let got = lines(|| {
            tracing::info!(
                bytes = 7u64,
                path = "/a \"b\"\n\u{1b}[31m",
                ratio = f64::NAN,
                ok = true,
                "read {}",
                1
            );
            tracing::error!(level = "mine", target = "t", error = ?io::Error::other("x\ny"));
        });
        assert_eq!(got[0]["message"], "read 1");
        assert_eq!(got[0]["level"], "info");
        assert_eq!(got[0]["bytes"], 7);
        assert_eq!(got[0]["path"], "/a \"b\"\n\u{1b}[31m");
        assert_eq!(got[0]["ratio"], "NaN");
        assert_eq!(got[0]["target"], "sonde_daemon::log::tests");
        assert!(got[0]["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(got[1]["level"], "error");
        assert_eq!(got[1]["field_level"], "mine");
    }

    #[test]
    fn a_line_is_bounded_whatever_is_logged() {
        let long = "é".repeat(100_000);
        let got =
            lines(|| tracing::info!(a = long, b = long, c = long, d = long, e = long, f = long, "{long}"));
        assert!(got[0].to_string().len() < LONGEST_LINE * 2);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_but_no_time() {
        let (sender, _receiver) = sync_channel(1);
        let mut output = Output { queue: sender };
        let before = dropped();
        for _ in 0..100 {
            output.write_all(b"x\n").unwrap();
        }
        assert!(dropped() - before >= 99);
    }

    #[test]
    fn a_closed_stderr_does_not_end_the_writer() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, receiver) = sync_channel(4);
        let (done, flushed) = sync_channel(1);
        sender.send(Message::Line(b"x\n".to_vec())).unwrap();
        sender.send(Message::Flush(done)).unwrap();
        drop(sender);
        write_lines(&receiver, || Broken);
        flushed.try_recv().unwrap();
    }

    #[test]
    fn one_line_an_interval_passes_and_tells_how_many_did_not() {
        let limit = RateLimit::new(Duration::from_secs(10));
        let at = |seconds| limit.allow_at(Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(9), at(10), at(11), at(25)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }

    #[test]
    fn keys_are_limited_one_by_one_and_their_number_is_bounded() {
        let limit = KeyedRateLimit::new(Duration::from_secs(10), 2);
        let at = |key, seconds| limit.allow_at(key, Duration::from_secs(seconds));
        assert_eq!(
            [at("a", 0), at("b", 0), at("a", 1), at("c", 1), at("d", 1)],
            [Some(0), Some(0), None, Some(0), None]
        );
        assert_eq!(at("c", 20), Some(0));
        assert!(limit.keys.lock().unwrap().len() <= 2);
    }
}
