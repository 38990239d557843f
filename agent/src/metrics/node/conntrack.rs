//! Tracked connections. Without the module there are no files, and no rows.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::{Kept, number};

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let directory = proc.join("sys/net/netfilter");
    let files = [
        ("node_nf_conntrack_entries", Kept::new(directory.join("nf_conntrack_count"))),
        ("node_nf_conntrack_entries_limit", Kept::new(directory.join("nf_conntrack_max"))),
    ];
    source("conntrack", move |out| {
        for (family, file) in &files {
            if let Some(text) = file.read_if_there()? {
                help::gauge(out, family).row([], number(&text).ok_or("no number")?);
            }
        }
        Ok(())
    })
}
