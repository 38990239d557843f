//! The kernel's pool of randomness.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::{Kept, number};

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let directory = proc.join("sys/kernel/random");
    let files = [
        ("node_entropy_available_bits", Kept::new(directory.join("entropy_avail")).short()),
        ("node_entropy_pool_size_bits", Kept::new(directory.join("poolsize")).short()),
    ];
    source("entropy", move |out| {
        for (family, file) in &files {
            if let Some(text) = file.read_if_there()? {
                help::gauge(out, family).row([], number(&text).ok_or("no number")?);
            }
        }
        Ok(())
    })
}
