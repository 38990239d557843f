//! What people ask for, and whether the index finds what the text holds.

use std::collections::HashSet;

use crate::api::params::{Ask, Params};
use crate::store::Needle;
use crate::store::text::Matcher;
use crate::store::words::Words;

/// A URL's query, a zero, and a body: no query is a surprise, and a body that matches is found by its tokens.
pub fn search(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (query, body) = text.split_once('\0').unwrap_or((&text, ""));
    for ask in [Ask::Records, Ask::Count, Ask::Tail] {
        match Params::parse(query, 1_795_194_000_000_000_000, ask) {
            Ok(params) => finds(&params.filter.needles, body),
            Err(problems) => assert!(!problems.is_empty()),
        }
    }
    if let Ok(needles) = Needle::parse(query) {
        finds(&needles, body);
        // What is asked for in quotes is found where it stands.
        for needle in &needles {
            if let Needle::Phrase(phrase) = needle {
                let holds = format!("{body}{phrase}{body}");
                assert!(Matcher::new(std::slice::from_ref(needle)).matches(holds.as_bytes()));
                finds(std::slice::from_ref(needle), &holds);
            }
        }
    }
}

fn finds(needles: &[Needle], body: &str) {
    if !Matcher::new(needles).matches(body.as_bytes()) {
        return;
    }
    let mut words = Words::default();
    words.add(body.as_bytes());
    let joined = words.take();
    let tokens: HashSet<&str> = joined.split(' ').collect();
    for needle in needles {
        for token in needle.tokens() {
            assert!(tokens.contains(token.as_str()), "{needle:?} is in {body:?} and not in its index");
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "q=failed+%22GET+%2Fcart%22&namespace=shop&severity=warn&since=15m&limit=10&order=desc\0failed: \"GET /cart\" 500",
        "since=2026-11-20T16:35:01Z&until=2026-11-20T16:35:01.5%2B01:00&pod=web&container=&severity=17",
        "10.0.0.7:80 \"a \\\"b\\\" \\\\\" Stra\u{df}e\0to 10.0.0.7:80 a \"b\" \\ STRA\u{1e9e}E \u{130}",
        "\"ell\" word\0hello Word",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
