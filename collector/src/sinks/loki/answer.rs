//! What an answer to a push means. Pure. By Loki's `pkg/distributor/http.go` and `pkg/validation`, and by what servers
//! of version 3 were seen to answer.
//!
//! | status | means |
//! |---|---|
//! | 204 | stored, all of it |
//! | 400 that is about what was configured, there or here ([`SETTINGS`]) | hold |
//! | 400 in Loki's words (plain text, JSON or protobuf) | something in it was refused for good: an entry that is too old, too far behind the newest of its stream, too long, has too much metadata; the others may be stored: what is older than the oldest that it says it takes is refused, else halve |
//! | 413 | too much at once: halve |
//! | 429 | a rate or a number of streams is over its limit, of the tenant, or of some streams in it while the others are stored; no `Retry-After` comes with it: back off |
//! | 408, 500, 502, 503, 504 | retry; it may be stored. Loki says 500 when too few ingesters are alive (for OTLP it makes a 503 of it), so a probe a minute would be too little |
//! | 260 | ingestion is blocked: a 2xx for what was thrown away. Hold |
//! | any other 2xx | not Loki, or a blocked ingestion that was told to say 200. Hold |
//! | anything else, and a web page or a wrong port's words with 400 | hold |
//!
//! What may be stored is sent again as it was, and Loki merges it: so nobody has to know which entries those are.

use std::time::SystemTime;

use http::header::CONTENT_TYPE;
use sonde_daemon::client::pool::Reply;

use crate::deliver::Trouble;
use crate::time;

/// The code of an answer that asks for less.
pub const TOO_FAST: &str = "429";
/// The beginning of `net/http`'s words to a request that comes without TLS.
const NO_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server";
/// What Loki says with 400 when no entry is at fault: the tenant's name, and limits that refuse every entry of ours.
const SETTINGS: [&str; 5] = [
    "unsupported character",
    "multiple org IDs",
    "tenant ID is",
    "structured metadata, but this feature is disallowed",
    "missing required labels",
];
/// Before the time of the oldest entry that Loki still takes.
const OLDEST: &str = "oldest acceptable timestamp is: ";
/// Longest text of a server that is kept.
const WORDS: usize = 300;

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// All of it is stored.
    Taken,
    /// Something in it was refused, or it is too much. Some of it may be stored.
    Halve {
        /// The status.
        code: String,
        /// Loki's words.
        reason: String,
        /// What is older was refused: Unix nanoseconds.
        oldest: Option<u64>,
    },
    /// To be sent again; some of it may be stored.
    Trouble(Trouble),
}

/// Understands an answer.
pub fn whole(reply: &Reply, now: SystemTime) -> Whole {
    let status = reply.status.as_u16();
    let (code, words) = (status.to_string(), words(&reply.body));
    match status {
        204 => Whole::Taken,
        400 if is_lokis(reply) && is_setting(&reply.body) => Whole::Trouble(Trouble::hold(code, words)),
        400 if is_lokis(reply) => Whole::Halve { code, reason: words, oldest: oldest(&reply.body) },
        413 => Whole::Halve { code, reason: words, oldest: None },
        408 | 429 | 500 | 502 | 503 | 504 => {
            Whole::Trouble(Trouble { after: reply.retry_after(now), ..Trouble::retry(code, words) })
        }
        260 => {
            let words = format!("ingestion is blocked, Loki throws away what it is sent: {words}");
            Whole::Trouble(Trouble::hold(code, words))
        }
        200..=299 => {
            let words = format!("Loki says 204 to what it has stored, this is something else: {words}");
            Whole::Trouble(Trouble::hold(code, words))
        }
        _ => Whole::Trouble(Trouble::hold(code, words)),
    }
}

/// Whether a refusal is about what was sent, and not a page of something in between, or what a server in Go says at
/// its TLS port to whom comes without.
fn is_lokis(reply: &Reply) -> bool {
    let kind = reply.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let body = reply.body.trim_ascii();
    !kind.starts_with(b"text/html")
        && !body.is_empty()
        && !body.starts_with(b"<")
        && !body.starts_with(NO_TLS)
}

fn is_setting(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    SETTINGS.iter().any(|words| text.contains(words))
}

/// The first such time in Loki's words. It is in whole seconds, rounded down: what is older was refused.
fn oldest(body: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once(OLDEST)?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-+:.".contains(c))).unwrap_or(rest.len());
    u64::try_from(time::parse_any(&rest[..end])?).ok()
}

/// Text without control characters, at most [`WORDS`] bytes.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * WORDS)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(WORDS)].trim().to_owned()
}
