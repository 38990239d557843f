//! What the tests of sinks share: a destination that answers as a test says, and a lane in front of the sink.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use sonde_daemon::health::Health;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::deliver::Sink;
use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::lane::{self, Lane, LaneOptions, Timing};
use crate::queue::{Codec, Frame, Queue, QueueOptions, RealFilesystem, Signal};
use crate::store::tests::{Line, request};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What is done with it.
#[derive(Clone, Debug)]
pub enum Act {
    /// Status, headers, body, trailers.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>, Vec<(&'static str, String)>),
    /// The connection is closed.
    Drop,
    /// Nothing comes, ever.
    Hang,
    /// A 200 whose body never ends.
    Endless,
}

impl Act {
    pub fn status(status: u16, words: &str) -> Self {
        Self::Answer(status, vec![], words.as_bytes().to_vec(), vec![])
    }
}

/// A small generator: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn pick(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

/// Serves until the test ends; gives the port. `two` = HTTP/2.
pub async fn serve(two: bool, answer: impl FnMut(Seen) -> Act + Send + 'static) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            let stop = Arc::new(tokio::sync::Notify::new());
            let stopped = Arc::clone(&stop);
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, stop) = (Arc::clone(&answer), Arc::clone(&stop));
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let path = parts.uri.path().to_owned();
                    let act = (answer.lock().unwrap())(Seen { path, headers: parts.headers, body });
                    match act {
                        Act::Answer(..) | Act::Endless => Ok::<_, Infallible>(response(act)),
                        Act::Drop => {
                            stop.notify_one();
                            std::future::pending().await
                        }
                        Act::Hang => std::future::pending().await,
                    }
                }
            });
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                if two {
                    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
                    tokio::select! { _ = served => {} () = stopped.notified() => {} }
                } else {
                    let served = http1::Builder::new().serve_connection(io, service);
                    tokio::select! { _ = served => {} () = stopped.notified() => {} }
                }
            });
        }
    });
    port
}

/// Answers every connection with these bytes and closes it; gives the port.
pub async fn garbage(bytes: &'static [u8]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(bytes).await;
        }
    });
    port
}

type Answered = BoxBody<Bytes, Infallible>;

fn response(act: Act) -> Response<Answered> {
    let Act::Answer(status, headers, body, trailers) = act else {
        return Response::new(Endless.boxed());
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let map: HeaderMap =
        trailers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let body = Full::from(body);
    let body =
        if map.is_empty() { body.boxed() } else { body.with_trailers(async { Some(Ok(map)) }).boxed() };
    response.body(body).unwrap()
}

struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

/// A frame of these lines.
pub fn frame(lines: &[Line], codec: Codec) -> Frame {
    frame_of(Signal::Logs, request(lines), lines.len(), codec)
}

/// A frame of a request.
pub fn frame_of(signal: Signal, raw: Vec<u8>, records: usize, codec: Codec) -> Frame {
    use std::io::Write;
    let uncompressed_len = u32::try_from(raw.len()).unwrap();
    let payload = match codec {
        Codec::Identity => raw,
        Codec::Zstd => zstd::bulk::compress(&raw, 3).unwrap(),
        // In two members, as pigz and some clients write it.
        Codec::Gzip => {
            let mut out = Vec::new();
            for half in [&raw[..raw.len() / 2], &raw[raw.len() / 2..]] {
                let mut gzip = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
                gzip.write_all(half).unwrap();
                gzip.finish().unwrap();
            }
            out
        }
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    Frame {
        signal,
        codec,
        resend: false,
        received_unix_nano: u64::try_from(now.as_nanos()).unwrap(),
        records: u32::try_from(records).unwrap(),
        uncompressed_len,
        payload: Bytes::from(payload),
    }
}

/// A queue, and a lane from it to a sink of the name `next`.
pub struct Way {
    pub queue: Queue,
    pub lane: Lane,
    stop: watch::Sender<bool>,
}

impl Way {
    /// `dir` may be that of an earlier one that was stopped.
    pub fn new(dir: &Path, sink: impl Sink, cluster: &str, in_flight: u32) -> Self {
        Self::of(dir, Signal::Logs, sink, cluster, in_flight)
    }

    /// As [`Self::new`], of any signal.
    pub fn of(dir: &Path, signal: Signal, sink: impl Sink, cluster: &str, in_flight: u32) -> Self {
        let options = QueueOptions::on_any_disk();
        let queue = Queue::open(&dir.join("queue"), options, Arc::new(RealFilesystem)).unwrap();
        let (stop, stops) = watch::channel(false);
        let shelf = DeadLetters::open(&dir.join("dead-letter"), 64 << 20).unwrap().shelf("next");
        let heartbeat = Health::new().heartbeat("next", Duration::from_secs(1));
        let options = LaneOptions {
            name: "next".to_owned(),
            signal,
            skip_beyond: None,
            request_bytes: 16 << 20,
            cluster: cluster.to_owned(),
            batch_bytes: 32 << 10,
            window_bytes: 8 << 20,
            in_flight,
            timing: Timing {
                probe_every: Duration::from_millis(5),
                longest_wait: Duration::from_millis(5),
                put_off: Duration::from_millis(5),
                rounds: 5,
            },
        };
        let lane = lane::start(&queue, sink, options, shelf, stops, heartbeat);
        Self { queue, lane, stop }
    }

    /// Waits until all that was appended is settled.
    pub async fn settled(&self) {
        let end = self.queue.status().end;
        let mut settled = self.lane.settled();
        tokio::time::timeout(Duration::from_secs(120), settled.wait_for(|settled| *settled >= end))
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.lane.numbers().retries()))
            .unwrap();
    }

    /// Ends it, as a process ends.
    pub async fn stop(self) {
        drop(self.stop);
        self.lane.join().await;
        self.queue.close().await;
    }

    /// Records by outcome: delivered, dead letters, rejected.
    pub fn counts(&self) -> [u64; 3] {
        let numbers = self.lane.numbers();
        [&numbers.delivered, &numbers.dead_letter, &numbers.rejected]
            .map(|number| number.load(Ordering::Relaxed))
    }
}

/// The text and the reason of each dead letter.
pub fn dead_letters(dir: &Path) -> HashMap<String, String> {
    let mut dead = HashMap::new();
    for file in fs::read_dir(dir.join("dead-letter/next")).into_iter().flatten() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let record = &line["request"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
            let reason = format!("{}: {}", line["code"].as_str().unwrap(), line["reason"].as_str().unwrap());
            dead.insert(record["body"]["stringValue"].as_str().unwrap().to_owned(), reason);
        }
    }
    dead
}
