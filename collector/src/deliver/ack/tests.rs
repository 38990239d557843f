//! Acknowledgements in front of a real queue, with sinks that are positions.

use std::path::Path;

use bytes::Bytes;
use sonde_daemon::receive::admission::Admission;

use super::*;
use crate::queue::{Codec, QueueOptions, RealFilesystem, Signal};

const LONG: Duration = Duration::from_secs(60);

fn open(dir: &Path) -> Queue {
    let options = QueueOptions::on_any_disk();
    Queue::open(dir, options, Arc::new(RealFilesystem)).unwrap()
}

fn frame() -> Frame {
    Frame {
        signal: Signal::Logs,
        codec: Codec::Identity,
        resend: false,
        received_unix_nano: 1,
        records: 1,
        uncompressed_len: 5,
        payload: Bytes::from_static(b"frame"),
    }
}

/// What a request of such a frame has reserved.
fn grant() -> Grant {
    Admission::new(100).reserve(5).unwrap()
}

struct World {
    dir: tempfile::TempDir,
    queue: Queue,
    acks: Acks,
    sinks: [watch::Sender<Position>; 2],
    starved: Arc<AtomicBool>,
}

impl World {
    fn new(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let acks = Acks::new(queue.clone(), patience);
        let starved = Arc::new(AtomicBool::new(false));
        let sinks = [watch::Sender::new(Position::default()), watch::Sender::new(Position::default())];
        let required = |sink: &watch::Sender<Position>| Required {
            settled: sink.subscribe(),
            starved: Arc::clone(&starved),
        };
        acks.require(sinks.iter().map(required).collect());
        Self { dir, queue, acks, sinks, starved }
    }

    fn end(&self) -> Position {
        self.queue.status().end
    }

    /// All sinks are done with what is before a position.
    fn settle(&self, position: Position) {
        for sink in &self.sinks {
            sink.send_replace(position);
        }
    }

    /// Waits for a sender whose frame is in the queue.
    async fn one_waits(&self) {
        let waits = async {
            while self.acks.0.waiting.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waits).await.expect("one waits");
    }

    /// One that sends, waits for so long and goes away.
    async fn goes_away_after(&self, wait: Duration, meanwhile: impl FnOnce()) {
        let acks = self.acks.clone();
        let sender = tokio::spawn(async move { acks.append(frame(), grant()).await });
        self.one_waits().await;
        meanwhile();
        tokio::time::sleep(wait).await;
        sender.abort();
        let _ = sender.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_yes_when_the_last_required_sink_is_past_the_frame_and_not_before() {
    let world = World::new(LONG);
    for round in 0..4 {
        let (before, acks) = (world.end(), world.acks.clone());
        let asked = tokio::spawn(async move { acks.append(frame(), grant()).await });
        world.one_waits().await;
        // One of them is enough for nobody; nor is the other with all but this frame.
        world.sinks[round % 2].send_replace(world.end());
        world.sinks[(round + 1) % 2].send_replace(before);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!asked.is_finished());
        world.sinks[(round + 1) % 2].send_replace(world.end());
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wait_that_was_too_long_nothing_takes_space_until_that_frame_is_delivered() {
    let world = World::new(Duration::from_millis(50));
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    let end = world.end();
    assert!(end > Position::default(), "it stays in the queue");
    for _ in 0..3 {
        assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    }
    assert_eq!(world.end(), end, "what was sent again took no space");
    world.sinks[0].send_replace(end);
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    assert_eq!(world.end(), end, "one of two sinks is not enough");
    world.sinks[1].send_replace(end);
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    assert!(world.end() > end, "it was let in, and waited in vain for sinks that stand still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_closes_it_only_after_it_waited_for_long() {
    for (patience, waited, open) in
        [(LONG, Duration::from_millis(20), true), (Duration::from_secs(2), Duration::from_millis(600), false)]
    {
        let world = World::new(patience);
        world.goes_away_after(waited, || {}).await;
        assert_eq!(world.acks.0.keeps_up(), open);
        assert_eq!(world.acks.0.waiting.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_wait_for_little_close_it_where_nothing_is_settled() {
    for moves in [false, true] {
        let world = World::new(LONG);
        let before = world.end();
        let some = Position { offset: before.offset + 1, ..before };
        let meanwhile = || {
            if moves {
                world.settle(some);
            }
        };
        world.goes_away_after(STILL + Duration::from_millis(50), meanwhile).await;
        assert_eq!(world.acks.0.keeps_up(), moves);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_that_is_left_are_records_that_a_sink_cannot_cope_with_others_are_let_in_one_by_one() {
    let world = World::new(Duration::from_millis(50));
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    let closed = world.end();
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    assert_eq!(world.end(), closed);
    world.starved.store(true, Ordering::Relaxed);
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
    assert!(world.end() > closed, "it is in the queue");
    let one = world.end();
    let began = Instant::now();
    while world.end() == one {
        assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Undelivered));
        assert!(began.elapsed() < LONG);
    }
    world.settle(world.end());
    assert!(world.acks.0.keeps_up());
}

/// Destroys all frames that a queue has on disk.
fn destroy(world: &World) {
    for file in std::fs::read_dir(world.dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_the_queue_lost_is_never_acknowledged_and_closes_nothing_for_ever() {
    for gone_before in [false, true] {
        let world = World::new(if gone_before { Duration::from_millis(300) } else { LONG });
        let acks = world.acks.clone();
        let asked = tokio::spawn(async move { acks.append(frame(), grant()).await });
        world.one_waits().await;
        destroy(&world);
        let mut reader = world.queue.reader(Position::default());
        let steps_over = async {
            while world.queue.damaged() == Damaged::default() {
                let _ = tokio::time::timeout(Duration::from_millis(20), reader.next()).await;
            }
        };
        if gone_before {
            assert_eq!(asked.await.unwrap(), Err(IntakeError::Undelivered));
            assert!(!world.acks.0.keeps_up());
            tokio::time::timeout(Duration::from_secs(30), steps_over).await.unwrap();
            assert!(world.acks.0.keeps_up(), "no sink is ever past it");
        } else {
            tokio::time::timeout(Duration::from_secs(30), steps_over).await.unwrap();
            world.settle(world.end());
            assert_eq!(asked.await.unwrap(), Err(IntakeError::Undelivered), "no sink had it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_nobody_waits_beyond_its_end_and_who_is_told_in_time_is_told_yes() {
    let world = World::new(LONG);
    let acks = world.acks.clone();
    let first = tokio::spawn(async move { acks.append(frame(), grant()).await });
    world.one_waits().await;
    let end = world.end();
    world.acks.end_by(Instant::now() + Duration::from_millis(300));
    for sink in &world.sinks {
        sink.send_replace(end);
    }
    assert_eq!(first.await.unwrap(), Ok(()));
    let began = Instant::now();
    assert_eq!(world.acks.append(frame(), grant()).await, Err(IntakeError::Closed));
    assert!(began.elapsed() < LONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_ended_never_says_yes() {
    let World { dir: _dir, acks, sinks, .. } = World::new(LONG);
    drop(sinks);
    assert_eq!(acks.append(frame(), grant()).await, Err(IntakeError::Closed));
}
