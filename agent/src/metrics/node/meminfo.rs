//! Memory, from `/proc/meminfo` (proc(5)): every line is a family.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::{Kept, number};

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("meminfo")).short();
    source("meminfo", move |out| {
        show(&file.read()?, out);
        Ok(())
    })
}

fn show(text: &str, out: &mut Sink) {
    for line in text.lines() {
        if let Some((name, value)) = parse(line) {
            help::gauge(out, &name).row([], value);
        }
    }
}

/// `Active(anon):  12 kB` is `node_memory_Active_anon_bytes`; counts of pages have no unit, in the file or the name.
fn parse(line: &str) -> Option<(String, u64)> {
    let (key, rest) = line.split_once(':')?;
    let mut name = String::from("node_memory_");
    for letter in key.chars() {
        match letter {
            '(' => name.push('_'),
            ')' => {}
            letter if letter.is_ascii_alphanumeric() || letter == '_' => name.push(letter),
            _ => return None,
        }
    }
    let mut value = number(rest)?;
    if rest.trim_end().ends_with("kB") {
        name.push_str("_bytes");
        value = value.saturating_mul(1024);
    }
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kibibytes_become_bytes_and_pages_stay_pages() {
        for (line, want) in [
            ("MemTotal:       16384000 kB", Some(("node_memory_MemTotal_bytes", 16_777_216_000))),
            ("Active(anon):  1 kB", Some(("node_memory_Active_anon_bytes", 1024))),
            ("HugePages_Total:       5", Some(("node_memory_HugePages_Total", 5))),
            ("Mem Total: 1 kB", None),
            ("MemTotal 1", None),
            ("MemTotal: x kB", None),
        ] {
            assert_eq!(parse(line), want.map(|(name, value)| (name.to_owned(), value)), "{line}");
        }
    }
}
