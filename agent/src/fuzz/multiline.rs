//! Several lines in one record.

use std::time::Instant;

use sonde_wire::logs::Stream;

use crate::config::MultilineRule;
use crate::logs::FileId;
use crate::logs::group::{Groups, Line};
use crate::logs::join::{Extent, Joined};
use crate::logs::multiline::Rules;
use crate::logs::pod_path::pod_dir;

const PRESETS: [&str; 7] = ["java", "python", "go", "dotnet", "node", "ruby", "auto"];
const MAX_LINE: usize = 4096;

/// A rule (by the first byte a preset, or else the first line's pattern) over the lines that follow: no line is lost or changes its
/// place, and reading again from where any record begins gives the records that follow as they were.
pub fn multiline(data: &[u8]) {
    let Some((&which, mut text)) = data.split_first() else { return };
    let mut of = MultilineRule { max_lines: 20, ..MultilineRule::default() };
    match PRESETS.get(usize::from(which)) {
        Some(preset) => of.preset = (*preset).to_owned(),
        None => {
            let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
            of.start = String::from_utf8_lossy(&text[..end]).into_owned();
            text = text.get(end + 1..).unwrap_or_default();
        }
    }
    let Ok(rules) = Rules::new(&[of], MAX_LINE) else { return };
    let rule = rules.for_container(&pod_dir("n_p_u").unwrap(), "c").unwrap();
    let now = Instant::now();
    // Each line is an entry, and each record's extents are side by side: one.
    let records = |from: u64| {
        let mut groups = Groups::default();
        let mut records: Vec<(u64, u64, u32)> = Vec::new();
        let mut add = |record: Joined| {
            let [extent] = record.extents.as_slice() else { panic!("{:?}", record.extents) };
            records.push((extent.start, extent.end, record.lines));
        };
        let mut start = from;
        while let Some(rest) = text.get(usize::try_from(start).unwrap()..).filter(|rest| !rest.is_empty()) {
            let len = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let end = start + len as u64 + 1;
            let extent = [Extent { file: FileId(1), start, end }];
            let line = Line {
                stream: Stream::Stdout,
                extents: &extent,
                first_stamp: end,
                last_stamp: end,
                cut: false,
                text: &rest[..len],
                bytes: len as u64,
            };
            if let Some(ended) = groups.push(line, &rule, 10, now) {
                add(ended);
            }
            start = end;
            if len == rest.len() {
                break;
            }
        }
        groups.take(Stream::Stdout).into_iter().for_each(add);
        records
    };
    let all = records(0);
    let mut end = 0;
    for (at, record) in all.iter().enumerate() {
        assert_eq!(record.0, end);
        end = record.1;
        assert!(record.2 >= 1 && record.2 <= 20);
        assert!(record.2 == 1 || record.1 - record.0 <= MAX_LINE as u64 + 1);
        // Not at each of very many.
        if at < 40 {
            assert_eq!(records(record.0), all[at..], "read again from {}", record.0);
        }
    }
    assert!(end >= text.len() as u64);
}

pub fn multiline_seeds() -> Vec<Vec<u8>> {
    let traces: [(u8, &str); 7] = [
        (
            0,
            "2026-11-20 ERROR x\njava.lang.IllegalStateException: no\n\tat a.B.c(B.java:5)\n\t... 3 more\nCaused by: java.io.IOException\n\tat a.B.d(B.java:7)\nnext\n",
        ),
        (
            1,
            "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    f()\nValueError: x\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"b.py\", line 1, in g\nKeyError: 'a'\nnext\n",
        ),
        (
            2,
            "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:5 +0x1d\nexit status 2\nnext\n",
        ),
        (
            3,
            "System.InvalidOperationException: x\n ---> System.IO.IOException: y\n   at A.B() in C.cs:line 5\n   --- End of inner exception stack trace ---\n   at D()\nnext\n",
        ),
        (
            4,
            "/app/a.js:5\n    throw new Error('x')\n    ^\n\nError: x\n    at f (/app/a.js:5:9) {\n  code: 'E'\n}\n\nNode.js v20.0.0\nnext\n",
        ),
        (5, "a.rb:3:in `f': no (RuntimeError)\n\tfrom a.rb:7:in `<main>'\nnext\n"),
        (
            6,
            "INFO a\nTraceback (most recent call last):\n  File \"a.py\", line 3, in f\nE: x\nException in thread \"main\" a.B: x\n\tat a.B.c(B.java:5)\n",
        ),
    ];
    let mut seeds: Vec<Vec<u8>> =
        traces.iter().map(|(which, text)| [&[*which], text.as_bytes()].concat()).collect();
    seeds.push(b"\x09^\\d{4}-\n2026-01-01 a\n b\n c\n2026-01-01 d\n".to_vec());
    seeds
}
