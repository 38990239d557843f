//! The CPU controller: v2 `cpu.stat`, `cpu.max`, `cpu.weight`; v1 `cpuacct.*`, `cpu.*`
//! (kernel, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/cpuacct.rst).

use super::{Files, pairs};
use crate::metrics::read::float;

/// CPU time of a cgroup and all below it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Seconds in use.
    pub usage_seconds: f64,
    /// Seconds in user mode; on v1 in steps of a clock tick.
    pub user_seconds: f64,
    /// Seconds in the kernel; on v1 in steps of a clock tick.
    pub system_seconds: f64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Seconds it was throttled.
    pub throttled_seconds: f64,
    /// Periods in which it burst.
    pub burst_periods: u64,
    /// Seconds of bursts.
    pub burst_seconds: f64,
    /// v1: what tells of periods and throttling could not be read.
    pub no_periods: bool,
    /// Quota a period in microseconds, if it has one.
    pub quota_microseconds: Option<u64>,
    /// The period in microseconds; 0 where there is none (the root).
    pub period_microseconds: u64,
    /// v1 shares; of a v2 weight as cAdvisor converts it back.
    pub shares: u64,
}

/// Reads a v2 cgroup; `None` where it has no `cpu.stat`.
pub(super) fn read_v2(files: &mut Files<'_>) -> Option<Cpu> {
    let mut cpu = parse_stat(files.read("cpu.stat")?, 1e6)?;
    if let Some((quota, period)) = files.read("cpu.max").and_then(parse_max) {
        (cpu.quota_microseconds, cpu.period_microseconds) = (quota, period);
    }
    if let Some(weight) = files.read("cpu.weight").and_then(|text| text.trim().parse().ok()) {
        cpu.shares = shares(weight);
    }
    Some(cpu)
}

/// Reads a v1 cgroup from `cpuacct` and `cpu`; `ticks`: clock ticks a second.
pub(super) fn read_v1(files: &mut Files<'_>, ticks: u64) -> Option<Cpu> {
    let usage: u64 = files.read("cpuacct.usage")?.trim().parse().ok()?;
    let mut out = files
        .read("cpu.stat")
        .and_then(|text| parse_stat(text, 1e9))
        .unwrap_or(Cpu { no_periods: true, ..Cpu::default() });
    out.usage_seconds = float(usage) / 1e9;
    if let Some(text) = files.read("cpuacct.stat") {
        for (key, value) in pairs(text) {
            match key {
                "user" => out.user_seconds = float(value) / float(ticks),
                "system" => out.system_seconds = float(value) / float(ticks),
                _ => {}
            }
        }
    }
    // -1: no quota.
    out.quota_microseconds = files.read("cpu.cfs_quota_us").and_then(|text| text.trim().parse().ok());
    out.period_microseconds =
        files.read("cpu.cfs_period_us").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    out.shares = files.read("cpu.shares").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Some(out)
}

/// `cpu.stat` of both versions: times are microseconds in v2, nanoseconds in v1. `None`: nothing in it is known.
fn parse_stat(text: &str, unit: f64) -> Option<Cpu> {
    let mut cpu = Cpu::default();
    let mut known = false;
    for (key, value) in pairs(text) {
        let seconds = float(value) / unit;
        match key {
            "usage_usec" => cpu.usage_seconds = seconds,
            "user_usec" => cpu.user_seconds = seconds,
            "system_usec" => cpu.system_seconds = seconds,
            "nr_periods" => cpu.periods = value,
            "nr_throttled" => cpu.throttled_periods = value,
            "throttled_usec" | "throttled_time" => cpu.throttled_seconds = seconds,
            "nr_bursts" => cpu.burst_periods = value,
            "burst_usec" | "burst_time" => cpu.burst_seconds = seconds,
            _ => continue,
        }
        known = true;
    }
    known.then_some(cpu)
}

/// `cpu.max`: `max 100000` or `20000 100000`.
fn parse_max(text: &str) -> Option<(Option<u64>, u64)> {
    let mut words = text.split_ascii_whitespace();
    let quota = match words.next()? {
        "max" => None,
        number => Some(number.parse().ok()?),
    };
    Some((quota, words.next()?.parse().ok()?))
}

/// A weight as the shares that cAdvisor shows for it (lib/container/common/helpers.go), although runtimes make weights
/// of shares by another formula since runc 1.3.
fn shares(weight: u64) -> u64 {
    if weight == 0 { 0 } else { 2 + weight.saturating_sub(1).saturating_mul(262_142) / 9999 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_weight_is_shown_as_the_shares_that_cadvisor_shows() {
        for (weight, want) in [(0, 0), (1, 2), (4, 80), (8, 185), (20, 500), (100, 2597)] {
            assert_eq!(shares(weight), want, "{weight}");
        }
    }

    #[test]
    fn microseconds_and_nanoseconds_become_seconds() {
        let v2 =
            parse_stat("usage_usec 1500000\nnr_periods 3\nthrottled_usec 250000\nnew_key 1\n", 1e6).unwrap();
        assert_eq!((v2.usage_seconds, v2.periods, v2.throttled_seconds), (1.5, 3, 0.25));
        let v1 = parse_stat("nr_periods 2\nnr_throttled 1\nthrottled_time 500000000\n", 1e9).unwrap();
        assert_eq!((v1.periods, v1.throttled_periods, v1.throttled_seconds), (2, 1, 0.5));
        assert_eq!(parse_stat("<html>", 1e6), None);
    }

    #[test]
    fn no_quota_and_a_quota_are_told_apart() {
        assert_eq!(parse_max("max 100000\n"), Some((None, 100_000)));
        assert_eq!(parse_max("20000 100000\n"), Some((Some(20_000), 100_000)));
        assert_eq!(parse_max("20000"), None);
        assert_eq!(parse_max("-1 100000"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,200}", number: u64) {
            let _ = (parse_stat(&text, 1e6), parse_max(&text), shares(number));
        }
    }
}
