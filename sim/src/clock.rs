//! Stamps as the runtime and the kubelet write them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Strictly increasing wall-clock stamps in nanoseconds: no two entries of the node share one.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: u64,
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    /// Appends a new stamp as Go's `time.RFC3339Nano` does (containerd's format): trailing zeros of the fraction cut.
    pub(crate) fn append_stamp(&mut self, out: &mut Vec<u8>) {
        self.last = now_nanos().max(self.last + 1);
        let (second, nanos) = (self.last / 1_000_000_000, self.last % 1_000_000_000);
        if second != self.second || self.text.is_empty() {
            let civil = Civil::from_unix(second);
            self.second = second;
            self.text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
            )
            .into_bytes();
        }
        out.extend_from_slice(&self.text);
        if nanos > 0 {
            let mut digits = [b'.'; 10];
            let mut rest = nanos;
            for digit in digits[1..].iter_mut().rev() {
                // A remainder of 10 fits a byte.
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
            let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |at| at + 1);
            out.extend_from_slice(&digits[..end]);
        }
        out.push(b'Z');
    }
}

pub(crate) fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The kubelet's suffix of a rotated file, `YYYYMMDD-HHMMSS`; with `millis` also `.mmm`, for nodes that rotate more
/// than once a second.
pub(crate) fn rotation_suffix(nanos: u64, millis: bool) -> String {
    let c = Civil::from_unix(nanos / 1_000_000_000);
    let mut text =
        format!("{:04}{:02}{:02}-{:02}{:02}{:02}", c.year, c.month, c.day, c.hour, c.minute, c.second);
    if millis {
        text.push_str(&format!(".{:03}", nanos / 1_000_000 % 1000));
    }
    text
}

/// Whole seconds, as Kubernetes objects carry them.
pub(crate) fn rfc3339_seconds(nanos: u64) -> String {
    let c = Civil::from_unix(nanos / 1_000_000_000);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// Howard Hinnant's `civil_from_days`, proleptic Gregorian calendar, UTC.
    fn from_unix(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_dates_are_right() {
        assert_eq!(rfc3339_seconds(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339_seconds(951_827_696_000_000_000), "2000-02-29T12:34:56Z");
        assert_eq!(rotation_suffix(1_795_192_438_042_000_000, false), "20261120-163358");
        assert_eq!(rotation_suffix(1_795_192_438_042_000_000, true), "20261120-163358.042");
    }

    #[test]
    fn stamps_increase_and_never_repeat() {
        let mut clock = Clock::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let mut text = Vec::new();
            clock.append_stamp(&mut text);
            assert!(!text.ends_with(b"0Z"), "a fraction keeps no trailing zero");
            assert!(seen.insert(text));
        }
    }
}
