//! State of network devices, from `/sys/class/net`.
//!
//! Only attributes that the kernel shows without taking its network lock: `speed`, `duplex` and `carrier` stall for
//! seconds while devices come and go (prometheus/node_exporter#2477).

use crate::metrics::help;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sonde_daemon::page::{Sink, Source};

use super::Exclude;
use crate::metrics::read::{number, read_once};

/// The collector.
pub(super) struct Netclass {
    directory: PathBuf,
    exclude: Exclude,
}

/// Most devices that are shown.
const MOST: usize = 4096;

impl Netclass {
    pub(super) fn new(sys: &Path, exclude: Exclude) -> Self {
        Self { directory: sys.join("class/net"), exclude }
    }
}

impl Source for Netclass {
    fn name(&self) -> &'static str {
        "netclass"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let directory = match fs::read_dir(&self.directory) {
            Ok(directory) => directory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{}: {error}", self.directory.display())),
        };
        let mut devices: Vec<(String, PathBuf)> = directory
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            // `bonding_masters` is a file beside the devices.
            .filter(|(name, path)| name != "bonding_masters" && !self.exclude.is_match(name) && path.is_dir())
            .take(MOST)
            .collect();
        devices.sort();
        let mut rows = help::gauge(out, "node_network_up");
        for (device, path) in &devices {
            let state = read_once(&path.join("operstate")).unwrap_or_default();
            rows.row([("device", device.as_str())], u64::from(state.trim() == "up"));
        }
        for (family, attribute) in [
            ("node_network_mtu_bytes", "mtu"),
            ("node_network_iface_id", "ifindex"),
            ("node_network_transmit_queue_length", "tx_queue_len"),
        ] {
            let mut rows = help::gauge(out, family);
            for (device, path) in &devices {
                if let Some(value) = read_once(&path.join(attribute)).ok().as_deref().and_then(number) {
                    rows.row([("device", device.as_str())], value);
                }
            }
        }
        Ok(())
    }
}
