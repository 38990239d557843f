//! Every status that an item can have, with the work done and not done.

use super::gone::World;
use super::*;

/// What a record of this case ends as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stored,
    Dead,
}

/// An item's status, the type of its error, its `failure_store`, and where the record ends.
const ITEMS: [(u16, &str, &str, End); 34] = [
    (200, "", "", End::Stored),
    (201, "", "", End::Stored),
    (201, "", "not_applicable_or_unknown", End::Stored),
    (201, "", "used", End::Dead),
    (400, "document_parsing_exception", "failed", End::Dead),
    (400, "document_parsing_exception", "not_enabled", End::Dead),
    (400, "mapper_parsing_exception", "", End::Dead),
    (400, "document_parsing_exception", "", End::Dead),
    (400, "illegal_argument_exception", "", End::Dead),
    (400, "strict_dynamic_mapping_exception", "", End::Dead),
    (413, "content_too_long_exception", "", End::Dead),
    (400, "validation_exception", "", End::Stored),
    (400, "index_closed_exception", "", End::Stored),
    (400, "invalid_index_name_exception", "", End::Stored),
    (400, "index_not_found_exception", "", End::Stored),
    (400, "cluster_block_exception", "", End::Stored),
    (400, "security_exception", "", End::Stored),
    (400, "action_request_validation_exception", "", End::Stored),
    (401, "security_exception", "", End::Stored),
    (403, "security_exception", "", End::Stored),
    (403, "cluster_block_exception", "", End::Stored),
    (404, "index_not_found_exception", "", End::Stored),
    (405, "method_not_allowed", "", End::Stored),
    (408, "timeout_exception", "", End::Stored),
    (409, "version_conflict_engine_exception", "", End::Stored),
    (409, "illegal_state_exception", "", End::Stored),
    (429, "es_rejected_execution_exception", "", End::Stored),
    (500, "null_pointer_exception", "", End::Stored),
    (501, "not_implemented", "", End::Stored),
    (502, "bad_gateway", "", End::Stored),
    (503, "unavailable_shards_exception", "", End::Stored),
    (504, "process_cluster_event_timeout_exception", "", End::Stored),
    (507, "insufficient_storage", "", End::Stored),
    (599, "who_knows", "", End::Stored),
];

/// How the first try of a record ends; every later one is served as it should, but for those that end as dead letters.
pub struct Case {
    item: usize,
    done: bool,
}

impl Case {
    /// From a record's text.
    pub fn of(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("case ")?.split(' ');
        Some(Self { item: words.next()?.parse().ok()?, done: words.next()? == "done" })
    }

    fn text(&self, n: usize) -> String {
        format!("case {} {} {n}", self.item, if self.done { "done" } else { "open" })
    }

    /// The record is in the stream, whatever the answer says.
    pub fn done(&self) -> bool {
        self.done
    }

    /// The server will never take it, however often it comes.
    pub fn is_dead(&self) -> bool {
        ITEMS[self.item].3 == End::Dead
    }

    /// Before it comes again, the stream has another backing index: where a try may have been done, it is looked for.
    pub fn rolls_over(&self) -> bool {
        let (status, kind, ..) = ITEMS[self.item];
        self.done && (status >= 500 || status == 408 || (status, kind) == (409, "illegal_state_exception"))
    }

    pub fn item(&self, id: &str, index: &str) -> Value {
        let (status, kind, failure_store, _) = ITEMS[self.item];
        let mut item = json!({"_id": id, "_index": index, "status": status});
        if !kind.is_empty() {
            item["error"] = json!({"type": kind, "reason": "r"});
        }
        if !failure_store.is_empty() {
            item["failure_store"] = failure_store.into();
        }
        json!({"create": item})
    }

    /// An answer that is the truth, or one of which nobody could tell that it is not. Across a rollover a try that was
    /// done is found only where its answer leaves open whether it was.
    fn can_be(&self, rolls_over: bool) -> bool {
        let (status, kind, _, end) = ITEMS[self.item];
        let says_it_is_there = kind == "version_conflict_engine_exception" || status < 300;
        match (end, self.done) {
            (End::Dead, done) => !done,
            (End::Stored, false) => !says_it_is_there,
            (End::Stored, true) => !rolls_over || says_it_is_there || self.rolls_over(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_every_status_of_an_item_done_or_not_each_record_is_once_in_the_stream_or_a_dead_letter() {
    for rolls_over in [false, true] {
        let world = World::new(Server { rolls_over, ..Server::default() }).await;
        let cases = (0..ITEMS.len()).flat_map(|item| [false, true].map(|done| Case { item, done }));
        let cases: Vec<Case> = cases.filter(|case| case.can_be(rolls_over)).collect();
        assert!(cases.len() >= 42, "{}", cases.len());
        let (mut texts, mut stored, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..4 {
            for case in &cases {
                let text = case.text(n);
                let end = if case.is_dead() { &mut dead } else { &mut stored };
                end.push(text.clone());
                texts.push(text);
            }
            // The connection ends when all of a request is done.
            texts.push(format!("dropped {n}"));
            stored.push(format!("dropped {n}"));
        }
        world.send(0, &texts).await;
        world.settled().await;
        stored.sort();
        dead.sort();
        let (in_stream, letters) = world.outcome();
        assert_eq!(in_stream, stored);
        assert_eq!(letters, dead);
        let server = world.server.lock().unwrap();
        assert_eq!(server.indices.len() > 5, rolls_over, "{}", server.indices.len());
        assert!(server.answered.len() > texts.len(), "each had its case, and connections ended");
    }
}
