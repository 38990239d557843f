//! Acknowledgements in front of a real queue, with sinks that are positions.

use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::queue::{Codec, MinFree, QueueOptions, RealFilesystem, Signal};

const LONG: Duration = Duration::from_secs(60);

fn open(dir: &Path) -> Queue {
    let options = QueueOptions { min_free: MinFree::Bytes(0), ..QueueOptions::default() };
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

struct World {
    _dir: tempfile::TempDir,
    queue: Queue,
    acks: Acks,
    sinks: [watch::Sender<Position>; 2],
}

impl World {
    fn new(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let acks = Acks::new(queue.clone(), patience);
        let sinks = [watch::Sender::new(Position::default()), watch::Sender::new(Position::default())];
        acks.require(sinks.iter().map(watch::Sender::subscribe).collect());
        Self { _dir: dir, queue, acks, sinks }
    }

    fn end(&self) -> Position {
        self.queue.status().end
    }

    /// Waits for a sender whose frame is in the queue.
    async fn one_waits(&self) {
        while self.acks.0.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_yes_when_the_last_required_sink_is_past_the_frame_and_not_before() {
    let world = World::new(LONG);
    for round in 0..4 {
        let (before, acks) = (world.end(), world.acks.clone());
        let asked = tokio::spawn(async move { acks.append(frame()).await });
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
    assert_eq!(world.acks.append(frame()).await, Err(IntakeError::Undelivered));
    let end = world.end();
    assert!(end > Position::default(), "it stays in the queue");
    for _ in 0..3 {
        assert_eq!(world.acks.append(frame()).await, Err(IntakeError::Undelivered));
    }
    assert_eq!(world.end(), end, "what was sent again took no space");
    world.sinks[0].send_replace(end);
    assert_eq!(world.acks.append(frame()).await, Err(IntakeError::Undelivered));
    assert_eq!(world.end(), end, "one of two sinks is not enough");
    world.sinks[1].send_replace(end);
    assert_eq!(world.acks.append(frame()).await, Err(IntakeError::Undelivered));
    assert!(world.end() > end, "it was let in, and waited in vain for sinks that stand still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_closes_it_only_after_it_waited_for_long() {
    for (patience, waited, open) in [
        (LONG, Duration::from_millis(20), true),
        (Duration::from_millis(200), Duration::from_millis(100), false),
    ] {
        let world = World::new(patience);
        let _ = tokio::time::timeout(waited, world.acks.append(frame())).await;
        assert_eq!(world.acks.0.keeps_up(), open);
        assert_eq!(world.acks.0.waiting.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_nobody_waits_beyond_its_end_and_who_is_told_in_time_is_told_yes() {
    let world = World::new(LONG);
    let acks = world.acks.clone();
    let first = tokio::spawn(async move { acks.append(frame()).await });
    world.one_waits().await;
    let end = world.end();
    world.acks.end_by(Instant::now() + Duration::from_millis(300));
    for sink in &world.sinks {
        sink.send_replace(end);
    }
    assert_eq!(first.await.unwrap(), Ok(()));
    let began = Instant::now();
    assert_eq!(world.acks.append(frame()).await, Err(IntakeError::Closed));
    assert!(began.elapsed() < LONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_ended_never_says_yes() {
    let World { _dir, acks, sinks, .. } = World::new(LONG);
    drop(sinks);
    assert_eq!(acks.append(frame()).await, Err(IntakeError::Closed));
}
