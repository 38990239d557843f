//! A stand-in for Elasticsearch: a data stream of one index that takes `_bulk` requests, or does not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context;
use serde_json::{Value, json};

/// A running server; it serves until the process ends.
pub struct Bulk {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// What `_bulk` is answered.
    status: AtomicU16,
    /// Documents by id: `message`, and how often it was sent.
    documents: Mutex<BTreeMap<String, (String, u64)>>,
}

impl Bulk {
    /// Starts one that answers every `_bulk` with `status`: 200 takes documents, but those with `poison` in their
    /// message, which get a 400, and those with `sick`, which get a 500.
    ///
    /// # Errors
    /// No port.
    pub fn start(status: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State { status: AtomicU16::new(status), documents: Mutex::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A connection that breaks is the client's business.
                thread::spawn(move || state.serve(&stream));
            }
        });
        Ok(Self { port, state })
    }

    /// From now on `_bulk` is answered so.
    pub fn answer(&self, status: u16) {
        self.state.status.store(status, Ordering::Relaxed);
    }

    /// What it has: message and how often it was taken, by id.
    pub fn documents(&self) -> BTreeMap<String, (String, u64)> {
        self.state.documents().clone()
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
    fn documents(&self) -> MutexGuard<'_, BTreeMap<String, (String, u64)>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) -> anyhow::Result<()> {
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
                input.read_line(&mut header)?;
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
            let (status, answer) = self.answer(&method, &path, &text)?;
            let answer = answer.to_string();
            let mut out = stream;
            write!(out, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
        }
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        if path == "/" {
            return Ok((200, json!({"version": {"distribution": "opensearch", "number": "2.19.3"}})));
        }
        if method == "GET" && path.starts_with("/_data_stream/") {
            return Ok((200, json!({"data_streams": [{"indices": [{"index_name": ".ds-1"}]}]})));
        }
        if !path.contains("/_bulk") {
            return Ok((200, json!({})));
        }
        let status = self.status.load(Ordering::Relaxed);
        if status != 200 {
            return Ok((
                status,
                json!({"error": {"type": "x", "reason": "it was told to"}, "status": status}),
            ));
        }
        let mut items = Vec::new();
        for (action, document) in body.lines().step_by(2).zip(body.lines().skip(1).step_by(2)) {
            let action: Value = serde_json::from_str(action)?;
            let document: Value = serde_json::from_str(document)?;
            let id = action["create"]["_id"].as_str().context("no _id")?;
            let message = document["message"].as_str().context("no message")?;
            items.push(self.item(id, message));
        }
        Ok((200, json!({"errors": false, "items": items})))
    }

    fn item(&self, id: &str, message: &str) -> Value {
        let failed = |status: u16, kind: &str| json!({"create": {"_id": id, "status": status, "error": {"type": kind, "reason": "it was told to"}}});
        if message.contains("poison") {
            return failed(400, "document_parsing_exception");
        }
        if message.contains("sick") {
            return failed(500, "null_pointer_exception");
        }
        let mut documents = self.documents();
        let document = documents.entry(id.to_owned()).or_insert_with(|| (message.to_owned(), 0));
        document.1 += 1;
        if document.1 > 1 {
            return failed(409, "version_conflict_engine_exception");
        }
        json!({"create": {"_id": id, "_index": ".ds-1", "status": 201}})
    }
}
