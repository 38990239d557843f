//! Every answer has a meaning.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::deliver::Class;

fn reply(status: u16, body: &str) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", HeaderValue::from_static("7"));
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: Bytes::from(body.to_owned()),
        trailers: HeaderMap::new(),
    }
}

const OWN: &str = r#"{"error":{"type":"parsing_exception","reason":"no"},"status":400}"#;
const PAGE: &str = "<html>The plain HTTP request was sent to HTTPS port</html>";

#[test]
fn an_answer_as_a_whole_has_its_class_and_says_whether_it_may_have_been_done() {
    for (status, body, class, maybe) in [
        (429, OWN, Class::Retry, Maybe::NotDone),
        (408, PAGE, Class::Retry, Maybe::Done),
        (502, PAGE, Class::Retry, Maybe::Done),
        (503, OWN, Class::Retry, Maybe::Done),
        (504, PAGE, Class::Retry, Maybe::Done),
        (500, OWN, Class::Hold, Maybe::Done),
        (400, PAGE, Class::Hold, Maybe::NotDone),
        (401, OWN, Class::Hold, Maybe::NotDone),
        (403, OWN, Class::Hold, Maybe::NotDone),
        (404, OWN, Class::Hold, Maybe::NotDone),
        (301, PAGE, Class::Hold, Maybe::NotDone),
        (260, "", Class::Hold, Maybe::NotDone),
    ] {
        match whole(&reply(status, body), SystemTime::now()) {
            Whole::Trouble(trouble, done) => {
                assert_eq!((trouble.class, done), (class, maybe), "{status}");
                assert_eq!(trouble.code, status.to_string());
                assert_eq!(trouble.after.is_some(), class == Class::Retry, "{status}");
            }
            other => panic!("{status}: {other:?}"),
        }
    }
    assert_eq!(whole(&reply(200, PAGE), SystemTime::now()), Whole::Answered);
    for (status, body) in [(413, PAGE), (400, OWN)] {
        assert!(matches!(whole(&reply(status, body), SystemTime::now()), Whole::Halve(..)), "{status}");
    }
}

fn of(status: u16, kind: &str, failure_store: &str) -> Item {
    let mut one = json!({"_id": "a", "_index": ".ds-1", "status": status, "failure_store": failure_store});
    if !kind.is_empty() {
        one["error"] = json!({"type": kind, "reason": "because"});
    }
    let answer = json!({"errors": false, "items": [{"create": one}]}).to_string();
    items(answer.as_bytes(), &["a".to_owned()]).unwrap().items.remove(0).unwrap()
}

#[test]
fn an_item_has_its_class_whatever_the_answer_says_of_errors() {
    assert_eq!(of(201, "", ""), Item::Stored(".ds-1".to_owned()));
    assert_eq!(of(200, "", "not_applicable_or_unknown"), Item::Stored(".ds-1".to_owned()));
    assert!(matches!(of(201, "", "used"), Item::Refused(code, _) if code == "failure_store"));
    assert_eq!(of(409, "version_conflict_engine_exception", ""), Item::Exists(".ds-1".to_owned()));
    for (status, kind, class, maybe) in [
        (409, "snapshot_in_progress_exception", Class::Retry, Maybe::Done),
        (429, "es_rejected_execution_exception", Class::Retry, Maybe::NotDone),
        (429, "cluster_block_exception", Class::Retry, Maybe::NotDone),
        (503, "unavailable_shards_exception", Class::Retry, Maybe::Done),
        (403, "cluster_block_exception", Class::Hold, Maybe::NotDone),
        (404, "index_not_found_exception", Class::Hold, Maybe::NotDone),
        (400, "validation_exception", Class::Hold, Maybe::NotDone),
        (400, "index_closed_exception", Class::Hold, Maybe::NotDone),
    ] {
        match of(status, kind, "") {
            Item::Retry(trouble, done) => {
                assert_eq!((trouble.class, done), (class, maybe), "{status} {kind}")
            }
            other => panic!("{status} {kind}: {other:?}"),
        }
    }
    for (status, kind) in [(500, "null_pointer_exception"), (501, "x"), (507, "x")] {
        let Item::Fault(trouble) = of(status, kind, "") else { panic!("{status}") };
        assert_eq!((trouble.class, trouble.code), (Class::Retry, status.to_string()));
    }
    for (status, kind) in [
        (400, "mapper_parsing_exception"),
        (400, "strict_dynamic_mapping_exception"),
        (400, "illegal_argument_exception"),
        (413, "content_too_long_exception"),
    ] {
        assert!(matches!(of(status, kind, "failed"), Item::Refused(..)), "{status} {kind}");
    }
}

#[test]
fn items_are_told_apart_by_id_and_none_is_taken_for_another() {
    let ids = ["a", "b", "b", "c"].map(str::to_owned);
    let answer = json!({"items": [
        {"create": {"_id": "c", "_index": "i", "status": 429}},
        {"create": {"_id": "b", "_index": "i", "status": 201}},
        {"index": {"_id": "x", "_index": "i", "status": 201}},
        {"create": {"_id": "b", "_index": "i", "status": 409}},
        {"create": {"_id": "a"}},
        {"delete": {"_id": "a", "status": 200}},
    ]});
    let found = items(answer.to_string().as_bytes(), &ids).unwrap();
    assert_eq!(
        found.foreign, 3,
        "an id of somebody else, a status that is missing, an action that is not ours"
    );
    assert_eq!(found.items[0], None);
    assert_eq!(found.items[1], Some(Item::Stored("i".to_owned())), "the first of two of one name");
    assert_eq!(found.items[2], Some(Item::Exists("i".to_owned())));
    assert!(matches!(found.items[3], Some(Item::Retry(..))));
}

#[test]
fn what_is_no_answer_is_an_error() {
    let whole = json!({"errors": false, "items": [{"create": {"_id": "a", "status": 201}}]}).to_string();
    for text in ["", PAGE, "{}", "[]", "null", r#"{"took":1,"errors":false}"#, &whole[..whole.len() - 3]] {
        assert!(items(text.as_bytes(), &["a".to_owned()]).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(body: Vec<u8>, text: String, status in 100..1000_u16, kind: String) {
        let _ = items(&body, &["a".to_owned()]);
        let _ = items(text.as_bytes(), &["a".to_owned()]);
        let answer = json!({"items": [{"create": {"_id": "a", "status": status, "error": {"type": kind, "reason": text}}}]});
        prop_assert!(items(answer.to_string().as_bytes(), &["a".to_owned()]).unwrap().items[0].is_some());
        let _ = whole(&reply(status, &text), SystemTime::UNIX_EPOCH);
    }
}
