//! Sensors of the hardware, from `/sys/class/hwmon` (kernel, Documentation/hwmon/sysfs-interface.rst), named and
//! scaled as node_exporter does (collector/hwmon_linux.go). Virtual machines have none.

use crate::metrics::help;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sonde_daemon::page::{Kind, Sink, Source};

use crate::metrics::read::read_once;

/// Most chips, and most files of a chip, that are looked at.
const MOST: usize = 1024;
/// Kinds of sensors. The first three are of the chip and have no number.
const KINDS: [&str; 14] = [
    "vrm",
    "beep_enable",
    "update_interval",
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
    "freq",
];

/// The collector. Some chips take their time over a bus.
pub(super) struct Hwmon {
    directory: PathBuf,
}

/// What a sensor's files say, by the part of their names behind its own: `input`, `crit`, … and empty.
type Files = BTreeMap<String, String>;
/// Sensors of a chip: kind and number.
type Sensors = BTreeMap<(&'static str, u32), Files>;
/// Rows by name: chip, sensor, value.
type Families = BTreeMap<String, Vec<(String, String, f64)>>;

impl Hwmon {
    pub(super) fn new(sys: &Path) -> Self {
        Self { directory: sys.join("class/hwmon") }
    }
}

impl Source for Hwmon {
    fn name(&self) -> &'static str {
        "hwmon"
    }

    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(2))
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Ok(()) };
        let mut chips: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).take(MOST).collect();
        chips.sort();
        let mut families = Families::new();
        let (mut names, mut labels) = (BTreeMap::new(), BTreeSet::new());
        for path in chips.iter().filter(|path| path.is_dir()) {
            let chip = chip_of(path);
            if let Ok(name) = read_once(&path.join("name")) {
                names.insert(chip.clone(), clean(&name));
            }
            let mut sensors = Sensors::new();
            for directory in [path.clone(), path.join("device")] {
                add_files(&directory, &mut sensors);
            }
            for ((kind, number), files) in &sensors {
                let sensor = format!("{kind}{number}");
                add_rows(&chip, kind, &sensor, files, &mut families);
                if let Some(label) = files.get("label").filter(|label| !label.is_empty()) {
                    labels.insert((chip.clone(), label.clone(), sensor));
                }
            }
        }
        let mut rows = help::gauge(out, "node_hwmon_chip_names");
        for (chip, name) in &names {
            rows.row([("chip", chip.as_str()), ("chip_name", name.as_str())], 1u64);
        }
        let mut rows = help::gauge(out, "node_hwmon_sensor_label");
        for (chip, label, sensor) in &labels {
            let labels = [("chip", chip.as_str()), ("label", label.as_str()), ("sensor", sensor.as_str())];
            rows.row(labels, 1u64);
        }
        show(&families, out);
        Ok(())
    }
}

/// The bus and the device behind a chip, which stay where they are when its number changes; else its name, else that.
fn chip_of(path: &Path) -> String {
    let part = |path: &Path| path.file_name().map(|name| clean(&name.to_string_lossy())).unwrap_or_default();
    if let Ok(device) = path.join("device").canonicalize() {
        let (device, bus) = (part(&device), device.parent().map(part).unwrap_or_default());
        if !device.is_empty() {
            return if bus.is_empty() { device } else { format!("{bus}_{device}") };
        }
    }
    let name = clean(&read_once(&path.join("name")).unwrap_or_default());
    if name.is_empty() { part(&path.canonicalize().unwrap_or_else(|_| path.to_owned())) } else { name }
}

/// Small letters, digits, `:` and `_`; all else is `_`, and none of those at the ends.
fn clean(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':' { c } else { '_' })
        .collect();
    clean.trim_matches('_').to_owned()
}

/// `temp1_crit_alarm` is of sensor `temp` 1, and its `crit_alarm`.
fn split(file: &str) -> Option<(&'static str, u32, &str)> {
    let kind_end = file.find(|c: char| c.is_ascii_digit()).unwrap_or(file.len());
    let (kind, rest) = file.split_at(kind_end);
    let number_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(number_end);
    let kind = KINDS.into_iter().find(|known| *known == kind)?;
    let number = if number.is_empty() { 0 } else { number.parse().ok()? };
    let of = if rest.is_empty() { "" } else { rest.strip_prefix('_').filter(|of| !of.is_empty())? };
    Some((kind, number, of))
}

fn add_files(directory: &Path, sensors: &mut Sensors) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().take(MOST) {
        let name = entry.file_name();
        let Some((kind, number, of)) = name.to_str().and_then(split) else { continue };
        if let Ok(text) = read_once(&entry.path()) {
            sensors.entry((kind, number)).or_default().insert(of.to_owned(), text.trim().to_owned());
        }
    }
}

fn add_rows(chip: &str, kind: &str, sensor: &str, files: &Files, families: &mut Families) {
    let mut put = |name: String, sensor: &str, value: f64| {
        families.entry(name).or_default().push((chip.to_owned(), sensor.to_owned(), value));
    };
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    let own = files.get("").and_then(|text| number(text));
    let single = match kind {
        "beep_enable" => Some(("node_hwmon_beep_enabled", own.map(|value| f64::from(value == 1.0)))),
        "vrm" => Some(("node_hwmon_voltage_regulator_version", own)),
        "update_interval" => Some(("node_hwmon_update_interval_seconds", own.map(|value| value * 0.001))),
        _ => None,
    };
    if let Some((name, value)) = single {
        if let Some(value) = value {
            put(name.to_owned(), sensor, value);
        }
        return;
    }
    for (of, text) in files.iter().filter(|(of, _)| of.as_str() != "label") {
        let Some(value) = number(text) else { continue };
        let mut name = format!("node_hwmon_{kind}");
        // Where a sensor has a value of its own, `input` is another.
        if !of.is_empty() && (of != "input" || files.contains_key("")) {
            name = format!("{name}_{}", clean(of));
        }
        // The clock of a graphics card goes under its label, or not at all.
        let sensor = match (kind, of.as_str(), files.get("label")) {
            ("freq", "input", Some(label)) => label,
            ("freq", "input", None) => continue,
            _ => sensor,
        };
        let (unit, scale) = unit(kind, of);
        put(format!("{name}{unit}"), sensor, value * scale);
    }
}

/// The end of the name, and what its number is multiplied by.
fn unit(kind: &str, of: &str) -> (&'static str, f64) {
    match (kind, of) {
        (_, "fault" | "alarm") => ("", 1.0),
        (_, "beep") => ("_enabled", 1.0),
        ("in" | "cpu", _) => ("_volts", 0.001),
        ("temp", "type") => ("", 1.0),
        ("temp", _) => ("_celsius", 0.001),
        ("curr", _) => ("_amps", 0.001),
        ("energy", _) => ("_joule_total", 1e-6),
        ("power", "accuracy") | ("humidity", _) => ("", 1e-6),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => {
            ("_seconds", 0.001)
        }
        ("power", _) => ("_watt", 1e-6),
        ("fan", "input" | "min" | "max" | "target") => ("_rpm", 1.0),
        ("freq", "input") => ("_freq_mhz", 1e-6),
        _ => ("", 1.0),
    }
}

fn show(families: &Families, out: &mut Sink) {
    for (name, rows) in families {
        let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
        let mut family = help::family(out, kind, name);
        let mut seen = BTreeSet::new();
        for (chip, sensor, value) in rows {
            // Two chips that are behind one device.
            if seen.insert((chip, sensor)) {
                family.row([("chip", chip.as_str()), ("sensor", sensor.as_str())], *value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use sonde_daemon::page::{Format, Page, Section};

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn sensors_have_their_units_and_chips_the_names_of_their_devices() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("class/hwmon");
        let device = dir.path().join("devices/platform/coretemp.0");
        for (file, text) in [
            ("name", "coretemp\n"),
            ("temp1_input", "55000\n"),
            ("temp1_crit", "100000\n"),
            ("temp1_crit_alarm", "0\n"),
            ("temp1_alarm", "1\n"),
            ("temp1_label", "Package id 0\n"),
            ("temp2_input", "no number"),
            ("temp3_input", "inf"),
            ("uevent", "1"),
            ("temperature1_input", "1"),
        ] {
            write(&device.join("hwmon/hwmon0").join(file), text);
        }
        fs::create_dir_all(&class).unwrap();
        symlink(device.join("hwmon/hwmon0"), class.join("hwmon0")).unwrap();
        symlink(&device, device.join("hwmon/hwmon0/device")).unwrap();
        for (file, text) in [
            ("name", "nct6779-X\n"),
            ("fan1_input", "1200\n"),
            ("fan1_pulses", "2\n"),
            ("in0_input", "1016\n"),
            ("pwm1", "128\n"),
            ("beep_enable", "1\n"),
            ("update_interval", "1500\n"),
            ("energy1_input", "5000000\n"),
            ("power1_average", "2500000\n"),
            ("freq1_input", "500000000\n"),
            ("freq1_label", "sclk\n"),
            ("freq2_input", "1000000\n"),
        ] {
            write(&class.join("hwmon1").join(file), text);
        }
        let page = Page::new(vec![Section::new(None, vec![Box::new(Hwmon::new(dir.path()))])], false);
        let text = page.render(Format::Classic);
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                r#"node_hwmon_chip_names{chip="nct6779_x",chip_name="nct6779_x"} 1"#,
                r#"node_hwmon_chip_names{chip="platform_coretemp_0",chip_name="coretemp"} 1"#,
                r#"node_hwmon_sensor_label{chip="nct6779_x",label="sclk",sensor="freq1"} 1"#,
                r#"node_hwmon_sensor_label{chip="platform_coretemp_0",label="Package id 0",sensor="temp1"} 1"#,
                r#"node_hwmon_beep_enabled{chip="nct6779_x",sensor="beep_enable0"} 1.0"#,
                r#"node_hwmon_energy_joule_total{chip="nct6779_x",sensor="energy1"} 5.0"#,
                r#"node_hwmon_fan_pulses{chip="nct6779_x",sensor="fan1"} 2.0"#,
                r#"node_hwmon_fan_rpm{chip="nct6779_x",sensor="fan1"} 1200.0"#,
                r#"node_hwmon_freq_freq_mhz{chip="nct6779_x",sensor="sclk"} 500.0"#,
                r#"node_hwmon_in_volts{chip="nct6779_x",sensor="in0"} 1.016"#,
                r#"node_hwmon_power_average_watt{chip="nct6779_x",sensor="power1"} 2.5"#,
                r#"node_hwmon_pwm{chip="nct6779_x",sensor="pwm1"} 128.0"#,
                r#"node_hwmon_temp_alarm{chip="platform_coretemp_0",sensor="temp1"} 1.0"#,
                r#"node_hwmon_temp_celsius{chip="platform_coretemp_0",sensor="temp1"} 55.0"#,
                r#"node_hwmon_temp_crit_alarm_celsius{chip="platform_coretemp_0",sensor="temp1"} 0.0"#,
                r#"node_hwmon_temp_crit_celsius{chip="platform_coretemp_0",sensor="temp1"} 100.0"#,
                r#"node_hwmon_update_interval_seconds{chip="nct6779_x",sensor="update_interval0"} 1.5"#,
            ]
        );
        assert!(text.contains("# TYPE node_hwmon_energy_joule_total counter"));
    }

    proptest! {
        #[test]
        fn no_file_name_makes_it_panic(name in "(temp|in|pwm|vrm|)[0-9]{0,12}_?[a-z_\u{e4}0-9]{0,6}") {
            if let Some((_, _, of)) = split(&name) {
                prop_assert!(!of.starts_with(|c: char| c.is_ascii_digit()) || name.contains('_'));
            }
            let _ = clean(&name);
        }
    }
}
