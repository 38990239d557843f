//! `system.*` and `k8s.node.uptime`, from the rows of the node's page.

use std::collections::BTreeMap;
use std::time::SystemTime;

use sonde_daemon::page::{Cell, Sink, Value};
use sonde_wire::metrics::{Number, Shape};

use super::{DIRECTION, INTERFACE, Out, nanos, nanos_of, since, whole};

/// Rows of the node's page that have a name in the conventions: family, name, unit, attribute of the device, and direction.
type Rule = (&'static str, &'static str, &'static str, &'static str, Option<(&'static str, &'static str)>);

const DEVICE: &str = "system.device";
const RULES: [Rule; 13] = [
    ("node_disk_read_bytes_total", "system.disk.io", "By", DEVICE, Some(("disk.io.direction", "read"))),
    ("node_disk_written_bytes_total", "system.disk.io", "By", DEVICE, Some(("disk.io.direction", "write"))),
    (
        "node_disk_reads_completed_total",
        "system.disk.operations",
        "{operation}",
        DEVICE,
        Some(("disk.io.direction", "read")),
    ),
    (
        "node_disk_writes_completed_total",
        "system.disk.operations",
        "{operation}",
        DEVICE,
        Some(("disk.io.direction", "write")),
    ),
    ("node_disk_io_time_seconds_total", "system.disk.io_time", "s", DEVICE, None),
    ("node_network_receive_bytes_total", "system.network.io", "By", INTERFACE, Some((DIRECTION, "receive"))),
    (
        "node_network_transmit_bytes_total",
        "system.network.io",
        "By",
        INTERFACE,
        Some((DIRECTION, "transmit")),
    ),
    (
        "node_network_receive_errs_total",
        "system.network.errors",
        "{error}",
        INTERFACE,
        Some((DIRECTION, "receive")),
    ),
    (
        "node_network_transmit_errs_total",
        "system.network.errors",
        "{error}",
        INTERFACE,
        Some((DIRECTION, "transmit")),
    ),
    (
        "node_network_receive_drop_total",
        "system.network.packet.dropped",
        "{packet}",
        INTERFACE,
        Some((DIRECTION, "receive")),
    ),
    (
        "node_network_transmit_drop_total",
        "system.network.packet.dropped",
        "{packet}",
        INTERFACE,
        Some((DIRECTION, "transmit")),
    ),
    (
        "node_network_receive_packets_total",
        "system.network.packet.count",
        "{packet}",
        DEVICE,
        Some((DIRECTION, "receive")),
    ),
    (
        "node_network_transmit_packets_total",
        "system.network.packet.count",
        "{packet}",
        DEVICE,
        Some((DIRECTION, "transmit")),
    ),
];
/// node_exporter's modes by the conventions'; time of guests is in `user` already.
const MODES: [(&str, &str); 8] = [
    ("user", "user"),
    ("nice", "nice"),
    ("system", "system"),
    ("idle", "idle"),
    ("iowait", "iowait"),
    ("irq", "interrupt"),
    ("softirq", "interrupt"),
    ("steal", "steal"),
];

/// What was taken of the page.
#[derive(Default)]
pub(super) struct NodePage {
    at: u64,
    boot: u64,
    cpus: usize,
    modes: BTreeMap<&'static str, f64>,
    memory: BTreeMap<String, u64>,
    /// By the conventions' name: unit, and device, direction and value of its points.
    devices: BTreeMap<&'static str, Devices>,
    /// By device, type and mount point: whether it is read-only; size, free and available bytes.
    filesystems: BTreeMap<[String; 3], (bool, [u64; 3])>,
}

struct Devices {
    unit: &'static str,
    points: Vec<Point>,
}

/// One device's value: the attribute that names it, its name, and the direction where there is one.
struct Point {
    attribute: &'static str,
    device: String,
    direction: Option<(&'static str, &'static str)>,
    value: Number,
}

impl NodePage {
    pub(super) fn learn(&mut self, rows: &Sink, at: SystemTime) {
        for family in rows.families() {
            let name = family.name();
            let rule = RULES.iter().find(|(own, ..)| *own == name);
            for (labels, cell) in family.rows() {
                let of =
                    |key: &str| labels.clone().find(|(own, _)| *own == key).map_or("", |(_, value)| value);
                let Cell::Plain(value) = cell else { continue };
                if let Some((_, known, unit, attribute, direction)) = rule {
                    let devices = self.devices.entry(known).or_insert(Devices { unit, points: Vec::new() });
                    let (device, value) = (of("device").to_owned(), number(*value));
                    devices.points.push(Point { attribute, device, direction: *direction, value });
                } else if name == "node_boot_time_seconds" {
                    (self.boot, self.at) = (nanos_of(float(*value)), nanos(at));
                } else if name == "node_cpu_seconds_total" {
                    if let Some((_, mode)) = MODES.iter().find(|(own, _)| *own == of("mode")) {
                        *self.modes.entry(mode).or_default() += float(*value);
                    }
                    self.cpus += usize::from(of("mode") == "idle");
                } else if let Some(field) = name.strip_prefix("node_memory_") {
                    self.memory.insert(field.to_owned(), count(*value));
                } else if let Some(field) = name.strip_prefix("node_filesystem_") {
                    let key = ["device", "fstype", "mountpoint"].map(|key| of(key).to_owned());
                    self.filesystem(field, key, count(*value));
                }
            }
        }
    }

    fn filesystem(&mut self, field: &str, key: [String; 3], value: u64) {
        let at = match field {
            "size_bytes" => 0,
            "free_bytes" => 1,
            "avail_bytes" => 2,
            "readonly" => {
                self.filesystems.entry(key).or_default().0 = value == 1;
                return;
            }
            _ => return,
        };
        if let Some(slot) = self.filesystems.entry(key).or_default().1.get_mut(at) {
            *slot = value;
        }
    }

    /// When the node booted, Unix nanoseconds; 0 = not known.
    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    /// When the page was made.
    pub(super) fn time(&self) -> u64 {
        self.at
    }

    pub(super) fn put(&self, out: &mut Out<'_>) {
        if self.boot == 0 {
            return;
        }
        for name in ["system.uptime", "k8s.node.uptime"] {
            out.one((name, "s", Shape::Gauge), 0, Some(since(self.boot, self.at)));
        }
        let modes =
            self.modes.iter().map(|(mode, seconds)| ([("cpu.mode", *mode)], Number::Double(*seconds)));
        out.put(("system.cpu.time", "s", Shape::Sum), self.boot, modes);
        let cpus = (self.cpus > 0).then(|| whole(self.cpus as u64));
        out.one(("system.cpu.logical.count", "{cpu}", Shape::UpDown), 0, cpus);
        self.put_memory(out);
        for (name, devices) in &self.devices {
            // A device without a direction has an attribute less: an empty one is not written.
            let points = devices.points.iter().map(|point| {
                ([(point.attribute, point.device.as_str()), point.direction.unwrap_or(("", ""))], point.value)
            });
            out.put((name, devices.unit, Shape::Sum), self.boot, points);
        }
        self.put_filesystems(out);
    }

    fn put_memory(&self, out: &mut Out<'_>) {
        let of = |field: &str| self.memory.get(field).copied();
        let Some(total) = of("MemTotal_bytes") else { return };
        let [free, buffers, cached] =
            ["MemFree_bytes", "Buffers_bytes", "Cached_bytes"].map(|field| of(field).unwrap_or(0));
        let used = total.saturating_sub(free).saturating_sub(buffers).saturating_sub(cached);
        let states = [("used", used), ("free", free), ("buffers", buffers), ("cached", cached)];
        let points = states.map(|(state, bytes)| ([("system.memory.state", state)], whole(bytes)));
        out.put(("system.memory.usage", "By", Shape::UpDown), 0, points);
        out.one(("system.memory.limit", "By", Shape::UpDown), 0, Some(whole(total)));
        let available = of("MemAvailable_bytes").map(whole);
        out.one(("system.memory.linux.available", "By", Shape::UpDown), 0, available);
    }

    fn put_filesystems(&self, out: &mut Out<'_>) {
        let named: Vec<_> = self
            .filesystems
            .iter()
            .filter(|(_, (_, [size, ..]))| *size > 0)
            .map(|([device, kind, point], (read_only, bytes))| {
                let attributes = [
                    (DEVICE, device.as_str()),
                    ("system.filesystem.type", kind.as_str()),
                    ("system.filesystem.mountpoint", point.as_str()),
                    ("system.filesystem.mode", if *read_only { "ro" } else { "rw" }),
                ];
                (attributes, *bytes)
            })
            .collect();
        let usage = named.iter().flat_map(|(key, [size, free, available])| {
            [
                ("used", size.saturating_sub(*free)),
                ("free", *available),
                ("reserved", free.saturating_sub(*available)),
            ]
            .map(|(state, bytes)| {
                let [device, kind, point, mode] = *key;
                ([device, kind, point, mode, ("system.filesystem.state", state)], whole(bytes))
            })
        });
        out.put(("system.filesystem.usage", "By", Shape::UpDown), 0, usage);
        let limits = named.iter().map(|(key, [size, ..])| (*key, whole(*size)));
        out.put(("system.filesystem.limit", "By", Shape::UpDown), 0, limits);
    }
}

/// The kernel's counts stay far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn float(value: Value) -> f64 {
    match value {
        Value::U64(value) => value as f64,
        Value::I64(value) => value as f64,
        Value::F64(value) => value,
    }
}

fn count(value: Value) -> u64 {
    match value {
        Value::U64(value) => value,
        _ => 0,
    }
}

fn number(value: Value) -> Number {
    match value {
        Value::U64(value) => whole(value),
        Value::I64(value) => Number::Int(value),
        Value::F64(value) => Number::Double(value),
    }
}
