//! One entry of a CRI log file: `2026-11-20T16:35:01.123456789Z stdout F body` (kubernetes, CRI logging format:
//! RFC 3339 with nanoseconds, stream, tags joined by `:` of which the first is `F`ull or `P`artial, body as written).
//!
//! Offsets are fixed up to the fraction, so an entry costs no search. Both `Z` and `+hh:mm` occur (containerd writes the
//! node's zone). An empty line is `… stdout F ` with or without the space.

use sonde_wire::logs::Stream;

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CriLine {
    /// Nanoseconds since the epoch.
    pub time_unix_nano: u64,
    /// Where the container wrote it.
    pub stream: Stream,
    /// Whether the line goes on in the stream's next entry.
    pub partial: bool,
    /// Where the body starts in the entry.
    pub body: usize,
}

/// Longest header that is looked for, in bytes: time, stream and tags.
pub const MAX_HEADER: usize = 128;

/// Times outside of these are shown as them.
const FIRST_NANOS: u64 = 1;
const LAST_NANOS: u64 = i64::MAX as u64;

/// Reads the header of an entry (without its newline); none if it is not in the CRI format.
pub fn parse(entry: &[u8]) -> Option<CriLine> {
    let (time_unix_nano, after_time) = parse_time(entry)?;
    let rest = entry.get(after_time..)?;
    let stream = match rest.get(..8)? {
        b" stdout " => Stream::Stdout,
        b" stderr " => Stream::Stderr,
        _ => return None,
    };
    let tags = &rest[8..];
    let partial = match tags.first()? {
        b'F' => false,
        b'P' => true,
        _ => return None,
    };
    let start = after_time + 8;
    match tags.get(1) {
        None => Some(CriLine { time_unix_nano, stream, partial, body: start + 1 }),
        Some(b' ') => Some(CriLine { time_unix_nano, stream, partial, body: start + 2 }),
        // Tags that later versions may add; they end at the first space.
        Some(b':') => {
            let window = &tags[..tags.len().min(MAX_HEADER)];
            let end = memchr::memchr(b' ', window)?;
            Some(CriLine { time_unix_nano, stream, partial, body: start + end + 1 })
        }
        Some(_) => None,
    }
}

/// RFC 3339 at the start of `text`: the time and where it ends. A time before the epoch becomes its first nanosecond (0 is
/// OTLP's word for an unknown time), one that signed 64-bit nanoseconds cannot hold (after 2262-04-11) the last they can.
fn parse_time(text: &[u8]) -> Option<(u64, usize)> {
    let head: &[u8; 19] = text.first_chunk()?;
    let punctuation = head[4] == b'-'
        && head[7] == b'-'
        && matches!(head[10], b'T' | b't')
        && head[13] == b':'
        && head[16] == b':';
    if !punctuation {
        return None;
    }
    let year = two(head[0], head[1])? * 100 + two(head[2], head[3])?;
    let month = two(head[5], head[6])?;
    let day = two(head[8], head[9])?;
    let hour = two(head[11], head[12])?;
    let minute = two(head[14], head[15])?;
    let second = two(head[17], head[18])?;
    if !(1..=12).contains(&month)
        || day == 0
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0u64;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let mut scale = 1_000_000_000u64;
        while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
            if scale == 1 {
                return None;
            }
            nanos = nanos * 10 + u64::from(digit - b'0');
            scale /= 10;
            at += 1;
        }
        if scale == 1_000_000_000 {
            return None;
        }
        nanos *= scale;
    }
    let mut seconds = days_since_epoch(year, month, day) * 86_400
        + i64::from(hour) * 3600
        + i64::from(minute) * 60
        + i64::from(second);
    match text.get(at)? {
        b'Z' | b'z' => at += 1,
        sign @ (b'+' | b'-') => {
            let zone: &[u8; 5] = text.get(at + 1..)?.first_chunk()?;
            let (hours, minutes) = (two(zone[0], zone[1])?, two(zone[3], zone[4])?);
            if zone[2] != b':' || hours > 23 || minutes > 59 {
                return None;
            }
            let offset = i64::from(hours) * 3600 + i64::from(minutes) * 60;
            seconds -= if *sign == b'+' { offset } else { -offset };
            at += 6;
        }
        _ => return None,
    }
    let time = u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos);
    let time = if seconds < 0 { FIRST_NANOS } else { time.clamp(FIRST_NANOS, LAST_NANOS) };
    Some((time, at))
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_epoch(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year / 400;
    let of_era = year - era * 400;
    let shifted = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> Option<(u64, Stream, bool, &str)> {
        parse(text.as_bytes())
            .map(|line| (line.time_unix_nano, line.stream, line.partial, &text[line.body..]))
    }

    #[test]
    fn an_entry_gives_time_stream_tag_and_body() {
        let text = "2026-11-20T16:35:01.123456789Z stdout F hello world";
        assert_eq!(line(text), Some((1_795_192_501_123_456_789, Stream::Stdout, false, "hello world")));
        let text = "2026-11-20T18:35:01.5+02:00 stderr P  x\r";
        assert_eq!(line(text), Some((1_795_192_501_500_000_000, Stream::Stderr, true, " x\r")));
        assert_eq!(
            line("1970-01-01T00:00:01Z stdout F:note=1 x"),
            Some((1_000_000_000, Stream::Stdout, false, "x"))
        );
    }

    #[test]
    fn an_empty_line_is_an_entry_with_and_without_the_space() {
        for text in ["2026-11-20T16:35:01Z stdout F ", "2026-11-20T16:35:01Z stdout F"] {
            assert_eq!(line(text).map(|line| line.3), Some(""));
        }
    }

    #[test]
    fn a_time_that_the_field_cannot_hold_is_the_nearest_it_can_and_the_entry_is_one_all_the_same() {
        for (stamp, time) in [
            ("0000-01-01T00:00:00Z", 1),
            ("1969-12-31T23:59:59.999999999Z", 1),
            ("1970-01-01T00:00:00Z", 1),
            ("1970-01-01T00:00:00+01:00", 1),
            ("1970-01-01T00:00:00.000000002Z", 2),
            ("1969-12-31T23:00:00.000000002-01:00", 2),
            ("2262-04-11T23:47:16.854775806Z", i64::MAX as u64 - 1),
            ("2262-04-11T23:47:16.854775808Z", i64::MAX as u64),
            ("9999-12-31T23:59:60.999999999-23:59", i64::MAX as u64),
        ] {
            let text = format!("{stamp} stderr P x");
            assert_eq!(line(&text), Some((time, Stream::Stderr, true, "x")), "{stamp}");
        }
    }

    #[test]
    fn what_is_not_the_format_is_refused() {
        for text in [
            "",
            "hello",
            "2026-11-20",
            "2026-11-20T16:35:01Z",
            "2026-11-20T16:35:01Z stdin F x",
            "2026-13-20T16:35:01Z stdout F x",
            "2026-02-29T16:35:01Z stdout F x",
            "2026-11-20T24:35:01Z stdout F x",
            "2026-11-20T16:35:01.Z stdout F x",
            "2026-11-20T16:35:01.1234567890Z stdout F x",
            "2026-11-20T16:35:01 stdout F x",
            "2026-11-20T16:35:01+0200 stdout F x",
            "2026-11-20T16:35:01Z stdout X x",
            "2026-11-20T16:35:01Z stdout FX x",
            "2026-11-20T16:35:01Z  stdout F x",
        ] {
            assert_eq!(line(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_fail(entry in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(line) = parse(&entry) {
                prop_assert!(line.body <= entry.len());
            }
        }

        #[test]
        fn every_second_of_two_centuries_is_read_as_the_calendar_has_it(seconds in 1u64..7_258_118_400, nanos in 0u32..1_000_000_000, width in 1usize..=9) {
            // A second way to the date: count the years and months down from the epoch.
            let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
            let mut year = 1970u32;
            loop {
                let length = (1..=12).map(|month| u64::from(days_in(year, month))).sum();
                if days < length { break }
                days -= length;
                year += 1;
            }
            let mut month = 1;
            while days >= u64::from(days_in(year, month)) {
                days -= u64::from(days_in(year, month));
                month += 1;
            }
            let fraction = &format!("{nanos:09}")[..width];
            let text = format!("{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{fraction}Z stdout F b", days + 1, of_day / 3600, of_day / 60 % 60, of_day % 60);
            let kept: u64 = format!("{fraction:0<9}").parse().unwrap();
            prop_assert_eq!(line(&text), Some((seconds * 1_000_000_000 + kept, Stream::Stdout, false, "b")));
        }
    }
}
