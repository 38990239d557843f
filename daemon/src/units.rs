//! Durations and sizes as people write them in a configuration: `10s`, `64KiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time: a number and a unit (`ms`, `s`, `m`, `h`, `d`), or several (`1h30m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Interval(pub Duration);

/// A number of bytes: a plain number, or one with `B`, `KiB`, `MiB`, `GiB`, `TiB` (1024) or `kB`, `MB`, `GB`,
/// `TB` (1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// Why a text is not a duration or a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not a number followed by a known unit of time.
    #[error("`{0}` is not a duration (expected a number with ms, s, m, h or d, such as `10s`)")]
    Duration(String),
    /// Not a number followed by a known unit of size.
    #[error("`{0}` is not a size (expected bytes, or a number with KiB, MiB or GiB, such as `64KiB`)")]
    Size(String),
    /// Not a whole number of hundredths below 100.
    #[error("`{0}` is not a share (expected a whole number below 100 with %, such as `10%`)")]
    Share(String),
}

impl Interval {
    /// A whole number of seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A whole number of milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl Size {
    /// A multiple of 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// A multiple of 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// A multiple of 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = || UnitError::Duration(text.to_owned());
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(fail());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
            let number: u64 = rest[..digits].parse().map_err(|_| fail())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let millis = match &rest[..unit] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(fail()),
            };
            rest = &rest[unit..];
            let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(fail)?;
            total = total.checked_add(part).ok_or_else(fail)?;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units: [(u128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        if millis == 0 {
            return f.write_str("0s");
        }
        for (size, unit) in units {
            if millis.is_multiple_of(size) {
                return write!(f, "{}{unit}", millis / size);
            }
        }
        write!(f, "{millis}ms")
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = || UnitError::Size(text.to_owned());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| fail())?;
        let unit: u64 = match text[digits..].trim() {
            "" | "B" => 1,
            "KiB" | "Ki" => 1 << 10,
            "MiB" | "Mi" => 1 << 20,
            "GiB" | "Gi" => 1 << 30,
            "TiB" | "Ti" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(fail()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Plain::deserialize(from)?.text().parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Plain::deserialize(from)?.text().parse().map_err(de::Error::custom)
    }
}

/// A scalar that YAML may have read as a number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number with a unit")]
enum Plain {
    Number(u64),
    Text(String),
}

impl Plain {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, millis, printed) in [
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "90m"),
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("7d", 604_800_000, "7d"),
        ] {
            let got: Interval = text.parse().unwrap();
            assert_eq!(got.0.as_millis(), millis, "{text}");
            assert_eq!(got.to_string(), printed);
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused() {
        for text in ["", "10", "s", "10 parsecs", "-1s", "1.5s", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in [
            ("64KiB", 65_536, "64KiB"),
            ("0", 0, "0B"),
            ("10GB", 10_000_000_000, "9765625KiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("1 MiB", 1 << 20, "1MiB"),
        ] {
            let got: Size = text.parse().unwrap();
            assert_eq!(got.0, bytes, "{text}");
            assert_eq!(got.to_string(), printed);
        }
        for text in ["", "KiB", "1XB", "-1", "18446744073709551615KiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
