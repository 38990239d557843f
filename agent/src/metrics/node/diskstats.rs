//! Block devices, from `/proc/diskstats` (kernel, Documentation/admin-guide/iostats.rst). Sectors are 512 bytes
//! whatever the device's own are; times are milliseconds.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Kind, Sink, Source, Value, source};

use super::Exclude;
use super::disk_info::Database;
use crate::metrics::read::{Kept, float};

#[derive(Clone, Copy)]
enum Unit {
    Count,
    Sectors,
    Milliseconds,
}

/// The fields after the name. Kernels before 4.18 end after the eleventh, before 5.5 after the fifteenth.
const FIELDS: [(Kind, &str, Unit); 17] = [
    (Kind::Counter, "node_disk_reads_completed_total", Unit::Count),
    (Kind::Counter, "node_disk_reads_merged_total", Unit::Count),
    (Kind::Counter, "node_disk_read_bytes_total", Unit::Sectors),
    (Kind::Counter, "node_disk_read_time_seconds_total", Unit::Milliseconds),
    (Kind::Counter, "node_disk_writes_completed_total", Unit::Count),
    (Kind::Counter, "node_disk_writes_merged_total", Unit::Count),
    (Kind::Counter, "node_disk_written_bytes_total", Unit::Sectors),
    (Kind::Counter, "node_disk_write_time_seconds_total", Unit::Milliseconds),
    (Kind::Gauge, "node_disk_io_now", Unit::Count),
    (Kind::Counter, "node_disk_io_time_seconds_total", Unit::Milliseconds),
    (Kind::Counter, "node_disk_io_time_weighted_seconds_total", Unit::Milliseconds),
    (Kind::Counter, "node_disk_discards_completed_total", Unit::Count),
    (Kind::Counter, "node_disk_discards_merged_total", Unit::Count),
    (Kind::Counter, "node_disk_discarded_sectors_total", Unit::Count),
    (Kind::Counter, "node_disk_discard_time_seconds_total", Unit::Milliseconds),
    (Kind::Counter, "node_disk_flush_requests_total", Unit::Count),
    (Kind::Counter, "node_disk_flush_requests_time_seconds_total", Unit::Milliseconds),
];

pub(super) fn collector(proc: &Path, exclude: Exclude, database: Database) -> Box<dyn Source> {
    let file = Kept::new(proc.join("diskstats")).short();
    source("diskstats", move |out| {
        // A kernel without block devices has no such file.
        if let Some(text) = file.read_if_there()? {
            let shown = |line: &&str| parse(line).is_some_and(|(name, _)| !exclude.is_match(name));
            let lines: Vec<&str> = text.lines().filter(shown).collect();
            let devices: Vec<_> = lines.iter().filter_map(|line| numbered(line)).collect();
            database.show(&devices, out);
            show(&lines, out);
        }
        Ok(())
    })
}

/// Name, major and minor number.
fn numbered(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = (words.next()?, words.next()?);
    Some((words.next()?, major, minor))
}

fn show(lines: &[&str], out: &mut Sink) {
    let disks: Vec<_> = lines.iter().filter_map(|line| parse(line)).collect();
    for (at, (kind, family, unit)) in FIELDS.iter().enumerate() {
        if disks.iter().all(|(_, values)| values.len() <= at) {
            continue;
        }
        let mut rows = help::family(out, *kind, family);
        for (disk, values) in &disks {
            let Some(value) = values.get(at) else { continue };
            let value: Value = match unit {
                Unit::Count => (*value).into(),
                Unit::Sectors => value.saturating_mul(512).into(),
                Unit::Milliseconds => (float(*value) / 1000.0).into(),
            };
            rows.row([("device", *disk)], value);
        }
    }
}

fn parse(line: &str) -> Option<(&str, Vec<u64>)> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = words.next()?;
    let values: Vec<u64> = words.take(FIELDS.len()).map_while(|word| word.parse().ok()).collect();
    (values.len() >= 11).then_some((name, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_every_age_have_as_many_fields_as_they_have() {
        let line = |fields: usize| format!("   8 0 sda{}", " 1".repeat(fields));
        for (fields, want) in [(10, None), (11, Some(11)), (15, Some(15)), (17, Some(17)), (30, Some(17))] {
            assert_eq!(parse(&line(fields)).map(|(_, values)| values.len()), want, "{fields}");
        }
    }
}
