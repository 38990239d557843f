//! What an answer means. Pure.
//!
//! # The answer to a `_bulk` request as a whole
//!
//! | status | means |
//! |---|---|
//! | 200 | look at the items; nothing of it says that a record was stored but its own item |
//! | 413; 400 with Elasticsearch's own error | too much, or a record that cannot be read: halve, down to the one |
//! | 408, 429, 502, 503, 504 | retry; but for 429 it may have been stored |
//! | anything else, and 400 in a proxy's words | hold |
//!
//! # An item
//!
//! | status | means |
//! |---|---|
//! | 200, 201 | stored; with `failure_store: used` it is among the failures and not in the stream: refused |
//! | 200, 201 and a conflict, in an index that has the stream's own name | somebody has deleted stream and template: hold, set up again |
//! | 409, a version conflict | a document with our id is there: duplicate |
//! | 409 else, 408, 429, 502, 503, 504 | retry the item; but for 429 it may have been stored |
//! | 500 and other 5xx | it may have been stored; retry the item, for some time where others are taken |
//! | 401, 403, 404, 405; 400 that is not about the document | hold; after a 404 all is set up again |
//! | 400, 413, any other | refused for good |
//!
//! Items are told apart by `_id`, whatever their order. A record without an item, in an answer that is cut off, is
//! not JSON (a web page of something in between), or says 200 and nothing else, may have been stored.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Deserialize;
use sonde_daemon::client::pool::Reply;

use crate::deliver::Trouble;

/// Longest text of a server that is kept.
const WORDS: usize = 300;

/// The answer to a request as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// Its body is to be read.
    Answered,
    /// Too large or unreadable as a whole, in the server's own words: code and reason.
    Halve(String, String),
    /// Not taken. `maybe` = it may have been done all the same.
    Trouble(Trouble, Maybe),
}

/// Whether something may have been done although the answer does not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maybe {
    /// It may.
    Done,
    /// It was not.
    NotDone,
}

/// Understands the status of an answer.
pub fn whole(reply: &Reply, now: SystemTime) -> Whole {
    let status = reply.status.as_u16();
    let error = error(&reply.body);
    let words =
        error.as_ref().map_or_else(|| shortened(&String::from_utf8_lossy(&reply.body)), |error| error.text());
    match status {
        200 | 201 => Whole::Answered,
        413 => Whole::Halve("413".to_owned(), words),
        400 if error.is_some() => Whole::Halve("400".to_owned(), words),
        408 | 429 | 502 | 503 | 504 => {
            let trouble =
                Trouble { after: reply.retry_after(now), ..Trouble::retry(status.to_string(), words) };
            Whole::Trouble(trouble, if status == 429 { Maybe::NotDone } else { Maybe::Done })
        }
        500 => Whole::Trouble(Trouble::hold("500", words), Maybe::Done),
        _ => Whole::Trouble(Trouble::hold(status.to_string(), words), Maybe::NotDone),
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// It is in this backing index.
    Stored(String),
    /// A document with its id was there, in this index.
    Exists(String),
    /// Not stored now.
    Retry(Trouble, Maybe),
    /// The server cannot cope with it, and may have stored it all the same.
    Fault(Trouble),
    /// Never: code and reason.
    Refused(String, String),
}

/// A `_bulk` answer that could be read.
#[derive(Debug, Default)]
pub struct Items {
    /// For each of the ids that were asked about, in their order; `None` = the answer does not say.
    pub items: Vec<Option<Item>>,
    /// Items about ids that were not sent.
    pub foreign: usize,
}

#[derive(Deserialize)]
struct BulkAnswer {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "index")]
    create: Option<Body>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "_id")]
    id: Option<String>,
    #[serde(rename = "_index", default)]
    index: String,
    #[serde(default)]
    status: u16,
    error: Option<ErrorBody>,
    #[serde(default)]
    failure_store: String,
}

/// An error in Elasticsearch's words.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorBody {
    /// As `mapper_parsing_exception`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub reason: String,
}

impl ErrorBody {
    fn text(&self) -> String {
        shortened(&format!("{}: {}", self.kind, self.reason))
    }
}

/// The error of an answer, if it is Elasticsearch's.
pub fn error(body: &[u8]) -> Option<ErrorBody> {
    #[derive(Deserialize)]
    struct Failed {
        error: ErrorBody,
    }
    serde_json::from_slice::<Failed>(body).ok().map(|failed| failed.error)
}

/// Reads the answer to a `_bulk` request of documents with these ids; `Err` = it is no such answer.
pub fn items(body: &[u8], ids: &[String]) -> Result<Items, String> {
    let answer: BulkAnswer = serde_json::from_slice(body).map_err(|error| {
        format!("{error}: {}", shortened(&String::from_utf8_lossy(&body[..body.len().min(WORDS)])))
    })?;
    let mut places: HashMap<&str, Vec<usize>> = HashMap::with_capacity(ids.len());
    for (place, id) in ids.iter().enumerate().rev() {
        places.entry(id).or_default().push(place);
    }
    let mut found = Items { items: Vec::new(), foreign: 0 };
    found.items.resize_with(ids.len(), || None);
    for entry in answer.items {
        let Some(body) = entry.create.filter(|body| body.status != 0) else {
            found.foreign += 1;
            continue;
        };
        let place = body.id.as_deref().and_then(|id| places.get_mut(id)).and_then(Vec::pop);
        match place.and_then(|place| found.items.get_mut(place)) {
            Some(slot) => *slot = Some(item(body)),
            None => found.foreign += 1,
        }
    }
    Ok(found)
}

fn item(body: Body) -> Item {
    let error = body.error.unwrap_or(ErrorBody { kind: String::new(), reason: String::new() });
    let code = body.status.to_string();
    match body.status {
        200 | 201 if body.failure_store == "used" => Item::Refused(
            "failure_store".to_owned(),
            "the server put it into the stream's failure store, not into the stream".to_owned(),
        ),
        200 | 201 => Item::Stored(body.index),
        409 if error.kind.is_empty() || error.kind == "version_conflict_engine_exception" => {
            Item::Exists(body.index)
        }
        429 => Item::Retry(Trouble::retry(code, error.text()), Maybe::NotDone),
        408 | 409 | 502 | 503 | 504 => Item::Retry(Trouble::retry(code, error.text()), Maybe::Done),
        500..=599 => Item::Fault(Trouble::retry(code, error.text())),
        401 | 403 | 404 | 405 => Item::Retry(Trouble::hold(code, error.text()), Maybe::NotDone),
        400 if !is_about_the_document(&error.kind) => {
            Item::Retry(Trouble::hold(code, error.text()), Maybe::NotDone)
        }
        _ => Item::Refused(code, error.text()),
    }
}

/// A 400 that every document would get, until somebody sets something right: a full cluster (`validation_exception`:
/// too many shards), a closed or wrongly named index, an index that is no data stream.
fn is_about_the_document(kind: &str) -> bool {
    !matches!(
        kind,
        "validation_exception"
            | "index_closed_exception"
            | "invalid_index_name_exception"
            | "index_not_found_exception"
            | "cluster_block_exception"
            | "security_exception"
            | "action_request_validation_exception"
    )
}

/// Text without control characters, at most [`WORDS`] bytes.
pub fn shortened(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(WORDS)].trim().to_owned()
}

#[cfg(test)]
mod tests;
