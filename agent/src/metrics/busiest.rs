//! Which block devices the rows of a container are shown with, for a container has at most 50 series.
//!
//! A device's counters are never another's, and a device that is shown stays: the busiest are taken, and one gives way
//! only to a device that has moved twice its bytes, so two of them cannot take turns. What is not shown of a container
//! is in its pod's row, which has every device.
//!
//! Memory: `MOST` device numbers for each container of the last pass.

use std::collections::HashMap;

use super::cgroup::io::DeviceIo;

/// Most devices of a container: 41 series are not of devices, and each has four.
pub(super) const MOST: usize = 2;

/// The devices that were shown last.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    shown: HashMap<String, Vec<(u32, u32)>>,
    before: HashMap<String, Vec<(u32, u32)>>,
}

impl Busiest {
    /// Begins a pass: what is not asked for in it is forgotten.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.shown);
    }

    /// Those of a cgroup's devices that are shown, at most `most`, in their order.
    pub(super) fn of<'r>(&mut self, id: &str, devices: &'r [DeviceIo], most: usize) -> Vec<&'r DeviceIo> {
        if devices.is_empty() {
            return Vec::new();
        }
        let (id, before) =
            self.before.remove_entry(id).unwrap_or_else(|| (id.to_owned(), Vec::with_capacity(most)));
        let mut shown: Vec<&DeviceIo> =
            devices.iter().filter(|io| before.contains(&io.device)).take(most).collect();
        let mut others: Vec<&DeviceIo> =
            devices.iter().filter(|io| shown.iter().all(|known| known.device != io.device)).collect();
        others.sort_by_key(|io| (std::cmp::Reverse(bytes(io)), io.device));
        for other in others {
            if shown.len() < most {
                shown.push(other);
            } else if let Some(least) = shown.iter_mut().min_by_key(|io| bytes(io))
                && bytes(other) / 2 > bytes(least)
            {
                *least = other;
            }
        }
        shown.sort_by_key(|io| devices.iter().position(|each| each.device == io.device));
        self.shown.insert(id, shown.iter().map(|io| io.device).collect());
        shown
    }
}

fn bytes(io: &DeviceIo) -> u64 {
    io.read_bytes.saturating_add(io.written_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Devices with so many bytes each, numbered from 0.
    fn devices(bytes: &[u64]) -> Vec<DeviceIo> {
        let device = |(minor, read_bytes): (u32, &u64)| DeviceIo {
            device: (8, minor),
            read_bytes: *read_bytes,
            ..DeviceIo::default()
        };
        (0..).zip(bytes).map(device).collect()
    }

    fn shown(busiest: &mut Busiest, bytes: &[u64]) -> Vec<u32> {
        busiest.begin();
        busiest.of("/c", &devices(bytes), MOST).iter().map(|io| io.device.1).collect()
    }

    #[test]
    fn the_busiest_are_shown_and_give_way_only_to_one_that_has_twice_their_bytes() {
        let mut busiest = Busiest::default();
        assert_eq!(shown(&mut busiest, &[5, 100]), [0, 1]);
        assert_eq!(shown(&mut busiest, &[5, 100, 9]), [0, 1]);
        assert_eq!(shown(&mut busiest, &[5, 100, 7, 50]), [1, 3]);
        assert_eq!(shown(&mut busiest, &[5, 100, 99, 50]), [1, 3], "not twice as much");
        assert_eq!(shown(&mut busiest, &[5, 100, 102, 50]), [1, 2]);
        assert_eq!(shown(&mut busiest, &[5, 100, 102, 150]), [1, 2], "nor back at once");
        assert_eq!(shown(&mut busiest, &[5, 100]), [0, 1]);
        busiest.begin();
        busiest.begin();
        assert!(busiest.shown.is_empty() && busiest.before.is_empty(), "what is gone is forgotten");
    }

    proptest! {
        /// Each change doubles what is least busy, so there are few of them however the load moves.
        #[test]
        fn devices_do_not_take_turns(loads in prop::collection::vec(prop::array::uniform4(0u64..1000), 1..60)) {
            let (mut busiest, mut totals) = (Busiest::default(), [1u64; 4]);
            let (mut last, mut changes) = (Vec::new(), 0);
            for load in loads {
                for (total, more) in totals.iter_mut().zip(load) {
                    *total += more;
                }
                let now = shown(&mut busiest, &totals);
                prop_assert_eq!(now.len(), MOST);
                changes += usize::from(!last.is_empty() && now != last);
                last = now;
            }
            // 60 passes of 1000 bytes are less than 2^16.
            prop_assert!(changes <= 32, "{}", changes);
        }
    }
}
