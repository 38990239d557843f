//! What containers write: lines that are a function of the seed, each with its writer and sequence number.

use std::io::Write;

use crate::cri::Stream;
use crate::random::Random;

/// What a container writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Text of about 120 bytes, stdout.
    Plain,
    /// JSON objects with `level`, `trace_id`, `span_id`.
    Json,
    /// logfmt with `level`.
    Logfmt,
    /// Kubernetes' own format, stderr.
    Klog,
    /// Log lines and Java stack traces.
    Java,
    /// Log lines and Python tracebacks.
    Python,
    /// Log lines and Go panics.
    Go,
    /// ANSI colours.
    Ansi,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// Lines with carriage returns inside.
    Cr,
    /// Lines that end in CRLF.
    Crlf,
    /// Mostly empty lines.
    Empty,
    /// Letters of many scripts.
    Unicode,
    /// NUL bytes.
    Nul,
    /// Lines around and far over 16 KiB.
    Big,
    /// Lines of 1 to 2 MiB, beyond the default `max_line`.
    Huge,
    /// All of the above but `Huge`, both streams.
    Mixed,
}

/// One container instance's lines.
#[derive(Debug)]
pub(crate) struct Content {
    profile: Profile,
    random: Random,
    writer: u64,
    seq: u64,
    /// The stack trace under way, and its next line.
    trace: Option<(Profile, usize)>,
}

const WORDS: [&str; 32] = [
    "accepted",
    "backend",
    "cache",
    "checkout",
    "connection",
    "customer",
    "deadline",
    "evicted",
    "flushed",
    "gateway",
    "handled",
    "index",
    "invoice",
    "latency",
    "lookup",
    "migrated",
    "network",
    "order",
    "payment",
    "queue",
    "request",
    "response",
    "retry",
    "schedule",
    "session",
    "shipment",
    "stored",
    "timeout",
    "token",
    "upload",
    "user",
    "worker",
];
const LEVELS: [&str; 8] = ["info", "info", "info", "info", "debug", "warn", "error", "info"];
const SIZES: [usize; 10] = [16_383, 16_384, 16_385, 20_000, 32_768, 32_769, 40_000, 49_152, 65_536, 100_000];
const JAVA: [&str; 7] = [
    "Exception in thread \"main\" java.lang.IllegalStateException: order not found",
    "\tat com.example.shop.OrderService.find(OrderService.java:118)",
    "\tat com.example.shop.OrderController.get(OrderController.java:42)",
    "\tat java.base/java.lang.Thread.run(Thread.java:1583)",
    "Caused by: java.sql.SQLTimeoutException: query timed out",
    "\tat org.postgresql.jdbc.PgStatement.execute(PgStatement.java:311)",
    "\t... 23 more",
];
const PYTHON: [&str; 6] = [
    "Traceback (most recent call last):",
    "  File \"/app/worker.py\", line 88, in run",
    "    self.handle(message)",
    "  File \"/app/worker.py\", line 131, in handle",
    "    raise ValueError(\"bad message\")",
    "ValueError: bad message",
];
const GO: [&str; 6] = [
    "panic: runtime error: index out of range [5] with length 3",
    "goroutine 17 [running]:",
    "main.(*Server).handle(0xc000112000, {0xc0000a8000, 0x3, 0x8})",
    "\t/src/cmd/server/main.go:87 +0x1d3",
    "created by main.main in goroutine 1",
    "exit status 2",
];

impl Content {
    pub(crate) fn new(profile: Profile, seed: u64, writer: u64) -> Self {
        Self {
            profile,
            random: Random::named(seed, &format!("writer-{writer}")),
            writer,
            seq: 0,
            trace: None,
        }
    }

    /// Puts the next line, without a newline, in place of what `line` holds.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Stream {
        line.clear();
        self.seq += 1;
        if let Some((kind, at)) = self.trace {
            return self.trace_line(kind, at, line);
        }
        let kind = if self.profile == Profile::Mixed { self.mixed() } else { self.profile };
        match kind {
            Profile::Java | Profile::Python | Profile::Go if self.random.one_in(8) => {
                return self.trace_line(kind, 0, line);
            }
            Profile::Json => self.json(line),
            Profile::Logfmt => self.logfmt(line),
            Profile::Klog => self.klog(line),
            Profile::Ansi => self.ansi(line),
            Profile::InvalidUtf8 => self.invalid(line),
            Profile::Cr => self.text(line, "progress 10%\rprogress 55%\rprogress 100%"),
            Profile::Crlf => {
                self.text(line, "windows line");
                line.push(b'\r');
            }
            Profile::Empty if !self.random.one_in(4) => {}
            Profile::Unicode => {
                self.text(line, "größe 東京 Ωμέγα नमस्ते 🚀 e\u{301} \u{feff}\u{200b} \u{10ffff}")
            }
            Profile::Nul => {
                self.text(line, "nul");
                line.extend_from_slice(b"\0\0 after\0");
            }
            Profile::Big => {
                let size = SIZES[usize::try_from(self.random.below(10)).unwrap_or(0)];
                self.fill(line, size);
            }
            Profile::Huge => {
                let extra = usize::try_from(self.random.below(1 << 20)).unwrap_or(0);
                self.fill(line, (1 << 20) + extra);
            }
            _ => self.plain(line),
        }
        self.stream(kind)
    }

    fn stream(&mut self, kind: Profile) -> Stream {
        let stderr = match self.profile {
            Profile::Klog => true,
            Profile::Plain | Profile::Json | Profile::Logfmt => false,
            _ => self.random.one_in(3),
        };
        if stderr || (kind == Profile::Klog && self.profile != Profile::Mixed) {
            Stream::Stderr
        } else {
            Stream::Stdout
        }
    }

    fn mixed(&mut self) -> Profile {
        match self.random.below(1000) {
            0..=349 => Profile::Plain,
            350..=549 => Profile::Json,
            550..=659 => Profile::Logfmt,
            660..=739 => Profile::Klog,
            740..=769 => Profile::Java,
            770..=799 => Profile::Python,
            800..=829 => Profile::Go,
            830..=879 => Profile::Ansi,
            880..=909 => Profile::InvalidUtf8,
            910..=919 => Profile::Cr,
            920..=944 => Profile::Crlf,
            945..=969 => Profile::Empty,
            970..=989 => Profile::Unicode,
            990..=996 => Profile::Nul,
            _ => Profile::Big,
        }
    }

    fn tag(&self, line: &mut Vec<u8>) {
        put(line, format_args!("w={} seq={}", self.writer, self.seq));
    }

    fn words(&mut self, line: &mut Vec<u8>, count: u64) {
        for _ in 0..count {
            line.push(b' ');
            line.extend_from_slice(self.random.pick(&WORDS).as_bytes());
        }
    }

    fn plain(&mut self, line: &mut Vec<u8>) {
        self.tag(line);
        let count = 4 + self.random.below(16);
        self.words(line, count);
    }

    fn text(&mut self, line: &mut Vec<u8>, text: &str) {
        self.tag(line);
        line.push(b' ');
        line.extend_from_slice(text.as_bytes());
        self.words(line, 3);
    }

    fn json(&mut self, line: &mut Vec<u8>) {
        let level = self.random.pick(&LEVELS);
        let (trace, span) = (self.random.hex(32), self.random.hex(16));
        put(line, format_args!("{{\"level\":\"{level}\",\"msg\":\""));
        self.tag(line);
        self.words(line, 5);
        let ms = self.random.below(900);
        put(
            line,
            format_args!(
                "\",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",\"ms\":{ms},\"path\":\"/v1/\\\"x\\\"\"}}"
            ),
        );
    }

    fn logfmt(&mut self, line: &mut Vec<u8>) {
        let level = self.random.pick(&LEVELS);
        put(line, format_args!("level={level} "));
        self.tag(line);
        line.extend_from_slice(b" msg=\"query done");
        self.words(line, 3);
        let rows = self.random.below(5000);
        put(line, format_args!("\" rows={rows} duration={}ms", rows % 97));
    }

    fn klog(&mut self, line: &mut Vec<u8>) {
        let level = self.random.pick(&["I", "I", "I", "W", "E"]);
        let micros = self.random.below(1_000_000);
        put(line, format_args!("{level}1120 16:35:01.{micros:06}       1 controller.go:231] "));
        self.tag(line);
        self.words(line, 6);
    }

    fn ansi(&mut self, line: &mut Vec<u8>) {
        let colour = 31 + self.random.below(6);
        put(line, format_args!("\x1b[{colour};1mWARN\x1b[0m "));
        self.text(line, "\x1b[2Kcoloured");
    }

    fn invalid(&mut self, line: &mut Vec<u8>) {
        self.tag(line);
        line.push(b' ');
        for _ in 0..=self.random.below(6) {
            let bytes: &[u8] = self.random.pick(&[
                &b"\xff\xfe"[..],
                b"\xc3(",
                b"\xe2\x82",
                b"\xf0\x9f\x92",
                b"\xed\xa0\x80",
                b"\xc0\xaf",
                b"\xf4\x90\x80\x80",
                b"latin1 \xe9t\xe9",
                b"\x80",
            ]);
            line.extend_from_slice(bytes);
            self.words(line, 1);
        }
    }

    fn fill(&mut self, line: &mut Vec<u8>, size: usize) {
        self.tag(line);
        let block = usize::try_from(200 + self.random.below(3000)).unwrap_or(200);
        while line.len() < size.min(block) {
            self.words(line, 8);
        }
        while line.len() < size {
            let from = line.len().saturating_sub(block);
            let end = line.len().min(from + size - line.len());
            line.extend_from_within(from..end);
        }
        line.truncate(size);
    }

    fn trace_line(&mut self, kind: Profile, at: usize, line: &mut Vec<u8>) -> Stream {
        let lines: &[&str] = match kind {
            Profile::Java => &JAVA,
            Profile::Python => &PYTHON,
            _ => &GO,
        };
        line.extend_from_slice(lines[at].as_bytes());
        line.push(b' ');
        self.tag(line);
        self.trace = (at + 1 < lines.len()).then_some((kind, at + 1));
        Stream::Stderr
    }
}

/// Writing to a vector cannot fail.
fn put(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = line.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_but_an_empty_one_carries_writer_and_sequence() {
        use Profile::*;
        for profile in [
            Plain,
            Json,
            Logfmt,
            Klog,
            Java,
            Python,
            Go,
            Ansi,
            InvalidUtf8,
            Cr,
            Crlf,
            Empty,
            Unicode,
            Nul,
            Big,
            Huge,
            Mixed,
        ] {
            let mut content = Content::new(profile, 3, 9);
            let mut line = Vec::new();
            for seq in 1..=if matches!(profile, Big | Huge) { 20 } else { 500 } {
                content.next(&mut line);
                assert!(!line.contains(&b'\n'));
                let tag = format!("w=9 seq={seq}");
                let tagged = line.windows(tag.len()).any(|window| window == tag.as_bytes());
                assert!(line.is_empty() || tagged, "{profile:?}: {}", String::from_utf8_lossy(&line));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_lines() {
        let lines = |seed| {
            let (mut content, mut line, mut all) =
                (Content::new(Profile::Mixed, seed, 1), Vec::new(), Vec::new());
            for _ in 0..300 {
                let stream = content.next(&mut line);
                all.push((stream, line.clone()));
            }
            all
        };
        assert_eq!(lines(5), lines(5));
        assert_ne!(lines(5), lines(6));
    }
}
