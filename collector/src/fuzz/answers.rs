//! What other systems answer us.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use sonde_daemon::client::otlp::packer::Encoding;
use sonde_daemon::client::otlp::verdict;
use sonde_daemon::client::pool::Reply;
use sonde_wire::answer::Answer;

use crate::sinks::elasticsearch::answer::{self, Item};
use crate::sinks::loki::answer as loki;
use crate::sinks::prometheus::answer as prometheus;

/// The answer to a bulk request: each id has one word or none, and as many have one as there are items that say something.
pub fn bulk(data: &[u8]) {
    let ids = ["a", "b", "a", "", "id-0000000000000001"].map(str::to_owned);
    if let Ok(found) = answer::items(data, &ids) {
        assert_eq!(found.items.len(), ids.len());
        let said = found.items.iter().flatten().count();
        let all = serde_json::from_slice::<serde_json::Value>(data)
            .ok()
            .and_then(|value| value.get("items").and_then(|items| items.as_array().map(Vec::len)));
        assert!(all.is_none_or(|all| said + found.foreign == all));
        for item in found.items.iter().flatten() {
            if let Item::Refused(code, words) = item {
                assert!(!code.is_empty() && words.len() <= 300);
            }
        }
    }
    let status = 100 + u16::try_from(data.len() % 500).unwrap();
    let reply = reply(status, HeaderMap::new(), HeaderMap::new(), data);
    let _ = answer::whole(&reply, SystemTime::UNIX_EPOCH);
}

fn reply(status: u16, headers: HeaderMap, trailers: HeaderMap, body: &[u8]) -> Reply {
    let status = StatusCode::from_u16(status).unwrap();
    Reply { status, headers, body: Bytes::copy_from_slice(body), trailers }
}

/// The answer to an OTLP request, to a push to Loki, or to a remote write: status, headers and trailers a line each, and the body. Only a good status
/// is an acceptance.
pub fn push(data: &[u8]) {
    let Some((head, data)) = data.split_at_checked(2) else { return };
    let status = 100 + u16::from_le_bytes([head[0], head[1]]) % 500;
    let (mut headers, mut trailers) = (HeaderMap::new(), HeaderMap::new());
    let mut rest = data;
    for name in ["content-type", "retry-after", "accept-encoding", "grpc-status", "grpc-message"] {
        let Some(end) = memchr::memchr(b'\n', rest) else { break };
        if let Ok(value) = HeaderValue::from_bytes(&rest[..end])
            && end > 0
        {
            let map = if name.starts_with("grpc") { &mut trailers } else { &mut headers };
            map.insert(name, value);
        }
        rest = &rest[end + 1..];
    }
    // As it stands on the wire, and so that what is in it is met.
    let written = sonde_wire::base64::encode(rest);
    if let Ok(value) = HeaderValue::from_str(&written) {
        trailers.insert("grpc-status-details-bin", value);
    }
    let reply = reply(status, headers, trailers, rest);
    match loki::whole(&reply, SystemTime::UNIX_EPOCH) {
        loki::Whole::Taken => assert_eq!(status, 204),
        loki::Whole::Halve { reason: words, .. } => {
            assert!(matches!(status, 400 | 413) && words.len() <= 300)
        }
        loki::Whole::Trouble(_) => {}
    }
    match prometheus::whole(&reply, SystemTime::UNIX_EPOCH) {
        prometheus::Whole::Taken => assert!((200..300).contains(&status)),
        prometheus::Whole::Halve { reason: words, .. } => {
            assert!(matches!(status, 400 | 409 | 413 | 422 | 500) && words.len() <= 300);
            let _ = prometheus::is_before(&words);
        }
        prometheus::Whole::Sick { reason, .. } => {
            assert!(matches!(status, 400 | 409 | 422 | 500) && reason.len() <= 300);
        }
        prometheus::Whole::Trouble(_) => {}
    }
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
        let http = verdict::of_http(&reply, encoding, SystemTime::UNIX_EPOCH);
        if matches!(http.answer, Answer::Accepted { .. }) {
            assert!((200..300).contains(&status));
        }
        let grpc = verdict::of_grpc(&reply, encoding);
        if let (Answer::Accepted { .. }, Some(said)) = (&grpc.answer, reply.trailers.get("grpc-status")) {
            assert!(said.as_bytes().iter().all(|byte| *byte == b'0'), "{said:?}");
        }
        assert!(http.words.len() <= 1000 && grpc.words.len() <= 1000);
    }
}

pub fn bulk_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"took":1,"errors":true,"items":[{"create":{"_index":"x","_id":"a","status":201}},{"create":{"_id":"b","status":409,"error":{"type":"version_conflict_engine_exception","reason":"r"}}},{"index":{"_id":"a","status":400,"error":{"type":"mapper_parsing_exception","reason":"no"}}},{"create":{"_id":"","status":429}},{"create":{"_id":"id-0000000000000001","status":201,"failure_store":"used"}},{"delete":{}}]}"#,
        r#"{"error":{"type":"parse_exception","reason":"bad"},"status":400}"#,
        "<html>504</html>",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn push_seeds() -> Vec<Vec<u8>> {
    let partial = sonde_wire::response::encode_logs_response(3, "some were refused");
    [
        [&[100, 0], &b"application/x-protobuf\n\n\n\n\n"[..], &partial].concat(),
        [&[100, 0], &b"application/json\n\n\n\n\n{\"partialSuccess\":{\"rejectedLogRecords\":\"3\",\"errorMessage\":\"x\"}}"[..]].concat(),
        [&[100, 0], &b"application/grpc\n\ngzip\n8\nslow%20down\n\x08\x08\x12\x01x\x1a\x05\x0a\x01x\x12\x00"[..]].concat(),
        [&[0x90, 1], &b"text/plain\n\n\n\n\ntoo old sample"[..]].concat(),
        [&[0x91, 1], &b"text/plain\nWed, 21 Oct 2026 07:28:00 GMT\n\n\n\nslow down"[..]].concat(),
        [&[100, 0], &b"application/grpc\n\n\n0\n\n\0\0\0\0\x02"[..], &partial].concat(),
    ]
    .to_vec()
}
