//! One entry of a CRI log file: `2026-11-20T16:35:01.123456789Z stdout F body` (kubernetes, CRI logging format:
//! RFC 3339 with nanoseconds, stream, tags joined by `:` of which the first is `F`ull or `P`artial, body as written).
//!
//! Offsets are fixed up to the fraction, so an entry costs no search. Both `Z` and `+hh:mm` occur (containerd writes the
//! node's zone). An empty line is `… stdout F ` with or without the space.
//!
//! Neighbours in a file mostly share their second: [`Clock`] keeps the last one and reads only what differs.

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

/// Reads the headers of entries that follow each other. Invariant: gives what [`parse`] gives, for any bytes.
#[derive(Debug, Default)]
pub struct Clock {
    known: Option<Second>,
}

/// A second that was read before.
#[derive(Clone, Copy, Debug)]
struct Second {
    /// The stamp up to the point before its fraction.
    text: [u8; POINT + 1],
    /// `Z` or `+hh:mm`, filled up with zeros.
    zone: [u8; 6],
    /// Length of the zone.
    zone_len: usize,
    /// The second's begin, nanoseconds since the epoch.
    nanos: u64,
}

/// Where the point before the fraction stands.
const POINT: usize = 19;
/// Where a fraction of nine digits ends, the one that is read quickly.
const ZONE: usize = POINT + 1 + 9;

impl Clock {
    /// Reads the header of an entry (without its newline); none if it is not in the CRI format.
    #[inline]
    pub fn parse(&mut self, entry: &[u8]) -> Option<CriLine> {
        if let Some(line) = self.known.as_ref().and_then(|second| second.parse(entry)) {
            return Some(line);
        }
        let line = parse(entry)?;
        self.known = Second::of(entry, line.time_unix_nano).or(self.known);
        Some(line)
    }
}

impl Second {
    /// The second of an entry in the format; none if its fraction has not nine digits, or if a time in it may be one that
    /// the field cannot hold.
    fn of(entry: &[u8], time_unix_nano: u64) -> Option<Self> {
        let text = *entry.first_chunk()?;
        let fraction = nine(entry.get(POINT + 1..)?.first_chunk()?)?;
        let mut zone = [0; 6];
        let zone_len = if matches!(entry.get(ZONE)?, b'Z' | b'z') { 1 } else { zone.len() };
        zone[..zone_len].copy_from_slice(entry.get(ZONE..ZONE + zone_len)?);
        let nanos = time_unix_nano.checked_sub(fraction)?;
        let is_exact =
            nanos.is_multiple_of(1_000_000_000) && (FIRST_NANOS..LAST_NANOS - 1_000_000_000).contains(&nanos);
        is_exact.then_some(Self { text, zone, zone_len, nanos })
    }

    /// The header of an entry of this second, in this zone, with nine digits and one tag.
    #[inline]
    fn parse(&self, entry: &[u8]) -> Option<CriLine> {
        let head: &[u8; ZONE + 1] = entry.first_chunk()?;
        if head[..POINT + 1] != self.text || head[ZONE] != self.zone[0] {
            return None;
        }
        if self.zone_len > 1 && entry.get(ZONE..ZONE + 6)? != self.zone {
            return None;
        }
        let nanos = nine(head.get(POINT + 1..)?.first_chunk()?)?;
        let after_time = ZONE + self.zone_len;
        let tail: &[u8; 10] = entry.get(after_time..)?.first_chunk()?;
        let stream = match tail.first_chunk()? {
            b" stdout " => Stream::Stdout,
            b" stderr " => Stream::Stderr,
            _ => return None,
        };
        let partial = match (tail[8], tail[9]) {
            (b'F', b' ') => false,
            (b'P', b' ') => true,
            _ => return None,
        };
        Some(CriLine { time_unix_nano: self.nanos + nanos, stream, partial, body: after_time + 10 })
    }
}

/// Nine decimal digits: eight of them at once, pairs of neighbours added up three times (D. Lemire, "Quickly parsing
/// eight digits").
#[inline]
fn nine(digits: &[u8; 9]) -> Option<u64> {
    let word = u64::from_le_bytes(*digits.first_chunk()?);
    let last = digits[8].wrapping_sub(b'0');
    // A digit's high half is 3, and stays 3 when 6 is added; a carry out of a byte leaves that byte's half wrong.
    let high = 0xf0f0_f0f0_f0f0_f0f0;
    let is_digits =
        word & high | (word.wrapping_add(0x0606_0606_0606_0606) & high) >> 4 == 0x3333_3333_3333_3333;
    if !is_digits || last > 9 {
        return None;
    }
    let ones = word - 0x3030_3030_3030_3030;
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let eight = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    Some(eight * 10 + u64::from(last))
}

/// RFC 3339 at the start of `text`: the time and where it ends. A time before the epoch becomes its first nanosecond (0 is
/// OTLP's word for an unknown time), one that signed 64-bit nanoseconds cannot hold (after 2262-04-11) the last they can.
pub(crate) fn parse_time(text: &[u8]) -> Option<(u64, usize)> {
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

    /// A stamp of few seconds, with parts that are nearly right.
    fn entry() -> impl Strategy<Value = Vec<u8>> {
        let fraction = prop_oneof![4 => "[.][0-9]{9}", 1 => "[.][0-9]{0,10}", 1 => "[.][0-9/:\\x00\\x7f]{9}", 1 => Just(String::new())];
        let zone = prop_oneof![4 => Just("Z"), 1 => Just("z"), 2 => Just("+02:00"), 1 => Just("-02:00"), 1 => Just("+02:60"), 1 => Just("")];
        let tail = prop_oneof![
            4 => " std(out|err) [FP] [a-z]{0,3}",
            1 => " std(out|err) ?[FPX]?(:[a-z ]{0,3})?",
            1 => "\\PC{0,12}"
        ];
        let stamp = prop_oneof![4 => "2026-11-20T16:35:0[12]", 1 => "2016-12-31T23:59:(59|60)", 1 => "(1969-12-31|1970-01-01)t(00:00:00|23:59:59)", 1 => "(2262-04-11|9999-04-11)T23:47:1[56]", 1 => "2026-1[123]-3[01]T2[34]:59:6[01]"];
        (stamp, fraction, zone, tail, any::<(u8, u8, bool)>()).prop_map(
            |(stamp, fraction, zone, tail, (at, byte, hurt))| {
                let mut entry = format!("{stamp}{fraction}{zone}{tail}").into_bytes();
                let at = usize::from(at) % entry.len();
                if hurt && byte % 4 == 0 {
                    entry[at] = byte;
                }
                entry
            },
        )
    }

    #[test]
    fn a_second_is_read_once_and_its_neighbours_quickly() {
        let mut clock = Clock::default();
        let first = b"2016-12-31T23:59:60.000000001+02:00 stderr F x";
        assert_eq!(clock.parse(first), parse(first));
        let second = clock.known.unwrap();
        let near = b"2016-12-31T23:59:60.999999999+02:00 stdout P y";
        assert_eq!(second.parse(near), parse(near));
        assert!(second.parse(near).is_some());
        for other in [
            &b"2016-12-31T23:59:60.999999999Z stdout P y"[..],
            b"2016-12-31T23:59:60.999999999+02:01 stdout P y",
            b"2016-12-31T23:59:60.999999999-02:00 stdout P y",
            b"2016-12-31T23:59:59.999999999+02:00 stdout P y",
            b"2016-12-31T23:59:60.99999999+02:00 stdout P yy",
        ] {
            assert!(second.parse(other).is_none());
        }
        let utc = Second::of(b"2016-12-31T23:59:60.000000001Z stderr F x", 5_000_000_001).unwrap();
        assert!(utc.parse(b"2016-12-31T23:59:60.999999999X stdout P y").is_none());
    }

    #[test]
    fn a_second_that_the_field_cannot_hold_whole_is_never_kept() {
        for [first, next] in [
            ["1969-12-31T23:59:59.000000001Z", "1969-12-31T23:59:59.500000000Z"],
            ["1970-01-01T00:00:00.000000001Z", "1970-01-01T00:00:00.000000000Z"],
            ["1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.000000001Z"],
            ["2262-04-11T23:47:16.854775806Z", "2262-04-11T23:47:16.954775806Z"],
            ["2262-04-11T23:47:17.854775807Z", "2262-04-11T23:47:17.999999999Z"],
            ["9999-12-31T23:59:60.854775807Z", "9999-12-31T23:59:60.000000000Z"],
        ] {
            let mut clock = Clock::default();
            for stamp in [first, next, first] {
                let text = format!("{stamp} stdout F x");
                assert_eq!(clock.parse(text.as_bytes()), parse(text.as_bytes()), "{first} {next}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_clock_gives_what_the_parser_gives(entries in proptest::collection::vec(entry(), 1..12)) {
            let mut clock = Clock::default();
            for entry in &entries {
                prop_assert_eq!(clock.parse(entry), parse(entry));
                // Every other beginning of it too: what is missing may not be made up.
                for end in 0..entry.len() {
                    prop_assert_eq!(clock.parse(&entry[..end]), parse(&entry[..end]));
                }
            }
        }

        #[test]
        fn nine_digits_are_read_as_the_standard_library_does(text in proptest::array::uniform9(prop_oneof![6 => b'0'..=b'9', 1 => any::<u8>()])) {
            let expected = std::str::from_utf8(&text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(nine(&text), expected.and_then(|text| text.parse().ok()));
        }

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
