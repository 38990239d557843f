//! The kubelet's client and loop against kubelets that behave in every way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sonde_daemon::shutdown;
use sonde_daemon::tls::{self, ServerOptions};
use sonde_daemon::units::Interval;
use tokio::net::TcpListener;

use super::*;
use sonde_daemon::client::endpoint::Endpoint;

const RECORDED: &[u8] = include_bytes!("../../../tests/fixtures/kubelet/pods.json");

const SUMMARY: &str = r#"{"pods":[{"volume":[
    {"pvcRef":{"name":"wal","namespace":"shop"},"capacityBytes":100,"availableBytes":60}]}]}"#;

enum Act {
    Pods,
    Text(u16, &'static str),
    Redirect,
    Long,
    /// An answer whose length is announced, or not.
    Large(Bytes, bool),
    Cut,
    Never,
}

/// A body that does not say how long it is.
struct Unannounced(Full<Bytes>);

impl Body for Unannounced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

struct Server {
    endpoint: Endpoint,
    tokens: Arc<Mutex<Vec<String>>>,
}

/// Acts through the script, then serves the recorded pods.
async fn kubelet(tls: Option<Arc<tls::Server>>, script: Vec<Act>) -> Server {
    serve(tls, script, true).await
}

/// The same; it may never answer for its summary.
async fn serve(tls: Option<Arc<tls::Server>>, script: Vec<Act>, has_summary: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::parse(&format!("{scheme}://127.0.0.1:{port}"), (80, 10250)).unwrap();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let server = Server { endpoint, tokens: Arc::clone(&tokens) };
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, script, tokens) = (tls.clone(), Arc::clone(&script), Arc::clone(&tokens));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let token = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
                let summary = request.uri().path() == "/stats/summary";
                assert!(summary || request.uri().path() == "/pods", "a redirect is not followed");
                tokens.lock().unwrap().push(if summary {
                    "summary".to_owned()
                } else {
                    token.unwrap_or_default()
                });
                let act = match summary {
                    true if has_summary => Act::Text(200, SUMMARY),
                    true => Act::Never,
                    false => script.lock().unwrap().pop_front().unwrap_or(Act::Pods),
                };
                async move {
                    let response = Response::builder();
                    Ok::<_, Infallible>(
                        match act {
                            Act::Large(body, true) => response.body(Full::from(body)).unwrap(),
                            Act::Large(body, false) => {
                                return Ok(response.body(Unannounced(Full::from(body)).boxed()).unwrap());
                            }
                            Act::Pods => response.body(Full::<Bytes>::from(RECORDED)).unwrap(),
                            Act::Text(status, body) => {
                                response.status(status).body(Full::from(body)).unwrap()
                            }
                            Act::Redirect => response
                                .status(307)
                                .header("location", "/elsewhere")
                                .body(Full::default())
                                .unwrap(),
                            Act::Long => response.body(Full::from(vec![b' '; 65 << 20])).unwrap(),
                            Act::Cut => {
                                let half = Bytes::from_static(&RECORDED[..1000]);
                                response.body(Full::from(half)).unwrap()
                            }
                            Act::Never => std::future::pending().await,
                        }
                        .map(Full::boxed),
                    )
                }
            });
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                let Some(tls) = tls else {
                    return drop(http.serve_connection(TokioIo::new(stream), service).await);
                };
                let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
                if let Ok(stream) = acceptor.accept(stream).await {
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                }
            });
        }
    });
    server
}

fn config(server: &Server, dir: &Path) -> config::Kubelet {
    config::Kubelet {
        url: server.endpoint.to_string(),
        token_file: dir.join("token"),
        interval: Interval::millis(20),
        ..config::Kubelet::default()
    }
}

/// An authority in `<dir>/ca.crt`, and a kubelet's certificate of it with these names.
fn certificates(dir: &Path, names: &[&str]) -> Arc<tls::Server> {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let (cert_file, key_file) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let options = ServerOptions { cert_file, key_file, client_ca_file: None, alpn: vec![] };
    Arc::new(tls::Server::new(options).unwrap())
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 5 s");
}

#[tokio::test]
async fn pods_come_over_https_by_node_name_or_by_address_and_by_no_other() {
    for (names, server_name, good) in [
        (&["lab-node-1"][..], "", true),
        (&["127.0.0.1"], "", true),
        (&["kubelet.example"], "kubelet.example", true),
        (&["lab-node-1"], "kubelet.example", false),
        (&["another"], "", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = kubelet(Some(certificates(dir.path(), names)), vec![]).await;
        let mut config = config(&server, dir.path());
        config.ca_file = dir.path().join("ca.crt").display().to_string();
        config.server_name = server_name.to_owned();
        let mut client = Client::new(&config, "lab-node-1", dir.path().join("none")).unwrap();
        let answer = client.pods().await;
        assert_eq!(answer.is_ok(), good, "{names:?} {server_name}: {answer:?}");
        assert_eq!(client.pods().await.is_ok(), good);
    }
}

#[tokio::test]
async fn a_kubelet_that_signs_its_own_certificate_is_trusted_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["node".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (dir.path().join("kubelet.crt"), dir.path().join("kubelet.key"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let options =
        ServerOptions { cert_file: cert_file.clone(), key_file, client_ca_file: None, alpn: vec![] };
    let server = kubelet(Some(Arc::new(tls::Server::new(options).unwrap())), vec![]).await;
    let config = config(&server, dir.path());
    let mut unknown = Client::new(&config, "node", dir.path().join("none")).unwrap();
    assert!(unknown.pods().await.is_err(), "no authority is known");
    let mut known = Client::new(&config, "node", cert_file).unwrap();
    assert_eq!(known.pods().await.unwrap().len(), RECORDED.len());
}

#[tokio::test]
async fn the_token_is_read_again_when_it_changes_and_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let server = kubelet(None, vec![]).await;
    let mut client = Client::new(&config(&server, dir.path()), "n", "none".into()).unwrap();
    client.pods().await.unwrap();
    fs::write(dir.path().join("token"), "one").unwrap();
    client.pods().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fs::write(dir.path().join("token"), "another").unwrap();
    client.pods().await.unwrap();
    assert_eq!(*server.tokens.lock().unwrap(), ["", "Bearer one", "Bearer another"]);
}

#[tokio::test]
async fn answers_that_are_none_are_errors_with_the_kubelets_words() {
    let forbidden = "Forbidden (user=x, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    let script = vec![
        Act::Text(401, "Unauthorized"),
        Act::Text(403, forbidden),
        Act::Text(500, "oops"),
        Act::Redirect,
        Act::Long,
    ];
    let server = kubelet(None, script).await;
    let mut client = Client::new(&config(&server, Path::new("/none")), "n", "none".into()).unwrap();
    for want in ["401 Unauthorized", "subresource(s)=[pods proxy])", "500", "307", "32 MiB"] {
        let error = client.pods().await.unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    assert!(client.pods().await.is_ok(), "and then it works");
}

#[tokio::test]
async fn the_last_picture_stays_while_the_kubelet_fails_and_it_recovers() {
    let script = vec![Act::Pods, Act::Text(500, "x"), Act::Cut, Act::Text(200, "<html>")];
    let server = kubelet(None, script).await;
    let index = PodIndex::default();
    let config = config(&server, Path::new("/none"));
    let kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
    let metrics = kubelet.metrics();
    let success = move || metrics.success();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    until("the first picture", || index.len() == 29).await;
    until("a failure", || success() == Some(false)).await;
    assert_eq!(index.len(), 29);
    until("the recovery", || success() == Some(true) && server.tokens.lock().unwrap().len() > 4).await;
    assert_eq!(index.version(), 1, "the same picture is no change");
    trigger.fire(Duration::ZERO);
    running.await.unwrap();
}

#[tokio::test]
async fn a_kubelet_that_has_just_started_and_knows_no_pods_yet_takes_no_name_away() {
    const NONE: &str = r#"{"kind":"PodList","items":null}"#;
    const STATIC: &str = r#"{"kind":"PodList","items":[{"metadata":{"uid":"s","name":"etcd","namespace":"kube-system",
        "annotations":{"kubernetes.io/config.source":"file"}},"spec":{"nodeName":"lab-node-1"}}]}"#;
    // First of all it is believed: nothing is known that could be lost.
    let script = vec![
        Act::Text(200, STATIC),
        Act::Pods,
        Act::Text(200, NONE),
        Act::Text(200, STATIC),
        Act::Text(200, NONE),
    ];
    let server = kubelet(None, script).await;
    let index = PodIndex::default();
    let config = config(&server, Path::new("/none"));
    let mut kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
    kubelet.pods.as_mut().unwrap().interval = Duration::from_millis(50);
    let metrics = kubelet.metrics();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    until("its own pod", || index.len() == 1).await;
    until("all pods", || index.len() == 29).await;
    let version = index.version();
    until("a failure", || metrics.success() == Some(false)).await;
    until("the recovery", || metrics.success() == Some(true)).await;
    assert_eq!((index.len(), index.version()), (29, version), "no pod went");
    trigger.fire(Duration::ZERO);
    running.await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_emptied_is_empty_after_a_while() {
    let none = || Act::Text(200, r#"{"kind":"PodList","items":[]}"#);
    let mut script = vec![Act::Pods];
    script.extend((0..500).map(|_| none()));
    let server = kubelet(None, script).await;
    let index = PodIndex::default();
    let config = config(&server, Path::new("/none"));
    let mut kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
    kubelet.pods.as_mut().unwrap().starting = Duration::from_millis(200);
    let metrics = kubelet.metrics();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    until("all pods", || index.len() == 29).await;
    until("a failure", || metrics.success() == Some(false)).await;
    until("none", || index.is_empty() && metrics.success() == Some(true)).await;
    trigger.fire(Duration::ZERO);
    running.await.unwrap();
}

/// The recorded pods with annotations that make the answer about so long.
fn recorded_of(bytes: usize) -> Bytes {
    let mut list: serde_json::Value = serde_json::from_slice(RECORDED).unwrap();
    let pods = list["items"].as_array_mut().unwrap();
    let each = bytes / pods.len();
    for pod in pods {
        pod["metadata"]["annotations"]["example.com/large"] = "x".repeat(each).into();
    }
    let body: Bytes = serde_json::to_vec(&list).unwrap().into();
    assert!(body.len() >= bytes && pods::parse(&body, "lab-node-1").unwrap().pods.len() == 29);
    body
}

#[tokio::test]
async fn a_valid_answer_of_50_mb_is_refused_for_its_length_and_the_rest_goes_on() {
    let large = recorded_of(50_000_000);
    for announced in [true, false] {
        let server = kubelet(None, vec![Act::Large(large.clone(), announced)]).await;
        let mut client = Client::new(&config(&server, Path::new("/none")), "n", "none".into()).unwrap();
        let error = client.pods().await.unwrap_err().to_string();
        assert_eq!(error, "the answer could not be read: it is over 32 MiB", "announced: {announced}");

        let large = || Act::Large(large.clone(), announced);
        let server = kubelet(None, vec![Act::Pods, large(), large(), large()]).await;
        let index = PodIndex::default();
        let config = config(&server, Path::new("/none"));
        let kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
        let metrics = kubelet.metrics();
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(kubelet.run(shutdown));
        until("the first picture", || index.len() == 29).await;
        until("a failure", || metrics.success() == Some(false)).await;
        assert_eq!(index.len(), 29, "what is known stays");
        until("volumes", || !index.volumes().is_empty()).await;
        let pods_asked = || server.tokens.lock().unwrap().iter().filter(|each| *each != "summary").count();
        until("the recovery", || metrics.success() == Some(true) && pods_asked() > 4).await;
        trigger.fire(Duration::ZERO);
        running.await.unwrap();
    }
}

#[test]
fn a_long_answer_is_read_beside_the_loop_that_also_ships_logs() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let server = kubelet(None, vec![Act::Large(recorded_of(20_000_000), true)]).await;
        // The only thread for such work is taken.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv().unwrap());
        let index = PodIndex::default();
        let config = config(&server, Path::new("/none"));
        let kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(kubelet.run(shutdown));
        until("volumes", || !index.volumes().is_empty()).await;
        // Long enough for the answer to have come.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(index.len(), 0, "it waits for the other thread, and nobody for it");
        release.send(()).unwrap();
        busy.await.unwrap();
        until("the picture", || index.len() == 29).await;
        trigger.fire(Duration::ZERO);
        running.await.unwrap();
    });
}

#[tokio::test]
async fn a_wanted_pod_is_asked_for_at_once_but_once_a_second() {
    let server = kubelet(None, vec![]).await;
    let index = PodIndex::default();
    let config = config::Kubelet { interval: Interval::secs(3600), ..config(&server, Path::new("/none")) };
    let kubelet = Kubelet::build(&config, "lab-node-1", "none".into(), index.clone()).unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    until("the first picture", || index.len() == 29).await;
    let started = Instant::now();
    for _ in 0..30 {
        index.want();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = server.tokens.lock().unwrap().len() - 1;
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!((1..=seconds + 1).contains(&asked), "asked {asked} times in {seconds} s");
    trigger.fire(Duration::ZERO);
    running.await.unwrap();
}

#[tokio::test]
async fn a_kubelet_that_never_answers_does_not_hold_up_the_stop() {
    let server = kubelet(None, vec![Act::Never]).await;
    let config = config(&server, Path::new("/none"));
    let kubelet = Kubelet::build(&config, "n", "none".into(), PodIndex::default()).unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    tokio::time::sleep(Duration::from_millis(50)).await;
    trigger.fire(Duration::from_secs(60));
    tokio::time::timeout(Duration::from_secs(2), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_summary_is_asked_for_when_somebody_wants_volumes_and_not_again_for_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let server = kubelet(None, vec![]).await;
    let index = PodIndex::default();
    let polled = Kubelet::build(&config(&server, dir.path()), "n", "none".into(), index.clone()).unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(polled.run(shutdown));
    let asked = |what: &str| server.tokens.lock().unwrap().iter().filter(|each| *each == what).count();
    until("pods", || asked("") > 3).await;
    assert_eq!(asked("summary"), 0, "nobody wants it");
    until("volumes", || !index.volumes().is_empty()).await;
    let told = index.volumes()[&("shop".to_owned(), "wal".to_owned())];
    assert_eq!((told.capacity_bytes, told.available_bytes), (100, 60));
    let pods = asked("");
    until("more pods", || asked("") > pods + 5).await;
    assert_eq!(asked("summary"), 1, "it is wanted all the time");
    trigger.fire(Duration::ZERO);
    running.await.unwrap();
}

#[tokio::test]
async fn a_summary_that_is_never_answered_delays_no_pod() {
    let server = serve(None, vec![], false).await;
    let index = PodIndex::default();
    let config = config(&server, Path::new("/none"));
    let kubelet = Kubelet::build(&config, "n", "none".into(), index.clone()).unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(kubelet.run(shutdown));
    let asked = |what: &str| server.tokens.lock().unwrap().iter().filter(|each| *each == what).count();
    until("the summary is asked for", || {
        index.volumes();
        asked("summary") == 1
    })
    .await;
    // Polls go on while it is awaited; it is given up after ten seconds, and this waits for five.
    let pods = asked("");
    until("pods", || asked("") > pods + 20).await;
    assert_eq!(asked("summary"), 1);
    trigger.fire(Duration::ZERO);
    tokio::time::timeout(Duration::from_secs(2), running).await.unwrap().unwrap();
}
