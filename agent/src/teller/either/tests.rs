//! A kubelet and an API server over real connections, and what is known while the one takes the other's place. Both know pods of
//! the same uids; the label `v` says whose picture it is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sonde_daemon::shutdown;
use sonde_daemon::units::Interval;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::api_server::stand_in::StandIn;
use crate::config;
use crate::kubelet::{Kubelet, Metrics};
use crate::pods::PodIndex;

/// What a kubelet does, from now on.
#[derive(Clone, Copy)]
enum Act {
    Pods,
    Status(u16),
    /// The connection is closed without a word.
    Close,
    /// By turns.
    PodsOrStatus(u16),
}

#[derive(Clone)]
struct KubeletServer {
    act: Arc<Mutex<(Act, u32)>>,
    url: String,
}

impl KubeletServer {
    async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { act: Arc::new(Mutex::new((act, 0))), url };
        let own = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let (act, asked) = {
                    let mut act = own.act.lock().unwrap();
                    act.1 += 1;
                    *act
                };
                let (status, body) = match act {
                    Act::PodsOrStatus(status) if asked % 2 == 0 => (status, String::new()),
                    Act::Pods | Act::PodsOrStatus(_) => (200, pods().to_string()),
                    Act::Status(status) => (status, String::new()),
                    Act::Close => continue,
                };
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        server
    }

    fn acts(&self, act: Act) {
        self.act.lock().unwrap().0 = act;
    }

    fn asked(&self) -> u32 {
        self.act.lock().unwrap().1
    }
}

fn pods() -> serde_json::Value {
    let pod = |name: &str| {
        json!({"metadata": {"uid": format!("uid-{name}"), "name": name, "namespace": "shop", "labels": {"v": "kubelet"}},
            "spec": {"nodeName": "n1"}})
    };
    json!({"kind": "PodList", "items": [pod("a"), pod("b")]})
}

fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn pace() -> Pace {
    Pace {
        asks: 3,
        patience: milliseconds(100),
        proof: milliseconds(100),
        calm: Duration::from_secs(3600),
        probe: milliseconds(20),
        spread: milliseconds(20),
        lost: milliseconds(300),
        seldom: Duration::from_secs(3600),
    }
}

struct Running {
    index: PodIndex,
    metrics: Metrics,
    trigger: shutdown::Trigger,
    task: tokio::task::JoinHandle<()>,
}

fn run(kubelet: &str, api: &StandIn, token_file: &Path, pace: Pace) -> Running {
    let index = PodIndex::default();
    let config = config::Kubelet {
        url: kubelet.to_owned(),
        token_file: "".into(),
        interval: Interval::millis(10),
        ..config::Kubelet::default()
    };
    let kubelet = Kubelet::build(&config, "n1", "none".into(), index.clone()).unwrap();
    let metrics = kubelet.metrics();
    let api = config::ApiServer {
        url: api.url.clone(),
        token_file: token_file.into(),
        ..config::ApiServer::default()
    };
    let api = ApiServer::build(&api, "n1", index.clone()).unwrap().reporting_with(&metrics);
    let (trigger, shutdown) = shutdown::channel();
    let task = tokio::spawn(async move {
        kubelet.run_by(shutdown, |pods| Box::pin(Either::with_pace(pods, api, pace).run())).await;
    });
    Running { index, metrics, trigger, task }
}

impl Running {
    /// Whose pictures the pods are of.
    fn tellers(&self) -> BTreeSet<String> {
        self.index.states().iter().map(|pod| pod.metadata.labels["v"].clone()).collect()
    }

    async fn until_told_by(&self, teller: &str, source: &str) {
        until(teller, || {
            self.tellers() == BTreeSet::from([teller.to_owned()]) && self.metrics.told() == source
        })
        .await;
    }

    async fn stop(self) {
        self.trigger.fire(Duration::from_secs(60));
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(milliseconds(10)).await;
    }
    panic!("{what}: not within 30 s");
}

async fn api_server() -> StandIn {
    let api = StandIn::start(None).await;
    for name in ["a", "b"] {
        api.set(name, "n1", "api");
    }
    api
}

#[tokio::test]
async fn while_the_kubelet_refuses_the_api_server_tells_and_no_pod_goes_at_either_change() {
    let (kubelet, api) = (KubeletServer::start(Act::Pods).await, api_server().await);
    let running = run(&kubelet.url, &api, Path::new(""), pace());
    running.until_told_by("kubelet", "kubelet").await;
    assert!(api.requests("").is_empty(), "nobody needs it");

    // Another thread looks all the time.
    let (index, stop) = (running.index.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let watcher = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let states = index.states();
            let tellers: BTreeSet<_> = states.iter().map(|pod| &pod.metadata.labels["v"]).collect();
            assert_eq!((states.len() >= 2, tellers.len()), (true, 1), "{states:?}");
            assert!(index.get("uid-a").is_some() && index.get("uid-b").is_some());
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    for round in 0..2 {
        kubelet.acts(Act::Status(if round == 0 { 403 } else { 401 }));
        running.until_told_by("api", "api").await;
        assert_eq!(running.metrics.success(), Some(true));
        api.set("c", "n1", "api");
        until("a new pod", || running.index.len() == 3).await;
        kubelet.acts(Act::Pods);
        running.until_told_by("kubelet", "kubelet").await;
        let requests = api.requests("").len();
        api.set("d", "n1", "api");
        let asked = kubelet.asked();
        until("asks of the kubelet", || kubelet.asked() > asked + 5).await;
        assert_eq!((running.index.len(), api.requests("").len()), (2, requests), "the watch goes on");
        for name in ["c", "d"] {
            api.remove(name);
        }
        // The server forgets the version that is known.
        api.with(|cluster| {
            cluster.forgotten = cluster.version;
            cluster.changes.clear();
        });
    }
    let lists: Vec<_> = api.requests("GET").into_iter().filter(|line| !line.contains("watch=true")).collect();
    let of = |list: &String| {
        list.split_once("resourceVersion=").map_or("none".to_owned(), |(_, of)| of.to_owned())
    };
    let versions: Vec<_> = lists.iter().map(of).collect();
    assert!(versions.len() == 3 && versions[0].starts_with("0 ") && versions[2] == "none", "{lists:?}");
    assert!(versions[1] != "none" && versions[1] != versions[0], "a picture never goes back: {lists:?}");
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_answers_now_and_then_does_not_make_the_source_flip() {
    let (kubelet, api) = (KubeletServer::start(Act::Close).await, api_server().await);
    let running = run(&kubelet.url, &api, Path::new(""), Pace { probe: milliseconds(2), ..pace() });
    running.until_told_by("api", "api").await;
    kubelet.acts(Act::PodsOrStatus(500));
    let (asked, version) = (kubelet.asked(), running.index.version());
    until("asks of the kubelet", || kubelet.asked() > asked + 100).await;
    assert_eq!((running.index.version(), running.metrics.told()), (version, "api"));
    assert_eq!(api.requests("").len(), 2, "one list and one watch: {:?}", api.requests(""));
    running.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_stumbles_is_not_given_up() {
    let (kubelet, api) = (KubeletServer::start(Act::Pods).await, api_server().await);
    let running =
        run(&kubelet.url, &api, Path::new(""), Pace { patience: Duration::from_secs(3600), ..pace() });
    running.until_told_by("kubelet", "kubelet").await;
    for act in [Act::Status(500), Act::Close, Act::PodsOrStatus(403)] {
        kubelet.acts(act);
        let asked = kubelet.asked();
        until("asks of the kubelet", || kubelet.asked() > asked + 20).await;
    }
    assert!(api.requests("").is_empty(), "{:?}", api.requests(""));
    running.stop().await;
}

#[tokio::test]
async fn where_the_api_server_refuses_too_what_is_known_stays_and_it_is_asked_seldom() {
    let (kubelet, api) = (KubeletServer::start(Act::Pods).await, api_server().await);
    api.with(|cluster| cluster.refuse = Some((403, "pods is forbidden")));
    let running = run(&kubelet.url, &api, Path::new(""), pace());
    running.until_told_by("kubelet", "kubelet").await;
    for _ in 0..2 {
        kubelet.acts(Act::Status(403));
        let asked = kubelet.asked();
        until("asks of the kubelet", || kubelet.asked() > asked + 50).await;
        assert_eq!((running.index.len(), running.metrics.success()), (2, Some(false)));
        assert_eq!(api.requests("").len(), 1, "{:?}", api.requests(""));
        // Nobody is in its place, so its first answer is taken: no proof, however long that would be.
        kubelet.acts(Act::Pods);
        until("the kubelet", || running.metrics.success() == Some(true)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn rights_that_are_granted_later_are_found_and_a_server_that_goes_away_is_given_up() {
    let kubelet = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let api = api_server().await;
    api.with(|cluster| cluster.refuse = Some((403, "pods is forbidden")));
    let running = run(&kubelet, &api, Path::new(""), Pace { seldom: milliseconds(20), ..pace() });
    until("asks", || api.requests("").len() > 3).await;
    assert_eq!((running.index.len(), running.metrics.told()), (0, "paths"));
    api.with(|cluster| cluster.refuse = None);
    running.until_told_by("api", "api").await;
    assert_eq!(running.metrics.success(), Some(true));
    // Away for longer than is waited: what is known stays, and it is the kubelet that is missed.
    api.with(|cluster| (cluster.cut, cluster.refuse) = (cluster.cut + 1, Some((500, ""))));
    until("a failure", || running.metrics.success() == Some(false)).await;
    let asked = api.requests("watch=true").len();
    until("lists", || api.requests("").last().is_some_and(|line| !line.contains("watch=true"))).await;
    assert!(api.requests("watch=true").len() >= asked);
    assert_eq!((running.index.len(), running.metrics.told()), (2, "api"));
    api.with(|cluster| cluster.refuse = None);
    api.set("c", "n1", "api");
    until("a new pod", || running.index.len() == 3).await;
    running.stop().await;
}

#[tokio::test]
async fn without_a_token_to_show_the_api_server_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let (kubelet, api) = (KubeletServer::start(Act::Status(401)).await, api_server().await);
    let running = run(&kubelet.url, &api, &token, Pace { seldom: milliseconds(20), ..pace() });
    until("asks of the kubelet", || kubelet.asked() > 50).await;
    assert!(api.requests("").is_empty(), "{:?}", api.requests(""));
    std::fs::write(&token, "secret").unwrap();
    running.until_told_by("api", "api").await;
    running.stop().await;
}
