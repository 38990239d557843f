//! What the node is: firmware (`dmi`), operating system (`os`), NVMe controllers (`nvme`) and SELinux (`selinux`).
//! Rows of labels with the value 1, as node_exporter has them; a file that is not there is a label that is not there.

use crate::metrics::help;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::{number, read_once};

/// Files of `/sys/class/dmi/id`, by label. Serial numbers are readable for root alone.
const FIRMWARE: [(&str, &str); 20] = [
    ("bios_date", "bios_date"),
    ("bios_release", "bios_release"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("board_asset_tag", "board_asset_tag"),
    ("board_name", "board_name"),
    ("board_serial", "board_serial"),
    ("board_vendor", "board_vendor"),
    ("board_version", "board_version"),
    ("chassis_asset_tag", "chassis_asset_tag"),
    ("chassis_serial", "chassis_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_version", "chassis_version"),
    ("product_family", "product_family"),
    ("product_name", "product_name"),
    ("product_serial", "product_serial"),
    ("product_sku", "product_sku"),
    ("product_uuid", "product_uuid"),
    ("product_version", "product_version"),
    ("system_vendor", "sys_vendor"),
];
/// Fields of os-release(5) that are labels.
const RELEASE: [&str; 12] = [
    "build_id",
    "id",
    "id_like",
    "image_id",
    "image_version",
    "name",
    "pretty_name",
    "variant",
    "variant_id",
    "version",
    "version_codename",
    "version_id",
];
/// Most NVMe controllers that are shown.
const MOST: usize = 1024;

fn trimmed(path: &Path) -> Option<String> {
    read_once(path).ok().map(|text| text.trim().to_owned())
}

/// The firmware's names. They stay until the next boot, so they are read once.
pub(super) fn dmi(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("class/dmi/id");
    let known: OnceLock<Vec<(&str, String)>> = OnceLock::new();
    source("dmi", move |out| {
        let labels = known.get_or_init(|| {
            FIRMWARE
                .iter()
                .filter_map(|(label, file)| Some((*label, trimmed(&directory.join(file))?)))
                .collect()
        });
        if !labels.is_empty() {
            let labels = labels.iter().map(|(label, value)| (*label, value.as_str()));
            help::gauge(out, "node_dmi_info").row(labels, 1u64);
        }
        Ok(())
    })
}

/// The operating system's names. In a pod that does not mount the host's root there is no such file.
pub(super) fn os(root: &Path) -> Box<dyn Source> {
    let files = [root.join("etc/os-release"), root.join("usr/lib/os-release")];
    source("os", move |out| {
        let Some(text) = files.iter().find_map(|file| read_once(file).ok()) else { return Ok(()) };
        let release = parse_release(&text);
        let of = |key: &str| release.get(key).map_or("", String::as_str);
        help::gauge(out, "node_os_info").row(RELEASE.map(|label| (label, of(label))), 1u64);
        if let Some(version) = major_minor(of("version_id")).filter(|version| *version > 0.0) {
            let labels = ["id", "id_like", "name"].map(|label| (label, of(label)));
            help::gauge(out, "node_os_version").row(labels, version);
        }
        if let Some(end) = day(of("support_end")) {
            help::gauge(out, "node_os_support_end_timestamp_seconds").row([], end);
        }
        Ok(())
    })
}

/// `NAME="Debian GNU/Linux"`, by the small name; quotes and the escapes in them are taken off.
fn parse_release(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')).take(1000) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
        let mut plain = String::new();
        let mut letters = quoted.unwrap_or(value).chars();
        while let Some(letter) = letters.next() {
            plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
        }
        fields.insert(key.trim().to_ascii_lowercase(), plain);
    }
    fields
}

/// `22.04.1` is 22.04.
fn major_minor(version: &str) -> Option<f64> {
    let mut parts = version.split('.');
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(parts.next()?);
    let minor = parts.next().map(digits).unwrap_or_default();
    format!("{major}.{minor}0").parse().ok().filter(|_| !major.is_empty())
}

/// `2027-05-31` as seconds since 1970 (days by Howard Hinnant's `days_from_civil`).
fn day(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400)
}

/// Controllers of `/sys/class/nvme`.
pub(super) fn nvme(sys: &Path) -> Box<dyn Source> {
    let directory = sys.join("class/nvme");
    source("nvme", move |out| {
        let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
        let mut controllers: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).take(MOST).collect();
        controllers.sort();
        let mut rows = help::gauge(out, "node_nvme_info");
        for path in &controllers {
            let device = path.file_name().unwrap_or_default().to_string_lossy();
            let [firmware, model, serial, state] = ["firmware_rev", "model", "serial", "state"]
                .map(|file| trimmed(&path.join(file)).unwrap_or_default());
            let labels = [
                ("device", device.as_ref()),
                ("firmware_revision", firmware.as_str()),
                ("model", model.as_str()),
                ("serial", serial.as_str()),
                ("state", state.as_str()),
            ];
            rows.row(labels, 1u64);
        }
        Ok(())
    })
}

/// Whether SELinux is on, and enforces: `/sys/fs/selinux`, and what `/etc/selinux/config` wants.
pub(super) fn selinux(sys: &Path, root: &Path) -> Box<dyn Source> {
    let (enforce, config) = (sys.join("fs/selinux/enforce"), root.join("etc/selinux/config"));
    source("selinux", move |out| {
        let now = read_once(&enforce).ok().as_deref().and_then(number);
        help::gauge(out, "node_selinux_enabled").row([], u64::from(now.is_some()));
        let Some(now) = now else { return Ok(()) };
        help::gauge(out, "node_selinux_current_mode").row([], now);
        let wanted = read_once(&config).ok().and_then(|text| {
            match parse_release(&text).get("selinux").map(String::as_str) {
                Some("enforcing") => Some(1i64),
                Some("permissive") => Some(0),
                Some("disabled") => Some(-1),
                _ => None,
            }
        });
        if let Some(wanted) = wanted {
            help::gauge(out, "node_selinux_config_mode").row([], wanted);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sonde_daemon::page::{Format, Page, Section};

    use super::*;

    fn rows(source: Box<dyn Source>) -> Vec<String> {
        let text = Page::new(vec![Section::new(None, vec![source])], false).render(Format::Classic);
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_operating_system_is_told_with_its_version_as_a_number() {
        let dir = tempfile::tempdir().unwrap();
        assert!(rows(os(dir.path())).is_empty());
        let text = "# x\nNAME=\"Ubuntu \\\"x\\\"\"\nID=ubuntu\nID_LIKE='debian'\nVERSION_ID=\"22.04.1\"\nSUPPORT_END=2027-05-31\nodd\n";
        write(dir.path(), &[("usr/lib/os-release", text)]);
        assert_eq!(
            rows(os(dir.path())),
            [
                r#"node_os_info{build_id="",id="ubuntu",id_like="debian",image_id="",image_version="",name="Ubuntu \"x\"",pretty_name="",variant="",variant_id="",version="",version_codename="",version_id="22.04.1"} 1"#,
                r#"node_os_version{id="ubuntu",id_like="debian",name="Ubuntu \"x\""} 22.04"#,
                "node_os_support_end_timestamp_seconds 1811721600",
            ]
        );
        assert_eq!(major_minor("12"), Some(12.0));
        assert_eq!((major_minor("rolling"), major_minor("")), (None, None));
        assert_eq!(
            (day("1970-01-01"), day("2000-03-01"), day("2027-13-01"), day("x")),
            (Some(0), Some(951_868_800), None, None)
        );
    }

    #[test]
    fn firmware_is_read_once_and_only_what_is_there_is_a_label() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[("class/dmi/id/sys_vendor", "ACME \n"), ("class/dmi/id/bios_date", "04/12/2021\n")],
        );
        let source = dmi(dir.path());
        assert_eq!(rows(source), [r#"node_dmi_info{bios_date="04/12/2021",system_vendor="ACME"} 1"#]);
        assert!(rows(dmi(&dir.path().join("none"))).is_empty());
    }

    #[test]
    fn nvme_controllers_are_told() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("class/nvme/nvme0/model", "Samsung SSD 970 PRO 512GB   \n"),
                ("class/nvme/nvme0/state", "live\n"),
            ],
        );
        assert_eq!(
            rows(nvme(dir.path())),
            [
                r#"node_nvme_info{device="nvme0",firmware_revision="",model="Samsung SSD 970 PRO 512GB",serial="",state="live"} 1"#
            ]
        );
    }

    #[test]
    fn selinux_is_off_where_its_file_system_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(rows(selinux(dir.path(), dir.path())), ["node_selinux_enabled 0"]);
        write(
            dir.path(),
            &[("fs/selinux/enforce", "1"), ("etc/selinux/config", "# SELINUX=x\nSELINUX=permissive\n")],
        );
        assert_eq!(
            rows(selinux(dir.path(), dir.path())),
            ["node_selinux_enabled 1", "node_selinux_current_mode 1", "node_selinux_config_mode 0"]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}=[\"']?\\PC{0,20}\\\\?[\"']?", number in "[0-9.\\-]{0,30}") {
            let _ = (parse_release(&text), major_minor(&number), day(&number));
        }
    }
}
