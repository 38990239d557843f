use proptest::prelude::*;

use super::*;

fn pod(uid: &str, version: u64, node: &str) -> String {
    format!(
        r#"{{"kind":"Pod","metadata":{{"uid":"{uid}","name":"p-{uid}","namespace":"shop","resourceVersion":"{version}"}},"spec":{{"nodeName":"{node}"}}}}"#
    )
}

fn list(version: &str, pods: &[String]) -> String {
    format!(
        r#"{{"kind":"PodList","metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#,
        pods.join(",")
    )
}

fn event(kind: &str, object: &str) -> Vec<u8> {
    format!(r#"{{"type":"{kind}","object":{object}}}"#).into_bytes()
}

fn listed() -> Store {
    let mut store = Store::new("n1");
    store.list(list("100", &[pod("a", 7, "n1"), pod("b", 9, "n1")]).as_bytes()).unwrap();
    store
}

fn names(store: &Store) -> Vec<String> {
    store.metas().map(|pod| pod.name).collect()
}

#[test]
fn a_list_and_the_events_behind_it_are_the_pods() {
    let mut store = listed();
    assert!(store.event(&event("ADDED", &pod("c", 101, "n1"))).unwrap());
    assert!(store.event(&event("DELETED", &pod("a", 102, "n1"))).unwrap());
    assert!(!store.event(&event("DELETED", &pod("a", 103, "n1"))).unwrap());
    assert_eq!(names(&store), ["p-b", "p-c"]);
    let bookmark = r#"{"kind":"Pod","metadata":{"resourceVersion":"200"},"spec":{"containers":null}}"#;
    assert!(!store.event(&event("BOOKMARK", bookmark)).unwrap());
    assert!(!store.event(&event("NEW", "{}")).unwrap());
    assert!(store.watch_path(30).ends_with("timeoutSeconds=30&resourceVersion=200"));
}

#[test]
fn pods_of_another_node_are_not_taken_and_one_that_becomes_another_s_goes() {
    let mut store = Store::new("n1");
    store.list(list("1", &[pod("a", 1, "n1"), pod("x", 1, "n2"), pod("", 1, "n1")]).as_bytes()).unwrap();
    assert_eq!(names(&store), ["p-a"]);
    store.event(&event("ADDED", &pod("y", 2, "n2"))).unwrap();
    assert!(store.event(&event("MODIFIED", &pod("a", 3, "n2"))).unwrap());
    assert_eq!(names(&store), [""; 0]);
}

#[test]
fn the_mirror_of_a_static_pod_has_the_uid_of_its_log_directory() {
    let mirror = r#"{"metadata":{"uid":"api","name":"etcd","resourceVersion":"5","annotations":
        {"kubernetes.io/config.mirror":"fc06af0816b5d23d3b29896dde65db18","kubernetes.io/config.hash":"x"}},"spec":{"nodeName":"n1"}}"#;
    let mut store = listed();
    store.event(&event("ADDED", &mirror.replace('\n', ""))).unwrap();
    let uid = "fc06af0816b5d23d3b29896dde65db18";
    assert!(store.metas().any(|pod| pod.uid == uid));
    assert!(store.states().iter().any(|pod| pod.metadata.uid == uid));
    store.event(&event("DELETED", &mirror.replace('\n', ""))).unwrap();
    assert_eq!(names(&store), ["p-a", "p-b"]);
}

#[test]
fn a_list_is_asked_for_from_the_cache_then_not_older_and_the_newest_only_where_a_version_is_gone() {
    let mut store = Store::new("n1/x&y");
    assert_eq!(store.list_path(), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1%2Fx%26y&resourceVersion=0");
    store = listed();
    assert!(store.event(b"{\"type\":\"ADDED\",\"object\":7}").is_err());
    assert!(!store.is_listed() && store.list_path().ends_with("&resourceVersion=100"));
    store.list(list("110", &[]).as_bytes()).unwrap();
    let gone =
        br#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"message":"too old"}}"#;
    let error = store.event(gone).unwrap_err();
    assert_eq!(error.to_string(), "the watch ended with 410: too old");
    assert!(!store.is_listed() && !store.list_path().contains("resourceVersion"));
    store.list(list("120", &[]).as_bytes()).unwrap();
    let refused =
        |code| Err::<(), _>(ClientError::Status(StatusCode::from_u16(code).unwrap(), String::new()));
    for (code, listed) in [(500, true), (403, true), (504, true), (410, false)] {
        store.on_status(&refused(code));
        assert_eq!(store.is_listed(), listed, "{code}");
    }
}

#[test]
fn what_is_no_list_changes_nothing() {
    let mut store = listed();
    let many: Vec<_> = (0..5000).map(|n| pod(&n.to_string(), 1, "n1")).collect();
    for body in ["", "{}", "[]", r#"{"kind":"Status"}"#, &list("", &[]), &list("9", &many)] {
        assert!(store.list(body.as_bytes()).is_err());
    }
    assert_eq!(names(&store), ["p-a", "p-b"]);
    assert!(store.is_listed());
}

#[test]
fn no_more_pods_are_kept_than_a_node_has() {
    let mut store = listed();
    let add = |n: usize| event("ADDED", &pod(&n.to_string(), 1, "n1"));
    let taken = (0..5000).take_while(|n| store.event(&add(*n)).is_ok()).count();
    assert_eq!((taken, store.states().len()), (4094, 4096));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>()) {
        let mut store = listed();
        let mut line = event("MODIFIED", &pod("a", 101, "n1"));
        let at = at.index(line.len());
        line.splice(at..at, bytes.iter().copied());
        let _ = (store.event(&bytes), store.event(&line), store.list(&bytes), store.list_path());
    }
}
