//! Canaries on their way to a sink.

use sonde_daemon::page::{Format, Page, Section};
use sonde_wire::canary::Canary;

use super::*;

fn canary(number: i64) -> Frame {
    let canary = Canary { node: "node-a".into(), run: 1, number, written_unix_nano: 1 };
    Frame { records: 1, payload: Bytes::from(canary.request("east")), ..frame(0) }
}

/// As a hop between agent and collector may join them.
fn joined(frames: &[Frame]) -> Frame {
    let payload: Vec<u8> = frames.iter().flat_map(|frame| frame.payload.to_vec()).collect();
    Frame { records: frames.iter().map(|frame| frame.records).sum(), payload: payload.into(), ..frame(0) }
}

/// Takes everything once it is open.
struct Closed(Arc<AtomicBool>, Good);

impl Sink for Closed {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        if !self.0.load(Ordering::Relaxed) {
            return Err(Trouble::retry("closed", "not yet"));
        }
        self.1.deliver(batch).await
    }
}

/// What a lane's page has in the rows of a family.
fn shown(lane: &Lane, row: &str) -> u64 {
    let own = lane.canaries().source("es".to_owned());
    let page = Page::new(vec![Section::new(None, vec![own])], true);
    let text = page.render(Format::Classic);
    let line = text.lines().find(|line| line.starts_with(row)).unwrap_or_default();
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_never_reach_a_sink_and_arrive_when_all_before_them_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 1 << 20);
    for queued in [frame(0), canary(1), joined(&[frame(1), canary(2), frame(2), canary(3)])] {
        world.queue.append(queued).await.unwrap();
    }
    let (open, got) = (Arc::new(AtomicBool::new(false)), Got::default());
    let lane = world.start(Closed(Arc::clone(&open), Good(got.clone())), options("es"));
    let delivered = "sonde_collector_canary_records_total{sink=\"es\",node=\"node-a\",outcome=\"delivered\"}";
    until("some tries", || lane.numbers().retries().get("closed").is_some_and(|tries| *tries > 3)).await;
    assert_eq!(shown(&lane, delivered), 0, "what is before them is not there");
    open.store(true, Ordering::Relaxed);
    until("the canaries", || shown(&lane, delivered) == 3).await;
    assert_eq!(shown(&lane, "sonde_collector_canary_delay_seconds_count{sink=\"es\"}"), 3);
    assert_eq!(got.count(), 3 * RECORDS, "the sink has the records of users, and no others");
    assert_eq!(lane.numbers().delivered.load(Ordering::Relaxed), 3 * RECORDS);
    until("the cursor", || world.lag("es") == 0).await;
    world.stop.send_replace(true);
    lane.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_canaries_that_come_again_have_no_delay_and_no_one_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 1 << 20);
    for queued in [frame(0), canary(7), canary(8)] {
        world.queue.append(queued).await.unwrap();
    }
    // The sink took them, and the collector was killed before the cursor was on the disk.
    world.queue.close().await;
    drop(world);
    let world = World::new(dir.path(), 1 << 20);
    let lane = world.start(Good(Got::default()), options("es"));
    for number in 9..30 {
        world.queue.append(canary(number)).await.unwrap();
    }
    let row = |outcome: &str| {
        format!("sonde_collector_canary_records_total{{sink=\"es\",node=\"node-a\",outcome=\"{outcome}\"}}")
    };
    until("the canaries", || shown(&lane, &row("delivered")) == 23).await;
    assert_eq!(shown(&lane, "sonde_collector_canary_delay_seconds_count{sink=\"es\"}"), 21);
    assert_eq!((shown(&lane, &row("missing")), shown(&lane, &row("duplicate"))), (0, 0));
    world.stop.send_replace(true);
    lane.join().await;
}
