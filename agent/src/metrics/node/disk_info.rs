//! What block devices are, from udev's database (`/run/udev/data/b<major>:<minor>`, systemd-udevd; lines `E:KEY=value`) and
//! `/sys/block`. In a pod that does not mount the host's `/run/udev` the labels that come from there are empty.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sonde_daemon::page::Sink;

use crate::metrics::help;
use crate::metrics::read::read_once;

/// Where devices are described.
pub(super) struct Database {
    udev: PathBuf,
    block: PathBuf,
}

/// A family, the property without which a device has no row, and its labels with the properties that they are.
type Table = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const TABLES: [Table; 2] = [
    (
        "node_disk_filesystem_info",
        "ID_FS_TYPE",
        &[
            ("type", "ID_FS_TYPE"),
            ("usage", "ID_FS_USAGE"),
            ("uuid", "ID_FS_UUID"),
            ("version", "ID_FS_VERSION"),
        ],
    ),
    (
        "node_disk_device_mapper_info",
        "DM_NAME",
        &[
            ("name", "DM_NAME"),
            ("uuid", "DM_UUID"),
            ("vg_name", "DM_VG_NAME"),
            ("lv_name", "DM_LV_NAME"),
            ("lv_layer", "DM_LV_LAYER"),
        ],
    ),
];

/// udev's properties of a device.
type Properties = HashMap<String, String>;

impl Database {
    pub(super) fn new(root: &Path, sys: &Path) -> Self {
        Self { udev: root.join("run/udev/data"), block: sys.join("block") }
    }

    /// Puts the rows of devices: name, major and minor number.
    pub(super) fn show(&self, devices: &[(&str, &str, &str)], out: &mut Sink) {
        let all: Vec<Properties> = devices
            .iter()
            .map(|(_, major, minor)| {
                read_once(&self.udev.join(format!("b{major}:{minor}")))
                    .map(|text| parse(&text))
                    .unwrap_or_default()
            })
            .collect();
        let mut rows = help::gauge(out, "node_disk_info");
        for ((device, major, minor), properties) in devices.iter().zip(&all) {
            let of = |key: &str| properties.get(key).map_or("", String::as_str);
            // The number on the disk's label where it is known; virtio has the last one alone.
            let serial = ["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"];
            let serial = serial.into_iter().map(of).find(|serial| !serial.is_empty()).unwrap_or_default();
            let rotational = read_once(&self.block.join(device).join("queue/rotational")).unwrap_or_default();
            let labels = [
                ("device", *device),
                ("major", *major),
                ("minor", *minor),
                ("path", of("ID_PATH")),
                ("wwn", of("ID_WWN")),
                ("model", of("ID_MODEL")),
                ("serial", serial),
                ("revision", of("ID_REVISION")),
                // A partition has no queue, and is shown with 0.
                ("rotational", if rotational.trim() == "1" { "1" } else { "0" }),
            ];
            rows.row(labels, 1u64);
        }
        for (family, needed, labels) in TABLES {
            let mut rows = help::gauge(out, family);
            for ((device, ..), properties) in devices.iter().zip(&all) {
                let of = |key: &str| properties.get(key).map_or("", String::as_str);
                if !of(needed).is_empty() {
                    let labels = labels.iter().map(|(label, key)| (*label, of(key)));
                    rows.row([("device", *device)].into_iter().chain(labels), 1u64);
                }
            }
        }
    }
}

fn parse(text: &str) -> Properties {
    text.lines()
        .filter_map(|line| line.strip_prefix("E:")?.split_once('='))
        .take(1000)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const UDEV: &str = "S:disk/by-id/x\nI:100\nE:ID_MODEL=Disk\nE:ID_SERIAL=long_7\nE:ID_SERIAL_SHORT=7\nE:ID_FS_TYPE=ext4\nE:ID_FS_UUID=u=1\nE:odd\n";

    #[test]
    fn a_device_is_described_by_udev_where_that_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("run/udev/data/b8:0", UDEV), ("block/sda/queue/rotational", "1\n")] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let database = Database::new(dir.path(), dir.path());
        let text = crate::metrics::tests::rendered(move |out| {
            database.show(&[("sda", "8", "0"), ("vda", "254", "0")], out);
        });
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            [
                r#"node_disk_info{device="sda",major="8",minor="0",path="",wwn="",model="Disk",serial="7",revision="",rotational="1"} 1"#,
                r#"node_disk_info{device="vda",major="254",minor="0",path="",wwn="",model="",serial="",revision="",rotational="0"} 1"#,
                r#"node_disk_filesystem_info{device="sda",type="ext4",usage="",uuid="u=1",version=""} 1"#,
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..UDEV.len(), noise in "[ -~\n]{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &UDEV[..cut], &UDEV[cut..]));
        }
    }
}
