//! An app on the node that sends OTLP to the agent: a kubelet that knows its pod, connections from its address, and
//! protobuf by hand.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// The address of the pod `web-0`.
pub const WEB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
/// The address of the pod `sdk-0`: who does not choose one sends from it.
pub const SDK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// An address that no pod has.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);

/// Of what a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Data points.
    Metrics,
    /// Spans.
    Traces,
}

impl Signal {
    fn path(self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::Metrics => "/v1/metrics",
            Self::Traces => "/v1/traces",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Logs => "logs.v1.LogsService/Export",
            Self::Metrics => "metrics.v1.MetricsService/Export",
            Self::Traces => "trace.v1.TraceService/Export",
        }
    }
}

/// Serves a kubelet that knows the pods `shop/web-0` and `shop/sdk-0`, until the process ends; its URL.
///
/// # Errors
/// No port.
pub fn kubelet() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let pods = [("web-0", WEB), ("sdk-0", SDK)].map(|(name, ip)| {
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"shop","uid":"uid-of-{name}","labels":{{"app":"{name}"}}}},
            "spec":{{"nodeName":"test-node","containers":[{{"name":"main","image":"registry/{name}:1"}}]}},
            "status":{{"phase":"Running","podIP":"{ip}","hostIP":"192.0.2.1"}}}}"#
        )
    });
    let body = format!(r#"{{"kind":"PodList","items":[{}]}}"#, pods.join(","));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    Ok(url)
}

/// Field `number` (below 16), a message, a text or bytes.
pub fn message(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = content.len();
    while len >= 0x80 {
        out.push(0x80 | len.to_le_bytes()[0]);
        len >>= 7;
    }
    out.push(len.to_le_bytes()[0]);
    out.extend_from_slice(content);
    out
}

/// Field `number` (below 16), a fixed64 or sfixed64.
pub fn fixed(number: u8, value: u64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}

/// Sends a request over HTTP from an address, which the agent takes for the pod behind it: the answer's status, 0 where
/// none came.
pub async fn post(from: Ipv4Addr, port: u16, signal: Signal, body: Vec<u8>) -> u16 {
    let sent = async {
        let io = TokioIo::new(dial(from, port).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let request = hyper::Request::post(signal.path())
            .header("host", "agent")
            .header("content-type", "application/x-protobuf")
            .body(Full::new(Bytes::from(body)))?;
        anyhow::Ok(sender.send_request(request).await?.status().as_u16())
    };
    sent.await.unwrap_or(0)
}

/// The same over gRPC: the answer's `grpc-status`, 99 where there is none.
pub async fn call(from: Ipv4Addr, port: u16, signal: Signal, body: &[u8]) -> u16 {
    let sent = async {
        let io = TokioIo::new(dial(from, port).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let length = u32::try_from(body.len())?.to_be_bytes();
        let framed = [&[0][..], &length, body].concat();
        let path = format!("http://agent/opentelemetry.proto.collector.{}", signal.method());
        let request = hyper::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(framed)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let map = body.collect().await?.trailers().cloned().unwrap_or(head.headers);
        let status = map.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        anyhow::Ok(status.unwrap_or(99))
    };
    sent.await.unwrap_or(99)
}

async fn dial(from: Ipv4Addr, port: u16) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}
