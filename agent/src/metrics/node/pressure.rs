//! Pressure on the node, from `/proc/pressure` (kernel, Documentation/accounting/psi.rst).

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::cgroup::pressure::parse;
use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let files = ["cpu", "io", "memory", "irq"]
        .map(|name| (name, Kept::new(proc.join("pressure").join(name)).short()));
    source("pressure", move |out| {
        for (resource, file) in &files {
            // Without the kernel's accounting there is no file, or reading it is refused.
            let Some(pressure) = file.read().ok().as_deref().and_then(parse) else { continue };
            // The kernel knows no CPU that all wait for at this level, and of interrupts only the stall of all.
            if *resource != "irq" {
                help::counter(out, &format!("node_pressure_{resource}_waiting_seconds_total"))
                    .row([], pressure.some_seconds);
            }
            if *resource != "cpu" {
                help::counter(out, &format!("node_pressure_{resource}_stalled_seconds_total"))
                    .row([], pressure.full_seconds);
            }
        }
        Ok(())
    })
}
