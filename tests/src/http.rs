//! A blocking HTTP/1.0 GET: the answer ends where the connection does, so nothing has to be decoded.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};

/// Longest silence of a server.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer whose body is still to be read.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body's bytes as they come.
    pub body: BufReader<TcpStream>,
}

/// GET `path` from `127.0.0.1:port`.
///
/// # Errors
/// No connection, or no HTTP answer.
pub fn get(port: u16, path: &str) -> anyhow::Result<Answer> {
    send(port, "GET", path, "")
}

/// The same, from somebody who may be stuck: nothing takes longer than `limit`.
///
/// # Errors
/// No connection, no answer in time, or another status than 200.
pub fn text_within(port: u16, path: &str, limit: Duration) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    whole(path, call(port, &request, limit)?)
}

/// GET with one more header.
///
/// # Errors
/// No connection, or no HTTP answer.
pub fn get_as(port: u16, path: &str, header: &str) -> anyhow::Result<Answer> {
    call(port, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{header}\r\n\r\n"), PATIENCE)
}

/// Any request to `127.0.0.1:port`, with a JSON body where there is one.
///
/// # Errors
/// No connection, or no HTTP answer.
pub fn send(port: u16, method: &str, path: &str, json: &str) -> anyhow::Result<Answer> {
    let head = if json.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len())
    };
    call(port, &format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{head}\r\n{json}"), PATIENCE)
}

fn call(port: u16, request: &str, limit: Duration) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connect to {port}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(request.as_bytes())?;
    let mut body = BufReader::new(stream);
    let mut line = String::new();
    body.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).context("no status line")?.parse()?;
    loop {
        line.clear();
        if body.read_line(&mut line)? == 0 {
            bail!("the answer ends in its head");
        }
        if line == "\r\n" {
            return Ok(Answer { status, body });
        }
    }
}

/// The whole body of a 200 answer as text.
///
/// # Errors
/// No answer, or another status.
pub fn text(port: u16, path: &str) -> anyhow::Result<String> {
    whole(path, get(port, path)?)
}

fn whole(path: &str, mut answer: Answer) -> anyhow::Result<String> {
    let mut body = String::new();
    answer.body.read_to_string(&mut body)?;
    if answer.status != 200 {
        bail!("{path} answers {}: {body}", answer.status);
    }
    Ok(body)
}

/// The sum of a metric's samples over all label sets that contain `labels`, on the page `path`.
///
/// # Errors
/// No answer.
pub fn metric(port: u16, path: &str, name: &str, labels: &str) -> anyhow::Result<f64> {
    Ok(sum(&text(port, path)?, name, labels))
}

/// The same on a page that was read already.
pub fn sum(page: &str, name: &str, labels: &str) -> f64 {
    let mut sum = 0.0;
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if !(rest.starts_with('{') || rest.starts_with(' ')) || !rest.contains(labels) {
            continue;
        }
        sum += rest.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
    }
    sum
}
