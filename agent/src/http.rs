//! The agent's pages and probes (contract section 3), on a thread of their own: they answer under any load.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use sonde_daemon::health::{Health, Readiness};
use sonde_daemon::http::{Bound, Limits, Peer, serve_pages, text};
use sonde_daemon::page::{Page, Section};
use sonde_daemon::secret::Tokens;
use sonde_daemon::shutdown::Shutdown;

use crate::logs::FileStatus;
use crate::metrics::Sections;

const INDEX: &str = "sonde-agent\n\n/metrics\n/metrics/node\n/metrics/containers\n/metrics/pods\n\
    /metrics/kubelet\n/metrics/namespaces\n/metrics/self\n/healthz\n/readyz\n/debug/files (from this machine, or with a token)\n";
/// Pages that are made at once; a source that does not answer holds up the page that asks it, and no other.
const PAGES_AT_ONCE: usize = 8;

const METRICS: &str = "/metrics";

/// The log files as they are known now; `None` until the first discovery is done.
pub type Files = Box<dyn Fn() -> Option<Arc<Vec<FileStatus>>> + Send + Sync>;

/// What the pages show.
pub struct Pages {
    /// Liveness and readiness.
    pub health: Health,
    /// The pages under `/metrics`.
    pub metrics: MetricPages,
    /// The log files.
    pub files: Files,
    /// Met with the first discovery.
    pub discovered: Readiness,
    /// What opens `/debug/files` beyond loopback; `None` = nothing does.
    pub tokens: Option<Tokens>,
}

/// The pages under `/metrics`; one that is switched off is `None`.
pub struct MetricPages {
    all: Page,
    own: Page,
    node: Option<Page>,
    containers: Option<Page>,
    pods: Option<Page>,
    kubelet: Option<Page>,
    namespaces: Option<Page>,
}

impl MetricPages {
    /// Pages of the agent's own section and of what it measures.
    pub fn new(own: Arc<Section>, measured: Sections) -> Self {
        let Sections { node, containers, pods, kubelet, namespaces } = measured;
        let sections = [&node, &containers, &pods, &kubelet, &namespaces].into_iter().flatten().chain([&own]);
        let all = Page::new(sections.cloned().collect(), false);
        // Only names of our own can be OpenMetrics.
        let page =
            |section: Option<Arc<Section>>, ours| section.map(|section| Page::new(vec![section], ours));
        Self {
            all,
            own: Page::new(vec![own], true),
            node: page(node, false),
            containers: page(containers, false),
            pods: page(pods, false),
            kubelet: page(kubelet, false),
            namespaces: page(namespaces, true),
        }
    }

    /// The page at a path under `/metrics`.
    fn at(&self, path: &str) -> Option<&Page> {
        match path {
            "" => Some(&self.all),
            "/self" => Some(&self.own),
            "/node" => self.node.as_ref(),
            "/containers" => self.containers.as_ref(),
            "/pods" => self.pods.as_ref(),
            "/kubelet" => self.kubelet.as_ref(),
            "/namespaces" => self.namespaces.as_ref(),
            _ => None,
        }
    }
}

impl Pages {
    fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        if path == "/readyz" {
            self.discovered.set((self.files)().is_some());
        }
        if let Some((good, words)) = self.health.answer(path) {
            return text(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, words);
        }
        if let Some(page) = path.strip_prefix(METRICS).and_then(|rest| self.metrics.at(rest)) {
            return page.answer(headers);
        }
        match path {
            "/" => text(StatusCode::OK, INDEX),
            "/debug/files" if self.may_see_files(headers, peer) => self.file_list(),
            "/debug/files" => {
                let mut response = text(
                    StatusCode::UNAUTHORIZED,
                    "only from this machine (kubectl port-forward), or with a token of auth.http.token_file\n",
                );
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    fn may_see_files(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> bool {
        let local = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        local || self.tokens.as_ref().is_some_and(|tokens| tokens.accept_header(headers.get(AUTHORIZATION)))
    }

    fn file_list(&self) -> Response<Full<Bytes>> {
        match serde_json::to_vec(&*(self.files)().unwrap_or_default()) {
            Ok(json) => {
                let mut response = Response::new(Full::new(Bytes::from(json)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// Serves the pages until the stop, on the calling thread.
pub fn serve(bound: Bound, pages: Pages, shutdown: Shutdown) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(PAGES_AT_ONCE)
        .build()?;
    let pages = Arc::new(pages);
    runtime.block_on(serve_pages(bound, Limits::default(), shutdown, move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
            if !request.uri().path().starts_with(METRICS) {
                return pages.answer(request.method(), request.uri().path(), request.headers(), peer);
            }
            // A page of metrics may wait for its sources; the probes must not wait for it.
            let (parts, _body) = request.into_parts();
            let answer = move || pages.answer(&parts.method, parts.uri.path(), &parts.headers, peer);
            tokio::task::spawn_blocking(answer)
                .await
                .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the page panicked\n"))
        }
    }))
}

#[cfg(test)]
mod tests {
    use sonde_daemon::page::Build;

    use crate::config::Config;
    use crate::host::HostPaths;
    use crate::metrics::Sources;
    use crate::pods::PodIndex;

    use super::*;

    fn status(pages: &Pages, path: &str, peer: &str) -> u16 {
        pages.answer(&Method::GET, path, &HeaderMap::new(), peer.parse().ok()).status().as_u16()
    }

    fn pages() -> Pages {
        let build = Build { prefix: "sonde_agent", version: "1" };
        let config = Config::default();
        let paths = HostPaths::new(&config.host);
        let sources =
            Sources::new(&config.metrics, &paths, "n", &PodIndex::default(), &Default::default()).unwrap();
        let health = Health::new();
        Pages {
            discovered: health.readiness("the first discovery"),
            health,
            metrics: MetricPages::new(Section::new(None, vec![Box::new(build)]), sources.sections()),
            files: Box::new(|| Some(Arc::default())),
            tokens: None,
        }
    }

    #[test]
    fn every_page_of_the_contract_answers() {
        let pages = pages();
        for path in ["/", "/metrics", "/healthz", "/readyz", "/debug/files"] {
            assert_eq!(status(&pages, path, "127.0.0.1:1"), 200, "{path}");
        }
        for page in ["self", "node", "containers", "pods", "kubelet", "namespaces"] {
            assert_eq!(status(&pages, &format!("/metrics/{page}"), "127.0.0.1:1"), 200, "{page}");
        }
        assert_eq!(status(&pages, "/metrics/selfish", "127.0.0.1:1"), 404);
        let post = pages.answer(&Method::POST, "/metrics", &HeaderMap::new(), None);
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn the_file_list_is_for_this_machine_and_for_who_has_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let (open, closed) = (Pages { tokens: Some(Tokens::open(&file).unwrap()), ..pages() }, pages());
        for (peer, token, want) in [
            ("[::1]:1", "", 200),
            ("[::ffff:127.0.0.1]:1", "", 200),
            ("10.0.0.1:1", "", 401),
            ("10.0.0.1:1", "wrong", 401),
            ("[::ffff:10.0.0.1]:1", "", 401),
            ("", "", 401),
            ("10.0.0.1:1", "secret", 200),
        ] {
            let headers = [(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())];
            let get = |pages: &Pages| {
                let headers = headers.clone().into_iter().collect();
                pages.answer(&Method::GET, "/debug/files", &headers, peer.parse().ok()).status()
            };
            assert_eq!(get(&open).as_u16(), want, "{peer} {token}");
            let without = if token == "secret" { 401 } else { want };
            assert_eq!(get(&closed).as_u16(), without, "no token opens it: {peer} {token}");
        }
    }

    #[test]
    fn readiness_and_liveness_say_what_is_missing() {
        let waiting = Pages { files: Box::new(|| None), ..pages() };
        assert_eq!(status(&waiting, "/readyz", ""), 503);
        assert_eq!(status(&waiting, "/healthz", ""), 200);
        assert_eq!(status(&pages(), "/readyz", ""), 200);
    }
}
