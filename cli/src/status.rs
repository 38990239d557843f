//! The demo's status line, once a second.

use std::time::Duration;

use serde::Deserialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::fetch;
use crate::setup::Ports;

/// What the daemons say of themselves; what could not be asked stays as it was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Records that the agent has sent, each sending counted.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Records in the store.
    pub(crate) stored: u64,
    /// Bytes the agent has seen and not yet settled.
    pub(crate) pending_bytes: u64,
    /// Age of the oldest of them.
    pub(crate) lag_seconds: f64,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

#[derive(Deserialize)]
struct FileLag {
    lag_seconds: f64,
}

impl Counts {
    /// Asks both daemons.
    pub(crate) async fn refresh(&mut self, ports: Ports) {
        if let Ok(page) = fetch::text(ports.agent, "/metrics/self").await {
            let records = |outcome: &str| {
                whole(fetch::metric(
                    &page,
                    "sonde_agent_log_records_total",
                    &format!("outcome=\"{outcome}\""),
                ))
            };
            self.sent = records("sent");
            self.acknowledged = records("acked");
            self.pending_bytes = whole(fetch::metric(&page, "sonde_agent_log_pending_bytes", ""));
        }
        if let Ok(text) = fetch::text(ports.agent, "/debug/files").await
            && let Ok(files) = serde_json::from_str::<Vec<FileLag>>(&text)
        {
            self.lag_seconds = files.iter().map(|file| file.lag_seconds).fold(0.0, f64::max);
        }
        if let Some(count) = stored(ports).await {
            self.stored = count;
        }
    }
}

/// Records in the store.
pub(crate) async fn stored(ports: Ports) -> Option<u64> {
    let text = fetch::text(ports.page, "/api/v1/logs/count").await.ok()?;
    serde_json::from_str::<Count>(&text).ok().map(|count| count.count)
}

/// Resident memory of processes.
pub(crate) struct Memory {
    system: System,
    pids: [Pid; 2],
}

impl Memory {
    pub(crate) fn of(agent: u32, collector: u32) -> anyhow::Result<Self> {
        Ok(Self { system: System::new()?, pids: [Pid::from_u32(agent), Pid::from_u32(collector)] })
    }

    /// Of agent and collector, in bytes; 0 for one that is gone.
    pub(crate) fn refresh(&mut self) -> [u64; 2] {
        let what = ProcessRefreshKind::nothing().with_memory();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&self.pids), true, what);
        self.pids.map(|pid| self.system.process(pid).map_or(0, sysinfo::Process::memory))
    }
}

/// One line.
pub(crate) fn line(elapsed: Duration, written: Option<u64>, counts: &Counts, memory: [u64; 2]) -> String {
    let written = written.map_or(String::new(), |lines| format!("written {:>9}  ", grouped(lines)));
    format!(
        "{:>4}s  {written}sent {:>9}  acknowledged {:>9}  stored {:>9}  lag {:>4.1} s  agent {:>3} MiB  collector {:>3} MiB",
        elapsed.as_secs(),
        grouped(counts.sent),
        grouped(counts.acknowledged),
        grouped(counts.stored),
        counts.lag_seconds,
        memory[0] >> 20,
        memory[1] >> 20
    )
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Counters are whole numbers below 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
