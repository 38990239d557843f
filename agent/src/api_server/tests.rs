//! Against a stand-in for the API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::config::load;
use sonde_daemon::shutdown;
use sonde_daemon::tls::{self, ServerOptions};

use super::stand_in::StandIn;
use super::*;
use crate::config::{Config, PodSource};
use crate::host::HostPaths;
use crate::teller::Teller;

struct Running {
    index: PodIndex,
    metrics: Metrics,
    trigger: shutdown::Trigger,
    task: tokio::task::JoinHandle<()>,
}

fn config(server: &StandIn) -> config::ApiServer {
    config::ApiServer { url: server.url.clone(), token_file: "/none".into(), ..config::ApiServer::default() }
}

fn run(config: &config::ApiServer, silence: Duration) -> Running {
    let index = PodIndex::default();
    let mut server = ApiServer::build(config, "n1", index.clone()).unwrap();
    server.silence = silence;
    let metrics = server.metrics();
    let (trigger, shutdown) = shutdown::channel();
    Running { index, metrics, trigger, task: tokio::spawn(server.run(shutdown)) }
}

impl Running {
    fn seen(&self) -> BTreeMap<String, String> {
        let states = self.index.states();
        for pod in &*states {
            assert_eq!(self.index.get(&pod.metadata.uid).unwrap().name, pod.metadata.name);
        }
        states.iter().map(|pod| (pod.metadata.name.clone(), pod.metadata.labels["v"].clone())).collect()
    }

    async fn until_as(&self, server: &StandIn) {
        until("the server's pods", || self.seen() == server.truth()).await;
    }

    async fn stop(self) {
        self.trigger.fire(Duration::from_secs(60));
        tokio::time::timeout(Duration::from_secs(5), self.task).await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 20 s");
}

#[tokio::test]
async fn pods_come_by_one_list_and_change_by_one_watch_of_this_node_alone() {
    let server = StandIn::start(None).await;
    server.set("a", "n1", "1");
    server.set("x", "n2", "1");
    let running = run(&config(&server), SILENCE);
    running.until_as(&server).await;
    server.set("b", "n1", "1");
    server.set("a", "n1", "2");
    server.set("y", "n2", "1");
    running.until_as(&server).await;
    server.remove("a");
    running.until_as(&server).await;
    assert_eq!(running.seen().into_keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(server.requests("GET").len(), 2, "{:?}", server.requests(""));
    assert!(server.requests("GET")[0].contains("resourceVersion=0"));
    running.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_where_the_one_before_ended_also_by_a_bookmark_and_nothing_is_listed_again() {
    let server = StandIn::start(None).await;
    server.set("a", "n1", "1");
    let running = run(&config(&server), SILENCE);
    running.until_as(&server).await;
    server.set("b", "n1", "1");
    running.until_as(&server).await;
    let after = server.with(|cluster| cluster.version);
    server.with(|cluster| cluster.cut += 1);
    server.set("a", "n1", "2");
    running.until_as(&server).await;
    assert!(
        server.requests("watch")[1].contains(&format!("resourceVersion={after} ")),
        "{:?}",
        server.requests("")
    );
    // Nothing of this node changes, but the version moves.
    server.with(|cluster| cluster.bookmarks = true);
    server.set("x", "n2", "1");
    let after = server.with(|cluster| cluster.version);
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.with(|cluster| cluster.end += 1);
    until("another watch", || server.requests("watch").len() == 3).await;
    assert!(
        server.requests("watch")[2].contains(&format!("resourceVersion={after} ")),
        "{:?}",
        server.requests("")
    );
    server.remove("b");
    running.until_as(&server).await;
    assert_eq!(server.requests("GET").len() - server.requests("watch").len(), 1, "one list");
    running.stop().await;
}

#[tokio::test]
async fn a_version_that_the_server_has_forgotten_costs_a_new_list_and_no_pod() {
    let server = StandIn::start(None).await;
    server.set("a", "n1", "1");
    server.set("b", "n1", "1");
    let running = run(&config(&server), SILENCE);
    running.until_as(&server).await;
    // What changes while the watch is down is forgotten before it is back.
    server.with(|cluster| (cluster.cut, cluster.refuse) = (cluster.cut + 1, Some((503, "no"))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.remove("a");
    server.set("c", "n1", "1");
    server.with(|cluster| {
        cluster.changes.clear();
        (cluster.forgotten, cluster.refuse) = (cluster.version, None);
    });
    running.until_as(&server).await;
    let lists: Vec<_> = server.requests("GET").into_iter().filter(|line| !line.contains("watch")).collect();
    assert!(!lists.last().unwrap().contains("resourceVersion"), "{lists:?}");
    // And one that is told in the middle of a watch.
    let error = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "message": "too old"}});
    server.with(|cluster| cluster.raw.push(error.to_string()));
    until("a list", || {
        server.requests("GET").iter().filter(|line| !line.contains("watch")).count() == lists.len() + 1
    })
    .await;
    server.set("d", "n1", "1");
    running.until_as(&server).await;
    running.stop().await;
}

#[tokio::test]
async fn the_last_picture_stays_while_the_server_fails_in_any_way_and_it_recovers() {
    let server = StandIn::start(None).await;
    server.set("a", "n1", "1");
    let running = run(&config(&server), SILENCE);
    running.until_as(&server).await;
    for answer in [(403, "pods is forbidden"), (500, "x"), (200, "<html>"), (307, "")] {
        let (before, seen) = (running.seen(), server.requests("").len());
        server.with(|cluster| (cluster.cut, cluster.refuse) = (cluster.cut + 1, Some(answer)));
        until("a failure", || server.requests("").len() > seen + 1).await;
        assert_eq!(running.seen(), before, "{answer:?}");
        assert_eq!(running.metrics.success(), Some(false));
        server.with(|cluster| cluster.refuse = None);
        until("success", || running.metrics.success() == Some(true)).await;
        server.set("a", "n1", answer.1);
        running.until_as(&server).await;
    }
    // Lines that are none: what they said is asked for again, and not an older state of it.
    for raw in ["{", "nothing", "{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}"] {
        let lists = server.requests("GET").len() - server.requests("watch").len();
        server.set("a", "n1", raw);
        running.until_as(&server).await;
        server.with(|cluster| cluster.raw.push(raw.to_owned()));
        until("a list", || server.requests("GET").len() - server.requests("watch").len() > lists).await;
    }
    let is_newer = |line: &String| !line.contains("watch") && line.contains("&resourceVersion=1");
    assert!(server.requests("GET").iter().any(is_newer), "{:?}", server.requests(""));
    server.set("b", "n1", "1");
    running.until_as(&server).await;
    running.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_given_up() {
    let server = StandIn::start(None).await;
    server.set("a", "n1", "1");
    let running = run(&config(&server), Duration::from_millis(100));
    until("watches", || server.requests("watch").len() > 2).await;
    assert_eq!(running.seen(), server.truth());
    running.stop().await;
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_begun_again_without_a_pause() {
    let server = StandIn::start(None).await;
    server.with(|cluster| cluster.refuse = None);
    let running = run(&config(&server), SILENCE);
    until("a watch", || !server.requests("watch").is_empty()).await;
    let ending = server.clone();
    let ends = tokio::spawn(async move {
        loop {
            ending.with(|cluster| cluster.end += 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    ends.abort();
    let watches = server.requests("watch").len();
    assert!(watches < 40, "{watches} watches in 2 s");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_hold_up_the_stop() {
    let server = StandIn::start(None).await;
    server.with(|cluster| cluster.silent = true);
    let running = run(&config(&server), SILENCE);
    until("a request", || !server.requests("").is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn it_is_asked_over_https_with_the_service_account_s_token_and_authority() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "secret").unwrap();
    let server = StandIn::start(Some(certificates(dir.path()))).await;
    server.set("a", "n1", "1");
    let text = format!(
        "node: {{name: n1}}\npods: {{source: api, api: {{url: '{}', token_file: {dir}/token, ca_file: {dir}/ca.crt}}}}",
        server.url,
        dir = dir.path().display()
    );
    let config: Config = load(&text, "agent.yaml", |_| None).unwrap();
    assert_eq!(config.pods.source, PodSource::Api);
    let index = PodIndex::default();
    let paths = HostPaths::new(&config.host);
    let teller = Teller::build(&config, &paths, &index).unwrap().unwrap();
    assert_eq!(teller.place(&config, &paths), server.url);
    let (trigger, shutdown) = shutdown::channel();
    let task = tokio::spawn(teller.run(shutdown));
    until("the pod", || index.len() == 1).await;
    let tokens =
        server.with(|cluster| cluster.requests.iter().map(|(_, token)| token.clone()).collect::<Vec<_>>());
    assert!(tokens.iter().all(|token| token == "Bearer secret"), "{tokens:?}");
    trigger.fire(Duration::ZERO);
    task.await.unwrap();
    // Another authority.
    let other =
        config::ApiServer { ca_file: dir.path().join("other.crt").display().to_string(), ..config.pods.api };
    let mut client = Client::of_api_server(&other).unwrap();
    assert!(client.list("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.is_err());
}

#[tokio::test]
async fn whatever_is_cut_and_forgotten_in_between_the_pods_are_the_server_s_in_the_end() {
    let server = StandIn::start(None).await;
    let running = run(&config(&server), SILENCE);
    let mut random = 20_261_121u64;
    for step in 0..600 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (random >> 33) % 100;
        let name = format!("p{}", n % 12);
        match n {
            0..50 => server.set(&name, if n.is_multiple_of(5) { "n2" } else { "n1" }, &step.to_string()),
            50..75 => server.remove(&name),
            75..80 => server.with(|cluster| cluster.cut += 1),
            80..83 => server.with(|cluster| cluster.end += 1),
            83..86 => server.with(|cluster| cluster.bookmarks ^= true),
            86..88 => server.with(|cluster| {
                cluster.forgotten = cluster.version;
                cluster.changes.clear();
                cluster.cut += 1;
            }),
            88..90 => server.with(|cluster| cluster.raw.push("?".into())),
            _ => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    }
    running.until_as(&server).await;
    running.stop().await;
}

#[test]
fn in_a_pod_the_server_is_where_kubernetes_says_that_it_is() {
    let of = |host: &'static str| {
        let env = move |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("6443".to_owned()),
            _ => None,
        };
        let config: Config = load("pods: {source: api}", "agent.yaml", env).unwrap();
        Endpoint::parse(&config.pods.api.url, (80, 443)).unwrap().to_string()
    };
    assert_eq!(of("10.96.0.1"), "https://10.96.0.1:6443");
    assert_eq!(of("fd00:10:96::1"), "https://[fd00:10:96::1]:6443");
}

/// An authority in `<dir>/ca.crt`, another in `<dir>/other.crt`, and a certificate of the first for 127.0.0.1.
fn certificates(dir: &Path) -> Arc<tls::Server> {
    let authority = |file: &str| {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.join(file), ca.self_signed(&key).unwrap().pem()).unwrap();
        Issuer::new(ca, key)
    };
    authority("other.crt");
    let issuer = authority("ca.crt");
    let key = KeyPair::generate().unwrap();
    let cert =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let (cert_file, key_file) = (dir.join("api.crt"), dir.join("api.key"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let options = ServerOptions { cert_file, key_file, client_ca_file: None, alpn: vec![] };
    Arc::new(tls::Server::new(options).unwrap())
}
