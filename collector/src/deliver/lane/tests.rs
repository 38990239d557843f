//! Lanes with a real queue and sinks that misbehave.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sonde_daemon::health::Health;
use sonde_wire::view::LogsRequest;

use super::*;
use crate::deliver::batch::{Batch, State};
use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::{Sink, Trouble};
use crate::queue::{Codec, Frame, QueueOptions, RealFilesystem, Signal};
use crate::store::tests::{Line, request};

mod canaries;
mod sick;

const RECORDS: u64 = 10;

fn frame(number: u64) -> Frame {
    let lines: Vec<Line> =
        (0..RECORDS).map(|n| Line::new(n + 1, 1, number * RECORDS + n, "a line of text")).collect();
    let payload = Bytes::from(request(&lines));
    Frame {
        signal: Signal::Logs,
        codec: Codec::Identity,
        resend: false,
        received_unix_nano: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos())
            .unwrap(),
        records: u32::try_from(RECORDS).unwrap(),
        uncompressed_len: u32::try_from(payload.len()).unwrap(),
        payload,
    }
}

fn options(name: &str) -> LaneOptions {
    LaneOptions {
        name: name.to_owned(),
        signal: Signal::Logs,
        skip_beyond: None,
        request_bytes: 1 << 20,
        cluster: String::new(),
        batch_bytes: 4096,
        window_bytes: 64 << 10,
        in_flight: 4,
        timing: Timing {
            probe_every: Duration::from_millis(20),
            longest_wait: Duration::from_millis(20),
            put_off: Duration::from_millis(20),
            rounds: 5,
        },
    }
}

fn open(dir: &Path, max_bytes: u64) -> Queue {
    let options = QueueOptions { max_bytes, ..QueueOptions::on_any_disk() };
    Queue::open(&dir.join("queue"), options, Arc::new(RealFilesystem)).unwrap()
}

struct World {
    queue: Queue,
    letters: Arc<DeadLetters>,
    stop: watch::Sender<bool>,
}

impl World {
    fn new(dir: &Path, max_bytes: u64) -> Self {
        let letters = DeadLetters::open(&dir.join("dead-letter"), 1 << 20).unwrap();
        Self { queue: open(dir, max_bytes), letters, stop: watch::channel(false).0 }
    }

    fn start(&self, sink: impl Sink, options: LaneOptions) -> Lane {
        let shelf = self.letters.shelf(&options.name);
        let heartbeat = Health::new().heartbeat("lane", Duration::from_secs(1));
        start(&self.queue, sink, options, shelf, self.stop.subscribe(), heartbeat)
    }

    fn lag(&self, name: &str) -> u64 {
        self.queue.status().cursors.iter().find(|cursor| cursor.name == name).unwrap().bytes
    }
}

async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited for {what}");
}

/// What a sink got, by frame and number in it: how often it was settled, and whether it was in doubt first.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<Settled>>);

/// By frame and number in it.
type Settled = BTreeMap<(Position, usize), (u32, bool)>;

impl Got {
    fn settle(&self, batch: &Batch, record: usize) {
        let unit = batch.units().iter().find(|unit| record < unit.first + unit.records).unwrap();
        let doubt = batch.states()[record] == State::InDoubt;
        let mut got = self.0.lock().unwrap();
        got.entry((unit.position, record - unit.first)).or_insert((0, doubt)).0 += 1;
    }

    /// Those that [`Stubborn`] refuses, of the frames before a position.
    fn refused_before(&self, position: Position) -> u64 {
        let got = self.0.lock().unwrap();
        got.keys().filter(|(at, number)| *at < position && number % 5 == 4).count() as u64
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
}

/// Takes everything.
struct Good(Got);

impl Sink for Good {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        for record in 0..batch.states().len() {
            self.0.settle(batch, record);
            batch.delivered(record);
        }
        Ok(())
    }
}

/// Refuses the connection.
struct Dead;

impl Sink for Dead {
    async fn deliver(&self, _: &mut Batch) -> Result<(), Trouble> {
        Err(Trouble::retry("connection", "refused"))
    }
}

/// Never answers.
struct Hanging;

impl Sink for Hanging {
    async fn deliver(&self, _: &mut Batch) -> Result<(), Trouble> {
        std::future::pending().await
    }
}

/// Says that all is well and settles nothing.
struct Lying;

impl Sink for Lying {
    async fn deliver(&self, _: &mut Batch) -> Result<(), Trouble> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_a_hanging_and_a_lying_sink_hold_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let got = Got::default();
    let bad = [
        world.start(Dead, options("dead")),
        world.start(Hanging, options("hanging")),
        world.start(Lying, options("lying")),
    ];
    let good = world.start(Good(got.clone()), options("good"));
    // Each is in the good sink before the next is sent: no lag of another can be waited for.
    for number in 0..50 {
        let position = world.queue.append(frame(number)).await.unwrap();
        let mut settled = good.settled();
        tokio::time::timeout(Duration::from_secs(30), settled.wait_for(|settled| *settled > position))
            .await
            .expect("the good sink goes on")
            .unwrap();
    }
    assert_eq!(got.count(), 50 * RECORDS);
    assert_eq!(good.numbers().delivered.load(Ordering::Relaxed), 50 * RECORDS);
    assert_eq!(world.lag("good"), 0);
    for (name, lane) in ["dead", "hanging", "lying"].iter().zip(&bad) {
        assert!(world.lag(name) > 10_000, "{name} has it all before it");
        assert_eq!(lane.numbers().delivered.load(Ordering::Relaxed), 0, "{name}");
    }
    assert!(bad[0].numbers().retries()["connection"] > 0);
    assert!(bad[2].numbers().retries()["incomplete"] > 0);
}

/// Settles some records at each call, in no order, refuses some for good, and has trouble until all are settled.
struct Stubborn {
    got: Got,
    calls: AtomicUsize,
}

impl Sink for Stubborn {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        for record in 0..batch.states().len() {
            if batch.states()[record].is_open() && (record * 7 + call).is_multiple_of(3) {
                self.got.settle(batch, record);
                match record % 5 {
                    4 => batch.refuse(record, "400", "it is a five"),
                    3 => batch.duplicate(record),
                    _ => batch.delivered(record),
                }
            }
        }
        // Its last word on a batch is a good one: what holds would otherwise be up to which call happens to be the last.
        if batch.open() == 0 {
            Ok(())
        } else if call.is_multiple_of(4) {
            Err(Trouble::hold("403", "not today"))
        } else {
            Err(Trouble::retry("429", "slowly"))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_stays_settled_through_trouble_and_refused_records_are_dead_letters_before_the_cursor_passes()
 {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let got = Got::default();
    let lane = world.start(Stubborn { got: got.clone(), calls: AtomicUsize::new(0) }, options("stubborn"));
    for number in 0..30 {
        world.queue.append(frame(number)).await.unwrap();
    }
    // At every move of the cursor: what it passed and was refused is there to be read.
    let mut settled = lane.settled();
    let end = world.queue.status().end;
    while *settled.borrow_and_update() < end {
        let passed = *settled.borrow();
        let refused = got.refused_before(passed);
        assert!(count_letters(dir.path()) >= refused, "{refused} were refused before {passed:?}");
        tokio::time::timeout(Duration::from_secs(30), settled.changed()).await.unwrap().unwrap();
    }
    let numbers = lane.numbers();
    let counts =
        [&numbers.delivered, &numbers.duplicate, &numbers.dead_letter].map(|n| n.load(Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u64>(), 300);
    assert_eq!(got.count(), 300);
    assert!(got.0.lock().unwrap().values().all(|(times, _)| *times == 1), "nothing is asked for again");
    assert_eq!(count_letters(dir.path()), counts[2]);
    assert!(counts[2] > 0);
    assert_eq!(numbers.blocked(), None);
}

fn count_letters(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("dead-letter/stubborn")).into_iter().flatten();
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let mut count = 0;
    for text in texts {
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["code"], &line["reason"]), (&"400".into(), &"it is a five".into()));
            let records = &line["request"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
            assert_eq!(records.as_array().unwrap().len(), 1, "one record, to be sent again as it is");
            assert_eq!(records[0]["body"]["stringValue"], "a line of text");
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_was_under_way_comes_again_in_doubt_and_what_is_new_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let lane = world.start(Hanging, options("es"));
    let before = world.queue.append(frame(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(world.stop);
    drop(lane);
    world.queue.close().await;
    drop(world.queue);
    let world = World::new(dir.path(), 64 << 20);
    let got = Got::default();
    let _lane = world.start(Good(got.clone()), options("es"));
    world.queue.append(frame(1)).await.unwrap();
    world.queue.append(Frame { resend: true, ..frame(2) }).await.unwrap();
    until("three frames", || got.count() == 3 * RECORDS).await;
    let doubts: Vec<bool> = got.0.lock().unwrap().values().map(|(_, doubt)| *doubt).step_by(10).collect();
    assert_eq!(doubts, [true, false, true]);
    assert_eq!(got.0.lock().unwrap().keys().next().unwrap().0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_lets_the_queue_fill_until_it_takes_no_more_and_skip_gives_up_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = frame(0).payload.len() as u64;
    for (skip_beyond, name) in [(None, "hold"), (Some(64 << 10), "skip")] {
        let dir = dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let world = World::new(&dir, 256 << 10);
        let lane = world.start(Dead, LaneOptions { skip_beyond, ..options(name) });
        let mut taken = 0;
        let refused = async {
            for number in 0..1_000_000 {
                match world.queue.append(frame(number)).await {
                    Ok(_) => taken += 1,
                    Err(_) if name == "hold" => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                if taken * bytes > 1 << 20 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), refused).await.unwrap();
        let skipped = || lane.numbers().skipped.load(Ordering::Relaxed);
        if name == "hold" {
            assert!(taken * bytes < 256 << 10, "the queue is full");
            assert_eq!(skipped(), 0);
        } else {
            assert!(taken * bytes > 1 << 20, "four times the queue went through it");
            until("the lag", || world.lag(name) <= 64 << 10).await;
            let left = world.lag(name) / (bytes + 48);
            assert!(skipped() + left * RECORDS <= taken * RECORDS);
            assert!(skipped() + (left + 1) * RECORDS >= taken * RECORDS, "{} {left} {taken}", skipped());
        }
    }
}

/// Panics at its first calls.
struct Panicking(Got, AtomicUsize);

impl Sink for Panicking {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        assert!(self.1.fetch_add(1, Ordering::Relaxed) >= 2, "a bug");
        Good(self.0.clone()).deliver(batch).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_a_new_start_from_the_cursor_and_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let got = Got::default();
    let lane = world.start(Panicking(got.clone(), AtomicUsize::new(0)), options("es"));
    for number in 0..20 {
        world.queue.append(frame(number)).await.unwrap();
    }
    until("all records", || got.count() == 20 * RECORDS && world.lag("es") == 0).await;
    assert_eq!(lane.numbers().retries()["panic"], 2);
    // What another batch had delivered before the panic was noticed goes there again.
    assert!(lane.numbers().delivered.load(Ordering::Relaxed) >= 20 * RECORDS);
}

/// Takes everything, and notes the clusters of all resources.
struct Reading(Arc<Mutex<Vec<String>>>);

impl Sink for Reading {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        for unit in batch.units().iter() {
            for resource in LogsRequest::trusted(&unit.bytes).resources() {
                let cluster = resource.attributes().get("k8s.cluster.name");
                self.0.lock().unwrap().push(format!("{cluster:?}"));
            }
        }
        (0..batch.states().len()).for_each(|record| batch.delivered(record));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_came_without_a_cluster_go_out_under_the_collectors() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 64 << 20);
    let clusters = Arc::new(Mutex::new(Vec::new()));
    let cluster = "east".to_owned();
    let _lane = world.start(Reading(Arc::clone(&clusters)), LaneOptions { cluster, ..options("next") });
    let plain = frame(0);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &plain.payload).unwrap();
        Frame { codec: Codec::Gzip, payload: encoder.finish().unwrap().into(), ..plain.clone() }
    };
    for frame in [plain, gzip] {
        world.queue.append(frame).await.unwrap();
    }
    until("both frames", || world.lag("next") == 0).await;
    let clusters = clusters.lock().unwrap();
    assert_eq!(clusters.len() as u64, 2 * RECORDS);
    assert!(clusters.iter().all(|cluster| cluster == "Some(Str(\"east\"))"), "{clusters:?}");
}
