//! A server that takes protobuf in snappy's block format at one URL: what sinks of type `loki` and `prometheus` send to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::names::System;
use sonde_daemon::client::pool::{Body, Pool, Reply, Version};
use sonde_daemon::tls;

use super::SinkError;
use super::login::{Login, tls_options};
use crate::config;
use crate::deliver::Trouble;

/// How the server is spoken to, beside what the configuration says.
pub struct Options {
    /// The path and query that are asked for.
    pub path: String,
    /// Headers of every request.
    pub headers: &'static [(&'static str, &'static str)],
    /// Addresses behind the endpoint's name that are used at a time.
    pub spread: usize,
    /// What is read of an answer's body, bytes.
    pub answer_bytes: usize,
    /// From sending a request to the end of its answer.
    pub deadline: Duration,
}

/// The server.
pub struct Target {
    pool: Arc<Pool>,
    uri: Uri,
    headers: HeaderMap,
    login: Login,
    deadline: Duration,
}

/// A body of a request.
#[derive(Clone)]
struct Content(Bytes);

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Full::new(Bytes::new().chain(content.0))
    }
}

impl Target {
    /// Reads secrets and TLS files; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn new(sink: &config::Sink, endpoint: Endpoint, options: &Options) -> Result<Self, SinkError> {
        let tls = sink.tls.clone().unwrap_or_default();
        let tls = if endpoint.tls { Some(tls::Client::new(tls_options(&tls, tls::HTTP1))?) } else { None };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = HeaderValue::from_static(concat!("sonde-collector/", env!("CARGO_PKG_VERSION")));
        headers.insert(USER_AGENT, agent);
        for (name, value) in options.headers {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        if let Ok(host) = HeaderValue::from_str(&endpoint.authority()) {
            headers.insert(HOST, host);
        }
        for (name, value) in sink.headers.iter().flat_map(|headers| headers.iter()) {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        if let Some(tenant) = sink.tenant.as_deref().filter(|tenant| !tenant.is_empty())
            && let Ok(value) = HeaderValue::from_str(tenant)
        {
            headers.insert("x-scope-orgid", value);
        }
        let dialer = Dialer::new(endpoint, tls)?;
        Ok(Self {
            pool: Pool::new(dialer, Box::new(System), Version::Http1, options.spread, options.answer_bytes),
            uri: options.path.parse().unwrap_or_default(),
            headers,
            login: Login::build(sink)?,
            deadline: options.deadline,
        })
    }

    /// Sends a body and reads the answer; one that `is_trouble` comes from an address that is passed over for a while.
    ///
    /// # Errors
    /// No answer came.
    pub async fn send<A>(
        &self,
        body: Bytes,
        read: impl Fn(&Reply, SystemTime) -> A,
        is_trouble: impl Fn(&A) -> bool,
    ) -> Result<A, Trouble> {
        let mut request = Request::new(Content(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(value) = self.login.header() {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let answered = self.pool.call(&request, self.deadline).await;
        let (address, reply) = answered.map_err(|error| Trouble::retry("connection", error.to_string()))?;
        let answer = read(&reply, SystemTime::now());
        if is_trouble(&answer) {
            self.pool.avoid(address);
        }
        Ok(answer)
    }

    /// What is asked for.
    #[cfg(test)]
    pub fn path(&self) -> &str {
        self.uri.path()
    }
}
