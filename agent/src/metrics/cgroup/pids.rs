//! The pids controller, and the processes themselves.

use super::Files;

/// Tasks of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Processes of this one cgroup, without those below it.
    pub processes: u64,
    /// A process of it.
    pub one: Option<u32>,
    /// Threads of it and of all below it; at the root, where the kernel does not count, its processes.
    pub threads: u64,
    /// The limit of threads; 0 = none.
    pub threads_max: u64,
}

/// Reads a cgroup; the files have the same names in v1 and v2.
pub(super) fn read(files: &mut Files<'_>) -> Pids {
    let (processes, one) = files.read("cgroup.procs").map(parse_procs).unwrap_or_default();
    let threads = files.read("pids.current").and_then(|text| text.trim().parse().ok()).unwrap_or(processes);
    let threads_max = files.read("pids.max").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Pids { processes, one, threads, threads_max }
}

/// A pid a line; 0 is a process outside our pid namespace.
fn parse_procs(text: &str) -> (u64, Option<u32>) {
    let mut count = 0;
    let mut one = None;
    for line in text.lines() {
        let Ok(pid) = line.trim().parse::<u32>() else { continue };
        count += 1;
        if one.is_none() && pid != 0 {
            one = Some(pid);
        }
    }
    (count, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_namespace_counts_but_cannot_be_looked_into() {
        assert_eq!(parse_procs("0\n0\n"), (2, None));
        assert_eq!(parse_procs("0\n42\n43\n"), (3, Some(42)));
        assert_eq!(parse_procs("garbage\n\n-1\n"), (0, None));
    }
}
