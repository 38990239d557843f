//! Boots, forks, interrupts and context switches, from `/proc/stat` (proc(5)).

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Kind, Sink, Source, source};

use crate::metrics::read::{Kept, number};

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("stat")).short();
    source("stat", move |out| {
        show(&file.read()?, out);
        Ok(())
    })
}

fn show(text: &str, out: &mut Sink) {
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(' ') else { continue };
        let (kind, name) = match key {
            "intr" => (Kind::Counter, "node_intr_total"),
            "ctxt" => (Kind::Counter, "node_context_switches_total"),
            "processes" => (Kind::Counter, "node_forks_total"),
            "btime" => (Kind::Gauge, "node_boot_time_seconds"),
            "procs_running" => (Kind::Gauge, "node_procs_running"),
            "procs_blocked" => (Kind::Gauge, "node_procs_blocked"),
            _ => continue,
        };
        if let Some(value) = number(rest) {
            help::family(out, kind, name).row([], value);
        }
    }
}
