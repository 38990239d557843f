//! What each CPU did with packets that came in, from `/proc/net/softnet_stat` (kernel, net/core/net-procfs.c,
//! `softnet_seq_show`): a line a CPU, all numbers hexadecimal.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Kind, Sink, Source, source};

use crate::metrics::read::Kept;

/// Names and places in the line. Older kernels have fewer numbers, and node_exporter shows 0 then.
const FAMILIES: [(&str, Kind, usize); 6] = [
    ("node_softnet_processed_total", Kind::Counter, 0),
    ("node_softnet_dropped_total", Kind::Counter, 1),
    ("node_softnet_times_squeezed_total", Kind::Counter, 2),
    ("node_softnet_received_rps_total", Kind::Counter, 9),
    ("node_softnet_flow_limit_count_total", Kind::Counter, 10),
    ("node_softnet_backlog_len", Kind::Gauge, 11),
];
/// Since Linux 5.14: the CPU's number. Before, lines of CPUs that are off are left out and nothing tells of it.
const CPU: usize = 12;
/// The fewest that any kernel shows.
const FEWEST: usize = 9;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::first_of([proc.join("1/net/softnet_stat"), proc.join("net/softnet_stat")]).short();
    source("softnet", move |out| {
        if let Some(text) = file.read_if_there()? {
            show(&parse(&text), out);
        }
        Ok(())
    })
}

/// The CPU's number and the numbers of its line.
fn parse(text: &str) -> Vec<(String, [u32; CPU + 1])> {
    text.lines()
        .enumerate()
        .filter_map(|(at, line)| {
            let mut numbers = [0; CPU + 1];
            let mut count = 0;
            for (number, word) in numbers.iter_mut().zip(line.split_ascii_whitespace()) {
                *number = u32::from_str_radix(word, 16).ok()?;
                count += 1;
            }
            let cpu = if count > CPU { numbers[CPU].to_string() } else { at.to_string() };
            (count >= FEWEST).then_some((cpu, numbers))
        })
        .collect()
}

fn show(cpus: &[(String, [u32; CPU + 1])], out: &mut Sink) {
    for (name, kind, at) in FAMILIES {
        let mut rows = help::family(out, kind, name);
        for (cpu, numbers) in cpus {
            rows.row([("cpu", cpu.as_str())], u64::from(numbers[at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: &str = "00466c69 00000001 00000014 0 0 0 0 0 0 00000002 00000003 00000004 00000000 0 0\n\
        003dfeea 00000000 0000001f 0 0 0 0 0 0 0 0 0 00000002 0 0\n";

    #[test]
    fn numbers_are_hexadecimal_and_a_cpu_has_its_own() {
        let text = crate::metrics::tests::rendered(|out| show(&parse(NEW), out));
        for line in [
            "node_softnet_processed_total{cpu=\"0\"} 4615273",
            "node_softnet_times_squeezed_total{cpu=\"2\"} 31",
            "node_softnet_received_rps_total{cpu=\"0\"} 2",
            "node_softnet_flow_limit_count_total{cpu=\"0\"} 3",
            "# TYPE node_softnet_backlog_len gauge",
            "node_softnet_backlog_len{cpu=\"0\"} 4",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }

    #[test]
    fn kernels_that_show_less_are_read_too() {
        let old = parse("1 2 3 0 0 0 0 0 0\n1 2 3\nx y z\n4 5 6 0 0 0 0 0 0 7\n");
        let seen: Vec<_> = old.iter().map(|(cpu, n)| (cpu.as_str(), n[0], n[9])).collect();
        assert_eq!(seen, [("0", 1, 0), ("3", 4, 7)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..NEW.len(), noise in "[ -~\n]{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &NEW[..cut], &NEW[cut..]));
        }
    }
}
