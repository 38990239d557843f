//! The ledger and the reader's own counters as `sonde_agent_log_*`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::FileStatus;
use super::ledger::{EXCLUDED, LOST, Row, RowKey, SHED};

/// What the reader last published; at most a second old.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Ledger rows.
    pub rows: Vec<(RowKey, Row)>,
    /// Rotations that were not seen.
    pub gaps: u64,
    /// Bytes sequences of bodies that were not UTF-8 and were replaced, in records.
    pub invalid_utf8_records: u64,
    /// Records of known outcome, by outcome.
    pub records: Records,
    /// Files that are set aside after an error of our own or a damaged compression.
    pub set_aside: u64,
    /// Files that could not be opened at the last look.
    pub unreadable: u64,
    /// Files that are known.
    pub files: u64,
    /// Handles that are open.
    pub open_files: u64,
    /// Bytes of deleted files that are held open.
    pub pinned_bytes: u64,
    /// Failed writes of the state file.
    pub state_errors: u64,
    /// Whether the last write of the state file failed.
    pub state_failing: bool,
    /// Whether changes are noticed by inotify (1) or by rescans alone (0).
    pub inotify: bool,
}

/// Records by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The receiver took them.
    pub acked: u64,
    /// The receiver refused them for good.
    pub rejected: u64,
    /// Cut at `max_line`.
    pub truncated: u64,
    /// Not in the runtime's format.
    pub malformed: u64,
    /// Sent by the reader, counting each sending.
    pub sent: u64,
}

/// Shared between the reader's thread and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct LogMetrics {
    shared: Arc<Mutex<Published>>,
}

#[derive(Debug, Default)]
struct Published {
    snapshot: Arc<Snapshot>,
    files: Arc<Vec<FileStatus>>,
    ready: bool,
}

impl LogMetrics {
    /// What was last published.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    pub(super) fn publish(&self, snapshot: Snapshot, files: Vec<FileStatus>) {
        let mut shared = self.lock();
        shared.snapshot = Arc::new(snapshot);
        shared.files = Arc::new(files);
        shared.ready = true;
    }

    pub(super) fn files(&self) -> Arc<Vec<FileStatus>> {
        self.lock().files.clone()
    }

    pub(super) fn ready(&self) -> bool {
        self.lock().ready
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Published> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Value = fn(&Row) -> u64;
type Values = fn(&Row) -> &[u64];

impl Collector for LogMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.snapshot();
        let plain: [(&str, &str, Value); 2] = [
            ("sonde_agent_log_observed_bytes", "Bytes seen in log files, uncompressed", |row| row.observed),
            ("sonde_agent_log_acked_bytes", "Bytes the receiver acknowledged", |row| row.acked),
        ];
        for (name, help, value) in plain {
            let mut family = encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?;
            for (key, row) in &now.rows {
                ConstCounter::new(value(row)).encode(family.encode_family(&key.labels())?)?;
            }
        }
        let by_reason: [(&str, &str, &[&str], Values); 3] = [
            ("sonde_agent_log_shed_bytes", "Bytes left out by a limit", &SHED, |row| &row.shed),
            ("sonde_agent_log_lost_bytes", "Bytes that could not be delivered", &LOST, |row| &row.lost),
            ("sonde_agent_log_excluded_bytes", "Bytes left out on purpose", &EXCLUDED, |row| &row.excluded),
        ];
        for (name, help, reasons, values) in by_reason {
            let mut family = encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?;
            for (key, row) in &now.rows {
                for (reason, value) in reasons.iter().zip(values(row)) {
                    if *value > 0 {
                        let mut labels = key.labels().to_vec();
                        labels.push(("reason", reason));
                        ConstCounter::new(*value).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "sonde_agent_log_pending_bytes",
            "Bytes seen and not settled",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for (key, row) in &now.rows {
            ConstGauge::new(i64::try_from(row.pending()).unwrap_or(i64::MAX))
                .encode(family.encode_family(&key.labels())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "sonde_agent_log_records",
            "Log records by outcome",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        let records = now.records;
        for (outcome, value) in [
            ("acked", records.acked),
            ("rejected", records.rejected),
            ("truncated", records.truncated),
            ("malformed", records.malformed),
            ("invalid_utf8", now.invalid_utf8_records),
            ("sent", records.sent),
        ] {
            ConstCounter::new(value).encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        let counters = [
            ("sonde_agent_log_gaps", "Rotations that were not seen", now.gaps),
            ("sonde_agent_log_state_errors", "Failed writes of the state file", now.state_errors),
            ("sonde_agent_log_set_aside_files", "Files set aside after an error", now.set_aside),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?)?;
        }
        let gauges = [
            ("sonde_agent_log_files", "Log files that are known", now.files),
            ("sonde_agent_log_open_files", "Log files that are open", now.open_files),
            (
                "sonde_agent_log_unreadable_files",
                "Log files that could not be opened at the last look",
                now.unreadable,
            ),
            (
                "sonde_agent_log_pinned_bytes",
                "Bytes of deleted files held open until they are shipped",
                now.pinned_bytes,
            ),
            (
                "sonde_agent_log_state_failing",
                "1 while positions cannot be written",
                u64::from(now.state_failing),
            ),
            (
                "sonde_agent_log_inotify",
                "1 while changes are noticed by inotify, 0 by rescans alone",
                u64::from(now.inotify),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}
