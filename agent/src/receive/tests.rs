//! Apps in front of a receiver that answers as it is told, without a socket of our own.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use sonde_daemon::page::{Format as PageFormat, Page, Section};
use sonde_daemon::receive::reply::Reply;
use sonde_daemon::units::Size;
use sonde_wire::grpc::{LOGS_EXPORT_PATH, STATUS_DETAILS_TRAILER, Status, StatusDetails, TRACES_EXPORT_PATH};
use sonde_wire::response::decode_logs_response;

use super::*;
use crate::config::{Compression, Protocol, ReceiveLimits};
use crate::export::tests::{Act, BOTH, Receiver as Stub, config};
use crate::kubelet::pods;

const REQUEST: usize = 256 << 10;
const PROTOBUF: &str = "application/x-protobuf";

/// A node with the pod `web-0` at 10.0.0.7 in the host's eyes at 192.0.2.1.
const PODS: &[u8] = br#"{"kind":"PodList","items":[
  {"metadata":{"name":"web-0","namespace":"shop","uid":"u1","labels":{"app":"web","secret":"x"},"creationTimestamp":"2026-11-20T10:00:00Z",
     "ownerReferences":[{"kind":"StatefulSet","name":"web","controller":true}]},
   "spec":{"containers":[{"name":"app","image":"registry/web:2.0"}]},
   "status":{"phase":"Running","podIP":"10.0.0.7","podIPs":[{"ip":"10.0.0.7"},{"ip":"fd00::7"}],"hostIP":"192.0.2.1"}}]}"#;

pub(super) fn index(json: &[u8]) -> PodIndex {
    let index = PodIndex::default();
    tell(&index, json);
    index
}

pub(super) fn tell(index: &PodIndex, json: &[u8]) {
    let picture = pods::parse(json, "").unwrap();
    index.replace(picture.pods);
    index.replace_states(picture.states);
}

pub(super) fn node() -> Node {
    Node { cluster: "lab".to_owned(), name: "n1".to_owned(), labels: vec!["app".to_owned()] }
}

fn receiver(stub: &Stub, protocol: Protocol) -> Receiver {
    let limits =
        ReceiveLimits { request: Size(REQUEST as u64), in_flight: Size(2 << 20), ..ReceiveLimits::default() };
    let patience = Patience { idle: Duration::from_millis(200), whole: Duration::from_millis(600) };
    let senders = Senders::new(node(), index(PODS), false);
    let export = config(stub.address, protocol, Compression::None);
    let forward = Forward::patient(&export, Duration::from_millis(500)).unwrap();
    Receiver::new(&limits, patience, senders, forward)
}

fn attribute(key: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    KeyValue { key: key.to_owned(), value, key_strindex: 0 }
}

fn request(attributes: &[(&str, &str)], body: &str) -> Vec<u8> {
    let attributes = attributes.iter().map(|(key, text)| attribute(key, text)).collect();
    let body = Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) });
    let scope =
        ScopeLogs { log_records: vec![LogRecord { body, ..LogRecord::default() }], ..ScopeLogs::default() };
    let group = ResourceLogs {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_logs: vec![scope],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: vec![group] }.encode_to_vec()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

fn post(path: &str, headers: &[(&str, &str)], from: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::post(path).extension(Peer(SocketAddr::new(from.parse().unwrap(), 5)));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

/// An answer over either transport.
#[derive(Debug, PartialEq)]
enum Said {
    Taken(PartialSuccess),
    Not { status: String, retry: Option<Duration>, message: String },
}

fn not(status: &str, retry: Option<u64>, message: &str) -> Said {
    Said::Not {
        status: status.to_owned(),
        retry: retry.map(Duration::from_secs),
        message: message.to_owned(),
    }
}

async fn read_grpc(response: Response<Reply>) -> Said {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let map = collected.trailers().cloned().unwrap_or(head.headers);
    let status = Status::from_trailer(map["grpc-status"].as_bytes());
    if status == Status::Ok {
        return Said::Taken(decode_logs_response(&collected.to_bytes()[5..]).unwrap());
    }
    let details =
        map.get(STATUS_DETAILS_TRAILER).map(|v| StatusDetails::decode_trailer(v.as_bytes()).unwrap());
    let message = sonde_wire::grpc::decode_message(map["grpc-message"].as_bytes());
    Said::Not { status: status.name().to_owned(), retry: details.and_then(|d| d.retry_delay), message }
}

async fn read_http(response: Response<Reply>) -> Said {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if head.status == StatusCode::OK {
        return Said::Taken(decode_logs_response(&body).unwrap());
    }
    let details = StatusDetails::decode(&body).unwrap();
    let seconds = head.headers.get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    assert_eq!(details.retry_delay.is_some(), seconds.is_some());
    not(head.status.as_str(), seconds, &details.message)
}

/// Sends to the logs service as an app does that speaks `protocol`.
async fn send(receiver: &Receiver, protocol: Protocol, from: &str, message: Vec<u8>) -> Said {
    match protocol {
        Protocol::Grpc => {
            let headers = [("content-type", "application/grpc")];
            let request = post(LOGS_EXPORT_PATH, &headers, from, framed(0, &message));
            read_grpc(grpc::serve(receiver, request).await).await
        }
        Protocol::Http => {
            let request = post("/v1/logs", &[("content-type", PROTOBUF)], from, message);
            read_http(http::serve(receiver, request).await).await
        }
    }
}

fn taken() -> Said {
    Said::Taken(PartialSuccess::default())
}

/// The attributes of the first resource that the receiver has, and the body of its record.
fn arrived(stub: &Stub, at: usize) -> (Vec<(String, String)>, String) {
    let seen = stub.seen();
    let message = if seen[at].path.starts_with("/v1") { &seen[at].body[..] } else { &seen[at].body[5..] };
    let group = ExportLogsServiceRequest::decode(message).unwrap().resource_logs.swap_remove(0);
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::ArrayValue(values)) => format!("{} values", values.values.len()),
        other => format!("{other:?}"),
    };
    let resource = group.resource.unwrap();
    let body = text(&group.scope_logs[0].log_records[0].body);
    (resource.attributes.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect(), body)
}

fn page(receiver: &Receiver) -> String {
    let receiver = receiver.clone();
    let source = page::source("receive", move |out| {
        receiver.0.metrics.collect(receiver.0.bounds.admission.used_bytes(), out);
        Ok(())
    });
    Page::new(vec![Section::new(None, vec![source])], false).render(PageFormat::Classic)
}

#[tokio::test]
async fn a_pod_is_known_by_its_address_and_an_app_keeps_what_it_set() {
    for protocol in BOTH {
        for export in BOTH {
            let stub = Stub::start(export, vec![]).await;
            let receiver = receiver(&stub, export);
            let own = [("service.name", "mine"), ("k8s.pod.name", "web-0")];
            assert_eq!(send(&receiver, protocol, "10.0.0.7", request(&own, "hello")).await, taken());
            let want = [
                ("service.name", "mine"),
                ("k8s.pod.name", "web-0"),
                ("k8s.cluster.name", "lab"),
                ("k8s.node.name", "n1"),
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.uid", "u1"),
                ("k8s.container.name", "app"),
                ("container.image.name", "registry/web"),
                ("container.image.tags", "1 values"),
                ("k8s.statefulset.name", "web"),
                ("k8s.pod.label.app", "web"),
            ];
            let want = want.map(|(key, text)| (key.to_owned(), text.to_owned())).to_vec();
            assert_eq!(arrived(&stub, 0), (want, "hello".to_owned()));
            // The same pod by its other address, in a socket that takes both families.
            for from in ["fd00::7", "::ffff:10.0.0.7"] {
                assert_eq!(send(&receiver, protocol, from, request(&[], "")).await, taken());
            }
            let pods: Vec<_> = (0..3)
                .map(|at| arrived(&stub, at).0.contains(&("k8s.pod.uid".into(), "u1".into())))
                .collect();
            assert_eq!(pods, [true; 3]);
        }
    }
}

#[tokio::test]
async fn who_is_no_pod_of_this_node_gets_its_name_alone_and_who_says_it_is_another_nothing() {
    let stub = Stub::start(Protocol::Grpc, vec![]).await;
    let receiver = receiver(&stub, Protocol::Grpc);
    let about_node = vec![
        ("k8s.cluster.name".to_owned(), "lab".to_owned()),
        ("k8s.node.name".to_owned(), "n1".to_owned()),
    ];
    for (at, from) in ["192.0.2.1", "10.9.9.9", "127.0.0.1"].into_iter().enumerate() {
        assert_eq!(send(&receiver, Protocol::Grpc, from, request(&[], "")).await, taken());
        assert_eq!(arrived(&stub, at).0, about_node, "{from}");
    }
    for (at, other) in
        [("k8s.pod.uid", "u9"), ("k8s.pod.name", "db-0"), ("k8s.namespace.name", "kube-system")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(send(&receiver, Protocol::Grpc, "10.0.0.7", request(&[other], "")).await, taken());
        assert_eq!(arrived(&stub, 3 + at).0, [(other.0.to_owned(), other.1.to_owned())]);
    }
    let page = page(&receiver);
    assert!(page.contains("sonde_agent_receive_senders_total{sender=\"node\"} 3"), "{page}");
    assert!(page.contains("sonde_agent_receive_senders_total{sender=\"pod\"} 3"), "{page}");
}

#[tokio::test]
async fn every_signal_goes_to_its_own_service() {
    for export in BOTH {
        let stub = Stub::start(export, vec![]).await;
        let receiver = receiver(&stub, export);
        for path in ["/v1/metrics", "/v1/traces"] {
            let sent = post(path, &[("content-type", PROTOBUF)], "10.0.0.7", request(&[], ""));
            assert_eq!(read_http(http::serve(&receiver, sent).await).await, taken());
        }
        let headers =
            [("content-type", "application/grpc"), ("grpc-encoding", "gzip"), ("x-sonde-resend", "1")];
        let body = framed(1, &gzip(&request(&[], "")));
        let sent = post(TRACES_EXPORT_PATH, &headers, "10.0.0.7", body);
        assert_eq!(read_grpc(grpc::serve(&receiver, sent).await).await, taken());
        let paths: Vec<String> = stub.seen().iter().map(|seen| seen.path.clone()).collect();
        let want = match export {
            Protocol::Grpc => ["metrics.v1.MetricsService", "trace.v1.TraceService", "trace.v1.TraceService"],
            Protocol::Http => ["/v1/metrics", "/v1/traces", "/v1/traces"],
        };
        assert!(paths.iter().zip(want).all(|(path, want)| path.contains(want)), "{paths:?}");
        assert_eq!(stub.seen().iter().map(|seen| seen.resend()).collect::<Vec<_>>(), [false, false, true]);
        let page = page(&receiver);
        assert!(
            page.contains("sonde_agent_receive_requests_total{signal=\"traces\",outcome=\"accepted\"} 2"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn the_receivers_answer_is_the_apps_over_either_transport() {
    let after = Some(Duration::from_secs(7));
    let retry = || vec![("retry-after", "7".to_owned())];
    // What it says over gRPC or HTTP, and what an app hears over gRPC and over HTTP.
    let cases = [
        (Protocol::Grpc, Act::Grpc(Status::Unavailable, after), ("UNAVAILABLE", Some(7)), ("503", Some(7))),
        (Protocol::Grpc, Act::Grpc(Status::Unavailable, None), ("UNAVAILABLE", None), ("503", None)),
        (
            Protocol::Grpc,
            Act::Grpc(Status::ResourceExhausted, after),
            ("RESOURCE_EXHAUSTED", Some(7)),
            ("429", Some(7)),
        ),
        (
            Protocol::Grpc,
            Act::Grpc(Status::ResourceExhausted, None),
            ("RESOURCE_EXHAUSTED", None),
            ("413", None),
        ),
        (Protocol::Grpc, Act::Grpc(Status::InvalidArgument, None), ("INVALID_ARGUMENT", None), ("400", None)),
        (Protocol::Grpc, Act::TrailersOnly(Status::Unimplemented), ("UNIMPLEMENTED", None), ("404", None)),
        (
            Protocol::Grpc,
            Act::Grpc(Status::Unauthenticated, None),
            ("UNAVAILABLE", Some(5)),
            ("503", Some(5)),
        ),
        (Protocol::Http, Act::Http(429, retry(), ""), ("RESOURCE_EXHAUSTED", Some(7)), ("429", Some(7))),
        (Protocol::Http, Act::Http(503, vec![], ""), ("UNAVAILABLE", None), ("503", None)),
        (Protocol::Http, Act::Http(400, vec![], ""), ("INVALID_ARGUMENT", None), ("400", None)),
        (Protocol::Http, Act::Http(413, vec![], ""), ("RESOURCE_EXHAUSTED", None), ("413", None)),
        (Protocol::Http, Act::Http(403, vec![], ""), ("UNAVAILABLE", Some(5)), ("503", Some(5))),
        (Protocol::Http, Act::Http(302, vec![], ""), ("UNAVAILABLE", Some(5)), ("503", Some(5))),
        (Protocol::Http, Act::Http(200, vec![], "<html>"), ("UNAVAILABLE", Some(5)), ("503", Some(5))),
    ];
    for (export, act, over_grpc, over_http) in cases {
        for (protocol, (status, retry)) in [(Protocol::Grpc, over_grpc), (Protocol::Http, over_http)] {
            let stub = Stub::start(export, vec![act.clone()]).await;
            let receiver = receiver(&stub, export);
            let said = send(&receiver, protocol, "10.0.0.7", request(&[], "x")).await;
            let Said::Not { status: got, retry: delay, .. } = &said else { panic!("{act:?}: {said:?}") };
            assert_eq!((got.as_str(), *delay), (status, retry.map(Duration::from_secs)), "{act:?}");
            assert_eq!(stub.seen().len(), 1, "sent once: {act:?}");
        }
    }
    for export in BOTH {
        for protocol in BOTH {
            let stub = Stub::start(export, vec![Act::Partial(3)]).await;
            let receiver = receiver(&stub, export);
            let partial = PartialSuccess { rejected: 3, message: "too old".to_owned() };
            let said = send(&receiver, protocol, "10.0.0.7", request(&[], "x")).await;
            assert_eq!(said, Said::Taken(partial));
            assert!(page(&receiver).contains("sonde_agent_receive_rejected_total{signal=\"logs\"} 3"));
        }
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_or_says_nothing_is_not_there_and_nothing_is_kept() {
    for act in [Act::Drop, Act::Late(Duration::from_secs(20))] {
        let stub = Stub::start(Protocol::Grpc, vec![act]).await;
        let receiver = receiver(&stub, Protocol::Grpc);
        let away = not("UNAVAILABLE", Some(5), "the receiver cannot be reached");
        assert_eq!(send(&receiver, Protocol::Grpc, "10.0.0.7", request(&[], "x")).await, away);
        assert_eq!(receiver.0.bounds.admission.used_bytes(), 0);
        let page = page(&receiver);
        assert!(page.contains("{signal=\"logs\",outcome=\"unavailable\"} 1"), "{page}");
    }
}

#[tokio::test]
async fn a_receiver_that_asked_for_time_is_left_alone_by_all_apps() {
    let after = Some(Duration::from_secs(9));
    let stub = Stub::start(Protocol::Grpc, vec![Act::Grpc(Status::Unavailable, after)]).await;
    let receiver = receiver(&stub, Protocol::Grpc);
    send(&receiver, Protocol::Grpc, "10.0.0.7", request(&[], "x")).await;
    let said = send(&receiver, Protocol::Http, "10.9.9.9", request(&[], "x")).await;
    let Said::Not { status, retry: Some(retry), .. } = said else { panic!("{said:?}") };
    assert!(status == "503" && retry <= Duration::from_secs(9), "{retry:?}");
    assert_eq!(stub.seen().len(), 1);
    // Of traces it said nothing.
    let headers = [("content-type", "application/grpc")];
    let traces = post(TRACES_EXPORT_PATH, &headers, "10.0.0.7", framed(0, &request(&[], "")));
    assert_eq!(read_grpc(grpc::serve(&receiver, traces).await).await, taken());
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_never_gets_to_the_receiver() {
    let stub = Stub::start(Protocol::Grpc, vec![]).await;
    let receiver = receiver(&stub, Protocol::Grpc);
    let proto = ("content-type", PROTOBUF);
    let bomb = gzip(&vec![0; 64 << 20]);
    let groups = [0x0a, 0].repeat(REQUEST / 4);
    let cases: [(&str, Headers<'_>, Vec<u8>, u16); 9] = [
        ("/v1/logs", &[("content-type", "application/json")], b"{}".to_vec(), 415),
        ("/v1/logs", &[], vec![], 415),
        ("/v1/profiles", &[proto], vec![], 404),
        ("/v1/logs", &[proto, ("content-encoding", "br")], vec![], 415),
        ("/v1/logs", &[proto], vec![0xff; 100], 400),
        ("/v1/logs", &[proto], vec![b'x'; REQUEST + 1], 413),
        ("/v1/logs", &[proto, ("content-encoding", "gzip")], bomb, 400),
        ("/v1/logs", &[proto, ("content-encoding", "zstd")], b"garbage".to_vec(), 400),
        // Each of them would get our attributes.
        ("/v1/logs", &[proto], groups, 413),
    ];
    for (path, headers, body, want) in cases {
        let response = http::serve(&receiver, post(path, headers, "10.0.0.7", body)).await;
        assert_eq!(response.status(), want, "{path} {headers:?}");
        assert_eq!(receiver.0.bounds.admission.used_bytes(), 0, "all memory is given back");
    }
    assert_eq!(stub.seen().len(), 0);
}

#[tokio::test]
async fn a_sender_that_stops_in_the_middle_is_not_waited_for() {
    let stub = Stub::start(Protocol::Grpc, vec![]).await;
    let receiver = receiver(&stub, Protocol::Grpc);
    let first = Stalls(Some(Bytes::from_static(&[0x0a, 100, 0])));
    let request = Request::post("/v1/logs").header("content-type", PROTOBUF).body(first).unwrap();
    let said = read_http(http::serve(&receiver, request).await).await;
    assert_eq!(said, not("408", None, "the request did not arrive in time"));
}

#[tokio::test]
async fn more_memory_than_there_is_is_never_taken_and_the_sender_is_told_to_come_again() {
    let stub = Stub::start(Protocol::Grpc, vec![Act::Late(Duration::from_millis(300)); 40]).await;
    let receiver = receiver(&stub, Protocol::Grpc);
    let large = request(&[], &"x".repeat(REQUEST - 1000));
    let all: Vec<_> = (0..40)
        .map(|_| {
            let (receiver, large) = (receiver.clone(), large.clone());
            tokio::spawn(async move { send(&receiver, Protocol::Http, "10.0.0.7", large).await })
        })
        .collect();
    let (mut took, mut refused) = (0, 0);
    for one in all {
        match one.await.unwrap() {
            Said::Taken(_) => took += 1,
            Said::Not { status, retry, .. } => {
                assert_eq!((status.as_str(), retry), ("429", Some(Duration::from_secs(1))));
                refused += 1;
            }
        }
    }
    assert!(took > 0 && refused > 0, "{took} {refused}");
    assert_eq!(receiver.0.bounds.admission.used_bytes(), 0);
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A body that sends one piece and then never ends.
struct Stalls(Option<Bytes>);

impl Body for Stalls {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }
}
