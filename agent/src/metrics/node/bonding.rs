//! Bonded devices, from `/sys/class/net/bonding_masters`; without any there is no such file.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::read_once;

pub(super) fn collector(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("class/net");
    source("bonding", move |out| {
        show(&directory, out);
        Ok(())
    })
}

fn show(directory: &Path, out: &mut Sink) {
    let Ok(masters) = read_once(&directory.join("bonding_masters")) else { return };
    let bonds: Vec<(&str, u64, u64)> = masters
        .split_ascii_whitespace()
        .map(|master| {
            let slaves = read_once(&directory.join(master).join("bonding/slaves")).unwrap_or_default();
            let up = |slave: &&str| {
                let state = directory.join(master).join(format!("lower_{slave}/bonding_slave/mii_status"));
                read_once(&state).is_ok_and(|state| state.trim() == "up")
            };
            let all: Vec<&str> = slaves.split_ascii_whitespace().collect();
            (master, all.len() as u64, all.iter().filter(|slave| up(slave)).count() as u64)
        })
        .collect();
    for (family, which) in [("node_bonding_slaves", false), ("node_bonding_active", true)] {
        let mut rows = help::gauge(out, family);
        for (master, slaves, active) in &bonds {
            rows.row([("master", *master)], if which { *active } else { *slaves });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_slave_that_is_down_is_not_active() {
        let dir = tempfile::tempdir().unwrap();
        for (slave, state) in [("eth0", "up"), ("eth1", "down")] {
            let path = dir.path().join(format!("bond0/lower_{slave}/bonding_slave"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("mii_status"), state).unwrap();
        }
        fs::write(dir.path().join("bonding_masters"), "bond0\n").unwrap();
        fs::create_dir_all(dir.path().join("bond0/bonding")).unwrap();
        fs::write(dir.path().join("bond0/bonding/slaves"), "eth0 eth1\n").unwrap();
        let path = dir.path().to_owned();
        let text = crate::metrics::tests::rendered(move |out| show(&path, out));
        assert!(text.contains("node_bonding_slaves{master=\"bond0\"} 2\n"), "{text}");
        assert!(text.contains("node_bonding_active{master=\"bond0\"} 1\n"), "{text}");
    }
}
