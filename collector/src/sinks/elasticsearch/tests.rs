//! The sink against a server that does its work and lies about it in every way that servers and proxies do.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sonde_daemon::health::Health;
use tokio::sync::watch;

use super::*;
use crate::config::Layout;
use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::lane::{self, LaneOptions, Timing};
use crate::queue::{Codec, Frame, Queue, QueueOptions, RealFilesystem, Signal};
use crate::store::tests::{Line, request};

mod gone;
mod late;
mod retention;
mod statuses;

/// A data stream that keeps `create`'s promise and no other.
#[derive(Default)]
struct Server {
    /// Backing indices: id → text.
    indices: Vec<HashMap<String, String>>,
    /// The name of the stream, as documents are sent to it.
    stream: String,
    random: u64,
    /// Hundredths of requests and items that go wrong.
    mischief: u64,
    template: Option<Value>,
    /// What was written while there was no stream; `None` = that is forbidden (`action.auto_create_index`).
    plain: Option<HashMap<String, String>>,
    /// That index has each document already: the answer to a request before was lost.
    plain_knows: bool,
    /// Cases of [`statuses`] may roll the stream over.
    rolls_over: bool,
    /// Ids whose case was answered.
    answered: HashSet<String>,
    /// It is Elasticsearch of this version.
    elastic: Option<&'static str>,
    /// The stream's lifecycle.
    lifecycle: Option<Value>,
    /// It is OpenSearch with Index State Management; the policy.
    has_ism: bool,
    policy: Option<Value>,
    /// The policy's version, and the one that the indices go by; `None` = they go by none.
    version: usize,
    goes_by: Option<usize>,
    /// Somebody has taken the policy from the indices.
    is_let_go: bool,
    /// So many changes (requests to look, where it begins with `GET`) that have this in method and path are refused, with
    /// this status.
    refuses: (&'static str, u16, u64),
    /// No request is answered but the first of all.
    is_gone: bool,
    /// Requests that changed something of these.
    changes: Vec<String>,
    wrongs: HashMap<&'static str, u64>,
}

impl Server {
    fn chance(&mut self, hundredths: u64) -> bool {
        (self.pick(100) as u64) < hundredths
    }

    fn pick(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % n as u64).unwrap()
    }

    fn wrong(&mut self, what: &'static str) -> &'static str {
        *self.wrongs.entry(what).or_default() += 1;
        what
    }

    fn name(index: usize) -> String {
        format!(".ds-x-{:06}", index + 1)
    }

    /// `None` = the connection is dropped.
    fn answer(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        if (1..12).contains(&self.indices.len()) && self.chance(self.mischief / 6) {
            self.indices.push(HashMap::new());
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if self.is_gone && path != "/" {
            return None;
        }
        if let Some(refused) = self.refused(method, path) {
            return Some(refused);
        }
        let stream = json!({"data_streams": [{"indices":
            (0..self.indices.len()).map(|n| json!({"index_name": Self::name(n)})).collect::<Vec<_>>()}]});
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", [""]) if self.elastic.is_some() => {
                Some((200, json!({"version": {"number": self.elastic}}).to_string()))
            }
            (_, [.., "_lifecycle"] | ["_plugins", ..]) if self.elastic.is_some() || self.has_ism => {
                Some(self.lifecycles(method, &parts, query, body))
            }
            ("GET", [""]) => {
                Some((200, r#"{"version":{"distribution":"opensearch","number":"2.19.3"}}"#.to_owned()))
            }
            (_, ["_plugins", ..]) => Some((400, r#"{"error":"no handler found for uri"}"#.to_owned())),
            ("GET", ["_index_template", _]) => match &self.template {
                None => Some((
                    404,
                    r#"{"error":{"type":"resource_not_found_exception"},"status":404}"#.to_owned(),
                )),
                Some(template) => {
                    Some((200, json!({"index_templates": [{"index_template": template}]}).to_string()))
                }
            },
            ("PUT", ["_index_template", _]) => {
                self.changes.push(path.to_owned());
                self.template = Some(serde_json::from_str(body).unwrap());
                Some((200, "{}".to_owned()))
            }
            ("PUT", ["_data_stream", _]) if self.plain.as_ref().is_some_and(|plain| !plain.is_empty()) => {
                Some((
                    500,
                    r#"{"error":{"type":"illegal_state_exception","reason":"names need to be unique"}}"#
                        .to_owned(),
                ))
            }
            ("PUT", ["_data_stream", _]) if self.indices.is_empty() => {
                self.indices.push(HashMap::new());
                self.goes_by = self.policy.as_ref().map(|_| self.version);
                self.lifecycle =
                    self.template.as_ref().map(|template| template["template"]["lifecycle"].clone());
                Some((200, "{}".to_owned()))
            }
            ("PUT", ["_data_stream", _]) => Some((
                400,
                r#"{"error":{"type":"resource_already_exists_exception","reason":""}}"#.to_owned(),
            )),
            ("GET", ["_data_stream", _]) if self.indices.is_empty() => Some((404, "{}".to_owned())),
            ("GET", ["_data_stream", _]) if self.chance(self.mischief / 2) => {
                self.wrong("a stream without a list");
                Some((200, "{}".to_owned()))
            }
            ("GET", ["_data_stream", _]) => Some((200, stream.to_string())),
            ("GET", [_, "_settings", name]) if name.ends_with("auto_manage") && self.is_let_go => {
                Some((200, json!({Self::name(0): {"settings": {*name: "false"}}}).to_string()))
            }
            ("GET", [_, "_settings", _]) => Some((200, "{}".to_owned())),
            ("POST", [index, "_mget"]) => self.mget(index, body),
            ("DELETE", [index, "_doc", id]) => {
                let at = self.place(index);
                // Of two copies of a record in one batch both ask for it.
                let status = if self.indices[at].remove(*id).is_some() { 200 } else { 404 };
                Some((status, "{}".to_owned()))
            }
            ("POST", [index, "_bulk"]) => {
                self.stream = (*index).to_owned();
                self.bulk(body)
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, method: &str, path: &str) -> Option<(u16, String)> {
        let (part, status, left) = &mut self.refuses;
        let is_meant = format!("{method} {path}").contains(*part);
        if *left == 0 || !is_meant || method == "GET" && !part.starts_with("GET") {
            return None;
        }
        *left -= 1;
        // With 200 it is an answer that says what went wrong.
        Some((*status, r#"{"updated_indices": 0, "failures": true, "error": "no"}"#.to_owned()))
    }

    /// The lifecycle of the stream, and the policy with what is about it.
    fn lifecycles(&mut self, method: &str, parts: &[&str], query: &str, body: &str) -> (u16, String) {
        let done = || (200, "{}".to_owned());
        let path = format!("/{}", parts.join("/"));
        if method != "GET" {
            self.changes.push(path);
        }
        match (method, parts) {
            ("GET", ["_data_stream", _, "_lifecycle"]) => {
                (200, json!({"data_streams": [{"lifecycle": self.lifecycle}]}).to_string())
            }
            ("PUT", ["_data_stream", _, "_lifecycle"]) => {
                self.lifecycle = Some(serde_json::from_str(body).unwrap());
                done()
            }
            ("GET", ["_plugins", "_ism", "policies", name]) => match &self.policy {
                None => {
                    (404, r#"{"error":{"type":"status_exception","reason":"Policy not found"}}"#.to_owned())
                }
                Some(policy) => {
                    let seq_no = self.version;
                    let policy = policy["policy"].clone();
                    (
                        200,
                        json!({"_id": name, "_seq_no": seq_no, "_primary_term": 1, "policy": policy})
                            .to_string(),
                    )
                }
            },
            ("PUT", ["_plugins", "_ism", "policies", _]) => {
                let expected = format!("if_seq_no={}&if_primary_term=1", self.version);
                if self.policy.is_some() && query != expected {
                    return (409, r#"{"error":{"type":"version_conflict_engine_exception"}}"#.to_owned());
                }
                self.policy = Some(serde_json::from_str(body).unwrap());
                self.version += 1;
                done()
            }
            ("POST", ["_plugins", "_ism", "change_policy", _]) => {
                self.goes_by = self.goes_by.map(|_| self.version);
                done()
            }
            ("POST", ["_plugins", "_ism", "add", _]) => {
                self.goes_by.get_or_insert(self.version);
                done()
            }
            ("GET", ["_plugins", "_ism", "explain", _]) => {
                let index = match self.goes_by {
                    Some(version) => {
                        json!({"policy_id": "sonde-logs-kubernetes.container_logs", "policy_seq_no": version, "policy_primary_term": 1})
                    }
                    None => json!({"index.plugins.index_state_management.policy_id": null}),
                };
                (200, json!({Self::name(0): index, "total_managed_indices": 1}).to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    fn place(&self, index: &str) -> usize {
        (0..self.indices.len()).find(|n| Self::name(*n) == index).unwrap()
    }

    fn mget(&mut self, index: &str, body: &str) -> Option<(u16, String)> {
        if self.chance(self.mischief / 2) {
            self.wrong("mget");
            return [None, Some((503, String::new())), Some((200, r#"{"docs":[]}"#.to_owned()))]
                [self.pick(3)]
            .clone();
        }
        let ids: Value = serde_json::from_str(body).unwrap();
        let at = self.place(index);
        let docs: Vec<Value> = ids["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| json!({"_id": id, "found": self.indices[at].contains_key(id.as_str().unwrap())}))
            .collect();
        Some((200, json!({"docs": docs}).to_string()))
    }

    fn bulk(&mut self, body: &str) -> Option<(u16, String)> {
        if body.contains("huge") {
            return Some((413, "<html>413 Request Entity Too Large</html>".to_owned()));
        }
        if body.contains("unreadable") {
            return Some((
                400,
                r#"{"error":{"type":"parse_exception","reason":"x"},"status":400}"#.to_owned(),
            ));
        }
        let before = if self.chance(self.mischief) { self.pick(6) } else { 99 };
        match before {
            0 => {
                return {
                    self.wrong("dropped before");
                    None
                };
            }
            1 => {
                return {
                    self.wrong("429");
                    Some((429, "{}".to_owned()))
                };
            }
            2 => {
                return {
                    self.wrong("a proxy's 400");
                    Some((400, "<html>bad</html>".to_owned()))
                };
            }
            3 => {
                return {
                    self.wrong("401");
                    Some((401, "{}".to_owned()))
                };
            }
            _ => {}
        }
        let mut items: Vec<Value> = body
            .lines()
            .step_by(2)
            .zip(body.lines().skip(1).step_by(2))
            .map(|(action, document)| {
                let action: Value = serde_json::from_str(action).unwrap();
                let document: Value = serde_json::from_str(document).unwrap();
                self.item(action["create"]["_id"].as_str().unwrap(), document["message"].as_str().unwrap())
            })
            .collect();
        let drops = body.contains("dropped") && self.answered.insert(body.to_owned());
        let after = match self.chance(self.mischief) {
            true => self.pick(7),
            false if drops => 0,
            false => 99,
        };
        let whole = |items: &[Value]| json!({"errors": false, "items": items}).to_string();
        match after {
            0 => {
                return {
                    self.wrong("dropped after");
                    None
                };
            }
            1 => {
                return {
                    self.wrong("504");
                    Some((504, "<html>gateway timeout</html>".to_owned()))
                };
            }
            2 => {
                return {
                    self.wrong("a page");
                    Some((200, "<html>welcome</html>".to_owned()))
                };
            }
            3 => {
                self.wrong("cut off");
                let text = whole(&items);
                return Some((200, text[..text.len() / 2].to_owned()));
            }
            4 => {
                self.wrong("an item is missing");
                let at = self.pick(items.len());
                items.remove(at);
            }
            5 => {
                self.wrong("in another order");
                items.reverse();
            }
            6 => {
                self.wrong("500");
                return Some((500, r#"{"error":{"type":"x","reason":"y"}}"#.to_owned()));
            }
            _ => {}
        }
        Some((200, whole(&items)))
    }

    fn item(&mut self, id: &str, text: &str) -> Value {
        let fail = |status: u16, kind: &str| json!({"create": {"_id": id, "status": status, "error": {"type": kind, "reason": "r"}}});
        let Some(newest) = self.indices.len().checked_sub(1) else {
            let Some(plain) = &mut self.plain else { return fail(404, "index_not_found_exception") };
            let known = plain.insert(id.to_owned(), text.to_owned()).is_some();
            if known || self.plain_knows {
                let error = json!({"type": "version_conflict_engine_exception", "reason": "r"});
                return json!({"create": {"_id": id, "_index": self.stream, "status": 409, "error": error}});
            }
            return json!({"create": {"_id": id, "_index": self.stream, "status": 201}});
        };
        let is_first = self.answered.insert(id.to_owned());
        if let Some(case) = statuses::Case::of(text).filter(|case| is_first || case.is_dead()) {
            if case.done() {
                self.indices[newest].insert(id.to_owned(), text.to_owned());
            }
            if self.rolls_over && case.rolls_over() && self.indices.len() < 16 {
                self.indices.push(HashMap::new());
            }
            return case.item(id, &Self::name(newest));
        }
        if text.contains("poison") {
            return fail(400, "mapper_parsing_exception");
        }
        if text.contains("sick") {
            return fail(500, "null_pointer_exception");
        }
        if text.contains("failing") {
            return json!({"create": {"_id": id, "_index": ".fs-x", "status": 201, "failure_store": "used"}});
        }
        if self.chance(self.mischief / 3) {
            let (status, kind) = [
                (429, "es_rejected_execution_exception"),
                (503, "unavailable_shards_exception"),
                (403, "cluster_block_exception"),
                (400, "validation_exception"),
            ][self.pick(4)];
            self.wrong(kind);
            // A 503 may come although the primary has it, and the stream be rolled over before the next try.
            if status == 503 && self.chance(50) {
                self.indices[newest].insert(id.to_owned(), text.to_owned());
                if self.indices.len() < 16 {
                    self.indices.push(HashMap::new());
                }
            }
            return fail(status, kind);
        }
        if self.indices[newest].contains_key(id) {
            return fail(409, "version_conflict_engine_exception");
        }
        self.indices[newest].insert(id.to_owned(), text.to_owned());
        json!({"create": {"_id": id, "_index": Self::name(newest), "status": 201}})
    }
}

/// Serves until the test ends; gives the port.
async fn serve(server: Arc<StdMutex<Server>>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = Arc::clone(&server);
            let service = service_fn(move |request: Request<Incoming>| {
                let server = Arc::clone(&server);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let text = match parts.headers.get("content-encoding") {
                        Some(_) => {
                            let mut text = String::new();
                            flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
                            text
                        }
                        None => String::from_utf8(body.to_vec()).unwrap(),
                    };
                    let path = parts.uri.path_and_query().unwrap().as_str();
                    let answer = server.lock().unwrap().answer(parts.method.as_str(), path, &text);
                    let (status, text) = answer.ok_or("dropped")?;
                    let response =
                        Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap();
                    Ok::<_, &str>(response)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

fn sink(port: u16) -> config::Sink {
    config::Sink {
        name: "es".to_owned(),
        kind: config::SinkKind::Elasticsearch,
        endpoints: Some(vec![format!("http://127.0.0.1:{port}")]),
        layout: Some(Layout::Ecs),
        ..config::Sink::default()
    }
}

fn frame(lines: &[Line], resend: bool) -> Frame {
    let payload = Bytes::from(request(lines));
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Frame {
        signal: Signal::Logs,
        codec: Codec::Identity,
        resend,
        received_unix_nano: u64::try_from(since.as_nanos()).unwrap(),
        records: u32::try_from(lines.len()).unwrap(),
        uncompressed_len: u32::try_from(payload.len()).unwrap(),
        payload,
    }
}

fn options() -> LaneOptions {
    LaneOptions {
        name: "es".to_owned(),
        signal: Signal::Logs,
        skip_beyond: None,
        request_bytes: 1 << 20,
        cluster: String::new(),
        batch_bytes: 8 << 10,
        window_bytes: 64 << 10,
        in_flight: 4,
        timing: Timing {
            probe_every: Duration::from_millis(5),
            longest_wait: Duration::from_millis(5),
            put_off: Duration::from_millis(5),
            rounds: 5,
        },
    }
}

const FRAMES: u64 = 20;
const LINES: u64 = 15;

fn text(number: u64) -> String {
    let kind = match number % 50 {
        7 => "poison",
        17 => "failing",
        27 if number % 150 == 27 => "huge",
        37 if number % 150 == 37 => "unreadable",
        _ => "good",
    };
    format!("{kind} {number}")
}

/// What became of all lines: those in the stream, by text, and the dead letters.
fn outcome(server: &StdMutex<Server>, letters: PathBuf) -> (Vec<String>, Vec<String>) {
    let server = server.lock().unwrap();
    let mut stored: Vec<String> = server.indices.iter().flat_map(|index| index.values().cloned()).collect();
    let mut dead = Vec::new();
    for file in fs::read_dir(letters).into_iter().flatten() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let record = &line["request"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
            dead.push(record["body"]["stringValue"].as_str().unwrap().to_owned());
        }
    }
    stored.sort();
    dead.sort();
    (stored, dead)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_server_answers_each_record_ends_once_in_the_stream_or_among_the_dead_letters() {
    for seed in 1..=2_u64 {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Arc::new(StdMutex::new(Server { random: seed * 0x9e37_79b9, mischief: 40, ..Server::default() }));
        let port = serve(Arc::clone(&server)).await;
        let letters = dir.path().join("dead-letter");
        // Twice: what the first process left under way is met by the second.
        for life in 0..2 {
            let options_ = QueueOptions::on_any_disk();
            let queue = Queue::open(&dir.path().join("queue"), options_, Arc::new(RealFilesystem)).unwrap();
            let (stop, stops) = watch::channel(false);
            let shelf = DeadLetters::open(&letters, 1 << 20).unwrap().shelf("es");
            let es = Elasticsearch::build(&sink(port), dir.path()).unwrap();
            let heartbeat = Health::new().heartbeat("es", Duration::from_secs(1));
            let lane = lane::start(&queue, es, options(), shelf, stops, heartbeat);
            for number in (life * FRAMES..(life + 1) * FRAMES).step_by(2) {
                let lines: Vec<Line> = (number * LINES..(number + 2) * LINES)
                    .map(|n| Line::new(1_700_000_000_000_000_000 + n, 1, n, &text(n)))
                    .collect();
                queue.append(frame(&lines[..lines.len() / 2], false)).await.unwrap();
                queue.append(frame(&lines[lines.len() / 2..], false)).await.unwrap();
                // Some are sent again, as after an answer that was lost: not all, or it would set right what went wrong
                // the first time. What was refused is not, or it were refused twice.
                let is_again = |line: &Line| line.body.starts_with("good") && line.body.ends_with(['0', '5']);
                let good: Vec<Line> = lines.into_iter().filter(is_again).collect();
                queue.append(frame(&good, true)).await.unwrap();
            }
            if life == 0 {
                drop(stop);
                lane.join().await;
                queue.close().await;
                continue;
            }
            let end = queue.status().end;
            let mut settled = lane.settled();
            tokio::time::timeout(Duration::from_secs(120), settled.wait_for(|settled| *settled >= end))
                .await
                .unwrap_or_else(|_| {
                    panic!("seed {seed}: {:?} {:?}", lane.numbers().retries(), server.lock().unwrap().wrongs)
                })
                .unwrap();
            let numbers = lane.numbers();
            let dead = numbers.dead_letter.load(Ordering::Relaxed);
            assert!(dead > 0 && numbers.delivered.load(Ordering::Relaxed) > 0);
        }
        let all: Vec<String> = (0..2 * FRAMES * LINES).map(text).collect();
        let (mut good, mut bad): (Vec<String>, Vec<String>) =
            all.into_iter().partition(|text| text.starts_with("good"));
        good.sort();
        bad.sort();
        let (stored, dead) = outcome(&server, letters.join("es"));
        let wrongs = server.lock().unwrap().wrongs.clone();
        assert_eq!(stored.len(), good.len(), "seed {seed}: {wrongs:?}");
        assert_eq!(stored, good, "seed {seed}: {wrongs:?}");
        // A refusal that was durable when the process ended before its cursor was may be there twice.
        let mut once = dead.clone();
        once.dedup();
        assert_eq!(once, bad, "seed {seed}");
        assert!(dead.len() - once.len() <= 64, "{}", dead.len());
        assert!(wrongs.len() >= 10, "all that can go wrong went wrong: {wrongs:?}");
        assert!(server.lock().unwrap().indices.len() > 3, "the stream was rolled over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_answered_500_for_ever_is_a_dead_letter_with_the_reason_and_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(StdMutex::new(Server { random: 1, ..Server::default() }));
    let port = serve(Arc::clone(&server)).await;
    let letters = dir.path().join("dead-letter");
    let queue_options = QueueOptions::on_any_disk();
    let queue = Queue::open(&dir.path().join("queue"), queue_options, Arc::new(RealFilesystem)).unwrap();
    let (_stop, stops) = watch::channel(false);
    let shelf = DeadLetters::open(&letters, 1 << 20).unwrap().shelf("es");
    let es = Elasticsearch::build(&sink(port), dir.path()).unwrap();
    let heartbeat = Health::new().heartbeat("es", Duration::from_secs(1));
    let lane = lane::start(&queue, es, options(), shelf, stops, heartbeat);
    let text = |n: u64| if n % 10 == 3 { format!("sick {n}") } else { format!("good {n}") };
    for first in (0..200).step_by(20) {
        let lines: Vec<Line> =
            (first..first + 20).map(|n| Line::new(1_700_000_000_000_000_000 + n, 1, n, &text(n))).collect();
        queue.append(frame(&lines, false)).await.unwrap();
    }
    let end = queue.status().end;
    let settled = lane.settled();
    // Only others that are taken meanwhile show that it is those records.
    let mut more = 0;
    while *settled.borrow() < end {
        let n = 200 + more * 10;
        queue
            .append(frame(&[Line::new(1_700_000_000_000_000_000 + n, 1, n, &text(n))], false))
            .await
            .unwrap();
        more += 1;
        assert!(more < 15_000, "they are never given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = queue.status().end;
    let mut settled = lane.settled();
    tokio::time::timeout(Duration::from_secs(60), settled.wait_for(|settled| *settled >= end))
        .await
        .unwrap()
        .unwrap();
    let all = (0..200).chain((0..more).map(|n| 200 + n * 10));
    let (mut sick, mut good): (Vec<String>, Vec<String>) =
        all.map(text).partition(|text| text.starts_with("sick"));
    sick.sort();
    good.sort();
    assert_eq!(outcome(&server, letters.join("es")), (good, sick));
    assert_eq!(lane.numbers().blocked(), None);
}

#[tokio::test]
async fn a_template_of_somebody_else_or_a_newer_one_stays() {
    let theirs = json!({"version": 1, "template": {}});
    let newer = json!({"version": 99, "_meta": {"managed_by": "sonde"}});
    let older = json!({"version": 0, "_meta": {"managed_by": "sonde"}});
    for (existing, stays) in [(Some(theirs), true), (Some(newer), true), (Some(older), false), (None, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Arc::new(StdMutex::new(Server { random: 1, template: existing.clone(), ..Server::default() }));
        let port = serve(Arc::clone(&server)).await;
        let es = Elasticsearch::build(&sink(port), dir.path()).unwrap();
        es.get_ready().await.unwrap();
        let now = server.lock().unwrap().template.clone().unwrap();
        assert_eq!(Some(&now) == existing.as_ref(), stays, "{existing:?}");
        assert!(stays || now["template"]["mappings"]["dynamic"] == "strict");
    }
}

#[tokio::test]
async fn what_is_no_elasticsearch_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.uri().path(), "/", "nothing is sent to it");
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("<html>welcome</html>"))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let es = Elasticsearch::build(&sink(port), dir.path()).unwrap();
    let trouble = es.get_ready().await.unwrap_err();
    assert_eq!((trouble.class, trouble.code.as_str()), (crate::deliver::Class::Hold, "no_elasticsearch"));
}

#[test]
fn a_collector_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let name = collector_id(dir.path()).unwrap();
    assert_eq!(name.len(), 16);
    assert_eq!(collector_id(dir.path()).unwrap(), name);
    assert_ne!(collector_id(tempfile::tempdir().unwrap().path()).unwrap(), name);
}
