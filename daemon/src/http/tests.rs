//! What the server promises.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Instant as Clock;

use bytes::Buf;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client::dial::Dialer;
use crate::client::endpoint::Endpoint;
use crate::client::names::System;
use crate::client::pool::{self, Pool, Version};
use crate::shutdown::{self, Trigger};

struct Running {
    addr: SocketAddr,
    trigger: Trigger,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if request.uri().path() == "/large" {
        return text(StatusCode::OK, vec![b'x'; 64 << 20]);
    }
    let has_peer = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback());
    text(StatusCode::OK, format!("{} {has_peer}", request.uri().path()))
}

fn quick() -> Limits {
    let short = Duration::from_millis(300);
    Limits { connections: 4, header_timeout: short, stall_timeout: short, ..Limits::default() }
}

fn pages(limits: Limits) -> Running {
    let bound = bind("127.0.0.1:0").unwrap();
    let addr = bound.addr();
    let (trigger, shutdown) = shutdown::channel();
    let server = tokio::spawn(serve_pages(bound, limits, shutdown, answer));
    Running { addr, trigger, server }
}

async fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    // A reset is an answer too.
    let _ =
        timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await.expect("it is closed in the end");
    String::from_utf8_lossy(&got).into_owned()
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_page_is_served_and_the_handler_knows_its_peer() {
    let running = pages(quick());
    let got = exchange(running.addr, GET).await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("/a true"), "{got}");
}

#[tokio::test]
async fn slow_and_idle_clients_are_cut_off_and_do_not_keep_others_out() {
    let running = pages(quick());
    let mut held = Vec::new();
    for start in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nx: "] {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        held.push(stream);
    }
    // All four slots are taken by them.
    let begin = Clock::now();
    assert!(exchange(running.addr, GET).await.ends_with("/a true"));
    assert!(begin.elapsed() < Duration::from_secs(4));
    // Kept alive and idle after a good request.
    let mut idle = TcpStream::connect(running.addr).await.unwrap();
    idle.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    timeout(Duration::from_secs(5), idle.read_to_end(&mut got)).await.expect("closed when idle").unwrap();
}

#[tokio::test]
async fn a_client_that_takes_no_byte_of_its_answer_is_cut_off() {
    let limits = Limits { connections: 1, ..quick() };
    let running = pages(limits);
    let mut stuck = TcpStream::connect(running.addr).await.unwrap();
    stuck.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(exchange(running.addr, GET).await.ends_with("/a true"), "the only slot came back");
}

#[tokio::test]
async fn garbage_is_refused_and_the_server_lives_on() {
    let running = pages(quick());
    let long = [b"GET /".to_vec(), vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat();
    let header = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 100_000], b"\r\n\r\n".to_vec()].concat();
    let many = [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000), b"\r\n".to_vec()].concat();
    for bytes in [
        &b"\0\0\0\0"[..],
        b"\x16\x03\x01\x02\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        &long,
        &header,
        &many,
    ] {
        let got = exchange(running.addr, bytes).await;
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 4"), "{got}");
    }
    assert!(exchange(running.addr, GET).await.ends_with("/a true"));
}

#[tokio::test]
async fn the_stop_lets_a_request_under_way_end_and_takes_no_new_ones() {
    let running = pages(quick());
    let slow = tokio::spawn(exchange(running.addr, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"));
    let _idle = TcpStream::connect(running.addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.trigger.fire(Duration::from_secs(5));
    assert!(slow.await.unwrap().ends_with("/slow true"));
    timeout(Duration::from_secs(2), running.server).await.expect("ended").unwrap().unwrap();
    assert!(TcpStream::connect(running.addr).await.is_err());
}

#[tokio::test]
async fn http2_and_http1_are_told_apart_on_one_port() {
    let bound = bind("127.0.0.1:0").unwrap();
    let addr = bound.addr();
    let (_trigger, shutdown) = shutdown::channel();
    let service = hyper::service::service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let options = Options { limits: quick(), ..Options::default() };
    tokio::spawn(serve(bound, options, shutdown, service));
    assert!(exchange(addr, GET).await.ends_with("/a true"));
    assert!(exchange(addr, b"PR").await.is_empty());
    assert!(exchange(addr, b"PRI * HTTP/2.0\r\n\r\nXX").await.len() < 100);
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{addr}/two")).body(Full::<Bytes>::default()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "/two true");
}

/// The body of a request that has none.
#[derive(Clone)]
struct Nothing;

impl From<Nothing> for pool::Body {
    fn from(_: Nothing) -> Self {
        Full::new(Bytes::new().chain(Bytes::new()))
    }
}

#[tokio::test]
async fn an_old_connection_is_closed_between_requests_and_no_request_fails_by_it() {
    for version in [Version::Http1, Version::Http2] {
        let bound = bind("127.0.0.1:0").unwrap();
        let addr = bound.addr();
        let (_trigger, shutdown) = shutdown::channel();
        let peers: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
        let seen = Arc::clone(&peers);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            seen.lock().unwrap().insert(request.extensions().get::<Peer>().unwrap().0);
            async {
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok::<_, Infallible>(answer(request).await)
            }
        });
        let max_age = Some(Duration::from_millis(50));
        tokio::spawn(serve(bound, Options { max_age, ..Options::default() }, shutdown, service));
        let endpoint = Endpoint::parse(&format!("http://{addr}"), (80, 443)).unwrap();
        let pool = Pool::new(Dialer::new(endpoint, None).unwrap(), Box::new(System), version, 1, 1 << 10);
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let pool = Arc::clone(&pool);
            clients.spawn(async move {
                for _ in 0..100 {
                    let request = Request::post(format!("http://{addr}/a")).body(Nothing).unwrap();
                    let (_, reply) = pool.call(&request, Duration::from_secs(5)).await.unwrap();
                    assert_eq!(reply.status, StatusCode::OK);
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let connections = peers.lock().unwrap().len();
        let share = if version == Version::Http1 { 4 } else { 1 };
        assert!(connections >= 4 * share, "{version:?}: {connections} connections");
    }
}

#[test]
fn an_address_in_use_or_without_sense_is_named() {
    let first = bind("[::]:0").unwrap();
    let again = bind(&format!("[::]:{}", first.addr().port())).unwrap_err().to_string();
    assert!(again.starts_with(&format!("cannot listen on [::]:{}: ", first.addr().port())), "{again}");
    for addr in ["", "x", "127.0.0.1", "127.0.0.1:99999", "[::", ":", "256.1.1.1:1"] {
        assert!(bind(addr).unwrap_err().to_string().contains("cannot listen on "), "{addr}");
    }
    assert_eq!(bind(":0").unwrap().addr().ip(), first.addr().ip());
}

#[tokio::test]
async fn the_unspecified_address_takes_ipv4_as_well() {
    let bound = bind("[::]:0").unwrap();
    let port = bound.addr().port();
    let (_trigger, shutdown) = shutdown::channel();
    tokio::spawn(serve_pages(bound, quick(), shutdown, answer));
    let got = exchange(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), GET).await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
}
