//! Requests to the collector that runs on this machine, over its OTLP/HTTP listener.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::config::Config;

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
    /// The collector that runs with this configuration; the text says why it cannot be asked.
    pub fn of(config: &Config) -> Result<Self, String> {
        if !config.tls.cert_file.is_empty() {
            return Err("the listener speaks TLS, which this does not: post each `request` to /v1/logs with a client that does".to_owned());
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
        let file = &config.auth.otlp.token_file;
        let token = match file.as_str() {
            "" => None,
            file => {
                let text = std::fs::read_to_string(Path::new(file))
                    .map_err(|error| format!("auth.otlp.token_file: {file}: {error}"))?;
                text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
            }
        };
        Ok(Self { address, token })
    }

    /// Sends one OTLP/JSON request of logs until it is taken; the text says why it is not.
    pub fn send(&mut self, json: &[u8]) -> Result<(), String> {
        for _ in 0..TRIES {
            let (status, body) = self.post(json).map_err(|error| {
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

    fn post(&self, json: &[u8]) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut head = format!(
            "POST /v1/logs HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-sonde-resend: 1\r\n",
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
