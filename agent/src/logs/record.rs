//! From the entries of a line to a record: joining, the limit, UTF-8, fields.

use std::borrow::Cow;
use std::io;

use sonde_wire::logs::{LogRecord, Stream};
use sonde_wire::uid::{FileHash, RecordUid};

use super::cri::CriLine;
use super::fields::{self, Fields};
use super::format::{AnyLines, Format, Lines};
use super::join::Extent;
use super::redact::RuleSet;

const CHUNK: usize = 64 << 10;

/// What of a line goes into a record.
#[derive(Debug)]
pub struct Body<'a> {
    /// Shipped text.
    pub text: Cow<'a, str>,
    /// Cut at the limit.
    pub truncated: bool,
    /// Something was not UTF-8.
    pub invalid: bool,
}

/// A line that was read again from its extents.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Header of its first entry; none = not in the runtime's format.
    pub first: Option<CriLine>,
    /// Bytes of the extents that are not in the body for the limit's sake.
    pub cut: u64,
}

/// Cuts at the limit and replaces what is not UTF-8. A character that the limit splits is left out whole.
#[inline]
pub fn body(bytes: &[u8], max_line: usize, cut_before: bool) -> Body<'_> {
    let truncated = cut_before || bytes.len() > max_line;
    let bytes = bytes.get(..max_line).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Body { text: Cow::Borrowed(text), truncated, invalid: false },
        Err(error) => {
            let whole =
                if truncated && error.error_len().is_none() { &bytes[..error.valid_up_to()] } else { bytes };
            let text = String::from_utf8_lossy(whole);
            let invalid = matches!(text, Cow::Owned(_));
            Body { text, truncated, invalid }
        }
    }
}

/// What is the same for all records of a visit.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// When the agent read it, nanoseconds since the epoch.
    pub observed_nanos: u64,
    /// Whether fields are taken out of bodies.
    pub parse: bool,
    /// What is taken out of bodies.
    pub redact: RuleSet,
    /// How the lines are written.
    pub format: Format,
    /// Identity of the file in which the record starts.
    pub hash: FileHash,
}

/// The record of a body.
#[inline]
pub fn record<'a>(
    context: Context,
    header: Option<CriLine>,
    body: &'a Body<'_>,
    offset: u64,
) -> LogRecord<'a> {
    let fields = if context.parse { fields::parse(&body.text) } else { Fields::default() };
    LogRecord {
        time_unix_nano: match header {
            // 0 of a plain line: a receiver that makes names of times must not take this reading's for it.
            Some(header) => header.time_unix_nano,
            None => context.observed_nanos,
        },
        observed_time_unix_nano: context.observed_nanos,
        severity_number: fields.severity_number,
        severity_text: fields.severity_text,
        body: &body.text,
        trace_id: fields.trace_id,
        span_id: fields.span_id,
        stream: header.map_or(Stream::Unknown, |header| header.stream),
        uid: RecordUid { file: context.hash, offset },
        truncated: body.truncated,
        malformed: header.is_none(),
        attributes: &[],
    }
}

/// `pread` on an extent's file.
pub type ReadAt<'a> = &'a mut dyn FnMut(&Extent, &mut [u8], u64) -> io::Result<usize>;

/// Reads a record's entries again and joins their bodies in `out`, up to `max_line`; `side` is room to read into. Behind an
/// entry that ends a line and before the next one stands a newline.
pub fn gather(
    read_at: ReadAt<'_>,
    format: Format,
    extents: &[Extent],
    max_line: usize,
    out: &mut Vec<u8>,
    side: &mut Vec<u8>,
) -> io::Result<Gathered> {
    out.clear();
    let mut gathered = Gathered::default();
    let mut lines = AnyLines::new(format);
    // As much of an entry is read as makes its header and a whole body.
    let most = max_line + lines.most_header();
    let mut is_first = true;
    let mut is_line_over = false;
    for (nth, extent) in extents.iter().enumerate() {
        let rest_after: u64 = extents[nth + 1..].iter().map(|extent| extent.end - extent.start).sum();
        let mut at = extent.start;
        let mut room = CHUNK;
        if lines.has_holes() {
            at = behind_hole(&mut *read_at, extent, side)?;
        }
        while at < extent.end {
            let wanted = usize::try_from(extent.end - at).unwrap_or(usize::MAX).min(room);
            side.resize(wanted, 0);
            if read_at(extent, side, at)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let at_end = at + wanted as u64 == extent.end;
            let mut rest = side.as_slice();
            let mut used = 0;
            while !rest.is_empty() {
                let newline = memchr::memchr(b'\n', rest);
                if newline.is_none() && !at_end && wanted < most {
                    break;
                }
                let entry = &rest[..newline.unwrap_or(rest.len())];
                let header = lines.header(entry);
                if is_first {
                    gathered.first = header;
                    is_first = false;
                }
                let text = header.as_ref().map_or(entry, |header| lines.body(entry, header));
                if std::mem::replace(&mut is_line_over, header.is_some_and(|header| !header.partial)) {
                    if out.len() >= max_line {
                        gathered.cut = extent.end - at - used as u64 + rest_after;
                        return Ok(gathered);
                    }
                    out.push(b'\n');
                }
                let taken = text.len().min(max_line - out.len());
                out.extend_from_slice(&text[..taken]);
                let unread = extent.end - at - (used + entry.len()) as u64 - u64::from(newline.is_some());
                if taken < text.len() || (newline.is_none() && unread > 0) {
                    gathered.cut = (text.len() - taken) as u64 + unread + rest_after;
                    return Ok(gathered);
                }
                let step = entry.len() + usize::from(newline.is_some());
                used += step;
                rest = &rest[step..];
            }
            if used == 0 {
                room = (room * 2).min(most);
                if wanted < room.min(usize::try_from(extent.end - at).unwrap_or(usize::MAX)) {
                    continue;
                }
                return Err(io::ErrorKind::InvalidData.into());
            }
            at += used as u64;
        }
    }
    Ok(gathered)
}

/// Where the NULs end with which an extent begins; its end, if there is nothing else.
fn behind_hole(read_at: ReadAt<'_>, extent: &Extent, side: &mut Vec<u8>) -> io::Result<u64> {
    let mut at = extent.start;
    while at < extent.end {
        side.resize(usize::try_from(extent.end - at).unwrap_or(usize::MAX).min(CHUNK), 0);
        if read_at(extent, side, at)? < side.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(nuls) = side.iter().position(|byte| *byte != 0) else {
            at += side.len() as u64;
            continue;
        };
        return Ok(at + nuls as u64);
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::tail::FileId;
    use super::*;
    use proptest::prelude::*;

    fn join(files: &[&[u8]], extents: &[(u32, u64, u64)], max_line: usize) -> (Vec<u8>, Gathered) {
        let extents: Vec<Extent> =
            extents.iter().map(|&(file, start, end)| Extent { file: FileId(file), start, end }).collect();
        let mut read_at = |extent: &Extent, buffer: &mut [u8], offset: u64| {
            let from = &files[extent.file.0 as usize][offset as usize..];
            let len = from.len().min(buffer.len());
            buffer[..len].copy_from_slice(&from[..len]);
            Ok(len)
        };
        let (mut out, mut side) = (Vec::new(), Vec::new());
        let gathered = gather(&mut read_at, Format::Cri, &extents, max_line, &mut out, &mut side).unwrap();
        (out, gathered)
    }

    #[test]
    fn fragments_in_two_files_make_one_body() {
        let old = b"2026-11-20T16:35:01Z stdout F x\n2026-11-20T16:35:02Z stdout P ab\n2026-11-20T16:35:02Z stdout P cd\n";
        let new = b"2026-11-20T16:35:03Z stdout F ef\n";
        let (out, gathered) = join(&[old, new], &[(0, 32, 98), (1, 0, 33)], 100);
        assert_eq!(out, b"abcdef");
        assert_eq!(gathered.first.map(|first| first.time_unix_nano / 1_000_000_000 % 60), Some(2));
        assert_eq!(gathered.cut, 0);
    }

    #[test]
    fn a_character_that_the_limit_splits_is_left_out_and_other_bytes_are_replaced() {
        let body_of = |bytes, limit| {
            let body = body(bytes, limit, false);
            (body.text.into_owned(), body.truncated, body.invalid)
        };
        assert_eq!(body_of("aé".as_bytes(), 2), ("a".to_owned(), true, false));
        assert_eq!(body_of(b"a\xc3", 9), ("a\u{fffd}".to_owned(), false, true));
        assert_eq!(body_of(b"\xffa", 9), ("\u{fffd}a".to_owned(), false, true));
    }

    proptest! {
        #[test]
        fn what_is_not_in_the_body_is_counted(parts in proptest::collection::vec(0usize..90_000, 1..5), max_line in 1usize..200_000) {
            let mut file = Vec::new();
            let mut whole = Vec::new();
            for (nth, len) in parts.iter().enumerate() {
                let text: Vec<u8> = (0..*len).map(|at| b'a' + ((at + nth) % 26) as u8).collect();
                let tag = if nth + 1 == parts.len() { "F" } else { "P" };
                file.extend_from_slice(format!("2026-11-20T16:35:01Z stdout {tag} ").as_bytes());
                file.extend_from_slice(&text);
                file.push(b'\n');
                whole.extend_from_slice(&text);
            }
            let (out, gathered) = join(&[&file], &[(0, 0, file.len() as u64)], max_line);
            let kept = whole.len().min(max_line);
            prop_assert_eq!(&out[..], &whole[..kept]);
            prop_assert_eq!(gathered.cut > 0, whole.len() > max_line);
            prop_assert!(gathered.cut as usize >= whole.len() - kept);
            prop_assert!(gathered.cut as usize <= whole.len() - kept + parts.len() * 31);
        }
    }
}
