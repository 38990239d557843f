use sonde_daemon::shutdown;
use sonde_wire::canary::take_out;

use super::*;

fn origin() -> Origin {
    Origin { cluster: "east".to_owned(), node: "node-a".to_owned() }
}

fn number(batch: &Batch) -> (i64, i64) {
    let (left, canaries) = take_out(&batch.payload);
    assert!(left.is_empty() && canaries.len() == 1, "the request is one canary and nothing else");
    assert_eq!(&*canaries[0].node, "node-a");
    (canaries[0].run, canaries[0].number)
}

fn accepted(rejected: u64) -> Outcome {
    Outcome::Accepted { rejected, message: String::new() }
}

fn settled(batch: &Batch, outcome: Outcome) -> Settlement {
    Settlement { id: batch.id, outcome }
}

#[test]
fn a_number_is_given_to_the_next_canary_until_one_with_it_was_acknowledged() {
    let now = Instant::now();
    let mut run = Run::new(origin(), 7, CanaryMetrics::default());
    let mut given = Vec::new();
    for outcome in [
        accepted(0),
        accepted(1),
        Outcome::Refused { code: "INVALID_ARGUMENT".to_owned() },
        accepted(0),
        accepted(0),
    ] {
        let batch = run.write(now, 1_000).unwrap();
        assert!(is_ours(batch.id) && !crate::journal::is_ours(batch.id));
        given.push(number(&batch));
        assert!(run.write(now, 1_000).is_none(), "one is under way");
        run.on_settlement(&Settlement { id: BatchId(OURS | 999), outcome: accepted(0) }, now);
        assert!(run.write(now, 1_000).is_none(), "the word was on another");
        run.on_settlement(&settled(&batch, outcome), now);
    }
    assert_eq!(given, [(7, 1), (7, 2), (7, 2), (7, 2), (7, 3)]);
}

#[test]
fn batches_of_the_readers_are_not_canaries() {
    for id in [0, 5, 1 << 61, 1 << 63, 1 << 63 | 1 << 62] {
        assert!(!is_ours(BatchId(id)), "{id:x}");
    }
}

#[tokio::test]
async fn canaries_come_one_after_the_other_and_keep_no_exporter_running() {
    let (sender, mut batches) = mpsc::channel(1);
    let (door, words) = Door::new();
    let (_trigger, shutdown) = shutdown::channel();
    let interval = Duration::from_millis(10);
    let metrics = CanaryMetrics::default();
    let task = tokio::spawn(run(origin(), interval, sender.downgrade(), words, metrics, shutdown));
    for expected in 1..=3 {
        let batch = batches.recv().await.unwrap();
        assert_eq!(number(&batch).1, expected);
        door.settle(settled(&batch, accepted(0)));
    }
    // The readers are gone.
    drop(sender);
    assert!(batches.recv().await.is_none());
    task.await.unwrap();
}

#[tokio::test]
async fn a_canary_that_waits_for_room_ends_at_the_stop() {
    let (sender, _full) = mpsc::channel(1);
    let filler =
        Batch { id: BatchId(1), payload: Bytes::new(), records: 1, oldest: Instant::now(), resend: false };
    sender.send(filler).await.unwrap();
    let (_door, words) = Door::new();
    let (trigger, shutdown) = shutdown::channel();
    let (interval, metrics) = (Duration::from_millis(10), CanaryMetrics::default());
    let task = tokio::spawn(run(origin(), interval, sender.downgrade(), words, metrics.clone(), shutdown));
    while metrics.age().is_zero() {
        tokio::time::sleep(interval).await;
    }
    trigger.fire(interval);
    task.await.unwrap();
}
