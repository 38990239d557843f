//! The data stream behind the stand-in: backing indices, each with ids of its own, and what may stand in a document.
//!
//! As in the original an id is unique in one backing index only, and documents go into the newest: who sends a record a
//! second time behind a rollover has it there twice.
//!
//! Memory: an id and two numbers a document; the documents themselves only where no file was given for them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Documents and where they are.
pub(super) struct Stream {
    backing: Vec<Backing>,
    /// The text of each id, and how often it was sent; empty where documents go into a file.
    texts: BTreeMap<String, (String, u64)>,
    file: Option<BufWriter<File>>,
    /// What an original would have refused, or somebody who keeps the rules does not ask: said once each.
    pub(super) strange: Vec<String>,
}

struct Backing {
    created_ms: u128,
    /// A hash of each document's text.
    ids: HashMap<String, u64>,
}

impl Backing {
    fn new() -> Self {
        let created_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Self { created_ms, ids: HashMap::new() }
    }
}

fn name(place: usize) -> String {
    format!(".ds-{:06}", place + 1)
}

fn place(name: &str) -> Option<usize> {
    name.strip_prefix(".ds-")?.parse::<usize>().ok()?.checked_sub(1)
}

impl Stream {
    /// One backing index; documents go into `file`, if there is one.
    pub(super) fn new(file: Option<File>) -> Self {
        let file = file.map(BufWriter::new);
        Self { backing: vec![Backing::new()], texts: BTreeMap::new(), file, strange: Vec::new() }
    }

    pub(super) fn texts(&self) -> BTreeMap<String, (String, u64)> {
        self.texts.clone()
    }

    pub(super) fn roll_over(&mut self) {
        self.backing.push(Backing::new());
    }

    pub(super) fn len(&self) -> usize {
        self.backing.iter().map(|index| index.ids.len()).sum()
    }

    /// The documents that are in the stream, as hits of a search, one a line.
    pub(super) fn export(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        self.file.as_mut().context("no file was given")?.flush()?;
        let mut out = BufWriter::new(File::create(to)?);
        for line in BufReader::new(File::open(from)?).lines() {
            let line = line?;
            let hit: Value = serde_json::from_str(&line)?;
            let (index, id) = (hit["_index"].as_str(), hit["_id"].as_str());
            let backing = index.and_then(place).and_then(|place| self.backing.get(place));
            if backing.zip(id).is_some_and(|(backing, id)| backing.ids.contains_key(id)) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(out.flush()?)
    }

    /// `create` of one document in the newest backing index: the answer's item, once it is there.
    pub(super) fn create(&mut self, id: &str, text: &str, document: &str) -> anyhow::Result<Value> {
        let index = name(self.backing.len() - 1);
        let newest = self.backing.last_mut().context("no index")?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if self.file.is_none() {
            self.texts.entry(id.to_owned()).or_insert_with(|| (text.to_owned(), 0)).1 += 1;
        }
        if let Some(known) = newest.ids.get(id) {
            if *known != hash {
                self.strange.push(format!("{id} came again with another text"));
            }
            return Ok(failed(id, 409, "version_conflict_engine_exception"));
        }
        newest.ids.insert(id.to_owned(), hash);
        if let Some(file) = &mut self.file {
            writeln!(file, "{{\"_index\":\"{index}\",\"_id\":\"{id}\",\"_source\":{document}}}")?;
        }
        Ok(json!({"create": {"_id": id, "_index": index, "status": 201}}))
    }

    /// `GET /_data_stream/…`.
    pub(super) fn described(&self) -> Value {
        let indices: Vec<Value> =
            (0..self.backing.len()).map(|place| json!({"index_name": name(place)})).collect();
        json!({"data_streams": [{"indices": indices}]})
    }

    /// `GET /…/_settings/index.creation_date`.
    pub(super) fn settings(&self) -> Value {
        let one = |(place, index): (usize, &Backing)| {
            (name(place), json!({"settings": {"index.creation_date": index.created_ms.to_string()}}))
        };
        Value::Object(self.backing.iter().enumerate().map(one).collect())
    }

    /// `_mget` on a backing index; none where it is not there.
    pub(super) fn get(&self, index: &str, body: &str) -> anyhow::Result<Option<Value>> {
        let Some(backing) = place(index).and_then(|place| self.backing.get(place)) else { return Ok(None) };
        let asked: Value = serde_json::from_str(body)?;
        let ids = asked["ids"].as_array().context("no ids")?;
        let doc = |id: &Value| {
            let found = id.as_str().is_some_and(|id| backing.ids.contains_key(id));
            json!({"_id": id, "_index": index, "found": found})
        };
        Ok(Some(json!({"docs": ids.iter().map(doc).collect::<Vec<_>>()})))
    }

    /// `DELETE` of a document; whether it was there.
    pub(super) fn delete(&mut self, index: &str, id: &str) -> bool {
        let backing = place(index).and_then(|place| self.backing.get_mut(place));
        backing.is_some_and(|backing| backing.ids.remove(id).is_some())
    }
}

/// An item that was not stored.
pub(super) fn failed(id: &str, status: u16, kind: &str) -> Value {
    json!({"create": {"_id": id, "status": status, "error": {"type": kind, "reason": "it was told to"}}})
}

/// Id and text of a document that an original would take: `create` with an `_id` and nothing else, a time, a text in one
/// of our layouts.
pub(super) fn checked(action: &str, document: &str) -> anyhow::Result<(String, String)> {
    let action: Value = serde_json::from_str(action)?;
    let document: Value = serde_json::from_str(document)?;
    let create = action["create"].as_object().context("not create")?;
    ensure!(
        action.as_object().is_some_and(|action| action.len() == 1) && create.len() == 1,
        "more than an _id"
    );
    let id = create["_id"].as_str().context("no _id")?;
    ensure!(!id.is_empty() && id.len() <= 512, "an _id of {} bytes", id.len());
    ensure!(document["@timestamp"].is_string(), "no @timestamp");
    let text = document["message"].as_str().or(document["body"]["text"].as_str()).context("no text")?;
    Ok((id.to_owned(), text.to_owned()))
}
