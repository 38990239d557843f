//! Block IO by device: v2 `io.stat`; v1 `blkio.throttle.*`, or bfq's where that scheduler counts.

use super::Files;

/// What a cgroup and all below it read from and wrote to one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
}

/// Most devices that a cgroup is shown with.
const MOST: usize = 64;

/// Reads a v2 cgroup; empty where the controller is off.
pub(super) fn read_v2(files: &mut Files<'_>) -> Vec<DeviceIo> {
    files.read("io.stat").map(parse_v2).unwrap_or_default()
}

/// Reads a v1 cgroup: the first pair of files that counts anything, in the order in which runc tries them
/// (opencontainers/cgroups, fs/blkio.go).
pub(super) fn read_v1(files: &mut Files<'_>) -> Vec<DeviceIo> {
    const PAIRS: [(&str, &str); 3] = [
        ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
        ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
        ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
    ];
    for (bytes, operations) in PAIRS {
        let mut devices = Vec::new();
        if let Some(text) = files.read(bytes) {
            add_v1(text, &mut devices, |io| (&mut io.read_bytes, &mut io.written_bytes));
        }
        if devices.is_empty() {
            continue;
        }
        if let Some(text) = files.read(operations) {
            add_v1(text, &mut devices, |io| (&mut io.reads, &mut io.writes));
        }
        return devices;
    }
    Vec::new()
}

/// `98:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`; a device that was never used has no numbers, and is
/// left out as cAdvisor leaves it out.
fn parse_v2(text: &str) -> Vec<DeviceIo> {
    let mut devices = Vec::new();
    for line in text.lines().take(4096) {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next().and_then(numbers) else { continue };
        let mut io = DeviceIo { device, ..DeviceIo::default() };
        let mut known = false;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => continue,
            }
            known = true;
        }
        if known && devices.len() < MOST {
            devices.push(io);
        }
    }
    devices
}

/// `8:0 Read 4096` and so on, and a last line `Total …`.
fn add_v1(text: &str, devices: &mut Vec<DeviceIo>, cells: impl Fn(&mut DeviceIo) -> (&mut u64, &mut u64)) {
    for line in text.lines().take(4096) {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next().and_then(numbers) else { continue };
        let (Some(operation), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else {
            continue;
        };
        let at = match devices.iter().position(|io| io.device == device) {
            Some(at) => at,
            None if devices.len() == MOST => continue,
            None => {
                devices.push(DeviceIo { device, ..DeviceIo::default() });
                devices.len() - 1
            }
        };
        let (read, write) = cells(&mut devices[at]);
        match operation {
            "Read" => *read = value,
            "Write" => *write = value,
            _ => {}
        }
    }
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_device_that_was_never_used_is_left_out() {
        let text = "98:0 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=0 dios=0\n43:480 \n7:7\nx rbytes=1\n";
        let want = DeviceIo { device: (98, 0), read_bytes: 4096, written_bytes: 10, reads: 1, writes: 2 };
        assert_eq!(parse_v2(text), [want]);
    }

    #[test]
    fn v1_lines_are_put_together_by_device() {
        let mut devices = Vec::new();
        let text = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:16 Read 4\nTotal 10\n";
        add_v1(text, &mut devices, |io| (&mut io.read_bytes, &mut io.written_bytes));
        let seen: Vec<_> = devices.iter().map(|io| (io.device, io.read_bytes, io.written_bytes)).collect();
        assert_eq!(seen, [((8, 0), 1, 2), ((8, 16), 4, 0)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9:= A-Za-z\n]{0,200}") {
            let _ = parse_v2(&text);
            add_v1(&text, &mut Vec::new(), |io| (&mut io.reads, &mut io.writes));
        }
    }
}
