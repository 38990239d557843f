//! Times as RFC 3339 writes them, with nanoseconds.

use sonde_wire::view::RecordView;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A record's time: the source's, else when it was observed, else when we received it.
pub fn of_record(record: &RecordView<'_>, received: u64) -> u64 {
    let times = [record.time_unix_nano, record.observed_time_unix_nano, received];
    times.into_iter().find(|time| *time != 0).unwrap_or(0)
}

/// `2026-11-20T18:45:50.123456789Z` for Unix nanoseconds. The range of `u64` ends in the year 2554.
pub fn format(unix_nano: u64) -> String {
    let (seconds, nanos) = (unix_nano / 1_000_000_000, unix_nano % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(0));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Unix nanoseconds of an RFC 3339 time (section 5.6), with any number of decimals; what is finer than nanoseconds
/// is cut off. `None` where it is none. Years end with 9999 and begin with 0, so that it may be before 1970 or lie beyond
/// what a record's time can be.
pub fn parse_any(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, set: &[u8]| bytes.get(at).is_some_and(|byte| set.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // 60: a leap second, read as the next minute's first.
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(decimals) = rest.strip_prefix('.') {
        let len = decimals.find(|c: char| !c.is_ascii_digit()).unwrap_or(decimals.len());
        if len == 0 {
            return None;
        }
        for place in 0..9 {
            nanos =
                nanos * 10 + decimals.as_bytes()[..len].get(place).map_or(0, |digit| i64::from(digit - b'0'));
        }
        rest = &decimals[len..];
    }
    let offset = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        // A `+` that was not percent-encoded in a query arrives as a space.
        [sign @ (b'+' | b'-' | b' '), h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) =>
        {
            let digit = |byte: &u8| i64::from(byte - b'0');
            let (hours, minutes) = (digit(h1) * 10 + digit(h2), digit(m1) * 10 + digit(m2));
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

/// Year, month, day of a day counted from 1970-01-01 (proleptic Gregorian; H. Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The inverse of [`civil`] (`days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_read_and_print() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("2000-02-29T23:59:59.999999999Z", 951_868_799_999_999_999),
            ("2026-11-20T18:45:50.100000000Z", 1_795_200_350_100_000_000),
        ] {
            assert_eq!(parse_any(text), Some(i128::from(nanos)), "{text}");
            assert_eq!(format(nanos), text);
        }
        assert_eq!(parse_any("1970-01-01T01:00:00.5+01:00"), Some(500_000_000));
        assert_eq!(parse_any("1970-01-01t00:00:00 00:00"), Some(0));
        assert_eq!(parse_any("1969-12-31T23:59:59.5Z"), Some(-500_000_000));
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_any(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_reads_back(nanos: u64) {
            prop_assert_eq!(parse_any(&format(nanos)), Some(i128::from(nanos)));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String, tail in "[0-9TZ:.+é-]{0,30}") {
            parse_any(&text);
            parse_any(&format!("2026-01-01T{tail}"));
        }
    }
}
