//! The memory controller, with cAdvisor's meaning of each number (lib/container/libcontainer/handler.go).

use super::{Files, pairs};

/// Memory of a cgroup and all below it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// Usage without the inactive page cache: what counts for eviction and `OOM`.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Page cache in recent use.
    pub active_file: u64,
    /// Page cache not in recent use.
    pub inactive_file: u64,
    /// Swap.
    pub swap: u64,
    /// Highest usage; 0 where the kernel does not know it (before 5.19, and at the v2 root).
    pub peak: u64,
    /// Charges that failed at the limit; v1 only.
    pub failures: u64,
    /// Kernel memory; v1 only.
    pub kernel: u64,
    /// Page faults.
    pub pgfault: u64,
    /// Page faults that needed a disk.
    pub pgmajfault: u64,
    /// Processes that the kernel killed here or below; not known of the v2 root, nor where the file cannot be read.
    pub oom_kills: Option<u64>,
    /// v1: the kernel counts a kill where it happened, and not above; `kills` does.
    pub oom_kills_here_only: bool,
    /// The limit, if it has one.
    pub limit: Option<u64>,
    /// The limit of swap (v1: of memory and swap), if it has one.
    pub swap_limit: Option<u64>,
    /// Memory that is kept for it.
    pub reservation: u64,
}

/// Larger limits mean none: v1 shows the largest multiple of a page below 2^63 (cAdvisor, `maxMemorySize`).
const NO_LIMIT: u64 = 1 << 62;

/// Reads a v2 cgroup. The root has no `memory.current`: there usage is anonymous memory and page cache, as runc and
/// cAdvisor take it (opencontainers/cgroups, fs2/memory.go).
pub(super) fn read_v2(files: &mut Files<'_>) -> Option<Memory> {
    let current: Option<u64> = files.read("memory.current").and_then(number);
    let mut memory = parse_stat_v2(files.read("memory.stat")?)?;
    memory.usage = current.unwrap_or(memory.rss + memory.cache);
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file);
    if current.is_some() {
        memory.swap = files.read("memory.swap.current").and_then(number).unwrap_or(0);
        memory.peak = files.read("memory.peak").and_then(number).unwrap_or(0);
        memory.oom_kills = files.read("memory.events").map(oom_kills);
        memory.limit = files.read("memory.max").and_then(number);
        memory.swap_limit = files.read("memory.swap.max").and_then(number);
        memory.reservation = files.read("memory.min").and_then(number).unwrap_or(0);
    }
    Some(memory)
}

/// Reads a v1 cgroup. `root`: the root's `memory.stat` is never read, it takes seconds on some kernels
/// (google/cadvisor#2259); only usage is known then.
pub(super) fn read_v1(files: &mut Files<'_>, root: bool) -> Option<Memory> {
    let usage = files.read("memory.usage_in_bytes").and_then(number)?;
    let mut memory = Memory::default();
    if !root {
        memory = files.read("memory.stat").and_then(parse_stat_v1)?;
    }
    memory.usage = usage;
    memory.working_set = usage.saturating_sub(memory.inactive_file);
    memory.peak = files.read("memory.max_usage_in_bytes").and_then(number).unwrap_or(0);
    memory.failures = files.read("memory.failcnt").and_then(number).unwrap_or(0);
    memory.kernel = files.read("memory.kmem.usage_in_bytes").and_then(number).unwrap_or(0);
    memory.oom_kills = files.read("memory.oom_control").map(oom_kills);
    memory.oom_kills_here_only = true;
    let limit = |value: Option<u64>| value.filter(|limit| *limit < NO_LIMIT);
    memory.limit = limit(files.read("memory.limit_in_bytes").and_then(number));
    memory.swap_limit = limit(files.read("memory.memsw.limit_in_bytes").and_then(number));
    memory.reservation = limit(files.read("memory.soft_limit_in_bytes").and_then(number)).unwrap_or(0);
    Some(memory)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn oom_kills(text: &str) -> u64 {
    pairs(text).find(|(key, _)| *key == "oom_kill").map_or(0, |(_, value)| value)
}

/// v2 `memory.stat`, keys in any order. `None`: it is none.
fn parse_stat_v2(text: &str) -> Option<Memory> {
    let mut memory = Memory::default();
    let mut known = false;
    for (key, value) in pairs(text) {
        match key {
            "anon" => memory.rss = value,
            "file" => memory.cache = value,
            "file_mapped" => memory.mapped_file = value,
            "active_file" => memory.active_file = value,
            "inactive_file" => memory.inactive_file = value,
            "pgfault" => memory.pgfault = value,
            "pgmajfault" => memory.pgmajfault = value,
            _ => continue,
        }
        known = true;
    }
    known.then_some(memory)
}

/// v1 `memory.stat`: the `total_` keys, which count what is below too, as `memory.usage_in_bytes` does.
fn parse_stat_v1(text: &str) -> Option<Memory> {
    let mut memory = Memory::default();
    let mut known = false;
    for (key, value) in pairs(text) {
        let Some(key) = key.strip_prefix("total_") else { continue };
        match key {
            "rss" => memory.rss = value,
            "cache" => memory.cache = value,
            "mapped_file" => memory.mapped_file = value,
            "active_file" => memory.active_file = value,
            "inactive_file" => memory.inactive_file = value,
            "swap" => memory.swap = value,
            "pgfault" => memory.pgfault = value,
            "pgmajfault" => memory.pgmajfault = value,
            _ => continue,
        }
        known = true;
    }
    known.then_some(memory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn v1_takes_the_totals_and_not_its_own_share() {
        let memory = parse_stat_v1("rss 1\ncache 2\ntotal_rss 10\ntotal_cache 20\ntotal_swap 5\n").unwrap();
        assert_eq!((memory.rss, memory.cache, memory.swap), (10, 20, 5));
        assert_eq!(parse_stat_v1("rss 1\n"), None);
    }

    #[test]
    fn the_kernels_kills_are_counted_and_not_its_tries() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 9\noom 7\noom_kill 3\noom_group_kill 1\n"), 3);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("oom_kill"), 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
            let _ = (parse_stat_v1(&text), parse_stat_v2(&text), oom_kills(&text));
        }
    }
}
