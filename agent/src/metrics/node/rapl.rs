//! Energy that the processor's packages used, from `/sys/class/powercap` (kernel,
//! Documentation/power/powercap/powercap.rst), named as node_exporter does. Virtual machines have none.

use crate::metrics::help;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sonde_daemon::page::{Kind, Sink, Source, source};

use crate::metrics::read::{float, number, read_once};

/// Most zones that are looked at.
const MOST: usize = 256;

pub(super) fn collector(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("class/powercap");
    source("rapl", move |out| {
        show(&directory, out);
        Ok(())
    })
}

fn show(directory: &Path, out: &mut Sink) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut zones: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).take(MOST).collect();
    zones.sort();
    let mut seen = BTreeMap::new();
    for zone in zones {
        let Ok(name) = read_once(&zone.join("name")) else { continue };
        // Numbered before its energy is known, so that a zone that cannot be read moves no other's number.
        let (name, index) = split(name.trim(), &mut seen);
        let Some(energy) = read_once(&zone.join("energy_uj")).ok().as_deref().and_then(number) else {
            continue;
        };
        let index = index.to_string();
        let path = format!("/sys/class/powercap/{}", zone.file_name().unwrap_or_default().to_string_lossy());
        let labels = [("index", index.as_str()), ("path", path.as_str())];
        let family = format!("node_rapl_{name}_joules_total");
        help::family(out, Kind::Counter, &family).row(labels, float(energy) / 1e6);
    }
}

/// `package-1` is number 1 of `package`; of zones without a number each is the next of its name.
fn split(name: &str, seen: &mut BTreeMap<String, u32>) -> (String, u32) {
    let clean = |name: &str| -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
    };
    if let Some((name, Ok(index))) = name.split_once('-').map(|(name, index)| (name, index.parse())) {
        return (clean(name), index);
    }
    let count = seen.entry(name.to_owned()).or_default();
    *count = count.saturating_add(1);
    (clean(name), *count - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zones_are_numbered_by_their_names_or_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        for (zone, name, energy) in [
            ("intel-rapl:0", "package-0", "240422366267\n"),
            ("intel-rapl:0:0", "core", "118821284256\n"),
            ("intel-rapl:1", "package-10", "1000000\n"),
            ("intel-rapl:1:0", "core", "2500000\n"),
            ("intel-rapl:1:1", "dram", "garbage"),
        ] {
            let path = dir.path().join(zone);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("name"), name).unwrap();
            fs::write(path.join("energy_uj"), energy).unwrap();
        }
        fs::create_dir(dir.path().join("intel-rapl")).unwrap();
        let path = dir.path().to_owned();
        let text = crate::metrics::tests::rendered(move |out| show(&path, out));
        for row in [
            r#"node_rapl_package_joules_total{index="0",path="/sys/class/powercap/intel-rapl:0"} 240422.366267"#,
            r#"node_rapl_core_joules_total{index="0",path="/sys/class/powercap/intel-rapl:0:0"} 118821.284256"#,
            r#"node_rapl_package_joules_total{index="10",path="/sys/class/powercap/intel-rapl:1"} 1.0"#,
            r#"node_rapl_core_joules_total{index="1",path="/sys/class/powercap/intel-rapl:1:0"} 2.5"#,
        ] {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        assert!(!text.contains("dram"), "{text}");
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in "\\PC{0,12}-?[0-9]{0,12}") {
            let (name, _) = split(&name, &mut BTreeMap::new());
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        }
    }
}
