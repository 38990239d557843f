//! Temperatures and what is done against them, from `/sys/class/thermal` (kernel,
//! Documentation/driver-api/thermal/sysfs-api.rst). Virtual machines have none.

use crate::metrics::help;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sonde_daemon::page::{Sink, Source};

use crate::metrics::read::read_once;

/// Most zones, and most devices, that are looked at.
const MOST: usize = 1024;

/// The collector. Firmware answers for some of the files, and takes its time.
pub(super) struct Thermal {
    directory: PathBuf,
}

impl Thermal {
    pub(super) fn new(sys: &Path) -> Self {
        Self { directory: sys.join("class/thermal") }
    }

    /// Numbers of what is called so, with their directories.
    fn numbered(&self, prefix: &str) -> Vec<(u32, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((number, entry.path()))
            })
            .take(MOST)
            .collect();
        all.sort();
        all
    }
}

/// A number with a sign; `None` where the sensor does not answer.
fn signed(path: &Path) -> Option<i64> {
    read_once(path).ok()?.trim().parse().ok()
}

impl Source for Thermal {
    fn name(&self) -> &'static str {
        "thermal_zone"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let kind = |path: &Path| read_once(&path.join("type")).unwrap_or_default().trim().to_owned();
        let mut rows = help::gauge(out, "node_thermal_zone_temp");
        for (zone, path) in self.numbered("thermal_zone") {
            // Thousandths of a degree; they stay far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            if let Some(value) = signed(&path.join("temp")) {
                let (kind, zone) = (kind(&path), zone.to_string());
                rows.row([("type", kind.as_str()), ("zone", zone.as_str())], value as f64 / 1000.0);
            }
        }
        let devices: Vec<_> = self
            .numbered("cooling_device")
            .into_iter()
            .map(|(number, path)| (number.to_string(), kind(&path), path))
            .collect();
        for state in ["cur_state", "max_state"] {
            let mut rows = help::gauge(out, &format!("node_cooling_device_{state}"));
            for (number, kind, path) in &devices {
                if let Some(value) = signed(&path.join(state)) {
                    rows.row([("name", number.as_str()), ("type", kind.as_str())], value);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sonde_daemon::page::{Format, Page, Section};

    use super::*;

    #[test]
    fn zones_and_devices_are_told_and_what_does_not_answer_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("thermal_zone0/type", "acpitz\n"),
            ("thermal_zone0/temp", "-27800\n"),
            ("thermal_zone1/type", "dead\n"),
            ("thermal_zone2/temp", "\u{fffd}garbage"),
            ("thermal_zonex/temp", "1"),
            ("cooling_device3/type", "Processor"),
            ("cooling_device3/cur_state", "2\n"),
            ("cooling_device3/max_state", "10\n"),
        ] {
            let path = dir.path().join("class/thermal").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let page = Page::new(vec![Section::new(None, vec![Box::new(Thermal::new(dir.path()))])], false);
        let text = page.render(Format::Classic);
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                "node_thermal_zone_temp{type=\"acpitz\",zone=\"0\"} -27.8",
                "node_cooling_device_cur_state{name=\"3\",type=\"Processor\"} 2",
                "node_cooling_device_max_state{name=\"3\",type=\"Processor\"} 10",
            ]
        );
    }
}
