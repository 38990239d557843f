//! An hour of one number: 360 cells of ten seconds, in a fixed place.
//!
//! A cell is the upper half of an `f32` (eight bits of precision: an error below 0.4 %, less than a line on a graph is
//! thick), or NaN where nothing is known. A value that came up to [`FILL`] slots after the one before it stands for
//! the slots between too: rates are averages over that time, and a sender's clock drifts across the slots' edges.

/// Seconds of a slot.
pub const STEP: u64 = 10;
/// Slots of a ring.
pub const SLOTS: usize = 360;
/// The same as a difference of slots.
const LENGTH: u32 = 360;
/// The longest gap that a value fills.
pub const FILL: u32 = 6;

/// Nothing is known.
const NONE: u16 = 0x7fc0;

/// A slot's number: seconds since the epoch by [`STEP`].
pub type Slot = u32;

/// The slot of a time in Unix seconds.
pub fn slot_of(seconds: u64) -> Slot {
    u32::try_from(seconds / STEP).unwrap_or(u32::MAX)
}

/// One number over an hour; 720 bytes from its first value on.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Slot of the newest cell.
    last: Slot,
    cells: Option<Box<[u16; SLOTS]>>,
}

impl Ring {
    /// Whether it takes memory.
    pub fn is_empty(&self) -> bool {
        self.cells.is_none()
    }

    /// The value of `slot`; of one value a slot the last counts. One that is older than the newest is left out.
    pub fn set(&mut self, slot: Slot, value: f64) {
        let cells = self.cells.get_or_insert_with(|| {
            self.last = slot;
            Box::new([NONE; SLOTS])
        });
        if slot < self.last {
            return;
        }
        let missed = slot - self.last;
        let cell = half(value);
        let between = if missed <= FILL { cell } else { NONE };
        // Further back than the ring is long there is nothing to write.
        let written = missed.min(LENGTH);
        for back in (1..written).rev() {
            cells[place(slot - back)] = between;
        }
        cells[place(slot)] = cell;
        self.last = slot;
    }

    /// The value of `slot`, if it is known.
    pub fn get(&self, slot: Slot) -> Option<f32> {
        let behind = self.last.checked_sub(slot)?;
        let cell = *self.cells.as_ref().filter(|_| (behind as usize) < SLOTS)?.get(place(slot))?;
        Some(f32::from_bits(u32::from(cell) << 16)).filter(|value| !value.is_nan())
    }
}

/// A number that many nodes add to; 1440 bytes.
#[derive(Clone, Debug)]
pub struct SumRing {
    last: Slot,
    cells: Box<[f32; SLOTS]>,
}

impl Default for SumRing {
    fn default() -> Self {
        Self { last: 0, cells: Box::new([f32::NAN; SLOTS]) }
    }
}

impl SumRing {
    /// Adds one node's value to the slots behind `after`, the last that it has added to, up to `slot`.
    pub fn add(&mut self, after: Slot, slot: Slot, value: f64) {
        if slot > self.last {
            let new = (slot - self.last).min(LENGTH);
            for back in 0..new {
                self.cells[place(slot - back)] = f32::NAN;
            }
            self.last = slot;
        }
        let first = if slot.saturating_sub(after) <= FILL { after + 1 } else { slot };
        for slot in first..=slot {
            if ((self.last - slot) as usize) < SLOTS {
                let cell = &mut self.cells[place(slot)];
                // Values are far below where this loses digits that a graph shows.
                #[allow(clippy::cast_possible_truncation)]
                let value = value as f32;
                *cell = if cell.is_nan() { value } else { *cell + value };
            }
        }
    }

    /// The sum in `slot`, if there is one.
    pub fn get(&self, slot: Slot) -> Option<f32> {
        let behind = self.last.checked_sub(slot)?;
        let cell = *self.cells.get(place(slot)).filter(|_| (behind as usize) < SLOTS)?;
        Some(cell).filter(|value| !value.is_nan())
    }
}

fn place(slot: Slot) -> usize {
    slot as usize % SLOTS
}

/// The nearest number with the lower half of its bits 0.
fn half(value: f64) -> u16 {
    #[allow(clippy::cast_possible_truncation)]
    let bits = (value as f32).to_bits();
    if !value.is_finite() {
        return NONE;
    }
    // Half of the last bit that is kept, so that cutting rounds; a carry goes into the exponent, as it should.
    let [_, _, low, high] = bits.saturating_add(0x8000).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_late_value_fills_a_short_gap_and_leaves_a_long_one() {
        let mut ring = Ring::default();
        ring.set(100, 1.0);
        ring.set(103, 2.0);
        ring.set(110, 4.0);
        let seen: Vec<_> = (99..=111).map(|slot| ring.get(slot)).collect();
        let (one, two, four) = (Some(1.0), Some(2.0), Some(4.0));
        let none = None;
        assert_eq!(seen, [none, one, two, two, two, none, none, none, none, none, none, four, none]);
        ring.set(109, 9.0);
        assert_eq!(ring.get(109), None, "what is older than the newest is left out");
    }

    #[test]
    fn nodes_that_report_at_different_times_are_added_once_each() {
        let mut sum = SumRing::default();
        // Two values of one node in a slot, none in the next: clocks drift.
        sum.add(9, 10, 1.0);
        sum.add(9, 10, 10.0);
        sum.add(10, 12, 1.0);
        sum.add(10, 11, 10.0);
        sum.add(11, 12, 10.0);
        assert_eq!(
            (10..=13).map(|slot| sum.get(slot)).collect::<Vec<_>>(),
            [Some(11.0), Some(11.0), Some(11.0), None]
        );
    }

    proptest! {
        /// Against a map of all that was ever written.
        #[test]
        fn a_ring_is_the_last_hour_of_what_was_written(
            steps in prop::collection::vec((prop_oneof![3 => 0u32..3, 1 => 0u32..500], 0.001f64..1e12), 1..60),
        ) {
            let mut ring = Ring::default();
            let mut all = std::collections::BTreeMap::new();
            let mut slot = 1000;
            for (step, value) in steps {
                if step <= FILL && !all.is_empty() {
                    for between in 1..step {
                        all.insert(slot + between, value);
                    }
                }
                slot += step;
                ring.set(slot, value);
                all.insert(slot, value);
                let oldest = slot - (LENGTH - 1);
                for at in oldest.saturating_sub(400)..=slot + 1 {
                    match (ring.get(at), all.get(&at).filter(|_| at >= oldest)) {
                        (None, None) => {}
                        (Some(seen), Some(written)) => {
                            let error = (f64::from(seen) - written).abs() / written;
                            prop_assert!(error < 0.004, "{seen} {written}");
                        }
                        other => prop_assert!(false, "{at}: {other:?}"),
                    }
                }
            }
        }
    }
}
