//! Requests that are delivered late: the same records went through another collector meanwhile.

use super::*;
use crate::deliver::batch::Unit;
use crate::queue::Position;

/// Of five lines, never sent as far as this collector knows, and received so long ago.
fn batch(age: Duration) -> Batch {
    let line = |n: u64| Line::new(1_700_000_000_000_000_000 + n, 1, n, &format!("line {n}"));
    let received = std::time::UNIX_EPOCH.elapsed().unwrap() - age;
    let unit = Unit {
        signal: Signal::Logs,
        position: Position::default(),
        received_unix_nano: u64::try_from(received.as_nanos()).unwrap(),
        bytes: request(&(0..5).map(line).collect::<Vec<_>>()).into(),
        first: 0,
        records: 5,
        came: None,
        resend: false,
    };
    Batch::new(vec![unit], |_| false)
}

#[tokio::test]
async fn what_a_stopped_collector_sends_late_is_looked_up_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(StdMutex::new(Server { random: 1, ..Server::default() }));
    let es = Elasticsearch::build(&sink(serve(Arc::clone(&server)).await), dir.path()).unwrap();
    // By another collector, before a rollover.
    let mut resent = batch(Duration::ZERO);
    es.deliver(&mut resent).await.unwrap();
    assert_eq!(resent.count(State::Delivered), 5);
    server.lock().unwrap().indices.push(HashMap::new());
    // It was made ready when it was new; then the process was stopped.
    let mut late = batch(Duration::from_secs(60));
    es.deliver(&mut late).await.unwrap();
    assert_eq!((late.count(State::Duplicate), late.open()), (5, 0));
    let sizes: Vec<usize> = server.lock().unwrap().indices.iter().map(HashMap::len).collect();
    assert_eq!(sizes, [5, 0], "each is there once");
}

#[test]
fn what_became_late_between_the_lookup_and_the_answer_is_looked_up_then() {
    let ids: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let bulk = Bulk { body: Bytes::new(), records: (0..5).collect(), ids, bytes: 1 };
    for (age, wanted) in [(0, State::Delivered), (60, State::InDoubt)] {
        let mut batch = batch(Duration::from_secs(age));
        let stored = (0..5).map(|_| Some(Item::Stored("i".to_owned())));
        let items = answer::Items { items: stored.collect(), foreign: 0 };
        let sent = settle("s", &bulk, items, &[], &mut batch, std::time::SystemTime::now());
        assert_eq!(matches!(sent, Ok(Sent::RolledOver)), age > 0);
        assert_eq!(batch.count(wanted), 5);
    }
}
