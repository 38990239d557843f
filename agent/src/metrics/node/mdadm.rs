//! Software RAID, from `/proc/mdstat` (kernel, drivers/md/md.c, `md_seq_show`).

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::Kept;

/// One array.
#[derive(Debug, Default, PartialEq, Eq)]
struct Array {
    name: String,
    active: u64,
    failed: u64,
    spare: u64,
    required: u64,
}

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("mdstat"));
    source("mdadm", move |out| {
        if let Some(text) = file.read_if_there()? {
            show(&parse(&text), out);
        }
        Ok(())
    })
}

/// `md0 : active raid1 sdb1[1] sda1[0](F)`, and below it `… blocks … [2/1] [U_]`: required and active disks.
fn parse(text: &str) -> Vec<Array> {
    let mut arrays: Vec<Array> = Vec::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.split_once(" : ")
            && name.starts_with("md")
        {
            let disks: Vec<&str> = rest.split_ascii_whitespace().filter(|word| word.contains('[')).collect();
            let marked = |mark: &str| disks.iter().filter(|disk| disk.ends_with(mark)).count() as u64;
            let (failed, spare) = (marked("(F)"), marked("(S)"));
            // Arrays without redundancy have no counts below.
            let active = (disks.len() as u64).saturating_sub(failed + spare);
            arrays.push(Array { name: name.to_owned(), active, failed, spare, required: active });
        } else if let Some(array) = arrays.last_mut() {
            let counts = line.split_ascii_whitespace().find_map(|word| {
                let (required, active) = word.strip_prefix('[')?.strip_suffix(']')?.split_once('/')?;
                Some((required.parse().ok()?, active.parse().ok()?))
            });
            if let Some((required, active)) = counts {
                (array.required, array.active) = (required, active);
            }
        }
    }
    arrays
}

fn show(arrays: &[Array], out: &mut Sink) {
    if arrays.is_empty() {
        return;
    }
    let mut rows = help::gauge(out, "node_md_disks");
    for array in arrays {
        for (state, count) in [("active", array.active), ("failed", array.failed), ("spare", array.spare)] {
            rows.row([("device", array.name.as_str()), ("state", state)], count);
        }
    }
    let mut rows = help::gauge(out, "node_md_disks_required");
    for array in arrays {
        rows.row([("device", array.name.as_str())], array.required);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MDSTAT: &str = "Personalities : [raid1] [raid0]\n\
        md0 : active raid1 sdc1[2](S) sdb1[1](F) sda1[0]\n      248896 blocks [2/1] [U_]\n      \
        [=>...........]  recovery = 8.5% (1/2) finish=17.3min speed=1K/sec\n\n\
        md1 : active raid0 sdb2[1] sda2[0]\n      1 blocks super 1.2 512k chunks\n\nunused devices: <none>\n";

    #[test]
    fn a_degraded_array_has_fewer_disks_than_it_requires() {
        let arrays = parse(MDSTAT);
        let want = Array { name: "md0".into(), active: 1, failed: 1, spare: 1, required: 2 };
        assert_eq!(arrays[0], want);
        assert_eq!((arrays[1].active, arrays[1].required), (2, 2));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..MDSTAT.len(), noise in "[ -~\n]{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &MDSTAT[..cut], &MDSTAT[cut..]));
        }
    }
}
