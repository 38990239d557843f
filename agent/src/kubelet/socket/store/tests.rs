use proptest::prelude::*;
use sonde_wire::proto::{put_bytes, put_uint};

use super::super::tests::{event, messages, pod};
use super::*;

const COMPLETE: u64 = kind::INITIAL_SYNC_COMPLETE;

fn names(store: &Store) -> Vec<String> {
    store.metas().map(|pod| pod.name).collect()
}

#[test]
fn pods_come_change_and_go() {
    let mut store = Store::new("n1");
    for (kind, uid, name, told, after) in [
        (kind::ADDED, "a", "one", Told::Change, vec!["one"]),
        (kind::ADDED, "b", "two", Told::Change, vec!["one", "two"]),
        (kind::MODIFIED, "a", "three", Told::Change, vec!["three", "two"]),
        // A watch that begins anew while one comes may tell it twice, or of one that it has not added.
        (kind::ADDED, "b", "two", Told::Change, vec!["three", "two"]),
        (kind::MODIFIED, "c", "four", Told::Change, vec!["three", "two", "four"]),
        (kind::DELETED, "a", "three", Told::Change, vec!["two", "four"]),
        (kind::DELETED, "a", "three", Told::Nothing, vec!["two", "four"]),
        (0, "d", "unspecified", Told::Nothing, vec!["two", "four"]),
        (99, "d", "from the future", Told::Nothing, vec!["two", "four"]),
    ] {
        assert_eq!(store.event(&event(kind, &pod(uid, name, "n1"))), Ok(told), "{kind} {uid}");
        assert_eq!(names(&store), after, "{kind} {uid}");
    }
    assert_eq!(store.event(&event(COMPLETE, b"")), Ok(Told::Complete));
    assert_eq!(store.states().len(), 2);
}

#[test]
fn pods_of_another_node_mirrors_and_pods_without_a_uid_are_passed_over() {
    let mut store = Store::new("n1");
    let other = Ok(Told::Foreign("n2".to_owned()));
    assert_eq!(store.event(&event(kind::ADDED, &pod("a", "one", "n2"))), other);
    assert_eq!(store.event(&event(kind::ADDED, &pod("", "one", "n1"))), Ok(Told::Nothing));
    assert_eq!(store.event(&event(kind::ADDED, &pod("a", "one", ""))), Ok(Told::Change));
    assert_eq!(store.event(&event(kind::MODIFIED, &pod("a", "one", "n2"))), other);
    assert_eq!(names(&store), [""; 0], "it has gone to another node");

    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, MIRROR.as_bytes());
    put_bytes(&mut entry, 2, b"fc06af0816b5d23d3b29896dde65db18");
    let mut metadata = Vec::new();
    put_bytes(&mut metadata, 5, b"uid-of-the-mirror");
    put_bytes(&mut metadata, 12, &entry);
    let mut mirror = Vec::new();
    put_bytes(&mut mirror, 1, &metadata);
    assert_eq!(store.event(&event(kind::ADDED, &mirror)), Ok(Told::Nothing));
    assert_eq!(names(&store), [""; 0]);
}

#[test]
fn a_pod_that_is_none_leaves_the_others_and_what_was_known_of_it() {
    let mut store = Store::new("n1");
    store.event(&event(kind::ADDED, &pod("a", "one", "n1"))).unwrap();
    let cut = &pod("a", "two", "n1")[..5];
    assert!(matches!(store.event(&event(kind::MODIFIED, cut)), Err(StoreError::Pod(_))));
    assert_eq!(names(&store), ["one"]);
    assert!(matches!(store.event(b"\x08"), Err(StoreError::Event(_))));
}

#[test]
fn more_pods_or_bytes_than_a_node_has_are_refused() {
    let mut store = Store::new("n1");
    for number in 0..MOST_PODS {
        store.event(&event(kind::ADDED, &pod(&format!("uid-{number}"), "p", "n1"))).unwrap();
    }
    let another = event(kind::ADDED, &pod("another", "p", "n1"));
    assert_eq!(store.event(&another), Err(StoreError::Many));
    store.event(&event(kind::DELETED, &pod("uid-7", "p", "n1"))).unwrap();
    assert_eq!(store.event(&another), Ok(Told::Change));

    // Of which nothing is kept, but it has to come through.
    let large = |uid: &str| {
        let mut pod = pod(uid, "p", "n1");
        put_bytes(&mut pod, 15, &vec![b'x'; 3 << 20]);
        event(kind::ADDED, &pod)
    };
    let mut store = Store::new("n1");
    for number in 0..10 {
        store.event(&large(&number.to_string())).unwrap();
        store.event(&large(&number.to_string())).unwrap();
    }
    assert_eq!(store.event(&large("10")), Err(StoreError::Large));
    store.event(&event(kind::MODIFIED, &pod("3", "p", "n1"))).unwrap();
    assert_eq!(store.event(&large("10")), Ok(Told::Change));
}

proptest! {
    #[test]
    fn no_messages_make_it_panic_and_its_sum_is_that_of_its_pods(
        order in prop::collection::vec((0..31usize, 0..5u64, any::<prop::sample::Index>(), 0..20u8), 0..60),
    ) {
        let recorded = messages();
        let mut store = Store::new("lab-node-1");
        for (which, kind, at, damage) in order {
            let mut message = Vec::new();
            put_uint(&mut message, 1, kind);
            message.extend_from_slice(&recorded[which][2..]);
            // Of one in twenty a byte is another.
            if damage == 0 {
                let at = at.index(message.len());
                message[at] ^= 0x55;
            }
            let _ = store.event(&message);
            prop_assert_eq!(store.bytes, store.pods.values().map(|(_, len)| *len).sum::<usize>());
            prop_assert!(store.pods.keys().all(|uid| !uid.is_empty()));
        }
    }
}
