//! Paging, from `/proc/vmstat`: node_exporter's default selection, as untyped as there.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Kind, Sink, Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("vmstat")).short();
    source("vmstat", move |out| {
        show(&file.read()?, out);
        Ok(())
    })
}

fn show(text: &str, out: &mut Sink) {
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && is_shown(key)
            && let Ok(value) = value.trim().parse::<u64>()
        {
            help::family(out, Kind::Untyped, &format!("node_vmstat_{key}")).row([], value);
        }
    }
}

/// `^(oom_kill|pgpg|pswp|pg.*fault).*`
fn is_shown(key: &str) -> bool {
    ["oom_kill", "pgpg", "pswp"].iter().any(|prefix| key.starts_with(prefix))
        || (key.starts_with("pg") && key.contains("fault"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_selection_is_node_exporters() {
        for key in ["oom_kill", "pgpgin", "pswpout", "pgfault", "pgmajfault"] {
            assert!(is_shown(key), "{key}");
        }
        for key in ["nr_free_pages", "pgscan_kswapd", "pgalloc_dma"] {
            assert!(!is_shown(key), "{key}");
        }
    }
}
