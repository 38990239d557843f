//! CPU time by mode, from `/proc/stat` (proc(5)).

use crate::metrics::help;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sonde_daemon::memory::clock_ticks_per_second;
use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::{Kept, float};

const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: usize = 3;
/// As node_exporter: an idle time that falls by more than this belongs to a CPU that was taken out and put back.
const PUT_BACK_SECONDS: u64 = 3;

/// Ticks in the eight modes and as guest, user and nice.
type Times = [u64; 10];

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("stat")).short();
    let last = Mutex::<BTreeMap<u32, Times>>::default();
    let ticks = clock_ticks_per_second();
    source("cpu", move |out| {
        let text = file.read()?;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = merge(&last, parse(&text), ticks);
        show(&last, ticks, out);
        if last.is_empty() { Err("stat has no line of a CPU".to_owned()) } else { Ok(()) }
    })
}

/// The `cpu0 …` lines; old kernels have fewer fields.
fn parse(text: &str) -> BTreeMap<u32, Times> {
    let mut cpus = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(cpu)) = words.next().and_then(|word| word.strip_prefix("cpu")).map(str::parse) else {
            continue;
        };
        let mut times = [0; 10];
        for (time, word) in times.iter_mut().zip(words) {
            let Ok(value) = word.parse() else { break };
            *time = value;
        }
        cpus.insert(cpu, times);
    }
    cpus
}

/// Counters do not fall, though the kernel's iowait does (proc(5)): the higher of the last and the new one counts.
fn merge(last: &BTreeMap<u32, Times>, mut new: BTreeMap<u32, Times>, ticks: u64) -> BTreeMap<u32, Times> {
    for (cpu, times) in &mut new {
        let Some(old) = last.get(cpu) else { continue };
        if old[IDLE] > times[IDLE] + PUT_BACK_SECONDS * ticks {
            continue;
        }
        for (time, old) in times.iter_mut().zip(old) {
            *time = (*time).max(*old);
        }
    }
    new
}

fn show(cpus: &BTreeMap<u32, Times>, ticks: u64, out: &mut Sink) {
    let seconds = |time: u64| float(time) / float(ticks);
    let names: Vec<String> = cpus.keys().map(u32::to_string).collect();
    let mut rows = help::counter(out, "node_cpu_seconds_total");
    for (cpu, times) in names.iter().zip(cpus.values()) {
        for (mode, time) in MODES.iter().zip(times) {
            rows.row([("cpu", cpu.as_str()), ("mode", mode)], seconds(*time));
        }
    }
    let mut rows = help::counter(out, "node_cpu_guest_seconds_total");
    for (cpu, times) in names.iter().zip(cpus.values()) {
        for (mode, time) in ["user", "nice"].iter().zip(&times[MODES.len()..]) {
            rows.row([("cpu", cpu.as_str()), ("mode", mode)], seconds(*time));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_falls_only_when_a_cpu_was_put_back() {
        let first = merge(&BTreeMap::new(), parse("cpu  1 2\ncpu0 100 0 50 9000 30 0 0 0 0 0\n"), 100);
        let then = merge(&first, parse("cpu0 101 0 50 9001 20 0 0 0 0 0\n"), 100);
        assert_eq!(then[&0][..5], [101, 0, 50, 9001, 30]);
        let back = merge(&then, parse("cpu0 1 0 1 10 1\n"), 100);
        assert_eq!(back[&0][..5], [1, 0, 1, 10, 1]);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        assert!(parse("cpu\ncpux 1\n\nintr 1 2 3\n").is_empty());
        assert_eq!(parse("cpu7 5 x 9")[&7], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
