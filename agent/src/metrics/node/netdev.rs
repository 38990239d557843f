//! Counters of network devices, from `/proc/1/net/dev`: the node's own namespace wherever the agent runs.
//!
//! node_exporter asks rtnetlink by default, and sums dropped and missed packets as this file does; it has one family
//! more, `node_network_receive_nohandler_total`.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use super::Exclude;
use crate::metrics::read::Kept;

const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

pub(super) fn collector(proc: &Path, exclude: Exclude) -> Box<dyn Source> {
    let file = Kept::first_of([proc.join("1/net/dev"), proc.join("net/dev")]).short();
    source("netdev", move |out| {
        show(&file.read()?, &exclude, out);
        Ok(())
    })
}

fn show(text: &str, exclude: &Exclude, out: &mut Sink) {
    let devices: Vec<_> =
        text.lines().filter_map(parse).filter(|(name, _)| !exclude.is_match(name)).collect();
    for (column, name) in COLUMNS.iter().enumerate() {
        let mut rows = help::counter(out, &format!("node_network_{name}_total"));
        for (device, values) in &devices {
            rows.row([("device", *device)], values[column]);
        }
    }
}

fn parse(line: &str) -> Option<(&str, [u64; 16])> {
    let (name, numbers) = line.rsplit_once(':')?;
    let mut values = [0; 16];
    let mut words = numbers.split_ascii_whitespace();
    for value in &mut values {
        *value = words.next()?.parse().ok()?;
    }
    Some((name.trim(), values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_lines_and_short_lines_are_no_devices() {
        assert_eq!(parse(" face |bytes    packets errs drop fifo frame compressed multicast|bytes"), None);
        assert_eq!(parse("eth0: 1 2 3"), None);
        let (name, values) = parse("  eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16").unwrap();
        assert_eq!((name, values[0], values[15]), ("eth0", 1, 16));
    }
}
