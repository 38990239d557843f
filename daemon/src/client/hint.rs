//! What most often stands behind an answer that is not the protocol we speak. Pure.

/// An HTTP/1 answer, a TLS alert, or the end at our first words.
pub const NOT_HTTP2: &str =
    "nothing of HTTP/2 came back: an OTLP/HTTP port needs protocol: http, a TLS port https://";
/// Bytes that are no HTTP/1 answer: HTTP/2 frames, or a TLS alert.
const NOT_HTTP1: &str = "the answer is not HTTP/1: a gRPC port needs protocol: grpc, a TLS port https://";
/// A TLS client met plain text.
const NOT_TLS: &str = "the other end does not speak TLS here: a plain port needs http://";

/// A hint for an error of a connection, by its text with all its causes.
pub fn of_connection(error: &str) -> Option<&'static str> {
    if error.contains("invalid HTTP version") {
        Some(NOT_HTTP1)
    } else if error.contains("InvalidContentType") {
        Some(NOT_TLS)
    } else {
        None
    }
}

/// A hint for an answer that came in the other protocol.
pub fn of_answer(sent_as_grpc: bool, answered_as_grpc: bool) -> Option<&'static str> {
    match (sent_as_grpc, answered_as_grpc) {
        (true, false) => Some("the answer is not gRPC: an OTLP/HTTP port needs protocol: http"),
        (false, true) => Some("the answer is gRPC: a gRPC port needs protocol: grpc"),
        _ => None,
    }
}
