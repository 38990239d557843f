//! The node's clock, and the sources that the kernel may take its time from.

use crate::metrics::help;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::read_once;

/// Most devices that are looked at; there is one.
const MOST: usize = 16;

pub(super) fn collector(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("devices/system/clocksource");
    source("time", move |out| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        help::gauge(out, "node_time_seconds").row([], now.as_secs_f64());
        show_sources(&directory, out);
        Ok(())
    })
}

fn show_sources(directory: &Path, out: &mut Sink) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut devices: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.strip_prefix("clocksource")?.to_owned(), entry.path()))
        })
        .take(MOST)
        .collect();
    devices.sort();
    for which in ["available", "current"] {
        let mut rows = help::gauge(out, &format!("node_time_clocksource_{which}_info"));
        for (device, path) in &devices {
            let text = read_once(&path.join(format!("{which}_clocksource"))).unwrap_or_default();
            for clocksource in text.split_ascii_whitespace() {
                rows.row([("device", device.as_str()), ("clocksource", clocksource)], 1u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_of_time_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("clocksource0");
        fs::create_dir(&device).unwrap();
        fs::write(device.join("available_clocksource"), "kvm-clock tsc \n").unwrap();
        fs::write(device.join("current_clocksource"), "tsc\n").unwrap();
        let path = dir.path().to_owned();
        let text = crate::metrics::tests::rendered(move |out| show_sources(&path, out));
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                r#"node_time_clocksource_available_info{device="0",clocksource="kvm-clock"} 1"#,
                r#"node_time_clocksource_available_info{device="0",clocksource="tsc"} 1"#,
                r#"node_time_clocksource_current_info{device="0",clocksource="tsc"} 1"#,
            ]
        );
    }
}
