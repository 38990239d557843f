//! A strict stand-in for Elasticsearch: one data stream whose backing indices have ids of their own, that takes `_bulk`
//! requests, or does not. What an original would not be asked, or would refuse, it keeps for [`Bulk::strange`].

mod stream;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use stream::Stream;

/// A running server; it serves until the process ends.
pub struct Bulk {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    state: Arc<State>,
    file: Option<PathBuf>,
}

struct State {
    /// What `_bulk` is answered.
    status: AtomicU16,
    stream: Mutex<Stream>,
}

impl Bulk {
    /// Starts one that answers every `_bulk` with `status`: 200 takes documents, but those with `poison` in their
    /// text, which get a 400, and those with `sick`, which get a 500.
    ///
    /// # Errors
    /// No port.
    pub fn start(status: u16) -> anyhow::Result<Self> {
        Self::serving(status, None)
    }

    /// Starts one that takes documents, and writes them whole into `file`, as [`Bulk::export`] wants it.
    ///
    /// # Errors
    /// No port, or no such file.
    pub fn keeping(file: &Path) -> anyhow::Result<Self> {
        Self::serving(200, Some(file.to_owned()))
    }

    fn serving(status: u16, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let stream = Mutex::new(Stream::new(file.as_ref().map(File::create).transpose()?));
        let state = Arc::new(State { status: AtomicU16::new(status), stream });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A connection that breaks is the client's business.
                thread::spawn(move || state.serve(&stream));
            }
        });
        Ok(Self { port, state, file })
    }

    /// From now on `_bulk` is answered so.
    pub fn answer(&self, status: u16) {
        self.state.status.store(status, Ordering::Relaxed);
    }

    /// The stream gets a new backing index: documents go there from now on.
    pub fn roll_over(&self) {
        self.state.stream().roll_over();
    }

    /// What it was sent: text and how often it came, by id. Of one that keeps no file.
    pub fn documents(&self) -> BTreeMap<String, (String, u64)> {
        self.state.stream().texts()
    }

    /// Documents in the stream; the same id in two backing indices is two.
    pub fn count(&self) -> usize {
        self.state.stream().len()
    }

    /// What nobody should have asked, or sent.
    pub fn strange(&self) -> Vec<String> {
        self.state.stream().strange.clone()
    }

    /// Writes what is in the stream, one hit of a search (`_index`, `_id`, `_source`) a line.
    ///
    /// # Errors
    /// It keeps no file, or the disk's.
    pub fn export(&self, to: &Path) -> anyhow::Result<()> {
        self.state.stream().export(self.file.as_deref().context("it keeps no file")?, to)
    }

    /// Lines for the collector's `sinks`, as one item: layout `ecs`, `keys` added.
    pub fn sink(&self, name: &str, keys: &str) -> String {
        format!(
            "  - {{name: {name}, type: elasticsearch, layout: ecs, templates: false, \
             endpoints: [\"http://127.0.0.1:{}\"]{keys}}}\n",
            self.port
        )
    }
}

impl State {
    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace().map(str::to_owned);
            let (method, path) = (words.next().context("method")?, words.next().context("path")?);
            let (mut length, mut gzip) = (0, false);
            loop {
                let mut header = String::new();
                ensure!(input.read_line(&mut header)? > 0, "a head without an end");
                let header = header.trim().to_ascii_lowercase();
                match header.split_once(": ") {
                    Some(("content-length", value)) => length = value.parse()?,
                    Some(("content-encoding", value)) => gzip = value == "gzip",
                    Some(_) => {}
                    None => break,
                }
            }
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            let mut text = String::new();
            if gzip {
                flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text)?;
            } else {
                text = String::from_utf8(body)?;
            }
            let (status, answer) = self.answer(&method, &path, &text).unwrap_or_else(|error| {
                self.stream().strange.push(format!("{method} {path}: {error:#}"));
                told(400)
            });
            let answer = answer.to_string();
            // In one piece: who waits for the acknowledgement of a first one waits 40 ms.
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            let mut out = stream;
            out.write_all(answer.as_bytes())?;
        }
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let parts: Vec<&str> = path.split('?').next().unwrap_or(path).split('/').skip(1).collect();
        Ok(match (method, &parts[..]) {
            ("GET", [""]) => (200, json!({"version": {"distribution": "opensearch", "number": "2.19.3"}})),
            ("GET", ["_data_stream", _]) => (200, self.stream().described()),
            ("GET", [_, "_settings", _]) => (200, self.stream().settings()),
            ("POST", [_, "_bulk"]) => match self.status.load(Ordering::Relaxed) {
                200 => (200, self.bulk(body)?),
                status => told(status),
            },
            ("POST", [index, "_mget"]) => {
                self.stream().get(index, body)?.map_or(told(404), |docs| (200, docs))
            }
            ("DELETE", [index, "_doc", id]) => {
                let status = if self.stream().delete(index, id) { 200 } else { 404 };
                (status, json!({}))
            }
            // What is set up before the first document.
            ("GET" | "PUT", ["_index_template" | "_data_stream" | "_plugins" | "_ilm", ..]) => {
                (200, json!({}))
            }
            _ => anyhow::bail!("nobody answers that"),
        })
    }

    fn bulk(&self, body: &str) -> anyhow::Result<Value> {
        let mut lines = body.lines();
        let (mut items, mut stream) = (Vec::new(), self.stream());
        while let Some(action) = lines.next() {
            let document = lines.next().context("an action without a document")?;
            let (id, text) = stream::checked(action, document)?;
            items.push(if text.contains("poison") {
                stream::failed(&id, 400, "document_parsing_exception")
            } else if text.contains("sick") {
                stream::failed(&id, 500, "null_pointer_exception")
            } else {
                stream.create(&id, &text, document)?
            });
        }
        Ok(json!({"errors": false, "items": items}))
    }
}

fn told(status: u16) -> (u16, Value) {
    (status, json!({"error": {"type": "x", "reason": "it was told to"}, "status": status}))
}
