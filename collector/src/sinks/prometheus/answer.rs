//! What an answer to a write means. Pure. By the remote write specification 1.0, by prometheus `storage/remote/write_handler.go`,
//! and by what servers were seen to answer.
//!
//! | status | means |
//! |---|---|
//! | 2xx | stored, all of it |
//! | 400, 409 (Thanos), 422 in a server's words | something in it was refused for good (out of order, a duplicate, out of bounds, a limit of labels); the rest may be stored (Mimir, VictoriaMetrics, newer Prometheus) or not (Prometheus 2): halve |
//! | 413 | too much at once: halve |
//! | 500 in words of [`REFUSALS`] | as 400: Prometheus says it of a sample that is too old for its out-of-order window, and no later try is better |
//! | other 500; 400, 409, 422 without a word, which may be about anything | the server's own trouble, or a sample that it cannot cope with: one by one, and what it never copes with is given up |
//! | 408, 429, 502, 503, 504 | retry, not before `Retry-After` |
//! | anything else (404: no receiver is enabled), a web page, and what a port says that wants TLS | hold |

use std::time::SystemTime;

use http::header::CONTENT_TYPE;
use sonde_daemon::client::pool::Reply;

use crate::deliver::Trouble;

/// Longest text of a server that is kept.
const WORDS: usize = 300;
/// What servers say of a sample that is older than the newest of its series. Not "duplicate": that they say of another value at
/// the same time, and what is there is not ours then.
const BEFORE: [&str; 2] = ["out of order", "out-of-order"];
/// What a server says with 500 of a sample and not of itself.
const REFUSALS: [&str; 5] =
    ["too old sample", "out of bounds", "out of order", "out-of-order", "duplicate sample"];
/// The beginning of `net/http`'s words to a request that comes without TLS.
const NO_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// All of it is stored.
    Taken,
    /// Something in it was refused, or it is too much. Some of it may be stored.
    Halve {
        /// The status.
        code: String,
        /// The server's words.
        reason: String,
    },
    /// The server cannot cope with it, or with anything.
    Sick {
        /// The status.
        code: String,
        /// Its words; 400 has none here.
        reason: String,
    },
    /// To be sent again; some of it may be stored.
    Trouble(Trouble),
}

/// Understands an answer.
pub fn whole(reply: &Reply, now: SystemTime) -> Whole {
    let status = reply.status.as_u16();
    let (code, words) = (status.to_string(), words(&reply.body));
    match status {
        200..=299 if !is_page(reply) => Whole::Taken,
        400 | 409 | 422 if !is_page(reply) && !words.is_empty() => Whole::Halve { code, reason: words },
        400 | 409 | 422 if words.is_empty() && !is_page(reply) => {
            Whole::Sick { code, reason: "refused without a word".to_owned() }
        }
        413 => Whole::Halve { code, reason: words },
        500 if says(&words, &REFUSALS) => Whole::Halve { code, reason: words },
        500 => Whole::Sick { code, reason: words },
        408 | 429 | 502 | 503 | 504 => {
            Whole::Trouble(Trouble { after: reply.retry_after(now), ..Trouble::retry(code, words) })
        }
        _ => Whole::Trouble(Trouble::hold(code, words)),
    }
}

/// Whether a sample was refused because its series has a newer one: of one that was sent before, in order, this says that it
/// is there.
pub fn is_before(reason: &str) -> bool {
    says(reason, &BEFORE)
}

fn says(reason: &str, words: &[&str]) -> bool {
    let reason = reason.to_ascii_lowercase();
    words.iter().any(|words| reason.contains(words))
}

/// A page of something in between, or another port than was meant.
fn is_page(reply: &Reply) -> bool {
    let kind = reply.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let body = reply.body.trim_ascii();
    kind.starts_with(b"text/html") || body.starts_with(b"<") || body.starts_with(NO_TLS)
}

/// Text without control characters, at most [`WORDS`] bytes.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * WORDS)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(WORDS)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::Class;

    fn reply(status: u16, kind: &'static str, body: &[u8]) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let body = Bytes::copy_from_slice(body);
        Reply { status: StatusCode::from_u16(status).unwrap(), headers, body, trailers: HeaderMap::new() }
    }

    fn of(status: u16, kind: &'static str, body: &str) -> Whole {
        whole(&reply(status, kind, body.as_bytes()), SystemTime::now())
    }

    #[test]
    fn each_answer_is_taken_for_what_it_is() {
        let halve = |code: &str, reason: &str| Whole::Halve { code: code.into(), reason: reason.into() };
        assert_eq!(of(204, "", ""), Whole::Taken);
        assert_eq!(of(200, "application/json", ""), Whole::Taken);
        assert_eq!(of(400, "text/plain", "out of order sample\n"), halve("400", "out of order sample"));
        assert_eq!(of(422, "text/plain", "x"), halve("422", "x"));
        assert_eq!(of(409, "text/plain", "conflict"), halve("409", "conflict"));
        assert_eq!(of(413, "text/html", "<h1>"), halve("413", "<h1>"));
        assert_eq!(of(500, "text/plain", "too old sample"), halve("500", "too old sample"));
        let sick = |code: &str, reason: &str| Whole::Sick { code: code.into(), reason: reason.into() };
        assert_eq!(of(500, "text/plain", "head is closing"), sick("500", "head is closing"));
        for (status, code) in [(400, "400"), (409, "409"), (422, "422")] {
            assert_eq!(of(status, "text/plain", " \n"), sick(code, "refused without a word"));
        }
        for status in [408, 429, 502, 503, 504] {
            assert!(
                matches!(of(status, "", "x"), Whole::Trouble(Trouble { class: Class::Retry, .. })),
                "{status}"
            );
        }
        let mut later = reply(429, "text/plain", b"slow down");
        later.headers.insert("retry-after", HeaderValue::from_static("7"));
        let Whole::Trouble(Trouble { after, .. }) = whole(&later, SystemTime::now()) else { panic!("429") };
        assert_eq!(after, Some(std::time::Duration::from_secs(7)));
        for (status, kind, body) in [
            (404, "text/plain", "remote write receiver needs to be enabled"),
            (401, "", ""),
            (403, "", ""),
            (405, "", ""),
            (302, "", ""),
            (200, "text/html", "login"),
            (204, "", "<html>"),
            (400, "text/html", "<html>"),
            (400, "text/html", ""),
            (400, "", "Client sent an HTTP request to an HTTPS server.\n"),
        ] {
            let answer = of(status, kind, body);
            assert!(
                matches!(answer, Whole::Trouble(Trouble { class: Class::Hold, .. })),
                "{status} {answer:?}"
            );
        }
    }

    #[test]
    fn words_of_many_servers_say_that_a_newer_sample_is_there() {
        for words in [
            "out of order sample",
            "failed pushing to ingester: the sample has been rejected because another sample with a more recent timestamp has already been ingested and out-of-order samples are not allowed (err-mimir-sample-out-of-order)",
            "Out of order sample from remote write",
        ] {
            assert!(is_before(words), "{words}");
        }
        for words in
            ["out of bounds", "label value too long", "duplicate sample for timestamp", "too old sample"]
        {
            assert!(!is_before(words), "{words}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_understood(status in 200_u16..600, body: Vec<u8>) {
            let _ = whole(&reply(status, "text/plain", &body), SystemTime::now());
        }
    }
}
