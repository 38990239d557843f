//! What the scheduler did on each CPU, from `/proc/schedstat` (kernel, Documentation/scheduler/sched-stats.rst).
//! Without `CONFIG_SCHEDSTATS` there is no such file.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, Value, source};

use crate::metrics::read::{Kept, float};

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("schedstat"));
    source("schedstat", move |out| {
        if let Some(text) = file.read_if_there()? {
            show(&parse(&text), out);
        }
        Ok(())
    })
}

/// A CPU with the time that tasks ran on it and waited for it, in nanoseconds, and the slices of time given.
type Cpu<'t> = (&'t str, [u64; 3]);

/// `cpu0 0 0 0 0 0 0 <running> <waiting> <slices>`, in every version of the file since 10.
fn parse(text: &str) -> Vec<Cpu<'_>> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
            let cpu = words.next().filter(|cpu| cpu.bytes().all(|byte| byte.is_ascii_digit()))?;
            let mut words = words.skip(6).map(|word| word.parse().ok());
            Some((cpu, [words.next()??, words.next()??, words.next()??]))
        })
        .collect()
}

fn show(cpus: &[Cpu<'_>], out: &mut Sink) {
    type Cell = fn(&[u64; 3]) -> Value;
    let families: [(&str, Cell); 3] = [
        ("node_schedstat_running_seconds_total", |[running, ..]| (float(*running) / 1e9).into()),
        ("node_schedstat_waiting_seconds_total", |[_, waiting, _]| (float(*waiting) / 1e9).into()),
        ("node_schedstat_timeslices_total", |[.., slices]| (*slices).into()),
    ];
    for (name, value) in families {
        let mut rows = help::counter(out, name);
        for (cpu, numbers) in cpus {
            rows.row([("cpu", *cpu)], value(numbers));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDSTAT: &str = "version 17\ntimestamp 4294980410\n\
        cpu0 1 0 2 0 0 0 423180000000 6060460000000 565300\ndomain0 PKG 3 0 0 0\ncpu10 0 0 0 0 0 0 1 2 3\n";

    #[test]
    fn the_last_three_of_nine_are_taken() {
        assert_eq!(
            parse(SCHEDSTAT),
            [("0", [423_180_000_000, 6_060_460_000_000, 565_300]), ("10", [1, 2, 3])]
        );
        assert!(parse("cpu0 1 2 3\ncpux 0 0 0 0 0 0 1 2 3\ncpu\ncpu1 0 0 0 0 0 0 1 -2 3\n").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..SCHEDSTAT.len(), noise in "[ -~\n]{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &SCHEDSTAT[..cut], &SCHEDSTAT[cut..]));
        }
    }
}
