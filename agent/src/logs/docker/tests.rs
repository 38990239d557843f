use proptest::prelude::*;
use serde_json::Value;

use super::*;

const STAMP: &str = "2026-11-20T16:35:01.123456789Z";
const NANOS: u64 = 1_795_192_501_123_456_789;

/// Time, stream, whether partial, body.
type Read = Option<(u64, Stream, bool, Vec<u8>)>;

fn read(entry: &[u8]) -> Read {
    let line = parse(entry)?;
    let raw = &entry[line.start..line.end];
    let mut body = Vec::new();
    unescape(raw, &mut body);
    assert_eq!(line.escaped, memchr::memchr(b'\\', raw).is_some());
    Some((line.time_unix_nano, line.stream, line.partial, body))
}

/// The same by serde_json, with its tree.
fn read_by_tree(entry: &str) -> Read {
    let Value::Object(map) = serde_json::from_str(entry).ok()? else { return None };
    let text = |key: &str| match map.get(key) {
        None => Some(None),
        Some(Value::String(text)) => Some(Some(text.as_str())),
        Some(_) => None,
    };
    let stream = match text("stream")? {
        Some("stdout") => Stream::Stdout,
        Some("stderr") => Stream::Stderr,
        _ => return None,
    };
    let stamp = text("time")??.as_bytes();
    let (time, _) = cri::parse_time(stamp).filter(|(_, end)| *end == stamp.len())?;
    let log = text("log")?.unwrap_or_default();
    let body = log.strip_suffix('\n');
    Some((time, stream, body.is_none(), body.unwrap_or(log).as_bytes().to_vec()))
}

fn entry(log: &str) -> String {
    format!("{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"{STAMP}\"}}")
}

fn body(log: &str) -> (bool, String) {
    let (_, _, partial, body) = read(entry(log).as_bytes()).unwrap();
    (partial, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn an_entry_gives_time_stream_and_body_and_one_without_a_newline_goes_on() {
    let line = read(br#"{"log":"hello world\n","stream":"stderr","time":"2026-11-20T18:35:01.5+02:00"}"#);
    assert_eq!(line, Some((1_795_192_501_500_000_000, Stream::Stderr, false, b"hello world".to_vec())));
    assert_eq!(read(entry("part").as_bytes()), Some((NANOS, Stream::Stdout, true, b"part".to_vec())));
    // The last fragment of a line that ended where the one before did, and an empty one that the driver leaves out.
    assert_eq!(body("\\n"), (false, String::new()));
    let empty = format!("{{\"stream\":\"stdout\",\"time\":\"{STAMP}\"}}");
    assert_eq!(read(empty.as_bytes()), Some((NANOS, Stream::Stdout, true, Vec::new())));
}

#[test]
fn a_body_without_an_escape_but_its_newline_stays_where_it_is() {
    for (log, escaped) in
        [("plain\\n", false), ("plain\\u000a", false), ("a\\tb\\n", true), ("a\\n\\n", true)]
    {
        assert_eq!(parse(entry(log).as_bytes()).unwrap().escaped, escaped, "{log}");
    }
}

#[test]
fn escapes_mean_what_json_says() {
    assert_eq!(body(r#"\"\\\/\b\f\n\r\t\u00e9\u003c\ud83d\ude00é\n"#).1, "\"\\/\u{8}\u{c}\n\r\té<😀é");
    // An escaped backslash before an n is no newline.
    assert_eq!(body(r"C:\\n"), (true, "C:\\n".to_owned()));
    assert_eq!(body(r"a\n\n"), (false, "a\n".to_owned()));
}

#[test]
fn half_a_surrogate_pair_is_one_replacement_and_no_utf8() {
    for log in [r"a\ud83db\n", r"a\ude00b\n"] {
        let bytes = read(entry(log).as_bytes()).unwrap().3;
        assert!(std::str::from_utf8(&bytes).is_err());
        assert_eq!(String::from_utf8_lossy(&bytes), "a\u{fffd}b");
    }
    assert_eq!(body(r"\ud83d\ud83d\ude00\n").1, "\u{fffd}😀");
    assert_eq!(body(r"\ud83d\n").1, "\u{fffd}");
}

#[test]
fn further_keys_are_passed_over_in_any_order() {
    let text = format!(
        r#" {{ "attrs" : {{"tag":"a,b","deep":[[],{{}},{{"log":"x"}},-1.5e+3,true,false,null]}} , "time":"{STAMP}","\u006cog":"x\n" , "stream":"stderr"}} "#
    );
    assert_eq!(read(text.as_bytes()), Some((NANOS, Stream::Stderr, false, b"x".to_vec())));
    assert_eq!(read(text.as_bytes()), read_by_tree(&text));
}

#[test]
fn what_is_not_one_whole_object_of_dockers_is_refused() {
    for text in [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "hello",
        "{\"log\":\"x\\n\"}",
        r#"{"log":"x\n","stream":"stdin","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x\n","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x\n","stream":"stdout","time":"yesterday"}"#,
        r#"{"log":"x\n","stream":"stdout","time":"2026-11-20T16:35:01Z "}"#,
        r#"{"log":"x\n","stream":"stdout","time":"2026-11-20T16:35:01Z"}x"#,
        r#"{"log":"x\n","stream":"stdout","time":"2026-11-20T16:35:01Z""#,
        r#"{"log":"x\n","stream":"stdout","time":"2026-11-20T16:35:01Z",}"#,
        r#"{"log":"x\n" "stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x\q","stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x\u00g0","stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"abc{"log":"x\n","stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":1,"stream":"stdout","time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x","a":01,"time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x","a":[1}],"time":"2026-11-20T16:35:01Z"}"#,
        r#"{"log":"x","a":{"b"},"time":"2026-11-20T16:35:01Z"}"#,
        "{\"log\":\"a\tb\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-20T16:35:01Z\"}",
    ] {
        assert_eq!(read(text.as_bytes()), None, "{text}");
        assert_eq!(read_by_tree(text), None, "{text}");
    }
}

#[test]
fn depth_and_length_have_an_end() {
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!("{{\"a\":{open}{close},\"stream\":\"stdout\",\"time\":\"{STAMP}\"}}")
    };
    assert!(read(deep(100).as_bytes()).is_some());
    for levels in [129, 10_000] {
        assert_eq!(read(deep(levels).as_bytes()), None);
    }
    let fits = MAX_ENTRY - entry("").len();
    assert!(parse(entry(&"x".repeat(fits)).as_bytes()).is_some());
    assert_eq!(parse(entry(&"x".repeat(fits + 1)).as_bytes()), None);
}

/// JSON that is mostly Docker's, and sometimes hurt.
fn nearly_an_entry() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[ -!#-\\[\\]-~]{0,12}",
        2 => "\\PC{0,3}".prop_map(|text| text.replace(['"', '\\'], "")),
        3 => prop_oneof![Just(r"\n"), Just(r#"\""#), Just(r"\\"), Just(r"\t"), Just(r"\u003c"), Just(r"\u000A"), Just(r"\ud83d\ude00"), Just(r"\/")].prop_map(str::to_owned),
        1 => prop_oneof![Just(r"\x"), Just(r"\u12"), Just("\u{1}"), Just("\"")].prop_map(str::to_owned),
    ];
    let log = (proptest::collection::vec(piece, 0..5), any::<bool>()).prop_map(|(pieces, ends)| {
        format!("\"log\":\"{}{}\"", pieces.concat(), if ends { "\\n" } else { "" })
    });
    let stream = prop_oneof![4 => Just("\"stream\":\"stdout\""), 2 => Just("\"stream\" : \"stderr\""), 1 => Just("\"stream\":\"\""), 1 => Just("\"stream\":null")].prop_map(str::to_owned);
    let time = prop_oneof![6 => Just(format!("\"time\":\"{STAMP}\"")), 1 => Just("\"time\":\"2026-11-20T16:35:61Z\"".to_owned()), 1 => Just("\"time\":7".to_owned())];
    let value = prop_oneof![
        Just("{}"),
        Just("[1, {\"a\":[]}]"),
        Just("-0.5e-7"),
        Just("tru"),
        Just("\"x\\n\""),
        Just("[1,]"),
        Just("-"),
        Just("1."),
        Just("null")
    ];
    let attrs = value.prop_map(|value| format!("\"attrs\":{value}"));
    let keys = prop_oneof![
        5 => (log.clone(), stream.clone(), time.clone()).prop_map(|(log, stream, time)| vec![log, stream, time]),
        2 => (log.clone(), stream, attrs.clone(), time.clone()).prop_map(|(log, stream, attrs, time)| vec![log, stream, attrs, time]),
        1 => (attrs, log.clone(), time, log).prop_map(|(attrs, first, time, log)| vec![attrs, first, time, log]),
    ];
    (keys, prop_oneof![8 => Just(","), 1 => Just(" , "), 1 => Just(" ")], any::<(u16, u8)>()).prop_map(
        |(keys, comma, (at, hurt))| {
            let mut text = format!("{{{}}}", keys.join(comma));
            let at = usize::from(at) % text.len();
            if hurt < 40 && text.is_char_boundary(at) {
                text.truncate(at);
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn an_entry_is_read_as_serde_json_reads_it(text in nearly_an_entry()) {
        prop_assert_eq!(read(text.as_bytes()), read_by_tree(&text));
    }

    #[test]
    fn no_bytes_make_the_parser_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), log in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = read(&bytes);
        let mut text = b"{\"log\":\"".to_vec();
        text.extend_from_slice(&log);
        text.extend_from_slice(format!("\",\"stream\":\"stdout\",\"time\":\"{STAMP}\"}}").as_bytes());
        let _ = read(&text);
        let mut out = Vec::new();
        unescape(&log, &mut out);
        prop_assert!(out.len() <= log.len());
    }

    #[test]
    fn what_the_driver_writes_is_read_back(text in "\\PC{0,200}", control in "[\\x00-\\x1f]{0,3}", whole in any::<bool>()) {
        let body = control + &text;
        let log = if whole { format!("{body}\n") } else { body.clone() };
        prop_assume!(whole || !body.ends_with('\n'));
        let json = serde_json::json!({"log": log, "stream": "stdout", "time": STAMP}).to_string();
        prop_assert_eq!(read(json.as_bytes()), Some((NANOS, Stream::Stdout, !whole, body.into_bytes())));
    }
}
