//! Requests to the collector that runs on this machine, over its OTLP/HTTP listener.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::Full;
use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::Endpoint;
use sonde_daemon::client::names::System;
use sonde_daemon::client::pool::{Body, Pool, Reply, Version};
use sonde_daemon::secret;
use sonde_daemon::tls::{self, ClientOptions, Roots};
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::queue::Signal;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a request that is to come again later comes again, and what lies between.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
const ANSWER_BYTES: usize = 1 << 20;

/// What the listener asks for, beside what the collector's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A token.
    pub token_file: Option<PathBuf>,
    /// Authorities of its certificate, PEM; none = the system's.
    pub ca_file: Option<PathBuf>,
    /// The name that its certificate carries; none = the address.
    pub server_name: Option<String>,
    /// A certificate of ours and its key, PEM, where it asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The running collector.
pub struct Receiver {
    runtime: Runtime,
    pool: std::sync::Arc<Pool>,
    /// Where it listens.
    authority: String,
    token: Option<String>,
}

/// A body of a request.
#[derive(Clone)]
struct Content(Bytes);

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Full::new(Bytes::new().chain(content.0))
    }
}

impl Receiver {
    /// The collector that runs with this configuration; the text says why it cannot be asked. The token is that of `access`
    /// (a service account's, say), else the first that `auth.otlp.token_file` has.
    pub fn of(config: &Config, access: &Access) -> Result<Self, String> {
        let listen = &config.listen.otlp_http;
        let port =
            listen.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("listen.otlp_http ({listen}) names no port"))?;
        // What listens on every address is on loopback too.
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        let host = if matches!(host, "" | "::" | "0.0.0.0") { "127.0.0.1" } else { host };
        let endpoint = Endpoint {
            tls: !config.tls.cert_file.is_empty(),
            host: host.to_owned(),
            port,
            path: String::new(),
        };
        let otlp = &config.auth.otlp;
        let token = match (&access.token_file, otlp.token_file.as_str()) {
            (Some(file), _) => Some(read_token("--token-file", file)?),
            (None, "") if !otlp.kubernetes.service_accounts.is_empty() => {
                return Err("auth.otlp.kubernetes asks senders for a service account's token: name a file with one by --token-file (`kubectl create token` makes one)".to_owned());
            }
            (None, "") => None,
            (None, file) => Some(read_token("auth.otlp.token_file", Path::new(file))?),
        };
        if endpoint.tls && !config.tls.client_ca_file.is_empty() && access.identity.is_none() {
            return Err(
                "tls.client_ca_file asks senders for a certificate: name one by --cert-file and --key-file"
                    .to_owned(),
            );
        }
        let tls = if endpoint.tls { Some(client_tls(access)?) } else { None };
        let authority = endpoint.authority();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let dialer = Dialer::new(endpoint, tls).map_err(|error| format!("tls: {error}"))?;
        let pool = Pool::new(dialer, Box::new(System), Version::Http1, 1, ANSWER_BYTES);
        Ok(Self { runtime, pool, authority, token })
    }

    /// Sends one OTLP/JSON request until it is taken; the text says why it is not.
    pub fn send(&mut self, signal: Signal, json: &[u8]) -> Result<(), String> {
        for _ in 0..TRIES {
            let reply = self.post(signal, json).map_err(|error| {
                format!(
                    "no collector answers on {}, and a replay needs one that runs: {error}",
                    self.authority
                )
            })?;
            match reply.status.as_u16() {
                200 => return Ok(()),
                408 | 429 | 502..=504 => thread::sleep(PAUSE),
                status => {
                    let words: String = String::from_utf8_lossy(&reply.body).chars().take(500).collect();
                    return Err(format!("the collector said {status}: {}", words.trim()));
                }
            }
        }
        Err("the collector asks to come again later, for a minute now".to_owned())
    }

    fn post(&self, signal: Signal, json: &[u8]) -> Result<Reply, String> {
        let mut request = Request::new(Content(Bytes::copy_from_slice(json)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("/v1/{}", signal.name()).parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if signal == Signal::Logs {
            // A point or a span has no name to be looked up by: that it came before would not say that it is there.
            headers.insert("x-sonde-resend", HeaderValue::from_static("1"));
        }
        let agent = HeaderValue::from_static(concat!("sonde-collector/", env!("CARGO_PKG_VERSION")));
        headers.insert(USER_AGENT, agent);
        if let Ok(host) = HeaderValue::from_str(&self.authority) {
            headers.insert(HOST, host);
        }
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let answered = self.runtime.block_on(self.pool.call(&request, PATIENCE));
        answered.map(|(_, reply)| reply).map_err(|error| error.to_string())
    }
}

fn client_tls(access: &Access) -> Result<tls::Client, String> {
    let options = ClientOptions {
        roots: access.ca_file.clone().map_or(Roots::System, |file| Roots::Files(vec![file])),
        identity: access.identity.clone(),
        server_name: access.server_name.clone().unwrap_or_default(),
        insecure_skip_verify: false,
        alpn: vec![tls::HTTP1.to_vec()],
    };
    tls::Client::new(options).map_err(|error| error.to_string())
}

fn read_token(key: &str, file: &Path) -> Result<String, String> {
    secret::first_token(file).map_err(|error| format!("{key}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What the header `name` says of a request of this signal to a listener with this configuration.
    fn sent(
        signal: Signal,
        name: &str,
        change: impl Fn(&mut Config),
        token_file: Option<&Path>,
    ) -> Result<Option<String>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.listen.otlp_http = listener.local_addr().unwrap().to_string();
        change(&mut config);
        let access = Access { token_file: token_file.map(Path::to_owned), ..Access::default() };
        let mut receiver = Receiver::of(&config, &access)?;
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n{}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        receiver.send(signal, b"{}").unwrap();
        let request = asked.join().unwrap();
        assert!(request.starts_with(&format!("POST /v1/{} ", signal.name())), "{request}");
        let mut headers = request.lines().filter_map(|line| line.split_once(": "));
        Ok(headers.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()))
    }

    #[test]
    fn only_what_can_be_looked_up_is_marked_as_sent_before() {
        for (signal, mark) in [(Signal::Logs, Some("1")), (Signal::Metrics, None), (Signal::Traces, None)] {
            let sent = sent(signal, "x-sonde-resend", |_| {}, None).unwrap();
            assert_eq!(sent.as_deref(), mark, "{}", signal.name());
        }
    }

    #[test]
    fn a_replay_says_the_token_that_the_listener_takes() {
        let dir = tempfile::tempdir().unwrap();
        let (own, account) = (dir.path().join("own"), dir.path().join("account"));
        std::fs::write(&own, "# of the agents, since May\n\n  first \nsecond\n").unwrap();
        std::fs::write(&account, "a.b.c\n").unwrap();
        let with_own = |config: &mut Config| config.auth.otlp.token_file = own.display().to_string();
        let accounts = |config: &mut Config| {
            config.auth.otlp.kubernetes.service_accounts = vec!["sonde/sonde-agent".to_owned()];
        };
        let said = |change: &dyn Fn(&mut Config), token: Option<&Path>| {
            sent(Signal::Logs, "authorization", change, token)
        };
        assert_eq!(said(&|_| {}, None), Ok(None));
        assert_eq!(said(&with_own, None), Ok(Some("Bearer first".to_owned())));
        assert_eq!(said(&with_own, Some(&account)), Ok(Some("Bearer a.b.c".to_owned())));
        assert_eq!(said(&accounts, Some(&account)), Ok(Some("Bearer a.b.c".to_owned())));
        assert!(said(&accounts, None).unwrap_err().contains("--token-file"));
        let missing = said(&|_| {}, Some(Path::new("/nonexistent"))).unwrap_err();
        assert!(missing.starts_with("--token-file: /nonexistent"), "{missing}");
    }
}
