//! Records that a sink cannot cope with.

use super::*;

/// Cannot cope with the fifth record of a frame that is marked, or with none at all, and takes the others.
struct Picky {
    copes_with_none: AtomicBool,
}

/// The mark: when it was received.
const SICK: u64 = 1;

impl Sink for Picky {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let units = Arc::clone(batch.units());
        for unit in units.iter() {
            for record in unit.first..unit.first + unit.records {
                let sick = unit.received_unix_nano == SICK && record - unit.first == 4;
                if sick || self.copes_with_none.load(Ordering::Relaxed) {
                    batch.put_off(record, "500", "null_pointer_exception");
                } else {
                    batch.delivered(record);
                }
            }
        }
        if batch.open() == 0 { Ok(()) } else { Err(Trouble::retry("500", "null_pointer_exception")) }
    }
}

fn counts(lane: &Lane) -> (u64, u64) {
    let numbers = lane.numbers();
    (numbers.delivered.load(Ordering::Relaxed), numbers.dead_letter.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_sink_cannot_cope_with_hold_up_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let patient = Timing {
        longest_wait: Duration::from_secs(300),
        put_off: Duration::from_secs(300),
        ..options("x").timing
    };
    let options = LaneOptions { timing: patient, ..options("picky") };
    let lane = world.start(Picky { copes_with_none: AtomicBool::new(false) }, options);
    // Each in a batch of its own: more of them than the sink is given requests at a time.
    for number in 0..6 {
        world.queue.append(Frame { received_unix_nano: SICK, ..frame(number) }).await.unwrap();
        until("all but one of them", || counts(&lane).0 == (number + 1) * (RECORDS - 1)).await;
    }
    // Also those that their senders sent again.
    for number in 6..16 {
        world.queue.append(Frame { resend: true, ..frame(number) }).await.unwrap();
        until("the next", || counts(&lane).0 == (number + 1) * RECORDS - 6).await;
    }
    assert_eq!(counts(&lane).1, 0, "its time is not over");
    assert!(lane.numbers().retries()["500"] >= 6);
    assert_eq!(lane.numbers().blocked(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_sink_never_copes_with_is_a_dead_letter_in_the_end_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let lane = world.start(Picky { copes_with_none: AtomicBool::new(false) }, options("picky"));
    for number in 0..100 {
        world.queue.append(Frame { received_unix_nano: SICK, ..frame(number) }).await.unwrap();
    }
    let mut good = 0;
    while counts(&lane).1 < 100 {
        world.queue.append(frame(100 + good)).await.unwrap();
        good += 1;
        assert!(good < 3000, "{:?}", counts(&lane));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("all of them", || world.lag("picky") == 0).await;
    assert_eq!(counts(&lane), (100 * (RECORDS - 1) + good * RECORDS, 100));
    let mut letters = 0;
    for file in fs::read_dir(dir.path().join("dead-letter/picky")).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let reason = line["reason"].as_str().unwrap();
            assert_eq!(line["code"], "500");
            assert!(reason.contains("null_pointer_exception") && reason.contains(" tries in "), "{reason}");
            letters += 1;
        }
    }
    assert_eq!(letters, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_takes_nothing_is_what_is_wrong_and_no_record_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let lane = world.start(Picky { copes_with_none: AtomicBool::new(true) }, options("picky"));
    for number in 0..3 {
        world.queue.append(frame(number)).await.unwrap();
    }
    until("many tries", || lane.numbers().retries().get("500").is_some_and(|tries| *tries > 30)).await;
    assert_eq!(counts(&lane), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_took_once_beside_a_record_that_it_cannot_cope_with_is_no_reason_to_give_that_up() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let lane = world.start(Picky { copes_with_none: AtomicBool::new(false) }, options("picky"));
    let tries = || lane.numbers().retries().get("500").copied().unwrap_or(0);
    world.queue.append(frame(0)).await.unwrap();
    world.queue.append(Frame { received_unix_nano: SICK, ..frame(1) }).await.unwrap();
    until("many tries", || tries() > 30).await;
    assert_eq!(counts(&lane), (2 * RECORDS - 1, 0));
    // Nor is one other later on.
    world.queue.append(frame(2)).await.unwrap();
    until("the other", || counts(&lane).0 == 3 * RECORDS - 1).await;
    let before = tries();
    until("many tries", || tries() > before + 30).await;
    assert_eq!(counts(&lane), (3 * RECORDS - 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_behind_a_record_that_was_put_off_takes_no_place_in_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let timing = Timing { put_off: Duration::from_secs(300), ..options("x").timing };
    let lane = world
        .start(Picky { copes_with_none: AtomicBool::new(false) }, LaneOptions { timing, ..options("picky") });
    let sick = Frame { received_unix_nano: SICK, ..frame(0) };
    let frames = 3 * options("x").window_bytes / sick.payload.len() as u64;
    world.queue.append(sick).await.unwrap();
    for number in 1..=frames {
        world.queue.append(frame(number)).await.unwrap();
    }
    until("all others", || counts(&lane).0 == (frames + 1) * RECORDS - 1).await;
    assert_eq!(counts(&lane).1, 0);
}
