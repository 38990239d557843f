//! Every answer of the contract's section 8, asked for without a socket.

use std::convert::Infallible;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame as BodyFrame};
use hyper::{Request, Response, StatusCode};
use proptest::prelude::*;
use sonde_daemon::secret::Tokens;
use sonde_wire::grpc::{LOGS_EXPORT_PATH, STATUS_DETAILS_TRAILER, StatusDetails};
use tokio::sync::Notify;

use super::*;
use crate::queue::QueueOptions;
use crate::queue::tests::disk::Disk;

const LIMIT: usize = 256 << 10;

/// A queue that keeps frames, and lets none be safe before it is told to.
#[derive(Default)]
struct Stub {
    frames: Mutex<Vec<Frame>>,
    fail: Option<IntakeError>,
    gate: Option<Notify>,
}

impl Intake for Stub {
    fn append(&self, frame: Frame, grant: Grant) -> Appending<'_> {
        Box::pin(async move {
            let _grant = grant;
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            if let Some(error) = self.fail {
                return Err(error);
            }
            self.frames.lock().unwrap().push(frame);
            Ok(())
        })
    }
}

fn settings() -> Settings {
    let patience = Patience { idle: Duration::from_millis(200), whole: Duration::from_millis(600) };
    Settings { request_bytes: LIMIT, in_flight_bytes: 4 << 20, patience }
}

fn receiver() -> (Receiver, Arc<Stub>) {
    let stub = Arc::new(Stub::default());
    (
        Receiver::new(
            settings(),
            Senders::default(),
            Intakes::logs(Arc::clone(&stub) as Arc<dyn Intake>),
            Pushed::default(),
        ),
        stub,
    )
}

fn failing(error: IntakeError) -> Receiver {
    Receiver::new(
        settings(),
        Senders::default(),
        Intakes::logs(Arc::new(Stub { fail: Some(error), ..Stub::default() })),
        Pushed::default(),
    )
}

/// A request of one record, by hand: resource_logs { scope_logs { log_records { body { string } } } }.
fn valid(body: usize) -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message;
    let body = Some(AnyValue { value: Some(Value::StringValue("x".repeat(body))) });
    let scope =
        ScopeLogs { log_records: vec![LogRecord { body, ..Default::default() }], ..Default::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..Default::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 1).unwrap()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

async fn http(
    receiver: &Receiver,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (StatusCode, Response<Bytes>) {
    let response = serve_http(receiver, post("/v1/logs", headers, body)).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, Response::from_parts(head, body))
}

async fn grpc(receiver: &Receiver, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (String, HeaderMap) {
    let headers: Vec<_> = [GRPC].iter().chain(headers).copied().collect();
    read(serve_grpc(receiver, post(LOGS_EXPORT_PATH, &headers, body)).await).await
}

/// The status of a gRPC answer, by name, and the headers or trailers that carried it.
async fn read(response: Response<Reply>) -> (String, HeaderMap) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip,zstd");
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let map = match collected.trailers() {
        Some(trailers) => {
            let trailers = trailers.clone();
            assert_eq!(collected.to_bytes().as_ref(), [0; 5], "an empty response");
            trailers
        }
        None => head.headers,
    };
    let status = sonde_wire::grpc::Status::from_trailer(map["grpc-status"].as_bytes());
    (status.name().to_owned(), map)
}

#[tokio::test]
async fn what_is_valid_is_queued_as_received_and_acknowledged() {
    let (receiver, stub) = receiver();
    let plain = valid(100);
    let bodies = [("identity", plain.clone()), ("gzip", gzip(&plain)), ("zstd", zstd(&plain))];
    for (encoding, body) in &bodies {
        let headers = [PROTOBUF, ("content-encoding", encoding)];
        let (status, response) = http(&receiver, &headers, body.clone()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/x-protobuf");
        assert!(response.body().is_empty());
        let flag = u8::from(*encoding != "identity");
        let headers = [("grpc-encoding", *encoding), ("x-sonde-resend", "1")];
        assert_eq!(grpc(&receiver, &headers, framed(flag, body)).await.0, "OK");
    }
    let frames = stub.frames.lock().unwrap();
    assert_eq!(frames.len(), 6);
    for (frame, (_, body)) in frames.iter().zip(bodies.iter().flat_map(|body| [body, body])) {
        assert_eq!(frame.payload.as_ref(), body.as_slice());
        assert_eq!((frame.records, frame.uncompressed_len as usize), (1, plain.len()));
    }
    assert_eq!(frames.iter().map(|frame| frame.resend).collect::<Vec<_>>(), [false, true].repeat(3));
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
}

#[tokio::test]
async fn json_is_answered_in_json() {
    let (receiver, stub) = receiver();
    let text = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"hello"}}]}]}]}"#;
    let (status, response) = http(&receiver, &[JSON], text).await;
    assert_eq!((status, response.body().as_ref()), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(stub.frames.lock().unwrap()[0].records, 1);
    let (status, response) = http(&receiver, &[JSON], "{").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()["content-type"], "application/json");
    let error: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(error["code"], 3);
    assert!(error["message"].as_str().unwrap().contains("JSON"));
}

#[tokio::test]
async fn the_acknowledgement_waits_for_the_queue() {
    let stub = Arc::new(Stub { gate: Some(Notify::new()), ..Stub::default() });
    let receiver = Receiver::new(
        settings(),
        Senders::default(),
        Intakes::logs(Arc::clone(&stub) as Arc<dyn Intake>),
        Pushed::default(),
    );
    let mut call = Box::pin(http(&receiver, &[PROTOBUF], valid(10)));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut call).await;
    assert!(early.is_err(), "answered before it was safe");
    assert!(receiver.0.bounds.admission.used_bytes() > 0, "its memory is held until then");
    stub.gate.as_ref().unwrap().notify_one();
    assert_eq!(call.await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_waits_for_a_disk_that_stalls_keeps_its_memory_reserved_when_the_sender_gives_up() {
    let disk = Disk::new(64 << 20, 1);
    let queue =
        Queue::open(Path::new("/queue"), QueueOptions::on_any_disk(), Arc::new(disk.clone())).unwrap();
    let intakes = Intakes::logs(Arc::new(queue.clone()));
    let receiver = Receiver::new(settings(), Senders::default(), intakes, Pushed::default());
    let body = valid(100 << 10);
    assert_eq!(http(&receiver, &[PROTOBUF], body.clone()).await.0, StatusCode::OK);
    disk.set_slow(true);
    let mut waiting = 0;
    for _ in 0..100 {
        let sent =
            tokio::time::timeout(Duration::from_millis(20), http(&receiver, &[PROTOBUF], body.clone()));
        match sent.await {
            Ok((status, _)) => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
            Err(_) => waiting += body.len() as u64,
        }
    }
    assert!(waiting > 2 << 20, "{waiting}");
    let used = receiver.0.bounds.admission.used_bytes();
    assert!((waiting..=4 << 20).contains(&used), "{waiting} bytes wait for the disk, {used} are reserved");
    disk.set_slow(false);
    queue.close().await;
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
}

#[tokio::test]
async fn a_queue_that_cannot_take_it_asks_the_sender_to_come_again() {
    for (error, seconds) in [
        (IntakeError::Full, 5),
        (IntakeError::Disk, 5),
        (IntakeError::Undelivered, 5),
        (IntakeError::Closed, 1),
    ] {
        let receiver = failing(error);
        let (status, response) = http(&receiver, &[PROTOBUF], valid(10)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], seconds.to_string());
        let details = StatusDetails::decode(response.body()).unwrap();
        assert_eq!(details.retry_delay, Some(Duration::from_secs(seconds)));
        let (status, headers) = grpc(&receiver, &[], framed(0, &valid(10))).await;
        assert_eq!(status, "UNAVAILABLE");
        let details = StatusDetails::decode_trailer(headers[STATUS_DETAILS_TRAILER].as_bytes()).unwrap();
        assert_eq!(details.retry_delay, Some(Duration::from_secs(seconds)));
    }
}

#[tokio::test]
async fn a_stopping_collector_and_one_without_memory_ask_to_come_again() {
    let (receiver, _) = receiver();
    let held = receiver.0.bounds.admission.reserve(4 << 20).unwrap();
    let (status, response) = http(&receiver, &[PROTOBUF], valid(10)).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, headers) = grpc(&receiver, &[], framed(0, &valid(10))).await;
    assert_eq!(status, "UNAVAILABLE");
    assert!(headers.contains_key(STATUS_DETAILS_TRAILER));
    drop(held);
    receiver.drain();
    assert_eq!(http(&receiver, &[PROTOBUF], valid(10)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(grpc(&receiver, &[], framed(0, &valid(10))).await.0, "UNAVAILABLE");
}

#[tokio::test]
async fn too_large_is_said_without_a_delay_before_and_after_decompression() {
    let (receiver, _) = receiver();
    let large = valid(LIMIT);
    for (encoding, body) in [("identity", large.clone()), ("gzip", gzip(&large)), ("zstd", zstd(&large))] {
        let headers = [PROTOBUF, ("content-encoding", encoding)];
        let (status, response) = http(&receiver, &headers, body.clone()).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{encoding}");
        assert!(!response.headers().contains_key("retry-after"));
        let flag = u8::from(encoding != "identity");
        let (status, headers) = grpc(&receiver, &[("grpc-encoding", encoding)], framed(flag, &body)).await;
        assert_eq!(status, "RESOURCE_EXHAUSTED");
        assert!(!headers.contains_key(STATUS_DETAILS_TRAILER));
    }
    // A prefix that only claims it is believed at once.
    assert_eq!(grpc(&receiver, &[], [0, 0xff, 0xff, 0xff, 0xff].to_vec()).await.0, "RESOURCE_EXHAUSTED");
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0);
}

#[tokio::test]
async fn malformed_is_said_to_be_malformed() {
    let (receiver, stub) = receiver();
    let plain = valid(100);
    let cut = &plain[..plain.len() - 1];
    let bodies = [
        ("identity", cut.to_vec()),
        ("identity", vec![0; 10]),
        ("identity", vec![0xff; 100]),
        ("gzip", plain.clone()),
        ("gzip", gzip(cut)),
        ("gzip", gzip(&gzip(&plain))),
        ("gzip", [gzip(&plain), b"garbage".to_vec()].concat()),
        ("zstd", plain.clone()),
        ("zstd", zstd(&[0; 100_000])),
        ("zstd", Vec::new()),
    ];
    for (encoding, body) in bodies {
        let headers = [PROTOBUF, ("content-encoding", encoding)];
        assert_eq!(
            http(&receiver, &headers, body.clone()).await.0,
            StatusCode::BAD_REQUEST,
            "{encoding} {body:x?}"
        );
        let flag = u8::from(encoding != "identity");
        let headers = [("grpc-encoding", encoding)];
        assert_eq!(grpc(&receiver, &headers, framed(flag, &body)).await.0, "INVALID_ARGUMENT", "{encoding}");
    }
    for body in [
        vec![],
        vec![0, 0, 0],
        framed(7, &plain),
        framed(1, &plain),
        [framed(0, &plain), vec![0]].concat(),
        framed(0, &plain)[..20].to_vec(),
    ] {
        assert_eq!(grpc(&receiver, &[], body).await.0, "INVALID_ARGUMENT");
    }
    assert!(stub.frames.lock().unwrap().is_empty());
    // An empty request is a request.
    assert_eq!(grpc(&receiver, &[], framed(0, &[])).await.0, "OK");
    assert_eq!(http(&receiver, &[PROTOBUF], Bytes::new()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_served_is_said_to_be_so() {
    let (receiver, _) = receiver();
    for headers in
        [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/x-protobuf2")]]
    {
        assert_eq!(http(&receiver, headers, valid(1)).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    for encoding in ["br", "deflate", "gzip, gzip", "zstd,gzip", "\u{e9}"] {
        let (status, response) = http(&receiver, &[PROTOBUF, ("content-encoding", encoding)], valid(1)).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
        assert_eq!(response.headers()["accept-encoding"], "gzip, zstd, identity");
        assert_eq!(
            grpc(&receiver, &[("grpc-encoding", encoding)], framed(1, &valid(1))).await.0,
            "UNIMPLEMENTED"
        );
    }
    for path in ["/v1/unknown", "/v1/traces"] {
        let response = serve_http(&receiver, post(path, &[PROTOBUF], valid(1))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}: nobody wants it");
    }
    let get = Request::get("/v1/logs").body(Full::new(Bytes::new())).unwrap();
    let response = serve_http(&receiver, get).await;
    assert_eq!(
        (response.status(), &response.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    let unknown =
        post("/opentelemetry.proto.collector.trace.v1.TraceService/Export", &[GRPC], framed(0, &[]));
    assert_eq!(read(serve_grpc(&receiver, unknown).await).await.0, "UNIMPLEMENTED");
    let plain = post(LOGS_EXPORT_PATH, &[PROTOBUF], valid(1));
    assert_eq!(serve_grpc(&receiver, plain).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let plain = post(LOGS_EXPORT_PATH, &[("content-type", "application/grpc-web")], valid(1));
    assert_eq!(serve_grpc(&receiver, plain).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let get = Request::get("/").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(serve_grpc(&receiver, get).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn who_has_no_token_may_not_send() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let tokens = Tokens::open(&file).unwrap();
    let receiver = Receiver::new(
        settings(),
        Senders { tokens: Some(tokens), accounts: None },
        Intakes::logs(Arc::new(Stub::default())),
        Pushed::default(),
    );
    for (value, accepted) in
        [("Bearer secret", true), ("Bearer secre", false), ("secret", false), ("", false)]
    {
        let authorization = ("authorization", value);
        let (status, response) = http(&receiver, &[PROTOBUF, authorization], valid(1)).await;
        assert_eq!(status, if accepted { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "{value}");
        assert_eq!(response.headers().contains_key("www-authenticate"), !accepted);
        let (status, _) = grpc(&receiver, &[authorization], framed(0, &valid(1))).await;
        assert_eq!(status, if accepted { "OK" } else { "UNAUTHENTICATED" });
    }
}

#[tokio::test]
async fn a_sender_that_stops_sending_gives_its_memory_back() {
    let (receiver, _) = receiver();
    let first = Stalls(Some(Bytes::from(valid(100)[..50].to_vec())));
    let request =
        Request::post("/v1/logs").header("content-type", "application/x-protobuf").body(first).unwrap();
    let response = serve_http(&receiver, request).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0);
}

/// A body that sends one piece and then never ends.
struct Stalls(Option<Bytes>);

impl Body for Stalls {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(piece) => std::task::Poll::Ready(Some(Ok(BodyFrame::data(piece)))),
            None => std::task::Poll::Pending,
        }
    }
}

fn any_request() -> impl Strategy<Value = (Vec<(&'static str, String)>, Vec<u8>, String)> {
    let name = prop::sample::select(vec![
        "content-type",
        "content-encoding",
        "grpc-encoding",
        "x-sonde-resend",
        "authorization",
        "grpc-timeout",
        "expect",
        "te",
    ]);
    let value = prop_oneof![
        Just("application/grpc".to_owned()),
        Just("application/x-protobuf".to_owned()),
        Just("application/json".to_owned()),
        Just("gzip".to_owned()),
        Just("zstd".to_owned()),
        "[ -~]{0,20}",
    ];
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (prop::collection::vec(any::<u8>(), 0..300), 0u8..2).prop_map(|(bytes, flag)| framed(flag, &bytes)),
        (0usize..300, 0usize..400, any::<u8>()).prop_map(|(length, at, flip)| {
            let mut bytes = framed(1, &gzip(&valid(length)));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
            bytes
        }),
        "[\\[\\]{}:,\"a-z0-9]{0,100}".prop_map(String::into_bytes),
    ];
    let path = prop_oneof![Just("/v1/logs".to_owned()), Just(LOGS_EXPORT_PATH.to_owned()), "/[a-z/]{0,10}"];
    (prop::collection::vec((name, value), 0..4), body, path)
}

proptest! {
    #[test]
    fn any_request_gets_a_status((headers, body, path) in any_request()) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (receiver, _) = receiver();
            let response = serve_http(&receiver, post(&path, &headers, body.clone())).await;
            assert!(response.status().is_success() || response.status().is_client_error());
            let response = serve_grpc(&receiver, post(&path, &headers, body)).await;
            assert!(response.headers().contains_key("grpc-status") || response.status() != StatusCode::OK || {
                response.into_body().collect().await.unwrap().trailers().is_some()
            });
            assert_eq!(receiver.0.bounds.admission.used_bytes(), 0);
        });
    }
}

/// A push of our agent, or of someone else.
fn push(scope: &str) -> Vec<u8> {
    crate::metrics::tests::request("n1", scope, 1_800_000_000, &crate::metrics::tests::node("web", 1.0))
}

#[tokio::test]
async fn a_push_is_taken_in_every_encoding_and_shown_at_once() {
    let (receiver, stub) = receiver();
    let plain = push("sonde-agent");
    for (encoding, body) in [("identity", plain.clone()), ("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        let headers = [PROTOBUF, ("content-encoding", encoding)];
        let response = serve_http(&receiver, post("/v1/metrics", &headers, body.clone())).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty(), "all of it is used");
        let headers = [GRPC, ("grpc-encoding", encoding)];
        let flag = u8::from(encoding != "identity");
        let call = post(sonde_wire::grpc::METRICS_EXPORT_PATH, &headers, framed(flag, &body));
        assert_eq!(read(serve_grpc(&receiver, call).await).await.0, "OK");
    }
    assert!(stub.frames.lock().unwrap().is_empty(), "metrics are not queued");
    receiver.0.pushed.look(|kept| assert_eq!(kept.nodes().count(), 1));
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
}

#[tokio::test]
async fn metrics_of_others_are_refused_for_good_and_that_is_said() {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
    use prost::Message;
    let (receiver, _) = receiver();
    let points = crate::metrics::tests::node("web", 1.0).len() as i64;
    let theirs = push("io.opentelemetry.jvm");
    let response = serve_http(&receiver, post("/v1/metrics", &[PROTOBUF], theirs.clone())).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let partial = ExportMetricsServiceResponse::decode(body).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_data_points, points);
    assert!(partial.error_message.contains("keeps no others"), "{}", partial.error_message);
    let call = post(sonde_wire::grpc::METRICS_EXPORT_PATH, &[GRPC], framed(0, &theirs));
    let response = serve_grpc(&receiver, call).await.into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["grpc-status"], "0");
    let partial = ExportMetricsServiceResponse::decode(&response.to_bytes()[5..]).unwrap().partial_success;
    assert_eq!(partial.unwrap().rejected_data_points, points);

    let json = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"jvm_threads","gauge":{"dataPoints":[
        {"asInt":"7","timeUnixNano":"1800000000000000000","attributes":[{"key":"a","value":{"stringValue":"b"}}]}]}}]}]}]}"#;
    let response = serve_http(&receiver, post("/v1/metrics", &[JSON], json)).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedDataPoints"], "1", "{answer}");
}

#[tokio::test]
async fn what_is_no_request_for_metrics_is_refused_as_logs_are() {
    let (receiver, _) = receiver();
    let bomb = zstd(&vec![0; 8 << 20]);
    for (headers, body, status) in [
        (vec![PROTOBUF], vec![0xff; 40], StatusCode::BAD_REQUEST),
        (vec![PROTOBUF], push("sonde-agent")[..100].to_vec(), StatusCode::BAD_REQUEST),
        (vec![PROTOBUF], vec![b'x'; LIMIT + 1], StatusCode::PAYLOAD_TOO_LARGE),
        (vec![PROTOBUF, ("content-encoding", "zstd")], bomb, StatusCode::PAYLOAD_TOO_LARGE),
        (vec![JSON], b"[".to_vec(), StatusCode::BAD_REQUEST),
        (vec![("content-type", "text/plain")], vec![], StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let response = serve_http(&receiver, post("/v1/metrics", &headers, body)).await;
        assert_eq!(response.status(), status, "{headers:?}");
    }
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
    let page = sonde_daemon::page::Page::new(vec![page::Section::new(None, vec![receiver.source()])], false);
    let page = page.render(page::Format::Classic);
    assert!(page.contains("sonde_collector_ack_seconds_count 0"), "metrics are no acknowledged logs: {page}");
}

/// A request of one span.
fn span() -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;
    let scope =
        ScopeSpans { spans: vec![Span { name: "x".repeat(100), ..Span::default() }], ..Default::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

/// A receiver with a queue for each signal.
fn receiver_of_all(agents: bool) -> (Receiver, [Arc<Stub>; 3]) {
    let stubs = [(); 3].map(|()| Arc::new(Stub::default()));
    let [logs, metrics, traces] = stubs.clone().map(|stub| stub as Arc<dyn Intake>);
    let intakes = Intakes { logs, metrics: Some(metrics), traces: Some(traces), agents };
    (Receiver::new(settings(), Senders::default(), intakes, Pushed::default()), stubs)
}

#[tokio::test]
async fn metrics_and_traces_that_a_sink_wants_are_queued_as_received_each_in_its_own_queue() {
    use sonde_wire::grpc::{METRICS_EXPORT_PATH, TRACES_EXPORT_PATH};
    let (receiver, stubs) = receiver_of_all(false);
    let points = u32::try_from(crate::metrics::tests::node("web", 1.0).len()).unwrap();
    let calls = [
        ("/v1/metrics", METRICS_EXPORT_PATH, push("io.opentelemetry.jvm"), Signal::Metrics, points),
        ("/v1/traces", TRACES_EXPORT_PATH, span(), Signal::Traces, 1),
    ];
    for (path, call, plain, signal, records) in calls {
        let bodies = [("identity", plain.clone()), ("gzip", gzip(&plain)), ("zstd", zstd(&plain))];
        for (encoding, body) in &bodies {
            let headers = [PROTOBUF, ("content-encoding", encoding)];
            let response = serve_http(&receiver, post(path, &headers, body.clone())).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
            let flag = u8::from(*encoding != "identity");
            let headers = [GRPC, ("grpc-encoding", *encoding)];
            assert_eq!(
                read(serve_grpc(&receiver, post(call, &headers, framed(flag, body))).await).await.0,
                "OK"
            );
        }
        let frames = stubs[signal as usize].frames.lock().unwrap();
        assert_eq!(frames.len(), 6);
        for (frame, (_, body)) in frames.iter().zip(bodies.iter().flat_map(|body| [body, body])) {
            assert_eq!(frame.payload.as_ref(), body.as_slice());
            assert_eq!((frame.signal, frame.records), (signal, records));
            assert_eq!(frame.uncompressed_len as usize, plain.len());
        }
    }
    assert!(stubs[0].frames.lock().unwrap().is_empty());
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
    let page = sonde_daemon::page::Page::new(vec![page::Section::new(None, vec![receiver.source()])], false);
    let page = page.render(page::Format::Classic);
    for row in ["{} 0", "{signal=\"traces\"} 6"] {
        let row = format!("sonde_collector_received_records_total{}", row.trim_start_matches("{}"));
        assert!(page.lines().any(|line| line == row), "{row} is not in {page}");
    }
}

#[tokio::test]
async fn json_of_metrics_and_traces_is_queued_as_the_same_request_in_protobuf() {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use prost::Message;
    let (receiver, stubs) = receiver_of_all(false);
    let json = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"h","histogram":{"aggregationTemporality":2,"dataPoints":[
        {"count":"3","sum":1.5,"bucketCounts":[1,"2"],"explicitBounds":[0.5],"timeUnixNano":"1800000000000000000"}]}}]}]}]}"#;
    let response = serve_http(&receiver, post("/v1/metrics", &[JSON], json)).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().as_ref(), b"{}");
    let frame = stubs[1].frames.lock().unwrap()[0].clone();
    let request = ExportMetricsServiceRequest::decode(frame.payload).unwrap();
    let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
    let Some(opentelemetry_proto::tonic::metrics::v1::metric::Data::Histogram(data)) = &metric.data else {
        panic!("{metric:?}");
    };
    let point = &data.data_points[0];
    assert_eq!((point.count, point.sum, &point.bucket_counts[..]), (3, Some(1.5), &[1, 2][..]));
    let json =
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a","kind":2,"status":{"code":"1"}}]}]}]}"#;
    let response = serve_http(&receiver, post("/v1/traces", &[JSON], json)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(stubs[2].frames.lock().unwrap()[0].records, 1);
}

#[tokio::test]
async fn a_push_of_our_agents_is_shown_and_queued_only_where_that_is_asked_for() {
    for agents in [false, true] {
        let (receiver, stubs) = receiver_of_all(agents);
        let response = serve_http(&receiver, post("/v1/metrics", &[PROTOBUF], push("sonde-agent"))).await;
        assert_eq!(response.status(), StatusCode::OK);
        receiver.0.pushed.look(|kept| assert_eq!(kept.nodes().count(), 1));
        assert_eq!(stubs[1].frames.lock().unwrap().len(), usize::from(agents));
    }
}

#[tokio::test]
async fn metrics_and_traces_leave_half_of_the_memory_to_logs() {
    let (receiver, _) = receiver_of_all(false);
    let _held = receiver.0.others.admission.reserve(2 << 20).unwrap();
    for (path, body) in [("/v1/metrics", push("x")), ("/v1/traces", span())] {
        let response = serve_http(&receiver, post(path, &[PROTOBUF], body)).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!(response.headers()["retry-after"], "1");
    }
    assert_eq!(http(&receiver, &[PROTOBUF], valid(10)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_full_queue_of_metrics_refuses_metrics_alone() {
    let (logs, metrics) =
        (Arc::new(Stub::default()), Stub { fail: Some(IntakeError::Full), ..Stub::default() });
    let intakes = Intakes { metrics: Some(Arc::new(metrics)), ..Intakes::logs(logs) };
    let receiver = Receiver::new(settings(), Senders::default(), intakes, Pushed::default());
    let response = serve_http(&receiver, post("/v1/metrics", &[PROTOBUF], push("x"))).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap())
    );
    assert_eq!(http(&receiver, &[PROTOBUF], valid(10)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_request_for_traces_is_refused_as_logs_are() {
    let (receiver, stubs) = receiver_of_all(false);
    let bomb = zstd(&vec![0; 8 << 20]);
    for (headers, body, status) in [
        (vec![PROTOBUF], vec![0xff; 40], StatusCode::BAD_REQUEST),
        (vec![PROTOBUF], span()[..50].to_vec(), StatusCode::BAD_REQUEST),
        (vec![PROTOBUF], vec![b'x'; LIMIT + 1], StatusCode::PAYLOAD_TOO_LARGE),
        (vec![PROTOBUF, ("content-encoding", "zstd")], bomb, StatusCode::PAYLOAD_TOO_LARGE),
        (vec![JSON], b"{\"resourceSpans\":[{\"scopeSpans\":3}]}".to_vec(), StatusCode::BAD_REQUEST),
    ] {
        let response = serve_http(&receiver, post("/v1/traces", &headers, body)).await;
        assert_eq!(response.status(), status, "{headers:?}");
    }
    assert!(stubs[2].frames.lock().unwrap().is_empty());
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
}
