//! A stand-in for the API server: it keeps pods, versions and the last changes, and lists and watches as Kubernetes' API
//! concepts page says. It is none: no admission, no storage, no authorization but what a test tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sonde_daemon::tls;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) version: u64,
    /// Changes up to here are forgotten.
    pub(crate) forgotten: u64,
    pub(crate) pods: BTreeMap<String, Value>,
    pub(crate) changes: Vec<(u64, &'static str, Value)>,
    /// First lines of requests, and tokens.
    pub(crate) requests: Vec<(String, String)>,
    /// Watches that began before end: whole, or broken off.
    pub(crate) cut: u64,
    pub(crate) end: u64,
    /// Every request is answered with it.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// Nothing is answered.
    pub(crate) silent: bool,
    /// Sent in a watch as it stands.
    pub(crate) raw: Vec<String>,
    pub(crate) bookmarks: bool,
}

#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    pub(crate) moved: Arc<watch::Sender<()>>,
    pub(crate) url: String,
}

impl StandIn {
    pub(crate) async fn start(tls: Option<Arc<tls::Server>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let cluster = Cluster { version: 10, ..Cluster::default() };
        let server =
            Self { cluster: Arc::new(Mutex::new(cluster)), moved: Arc::new(watch::channel(()).0), url };
        let own = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (own, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return own.serve(stream).await };
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls.config()).accept(stream).await {
                        own.serve(stream).await;
                    }
                });
            }
        });
        server
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let done = change(&mut self.cluster.lock().unwrap());
        let _ = self.moved.send(());
        done
    }

    /// A pod of a node is made, changed (with another label), or removed.
    pub(crate) fn set(&self, name: &str, node: &str, label: &str) {
        self.with(|cluster| {
            cluster.version += 1;
            let pod = json!({"kind": "Pod", "metadata": {"uid": format!("uid-{name}"), "name": name, "namespace": "shop",
                "labels": {"v": label}, "resourceVersion": cluster.version.to_string()}, "spec": {"nodeName": node}});
            let before = cluster.pods.insert(name.to_owned(), pod.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            cluster.changes.push((cluster.version, kind, pod));
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.with(|cluster| {
            let Some(mut pod) = cluster.pods.remove(name) else { return };
            cluster.version += 1;
            pod["metadata"]["resourceVersion"] = json!(cluster.version.to_string());
            cluster.changes.push((cluster.version, "DELETED", pod));
        });
    }

    pub(crate) fn requests(&self, what: &str) -> Vec<String> {
        let all = |cluster: &mut Cluster| cluster.requests.clone();
        self.with(all).into_iter().map(|(line, _)| line).filter(|line| line.contains(what)).collect()
    }

    /// Names and labels of the pods of `n1`.
    pub(crate) fn truth(&self) -> BTreeMap<String, String> {
        let of = |(name, pod): (&String, &Value)| {
            (name.clone(), pod["metadata"]["labels"]["v"].as_str().unwrap().to_owned())
        };
        self.with(|cluster| {
            cluster.pods.iter().filter(|(_, pod)| pod["spec"]["nodeName"] == "n1").map(of).collect()
        })
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let line = head.lines().next().unwrap().to_owned();
            let token =
                head.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
            let (refuse, silent) = self.with(|cluster| {
                cluster.requests.push((line.clone(), token.to_owned()));
                (cluster.refuse, cluster.silent)
            });
            if silent {
                std::future::pending::<()>().await;
            }
            let parameter = |name: &str| {
                let query = line.split(' ').nth(1)?.split_once('?')?.1;
                query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
            };
            assert_eq!(parameter("fieldSelector").unwrap(), "spec.nodeName%3Dn1");
            let from = parameter("resourceVersion").map(|text| text.parse().unwrap());
            let too_old = from.is_some_and(|from| from > 0 && from < self.with(|cluster| cluster.forgotten));
            let answer = if let Some((status, body)) = refuse {
                Some((status, body.to_owned()))
            } else if parameter("watch").is_some() {
                assert_eq!(parameter("allowWatchBookmarks").unwrap(), "true");
                too_old.then(|| (410, "{\"kind\":\"Status\",\"code\":410}".to_owned()))
            } else if too_old {
                Some((410, String::new()))
            } else {
                Some((200, self.list()))
            };
            let Some((status, body)) = answer else {
                return self.watch(stream, from.unwrap()).await;
            };
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn list(&self) -> String {
        self.with(|cluster| {
            let items: Vec<_> =
                cluster.pods.values().filter(|pod| pod["spec"]["nodeName"] == "n1").cloned().collect();
            json!({"kind": "PodList", "metadata": {"resourceVersion": cluster.version.to_string()}, "items": items})
                .to_string()
        })
    }

    async fn watch<S: AsyncWrite + Unpin>(&self, mut stream: S, mut from: u64) {
        let mut moved = self.moved.subscribe();
        let began = self.with(|cluster| (cluster.cut, cluster.end));
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        loop {
            moved.mark_unchanged();
            let (mut lines, now) = {
                let mut cluster = self.cluster.lock().unwrap();
                if cluster.cut != began.0 {
                    return;
                }
                let changes = cluster.changes.iter().filter(|(version, ..)| *version > from);
                let mut lines: Vec<String> = changes
                    .filter(|(_, _, pod)| pod["spec"]["nodeName"] == "n1")
                    .map(|(_, kind, pod)| json!({"type": kind, "object": pod}).to_string())
                    .collect();
                lines.append(&mut cluster.raw);
                if cluster.bookmarks && cluster.version > from {
                    let bookmark =
                        json!({"kind": "Pod", "metadata": {"resourceVersion": cluster.version.to_string()}});
                    lines.push(json!({"type": "BOOKMARK", "object": bookmark}).to_string());
                }
                from = cluster.version;
                (lines, cluster.end)
            };
            for line in lines.drain(..) {
                // In two chunks: lines and chunks have nothing to do with each other.
                let line = line + "\n";
                let (one, two) = line.split_at(line.len() / 2);
                for part in [one, two] {
                    let chunk = format!("{:x}\r\n{part}\r\n", part.len());
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
            if now != began.1 {
                let _ = stream.write_all(b"0\r\n\r\n").await;
                return;
            }
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}
