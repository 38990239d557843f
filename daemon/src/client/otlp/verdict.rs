//! What an answer means: the class of contract section 8, and whether it speaks of the compression. Pure.

use std::time::SystemTime;

use http::{HeaderValue, header};
use serde::Deserialize;
use sonde_wire::answer::{self, Answer};
use sonde_wire::grpc::{self, STATUS_DETAILS_TRAILER, Status, StatusDetails};
use sonde_wire::response::{PartialSuccess, decode_logs_response};

use super::packer::Encoding;
use crate::client::hint;
use crate::client::pool::Reply;

/// Longest text of a receiver that is kept, for our own log.
const WORDS: usize = 300;

/// An answer, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub answer: Answer,
    /// gRPC status name, or HTTP status.
    pub code: String,
    /// The receiver's words, shortened.
    pub words: String,
    /// Whether the compression may be the reason.
    pub encoding: EncodingDoubt,
}

/// Whether a refusal may be about the compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodingDoubt {
    /// No.
    None,
    /// Receivers without it say this, among others.
    Possible,
    /// The receiver says so: it takes these (empty = it does not say which).
    Certain(Vec<Encoding>),
}

impl Verdict {
    /// Whether the receiver, by its answer, has surely not kept any of the request. A proxy in between says
    /// UNAVAILABLE or 504 also after the receiver took it.
    pub fn surely_not_kept(&self) -> bool {
        const SURE: [&str; 12] = [
            "RESOURCE_EXHAUSTED",
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
            "UNIMPLEMENTED",
            "INVALID_ARGUMENT",
            "400",
            "401",
            "403",
            "404",
            "405",
            "415",
            "429",
        ];
        SURE.contains(&self.code.as_str())
    }
}

/// An answer to OTLP/gRPC, for a request that was sent as `sent`.
pub fn of_grpc(reply: &Reply, sent: Encoding) -> Verdict {
    // In a trailers-only answer the status stands in the headers.
    let status_from =
        [&reply.trailers, &reply.headers].into_iter().find(|map| map.contains_key("grpc-status"));
    let Some(map) = status_from else {
        if reply.status.as_u16() == 200 {
            // A stream that ended without a status, or not gRPC at all: nothing says that it was taken.
            return Verdict {
                answer: Answer::Hold,
                code: Status::Unknown.name().to_owned(),
                words: hinted(words(&reply.body, ""), hint::of_answer(true, false)),
                encoding: EncodingDoubt::Possible,
            };
        }
        // A proxy's own answer.
        let mut verdict = of_http(reply, sent, SystemTime::now());
        if matches!(reply.status.as_u16(), 400 | 404 | 405 | 415) {
            verdict.words = hinted(verdict.words, hint::of_answer(true, false));
        }
        return verdict;
    };
    let status = map.get("grpc-status").map_or(Status::Unknown, |v| Status::from_trailer(v.as_bytes()));
    let details =
        map.get(STATUS_DETAILS_TRAILER).and_then(|v| StatusDetails::decode_trailer(v.as_bytes()).ok());
    let retry_delay = details.as_ref().and_then(|details| details.retry_delay);
    let text = map.get("grpc-message").map(|v| grpc::decode_message(v.as_bytes())).unwrap_or_default();
    let answer = if status == Status::Ok {
        Answer::accepted(partial_success(reply.body.get(grpc::Prefix::LEN..).unwrap_or_default()))
    } else {
        answer::from_grpc(status, retry_delay)
    };
    let accepts = map.get("grpc-accept-encoding").or(reply.headers.get("grpc-accept-encoding"));
    let encoding = match (status, accepts.map(encodings)) {
        (Status::Unimplemented, Some(known)) if sent != Encoding::Identity && !known.contains(&sent) => {
            EncodingDoubt::Certain(known)
        }
        (Status::Unimplemented | Status::Internal | Status::InvalidArgument | Status::Unknown, _) => {
            EncodingDoubt::Possible
        }
        _ => EncodingDoubt::None,
    };
    Verdict { answer, code: status.name().to_owned(), words: shortened(&text), encoding }
}

/// An answer to OTLP/HTTP, for a request that was sent as `sent`.
pub fn of_http(reply: &Reply, sent: Encoding, now: SystemTime) -> Verdict {
    let status = reply.status.as_u16();
    let kind = reply.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let protobuf = kind.starts_with(b"application/x-protobuf");
    let json = kind.starts_with(b"application/json");
    let details = if protobuf && status >= 300 { StatusDetails::decode(&reply.body).ok() } else { None };
    let asked = reply.retry_after(now).or(details.as_ref().and_then(|d| d.retry_delay));
    let mut answer = answer::from_http(status, asked);
    if let Answer::Accepted { .. } = answer {
        answer = if protobuf {
            Answer::accepted(partial_success(&reply.body))
        } else if json {
            Answer::accepted(json_partial_success(&reply.body))
        } else if reply.body.is_empty() || status == 204 {
            answer
        } else {
            // A captive portal or a web site answers 200 to everything.
            let hint = hint::of_answer(false, kind.starts_with(b"application/grpc"));
            return Verdict {
                answer: Answer::Hold,
                code: status.to_string(),
                words: hinted(words(&reply.body, "the answer is not OTLP"), hint),
                encoding: EncodingDoubt::Possible,
            };
        };
    }
    let encoding = match status {
        415 if sent != Encoding::Identity => EncodingDoubt::Certain(
            reply.headers.get(header::ACCEPT_ENCODING).map(encodings).unwrap_or_default(),
        ),
        400 | 500 | 501 => EncodingDoubt::Possible,
        _ => EncodingDoubt::None,
    };
    let said = details.map(|d| d.message).filter(|text| !text.is_empty());
    let words = said.map_or_else(|| words(&reply.body, ""), |text| shortened(&text));
    let words = hinted(words, hint::of_answer(false, kind.starts_with(b"application/grpc")));
    Verdict { answer, code: status.to_string(), words, encoding }
}

/// The status said that it was accepted, so a body that cannot be read changes nothing.
fn partial_success(body: &[u8]) -> PartialSuccess {
    decode_logs_response(body).unwrap_or_default()
}

fn json_partial_success(body: &[u8]) -> PartialSuccess {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Response {
        partial_success: Partial,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Partial {
        rejected_log_records: Count,
        error_message: String,
    }
    /// Protobuf's JSON writes a 64-bit number as a string.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(u64),
        Text(String),
    }
    impl Default for Count {
        fn default() -> Self {
            Self::Number(0)
        }
    }
    let Response { partial_success } = serde_json::from_slice(body).unwrap_or_default();
    let rejected = match partial_success.rejected_log_records {
        Count::Number(number) => number,
        Count::Text(text) => text.parse().unwrap_or(0),
    };
    PartialSuccess { rejected, message: shortened(&partial_success.error_message) }
}

/// The encodings that we speak of a list such as `identity, gzip;q=0.5`.
fn encodings(list: &HeaderValue) -> Vec<Encoding> {
    let text = list.to_str().unwrap_or_default();
    let names = text.split(',').map(|item| item.split(';').next().unwrap_or_default().trim());
    names.filter_map(|name| Encoding::ALL.into_iter().find(|e| e.name().eq_ignore_ascii_case(name))).collect()
}

fn words(body: &[u8], otherwise: &str) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(WORDS)]);
    let text = shortened(&text);
    if text.is_empty() { otherwise.to_owned() } else { text }
}

fn hinted(words: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) if words.is_empty() => hint.to_owned(),
        Some(hint) => format!("{words} ({hint})"),
        None => words,
    }
}

fn shortened(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use proptest::prelude::*;
    use sonde_wire::response::encode_logs_response;

    use http::HeaderMap;
    use std::time::Duration;

    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map(headers),
            body: Bytes::copy_from_slice(body),
            trailers: HeaderMap::new(),
        }
    }

    fn http(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Verdict {
        of_http(&reply(status, headers, body), Encoding::Zstd, SystemTime::UNIX_EPOCH)
    }

    const TAKEN: Answer = Answer::Accepted { rejected: 0, message: String::new() };

    #[test]
    fn partial_success_is_read_from_both_body_formats() {
        let want = Answer::Accepted { rejected: 3, message: "too old".to_owned() };
        let body = encode_logs_response(3, "too old");
        assert_eq!(http(200, &[("content-type", "application/x-protobuf")], &body).answer, want);
        let json = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert_eq!(http(200, &[("content-type", "application/json")], json).answer, want);
        let mut message = vec![0, 0, 0, 0, 0];
        message.extend_from_slice(&body);
        let mut answer = reply(200, &[("content-type", "application/grpc")], &message);
        answer.trailers = map(&[("grpc-status", "0")]);
        assert_eq!(of_grpc(&answer, Encoding::Zstd).answer, want);
    }

    #[test]
    fn an_empty_success_is_a_success_and_a_web_page_is_not() {
        assert_eq!(http(200, &[], b"").answer, TAKEN);
        assert_eq!(http(204, &[("content-type", "text/plain")], b"").answer, TAKEN);
        let page = http(200, &[("content-type", "text/html")], b"<html>Log in\nhere");
        assert_eq!((page.answer, page.words.as_str()), (Answer::Hold, "<html>Log in here"));
        let page = of_grpc(&reply(200, &[("content-type", "text/html")], b""), Encoding::Zstd);
        assert_eq!((page.answer, page.code.as_str()), (Answer::Hold, "UNKNOWN"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value| http(503, &[("retry-after", value)], b"").answer;
        assert_eq!(after("7"), Answer::Retry { after: Some(Duration::from_secs(7)) });
        assert_eq!(
            after("Thu, 01 Jan 1970 00:01:00 GMT"),
            Answer::Retry { after: Some(Duration::from_secs(60)) }
        );
        assert_eq!(after("soon"), Answer::Retry { after: None });
    }

    #[test]
    fn a_trailers_only_answer_is_read_from_the_headers() {
        let details = StatusDetails {
            status: Status::ResourceExhausted,
            message: String::new(),
            retry_delay: Some(Duration::from_secs(2)),
        };
        let headers = [
            ("grpc-status", "8"),
            ("grpc-message", "slow%20down"),
            (STATUS_DETAILS_TRAILER, &details.encode_trailer()),
        ];
        let verdict = of_grpc(&reply(200, &headers, b""), Encoding::Zstd);
        assert_eq!(verdict.answer, Answer::Retry { after: Some(Duration::from_secs(2)) });
        assert_eq!(verdict.words, "slow down");
        let verdict = of_grpc(&reply(200, &headers[..2], b""), Encoding::Zstd);
        assert_eq!(verdict.answer, Answer::Reject, "without RetryInfo the request is too large");
    }

    #[test]
    fn a_proxys_answer_to_grpc_is_read_as_http() {
        let page = of_grpc(&reply(404, &[], b"404 page not found"), Encoding::Zstd);
        assert_eq!(
            page.words,
            "404 page not found (the answer is not gRPC: an OTLP/HTTP port needs protocol: http)"
        );
        let grpc = http(404, &[("content-type", "application/grpc")], b"");
        assert_eq!(grpc.words, "the answer is gRPC: a gRPC port needs protocol: grpc");
        for (status, want) in [(503, Answer::BROKEN), (413, Answer::Reject), (403, Answer::Hold)] {
            let verdict = of_grpc(&reply(status, &[("content-type", "text/html")], b"no"), Encoding::Zstd);
            assert_eq!((verdict.answer, verdict.code), (want, status.to_string()));
        }
    }

    #[test]
    fn a_refusal_that_names_the_encodings_it_takes_is_certain() {
        let headers = [("grpc-status", "12"), ("grpc-accept-encoding", "identity,deflate,gzip")];
        let doubt = |sent| of_grpc(&reply(200, &headers, b""), sent).encoding;
        assert_eq!(doubt(Encoding::Zstd), EncodingDoubt::Certain(vec![Encoding::Identity, Encoding::Gzip]));
        assert_eq!(doubt(Encoding::Gzip), EncodingDoubt::Possible);
        assert_eq!(
            http(415, &[("accept-encoding", "GZIP; q=1")], b"").encoding,
            EncodingDoubt::Certain(vec![Encoding::Gzip])
        );
        assert_eq!(http(415, &[], b"").encoding, EncodingDoubt::Certain(vec![]));
        assert_eq!(http(400, &[], b"").encoding, EncodingDoubt::Possible);
        assert_eq!(http(503, &[], b"").encoding, EncodingDoubt::None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            status in 200u16..600, body: Vec<u8>,
            headers in prop::collection::vec((0usize..6, "[ -~]{0,40}"), 0..6), trailers: bool,
        ) {
            let names = ["grpc-status", "grpc-message", "content-type", "retry-after", "grpc-accept-encoding", STATUS_DETAILS_TRAILER];
            let pairs: Vec<_> = headers.iter().map(|(at, value)| (names[*at], value.as_str())).collect();
            let mut reply = reply(status, &pairs, &body);
            if trailers {
                std::mem::swap(&mut reply.headers, &mut reply.trailers);
            }
            of_grpc(&reply, Encoding::Zstd);
            of_http(&reply, Encoding::Zstd, SystemTime::now());
        }
    }
}
