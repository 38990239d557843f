//! The exporter against receivers that behave in every way that contract section 8 speaks of.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sonde_daemon::page::{Format, Page, Section};
use sonde_daemon::shutdown;
use sonde_wire::grpc::{self, Status, StatusDetails};
use sonde_wire::response::encode_logs_response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::Compression;

mod addresses;

/// What the receiver does with one request after it has read it.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Accept,
    Partial(u64),
    Grpc(Status, Option<Duration>),
    TrailersOnly(Status),
    Http(u16, Vec<(&'static str, String)>, &'static str),
    /// gRPC UNIMPLEMENTED and HTTP 415, unless the request came in this encoding.
    Only(&'static str),
    Late(Duration),
    Drop,
    GoAway,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn resend(&self) -> bool {
        self.headers.get("x-sonde-resend").is_some_and(|value| value == "1")
    }

    fn encoding(&self) -> &str {
        let value = self.headers.get("grpc-encoding").or(self.headers.get("content-encoding"));
        value.map_or("identity", |value| value.to_str().unwrap())
    }
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) busiest: Arc<AtomicUsize>,
}

impl Receiver {
    /// Acts through the script, then accepts everything.
    pub(crate) async fn start(protocol: Protocol, script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let (busy, busiest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let receiver = Self { address, seen: Arc::clone(&seen), busiest: Arc::clone(&busiest) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let (busy, busiest) = (Arc::clone(&busy), Arc::clone(&busiest));
                let stop = Arc::new(tokio::sync::Notify::new());
                let goaway = Arc::new(tokio::sync::Notify::new());
                let (stopped, going) = (Arc::clone(&stop), Arc::clone(&goaway));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                    let (busy, busiest) = (Arc::clone(&busy), Arc::clone(&busiest));
                    let (stop, goaway) = (Arc::clone(&stop), Arc::clone(&goaway));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        busiest.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let path = parts.uri.path().to_owned();
                        let this = Seen { path, headers: parts.headers, body };
                        seen.lock().unwrap().push(this.clone());
                        let act = script.lock().unwrap().pop_front().unwrap_or(Act::Accept);
                        let answer = answer(protocol, &this, &act);
                        match act {
                            Act::Drop => {
                                stop.notify_one();
                                std::future::pending::<()>().await;
                            }
                            Act::Late(wait) => tokio::time::sleep(wait).await,
                            Act::GoAway => goaway.notify_one(),
                            _ => {}
                        }
                        busy.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    match protocol {
                        Protocol::Grpc => {
                            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let connection = server.serve_connection(io, service);
                            tokio::pin!(connection);
                            loop {
                                tokio::select! {
                                    _ = &mut connection => break,
                                    () = stopped.notified() => break,
                                    () = going.notified() => connection.as_mut().graceful_shutdown(),
                                }
                            }
                        }
                        Protocol::Http => {
                            let server = hyper::server::conn::http1::Builder::new();
                            tokio::select! {
                                _ = server.serve_connection(io, service) => {}
                                () = stopped.notified() => {}
                            }
                        }
                    }
                });
            }
        });
        receiver
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

type AnswerBody = BoxBody<Bytes, Infallible>;

fn answer(protocol: Protocol, seen: &Seen, act: &Act) -> Response<AnswerBody> {
    let act = match act {
        Act::Only(encoding) if *encoding == seen.encoding() => Act::Accept,
        Act::Only(_) if protocol == Protocol::Grpc => Act::TrailersOnly(Status::Unimplemented),
        Act::Only(_) => Act::Http(415, vec![], ""),
        other => other.clone(),
    };
    let body = match act {
        Act::Partial(rejected) => encode_logs_response(rejected, "too old"),
        _ => Vec::new(),
    };
    match (protocol, act) {
        (_, Act::Http(status, headers, body)) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::from(body).boxed()).unwrap()
        }
        (Protocol::Http, _) => {
            let response = Response::builder().header("content-type", "application/x-protobuf");
            response.body(Full::from(body).boxed()).unwrap()
        }
        (Protocol::Grpc, Act::TrailersOnly(status)) => {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", status.number().to_string());
            response.body(Full::default().boxed()).unwrap()
        }
        (Protocol::Grpc, act) => {
            let mut trailers = HeaderMap::new();
            let (status, retry_delay) = match act {
                Act::Grpc(status, delay) => (status, delay),
                _ => (Status::Ok, None),
            };
            trailers.insert("grpc-status", u16::from(status.number()).into());
            if retry_delay.is_some() {
                let details = StatusDetails { status, message: String::new(), retry_delay };
                trailers.insert(grpc::STATUS_DETAILS_TRAILER, details.encode_trailer().parse().unwrap());
            }
            let mut message = vec![0, 0, 0, 0, u8::try_from(body.len()).unwrap()];
            message.extend_from_slice(&body);
            let body = Full::from(message).with_trailers(async { Some(Ok(trailers)) });
            Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
        }
    }
}

pub(crate) const TIMING: Timing =
    Timing { deadline: Duration::from_millis(1500), probe_every: Duration::from_millis(300) };
pub(crate) const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];
pub(crate) const TAKEN: Outcome = Outcome::Accepted { rejected: 0, message: String::new() };

pub(crate) fn config(address: SocketAddr, protocol: Protocol, compression: Compression) -> Export {
    Export { endpoint: format!("http://{address}"), protocol, compression, ..Export::default() }
}

fn batch(id: u64) -> Batch {
    Batch {
        id: BatchId(id),
        payload: Bytes::from(format!("batch {id} ").repeat(50)),
        records: 1,
        oldest: Instant::now(),
        resend: false,
    }
}

/// Sends `count` batches and returns what became of them, and the exporter's page.
pub(crate) async fn outcomes(config: &Export, count: u64, timing: Timing) -> (Vec<Outcome>, String) {
    let exporter = Exporter::build(config, timing).unwrap();
    let page = Page::new(vec![Section::new(None, vec![Box::new(exporter.metrics())])], false);
    let (sender, receiver) = mpsc::channel(64);
    for id in 0..count {
        sender.try_send(batch(id)).unwrap();
    }
    drop(sender);
    let settled = Mutex::new(Vec::new());
    let (_trigger, shutdown) = shutdown::channel();
    let run = exporter.run(receiver, |one| settled.lock().unwrap().push(one), shutdown, || {});
    tokio::time::timeout(Duration::from_secs(20), run).await.expect("the exporter hangs");
    let mut settled = settled.into_inner().unwrap();
    settled.sort_by_key(|one| one.id);
    assert_eq!(settled.iter().map(|one| one.id.0).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    (settled.into_iter().map(|one| one.outcome).collect(), page.render(Format::Classic))
}

async fn one(protocol: Protocol, script: Vec<Act>) -> (Outcome, Vec<Seen>, String) {
    let receiver = Receiver::start(protocol, script).await;
    let (mut outcomes, page) =
        outcomes(&config(receiver.address, protocol, Compression::Zstd), 1, TIMING).await;
    (outcomes.remove(0), receiver.seen(), page)
}

pub(crate) fn unpacked(seen: &Seen, protocol: Protocol) -> Vec<u8> {
    let body = &seen.body[if protocol == Protocol::Grpc { 5 } else { 0 }..];
    match seen.encoding() {
        "zstd" => zstd::decode_all(body).unwrap(),
        "gzip" => {
            let mut raw = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut raw).unwrap();
            raw
        }
        _ => body.to_vec(),
    }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made_in_every_compression() {
    for protocol in BOTH {
        for (compression, name) in
            [(Compression::Zstd, "zstd"), (Compression::Gzip, "gzip"), (Compression::None, "identity")]
        {
            let receiver = Receiver::start(protocol, vec![]).await;
            let (outcomes, page) =
                outcomes(&config(receiver.address, protocol, compression), 3, TIMING).await;
            assert_eq!(outcomes, [TAKEN, TAKEN, TAKEN]);
            let seen = receiver.seen();
            assert_eq!(seen.len(), 3);
            for one in &seen {
                assert_eq!(one.encoding(), name);
                assert!(!one.resend());
            }
            let mut bodies: Vec<_> = seen.iter().map(|one| unpacked(one, protocol)).collect();
            bodies.sort();
            assert_eq!(bodies, (0..3).map(|id| batch(id).payload.to_vec()).collect::<Vec<_>>());
            let code = if protocol == Protocol::Grpc { "OK" } else { "200" };
            assert!(
                page.contains(&format!("sonde_agent_export_requests_total{{code=\"{code}\"}} 3")),
                "{page}"
            );
            assert!(page.contains("sonde_agent_export_in_flight 0"), "{page}");
            assert!(page.contains("sonde_agent_export_ack_seconds_count 3"), "{page}");
        }
    }
}

#[tokio::test]
async fn class_retry_is_sent_again_until_it_is_taken() {
    let retry = |status| Act::Grpc(status, None);
    let script = vec![
        retry(Status::Cancelled),
        retry(Status::Unavailable),
        Act::TrailersOnly(Status::Aborted),
        Act::Grpc(Status::ResourceExhausted, Some(Duration::from_millis(50))),
        Act::Http(503, vec![("content-type", "text/html".into())], "proxy"),
    ];
    let (outcome, seen, page) = one(Protocol::Grpc, script).await;
    assert_eq!((outcome, seen.len()), (TAKEN, 6));
    assert!(!seen[0].resend() && seen[1..].iter().all(Seen::resend), "the first answer may be a proxy's");
    assert!(seen.windows(2).all(|pair| pair[0].body == pair[1].body), "the same bytes");
    assert!(page.contains("sonde_agent_export_retries_total{code=\"UNAVAILABLE\"} 1"), "{page}");

    let status = |status| Act::Http(status, vec![("retry-after", "0".into())], "");
    let (outcome, seen, _) = one(Protocol::Http, [429, 408, 502, 503, 504].map(status).to_vec()).await;
    assert_eq!((outcome, seen.len()), (TAKEN, 6));
    assert!(!seen[1].resend(), "429 was surely not kept");
    assert!(seen[2..].iter().all(Seen::resend));
}

#[tokio::test]
async fn what_the_receiver_asks_for_is_waited() {
    let started = Instant::now();
    let asked = Duration::from_millis(700);
    let (outcome, seen, _) = one(Protocol::Grpc, vec![Act::Grpc(Status::Unavailable, Some(asked))]).await;
    assert_eq!((outcome, seen.len()), (TAKEN, 2));
    assert!(started.elapsed() >= asked);
}

#[tokio::test]
async fn class_reject_goes_back_to_the_reader() {
    for (act, code) in [
        (Act::Grpc(Status::InvalidArgument, None), "INVALID_ARGUMENT"),
        (Act::Grpc(Status::ResourceExhausted, None), "RESOURCE_EXHAUSTED"),
        (Act::Http(413, vec![], ""), "413"),
    ] {
        let (outcome, seen, _) = one(Protocol::Grpc, vec![act]).await;
        assert_eq!((outcome, seen.len()), (Outcome::Refused { code: code.to_owned() }, 1));
    }
    for status in [400, 413] {
        let (outcome, seen, _) = one(Protocol::Http, vec![Act::Http(status, vec![], "no")]).await;
        assert_eq!((outcome, seen.len()), (Outcome::Refused { code: status.to_string() }, 1));
    }
}

#[tokio::test]
async fn partial_success_is_counted_and_not_sent_again() {
    for protocol in BOTH {
        let (outcome, seen, page) = one(protocol, vec![Act::Partial(3)]).await;
        assert_eq!(outcome, Outcome::Accepted { rejected: 3, message: "too old".to_owned() });
        assert_eq!(seen.len(), 1);
        assert!(page.contains("sonde_agent_export_rejected_records_total 3"), "{page}");
    }
}

#[tokio::test]
async fn class_hold_probes_with_one_request_a_period_and_says_so() {
    for (protocol, act, code) in [
        (Protocol::Grpc, Act::Grpc(Status::Unauthenticated, None), "UNAUTHENTICATED"),
        (Protocol::Grpc, Act::TrailersOnly(Status::Internal), "INTERNAL"),
        (Protocol::Http, Act::Http(401, vec![], "who are you"), "401"),
        (Protocol::Http, Act::Http(200, vec![("content-type", "text/html".into())], "<html>"), "200"),
    ] {
        // Four requests see it at once, then two probes, then it is set right.
        let receiver = Receiver::start(protocol, vec![act; 6]).await;
        let started = Instant::now();
        let config = config(receiver.address, protocol, Compression::Zstd);
        let (outcomes, page) = outcomes(&config, 4, TIMING).await;
        assert_eq!(outcomes, [TAKEN, TAKEN, TAKEN, TAKEN]);
        assert!(started.elapsed() >= 3 * TIMING.probe_every, "{code}: {:?}", started.elapsed());
        assert_eq!(receiver.seen().len(), 4 + 2 + 4);
        assert!(page.contains(&format!("sonde_agent_export_blocked{{code=\"{code}\"}} 0")), "{page}");
    }
}

#[tokio::test]
async fn while_held_auto_tries_one_compression_a_probe_and_finds_the_right_one_when_it_is_set_right() {
    // The first request tries all three at once; from then on it is one request a period, whatever its encoding.
    let down = vec![Act::TrailersOnly(Status::Unimplemented); 6];
    let script = [down, vec![Act::Only("gzip"); 9]].concat();
    let receiver = Receiver::start(Protocol::Grpc, script).await;
    let mut config = config(receiver.address, Protocol::Grpc, Compression::Auto);
    config.in_flight = 1;
    let started = Instant::now();
    let (outcomes, page) = outcomes(&config, 1, TIMING).await;
    assert_eq!(outcomes, [TAKEN]);
    let seen = receiver.seen();
    let used: Vec<_> = seen.iter().map(Seen::encoding).collect();
    let round = ["zstd", "gzip", "identity"];
    assert_eq!(used, [&round[..], &round[..], &["zstd", "gzip"]].concat(), "{page}");
    assert!(started.elapsed() >= 5 * TIMING.probe_every, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_probe_in_a_simpler_encoding_that_is_taken_leaves_the_next_request_as_it_should_be() {
    // Refused for a reason of its own, and set right when the turn is gzip's.
    let receiver = Receiver::start(Protocol::Grpc, vec![Act::TrailersOnly(Status::Unimplemented); 4]).await;
    let mut config = config(receiver.address, Protocol::Grpc, Compression::Auto);
    config.in_flight = 1;
    let (outcomes, page) = outcomes(&config, 2, TIMING).await;
    assert_eq!(outcomes, [TAKEN, TAKEN]);
    let seen = receiver.seen();
    let used: Vec<_> = seen.iter().map(Seen::encoding).collect();
    assert_eq!(used, ["zstd", "gzip", "identity", "zstd", "gzip", "zstd"], "{page}");
}

#[tokio::test]
async fn while_held_the_page_says_why() {
    let receiver = Receiver::start(Protocol::Grpc, vec![Act::Grpc(Status::PermissionDenied, None); 99]).await;
    let exporter =
        Exporter::build(&config(receiver.address, Protocol::Grpc, Compression::Zstd), TIMING).unwrap();
    let page = Page::new(vec![Section::new(None, vec![Box::new(exporter.metrics())])], false);
    let (sender, batches) = mpsc::channel(4);
    sender.try_send(batch(0)).unwrap();
    let (_trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(exporter.run(batches, |_| {}, shutdown, || {}));
    tokio::time::sleep(TIMING.probe_every / 2).await;
    let text = page.render(Format::Classic);
    assert!(text.contains("sonde_agent_export_blocked{code=\"PERMISSION_DENIED\"} 1"), "{text}");
    assert!(text.contains("sonde_agent_export_in_flight 1"), "{text}");
    assert_eq!(receiver.seen().len(), 1);
    running.abort();
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_was_read_makes_it_a_resend() {
    for protocol in BOTH {
        let (outcome, seen, _) = one(protocol, vec![Act::Drop, Act::Drop]).await;
        assert_eq!((outcome, seen.len()), (TAKEN, 3));
        assert_eq!(seen.iter().map(Seen::resend).collect::<Vec<_>>(), [false, true, true]);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_late_makes_it_a_resend_on_a_new_connection() {
    for protocol in BOTH {
        let (outcome, seen, _) = one(protocol, vec![Act::Late(TIMING.deadline * 3)]).await;
        assert_eq!((outcome, seen.len()), (TAKEN, 2));
        assert!(seen[1].resend());
    }
}

#[tokio::test]
async fn goaway_loses_nothing_and_repeats_nothing() {
    let receiver = Receiver::start(Protocol::Grpc, vec![Act::GoAway; 10]).await;
    let mut config = config(receiver.address, Protocol::Grpc, Compression::Zstd);
    config.in_flight = 1;
    let (outcomes, _) = outcomes(&config, 12, TIMING).await;
    assert_eq!(outcomes, vec![TAKEN; 12]);
    assert_eq!(receiver.seen().len(), 12);
    assert!(receiver.seen().iter().all(|seen| !seen.resend()));
}

#[tokio::test]
async fn huge_headers_are_not_swallowed() {
    for protocol in BOTH {
        let huge = Act::Http(200, vec![("x-huge", "x".repeat(300 << 10))], "");
        let (outcome, seen, _) = one(protocol, vec![huge]).await;
        assert_eq!((outcome, seen.len()), (TAKEN, 2), "{protocol:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_are_retried_and_given_up_at_the_stop_only() {
    for protocol in BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(&[0xff; 4096]).await;
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
        let exporter = Exporter::build(&config(address, protocol, Compression::Auto), TIMING).unwrap();
        let (sender, batches) = mpsc::channel(4);
        sender.try_send(batch(7)).unwrap();
        let settled = Mutex::new(Vec::new());
        let (trigger, shutdown) = shutdown::channel();
        let run = exporter.run(batches, |one| settled.lock().unwrap().push(one), shutdown, || {});
        let stop = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert!(settled.lock().unwrap().is_empty());
            trigger.fire(Duration::from_millis(200));
        };
        tokio::join!(run, stop);
        let want = Settlement { id: BatchId(7), outcome: Outcome::Abandoned };
        assert_eq!(settled.into_inner().unwrap(), [want]);
    }
}

#[tokio::test]
async fn at_the_stop_what_is_in_flight_may_finish_within_the_grace() {
    let receiver = Receiver::start(Protocol::Grpc, vec![Act::Late(Duration::from_millis(400))]).await;
    let config = config(receiver.address, Protocol::Grpc, Compression::Zstd);
    let exporter = Exporter::build(&config, TIMING).unwrap();
    let (sender, batches) = mpsc::channel(4);
    sender.try_send(batch(1)).unwrap();
    let settled = Mutex::new(Vec::new());
    let (trigger, shutdown) = shutdown::channel();
    trigger.fire(Duration::from_secs(5));
    drop(sender);
    exporter.run(batches, |one| settled.lock().unwrap().push(one), shutdown, || {}).await;
    assert_eq!(settled.into_inner().unwrap(), [Settlement { id: BatchId(1), outcome: TAKEN }]);
}

#[tokio::test]
async fn as_many_requests_as_allowed_run_at_once() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol, vec![Act::Late(Duration::from_millis(100)); 12]).await;
        let mut config = config(receiver.address, protocol, Compression::Zstd);
        config.in_flight = 3;
        let (outcomes, _) = outcomes(&config, 12, TIMING).await;
        assert_eq!(outcomes, vec![TAKEN; 12]);
        assert_eq!(receiver.busiest.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn auto_finds_the_compression_that_the_receiver_takes_and_remembers_it() {
    for protocol in BOTH {
        for (only, tries) in [
            ("zstd", &["zstd"][..]),
            ("gzip", &["zstd", "gzip"]),
            ("identity", &["zstd", "gzip", "identity"]),
        ] {
            let receiver = Receiver::start(protocol, vec![Act::Only(only); 9]).await;
            let mut config = config(receiver.address, protocol, Compression::Auto);
            config.in_flight = 1;
            let (outcomes, _) = outcomes(&config, 3, TIMING).await;
            assert_eq!(outcomes, [TAKEN, TAKEN, TAKEN]);
            let seen = receiver.seen();
            let used: Vec<_> = seen.iter().map(Seen::encoding).collect();
            assert_eq!(used, [tries, &[only, only]].concat(), "{protocol:?}");
            assert!(seen.iter().all(|one| unpacked(one, protocol).starts_with(b"batch ")));
            assert!(seen.iter().all(|one| !one.resend()));
        }
    }
}

#[tokio::test]
async fn a_request_that_no_compression_makes_valid_is_refused_all_the_same() {
    let receiver = Receiver::start(Protocol::Http, vec![Act::Http(400, vec![], "bad"); 3]).await;
    let config = config(receiver.address, Protocol::Http, Compression::Auto);
    let (outcomes, _) = outcomes(&config, 1, TIMING).await;
    assert_eq!(outcomes, [Outcome::Refused { code: "400".to_owned() }]);
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test]
async fn headers_and_token_go_with_every_request_and_the_token_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "one\n").unwrap();
    let receiver = Receiver::start(Protocol::Grpc, vec![]).await;
    let mut config = config(receiver.address, Protocol::Grpc, Compression::Auto);
    config.headers = [("X-Scope-OrgID".to_owned(), "team-a".to_owned())].into();
    config.token_file = token.display().to_string();
    let exporter = Exporter::build(&config, TIMING).unwrap();
    let (sender, batches) = mpsc::channel(4);
    let (_trigger, shutdown) = shutdown::channel();
    let send = async {
        sender.send(batch(0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        std::fs::write(&token, "another").unwrap();
        sender.send(batch(1)).await.unwrap();
        drop(sender);
    };
    tokio::join!(exporter.run(batches, |_| {}, shutdown, || {}), send);
    let seen = receiver.seen();
    let of = |at: usize, name: &str| seen[at].headers[name].to_str().unwrap().to_owned();
    assert_eq!(of(0, "x-scope-orgid"), "team-a");
    assert_eq!(
        (of(0, "authorization"), of(1, "authorization")),
        ("Bearer one".into(), "Bearer another".into())
    );
    assert_eq!(of(0, "content-type"), "application/grpc");
    assert_eq!(of(0, "te"), "trailers");
}

#[test]
fn files_that_are_not_there_are_said_with_their_key() {
    let base = config("127.0.0.1:1".parse().unwrap(), Protocol::Grpc, Compression::Auto);
    let error = |config: &Export| Exporter::build(config, TIMING).err().unwrap().to_string();
    let missing = Export { token_file: "/no/such/token".into(), ..base.clone() };
    assert!(error(&missing).starts_with("export.token_file: /no/such/token"), "{}", error(&missing));
    let tls = config::Tls { ca_file: "/no/such/ca".into(), ..config::Tls::default() };
    let missing = Export { endpoint: "https://localhost".into(), tls, ..base };
    assert!(error(&missing).contains("/no/such/ca"), "{}", error(&missing));
}
