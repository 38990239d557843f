//! The ledgers and the readers' own counters as `sonde_agent_log_*` (contract section 5).

use sonde_daemon::page::{Sink, Source};

use crate::journal::metrics::JournalMetrics;
use crate::logs::ledger::{EXCLUDED, LOST, Row, SHED};
use crate::logs::metrics::LogMetrics;

/// What the readers of log files and journals last published; never waits for them.
pub struct LogPage {
    /// Of the log files.
    pub logs: LogMetrics,
    /// Of the journals; their rows have neither namespace nor pod.
    pub journal: JournalMetrics,
}

type Bytes = fn(&Row) -> u64;
type ByReason = fn(&Row) -> &[u64];

impl Source for LogPage {
    fn name(&self) -> &'static str {
        "logs"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let now = self.logs.snapshot();
        let journal = self.journal.snapshot();
        let all = || now.rows.iter().chain(&journal.rows);
        let plain: [(&str, &str, Bytes); 2] = [
            (
                "sonde_agent_log_observed_bytes_total",
                "Bytes seen in log files, uncompressed; those of a compressed file as they are decoded.",
                |row| row.observed,
            ),
            ("sonde_agent_log_acked_bytes_total", "Bytes that the receiver acknowledged.", |row| row.acked),
        ];
        for (name, help, value) in plain {
            let mut rows = out.counter(name, help);
            for (key, row) in all() {
                rows.row(key.labels(), value(row));
            }
        }
        let by_reason: [(&str, &str, &[&str], ByReason); 3] = [
            ("sonde_agent_log_shed_bytes_total", "Bytes left out by a limit.", &SHED, |row| &row.shed),
            (
                "sonde_agent_log_lost_bytes_total",
                "Bytes that could not be delivered. Of a request that the receiver took in part it does not say which \
                 records it refused: reason rejected has their share of its bytes. Of a damaged compressed file whose length was never seen, \
                 reason truncated has the compressed bytes behind the damage: there were at least about as many.",
                &LOST,
                |row| &row.lost,
            ),
            ("sonde_agent_log_excluded_bytes_total", "Bytes left out on purpose.", &EXCLUDED, |row| {
                &row.excluded
            }),
        ];
        for (name, help, reasons, values) in by_reason {
            let mut rows = out.counter(name, help);
            for (key, row) in all() {
                // A reason that a container never had is left out: hundreds of containers, nine reasons.
                for (reason, value) in reasons.iter().zip(values(row)).filter(|(_, value)| **value > 0) {
                    rows.row(key.labels().into_iter().chain([("reason", *reason)]), *value);
                }
            }
        }
        let mut rows = out.gauge("sonde_agent_log_pending_bytes", "Bytes seen and not settled.");
        for (key, row) in all() {
            rows.row(key.labels(), row.pending());
        }
        let mut rows = out.counter("sonde_agent_log_records_total", "Log records by outcome.");
        let (records, others) = (now.records, journal.records);
        for (outcome, value) in [
            ("acked", records.acked + others.acked),
            ("rejected", records.rejected + others.rejected),
            ("shed", records.shed),
            ("truncated", records.truncated + others.truncated),
            ("malformed", records.malformed + others.malformed),
            ("invalid_utf8", now.invalid_utf8_records + journal.counts.invalid_utf8),
            ("sent", records.sent + others.sent),
        ] {
            rows.row([("outcome", outcome)], value);
        }
        if !now.redacted.is_empty() || !journal.redacted.is_empty() {
            let help = "What logs.redact found and replaced, by rule: its number in the list and its preset, or pattern. What is read \
                        again is counted again.";
            let mut rows = out.counter("sonde_agent_log_redacted_total", help);
            // Both have the same rules, in the same order; one of them may not run.
            let rules = if now.redacted.is_empty() { &journal.redacted } else { &now.redacted };
            for (at, (rule, _)) in rules.iter().enumerate() {
                let times = |list: &[(String, u64)]| list.get(at).map_or(0, |(_, times)| *times);
                rows.row([("rule", rule.as_str())], times(&now.redacted) + times(&journal.redacted));
            }
        }
        for (name, help, value) in [
            ("sonde_agent_log_gaps_total", "Rotations that were not seen.", now.gaps),
            ("sonde_agent_log_state_errors_total", "Failed writes of the state file.", now.state_errors),
            ("sonde_agent_log_set_aside_files_total", "Files set aside after an error.", now.set_aside),
            (
                "sonde_agent_log_compressed_resumes_total",
                "Files of which a part was read before they were compressed, and the rest after.",
                now.compressed_resumes,
            ),
        ] {
            out.counter(name, help).row([], value);
        }
        for (name, help, value) in [
            ("sonde_agent_log_files", "Log files that are known.", now.files),
            ("sonde_agent_log_open_files", "Log files that are open.", now.open_files),
            (
                "sonde_agent_log_unreadable_files",
                "Log files that could not be opened at the last look.",
                now.unreadable,
            ),
            (
                "sonde_agent_log_pinned_bytes",
                "Bytes of deleted files held open until they are shipped.",
                now.pinned_bytes,
            ),
            (
                "sonde_agent_log_state_failing",
                "1 while positions cannot be written.",
                u64::from(now.state_failing),
            ),
            (
                "sonde_agent_log_inotify",
                "1 while changes are noticed by inotify, 0 by rescans alone.",
                u64::from(now.inotify),
            ),
        ] {
            out.gauge(name, help).row([], value);
        }
        Ok(())
    }
}
