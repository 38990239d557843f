//! A set of byte ranges of one file: what of it is settled (acknowledged, excluded, shed or lost).
//!
//! Ranges are whole entries, kept sorted, disjoint and merged. In the steady state it is one range that starts at 0;
//! its end is the watermark.

/// Sorted, disjoint, non-adjacent half-open ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    spans: Vec<(u64, u64)>,
    bytes: u64,
}

impl Spans {
    /// Adds `start..end`; gives the number of bytes that were not in the set before.
    pub fn insert(&mut self, start: u64, end: u64) -> u64 {
        if end <= start {
            return 0;
        }
        if let Some(last) = self.spans.last_mut()
            && last.1 == start
        {
            last.1 = end;
            self.bytes += end - start;
            return end - start;
        }
        let first = self.spans.partition_point(|span| span.1 < start);
        let mut after = first;
        let (mut low, mut high, mut covered) = (start, end, 0);
        while let Some(&(span_start, span_end)) = self.spans.get(after) {
            if span_start > end {
                break;
            }
            low = low.min(span_start);
            high = high.max(span_end);
            covered += span_end - span_start;
            after += 1;
        }
        self.spans.splice(first..after, [(low, high)]);
        let added = (high - low) - covered;
        self.bytes += added;
        added
    }

    /// End of the range that starts at 0: everything below is settled.
    pub fn watermark(&self) -> u64 {
        self.spans.first().filter(|span| span.0 == 0).map_or(0, |span| span.1)
    }

    /// The first range that ends above `position`.
    pub fn next_after(&self, position: u64) -> Option<(u64, u64)> {
        self.spans.get(self.spans.partition_point(|span| span.1 <= position)).copied()
    }

    /// Whether all of `start..end` is in the set.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start >= end || self.next_after(start).is_some_and(|span| span.0 <= start && end <= span.1)
    }

    /// Number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts of `0..end` that are not in the set.
    pub fn gaps(&self, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut position = 0;
        for &(span_start, span_end) in &self.spans {
            if span_start >= end {
                break;
            }
            if span_start > position {
                gaps.push((position, span_start));
            }
            position = span_end;
        }
        if position < end {
            gaps.push((position, end));
        }
        gaps
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.spans.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_set_is_the_union_of_what_was_inserted(ranges in proptest::collection::vec((0u64..64, 0u64..16), 0..24)) {
            let mut spans = Spans::default();
            let mut model = [false; 96];
            for (start, len) in ranges {
                let before = model.iter().filter(|byte| **byte).count() as u64;
                model[start as usize..(start + len) as usize].fill(true);
                let after = model.iter().filter(|byte| **byte).count() as u64;
                prop_assert_eq!(spans.insert(start, start + len), after - before);
                prop_assert_eq!(spans.bytes(), after);
            }
            prop_assert_eq!(spans.watermark(), model.iter().take_while(|byte| **byte).count() as u64);
            for position in 0..90usize {
                prop_assert_eq!(spans.covers(position as u64, position as u64 + 3), model[position..position + 3].iter().all(|byte| *byte));
            }
            let free: u64 = spans.gaps(96).iter().map(|gap| gap.1 - gap.0).sum();
            prop_assert_eq!(free + spans.bytes(), 96);
            let merged = spans.iter().zip(spans.iter().skip(1)).all(|(left, right)| left.1 < right.0);
            prop_assert!(merged);
        }
    }
}
