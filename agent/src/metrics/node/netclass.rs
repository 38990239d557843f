//! State of network devices, from `/sys/class/net` (kernel, Documentation/ABI/testing/sysfs-class-net).
//!
//! Two sources. `netclass` has what the kernel shows without taking its network lock, for every device. `netclass_link` has
//! `carrier`, `speed` and `duplex`, which are answered under that lock and stall for seconds while devices come and go
//! (prometheus/node_exporter#2477): only of devices with hardware behind them, and a stall leaves out these rows alone.

use crate::metrics::help;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sonde_daemon::page::{Kind, Sink, Source};

use super::Exclude;
use crate::metrics::class::{Class, Entry};

/// Of the source that takes the lock.
const LINK_PATIENCE: Duration = Duration::from_millis(300);

/// The end of the family's name and the file. Some are answered only while the device is up.
const ATTRIBUTES: [(Kind, &str, &str); 15] = [
    (Kind::Gauge, "address_assign_type", "addr_assign_type"),
    (Kind::Counter, "carrier_changes_total", "carrier_changes"),
    (Kind::Counter, "carrier_up_changes_total", "carrier_up_count"),
    (Kind::Counter, "carrier_down_changes_total", "carrier_down_count"),
    (Kind::Gauge, "device_id", "dev_id"),
    (Kind::Gauge, "dormant", "dormant"),
    (Kind::Gauge, "flags", "flags"),
    (Kind::Gauge, "iface_id", "ifindex"),
    (Kind::Gauge, "iface_link", "iflink"),
    (Kind::Gauge, "iface_link_mode", "link_mode"),
    (Kind::Gauge, "mtu_bytes", "mtu"),
    (Kind::Gauge, "name_assign_type", "name_assign_type"),
    (Kind::Gauge, "net_dev_group", "netdev_group"),
    (Kind::Gauge, "protocol_type", "type"),
    (Kind::Gauge, "transmit_queue_length", "tx_queue_len"),
];

/// The devices that are not excluded.
struct Devices {
    class: Mutex<Class>,
    exclude: Exclude,
}

/// The collector.
pub(super) struct Netclass(Devices);

/// What takes the network lock.
pub(super) struct Link(Devices);

/// Both sources.
pub(super) fn collectors(sys: &Path, exclude: Exclude) -> [Box<dyn Source>; 2] {
    let devices = |exclude| Devices { class: Mutex::new(Class::new(sys.join("class/net"))), exclude };
    [Box::new(Netclass(devices(exclude.clone()))), Box::new(Link(devices(exclude)))]
}

impl Devices {
    /// What `read` finds in the attributes of each device, by the device's name.
    fn each<T>(&self, read: impl Fn(&mut Entry) -> T) -> Result<Vec<(String, T)>, String> {
        let mut class = self.class.lock().unwrap_or_else(PoisonError::into_inner);
        // `bonding_masters` is a file beside the devices.
        class.each(|name| name != "bonding_masters" && !self.exclude.is_match(name), read)
    }
}

/// Decimal, or hexadecimal after `0x`; `None` where the device does not answer.
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
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
        let devices = self.0.each(|device| {
            let up = device.get("operstate").is_some_and(|state| state == "up");
            (up, ATTRIBUTES.map(|(_, _, file)| device.get(file).and_then(number)))
        })?;
        let mut rows = help::gauge(out, "node_network_up");
        for (device, (up, _)) in &devices {
            rows.row([("device", device.as_str())], u64::from(*up));
        }
        for (at, (kind, name, _)) in ATTRIBUTES.into_iter().enumerate() {
            let mut rows = help::family(out, kind, &format!("node_network_{name}"));
            for (device, (_, values)) in &devices {
                if let Some(value) = values[at] {
                    rows.row([("device", device.as_str())], value);
                }
            }
        }
        Ok(())
    }
}

impl Source for Link {
    fn name(&self) -> &'static str {
        "netclass_link"
    }

    fn patience(&self) -> Option<Duration> {
        Some(LINK_PATIENCE)
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let devices = self.0.each(Told::of)?;
        let mut rows = help::gauge(out, "node_network_info");
        for (device, told) in &devices {
            let labels = [
                ("device", device.as_str()),
                ("address", told.address.as_str()),
                ("broadcast", told.broadcast.as_str()),
                ("duplex", told.duplex.as_str()),
                ("operstate", told.operstate.as_str()),
                ("adminstate", told.admin),
                ("ifalias", told.ifalias.as_str()),
            ];
            rows.row(labels, 1u64);
        }
        let mut put = |name: &str, value: fn(&Told) -> Option<i64>| {
            let mut rows = help::gauge(out, name);
            for (device, told) in &devices {
                if let Some(value) = value(told) {
                    rows.row([("device", device.as_str())], value);
                }
            }
        };
        put("node_network_carrier", |told| told.carrier);
        // Megabits a second; -1 where it is not known.
        put("node_network_speed_bytes", |told| Some(told.speed?.saturating_mul(1_000_000 / 8)));
        Ok(())
    }
}

/// What a device tells of its link.
struct Told {
    address: String,
    broadcast: String,
    duplex: String,
    operstate: String,
    admin: &'static str,
    ifalias: String,
    carrier: Option<i64>,
    speed: Option<i64>,
}

impl Told {
    fn of(device: &mut Entry) -> Self {
        // Bridges, tunnels and the ends of pods' links have no such entry.
        let hardware = device.has("device");
        let mut word = |file| device.get(file).unwrap_or_default().to_owned();
        let mut of_hardware = |file| if hardware { word(file) } else { String::new() };
        let (duplex, carrier, speed) = (of_hardware("duplex"), of_hardware("carrier"), of_hardware("speed"));
        // IFF_UP of linux/if.h.
        let admin = match number(&word("flags")) {
            Some(flags) if flags & 1 == 1 => "up",
            Some(_) => "down",
            None => "unknown",
        };
        Self {
            address: word("address"),
            broadcast: word("broadcast"),
            duplex,
            operstate: word("operstate"),
            admin,
            ifalias: word("ifalias"),
            carrier: number(&carrier),
            speed: number(&speed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sonde_daemon::page::{Format, Page, Section};

    use super::*;

    #[test]
    fn links_are_told_of_hardware_and_what_is_not_answered_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("eth0/device/vendor", "0x1\n"),
            ("eth0/address", "02:00:00:00:00:01\n"),
            ("eth0/operstate", "up\n"),
            ("eth0/flags", "0x1003\n"),
            ("eth0/carrier", "1\n"),
            ("eth0/speed", "-1\n"),
            ("eth0/duplex", "full\n"),
            ("eth0/mtu", "1500\n"),
            ("veth1/operstate", "down\n"),
            ("veth1/speed", "10000\n"),
            ("veth1/carrier", "garbage"),
            ("bonding_masters", ""),
        ] {
            let path = dir.path().join("class/net").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = collectors(dir.path(), Exclude(None)).into_iter().collect();
        let text = Page::new(vec![Section::new(None, sources)], false).render(Format::Classic);
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                r#"node_network_up{device="eth0"} 1"#,
                r#"node_network_up{device="veth1"} 0"#,
                r#"node_network_flags{device="eth0"} 4099"#,
                r#"node_network_mtu_bytes{device="eth0"} 1500"#,
                r#"node_network_info{device="eth0",address="02:00:00:00:00:01",broadcast="",duplex="full",operstate="up",adminstate="up",ifalias=""} 1"#,
                r#"node_network_info{device="veth1",address="",broadcast="",duplex="",operstate="down",adminstate="unknown",ifalias=""} 1"#,
                r#"node_network_carrier{device="eth0"} 1"#,
                r#"node_network_speed_bytes{device="eth0"} -125000"#,
            ]
        );
    }
}
