//! Requests that no sender means well with.

use std::fmt::Write as _;

use bytes::Bytes;

use super::REQUEST_LIMIT;
use super::client::{framed, gzip, valid, zstd_sized, zstd_unsized};

/// A request and the answer it has to get: an HTTP status, or a gRPC status by number.
pub struct Attack {
    pub name: &'static str,
    pub grpc: bool,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub expected: u16,
}

pub const OK: u16 = 0;
pub const INVALID_ARGUMENT: u16 = 3;
pub const RESOURCE_EXHAUSTED: u16 = 8;
pub const UNIMPLEMENTED: u16 = 12;

/// Each kind over both protocols; compressed once, sent many times. The first of each protocol is larger on the wire than a
/// request may be.
pub fn attacks() -> Vec<Attack> {
    let zeros = vec![0u8; 300 << 20];
    let giant = valid(REQUEST_LIMIT + 1000);
    let plain = valid(200);
    let bodies: Vec<(&str, &str, Vec<u8>, bool)> = vec![
        // name, encoding, body, too large (else malformed)
        ("oversized", "identity", giant.clone(), true),
        ("bad varints", "identity", vec![0xff; 4000], false),
        ("zeros", "identity", vec![0; 4000], false),
        ("cut short", "identity", plain[..plain.len() - 3].to_vec(), false),
        ("gzip of zeros", "gzip", gzip(&zeros), false),
        ("gzip of a valid giant", "gzip", gzip(&giant), true),
        ("gzip in many members", "gzip", gzip(&valid(2 << 20)).repeat(40), true),
        ("nested gzip", "gzip", gzip(&gzip(&zeros)), false),
        ("gzip that ends early", "gzip", gzip(&plain)[..30].to_vec(), false),
        ("gzip with a tail", "gzip", [gzip(&plain), vec![7; 300]].concat(), false),
        ("zstd of a giant, sized", "zstd", zstd_sized(&giant), true),
        ("zstd of a giant, unsized", "zstd", zstd_unsized(&giant, 3), true),
        ("zstd of zeros, large window", "zstd", zstd_unsized(&zeros, 19), false),
        ("zstd of noise", "zstd", noise(5000), false),
        ("not zstd", "zstd", plain.clone(), false),
        ("unknown encoding", "br", plain.clone(), false),
    ];
    let mut attacks = Vec::new();
    for (name, encoding, body, too_large) in bodies {
        let (http, grpc) = match (encoding, too_large) {
            ("br", _) => (415, UNIMPLEMENTED),
            (_, true) => (413, RESOURCE_EXHAUSTED),
            (_, false) => (400, INVALID_ARGUMENT),
        };
        let headers = |key| vec![(key, encoding.to_owned())];
        let flag = u8::from(encoding != "identity");
        let message = framed(flag, &body);
        attacks.push(Attack {
            name,
            grpc: true,
            headers: headers("grpc-encoding"),
            body: message.into(),
            expected: grpc,
        });
        let mut headers = headers("content-encoding");
        headers.push(("content-type", "application/x-protobuf".to_owned()));
        attacks.push(Attack { name, grpc: false, headers, body: body.into(), expected: http });
    }
    let http = |name, kind: &str, body: &[u8], expected| Attack {
        name,
        grpc: false,
        headers: vec![("content-type", kind.to_owned())],
        body: Bytes::copy_from_slice(body),
        expected,
    };
    let mut json_bomb = "{\"resourceLogs\":[".to_owned();
    for _ in 0..2000 {
        write!(json_bomb, "{{\"scopeLogs\":[{{}},{{}},{{\"logRecords\":\"").unwrap();
    }
    attacks.extend([
        http(
            "json",
            "application/json",
            b"{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"body\":7",
            400,
        ),
        http("nested json", "application/json", "[".repeat(100_000).as_bytes(), 400),
        http("json of empty objects", "application/json", json_bomb.as_bytes(), 400),
        http("wrong content type", "text/plain", &plain, 415),
        Attack {
            name: "no message",
            grpc: true,
            headers: vec![],
            body: vec![0, 0].into(),
            expected: INVALID_ARGUMENT,
        },
        Attack {
            name: "a prefix that claims 4 GiB",
            grpc: true,
            headers: vec![],
            body: vec![0, 255, 255, 255, 255, 1, 2, 3].into(),
            expected: RESOURCE_EXHAUSTED,
        },
        Attack { name: "valid", grpc: true, headers: vec![], body: framed(0, &plain).into(), expected: OK },
    ]);
    attacks
}

/// Bytes without a meaning, always the same.
pub fn noise(length: usize) -> Vec<u8> {
    let mut seed = 1u64;
    let next = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33).to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}
