//! The queue's promises, on the real file system and on one that fails.

mod damage;
pub(crate) mod disk;
mod kill;
mod model;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::disk::{Disk, Fault};
use super::state::segment_name;
use super::*;

fn frame(text: &str) -> Frame {
    Frame {
        signal: Signal::Logs,
        codec: Codec::Zstd,
        resend: false,
        received_unix_nano: 1,
        records: 3,
        uncompressed_len: 100,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn options() -> QueueOptions {
    QueueOptions {
        max_bytes: 1 << 20,
        segment_bytes: 16 << 10,
        read_patience: Duration::ZERO,
        ..QueueOptions::on_any_disk()
    }
}

fn on(disk: &Disk, max_bytes: u64) -> Queue {
    let options = QueueOptions { max_bytes, ..options() };
    Queue::open(Path::new("/queue"), options, Arc::new(disk.clone())).unwrap()
}

/// Appends 4 KiB frames until one is refused; says how many went in and why no more.
async fn fill(queue: &Queue) -> (u32, AppendError) {
    for n in 0..10_000 {
        if let Err(error) = queue.append(frame(&"x".repeat(4096))).await {
            return (n, error);
        }
    }
    panic!("it is never full");
}

#[tokio::test]
async fn what_is_appended_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(dir.path(), options(), Arc::new(RealFilesystem)).unwrap();
    let mut reader = queue.reader(Position::default());
    let mut positions = Vec::new();
    for n in 0..40 {
        let sent = frame(&format!("{n} {}", "payload ".repeat(200)));
        positions.push((queue.append(sent.clone()).await.unwrap(), sent));
    }
    for (position, sent) in &positions {
        let entry = reader.next().await.unwrap();
        assert_eq!((entry.position, &entry.frame), (*position, sent));
    }
    assert!(queue.status().segments > 2);
    queue.close().await;
    assert_eq!(reader.next().await, None);
    assert!(matches!(queue.append(frame("late")).await, Err(AppendError::Closed)));
}

#[tokio::test]
async fn all_requests_that_wait_are_made_durable_by_one_sync() {
    const WAITING: usize = 400;
    let disk = Disk::new(64 << 20, 1);
    let roomy = QueueOptions { max_bytes: 32 << 20, segment_bytes: 8 << 20, ..options() };
    let queue = Queue::open(Path::new("/queue"), roomy, Arc::new(disk.clone())).unwrap();
    let begun = queue.append(frame("the segment is there")).await.unwrap();
    let segment = Path::new("/queue").join(segment_name(begun.segment));
    let before = disk.syncs(&segment);
    let append = |text: String| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.append(frame(&text)).await })
    };
    // While one is made durable, the others come.
    disk.set_slow(true);
    let mut sent = vec![append("first".to_owned())];
    while disk.syncs(&segment) == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sent.extend((0..WAITING).map(|n| append(format!("{n} of those that wait"))));
    while queue.messages.max_capacity() - queue.messages.capacity() < WAITING {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(sent.iter().all(|each| !each.is_finished()), "nothing is answered before it is durable");
    disk.set_slow(false);
    let mut positions = Vec::new();
    for each in sent {
        positions.push(each.await.unwrap().unwrap());
    }
    assert!(positions.iter().all(|position| position.segment == begun.segment));
    assert_eq!(disk.syncs(&segment) - before, 2, "one for the first, one for the {WAITING} that waited");
}

#[tokio::test]
async fn a_reader_waits_for_frames_and_loses_none_when_cancelled() {
    let disk = Disk::new(1 << 20, 1);
    let queue = on(&disk, 1 << 20);
    let mut reader = queue.reader(Position::default());
    for n in 0..50 {
        let patience = Duration::from_micros(n * 7);
        assert!(tokio::time::timeout(patience, reader.next()).await.is_err());
        let text = format!("{n}");
        let sender = queue.clone();
        let sent = frame(&text);
        let sending = tokio::spawn(async move { sender.append(sent).await });
        let got = loop {
            if let Ok(got) = tokio::time::timeout(patience, reader.next()).await {
                break got;
            }
        };
        assert_eq!(got.unwrap().frame, frame(&text));
        sending.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_is_cancelled_again_and_again_gets_past_what_cannot_be_read() {
    let disk = Disk::new(1 << 20, 1);
    let queue_options = QueueOptions { read_patience: Duration::from_secs(1), ..options() };
    let queue = Queue::open(Path::new("/queue"), queue_options, Arc::new(disk.clone())).unwrap();
    let mut sent = Vec::new();
    for n in 0..3 {
        let frame = frame(&format!("{n}{}", "x".repeat(1000)));
        sent.push((queue.append(frame.clone()).await.unwrap(), frame));
    }
    let bad = sent[1].0.offset;
    disk.make_unreadable(bad + FRAME_HEADER + 10..bad + FRAME_HEADER + 20);
    let mut reader = queue.reader(Position::default());
    let mut got = Vec::new();
    let begun = std::time::Instant::now();
    while got.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{got:?}");
        if let Ok(entry) = tokio::time::timeout(Duration::from_millis(10), reader.next()).await {
            got.push(entry.unwrap().frame);
        }
    }
    assert_eq!(got, [sent[0].1.clone(), sent[2].1.clone()]);
    assert_eq!(queue.status().damaged.frames, 1);
    // Four pauses make the second; two reads a try, and those for the frames around it.
    assert!(disk.failed_reads() < 20, "one trip to the disk at a time: {}", disk.failed_reads());
}

#[tokio::test]
async fn a_queue_whose_thread_has_died_says_so() {
    let disk = Disk::new(1 << 20, 1);
    let queue_options = QueueOptions { clock: || panic!("as a bug would"), ..options() };
    let queue = Queue::open(Path::new("/queue"), queue_options, Arc::new(disk)).unwrap();
    assert!(queue.is_running());
    assert!(matches!(queue.append(frame("x")).await, Err(AppendError::Closed)));
    for _ in 0..500 {
        if !queue.is_running() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is taken for alive");
}

#[tokio::test]
async fn a_full_queue_says_so_and_goes_on_when_the_slowest_reader_does() {
    let disk = Disk::new(10 << 20, 1);
    let queue = on(&disk, 128 << 10);
    queue.register("fast", None);
    queue.register("slow", None);
    let (frames, error) = fill(&queue).await;
    assert!(matches!(error, AppendError::Full(FullReason::Budget)));
    assert!(frames > 15, "{frames}");
    assert_eq!(queue.status().full, Some(FullReason::Budget));
    queue.release("fast", queue.status().end);
    queue.close().await;

    let queue = on(&disk, 128 << 10);
    assert!(matches!(fill(&queue).await, (0..4, AppendError::Full(FullReason::Budget))), "slow holds it");
    queue.release("slow", queue.status().end);
    let mut tries = 0;
    while queue.append(frame(&"x".repeat(4096))).await.is_err() {
        tries += 1;
        assert!(tries < 500, "{:?}", queue.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(queue.status().full, None);
    assert!(disk.peak() <= (128 << 10) + 1024);
}

#[tokio::test]
async fn a_full_volume_is_survived() {
    let disk = Disk::new(64 << 10, 1);
    let queue = on(&disk, 1 << 20);
    let (frames, error) = fill(&queue).await;
    assert!(matches!(error, AppendError::Full(FullReason::MinFree | FullReason::NoSpace)));
    disk.set_capacity(10 << 20);
    queue.append(frame("again")).await.unwrap();
    assert_eq!(queue.status().full, None);
    queue.close().await;
    let mut reader = queue.reader(Position::default());
    for _ in 0..frames {
        assert_eq!(reader.next().await.unwrap().frame.payload.len(), 4096);
    }
    assert_eq!(reader.next().await.unwrap().frame, frame("again"));
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_is_acknowledged_that_the_disk_does_not_have() {
    // The write is the first operation of an append that needs no new segment, the fsync the second.
    let disk = Disk::new(1 << 20, 1);
    let queue = on(&disk, 1 << 20);
    let first = queue.append(frame("first")).await.unwrap();
    disk.fail(1, Fault::Io);
    assert!(matches!(queue.append(frame("second")).await, Err(AppendError::Disk(_))));
    let third = queue.append(frame("third")).await.unwrap();
    assert!(third.segment > first.segment, "the segment is given up");
    assert_eq!(queue.status().write_errors, 1);
    disk.crash();
    drop(queue);
    let queue = on(&disk, 1 << 20);
    let mut reader = queue.reader(Position::default());
    assert_eq!(reader.next().await.unwrap().frame, frame("first"));
    let mut entry = reader.next().await.unwrap();
    if entry.frame == frame("second") {
        entry = reader.next().await.unwrap();
    }
    assert_eq!((entry.position, entry.frame), (third, frame("third")));
}

#[tokio::test]
async fn what_is_written_to_a_segment_that_was_deleted_or_moved_away_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let queue_dir = dir.path().join("queue");
    let open = || Queue::open(&queue_dir, options(), Arc::new(RealFilesystem)).unwrap();
    let queue = open();
    let first = queue.append(frame("first")).await.unwrap();
    std::fs::remove_file(queue_dir.join(segment_name(first.segment))).unwrap();
    assert!(matches!(queue.append(frame("second")).await, Err(AppendError::Disk(_))));
    let third = queue.append(frame("third")).await.unwrap();
    assert!(third.segment > first.segment, "the segment is given up");
    assert_eq!(queue.status().write_errors, 1);
    // Moved away, it is as good as deleted; and another file of its name is not it.
    for in_its_place in [false, true] {
        let last = queue.append(frame("moved")).await.unwrap();
        let path = queue_dir.join(segment_name(last.segment));
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        if in_its_place {
            std::fs::copy(dir.path().join("elsewhere"), &path).unwrap();
        }
        assert!(matches!(queue.append(frame("lost")).await, Err(AppendError::Disk(_))), "{in_its_place}");
        assert!(queue.append(frame("next")).await.unwrap().segment > last.segment);
    }
    // And with all that is around it; the writer's thread may be making a file there just then.
    let gone = dir.path().join("gone");
    std::fs::rename(&queue_dir, &gone).unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    assert!(matches!(queue.append(frame("fourth")).await, Err(AppendError::Disk(_))));
    queue.append(frame("fifth")).await.unwrap();
    queue.close().await;
    let queue = open();
    queue.close().await;
    assert_eq!(queue.reader(Position::default()).next().await.unwrap().frame, frame("fifth"));
}

#[tokio::test]
async fn a_position_ahead_of_the_queue_is_never_given_out_again() {
    let disk = Disk::new(1 << 20, 1);
    let queue = on(&disk, 1 << 20);
    let first = queue.append(frame("first")).await.unwrap();
    let ahead = Position { segment: first.segment + 7, offset: 1 << 30 };
    assert_eq!(queue.register("store", Some(ahead)).position, ahead);
    let second = queue.append(frame("second")).await.unwrap();
    assert!(second > ahead);
    assert_eq!(queue.reader(ahead).next().await.unwrap().frame, frame("second"));
}

#[tokio::test]
async fn how_far_a_reader_is_behind_is_known() {
    let disk = Disk::new(1 << 20, 1);
    let queue = on(&disk, 1 << 20);
    queue.register("sink", None);
    queue.append(frame("one")).await.unwrap();
    let second = queue.append(frame("two")).await.unwrap();
    let behind = |queue: &Queue| queue.status().cursors[0].clone();
    assert_eq!(behind(&queue).bytes, 2 * (48 + 3));
    let mut tries = 0;
    while behind(&queue).oldest.is_zero() && tries < 300 {
        tries += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(behind(&queue).oldest > Duration::from_secs(1_000_000), "received in 1970");
    queue.release("sink", second);
    assert_eq!(behind(&queue).bytes, 48 + 3);
    queue.release("sink", queue.status().end);
    assert_eq!((behind(&queue).bytes, behind(&queue).oldest), (0, Duration::ZERO));
}

#[tokio::test]
async fn a_frame_that_never_fits_is_refused_for_good() {
    let queue = on(&Disk::new(1 << 20, 1), 128 << 10);
    let large = frame(&"x".repeat(200 << 10));
    assert!(matches!(queue.append(large).await, Err(AppendError::TooLarge { .. })));
    let larger_than_a_segment = frame(&"x".repeat(100 << 10));
    queue.append(larger_than_a_segment).await.unwrap();
}

#[test]
fn min_free_is_a_share_or_a_size() {
    assert_eq!("10%".parse(), Ok(MinFree::Percent(10)));
    assert_eq!("5GiB".parse(), Ok(MinFree::Bytes(5 << 30)));
    for bad in ["", "%", "100%", "-1%", "ten", "10 %%"] {
        assert!(bad.parse::<MinFree>().is_err(), "{bad}");
    }
    assert_eq!(MinFree::Percent(10).of(1000), 100);
}
