//! The reader's thread and its doors.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::checkpoint::DiskStore;
use super::core::{Core, Now, Settings, state_error};
use super::filter::Filter;
use super::fs::HostFs;
use super::metrics::LogMetrics;
use super::multiline::Rules;
use super::outbox::Outbox;
use super::redact::Redactor;
use super::resource::Node;
use super::{FileStatus, LogsDeps, LogsError};
use crate::inbox::{Inbox, Letters, Message};

/// Longest sleep, so that the heartbeat and what is published stay fresh.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Time between two publications of the ledger and the files.
const PUBLISH: Duration = Duration::from_secs(1);

/// The running reader.
pub struct Reader {
    inbox: Inbox,
    metrics: LogMetrics,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    /// Restores positions, and starts the thread.
    pub fn start(deps: LogsDeps) -> Result<Self, LogsError> {
        let fs = HostFs::open(&deps.host_root, &deps.pod_logs_dir, &deps.docker_logs_dir)
            .map_err(|source| LogsError::Root { path: deps.host_root.clone(), source })?;
        let settings = Settings {
            node: Node { cluster: deps.cluster, name: deps.node_name, labels: deps.pod_labels },
            filter: Filter::new(&deps.config.include, &deps.config.exclude),
            read_existing: deps.config.read_existing,
            max_line: usize::try_from(deps.config.max_line.0).unwrap_or(usize::MAX).max(1),
            parse: deps.config.parse,
            pinned_deleted: deps.config.pinned_deleted.0,
            limits: deps.config.limits.clone(),
            files: deps.config.files.clone(),
            wait_for_metadata: deps.wait_for_metadata,
        };
        let bytes = usize::try_from(deps.batch.bytes.0).unwrap_or(usize::MAX).max(1);
        let outbox = Outbox::new(bytes, deps.batch.age.0, deps.in_flight, deps.batches);
        let store = Box::new(DiskStore::new(&deps.state_dir));
        let redactor = Redactor::new(&deps.config.redact, settings.max_line)?;
        let multiline = Rules::new(&deps.config.multiline, settings.max_line)?;
        let core = Core::new(fs, settings, deps.pods, redactor, multiline, outbox, store, Instant::now())
            .map_err(|source| state_error(&deps.state_dir.join("positions"), source))?;
        let (inbox, letters) = Inbox::new().map_err(LogsError::Thread)?;
        let metrics = deps.metrics;
        let running = Running { core, letters, metrics: metrics.clone(), heartbeat: deps.heartbeat };
        let thread = std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || running.run())
            .map_err(LogsError::Thread)?;
        Ok(Self { inbox, metrics, thread: Some(thread) })
    }

    /// A door for settlements and the stop.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Every known log file; at most a second old.
    pub fn files(&self) -> Arc<Vec<FileStatus>> {
        self.metrics.files()
    }

    /// The ledger and the reader's counters: a collector for `/metrics/self`, and the snapshot behind it.
    pub fn metrics(&self) -> LogMetrics {
        self.metrics.clone()
    }

    /// Whether the first discovery is done.
    pub fn ready(&self) -> bool {
        self.metrics.ready()
    }

    /// Waits for the thread to end, after [`Inbox::stop`].
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Running {
    core: Core<HostFs>,
    letters: Letters,
    metrics: LogMetrics,
    heartbeat: Box<dyn Fn() + Send>,
}

impl Running {
    fn run(mut self) {
        let mut stop_at: Option<Instant> = None;
        let mut publish_at = Instant::now();
        let mut published = None;
        loop {
            let now = now();
            (self.heartbeat)();
            while let Some(message) = self.letters.take() {
                match message {
                    Message::Settled(settlement) => self.core.on_settlement(settlement, now),
                    Message::Stop(deadline) => {
                        stop_at = Some(deadline);
                        self.core.stop();
                    }
                }
            }
            self.core.turn(now);
            let changes = self.core.generation();
            if now.mono >= publish_at && (published != Some(changes) || self.core.is_waiting()) {
                self.metrics.publish(self.core.snapshot(), self.core.statuses(now.mono));
                published = Some(changes);
                publish_at = now.mono + PUBLISH;
            }
            if let Some(deadline) = stop_at
                && (self.core.is_settled() || now.mono >= deadline)
            {
                break;
            }
            self.sleep(now.mono, stop_at);
        }
        self.core.finish(Instant::now());
        let now = Instant::now();
        self.metrics.publish(self.core.snapshot(), self.core.statuses(now));
    }

    /// Until the next turn is due, a file or directory changed, or there is a message.
    fn sleep(&self, now: Instant, stop_at: Option<Instant>) {
        let Some(next) = self.core.next_turn() else { return };
        let next = stop_at.map_or(next, |stop_at| next.min(stop_at));
        let wait = next.saturating_duration_since(Instant::now().max(now)).min(MAX_SLEEP);
        self.letters.wait(self.core.fs.poll_fd(), wait);
    }
}

fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Instant::now(), wall_nanos: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
}
