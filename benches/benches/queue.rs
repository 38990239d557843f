//! Frames made durable: as many appends at a time as there are senders, one fdatasync for all that wait.
//!
//! `cargo bench -p sonde-benches --bench queue` (in `TMPDIR`; put that on the volume that is meant)

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sonde_collector::queue::{Codec, Frame, MinFree, Position, Queue, QueueOptions, RealFilesystem, Signal};
use tokio::task::JoinSet;

/// A request of 1 MiB, compressed.
const PAYLOAD: usize = 200 << 10;

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let payload: Bytes = vec![0x5a; PAYLOAD].into();
    let mut group = c.benchmark_group("append");
    group.sample_size(10);
    for senders in [1, 4, 16] {
        let dir = tempfile::tempdir().unwrap();
        let options =
            QueueOptions { max_bytes: 512 << 20, min_free: MinFree::Bytes(0), ..QueueOptions::default() };
        let queue = Queue::open(dir.path(), options, Arc::new(RealFilesystem)).unwrap();
        let _ = queue.register("bench", None);
        group.throughput(Throughput::Bytes((senders * PAYLOAD) as u64));
        group.bench_function(format!("{senders} at a time"), |b| {
            b.iter(|| {
                let last = runtime.block_on(together(&queue, senders, &payload));
                // Read as soon as it is there: the queue stays small.
                queue.release("bench", last);
            });
        });
        runtime.block_on(queue.close());
    }
    group.finish();
}

/// Appends a frame for each sender, and waits until all of them are durable.
async fn together(queue: &Queue, senders: usize, payload: &Bytes) -> Position {
    let mut appends = JoinSet::new();
    for _ in 0..senders {
        let (queue, payload) = (queue.clone(), payload.clone());
        appends.spawn(async move {
            let frame = Frame {
                signal: Signal::Logs,
                codec: Codec::Zstd,
                resend: false,
                received_unix_nano: 0,
                records: 4000,
                uncompressed_len: 1 << 20,
                payload,
            };
            queue.append(frame).await.unwrap()
        });
    }
    appends.join_all().await.into_iter().max().unwrap()
}

criterion_group!(benches, append);
criterion_main!(benches);
