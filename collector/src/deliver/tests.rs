//! Delivery with a real queue and a real store.

use std::sync::Arc;

use bytes::Bytes;
use sonde_daemon::health::Health;

use super::*;
use crate::queue::{Codec, Frame, QueueOptions, RealFilesystem};
use crate::store::tests::{Line, options, request};
use crate::store::{Filter, Store};

fn frame(payload: Vec<u8>) -> Frame {
    let payload = Bytes::from(payload);
    Frame {
        signal: Signal::Logs,
        codec: Codec::Identity,
        resend: false,
        received_unix_nano: 1,
        records: 10,
        uncompressed_len: u32::try_from(payload.len()).unwrap(),
        payload,
    }
}

fn heartbeat() -> Heartbeat {
    Health::new().heartbeat("delivery", Duration::from_secs(1))
}

async fn until(store: &Store, records: u64) {
    let mut count = 0;
    for _ in 0..500 {
        count = store.count(Filter::default(), || true).unwrap().records;
        if count >= records {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count, records);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_queue_comes_into_the_store_once_and_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let deliver = DeliverOptions {
        sink: "store".to_owned(),
        dead_letter_dir: dir.path().join("dead-letter/store"),
        dead_letter_bytes: 1 << 20,
        request_bytes: 1 << 20,
    };
    for round in 0..3_u64 {
        let queue = Queue::open(&dir.path().join("queue"), QueueOptions::default(), Arc::new(RealFilesystem))
            .unwrap();
        let (store, writer) = Store::open(&dir.path().join("store"), options()).unwrap();
        let (stop, stops) = watch::channel(false);
        let delivery = start(&queue, writer, deliver.clone(), stops, heartbeat()).unwrap();
        for part in 0..20 {
            let first = (round * 20 + part) * 10;
            let lines: Vec<Line> = (first..first + 10).map(|n| Line::new(n + 1, 1, n, "line")).collect();
            queue.append(frame(request(&lines))).await.unwrap();
            // Sent again, as after an answer that was lost.
            queue.append(frame(request(&lines))).await.unwrap();
        }
        queue.append(frame(b"\xff not a request".to_vec())).await.unwrap();
        until(&store, (round + 1) * 200).await;
        while delivery.numbers().dead_letters.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((store.status().delivered, store.status().duplicates), (200, 200));
        stop.send_replace(true);
        let numbers = Arc::clone(delivery.numbers());
        tokio::task::spawn_blocking(|| delivery.join()).await.unwrap();
        assert_eq!(numbers.frames.load(Ordering::Relaxed), 41);
        assert_eq!(store.status().pending_records, 0, "drained");
        queue.close().await;
    }
    assert_eq!(fs::read_dir(&deliver.dead_letter_dir).unwrap().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_under_a_larger_limit_is_delivered_under_a_smaller_one() {
    let dir = tempfile::tempdir().unwrap();
    let queue =
        Queue::open(&dir.path().join("queue"), QueueOptions::default(), Arc::new(RealFilesystem)).unwrap();
    let (store, writer) = Store::open(&dir.path().join("store"), options()).unwrap();
    let lines: Vec<Line> = (0..10).map(|n| Line::new(n + 1, 1, n, "line")).collect();
    queue.append(frame(request(&lines))).await.unwrap();
    let deliver = DeliverOptions {
        sink: "store".to_owned(),
        dead_letter_dir: dir.path().join("dead-letter/store"),
        dead_letter_bytes: 1 << 20,
        request_bytes: 100,
    };
    let (_stop, stops) = watch::channel(false);
    let delivery = start(&queue, writer, deliver, stops, heartbeat()).unwrap();
    until(&store, 10).await;
    assert_eq!(delivery.numbers().dead_letters.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_cursor_of_a_sink_that_is_gone_is_forgotten_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Queue::open(dir.path(), QueueOptions::default(), Arc::new(RealFilesystem)).unwrap();
    let queue = open();
    queue.register("before", None);
    queue.register("store", None);
    queue.close().await;
    let queue = open();
    assert_eq!(queue.cursors(), ["before", "store"]);
    forget_all_but(&queue, &["store"]);
    queue.close().await;
    assert_eq!(open().cursors(), ["store"]);
}
