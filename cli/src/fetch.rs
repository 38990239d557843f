//! Small HTTP requests to the daemons on this machine.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(5);

/// The body of a `200`; 5 seconds at most.
pub(crate) async fn text(port: u16, path: &str) -> anyhow::Result<String> {
    let whole = async {
        let body = get(port, path).await?.collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(PATIENCE, whole).await.with_context(|| format!("{path} on port {port}"))?
}

/// Streams the body of a `200` into a file; each part may take 60 seconds.
pub(crate) async fn download(port: u16, path: &str, to: &Path) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(to)?);
    let mut body = get(port, path).await?;
    while let Some(frame) =
        tokio::time::timeout(Duration::from_secs(60), body.frame()).await.context("the export stopped")?
    {
        if let Some(data) = frame?.data_ref() {
            file.write_all(data)?;
        }
    }
    file.flush()?;
    Ok(())
}

async fn get(port: u16, path: &str) -> anyhow::Result<Incoming> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        bail!("{path} on port {port}: {}", response.status());
    }
    Ok(response.into_body())
}

/// The sum of a metric's samples on a page of the Prometheus text format, of those whose labels contain `label`.
pub(crate) fn metric(page: &str, name: &str, label: &str) -> f64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .filter_map(|rest| rest.rsplit_once('}').map_or(rest, |(_, value)| value).split_whitespace().next())
        .filter_map(|value| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_are_added_up() {
        let page = "# TYPE a_total counter\na_total{x=\"1\",y=\"} 9\"} 2\na_total{x=\"2\"} 3\na_total_more 7\nb 4.5\n";
        assert!((metric(page, "a_total", "") - 5.0).abs() < 1e-9);
        assert!((metric(page, "a_total", "x=\"2\"") - 3.0).abs() < 1e-9);
        assert!((metric(page, "b", "") - 4.5).abs() < 1e-9);
    }
}
