//! Files that were changed by something else than the queue.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::{frame, options};
use crate::queue::cursor::Cursors;
use crate::queue::inspect::Inspection;
use crate::queue::state::segment_name;
use crate::queue::tests::disk::Disk;
use crate::queue::{Damaged, Entry, Frame, Position, Queue};

const DIR: &str = "/queue";

fn open(disk: &Disk) -> Queue {
    Queue::open(Path::new(DIR), options(), Arc::new(disk.clone())).unwrap()
}

async fn fill(disk: &Disk, frames: u32) -> Vec<(Position, Frame)> {
    let queue = open(disk);
    let mut sent = Vec::new();
    for n in 0..frames {
        let frame = frame(&format!("{n:04}{}", "payload ".repeat(n as usize % 300)));
        sent.push((queue.append(frame.clone()).await.unwrap(), frame));
    }
    queue.close().await;
    sent
}

async fn read_all(disk: &Disk) -> (Vec<Entry>, Damaged) {
    let queue = open(disk);
    let mut reader = queue.reader(Position::default());
    let mut entries = Vec::new();
    queue.append(frame("last")).await.unwrap();
    queue.close().await;
    while let Some(entry) = reader.next().await {
        entries.push(entry);
    }
    let last = entries.pop().expect("it accepts and delivers after any damage");
    assert_eq!(last.frame, frame("last"));
    (entries, queue.status().damaged)
}

fn segments(disk: &Disk) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.parent() == Some(Path::new(DIR)) && path.extension().is_some());
    paths
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn one_flipped_bit_costs_at_most_its_frame_and_is_counted(
        seed: u64, file: prop::sample::Index, at: prop::sample::Index, bit in 0..8_u8, sealed: bool,
    ) {
        let disk = Disk::new(1 << 20, seed);
        let sent = run(fill(&disk, 60));
        let path = file.get(&segments(&disk)).clone();
        let mut bytes = disk.read(&path);
        if !sealed {
            bytes.truncate(bytes.len() - 48);
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        disk.put(&path, bytes);
        let (entries, damaged) = run(read_all(&disk));
        let delivered: Vec<_> = entries.into_iter().map(|entry| (entry.position, entry.frame)).collect();
        let missing: Vec<_> = sent.iter().filter(|sent| !delivered.contains(sent)).collect();
        prop_assert_eq!(delivered.len() + missing.len(), sent.len(), "nothing that was not sent");
        prop_assert!(missing.len() <= 1);
        prop_assert!(delivered.is_sorted_by(|a, b| a.0 < b.0));
        if let Some((_, frame)) = missing.first() {
            let torn = damaged.torn_bytes >= frame.payload.len() as u64;
            prop_assert!(damaged.frames == 1 || torn && !sealed, "{:?}", damaged);
        }
    }

    #[test]
    fn any_bytes_as_segments_and_cursors_start_and_work(
        seed: u64,
        files in prop::collection::vec((0..3_u64, prop::collection::vec(any::<u8>(), 0..9000)), 0..4),
        cursors in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
        keep in 0..6000_usize,
    ) {
        let disk = Disk::new(1 << 20, seed);
        run(fill(&disk, 3));
        // One that begins as a real one does, then anything.
        let path = segments(&disk).remove(0);
        let mut mixed = disk.read(&path);
        mixed.truncate(keep);
        mixed.extend(files.iter().flat_map(|(_, bytes)| bytes.iter().copied()));
        disk.put(&path, mixed);
        for (number, bytes) in files {
            disk.put(&Path::new(DIR).join(format!("{number:020}.segment")), bytes);
        }
        if let Some(cursors) = cursors {
            disk.put(&Path::new(DIR).join("cursors"), cursors);
        }
        run(read_all(&disk));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// As a person looks into it whose collector does not start: whatever is there, and real files.
    #[test]
    fn any_change_to_the_files_is_looked_into_from_outside(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), change in 0..10_u8,
        noise in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let disk = Disk::new(1 << 20, 1);
        run(fill(&disk, 60));
        let dir = tempfile::tempdir().unwrap();
        let mut paths = segments(&disk);
        paths.push(Path::new(DIR).join("cursors"));
        let changed = file.get(&paths).clone();
        let mut frames = 0;
        for path in &paths {
            let mut bytes = if disk.paths().contains(path) { disk.read(path) } else { vec![0; 50] };
            let at = at.index(bytes.len());
            match change {
                _ if *path != changed => {}
                0..8 => bytes[at] ^= 1 << change,
                8 => bytes.truncate(at),
                _ => bytes = noise.clone(),
            }
            std::fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        let queue = Inspection::of(dir.path()).unwrap();
        for segment in &queue.segments {
            let found = queue.walk(segment.number, Position::default(), |_| ControlFlow::Continue(())).unwrap();
            frames += found.frames;
            let whole = dir.path().join(segment_name(segment.number)) != dir.path().join(changed.file_name().unwrap());
            prop_assert!(!whole || found.damaged.is_empty() && !found.header_damaged && found.torn_bytes == 0);
            queue.bytes_from(Position { segment: segment.number, offset: u64::from(change) });
        }
        prop_assert!(frames <= 60);
    }
}

#[test]
fn a_segment_without_a_header_is_set_aside_and_counted() {
    let disk = Disk::new(1 << 20, 1);
    let sent = run(fill(&disk, 100));
    let path = segments(&disk).remove(1);
    let mut bytes = disk.read(&path);
    bytes[..4096].fill(7);
    disk.put(&path, bytes);
    let (entries, damaged) = run(read_all(&disk));
    assert_eq!(damaged.segments, 1);
    assert!(entries.len() > 50 && entries.len() < sent.len());
    assert!(disk.paths().contains(&Path::new(DIR).join("damaged").join(path.file_name().unwrap())));
}

#[test]
fn a_damaged_cursor_file_means_the_oldest_frame_again() {
    let disk = Disk::new(1 << 20, 1);
    let sent = run(fill(&disk, 10));
    run(async {
        let queue = open(&disk);
        queue.register("sink", None);
        queue.release("sink", sent[5].0);
        queue.close().await;
        let queue = open(&disk);
        assert_eq!(queue.register("sink", None).position, sent[5].0);
        queue.close().await;
    });
    let path = Path::new(DIR).join("cursors");
    let mut bytes = disk.read(&path);
    bytes[12] ^= 1;
    disk.put(&path, bytes);
    let queue = open(&disk);
    assert!(queue.register("sink", None).position <= sent[0].0);
    assert_eq!(queue.status().damaged.cursor_files, 1);
}

#[test]
fn segments_that_are_gone_at_the_start_are_counted_once_for_those_who_were_not_done_with_them() {
    let disk = Disk::new(1 << 20, 1);
    run(async {
        let queue = open(&disk);
        queue.register("sink", None);
        queue.register("ahead", None);
        queue.close().await;
    });
    let sent = run(fill(&disk, 200));
    let numbers: BTreeSet<u64> = sent.iter().map(|(position, _)| position.segment).collect();
    let numbers: Vec<u64> = numbers.into_iter().collect();
    assert!(numbers.len() >= 5, "{numbers:?}");
    // Done with the first segment and the first two frames of the second.
    let second: Vec<_> = sent.iter().filter(|(position, _)| position.segment == numbers[1]).collect();
    run(async {
        let queue = open(&disk);
        assert_eq!(queue.status().damaged, Damaged::default());
        queue.release("sink", second[2].0);
        queue.release("ahead", queue.status().end);
        queue.close().await;
    });
    assert!(!segments(&disk).iter().any(|path| path.to_string_lossy().contains(&segment_name(numbers[0]))));
    let rest: u64 = second[2..].iter().map(|(_, frame)| 48 + frame.payload.len() as u64).sum();
    let whole = sent.iter().filter(|(position, _)| position.segment == numbers[3]);
    let whole: u64 = whole.map(|(_, frame)| 48 + frame.payload.len() as u64).sum();
    for gone in [numbers[1], numbers[3]] {
        disk.lose(&segment_name(gone));
    }
    let (entries, damaged) = run(read_all(&disk));
    assert_eq!((damaged.missing_segments, damaged.missing_bytes), (2, rest + whole));
    let left = |position: &Position| ![numbers[0], numbers[1], numbers[3]].contains(&position.segment);
    assert_eq!(entries.len(), sent.iter().filter(|(position, _)| left(position)).count());
    assert_eq!(run(read_all(&disk)).1, Damaged::default(), "said once");
}

#[test]
fn a_cursor_file_of_the_version_before_is_read() {
    let mut bytes = b"SONDEC\x00\x01\x04\x00sink".to_vec();
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(4096_u64.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    let saved = Cursors::decode(&bytes).unwrap();
    assert_eq!(saved.cursors.get("sink"), Some(Position { segment: 7, offset: 4096 }));
    assert!(saved.segments.is_empty());
}
