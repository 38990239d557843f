//! The push: every `metrics.interval` what the pages show of the node, its containers, pods and namespaces goes to
//! the receiver as OTLP metrics.
//!
//! The newest value wins. A sample is sent once, at most one push is under way, and an interval that cannot be used
//! is dropped and counted: nothing piles up, whatever the receiver does. Answers are classed as those to logs
//! (contract section 8), and every class ends the same: the next interval's sample is newer. Only when that may go
//! differs: after a Hold one push a minute, after a Retry with a time not before it.
//!
//! Logs are not in its way and it is not in theirs: it has a thread, a connection and a compressor of its own.
//!
//! # Memory
//! While a push is made: the rows of one page (as a scrape), the request (METRICS.md has its size), its compressed
//! bytes. Between two pushes the room of the request stays, no more.

mod conventions;
mod encode;
mod metrics;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sonde_daemon::client::otlp::verdict::Verdict;
use sonde_daemon::log::RateLimit;
use sonde_daemon::page::Section;
use sonde_daemon::shutdown::Shutdown;
use sonde_wire::answer::Answer;
use sonde_wire::attrs::{AttrSet, keys};
use sonde_wire::metrics::MetricsEncoder;
use tokio::time::Instant;

use self::conventions::Conventions;
pub use self::metrics::{Dropped, PushMetrics};
use crate::config::Config;
use crate::export::{Courier, ExportError, Service, Timing};
use crate::metrics::{Sections, Sources};

/// Our name as the scope of what is pushed; a collector knows us by it.
pub const SCOPE: &str = "sonde-agent";
/// The scope of the same under the semantic conventions' names.
pub const CONVENTIONS_SCOPE: &str = "sonde-agent/conventions";
/// From the start to the first push: time to hear of the pods.
const FIRST: Duration = Duration::from_secs(2);
/// The longest that a push waits for its answer; a shorter interval is waited for one interval.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two pushes while the receiver's answer holds us.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// A receiver may not silence us for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The push, ready to run.
pub struct Push {
    courier: Courier,
    sample: Sampling,
    interval: Duration,
    probe_every: Duration,
    metrics: PushMetrics,
    complaints: RateLimit,
}

/// Makes a request in the room that is given, and says how many points it has.
type Sampling = Box<dyn FnMut(Vec<u8>) -> (Vec<u8>, u64) + Send>;

/// When the next push may go.
#[derive(Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// The receiver asked for time.
    Paused(Instant),
    /// Its answer holds us.
    Held(String, Instant),
}

impl Push {
    /// Reads the token and TLS files; connects to nothing.
    ///
    /// # Errors
    /// As the exporter's.
    pub fn build(config: &Config, sources: &Sources) -> Result<Self, ExportError> {
        let interval = config.metrics.interval.0;
        let timing = Timing { deadline: interval.min(PATIENCE), ..Timing::default() };
        let courier = Courier::build(&config.export, timing, Service::Metrics)?;
        Ok(Self {
            courier,
            sample: sampling(config, sources),
            interval,
            probe_every: PROBE_EVERY,
            metrics: PushMetrics::default(),
            complaints: RateLimit::new(Duration::from_secs(60)),
        })
    }

    /// Its numbers.
    pub fn metrics(&self) -> PushMetrics {
        self.metrics.clone()
    }

    /// Pushes until the stop, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(self, shutdown: Shutdown) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("push".to_owned()).spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(self.run(shutdown));
                    // A name server that hangs must not keep a process that is done.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "metrics cannot be pushed: no runtime"),
            }
        })
    }

    async fn run(mut self, shutdown: Shutdown) {
        let mut next = Instant::now() + FIRST.min(self.interval);
        let mut gate = Gate::Open;
        let mut room = Vec::new();
        loop {
            tokio::select! {
                _ = shutdown.wait() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            match gate.closed(Instant::now()) {
                Some(why) => self.metrics.dropped(why, 1),
                None => {
                    let (payload, points) = (self.sample)(std::mem::take(&mut room));
                    let payload = Bytes::from(payload);
                    let sent = tokio::select! {
                        _ = shutdown.wait() => return,
                        sent = self.courier.send(&payload, matches!(gate, Gate::Held(..))) => sent,
                    };
                    match sent {
                        Ok((verdict, bytes)) => {
                            self.metrics.sent(&verdict.code, points, payload.len(), bytes);
                            gate = self.answered(&gate, &verdict);
                        }
                        Err(error) => {
                            self.metrics.dropped(Dropped::Unreachable, 1);
                            self.complain("connection", &error.to_string());
                        }
                    }
                    // The room is used again; where a connection still holds the bytes it is made anew.
                    room = payload.try_into_mut().map(Vec::from).unwrap_or_default();
                }
            }
            next += self.interval;
            let late =
                Instant::now().saturating_duration_since(next).as_nanos() / self.interval.as_nanos().max(1);
            let late = u32::try_from(late).unwrap_or(u32::MAX);
            self.metrics.dropped(Dropped::Late, late.into());
            next += self.interval.saturating_mul(late);
        }
    }

    /// What the answer means for the next pushes.
    fn answered(&self, before: &Gate, verdict: &Verdict) -> Gate {
        let now = Instant::now();
        let gate = match &verdict.answer {
            Answer::Accepted { rejected, message } => {
                self.metrics.accepted(*rejected, SystemTime::now());
                if *rejected > 0 {
                    self.complain("partial success", message);
                }
                Gate::Open
            }
            Answer::Retry { after } => {
                self.metrics.dropped(Dropped::Retry, 1);
                self.complain(&verdict.code, &verdict.words);
                after.map_or(Gate::Open, |after| Gate::Paused(now + after.min(LONGEST_PAUSE)))
            }
            Answer::Hold => {
                self.metrics.dropped(Dropped::Held, 1);
                Gate::Held(verdict.code.clone(), now + self.probe_every)
            }
            Answer::Reject => {
                self.metrics.dropped(Dropped::Refused, 1);
                self.complain(&verdict.code, &verdict.words);
                Gate::Open
            }
        };
        self.tell(before, &gate, &verdict.words);
        gate
    }

    /// Says a hold once, and its end.
    fn tell(&self, before: &Gate, now: &Gate, words: &str) {
        let endpoint = self.courier.endpoint();
        match (before, now) {
            (Gate::Held(old, _), Gate::Held(code, _)) if old == code => {}
            (_, Gate::Held(code, _)) => {
                self.metrics.blocked(Some(code));
                tracing::error!(code, words, %endpoint, "the receiver's answer holds the metrics: one push a minute is tried until this is set right (metrics.push: false ends it); logs go on");
            }
            (Gate::Held(code, _), _) => {
                self.metrics.blocked(None);
                tracing::info!(code, %endpoint, "the receiver holds the metrics no longer");
            }
            _ => {}
        }
    }

    fn complain(&self, code: &str, words: &str) {
        if let Some(suppressed) = self.complaints.allow() {
            let endpoint = self.courier.endpoint();
            tracing::warn!(code, words, suppressed, %endpoint, "the receiver did not take metrics; the next sample is newer");
        }
    }
}

impl Gate {
    /// Why nothing may go now.
    fn closed(&self, now: Instant) -> Option<Dropped> {
        match self {
            Self::Paused(until) if now < *until => Some(Dropped::Retry),
            Self::Held(_, until) if now < *until => Some(Dropped::Held),
            _ => None,
        }
    }
}

/// One sample of all sections, encoded into the room that is given; and its points. Blocks as a scrape does.
fn sampling(config: &Config, sources: &Sources) -> Sampling {
    let Sections { node, containers, pods, namespaces, kubelet: _ } = sources.sections();
    // What was read of cgroups may be up to a second old and says when; the rest is read now.
    let all = [(node, false), (containers, true), (pods, false), (namespaces, true)];
    let sections: Vec<(Arc<Section>, bool)> =
        all.into_iter().filter_map(|(section, sampled)| Some((section?, sampled))).collect();
    let sampler = sources.sampler();
    let (cluster, node) = (config.cluster.clone(), config.node.name.clone());
    let resource = resource(&cluster, &node);
    let began = SystemTime::now();
    let mut conventions = config.metrics.conventions.then(|| Conventions::new(&config.metrics));
    Box::new(move |room| {
        let mut encoder = MetricsEncoder::new(room, &resource, SCOPE, env!("CARGO_PKG_VERSION"));
        for (section, sampled) in &sections {
            let rows = section.sample();
            let read = if *sampled { sampler.last() } else { None };
            let at = read.map_or_else(SystemTime::now, |sample| sample.at);
            let about = encode::About { cluster: &cluster, node: &node, at, began };
            encode::put(&rows, &about, &mut encoder);
            if let Some(conventions) = &mut conventions {
                conventions.learn(&rows, at);
            }
        }
        if let Some(conventions) = &mut conventions {
            conventions.put(sampler.last().as_deref(), (&cluster, &node), &mut encoder);
        }
        let points = encoder.points();
        (encoder.finish(), points)
    })
}

/// The node as a resource. `service.*` is what Prometheus makes `job` and `instance` of.
fn resource(cluster: &str, node: &str) -> AttrSet {
    let mut attributes = AttrSet::builder();
    if !cluster.is_empty() {
        attributes = attributes.str(keys::CLUSTER_NAME, cluster);
    }
    attributes
        .str(keys::NODE_NAME, node)
        .str(keys::SERVICE_NAME, SCOPE)
        .str("service.instance.id", node)
        .build()
}
