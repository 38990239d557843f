//! Asks the kubelet or the API server, both of which speak HTTP/1.1 to who carries a service account's token: short answers over
//! one connection that is kept, long ones over a connection each.
//!
//! Memory: an answer is one buffer of at most [`PODS_BYTES`]: as long as the answer where its length is announced, else at most twice
//! as long while it grows. A longer one is refused with its first bytes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sonde_daemon::secret::Token;
use sonde_daemon::tls::{self, ClientOptions, Roots, TlsError};

use crate::config;
use sonde_daemon::client::dial::{DialError, Stream, dial_plain, dial_tls};
use sonde_daemon::client::endpoint::{Endpoint, EndpointError};

/// A longer answer is refused: 500 pods are a few megabytes, and with all that is read of it it has to fit into the agent's memory.
const PODS_BYTES: usize = 32 << 20;
/// And their summary, of some kilobytes a container.
const SUMMARY_BYTES: usize = 16 << 20;
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
/// The service account's authority, mounted beside its token.
const SERVICE_ACCOUNT_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configured URL of that key.
    #[error("{0}: {1}")]
    Url(&'static str, EndpointError),
    /// Authorities or names.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The name has no address.
    #[error("{0}: {1}")]
    LookUp(String, io::Error),
    /// No connection.
    #[error("{0}: {1}")]
    Dial(SocketAddr, DialError),
    /// The connection broke.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no complete answer within {} s", ANSWER.as_secs())]
    Slow,
    /// An answer that is none; its words say what is missing.
    #[error("the answer was {0}: {1}")]
    Status(StatusCode, String),
    /// The body broke off or is too long.
    #[error("the answer could not be read: {0}")]
    Body(String),
}

impl ClientError {
    /// Whether it may not be asked: another answer comes only when somebody has changed a right.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))
    }
}

/// One kubelet, or the API server.
pub struct Client {
    endpoint: Endpoint,
    token_file: PathBuf,
    options: ClientOptions,
    /// Names of which the certificate carries one.
    names: Vec<String>,
    token: Option<Token>,
    tls: Option<tls::Client>,
    /// Which of them.
    name: usize,
    sender: Option<http1::SendRequest<Empty<Bytes>>>,
}

impl Client {
    /// The kubelet. Connects to nothing and reads no file yet: what is missing may come later.
    ///
    /// `own_certificate` is that of a kubelet that signs its own.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &config::Kubelet, node: &str, own_certificate: PathBuf) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(&config.url, (80, 10250))
            .map_err(|error| ClientError::Url("kubelet.url", error))?;
        let mut names = vec![endpoint.host.clone()];
        if ServerName::try_from(node).is_ok() {
            names.insert(0, node.to_owned());
        }
        let token_file = config.token_file.clone();
        let authorities = vec![SERVICE_ACCOUNT_CA.into(), own_certificate];
        let options = tls_options(&config.ca_file, authorities, config.insecure_skip_verify);
        Ok(Self::build(endpoint, &config.server_name, names, token_file, options))
    }

    /// The API server, as [`Client::new`].
    ///
    /// # Errors
    /// The URL is none.
    pub fn of_api_server(config: &config::ApiServer) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(&config.url, (80, 443))
            .map_err(|error| ClientError::Url("pods.api.url", error))?;
        let names = vec![endpoint.host.clone()];
        let token_file = config.token_file.clone();
        let options =
            tls_options(&config.ca_file, vec![SERVICE_ACCOUNT_CA.into()], config.insecure_skip_verify);
        Ok(Self::build(endpoint, &config.server_name, names, token_file, options))
    }

    fn build(
        endpoint: Endpoint,
        server_name: &str,
        names: Vec<String>,
        token_file: PathBuf,
        options: ClientOptions,
    ) -> Self {
        let names = if server_name.is_empty() { names } else { vec![server_name.to_owned()] };
        Self { endpoint, token_file, options, names, token: None, tls: None, name: 0, sender: None }
    }

    /// The body of `GET /pods`.
    pub async fn pods(&mut self) -> Result<Bytes, ClientError> {
        self.in_time("/pods", PODS_BYTES).await
    }

    /// The body of `GET /stats/summary`.
    pub async fn summary(&mut self) -> Result<Bytes, ClientError> {
        self.in_time("/stats/summary", SUMMARY_BYTES).await
    }

    /// The body of `GET path` of an API server: a list of pods.
    ///
    /// # Errors
    /// There is no answer, or none with that status; after 20 s at the latest.
    pub async fn list(&mut self, path: &str) -> Result<Bytes, ClientError> {
        self.in_time(path, PODS_BYTES).await
    }

    /// The body of `GET path`, to be read as it comes, over a connection of its own.
    ///
    /// # Errors
    /// As [`Client::list`]; only the beginning of the answer is waited for.
    pub async fn stream(&mut self, path: &str) -> Result<Incoming, ClientError> {
        let request = self.request(path);
        let answer = async {
            let response = self.connect().await?.send_request(request).await?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(response.into_body());
            }
            Err(refused(status, &whole(response, PODS_BYTES).await?))
        };
        tokio::time::timeout(ANSWER, answer).await.unwrap_or(Err(ClientError::Slow))
    }

    /// Whether the token that is to be shown is there; so too where none is to be.
    pub fn has_token(&self) -> bool {
        self.token_file.as_os_str().is_empty() || self.token_file.exists()
    }

    async fn in_time(&mut self, path: &str, limit: usize) -> Result<Bytes, ClientError> {
        tokio::time::timeout(ANSWER, async {
            let reused = self.sender.is_some();
            match self.get(path, limit).await {
                // The kubelet closed a connection that was idle, which shows only when it is used.
                Err(ClientError::Http(_)) if reused => self.get(path, limit).await,
                answer => answer,
            }
        })
        .await
        .unwrap_or(Err(ClientError::Slow))
    }

    async fn get(&mut self, path: &str, limit: usize) -> Result<Bytes, ClientError> {
        let request = self.request(path);
        let kept = self.sender.take().filter(http1::SendRequest::is_ready);
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = whole(response, limit).await?;
        self.sender = Some(sender);
        // Redirects are not followed: the token goes to whom we were told only.
        if status == StatusCode::OK { Ok(body) } else { Err(refused(status, &body)) }
    }

    fn request(&mut self, path: &str) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("sonde-agent/", env!("CARGO_PKG_VERSION"))));
        if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority()) {
            headers.insert(HOST, host);
        }
        // Outside a cluster there is no token; one that appears later is found then.
        if self.token.is_none() && !self.token_file.as_os_str().is_empty() {
            self.token = Token::open(&self.token_file).ok();
        }
        if let Some(token) = &self.token
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.get()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // The endpoint's path was read from a URL, and ours is fixed.
        if let Ok(uri) = format!("{}{path}", self.endpoint.path).parse() {
            *request.uri_mut() = uri;
        }
        request
    }

    async fn connect(&mut self) -> Result<http1::SendRequest<Empty<Bytes>>, ClientError> {
        let host = (self.endpoint.host.as_str(), self.endpoint.port);
        let found = tokio::net::lookup_host(host).await;
        let addresses: Vec<_> =
            found.map_err(|error| ClientError::LookUp(self.endpoint.host.clone(), error))?.collect();
        let mut last = None;
        for address in addresses {
            match self.dial(address).await {
                Ok(stream) => {
                    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(async move { drop(connection.await) });
                    return Ok(sender);
                }
                Err(error) => last = Some(error),
            }
        }
        let none =
            || ClientError::LookUp(self.endpoint.host.clone(), io::Error::other("the name has no address"));
        Err(last.unwrap_or_else(none))
    }

    /// A certificate that carries the address but not the node's name (or the other way round) is as good, unless
    /// the name to check is set: which of the two it carries is found once and remembered.
    async fn dial(&mut self, address: SocketAddr) -> Result<Stream, ClientError> {
        if !self.endpoint.tls {
            return dial_plain(address, CONNECT).await.map_err(|error| ClientError::Dial(address, error));
        }
        let names = &self.names;
        let tls = match self.tls.take() {
            Some(tls) => tls,
            None => tls::Client::new(self.options.clone())?,
        };
        let tls = self.tls.insert(tls);
        let mut at = self.name % names.len();
        loop {
            match dial_tls(address, tls, tls.server_name(&names[at])?, CONNECT).await {
                Ok(stream) => {
                    self.name = at;
                    return Ok(stream);
                }
                Err(error) => {
                    at = (at + 1) % names.len();
                    if !error.is_certificate_name() || at == self.name % names.len() {
                        return Err(ClientError::Dial(address, error));
                    }
                }
            }
        }
    }
}

/// All of a body, up to `limit` bytes.
async fn whole(response: Response<Incoming>, limit: usize) -> Result<Bytes, ClientError> {
    let too_long = || ClientError::Body(format!("it is over {} MiB", limit >> 20));
    let mut body = response.into_body();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Body(error.to_string()))?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len() + piece.len() > limit {
            return Err(too_long());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let words: String = String::from_utf8_lossy(&body[..body.len().min(300)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    ClientError::Status(status, words.trim().to_owned())
}

/// `ca_file` is `auto` for these authorities, a file, or empty for the system's.
fn tls_options(ca_file: &str, authorities: Vec<PathBuf>, insecure_skip_verify: bool) -> ClientOptions {
    let roots = match ca_file {
        "auto" => Roots::AnyOf(authorities),
        "" => Roots::System,
        file => Roots::Files(vec![file.into()]),
    };
    ClientOptions {
        roots,
        identity: None,
        server_name: String::new(),
        insecure_skip_verify,
        alpn: vec![tls::HTTP1.to_vec()],
    }
}
