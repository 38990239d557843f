//! Requests to the collector that runs on this machine, over its OTLP/HTTP listener.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::thread;
use std::time::Duration;

use sonde_daemon::secret;

use crate::config::Config;
use crate::queue::Signal;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a request that is to come again later comes again, and what lies between.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// The running collector.
pub struct Receiver {
    address: SocketAddr,
    token: Option<String>,
}

impl Receiver {
    /// The collector that runs with this configuration; the text says why it cannot be asked. The token is that of `token_file`
    /// (a service account's, say), else the first that `auth.otlp.token_file` has.
    pub fn of(config: &Config, token_file: Option<&Path>) -> Result<Self, String> {
        if !config.tls.cert_file.is_empty() {
            return Err("the listener speaks TLS, which this does not: post each `request` to /v1/<its signal> with a client that does".to_owned());
        }
        let listen = &config.listen.otlp_http;
        let port =
            listen.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("listen.otlp_http ({listen}) names no port"))?;
        // What listens on every address is on loopback too.
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        let host = if matches!(host, "" | "::" | "0.0.0.0") { "127.0.0.1" } else { host };
        let address = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| format!("listen.otlp_http ({listen}) is no address"))?;
        let otlp = &config.auth.otlp;
        let token = match (token_file, otlp.token_file.as_str()) {
            (Some(file), _) => Some(read_token("--token-file", file)?),
            (None, "") if !otlp.kubernetes.service_accounts.is_empty() => {
                return Err("auth.otlp.kubernetes asks senders for a service account's token: name a file with one by --token-file (`kubectl create token` makes one)".to_owned());
            }
            (None, "") => None,
            (None, file) => Some(read_token("auth.otlp.token_file", Path::new(file))?),
        };
        Ok(Self { address, token })
    }

    /// Sends one OTLP/JSON request until it is taken; the text says why it is not.
    pub fn send(&mut self, signal: Signal, json: &[u8]) -> Result<(), String> {
        for _ in 0..TRIES {
            let (status, body) = self.post(signal, json).map_err(|error| {
                format!("no collector answers on {}, and a replay needs one that runs: {error}", self.address)
            })?;
            match status {
                200 => return Ok(()),
                408 | 429 | 502..=504 => thread::sleep(PAUSE),
                _ => return Err(format!("the collector said {status}: {}", body.trim())),
            }
        }
        Err("the collector asks to come again later, for a minute now".to_owned())
    }

    fn post(&self, signal: Signal, json: &[u8]) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut head = format!(
            "POST /v1/{} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-sonde-resend: 1\r\n",
            signal.name(),
            self.address,
            json.len()
        );
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(json)?;
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.chars().take(500).collect()))
    }
}

fn read_token(key: &str, file: &Path) -> Result<String, String> {
    secret::first_token(file).map_err(|error| format!("{key}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a listener with this configuration is sent, by its `Authorization`.
    fn sent(change: impl Fn(&mut Config), token_file: Option<&Path>) -> Result<Option<String>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.listen.otlp_http = listener.local_addr().unwrap().to_string();
        change(&mut config);
        let mut receiver = Receiver::of(&config, token_file)?;
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
        receiver.send(Signal::Logs, b"{}").unwrap();
        let request = asked.join().unwrap();
        Ok(request.lines().find_map(|line| line.strip_prefix("authorization: ")).map(str::to_owned))
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
        assert_eq!(sent(|_| {}, None), Ok(None));
        assert_eq!(sent(with_own, None), Ok(Some("Bearer first".to_owned())));
        assert_eq!(sent(with_own, Some(&account)), Ok(Some("Bearer a.b.c".to_owned())));
        assert_eq!(sent(accounts, Some(&account)), Ok(Some("Bearer a.b.c".to_owned())));
        assert!(sent(accounts, None).unwrap_err().contains("--token-file"));
        let missing = sent(|_| {}, Some(Path::new("/nonexistent"))).unwrap_err();
        assert!(missing.starts_with("--token-file: /nonexistent"), "{missing}");
    }
}
