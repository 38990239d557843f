//! Level, trace id and span id out of JSON and logfmt bodies: one walk over the top level, no tree, no allocation.
//!
//! A body is looked at only if it can be one of the two: `{…}`, or text with `level=`, `lvl=`, `severity=` or
//! `trace_id=` in it. What is not well-formed gives what was found up to there.

use std::sync::LazyLock;

use memchr::memmem::Finder;

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

static EQUALS: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    [Finder::new("level="), Finder::new("lvl="), Finder::new("severity="), Finder::new("trace_id=")]
});

/// Takes the fields out of a body.
pub fn parse(body: &str) -> Fields<'_> {
    let bytes = body.as_bytes();
    if bytes.first() == Some(&b'{') {
        let end = bytes.trim_ascii_end();
        return if end.last() == Some(&b'}') { json(body) } else { Fields::default() };
    }
    if bytes.len() < 6
        || memchr::memchr(b'=', bytes).is_none()
        || !EQUALS.iter().any(|finder| finder.find(bytes).is_some())
    {
        return Fields::default();
    }
    logfmt(body)
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: &[u8], value: &'a str) {
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
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    out.iter().any(|byte| *byte != 0).then_some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

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
            at += memchr::memchr2(b'"', b'\\', self.body.as_bytes().get(at..)?)?;
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
