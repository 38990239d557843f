//! The loop against kubelets that behave in every way. What a real server of the API says is in `tests/tests/pods_socket.rs`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sonde_daemon::shutdown;
use sonde_daemon::units::Interval;
use sonde_wire::grpc::Prefix;
use sonde_wire::proto::{put_bytes, put_uint};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::*;
use crate::config;
use crate::kubelet::{Kubelet, pods};

const RECORDED: &[u8] = include_bytes!("../../../../tests/fixtures/kubelet/pods.json");
const WATCHED: &[u8] = include_bytes!("../../../../tests/fixtures/kubelet/pods-watch.grpc.gz");

/// What a watch of the recorded pods, and of one with every field, begins with.
fn watched() -> Bytes {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(WATCHED).read_to_end(&mut bytes).unwrap();
    bytes.into()
}

/// Its messages: thirty pods, and that these are all.
pub(super) fn messages() -> Vec<Bytes> {
    let mut frames = frames::Frames::default();
    frames.push(&watched());
    std::iter::from_fn(|| frames.cut().unwrap()).collect()
}

/// A `v1.Pod`.
pub(super) fn pod(uid: &str, name: &str, node: &str) -> Vec<u8> {
    let (mut metadata, mut spec, mut pod) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut metadata, 1, name.as_bytes());
    put_bytes(&mut metadata, 3, b"shop");
    put_bytes(&mut metadata, 5, uid.as_bytes());
    put_bytes(&mut spec, 10, node.as_bytes());
    put_bytes(&mut pod, 1, &metadata);
    put_bytes(&mut pod, 2, &spec);
    pod
}

/// A `WatchPodsEvent`.
pub(super) fn event(kind: u64, pod: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put_uint(&mut message, 1, kind);
    if !pod.is_empty() {
        put_bytes(&mut message, 2, pod);
    }
    message
}

fn framed(message: &[u8]) -> Bytes {
    let prefix = Prefix { compressed: false, len: u32::try_from(message.len()).unwrap() };
    [&prefix.encode()[..], message].concat().into()
}

/// How a watch is answered.
enum Act {
    /// Not at all.
    Never,
    /// With a status in the only headers.
    Refuse(&'static str, &'static str),
    /// With an HTTP status.
    Http(u16),
    /// With these bytes, and then what comes over the channel.
    Tell(Bytes),
    /// With these bytes and this status.
    End(Bytes, &'static str),
    /// With these bytes, and the connection is closed.
    Cut(Bytes),
}

/// A body that is fed.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx)
    }
}

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

struct Server {
    dir: tempfile::TempDir,
    /// Those of the watches that were begun.
    feeds: Arc<Mutex<Vec<Feed>>>,
}

impl Server {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("kubelet.sock")
    }

    fn asked(&self) -> usize {
        self.feeds.lock().unwrap().len()
    }

    /// An event for those who watch.
    fn tell(&self, kind: u64, pod: &[u8]) {
        let feeds = self.feeds.lock().unwrap();
        let _ = feeds.last().unwrap().send(Ok(Frame::data(framed(&event(kind, pod)))));
    }
}

/// Acts through the script, then tells the recorded pods.
fn serve(script: Vec<Act>) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let server = Server { dir, feeds: Arc::default() };
    let listener = UnixListener::bind(server.socket()).unwrap();
    let (feeds, script) = (Arc::clone(&server.feeds), Arc::new(Mutex::new(VecDeque::from(script))));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (feeds, script) = (Arc::clone(&feeds), Arc::clone(&script));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                assert_eq!(request.uri().path(), "/v1alpha1.Pods/WatchPods");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let act = script.lock().unwrap().pop_front().unwrap_or_else(|| Act::Tell(watched()));
                let (feed, fed) = mpsc::unbounded_channel();
                feeds.lock().unwrap().push(feed.clone());
                answer(act, feed, fed)
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    server
}

async fn answer(
    act: Act,
    feed: Feed,
    fed: mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::io::Error>>,
) -> Result<Response<Fed>, Infallible> {
    let mut response = Response::builder().header("content-type", "application/grpc");
    let status =
        |status| HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
    let bytes = |bytes| feed.send(Ok(Frame::data(bytes))).unwrap();
    match act {
        Act::Never => std::future::pending().await,
        Act::Refuse(code, words) => {
            response = response.header("grpc-status", code).header("grpc-message", words);
        }
        Act::Http(code) => response = response.status(code),
        Act::Tell(first) => {
            bytes(first);
            // The server keeps the other end.
            return Ok(response.body(Fed(fed)).unwrap());
        }
        Act::End(first, code) => {
            bytes(first);
            feed.send(Ok(Frame::trailers(status(code)))).unwrap();
        }
        Act::Cut(first) => {
            bytes(first);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop(feed.send(Err(std::io::Error::other("cut"))));
            });
        }
    }
    Ok(response.body(Fed(fed)).unwrap())
}

/// A watcher of that socket, which is impatient.
fn watcher(socket: &Path) -> Watcher {
    let index = PodIndex::default();
    let metrics = Metrics::new("socket", index.clone());
    Watcher::new(socket.to_owned(), "lab-node-1", Duration::from_millis(20), index, metrics)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 10 s");
}

/// Runs it beside `body`.
async fn beside(watcher: &mut Watcher, body: impl Future<Output = ()>) {
    tokio::select! {
        () = watcher.run(false) => panic!("it ended"),
        () = body => {}
    }
}

#[tokio::test]
async fn the_pods_are_those_of_the_kubelets_json() {
    let server = serve(vec![]);
    let mut watcher = watcher(&server.socket());
    let (index, metrics) = (watcher.index.clone(), watcher.metrics.clone());
    beside(&mut watcher, until("pods", || index.len() == 30)).await;
    assert_eq!(metrics.success(), Some(true));
    let of_json = pods::parse(RECORDED, "lab-node-1").unwrap();
    for pod in &of_json.pods {
        assert_eq!(*index.get(&pod.uid).unwrap(), *pod);
    }
    let states = index.states();
    for pod in &of_json.states {
        assert!(states.contains(pod), "{}", pod.metadata.name);
    }
}

#[tokio::test]
async fn what_changes_is_shown_and_what_is_the_same_is_no_change() {
    let server = serve(vec![]);
    let mut watcher = watcher(&server.socket());
    let index = watcher.index.clone();
    beside(&mut watcher, async {
        until("pods", || index.len() == 30).await;
        let version = index.version();
        server.tell(1, &pod("new", "one", "lab-node-1"));
        until("a new pod", || index.get("new").is_some()).await;
        server.tell(2, &pod("new", "two", "lab-node-1"));
        until("its change", || index.get("new").is_some_and(|pod| pod.name == "two")).await;
        server.tell(3, &pod("new", "two", ""));
        until("its end", || index.get("new").is_none()).await;
        assert_eq!((index.len(), index.version()), (30, version + 3));
        assert_eq!(index.states().len(), 30);
        // A pod that cannot be read, and one of another node, are no reason to end.
        server.tell(2, b"\x0a\xff");
        server.tell(1, &pod("other", "one", "another"));
        server.tell(1, &pod("last", "three", "lab-node-1"));
        until("the last", || index.get("last").is_some()).await;
        assert_eq!((index.len(), server.asked()), (31, 1));
    })
    .await;
}

#[tokio::test]
async fn whatever_fails_is_said_the_last_picture_stays_and_it_is_asked_again() {
    let all = watched();
    let half = all.slice(..all.len() / 2);
    let (compressed, long) =
        (Bytes::from_static(b"\x01\0\0\0\x02\x08\x04"), Bytes::from_static(b"\0\x7f\0\0\0"));
    for (act, want) in [
        (Act::Refuse("9", "Kubelet is initializing"), "FAILED_PRECONDITION: Kubelet is initializing"),
        (Act::Refuse("14", "away%0a"), "UNAVAILABLE: away "),
        (Act::Refuse("8", "too many"), "RESOURCE_EXHAUSTED: too many"),
        (Act::Refuse("12", "unknown service"), "UNIMPLEMENTED: unknown service"),
        (Act::Http(503), "503 Service Unavailable"),
        (Act::End(half.clone(), "0"), "the stream was cut off"),
        (Act::End(Bytes::new(), "0"), "OK: the watch ended"),
        (Act::End(Bytes::new(), "13"), "INTERNAL: "),
        (Act::Cut(half.clone()), "error"),
        (Act::Tell(compressed), "a message is compressed"),
        (Act::Tell(long), "the message has 2130706432 bytes (limit 4194304)"),
        (Act::Tell(framed(b"\x0a")), "an event is not understood: a field is cut off"),
    ] {
        let server = serve(vec![act]);
        let error = watcher(&server.socket()).begin().await.err().expect(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let again = |act| vec![Act::Cut(all.clone()), act];
    for act in [
        Act::Refuse("9", "Kubelet is initializing"),
        Act::Refuse("14", ""),
        Act::Cut(half.clone()),
        Act::End(all.clone(), "8"),
        Act::Tell(framed(b"\x0a")),
    ] {
        let server = serve(again(act));
        let mut watcher = watcher(&server.socket());
        let (index, metrics) = (watcher.index.clone(), watcher.metrics.clone());
        beside(&mut watcher, async {
            until("pods", || index.len() == 30).await;
            let version = index.version();
            until("the third watch", || {
                assert_eq!(index.len(), 30, "what is known stays");
                server.asked() > 2 && metrics.success() == Some(true)
            })
            .await;
            assert_eq!(index.version(), version);
        })
        .await;
    }
}

#[tokio::test]
async fn a_part_of_the_pods_is_no_picture() {
    let all = watched();
    // All of them, but not that these are all.
    let server = serve(vec![Act::Tell(all.slice(..all.len() - 7))]);
    let mut watcher = watcher(&server.socket());
    let index = watcher.index.clone();
    beside(&mut watcher, async {
        until("the watch", || server.asked() == 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(index.is_empty() && index.states().is_empty());
        server.tell(4, b"");
        until("pods", || index.len() == 30).await;
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_said_and_found_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kubelet.sock");
    let error = watcher(&socket).begin().await.err().unwrap().to_string();
    assert!(error.contains("kubelet.sock is not there: the kubelet has it since Kubernetes 1.37"), "{error}");
    // What a kubelet leaves that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    let error = watcher(&socket).begin().await.err().unwrap().to_string();
    assert!(error.contains("kubelet.sock: Connection refused"), "{error}");

    let mut watcher = watcher(&socket);
    let (index, metrics) = (watcher.index.clone(), watcher.metrics.clone());
    let mut server = None;
    beside(&mut watcher, async {
        until("a failure", || metrics.success() == Some(false)).await;
        let there = serve(vec![]);
        std::fs::rename(there.socket(), &socket).unwrap();
        server = Some(there);
        until("pods", || index.len() == 30).await;
    })
    .await;
}

#[tokio::test]
async fn where_there_is_another_source_it_is_asked_if_the_socket_is_of_no_use() {
    // It never answered.
    for act in [Act::Refuse("12", "unknown service"), Act::Http(404), Act::Cut(Bytes::new())] {
        let server = serve(vec![act]);
        watcher(&server.socket()).run(true).await;
        assert_eq!(server.asked(), 1);
    }
    // A kubelet that begins has not said no, and one that has answered gets its time.
    let mut script: Vec<Act> = (0..5).map(|_| Act::Refuse("9", "Kubelet is initializing")).collect();
    script.push(Act::Cut(watched()));
    script.extend((0..100).map(|_| Act::Refuse("14", "")));
    let server = serve(script);
    let mut watcher = watcher(&server.socket());
    watcher.patience = Duration::from_millis(300);
    let (index, began) = (watcher.index.clone(), Instant::now());
    watcher.run(true).await;
    assert_eq!(index.len(), 30, "what is known stays");
    assert!(server.asked() > 7 && began.elapsed() >= Duration::from_millis(300), "{}", server.asked());
}

#[tokio::test]
async fn the_kubelets_http_takes_over_with_the_same_pods_and_under_its_own_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, Infallible>(Response::new(http_body_util::Full::<Bytes>::from(RECORDED)))
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    let config = config::Kubelet { url, interval: Interval::millis(20), ..config::Kubelet::default() };
    for (another, source) in [(true, "kubelet"), (false, "socket")] {
        let server = serve((0..200).map(|_| Act::Refuse("12", "unknown service")).collect());
        let index = PodIndex::default();
        let own = PathBuf::from("none");
        let kubelet =
            Kubelet::by_socket(server.socket(), another, &config, "lab-node-1", own, index.clone()).unwrap();
        let metrics = kubelet.metrics();
        let source_now = move || metrics.asked().last.map(|(source, success, _)| (source, success));
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(kubelet.run(shutdown));
        until(source, || source_now() == Some((source, another))).await;
        if another {
            until("pods", || index.len() == 29).await;
            assert_eq!(server.asked(), 1);
        } else {
            until("more tries", || server.asked() > 3).await;
            assert_eq!(index.len(), 0, "it is the only source");
        }
        trigger.fire(Duration::ZERO);
        running.await.unwrap();
    }
}

#[tokio::test]
async fn all_is_told_again_after_some_time_and_for_a_pod_that_is_wanted_once_a_second() {
    let server = serve(vec![]);
    let mut often = watcher(&server.socket());
    often.anew = Duration::from_millis(50);
    let index = often.index.clone();
    beside(&mut often, until("four watches", || server.asked() > 3)).await;
    assert_eq!(index.version(), 1, "the same picture is no change");

    let server = serve(vec![]);
    let mut watcher = watcher(&server.socket());
    let index = watcher.index.clone();
    beside(&mut watcher, async {
        until("pods", || index.len() == 30).await;
        let began = Instant::now();
        for _ in 0..30 {
            index.want();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (asked, seconds) = (server.asked() - 1, began.elapsed().as_secs());
        assert!(asked >= 1 && asked as u64 <= seconds + 1, "asked {asked} times in {seconds} s");
    })
    .await;
}

#[tokio::test]
async fn a_kubelet_that_never_answers_does_not_hold_up_the_stop() {
    let server = serve(vec![Act::Never]);
    let config = config::Kubelet { url: String::new(), ..config::Kubelet::default() };
    let kubelet =
        Kubelet::by_socket(server.socket(), true, &config, "n", "none".into(), PodIndex::default()).unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    until("the watch", || server.asked() == 1).await;
    trigger.fire(Duration::from_secs(60));
    tokio::time::timeout(Duration::from_secs(2), running).await.unwrap().unwrap();
}

#[test]
fn messages_come_in_pieces_of_any_length() {
    let (all, want) = (watched(), messages());
    assert_eq!(want.len(), 31);
    for len in [1, 2, 3, 5, 7, 1000, 65_536] {
        let mut frames = frames::Frames::default();
        let mut got = Vec::new();
        for piece in all.chunks(len) {
            frames.push(piece);
            while let Some(message) = frames.cut().unwrap() {
                got.push(message);
            }
        }
        assert!(frames.is_empty() && got == want, "{len}");
    }
}
