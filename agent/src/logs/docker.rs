//! One entry of a log file of Docker's json-file driver:
//! `{"log":"body\n","stream":"stdout","attrs":{…},"time":"2026-11-20T16:35:01.123456789Z"}` (moby,
//! `daemon/logger/jsonfilelog/jsonlog`: keys without a value are left out; `log` ends with a newline unless the line goes
//! on in the stream's next entry, which it does after 16 KiB).
//!
//! The keys may come in any order, and others are passed over, but the entry must be one whole JSON object (RFC 8259), as
//! serde_json would read it; of a key that comes twice the last counts. No tree is made: the body stays where it is, and
//! only one in which something is escaped is written anew, into a buffer that is used again.

use sonde_wire::logs::Stream;

use super::cri;

/// Longest entry, bytes without its newline: what is longer is not Docker's (16 KiB, each byte written as six, and
/// attributes), and is a malformed record wherever a window of the reader happens to end.
pub const MAX_ENTRY: usize = (128 << 10) - 1;
/// Deepest nesting in a value that is passed over.
const DEPTH: u32 = 127;
/// Where half of a surrogate pair was: no byte of UTF-8, so that it is replaced and counted as such bytes are.
const LONE: u8 = 0xff;

/// An entry, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DockerLine {
    /// Nanoseconds since the epoch.
    pub time_unix_nano: u64,
    /// Where the container wrote it.
    pub stream: Stream,
    /// Whether the line goes on in the stream's next entry.
    pub partial: bool,
    /// Where the body starts in the entry.
    pub start: usize,
    /// Where it ends, without its newline.
    pub end: usize,
    /// Whether something in it is escaped.
    pub escaped: bool,
}

/// A string between its quotes.
#[derive(Clone, Copy)]
struct Text {
    start: usize,
    end: usize,
    escapes: usize,
    /// Length of an escaped newline that ends it.
    newline: usize,
}

/// Takes an entry (without its newline) apart; none if it is not one of Docker's.
pub fn parse(entry: &[u8]) -> Option<DockerLine> {
    if entry.len() > MAX_ENTRY {
        return None;
    }
    let mut scan = Scan { bytes: entry, at: 0 };
    scan.expect(b'{')?;
    let mut log = Text { start: 0, end: 0, escapes: 0, newline: 0 };
    let (mut stream, mut time) = (None, None);
    let mut is_first = true;
    loop {
        scan.skip_space();
        if is_first && scan.take(b'}') {
            break;
        }
        is_first = false;
        scan.expect(b'"')?;
        let key = scan.text()?;
        scan.expect(b':')?;
        let mut unescaped = Vec::new();
        let name = match &entry[key.start..key.end] {
            raw if key.escapes == 0 => raw,
            raw => {
                unescape(raw, &mut unescaped);
                &unescaped
            }
        };
        match name {
            b"log" => {
                scan.expect(b'"')?;
                log = scan.text()?;
            }
            b"stream" => {
                scan.expect(b'"')?;
                let text = scan.text()?;
                stream = match &entry[text.start..text.end] {
                    b"stdout" => Some(Stream::Stdout),
                    b"stderr" => Some(Stream::Stderr),
                    _ => return None,
                };
            }
            b"time" => {
                scan.expect(b'"')?;
                let text = scan.text()?;
                let stamp = &entry[text.start..text.end];
                time = Some(cri::parse_time(stamp).filter(|(_, end)| *end == stamp.len())?.0);
            }
            _ => scan.pass_value()?,
        }
        scan.skip_space();
        if scan.take(b'}') {
            break;
        }
        scan.expect(b',')?;
    }
    scan.skip_space();
    let is_whole = scan.at == entry.len();
    Some(DockerLine {
        time_unix_nano: time.filter(|_| is_whole)?,
        stream: stream?,
        partial: log.newline == 0,
        start: log.start,
        end: log.end - log.newline,
        escaped: log.escapes > usize::from(log.newline > 0),
    })
}

/// Writes what a string of [`parse`] means, behind what is in `out`.
pub fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (used, means) = escape(&rest[at..]);
        match means {
            Some(means) => out.extend_from_slice(means.encode_utf8(&mut [0; 4]).as_bytes()),
            None => out.push(LONE),
        }
        rest = rest.get(at + used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// Length and meaning of an escape; none = half of a surrogate pair.
fn escape(text: &[u8]) -> (usize, Option<char>) {
    let means = match text.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => {
            let first = unit(text);
            return match (first, text.get(6..).and_then(unit)) {
                (Some(high @ 0xd800..0xdc00), Some(low @ 0xdc00..0xe000)) => {
                    (12, char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)))
                }
                _ => (6, first.and_then(char::from_u32)),
            };
        }
        Some(other) => char::from(*other),
        None => return (1, None),
    };
    (2, Some(means))
}

/// The unit of `\uXXXX`.
fn unit(text: &[u8]) -> Option<u32> {
    let digits: &[u8; 4] = text.strip_prefix(b"\\u")?.first_chunk()?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        self.take(byte).then_some(())
    }

    /// The string behind an opening quote.
    #[inline]
    fn text(&mut self) -> Option<Text> {
        let start = self.at;
        let mut text = Text { start, end: start, escapes: 0, newline: 0 };
        loop {
            let rest = self.bytes.get(self.at..)?;
            let stop = memchr::memchr2(b'"', b'\\', rest)?;
            if stop > 0 {
                // Folded rather than searched for: there is none as a rule, and so it is read sixteen at a time.
                if rest[..stop].iter().fold(false, |any, byte| any | (*byte < 0x20)) {
                    return None;
                }
                text.newline = 0;
            }
            self.at += stop;
            if rest[stop] == b'"' {
                text.end = self.at;
                self.at += 1;
                return Some(text);
            }
            let (len, is_newline) = match rest.get(stop + 1)? {
                b'n' => (2, true),
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'r' | b't' => (2, false),
                b'u' => (6, unit(&rest[stop..])? == 0x0a),
                _ => return None,
            };
            text.escapes += 1;
            text.newline = if is_newline { len } else { 0 };
            self.at += len;
        }
    }

    /// Any value, whole.
    fn pass_value(&mut self) -> Option<()> {
        // A bit a level, the innermost lowest: set in an object.
        let (mut objects, mut depth) = (0u128, 0u32);
        loop {
            self.skip_space();
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = open == b'{';
                    self.skip_space();
                    if !self.take(open + 2) {
                        depth += 1;
                        if depth > DEPTH {
                            return None;
                        }
                        objects = objects << 1 | u128::from(is_object);
                        if is_object {
                            self.pass_key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.at += 1;
                    self.text()?;
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // Behind a value: the ends of what is around it, or the next one.
            loop {
                if depth == 0 {
                    return Some(());
                }
                let is_object = objects & 1 == 1;
                self.skip_space();
                if self.take(b',') {
                    if is_object {
                        self.pass_key()?;
                    }
                    break;
                }
                if !self.take(if is_object { b'}' } else { b']' }) {
                    return None;
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn pass_key(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.text()?;
        self.expect(b':')
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let is_it = self.bytes.get(self.at..)?.starts_with(word);
        self.at += word.len();
        is_it.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// One or more.
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

#[cfg(test)]
#[path = "docker/tests.rs"]
mod tests;
