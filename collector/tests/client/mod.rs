//! Senders that do what they are told, however wrong.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

pub const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// One HTTP/2 connection.
pub struct GrpcClient(SendRequest<Full<Bytes>>);

impl GrpcClient {
    pub async fn connect(address: &str) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// The number of the gRPC status.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> u16 {
        let mut request = Request::post(format!("http://x{path}")).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header("te", "trailers").body(Full::new(body)).unwrap();
        let response = self.0.clone().send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let value = match head.headers.get("grpc-status") {
            Some(value) => value.clone(),
            None => body.collect().await.unwrap().trailers().unwrap()["grpc-status"].clone(),
        };
        value.to_str().unwrap().parse().unwrap()
    }
}

/// One request for logs over a connection of its own; its HTTP status.
pub fn http(address: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    post(address, "/v1/logs", headers, body)
}

/// One request over a connection of its own; its HTTP status.
pub fn post(address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    let mut stream = connect(address);
    send(&mut stream, path, headers, body);
    status(&mut stream)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn send(stream: &mut TcpStream, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).expect("the rest is read, so that the answer can be");
}

/// One HTTP/1.1 connection for as many requests as the server takes over it, and then another one.
pub struct KeptClient {
    address: String,
    stream: Option<BufReader<TcpStream>>,
    /// Connections so far.
    pub opened: usize,
}

impl KeptClient {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None, opened: 0 }
    }

    /// The HTTP status. The whole answer is read; the connection is kept unless the answer says that it ends.
    pub fn post(&mut self, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let mut stream = self.stream.take().unwrap_or_else(|| {
            self.opened += 1;
            BufReader::new(connect(&self.address))
        });
        send(stream.get_mut(), "/v1/logs", headers, body);
        let (mut line, mut status, mut length, mut kept) = (String::new(), None, 0, true);
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let text = line.trim_end().to_ascii_lowercase();
            match text.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", value)) => kept = value != "close",
                Some(_) => {}
                None if text.is_empty() => break,
                None => status = Some(text.split(' ').nth(1).unwrap().parse().unwrap()),
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        self.stream = kept.then_some(stream);
        status.expect("an answer")
    }
}

/// Reads requests on `stream` and answers each with the status that its path gets.
#[allow(dead_code, reason = "not every test that has these senders is a receiver too")]
pub fn answer(stream: &mut TcpStream, status: impl Fn(&str) -> u16) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        let head = format!(
            "HTTP/1.1 {} x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
            status(&path)
        );
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

/// The status of the first answer on `stream`; 0 = it was closed without one.
pub fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
        Err(_) => 0,
    }
}

/// A request of one record with a body of `length` bytes, by hand: four messages in each other.
pub fn valid(length: usize) -> Vec<u8> {
    let mut message = vec![b'x'; length];
    // AnyValue.string_value, LogRecord.body, ScopeLogs.log_records, ResourceLogs.scope_logs, request.resource_logs.
    for field in [1u8, 5, 2, 2, 1] {
        let mut outer = vec![field << 3 | 2];
        let mut left = message.len();
        while left >= 0x80 {
            outer.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        outer.push(left as u8);
        outer.append(&mut message);
        message = outer;
    }
    message
}

pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd_sized(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 3).unwrap()
}

pub fn zstd_unsized(content: &[u8], level: i32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
