//! Neighbours by device, from `/proc/1/net/arp` (proc_net_arp, net/ipv4/arp.c), which leaves out those that need no
//! ARP, as node_exporter does when it asks rtnetlink.

use crate::metrics::help;
use std::collections::BTreeMap;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::first_of([proc.join("1/net/arp"), proc.join("net/arp")]).short();
    source("arp", move |out| {
        let Some(text) = file.read_if_there()? else { return Ok(()) };
        let mut rows = help::gauge(out, "node_arp_entries");
        for (device, count) in parse(&text) {
            rows.row([("device", device)], count);
        }
        Ok(())
    })
}

/// A head line, then lines whose sixth word is the device.
fn parse(text: &str) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines().skip(1) {
        if let Some(device) = line.split_ascii_whitespace().nth(5) {
            *counts.entry(device).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
        10.0.0.1      0x1         0x2         1e:cb:94:69:c4:1a     *        eth0\n\
        10.1.0.2      0x1         0x0         00:00:00:00:00:00     *        cni0\n\
        10.1.0.3      0x1         0x2         fe:79:75:62:94:fb     *        cni0\n10.1.0.3  0x1\n";

    #[test]
    fn neighbours_are_counted_by_device() {
        assert_eq!(parse(ARP), BTreeMap::from([("cni0", 2), ("eth0", 1)]));
        assert!(parse("").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..ARP.len(), noise in "[ -~\n]{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &ARP[..cut], &ARP[cut..]));
        }
    }
}
