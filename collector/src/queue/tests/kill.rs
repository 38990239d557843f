//! A process that is killed in the middle of its work.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::queue::tests::{frame, options};
use crate::queue::{Position, Queue, QueueOptions, RealFilesystem};

const CHILD: &str = "SONDE_TEST_QUEUE_DIR";
const ROUNDS: usize = 5;

fn open(dir: &Path) -> Queue {
    let options = QueueOptions { max_bytes: 64 << 20, segment_bytes: 256 << 10, ..options() };
    Queue::open(dir, options, Arc::new(RealFilesystem)).unwrap()
}

/// The child's part: sixteen senders, and one line on stdout for each acknowledgement.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let queue = open(Path::new(&dir));
        let senders = (0..16).map(|sender| {
            let queue = queue.clone();
            async move {
                for n in 0.. {
                    let text = format!("{}-{sender}-{n} {}", std::process::id(), "x".repeat(n * 37 % 5000));
                    let position = queue.append(frame(&text)).await.unwrap();
                    let name = text.split(' ').next().unwrap();
                    writeln!(std::io::stdout(), "ack {} {} {name}", position.segment, position.offset)
                        .unwrap();
                }
            }
        });
        let senders: Vec<_> = senders.map(Box::pin).collect();
        let local = tokio::task::LocalSet::new();
        senders.into_iter().for_each(|sender| drop(local.spawn_local(sender)));
        local.await;
    });
}

#[tokio::test]
async fn what_was_acknowledged_before_kill_9_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::tests::kill::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 40 + 57 * round;
        let mut this_round = 0;
        let mut killed = false;
        while let Some(Ok(line)) = lines.next() {
            // The child may be cut off in the middle of a line.
            let Some(["ack", segment, offset, name]) =
                line.split(' ').collect::<Vec<_>>().first_chunk().copied()
            else {
                continue;
            };
            if name.split('-').count() < 3 {
                continue;
            }
            let position = Position { segment: segment.parse().unwrap(), offset: offset.parse().unwrap() };
            acknowledged.push((position, name.to_owned()));
            this_round += 1;
            if this_round == enough {
                std::thread::sleep(Duration::from_millis(3));
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed);
        child.wait().unwrap();
    }
    let queue = open(dir.path());
    queue.close().await;
    let mut reader = queue.reader(Position::default());
    let mut delivered = Vec::new();
    while let Some(entry) = reader.next().await {
        let text = std::str::from_utf8(&entry.frame.payload).unwrap();
        delivered.push((entry.position, text.split(' ').next().unwrap().to_owned()));
    }
    assert!(delivered.is_sorted_by(|a, b| a.0 < b.0));
    for (position, name) in &acknowledged {
        // The last line of a round may have lost the end of its name.
        let found = delivered.iter().find(|(at, _)| at == position);
        assert!(found.is_some_and(|(_, found)| found.starts_with(name.as_str())), "{name} at {position:?}");
    }
    assert_eq!(queue.status().damaged.frames, 0);
    assert!(acknowledged.len() > ROUNDS * 40);
}
