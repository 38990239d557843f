//! Delivery with a real queue and a real store.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use sonde_daemon::health::Health;

use super::*;
use crate::deliver::dead_letter::DeadLetters;
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
    let letters = dir.path().join("dead-letter");
    let deliver =
        StoreOptions { sink: "store".to_owned(), request_bytes: 1 << 20, cluster: "east".to_owned() };
    let names = [Some("east".to_owned()), None, None, None, None];
    for round in 0..3_u64 {
        let queue =
            Queue::open(&dir.path().join("queue"), QueueOptions::on_any_disk(), Arc::new(RealFilesystem))
                .unwrap();
        let (store, writer) = Store::open(&dir.path().join("store"), options()).unwrap();
        let (stop, stops) = watch::channel(false);
        let shelf = DeadLetters::open(&letters, 1 << 20).unwrap().shelf("store");
        let delivery = start(&queue, writer, deliver.clone(), shelf, stops, heartbeat()).unwrap();
        for part in 0..20 {
            let first = (round * 20 + part) * 10;
            let lines: Vec<Line> = (first..first + 10).map(|n| Line::new(n + 1, 1, n, "line")).collect();
            queue.append(frame(request(&lines))).await.unwrap();
            // Sent again, as after an answer that was lost.
            queue.append(frame(request(&lines))).await.unwrap();
        }
        queue.append(frame(b"\xff not a request".to_vec())).await.unwrap();
        until(&store, (round + 1) * 200).await;
        let east = Filter { names: names.clone(), ..Filter::default() };
        assert_eq!(store.count(east, || true).unwrap().records, (round + 1) * 200, "under our cluster");
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
    let mut kept = 0;
    for file in fs::read_dir(letters.join("store")).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["sink"], &line["code"]), (&"store".into(), &"unreadable".into()));
            assert_eq!(line["payload"], "/yBub3QgYSByZXF1ZXN0", "it is there as it came");
            kept += 1;
        }
    }
    assert_eq!(kept, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_under_a_larger_limit_is_delivered_under_a_smaller_one() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(&dir.path().join("queue"), QueueOptions::on_any_disk(), Arc::new(RealFilesystem))
        .unwrap();
    let (store, writer) = Store::open(&dir.path().join("store"), options()).unwrap();
    let lines: Vec<Line> = (0..10).map(|n| Line::new(n + 1, 1, n, "line")).collect();
    queue.append(frame(request(&lines))).await.unwrap();
    let letters = dir.path().join("dead-letter");
    let deliver = StoreOptions { sink: "store".to_owned(), request_bytes: 100, cluster: String::new() };
    let (_stop, stops) = watch::channel(false);
    let shelf = DeadLetters::open(&letters, 1 << 20).unwrap().shelf("store");
    let delivery = start(&queue, writer, deliver, shelf, stops, heartbeat()).unwrap();
    until(&store, 10).await;
    assert_eq!(delivery.numbers().dead_letters.load(Ordering::Relaxed), 0);
}
