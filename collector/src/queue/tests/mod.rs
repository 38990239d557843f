//! The queue's promises, on the real file system and on one that fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

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
        min_free: MinFree::Bytes(0),
        segment_bytes: 16 << 10,
        read_patience: Duration::ZERO,
        ..QueueOptions::default()
    }
}

fn open(dir: &Path) -> Queue {
    Queue::open(dir, options(), Arc::new(RealFilesystem)).unwrap()
}

#[tokio::test]
async fn what_is_appended_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    let mut reader = queue.reader(Position::default());
    let mut positions = Vec::new();
    for n in 0..3000 {
        positions.push(queue.append(frame(&format!("payload {n}"))).await.unwrap());
    }
    for (n, position) in positions.iter().enumerate() {
        let entry = reader.next().await.unwrap();
        assert_eq!(entry.position, *position);
        assert_eq!(entry.frame, frame(&format!("payload {n}")));
    }
    assert!(queue.status().segments > 5);
    queue.close().await;
    assert_eq!(reader.next().await, None);
}
