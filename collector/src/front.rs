//! What is behind `listen.http`: health and metrics for machines, and the page and the API, for those who may.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use sonde_daemon::health::Health;
use sonde_daemon::http::{self, Peer};
use sonde_daemon::page::Page;
use sonde_daemon::secret::Tokens;

use crate::page::is_document;

/// Answers requests of the HTTP listener.
pub struct Front {
    health: Health,
    page: Page,
    /// What readers may present; `None` = no token is accepted.
    tokens: Option<Tokens>,
    /// Everyone may read.
    anonymous: bool,
    routes: TowerToHyperService<Router>,
}

impl Front {
    /// `routes` are asked for whatever is not health or metrics, when the asker may read.
    pub fn new(
        health: Health,
        page: Page,
        tokens: Option<Tokens>,
        anonymous: bool,
        routes: Router,
    ) -> Arc<Self> {
        Arc::new(Self { health, page, tokens, anonymous, routes: TowerToHyperService::new(routes) })
    }

    /// One answer.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let read_only = matches!(*request.method(), Method::GET | Method::HEAD);
        if let Some((good, text)) = self.health.answer(path) {
            let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            return http::text(status, text).map(Body::new);
        }
        if path == "/metrics" && read_only {
            let front = Arc::clone(&self);
            let headers = request.headers().clone();
            let page = tokio::task::spawn_blocking(move || front.page.answer(&headers)).await;
            return page.map_or_else(
                |_| {
                    http::text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n")
                        .map(Body::new)
                },
                |page| page.map(Body::new),
            );
        }
        if !self.may_read(&request) {
            let mut response = http::text(
                StatusCode::UNAUTHORIZED,
                "beyond loopback a token is needed here (auth.http.token_file, or auth.http.anonymous: true)\n",
            );
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response.map(Body::new);
        }
        match self.routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn may_read<B>(&self, request: &Request<B>) -> bool {
        // Where there is a token to type, there must be a page to type it into; it holds no data.
        let typing = self.tokens.is_some() && is_document(request.uri().path());
        let local =
            request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
        let token = || {
            self.tokens
                .as_ref()
                .is_some_and(|tokens| tokens.accept_header(request.headers().get(AUTHORIZATION)))
        };
        self.anonymous || local || typing || token()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn front(tokens: Option<Tokens>, anonymous: bool) -> Arc<Front> {
        Front::new(Health::new(), Page::new(Vec::new(), false), tokens, anonymous, Router::new())
    }

    fn from(peer: &str, authorization: &str) -> Request<()> {
        to("/api/v1/logs", peer, authorization)
    }

    fn to(path: &str, peer: &str, authorization: &str) -> Request<()> {
        let mut request = Request::get(path).header(AUTHORIZATION, authorization).body(()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse::<SocketAddr>().unwrap()));
        request
    }

    #[test]
    fn beyond_loopback_it_takes_a_token_or_the_word_anonymous() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret").unwrap();
        let with_token = front(Some(Tokens::open(&file).unwrap()), false);
        for (peer, authorization, token, anonymous, may) in [
            ("127.0.0.1:1", "", false, false, true),
            ("[::ffff:127.0.0.1]:1", "", false, false, true),
            ("[::1]:1", "", true, false, true),
            ("10.0.0.1:1", "", false, false, false),
            ("10.0.0.1:1", "Bearer secret", false, false, false),
            ("10.0.0.1:1", "Bearer secret", true, false, true),
            ("10.0.0.1:1", "Bearer wrong", true, false, false),
            ("10.0.0.1:1", "", false, true, true),
        ] {
            let front = if token { Arc::clone(&with_token) } else { front(None, anonymous) };
            assert_eq!(
                front.may_read(&from(peer, authorization)),
                may,
                "{peer} {authorization} {token} {anonymous}"
            );
        }
        assert!(with_token.may_read(&to("/", "10.0.0.1:1", "")), "a token must be typed somewhere");
        assert!(
            !front(None, false).may_read(&to("/", "10.0.0.1:1", "")),
            "without one there is nothing to type"
        );
    }
}
