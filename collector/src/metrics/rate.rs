//! From counters to rates.

/// The longest time between two samples that a rate is made of, seconds: further apart they say too little of now.
const LONGEST: f64 = 300.0;
/// The shortest.
const SHORTEST: f64 = 0.2;

/// The last value of a counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    /// Unix nanoseconds by the sender's clock; 0 = there was none.
    at: u64,
    value: f64,
    /// The last rate.
    rate: Option<f64>,
}

impl Counter {
    /// Takes the next value; the rate since the last one, per second, where there is one. A counter that fell has
    /// begun again at 0; the same reading once more says nothing new.
    pub fn rate(&mut self, at: u64, value: Option<f64>) -> Option<f64> {
        let Some(value) = value else {
            *self = Self::default();
            return None;
        };
        if at == self.at {
            return self.rate;
        }
        let before = std::mem::replace(self, Self { at, value, rate: None });
        // A second or two have few bits.
        #[allow(clippy::cast_precision_loss)]
        let seconds = at.checked_sub(before.at).filter(|_| before.at > 0)? as f64 / 1e9;
        let more = if value < before.value { value } else { value - before.value };
        self.rate = (SHORTEST..=LONGEST).contains(&seconds).then(|| (more / seconds).max(0.0));
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_values_that_are_near_each_other() {
        #[allow(clippy::cast_possible_truncation)]
        let second = |second: f64| (second * 1e9) as u64;
        let mut counter = Counter::default();
        assert_eq!(counter.rate(second(10.0), Some(5.0)), None);
        assert_eq!(counter.rate(second(20.0), Some(10.0)), Some(0.5));
        assert_eq!(counter.rate(second(20.0), Some(10.0)), Some(0.5), "the same reading once more");
        assert_eq!(counter.rate(second(30.0), Some(2.0)), Some(0.2), "it began again");
        assert_eq!(counter.rate(second(30.1), Some(3.0)), None, "too near");
        assert_eq!(counter.rate(second(1000.0), Some(4.0)), None, "too far");
        assert_eq!(counter.rate(second(900.0), Some(5.0)), None, "the clock was set back");
        assert_eq!(counter.rate(second(901.0), Some(6.0)), Some(1.0));
        assert_eq!(counter.rate(second(902.0), None), None);
        assert_eq!(counter.rate(second(903.0), Some(9.0)), None, "it was away");
    }
}
