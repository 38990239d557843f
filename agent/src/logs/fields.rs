//! Level, trace id and span id out of JSON and logfmt bodies: one walk over the top level, no tree, no allocation.
//!
//! A body is looked at only if it can be one of the two: `{…}`, or text with `level=`, `lvl=`, `severity=` or
//! `trace_id=` in it. What is not well-formed gives what was found up to there.

/// What a body says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// OTLP severity number, 0 = unset.
    pub severity_number: u8,
    /// The level as it was written.
    pub severity_text: &'a str,
    /// W3C trace id.
    pub trace_id: Option<[u8; 16]>,
    /// W3C span id.
    pub span_id: Option<[u8; 8]>,
}

/// Takes the fields out of a body.
pub fn parse(body: &str) -> Fields<'_> {
    let bytes = body.as_bytes();
    if bytes.first() == Some(&b'{') {
        let end = bytes.trim_ascii_end();
        return if end.last() == Some(&b'}') { json(body) } else { Fields::default() };
    }
    let has_key = memchr::memchr_iter(b'=', bytes).any(|equals| {
        let before = &bytes[..equals];
        before.ends_with(b"level")
            || before.ends_with(b"lvl")
            || before.ends_with(b"severity")
            || before.ends_with(b"trace_id")
    });
    if has_key { logfmt(body) } else { Fields::default() }
}

impl<'a> Fields<'a> {
    /// Whether there is nothing more to be found.
    fn is_complete(&self) -> bool {
        self.severity_number != 0 && self.trace_id.is_some() && self.span_id.is_some()
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &'a str) {
        // What all names begin with and how long they are; nearly all keys end here.
        if !matches!(key.first(), Some(b'l' | b's' | b't' | b'L' | b'S' | b'T'))
            || !(3..=13).contains(&key.len())
        {
            return;
        }
        match key {
            b"level" | b"severity" | b"lvl" | b"log.level" | b"loglevel" | b"severity_text"
            | b"SeverityText" | b"Level" | b"Severity" => {
                if self.severity_text.is_empty()
                    && let Some(number) = severity(value)
                {
                    self.severity_number = number;
                    self.severity_text = value;
                }
            }
            b"trace_id" | b"traceId" | b"traceid" | b"traceID" | b"trace.id" | b"TraceId" => {
                self.trace_id = self.trace_id.or(hex(value))
            }
            b"span_id" | b"spanId" | b"spanid" | b"spanID" | b"span.id" | b"SpanId" => {
                self.span_id = self.span_id.or(hex(value))
            }
            _ => {}
        }
    }
}

/// OTLP severity number of a level's name (logs data model, "Mapping of `SeverityNumber`"): the lowest of its range, and
/// the next for a more severe sibling. Numbers are the levels of pino and bunyan (10 to 60).
pub fn severity(level: &str) -> Option<u8> {
    let mut lower = [0u8; 12];
    let name = lower.get_mut(..level.len())?;
    name.copy_from_slice(level.as_bytes());
    name.make_ascii_lowercase();
    Some(match &*name {
        b"trace" | b"verbose" | b"finest" | b"10" => 1,
        b"debug" | b"dbg" | b"fine" | b"20" => 5,
        b"info" | b"information" | b"informational" | b"inf" | b"30" => 9,
        b"notice" => 10,
        b"warn" | b"warning" | b"wrn" | b"40" => 13,
        b"error" | b"err" | b"severe" | b"50" => 17,
        b"critical" | b"crit" => 18,
        b"alert" => 19,
        b"dpanic" | b"panic" | b"fatal" | b"emergency" | b"emerg" | b"60" => 21,
        _ => return None,
    })
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    // Looked at once for the whole text: a branch a digit cannot be predicted.
    let (mut out, mut seen, mut any) = ([0u8; N], 0, 0);
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low & 0xf;
        any |= *byte;
    }
    (seen <= 0xf && any != 0).then_some(out)
}

/// The value of each hexadecimal digit; above 15 for what is none.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0u8;
    while value < 16 {
        let digit = b"0123456789abcdef"[value as usize];
        table[digit as usize] = value;
        table[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    table
};

fn json(body: &str) -> Fields<'_> {
    let mut fields = Fields::default();
    let mut walk = Json { body, at: 1 };
    let _ = walk.members(&mut fields);
    fields
}

/// A position in a JSON text. Every delimiter it stops at is ASCII, so slices fall on character boundaries.
struct Json<'a> {
    body: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    fn members(&mut self, fields: &mut Fields<'a>) -> Option<()> {
        if self.peek()? == b'}' {
            return None;
        }
        loop {
            if self.peek()? != b'"' {
                return None;
            }
            let key = self.string()?;
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            let value = self.value()?;
            fields.set(key.as_bytes(), value);
            if fields.is_complete() {
                return None;
            }
            if self.peek()? != b',' {
                return None;
            }
            self.at += 1;
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.body.as_bytes();
        loop {
            let byte = *bytes.get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// The inside of a string, escapes as written; stands on its first quote, ends after its last.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            at += quote_or_backslash(self.body.as_bytes().get(at..)?)?;
            if self.body.as_bytes()[at] == b'"' {
                self.at = at + 1;
                return self.body.get(start..at);
            }
            at += 2;
        }
    }

    /// A value's text: a string's inside, a number's digits, nothing of an object or array.
    fn value(&mut self) -> Option<&'a str> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => {
                self.skip_nested()?;
                Some("")
            }
            _ => {
                let start = self.at;
                let rest = self.body.as_bytes().get(start..)?;
                let len = rest
                    .iter()
                    .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'))?;
                self.at = start + len;
                self.body.get(start..self.at)
            }
        }
    }

    fn skip_nested(&mut self) -> Option<()> {
        let bytes = self.body.as_bytes();
        let mut depth = 0u32;
        loop {
            match bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// Where the first quote or backslash is. Eight bytes at a time: most strings are shorter than what a vector search
/// costs to begin.
#[inline]
fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    // The lowest byte that is zero has its high bit set, and none below it has (S. E. Anderson, "Bit Twiddling Hacks").
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (at, chunk) in chunks.iter().enumerate().take(SHORT / 8) {
        let word = u64::from_le_bytes(*chunk);
        let found = zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let from = bytes.len().min(SHORT);
    if chunks.len() < SHORT / 8 {
        let at = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        return Some(chunks.len() * 8 + at);
    }
    memchr::memchr2(b'"', b'\\', &bytes[from..]).map(|at| from + at)
}

/// Strings up to here are searched without vectors, bytes.
const SHORT: usize = 64;

fn logfmt(body: &str) -> Fields<'_> {
    let mut fields = Fields::default();
    let bytes = body.as_bytes();
    let mut at = 0;
    while let Some(equals) = memchr::memchr(b'=', &bytes[at..]).map(|found| at + found) {
        let key_start = bytes[at..equals]
            .iter()
            .rposition(|byte| matches!(byte, b' ' | b'\t'))
            .map_or(at, |space| at + space + 1);
        let value_start = equals + 1;
        let (value, next) = if bytes.get(value_start) == Some(&b'"') {
            let mut quoted = Json { body, at: value_start };
            let Some(value) = quoted.string() else { break };
            (value, quoted.at)
        } else {
            let end = memchr::memchr2(b' ', b'\t', &bytes[value_start..])
                .map_or(bytes.len(), |space| value_start + space);
            (&body[value_start..end], end)
        };
        fields.set(&bytes[key_start..equals], value);
        at = next;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_json_body_gives_its_level_and_trace() {
        let body = format!(
            r#"{{"ts":1.5,"msg":"a \"level\":\"fatal\" b","ctx":{{"level":"debug","a":["}}"]}}, "level" : "WARN","trace_id":"{TRACE}","span_id":"{SPAN}"}}"#
        );
        let fields = parse(&body);
        assert_eq!((fields.severity_number, fields.severity_text), (13, "WARN"));
        assert_eq!(fields.trace_id.unwrap()[..2], [0x4b, 0xf9]);
        assert_eq!(fields.span_id.unwrap()[7], 0xb7);
    }

    #[test]
    fn a_number_is_a_level_too() {
        assert_eq!(parse(r#"{"level":50,"msg":"x"}"#).severity_number, 17);
    }

    #[test]
    fn a_logfmt_body_gives_its_level_and_trace() {
        let body = format!("ts=1 msg=\"x level=debug\" level=error trace_id={TRACE} span_id={SPAN} é=ü");
        let fields = parse(&body);
        assert_eq!((fields.severity_number, fields.severity_text), (17, "error"));
        assert!(fields.trace_id.is_some() && fields.span_id.is_some());
    }

    #[test]
    fn what_is_neither_or_not_a_level_gives_nothing() {
        for body in [
            "",
            "{",
            "{}",
            "plain level text",
            "a=b",
            r#"{"level":"purple"}"#,
            r#"{"level":{"a":1}}"#,
            r#"{"trace_id":"00000000000000000000000000000000"}"#,
            "level=",
            "{\"level\":\"info\"",
        ] {
            assert_eq!(parse(body), Fields::default(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_a_string_is_found_wherever_it_is(text in "[a\"\\\\é]{0,4}[a-zé\u{80}-\u{fff}]{0,90}[\"\\\\a]{0,3}") {
            let bytes = text.as_bytes();
            let expected = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(quote_or_backslash(bytes), expected);
        }

        #[test]
        fn hexadecimal_digits_are_read_as_the_standard_library_does(text in "[0-9a-fA-F]{16}", wrong in "[0-9a-fg-z\\PC]{8}") {
            let value = u64::from_str_radix(&text, 16).unwrap();
            prop_assert_eq!(hex::<8>(&text), (value != 0).then_some(value.to_be_bytes()));
            let is_hex = wrong.len() == 8 && wrong.bytes().all(|byte| byte.is_ascii_hexdigit());
            prop_assert!(is_hex || hex::<4>(&wrong).is_none());
        }

        #[test]
        fn no_text_can_make_it_fail(body in "[{\"\\\\a:,\\[\\]}= é]{0,40}") {
            let _ = parse(&body);
            let _ = parse(&format!("{{{body}}}"));
            let _ = parse(&format!("level={body}"));
        }

        #[test]
        fn it_agrees_with_a_json_parser(level in "(info|error|warn|none)", message in "\\PC{0,20}", number in any::<i32>()) {
            let body = serde_json::json!({"a": {"level": "fatal", "x": [message]}, "msg": message, "n": number, "level": level}).to_string();
            prop_assert_eq!(parse(&body).severity_number, severity(&level).unwrap_or(0));
        }
    }
}
