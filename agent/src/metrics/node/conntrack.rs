//! Tracked connections. Without the module there are no files, and no rows.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::{Kept, number};

/// Columns of `/proc/net/stat/nf_conntrack` that are shown.
const COLUMNS: [&str; 8] =
    ["found", "invalid", "ignore", "insert", "insert_failed", "drop", "early_drop", "search_restart"];

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let directory = proc.join("sys/net/netfilter");
    let files = [
        ("node_nf_conntrack_entries", Kept::new(directory.join("nf_conntrack_count")).short()),
        ("node_nf_conntrack_entries_limit", Kept::new(directory.join("nf_conntrack_max")).short()),
    ];
    let by_cpu =
        Kept::first_of([proc.join("1/net/stat/nf_conntrack"), proc.join("net/stat/nf_conntrack")]).short();
    source("conntrack", move |out| {
        for (family, file) in &files {
            if let Some(text) = file.read_if_there()? {
                help::gauge(out, family).row([], number(&text).ok_or("no number")?);
            }
        }
        if let Some(text) = by_cpu.read_if_there()? {
            show(&text, out);
        }
        Ok(())
    })
}

/// A head line with the columns' names, then a line a CPU, all numbers hexadecimal (kernel,
/// net/netfilter/nf_conntrack_standalone.c, `ct_cpu_seq_show`). Gauges, as node_exporter has them.
fn show(text: &str, out: &mut Sink) {
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return };
    let head: Vec<&str> = head.split_ascii_whitespace().collect();
    let mut sums = vec![0u64; head.len()];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.split_ascii_whitespace()) {
            *sum = sum.saturating_add(u32::from_str_radix(word, 16).map_or(0, u64::from));
        }
    }
    for column in COLUMNS {
        let at = head.iter().position(|name| *name == column);
        if let Some(sum) = at.and_then(|at| sums.get(at)) {
            help::gauge(out, &format!("node_nf_conntrack_stat_{column}")).row([], *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str = "entries  searched found new invalid ignore delete delete_list insert insert_failed drop \
        early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        000000a5  00000000 0000000a 0 00000001 0000000f 0 0 0 00000002 00000003 0 0  0 0 0 00000004\n\
        000000a5  00000000 00000006 0 00000001 00000001 0 0 0 00000000 00000000 0 0  0 0 0 00000010\n";

    #[test]
    fn the_cpus_are_added_up_by_the_columns_names() {
        let text = crate::metrics::tests::rendered(|out| show(STAT, out));
        for line in [
            "node_nf_conntrack_stat_found 16",
            "node_nf_conntrack_stat_ignore 16",
            "node_nf_conntrack_stat_insert_failed 2",
            "node_nf_conntrack_stat_search_restart 20",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        assert!(!text.contains("stat_entries"));
        let newer = crate::metrics::tests::rendered(|out| show("entries  clashres found\n1 2 3\n", out));
        assert!(newer.contains("node_nf_conntrack_stat_found 3\n"), "{newer}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..STAT.len(), noise in "[ -~\n]{0,20}") {
            show(&format!("{}{noise}{}", &STAT[..cut], &STAT[cut..]), &mut Sink::default());
        }
    }
}
