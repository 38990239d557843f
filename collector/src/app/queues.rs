//! The queues of a collector: one for each signal, each with a directory and a budget of its own, so that what is held
//! back of one signal takes nothing from another.
//!
//! They share the volume. Those of metrics and traces leave twice as much of it free as that of logs does: what they hold
//! is never what keeps logs out, where the volume is as large as all budgets together, and where it is not, logs go on
//! longer.

use std::sync::Arc;

use super::AppError;
use crate::config::Config;
use crate::queue::{MinFree, Queue, QueueError, QueueOptions, RealFilesystem, Signal};
use crate::sinks::prometheus;

/// The queues that are there: that of logs, and those of signals that a sink takes, or once took.
#[derive(Clone)]
pub struct Queues {
    logs: Queue,
    others: Vec<(Signal, Queue)>,
}

impl Queues {
    /// Opens them. Blocks, as [`Queue::open`] does.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn open(config: &Config) -> Result<Self, AppError> {
        let logs = open(config, Signal::Logs)?;
        let mut others = Vec::new();
        for signal in [Signal::Metrics, Signal::Traces] {
            // What was left by sinks that are gone is deleted by the queue itself, as that of logs is.
            if config.has_sink_for(signal) || config.data_dir.join(signal.directory()).exists() {
                others.push((signal, open(config, signal)?));
            }
        }
        Ok(Self { logs, others })
    }

    /// That of logs.
    pub fn logs(&self) -> &Queue {
        &self.logs
    }

    /// That of a signal, where there is one.
    pub fn get(&self, signal: Signal) -> Option<&Queue> {
        self.iter().find(|(of, _)| *of == signal).map(|(_, queue)| queue)
    }

    /// All of them, that of logs first.
    pub fn iter(&self) -> impl Iterator<Item = (Signal, &Queue)> {
        let others = self.others.iter().map(|(signal, queue)| (*signal, queue));
        std::iter::once((Signal::Logs, &self.logs)).chain(others)
    }

    /// Bytes that sinks have still to take: of each queue what the one that is furthest behind has, or all that is there
    /// where no sink has come yet.
    pub fn left(&self) -> u64 {
        let left = self.iter().map(|(_, queue)| {
            let status = queue.status();
            status.cursors.iter().map(|cursor| cursor.bytes).max().unwrap_or(status.disk_bytes)
        });
        left.sum()
    }

    /// Whether the threads of all of them run.
    pub fn are_running(&self) -> bool {
        self.iter().all(|(_, queue)| queue.is_running())
    }

    /// Closes all of them.
    pub async fn close(&self) {
        for (_, queue) in self.iter() {
            queue.close().await;
        }
    }
}

fn open(config: &Config, signal: Signal) -> Result<Queue, AppError> {
    // Checked when the configuration was read.
    let min_free = config.queue.min_free.parse().unwrap_or(MinFree::Percent(10));
    let options = QueueOptions {
        max_bytes: config.queue.max_bytes_of(signal),
        min_free: if signal == Signal::Logs { min_free } else { twice(min_free) },
        ..QueueOptions::default()
    };
    let dir = config.data_dir.join(signal.directory());
    let queue = Queue::open(&dir, options, Arc::new(RealFilesystem))?;
    if queue.is_new() {
        prometheus::forget_all(&dir).map_err(|source| QueueError::Directory { dir, source })?;
    }
    Ok(queue)
}

fn twice(min_free: MinFree) -> MinFree {
    match min_free {
        MinFree::Percent(percent) => MinFree::Percent(percent.saturating_mul(2).min(99)),
        MinFree::Bytes(bytes) => MinFree::Bytes(bytes.saturating_mul(2)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::{self, SinkKind};
    use crate::queue::{Codec, Frame};

    fn config(dir: &Path) -> Config {
        let sink = config::Sink {
            name: "prom".to_owned(),
            kind: SinkKind::Prometheus,
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            ..config::Sink::default()
        };
        let mut config = Config { data_dir: dir.to_owned(), sinks: vec![sink], ..Config::default() };
        config.queue.min_free = "0B".to_owned();
        config
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn how_far_a_sink_came_is_forgotten_with_the_queue_that_it_came_so_far_in() {
        let dir = tempfile::tempdir().unwrap();
        let of_metrics = dir.path().join(Signal::Metrics.directory());
        let sent = of_metrics.join("prom.sent");
        let queues = Queues::open(&config(dir.path())).unwrap();
        let frame = Frame {
            signal: Signal::Metrics,
            codec: Codec::Identity,
            resend: false,
            received_unix_nano: 1,
            records: 1,
            uncompressed_len: 1,
            payload: bytes::Bytes::from_static(b"x"),
        };
        queues.get(Signal::Metrics).unwrap().append(frame).await.unwrap();
        queues.close().await;
        fs::write(&sent, "a place").unwrap();
        Queues::open(&config(dir.path())).unwrap().close().await;
        assert!(sent.exists(), "the queue is the same");
        for entry in fs::read_dir(&of_metrics).unwrap() {
            let path = entry.unwrap().path();
            if path != sent && path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
        Queues::open(&config(dir.path())).unwrap().close().await;
        assert!(!sent.exists(), "this queue has other positions");
    }
}
