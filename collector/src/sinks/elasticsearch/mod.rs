//! Elasticsearch and OpenSearch: each record once in a data stream.
//!
//! Records go by `_bulk` with `create` and an `_id` that is a function of the record ([`bulk::id`]), so a second try is
//! a conflict and not a second document. What a single backing index cannot know, because the stream was rolled over
//! in between, is looked up first ([`lookup`]). What the server says about a record counts, and nothing else
//! ([`answer`]).
//!
//! # Memory
//! For each of the lane's tries: a body of at most [`bulk::BYTES`] before gzip, one document, and an answer of at most
//! 16 MiB; beside them ids and places of the documents of one body.

pub(crate) mod answer;
mod bulk;
mod client;
mod document;
mod lookup;
mod setup;
mod template;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use sonde_daemon::backoff::Backoff;
use sonde_daemon::client::pool::{CallError, Reply};
use sonde_daemon::log::RateLimit;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::answer::{Item, Maybe, Whole};
use self::bulk::{Bulk, Piece};
use self::client::{Client, Content};
use self::lookup::Backing;
use self::setup::{Left, Setup};
use crate::config;
use crate::deliver::batch::State;
use crate::deliver::{Batch, Sink, Trouble};
use crate::sinks::{SinkError, blocking};

/// Ports where an endpoint names none.
pub const PORTS: (u16, u16) = (9200, 9200);

/// What is asked for of an answer to `_bulk`: nothing that is not read.
const FILTER: &str = "errors,error,status,items.*._id,items.*._index,items.*.status,items.*.failure_store,\
                      items.*.error.type,items.*.error.reason";

/// How long a lifecycle may take that is tried again beside the records.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is said at most that it is not set.
const COMPLAINTS: Duration = Duration::from_secs(600);

/// The code where the stream's name is an index's.
const NO_STREAM: &str = "no_stream";

/// The sink.
pub struct Elasticsearch {
    client: Client,
    setup: Setup,
    stream: String,
    writer: Arc<document::Writer>,
    collector: Arc<str>,
    ready: Mutex<Ready>,
    complaints: RateLimit,
}

/// How far the server is prepared.
#[derive(Default)]
struct Ready {
    /// All that records need is set up, as far as we know.
    for_records: bool,
    /// What the server did not take of the lifecycle, and when it is tried again.
    left: Option<(Left, Instant)>,
    backoff: Backoff,
}

impl Elasticsearch {
    /// Reads secrets and TLS files; connects to nothing.
    ///
    /// # Errors
    /// Names the key or the file.
    pub fn build(sink: &config::Sink, data_dir: &Path) -> Result<Self, SinkError> {
        let layout = sink.layout.unwrap_or_default();
        let names = sink.data_stream.clone().unwrap_or_default();
        Ok(Self {
            client: Client::build(sink)?,
            stream: template::stream_name(layout, &names),
            writer: Arc::new(document::Writer::new(layout, &names)),
            collector: collector_id(data_dir).map_err(SinkError::Name)?.into(),
            ready: Mutex::default(),
            complaints: RateLimit::new(COMPLAINTS),
            setup: Setup {
                layout,
                stream: names,
                templates: sink.templates.unwrap_or(true),
                retention: sink.retention,
            },
        })
    }

    async fn get_ready(&self) -> Result<(), Trouble> {
        let mut ready = self.ready.lock().await;
        if !ready.for_records {
            let set = self.setup.run(&self.client).await?;
            ready.for_records = true;
            self.note(&mut ready, set);
            return Ok(());
        }
        let Some((left, _)) = ready.left.take_if(|(_, due)| *due <= Instant::now()) else { return Ok(()) };
        // Nobody else waits for this.
        drop(ready);
        let again = self.setup.again(&self.client, left.clone());
        let set = tokio::time::timeout(PATIENCE, again).await;
        let set = set.unwrap_or_else(|_| Err((left, "no answer came".to_owned())));
        self.note(&mut *self.ready.lock().await, set);
        Ok(())
    }

    /// Remembers and says what is left of the lifecycle.
    fn note(&self, ready: &mut Ready, set: Result<(), (Left, String)>) {
        let Err((left, why)) = set else {
            (ready.left, ready.backoff) = (None, Backoff::new());
            return;
        };
        ready.left = Some((left, Instant::now() + ready.backoff.next(None)));
        if let Some(suppressed) = self.complaints.allow() {
            tracing::warn!(
                stream = self.stream,
                retention = ?self.setup.retention,
                why,
                suppressed,
                "the lifecycle is not set: records are kept as long as the server was told before; it is tried again"
            );
        }
    }

    /// Settles what is there of the records in doubt; gives the backing indices that were looked at.
    async fn look_up(&self, batch: &mut Batch) -> Result<Vec<Backing>, Trouble> {
        if batch.count(State::InDoubt) == 0 {
            return Ok(Vec::new());
        }
        let list = lookup::backing(&self.client, &self.stream).await?;
        let (units, states, collector) =
            (Arc::clone(batch.units()), batch.states().to_vec(), Arc::clone(&self.collector));
        let wanted = blocking(move || bulk::in_doubt(&units, &states, &collector)).await?;
        lookup::settle(&self.client, &list, &wanted, batch).await?;
        Ok(list)
    }

    async fn encode(&self, batch: &Batch, from: usize, piece: Piece) -> Result<Option<Bulk>, Trouble> {
        let (units, states) = (Arc::clone(batch.units()), batch.states().to_vec());
        let (writer, collector) = (Arc::clone(&self.writer), Arc::clone(&self.collector));
        blocking(move || bulk::encode(&units, &states, from, piece, &writer, &collector)).await
    }

    /// Sends a body and settles what the answer says. `Err` after everything else is settled.
    async fn send(&self, bulk: &Bulk, known: &[Backing], batch: &mut Batch) -> Result<Sent, Trouble> {
        let path = format!("/{}/_bulk?filter_path={FILTER}", self.stream);
        let content = Content { bytes: bulk.body.clone(), gzip: true };
        let doubt = |batch: &mut Batch| bulk.records.iter().for_each(|record| batch.doubt(*record));
        let reply = match self.client.call(Method::POST, &path, content).await {
            Ok(reply) => reply,
            Err(error) => {
                if matches!(error, CallError::Unknown { .. }) {
                    doubt(batch);
                }
                return Err(not_sent(&error));
            }
        };
        match answer::whole(&reply, SystemTime::now()) {
            Whole::Answered => {}
            Whole::Halve(code, reason) => return Ok(Sent::Halve(code, reason)),
            Whole::Trouble(trouble, maybe) => {
                if maybe == Maybe::Done {
                    doubt(batch);
                }
                return Err(trouble);
            }
        }
        match answer::items(&reply.body, &bulk.ids) {
            Ok(items) => settle(&self.stream, bulk, items, known, batch, SystemTime::now()),
            Err(error) => {
                doubt(batch);
                Err(Trouble::retry("answer", error))
            }
        }
    }
}

/// What came of a body that was answered.
enum Sent {
    /// Its records are settled, or in doubt again.
    Settled,
    /// Records may lie in an index that was not looked at.
    RolledOver,
    /// Too much at once, or something in it: code and reason.
    Halve(String, String),
}

impl Sink for Elasticsearch {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        self.get_ready().await?;
        batch.doubt_old(SystemTime::now());
        let mut known = self.look_up(batch).await?;
        let (mut from, mut piece, mut troubled) = (0, Piece::default(), None);
        while let Some(bulk) = self.encode(batch, from, piece).await? {
            if batch.doubt_old(SystemTime::now()) {
                known = self.look_up(batch).await?;
                continue;
            }
            let (first, last) = (bulk.records[0], bulk.records[bulk.records.len() - 1]);
            let open = batch.open();
            let sent = self.send(&bulk, &known, batch).await;
            if sent.as_ref().is_err_and(says_gone) {
                // Somebody has deleted the stream. The next try sets it up again before it sends anything.
                self.ready.lock().await.for_records = false;
            }
            match sent {
                Ok(Sent::Settled) => {
                    from = last + 1;
                    piece = piece.doubled();
                }
                Ok(Sent::RolledOver) => {
                    known = self.look_up(batch).await?;
                    // What was not found anew is in the newest index only, where the next try meets it.
                    from = first;
                }
                Ok(Sent::Halve(code, reason)) if bulk.records.len() == 1 => {
                    batch.refuse(first, code, reason);
                    from = last + 1;
                }
                Ok(Sent::Halve(..)) => {
                    piece = Piece { bytes: bulk.bytes / 2, documents: bulk.records.len() / 2 };
                }
                // Some of them have to come again; the others need not wait for that.
                Err(trouble) if batch.open() < open || batch.are_put_off(&bulk.records) => {
                    troubled.get_or_insert(trouble);
                    from = last + 1;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        troubled.map_or(Ok(()), Err)
    }
}

/// Settles records of `stream` by their items.
fn settle(
    stream: &str,
    bulk: &Bulk,
    items: answer::Items,
    known: &[Backing],
    batch: &mut Batch,
    now: SystemTime,
) -> Result<Sent, Trouble> {
    let (mut trouble, mut rolled_over, mut missing, mut plain) = (None, false, 0, false);
    for (record, item) in bulk.records.iter().copied().zip(items.items) {
        match item {
            // A plain index of that name, made because the stream and its template are gone.
            Some(Item::Stored(index) | Item::Exists(index)) if index == stream => {
                batch.doubt(record);
                plain = true;
            }
            Some(Item::Stored(index)) => {
                // In doubt, and in an index that came after the lookup: an older one may have got it meanwhile.
                let checked = known.is_empty() || known.iter().any(|known| known.name == index);
                let in_doubt = batch.states()[record] == State::InDoubt;
                if in_doubt && !checked || !in_doubt && batch.is_old(record, now) {
                    // Of one that became old under way nobody has looked for another copy.
                    batch.doubt(record);
                    rolled_over = true;
                } else {
                    batch.delivered(record);
                }
            }
            Some(Item::Exists(_)) => batch.duplicate(record),
            Some(Item::Refused(code, reason)) => batch.refuse(record, code, reason),
            Some(Item::Retry(why, maybe)) => {
                if maybe == Maybe::Done {
                    batch.doubt(record);
                }
                trouble.get_or_insert(why);
            }
            Some(Item::Fault(why)) => {
                batch.doubt(record);
                batch.put_off(record, why.code.clone(), why.message.clone());
                trouble.get_or_insert(why);
            }
            None => {
                batch.doubt(record);
                missing += 1;
            }
        }
    }
    if plain {
        let words = format!("there is an index {stream} in the place of the data stream; delete it");
        return Err(Trouble::hold(NO_STREAM, words));
    }
    if missing > 0 || items.foreign > 0 {
        let words = format!("{missing} records without an item, {} items without a record", items.foreign);
        return Err(Trouble::retry("answer", words));
    }
    match trouble {
        Some(trouble) => Err(trouble),
        None if rolled_over => Ok(Sent::RolledOver),
        None => Ok(Sent::Settled),
    }
}

/// Whether it says that there is no stream.
fn says_gone(trouble: &Trouble) -> bool {
    matches!(trouble.code.as_str(), "404" | NO_STREAM)
}

fn not_sent(error: &CallError) -> Trouble {
    Trouble::retry("connection", error.to_string())
}

/// For an answer that is none of those that were hoped for.
fn trouble(reply: &Reply) -> Trouble {
    match answer::whole(reply, SystemTime::now()) {
        Whole::Trouble(trouble, _) => trouble,
        Whole::Halve(code, reason) => Trouble::hold(code, reason),
        Whole::Answered => Trouble::hold("answer", "an answer that was not expected"),
    }
}

/// This collector's name for ever, in `data_dir/collector-id`: 16 hex digits, made by chance.
fn collector_id(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("collector-id");
    if let Ok(text) = fs::read_to_string(&path)
        && text.trim().len() == 16
        && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(text.trim().to_owned());
    }
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let temp = data_dir.join("collector-id.tmp");
    let mut file = fs::File::create(&temp)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temp, &path)?;
    fs::File::open(data_dir)?.sync_all()?;
    Ok(id)
}
