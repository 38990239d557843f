//! The process itself, under the names that every Prometheus client library gives it.

use std::fs;

use super::{Sink, Source};
use crate::memory::{clock_ticks_per_second, page_size};

/// `process_*` of this process, from `/proc/self`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

/// `<prefix>_build_info`.
#[derive(Clone, Debug)]
pub struct Build {
    /// `sonde_agent`.
    pub prefix: &'static str,
    /// The crate's version.
    pub version: &'static str,
}

/// What `/proc/self` says about memory, time and files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time since the start.
    pub cpu_seconds: f64,
    /// Start, in seconds since 1970.
    pub start_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Reads `/proc/self/stat` and `/proc/stat`; `None` where they cannot be read or are not as proc(5) says.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        Self::parse(&stat, &boot, clock_ticks_per_second(), page_size())
    }

    fn parse(stat: &str, boot: &str, ticks: u64, page: u64) -> Option<Self> {
        // The command (field 2) may hold spaces and parentheses: what follows the last `)` is field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        // Ticks stay far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let seconds = |count: u64| count as f64 / ticks as f64;
        #[allow(clippy::cast_precision_loss)]
        let boot = boot as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)?.checked_add(field(15)?)?),
            start_seconds: boot + seconds(field(22)?),
            resident_bytes: field(24)?.checked_mul(page)?,
            virtual_bytes: field(23)?,
            threads: field(20)?,
        })
    }
}

impl Source for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let usage = Usage::read().ok_or("/proc/self/stat cannot be read")?;
        out.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
            .row([], usage.cpu_seconds);
        out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
            .row([], usage.resident_bytes);
        out.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
            .row([], usage.virtual_bytes);
        out.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")
            .row([], usage.start_seconds);
        out.gauge("process_threads", "Number of OS threads in the process.").row([], usage.threads);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if let Some(limit) = limit {
            out.gauge("process_max_fds", "Maximum number of open file descriptors.").row([], limit);
        }
        // One of them is the directory that is being read.
        let open = fs::read_dir("/proc/self/fd").map_err(|error| format!("/proc/self/fd: {error}"))?.count();
        out.gauge("process_open_fds", "Number of open file descriptors.").row([], open.saturating_sub(1));
        Ok(())
    }
}

impl Source for Build {
    fn name(&self) -> &'static str {
        "build"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let labels =
            [("version", self.version), ("arch", std::env::consts::ARCH), ("os", std::env::consts::OS)];
        out.gauge(format!("{}_build_info", self.prefix), "Always 1; its labels say what was built.")
            .row(labels, 1u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 20 0 9 0 1000 4096000 25 99";
        let usage =
            Usage::parse(&format!("42 (a ) b) {rest}"), "cpu 1\nbtime 1700000000\n", 100, 4096).unwrap();
        let wanted = Usage {
            cpu_seconds: 2.0,
            start_seconds: 1_700_000_010.0,
            resident_bytes: 102_400,
            virtual_bytes: 4_096_000,
            threads: 9,
        };
        assert_eq!(usage, wanted);
        for stat in ["", ")", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 x x 13 14 20 0 9 0 1000 1 1"] {
            assert_eq!(Usage::parse(stat, "btime 1\n", 100, 4096), None, "{stat}");
        }
    }

    #[test]
    fn this_process_has_memory_time_and_files() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 0 && usage.threads > 0 && usage.start_seconds > 1.6e9);
    }
}
