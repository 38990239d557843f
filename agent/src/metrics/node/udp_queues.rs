//! Bytes that wait in the queues of UDP sockets, from `/proc/1/net/udp` and `udp6` (proc_pid_net(5)): the fifth word of
//! a line is `transmit:receive`, both hexadecimal.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file =
        |name: &str| Kept::first_of([proc.join("1/net").join(name), proc.join("net").join(name)]).short();
    let files = [("v4", file("udp")), ("v6", file("udp6"))];
    source("udp_queues", move |out| {
        let mut rows = help::gauge(out, "node_udp_queues");
        for (ip, file) in &files {
            let Some(text) = file.read_if_there()? else { continue };
            let (transmit, receive) = sum(&text);
            rows.row([("queue", "tx"), ("ip", *ip)], transmit).row([("queue", "rx"), ("ip", *ip)], receive);
        }
        Ok(())
    })
}

fn sum(text: &str) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for line in text.lines().skip(1) {
        let Some((transmit, receive)) =
            line.split_ascii_whitespace().nth(4).and_then(|word| word.split_once(':'))
        else {
            continue;
        };
        let number = |word| u64::from(u32::from_str_radix(word, 16).unwrap_or(0));
        sums = (sums.0.saturating_add(number(transmit)), sums.1.saturating_add(number(receive)));
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        22: 00000000:0044 00000000:0000 07 00000000:00000015 00:00000000 00000000  0  0 3988 2 0 0\n\
        23: 00000000:0045 00000000:0000 07 00000100:00000001 00:00000000 00000000  0  0 3989 2 0 0\n24: short\n";

    #[test]
    fn both_queues_are_summed_over_the_sockets() {
        assert_eq!(sum(UDP), (0x100, 0x16));
        assert_eq!(sum(""), (0, 0));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..UDP.len(), noise in "[ -~\n]{0,20}") {
            let _ = sum(&format!("{}{noise}{}", &UDP[..cut], &UDP[cut..]));
        }
    }
}
