//! The thread that reads journals, and its doors.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::core::{Core, Settings};
use super::dirs::HostDirs;
use super::metrics::JournalMetrics;
use super::outgoing::Outgoing;
use super::{JournalDeps, JournalError};
use crate::inbox::{Inbox, Letters, Message};
use crate::logs::checkpoint::DiskStore;
use crate::logs::core::Now;
use crate::logs::redact::Redactor;
use crate::logs::resource::Node;

/// Longest sleep, so that the heartbeat and what is published stay fresh.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Time between two publications.
const PUBLISH: Duration = Duration::from_secs(1);
/// Where positions are kept, in the state directory.
const STATE: &str = "journal-positions";

/// The running reader.
pub struct Reader {
    inbox: Inbox,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    /// Restores positions, and starts the thread.
    ///
    /// # Errors
    /// The positions cannot be read, a rule cannot be used, or no thread can be had.
    pub fn start(deps: JournalDeps) -> Result<Self, JournalError> {
        let JournalDeps { config, .. } = deps;
        let journald = config.journald;
        let dirs = HostDirs::open(&deps.host_root, &journald.paths)
            .map_err(|source| JournalError::Root { path: deps.host_root.clone(), source })?;
        let settings = Settings {
            node: Node { cluster: deps.cluster, name: deps.node_name, labels: Vec::new() },
            units: journald.units,
            priority: journald.priority.number(),
            read_existing: config.read_existing,
            max_line: usize::try_from(config.max_line.0).unwrap_or(usize::MAX).max(1),
            parse: config.parse,
            pinned_deleted: config.pinned_deleted.0,
        };
        let bytes = usize::try_from(deps.batch.bytes.0).unwrap_or(usize::MAX).max(1);
        let out = Outgoing::new(bytes, deps.batch.age.0, deps.batches);
        let store = Box::new(DiskStore::named(&deps.state_dir, STATE));
        let redactor = Redactor::new(&config.redact, settings.max_line)?;
        let core = Core::new(dirs, settings, redactor, out, store, Instant::now())
            .map_err(|source| JournalError::State { path: deps.state_dir.join(STATE), source })?;
        let (inbox, letters) = Inbox::new().map_err(JournalError::Thread)?;
        let (metrics, heartbeat) = (deps.metrics, deps.heartbeat);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || run(core, &letters, &metrics, &*heartbeat))
            .map_err(JournalError::Thread)?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// A door for settlements and the stop.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Waits for the thread to end, after [`Inbox::stop`].
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut core: Core<HostDirs>, letters: &Letters, metrics: &JournalMetrics, heartbeat: &dyn Fn()) {
    let mut stop_at: Option<Instant> = None;
    let mut publish_at = Instant::now();
    loop {
        let now = now();
        heartbeat();
        while let Some(message) = letters.take() {
            match message {
                Message::Settled(settlement) => core.on_settlement(settlement),
                Message::Stop(deadline) => {
                    stop_at = Some(deadline);
                    core.stop();
                }
            }
        }
        core.turn(now);
        if now.mono >= publish_at {
            metrics.publish(core.snapshot());
            publish_at = now.mono + PUBLISH;
        }
        if let Some(deadline) = stop_at
            && (core.is_settled() || now.mono >= deadline)
        {
            break;
        }
        if let Some(next) = core.next_turn() {
            let next = stop_at.map_or(next, |stop_at| next.min(stop_at));
            letters.wait(None, next.saturating_duration_since(Instant::now()).min(MAX_SLEEP));
        }
    }
    core.finish(Instant::now());
    metrics.publish(core.snapshot());
}

fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Instant::now(), wall_nanos: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
}
