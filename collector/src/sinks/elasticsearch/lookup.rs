//! Whether a record is in the stream already.
//!
//! An `_id` is unique in one backing index only, and the stream gets a new one at each rollover: a record that was
//! sent before a rollover and is sent again behind it would be there twice. So records in doubt are looked up first,
//! in every backing index that can have them. A document is read by its id (`_mget` on a backing index): that is
//! answered from the translog too, where a search would see it only behind the next refresh.
//!
//! A backing index whose successor was made before the record was written cannot have it; an hour is allowed for
//! clocks that differ. When only the newest is left, nothing is asked: there `create` finds the duplicate itself.

use http::Method;
use serde_json::{Value, json};

use super::bulk::Wanted;
use super::client::{Client, Content};
use super::{not_sent, trouble};
use crate::deliver::{Batch, Trouble};

/// Ids in one request.
const IDS: usize = 1000;
/// How much the clocks of nodes and servers may differ.
const SLACK_MS: u64 = 3_600_000;

/// A backing index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name.
    pub name: String,
    /// When it was made, Unix milliseconds; 0 = not known.
    pub created_ms: u64,
}

/// The stream's backing indices, oldest first; none where there is no stream.
pub async fn backing(client: &Client, stream: &str) -> Result<Vec<Backing>, Trouble> {
    let Some(found) = get(client, Method::GET, &format!("/_data_stream/{stream}"), None).await? else {
        return Ok(Vec::new());
    };
    let settings = format!("/{stream}/_settings/index.creation_date?flat_settings=true");
    let dates = get(client, Method::GET, &settings, None).await?.unwrap_or_default();
    // Without the list every record would count as one that is nowhere yet.
    let Some(list) = found["data_streams"][0]["indices"].as_array() else {
        return Err(Trouble::retry("lookup", "an answer about the stream does not list its indices"));
    };
    let names = list.iter().filter_map(|index| index["index_name"].as_str());
    let made = |name: &str| {
        let date = dates[name]["settings"]["index.creation_date"].as_str()?;
        date.parse::<u64>().ok()
    };
    Ok(names.map(|name| Backing { name: name.to_owned(), created_ms: made(name).unwrap_or(0) }).collect())
}

/// Whether the index in this place of the list can have a record that was written then.
pub fn can_have(list: &[Backing], place: usize, written_ms: u64) -> bool {
    list.get(place + 1)
        .is_none_or(|next| next.created_ms == 0 || next.created_ms.saturating_add(SLACK_MS) >= written_ms)
}

/// Looks the records up and settles those that are there. Of a record that is there twice (two of us sent it at once,
/// across a rollover) only the oldest document stays.
pub async fn settle(
    client: &Client,
    list: &[Backing],
    wanted: &[Wanted],
    batch: &mut Batch,
) -> Result<(), Trouble> {
    for piece in wanted.chunks(IDS) {
        let mut found = vec![Vec::new(); piece.len()];
        for (place, index) in list.iter().enumerate() {
            let ask: Vec<usize> = (0..piece.len())
                .filter(|n| can_have(list, place, piece[*n].written_ms))
                // Nowhere but in the newest: `create` will say.
                .filter(|n| list.len() > 1 && can_have(list, list.len() - 2, piece[*n].written_ms))
                .collect();
            if ask.is_empty() {
                continue;
            }
            let ids: Vec<&str> = ask.iter().map(|n| piece[*n].id.as_str()).collect();
            for (n, is_there) in ask.iter().zip(ask_index(client, &index.name, &ids).await?) {
                if is_there {
                    found[*n].push(index.name.as_str());
                }
            }
        }
        for (wanted, places) in piece.iter().zip(found) {
            if let Some((_, later)) = places.split_first() {
                for index in later {
                    remove(client, index, &wanted.id).await?;
                }
                batch.duplicate(wanted.record);
            }
        }
    }
    Ok(())
}

async fn ask_index(client: &Client, index: &str, ids: &[&str]) -> Result<Vec<bool>, Trouble> {
    let path = format!("/{index}/_mget?_source=false&realtime=true");
    let Some(answer) = get(client, Method::POST, &path, Some(&json!({"ids": ids}))).await? else {
        // Retention has deleted it.
        return Ok(vec![false; ids.len()]);
    };
    let docs = answer["docs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if docs.len() != ids.len() {
        return Err(Trouble::retry("lookup", "an answer to _mget is not whole"));
    }
    docs.iter()
        .zip(ids)
        .map(|(doc, id)| match doc["found"].as_bool() {
            Some(found) if doc["_id"] == **id => Ok(found),
            _ => Err(Trouble::retry(
                "lookup",
                format!("an answer to _mget lacks a document: {}", doc["error"]["type"]),
            )),
        })
        .collect()
}

async fn remove(client: &Client, index: &str, id: &str) -> Result<(), Trouble> {
    get(client, Method::DELETE, &format!("/{index}/_doc/{id}"), None).await.map(drop)
}

/// The answer as JSON; `None` for 404.
async fn get(
    client: &Client,
    method: Method,
    path: &str,
    content: Option<&Value>,
) -> Result<Option<Value>, Trouble> {
    let bytes = content.map(|content| content.to_string().into()).unwrap_or_default();
    let reply =
        client.call(method, path, Content { bytes, gzip: false }).await.map_err(|error| not_sent(&error))?;
    match reply.status.as_u16() {
        200 => serde_json::from_slice(&reply.body)
            .map(Some)
            .map_err(|error| Trouble::retry("lookup", format!("the answer is not JSON: {error}"))),
        // Of the server itself; a proxy's page says nothing about the stream.
        404 if serde_json::from_slice::<Value>(&reply.body).is_ok() => Ok(None),
        _ => Err(trouble(&reply)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_indices_that_were_written_to_since_then_can_have_a_record() {
        let list: Vec<Backing> =
            [10, 20, 30].map(|hour| Backing { name: format!("i{hour}"), created_ms: hour * SLACK_MS }).into();
        let places = |written: u64| (0..3).filter(|n| can_have(&list, *n, written)).collect::<Vec<_>>();
        assert_eq!(places(0), [0, 1, 2]);
        assert_eq!(places(21 * SLACK_MS), [0, 1, 2], "an hour for the clocks");
        assert_eq!(places(21 * SLACK_MS + 1), [1, 2]);
        assert_eq!(places(40 * SLACK_MS), [2]);
    }
}
