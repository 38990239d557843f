//! Entries of log files, the lines that they make, and the fields in a line.

use std::io;
use std::time::Instant;

use serde::Deserialize;
use sonde_wire::logs::Stream;

use crate::logs::FileId;
use crate::logs::cri::{self, Clock};
use crate::logs::docker;
use crate::logs::fields;
use crate::logs::format::{self, AnyLines, Format, Lines};
use crate::logs::join::{Extent, Joiner, Step, most_extents};
use crate::logs::record::gather;

const MAX_LINE: usize = 1 << 20;

/// A file of a CRI runtime: a clock reads what the parser reads, a header and its body are the entry, and what is joined from
/// extents is what the fragments say one after another.
pub fn cri(file: &[u8]) {
    let mut clock = Clock::default();
    for entry in file.split(|byte| *byte == b'\n') {
        let line = cri::parse(entry);
        assert_eq!(clock.parse(entry), line);
        if let Some(line) = line {
            assert!(line.body <= entry.len() && line.body <= cri::MAX_HEADER + 64);
            assert_ne!(line.time_unix_nano, 0);
        }
    }
    joined_as_concatenated(file, Format::Cri);
    let _ = format::of_head(file);
}

/// A file of Docker's, the same, and an entry is one exactly if serde_json reads it as one.
pub fn docker(file: &[u8]) {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        log: String,
        stream: String,
        time: String,
    }
    for entry in file.split(|byte| *byte == b'\n') {
        let ours = docker::parse(entry);
        let mut body = Vec::new();
        if let Some(line) = ours {
            docker::unescape(&entry[line.start..line.end], &mut body);
            assert!(body.len() <= line.end - line.start, "an escape is longer than what it means");
        }
        let Ok(theirs) = serde_json::from_slice::<Entry>(entry) else { continue };
        let time = cri::parse_time(theirs.time.as_bytes()).filter(|(_, end)| *end == theirs.time.len());
        let is_one = matches!(theirs.stream.as_str(), "stdout" | "stderr") && time.is_some();
        // The stamp and the stream are not written with escapes: ours need not see through those.
        let has_escapes = entry.contains(&b'\\');
        match ours {
            None => assert!(!is_one || has_escapes || entry.len() > docker::MAX_ENTRY),
            Some(line) => {
                assert!(is_one);
                assert_eq!(Some(line.time_unix_nano), time.map(|(nanos, _)| nanos));
                assert_eq!(line.partial, !theirs.log.ends_with('\n'));
                let log = theirs.log.strip_suffix('\n').unwrap_or(&theirs.log);
                assert_eq!(body, log.as_bytes());
            }
        }
    }
    joined_as_concatenated(file, Format::Docker);
}

fn joined_as_concatenated(file: &[u8], format: Format) {
    let now = Instant::now();
    let most = most_extents(MAX_LINE);
    let mut lines = AnyLines::new(format);
    let mut joiner = Joiner::default();
    let mut parts: [Vec<u8>; 2] = Default::default();
    let (mut out, mut side) = (Vec::new(), Vec::new());
    let mut start = 0;
    while let Some(len) = memchr::memchr(b'\n', &file[start..]) {
        let entry = &file[start..start + len];
        let extent = Extent { file: FileId(1), start: start as u64, end: (start + len + 1) as u64 };
        start += len + 1;
        let Some(header) = lines.header(entry) else { continue };
        let body = lines.body(entry, &header).to_vec();
        let at = usize::from(header.stream == Stream::Stderr);
        parts[at].extend_from_slice(&body);
        match joiner.push(header.stream, header.partial, header.time_unix_nano, extent, most, now) {
            Step::Held => continue,
            Step::Single => assert_eq!(parts[at], body),
            Step::Whole(joined) => {
                let mut read_at = |_: &Extent, buffer: &mut [u8], offset: u64| -> io::Result<usize> {
                    let rest = usize::try_from(offset).ok().and_then(|at| file.get(at..)).unwrap_or_default();
                    let len = rest.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&rest[..len]);
                    Ok(len)
                };
                let gathered =
                    gather(&mut read_at, format, &joined.extents, MAX_LINE, &mut out, &mut side).unwrap();
                assert_eq!(out, parts[at], "joined from its extents");
                assert_eq!(gathered.cut, 0);
                assert_eq!(gathered.first.map(|first| first.time_unix_nano), Some(joined.time_unix_nano));
            }
        }
        parts[at].clear();
    }
}

/// What is found stands in the body, and what a JSON parser reads as the level is the level.
pub fn fields(body: &[u8]) {
    let body = String::from_utf8_lossy(body);
    let found = fields::parse(&body);
    let text = found.severity_text.as_bytes().as_ptr_range();
    let whole = body.as_bytes().as_ptr_range();
    let inside = text.start >= whole.start && text.end <= whole.end;
    assert!(found.severity_text.is_empty() || inside);
    assert!(found.severity_number <= 24);
    assert!(found.trace_id.is_none_or(|id| id != [0; 16]) && found.span_id.is_none_or(|id| id != [0; 8]));
    // A second look at the same bytes sees the same.
    assert_eq!(fields::parse(&body), found);
    // What is put behind a whole object's beginning does not change what was found before it.
    if let Some(rest) = body.strip_prefix('{')
        && serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|value| value.is_object())
        && !rest.trim_start().starts_with('}')
    {
        let first = format!("{{\"level\":\"warn\",{rest}");
        assert_eq!(fields::parse(&first).severity_number, 13);
    }
}

pub fn cri_seeds() -> Vec<Vec<u8>> {
    let file = "2026-11-20T16:35:01.123456789Z stdout P one \n2026-11-20T16:35:01.2+01:00 stderr F other\n\
        2026-11-20T16:35:01.123456790Z stdout P:tag two\n2026-11-20T16:35:02.1Z stdout F \nno entry\n\
        2026-11-20T16:35:03.000000001+05:30 stdout F\n";
    vec![file.into(), file.repeat(3).into_bytes()]
}

pub fn docker_seeds() -> Vec<Vec<u8>> {
    let file = concat!(
        r#"{"log":"one ","stream":"stdout","time":"2026-11-20T16:35:01.123456789Z"}"#,
        "\n",
        r#"{"log":"x\n","stream":"stderr","attrs":{"a":[1,-2.5e3,null,true,{"b":"\u0041"}]},"time":"2026-11-20T16:35:01Z"}"#,
        "\n",
        r#"{ "time" : "2026-11-20T16:35:01+01:00" , "stream":"stdout", "log":"two \"\\ud83d\ude00\u001b[0m\n" }"#,
        "\n",
        r#"{"stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        "\n",
    );
    vec![file.into(), file.repeat(2).into_bytes()]
}

pub fn fields_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"level":"info","msg":"a \"b\"","n":[1,{"x":null}],"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}"#,
        r#"{"a":{"level":"debug"},"severity":"ERROR","lvl":30}"#,
        r#"time=1 level=warn msg="a b=\"c\"" trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7 x="#,
        "plain text, no level",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
