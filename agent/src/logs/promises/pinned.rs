//! Bytes of deleted files that are held open: bounded, and none for what is settled.

use super::{LIVE, full, pending, world};
use crate::logs::fs::{LogFile, LogFs};
use crate::logs::simulation::{Disk, World};
use crate::logs::tail::{Handle, TailFile};

const OLD: &str = "ns_pod_uid/app/0.log.20261120-163502";

/// Text that hardly compresses.
fn dense(seed: u64, bytes: usize) -> String {
    let (mut state, mut text) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, String::new());
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

/// Bytes of deleted inodes that are held open, counted from the handles.
fn held(world: &World) -> u64 {
    let size = |file: &TailFile<<Disk as LogFs>::File>| match &file.handle {
        Some(Handle::Plain(handle)) if file.plain.is_none() => handle.stat().unwrap().size,
        Some(Handle::Gz(handle)) if file.gz.is_none() => handle.stat().unwrap().size,
        _ => 0,
    };
    world.core.files.values().map(size).sum()
}

#[test]
fn a_file_that_was_read_settled_and_compressed_does_not_hold_its_deleted_inode() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.disk.gzip(OLD);
    world.disk.remove(OLD);
    world.turn(100);
    assert_eq!(held(&world), full(1, "one").len() as u64);
    assert_eq!(world.core.snapshot().pinned_bytes, held(&world));
    world.drain();
    assert_eq!((held(&world), world.core.snapshot().pinned_bytes), (0, 0));
    assert_eq!(world.core.files.len(), 2, "it is known all the same");
    // And is not read again, by this process or the next.
    let packed = world.core.files.values().find(|file| file.gz.is_some()).unwrap();
    assert!(packed.handle.is_none(), "it is not decoded for that");
    world.core.finish(world.now.mono);
    world.restart();
    for _ in 0..50 {
        world.turn(100);
    }
    assert!(world.unsettled.is_empty());
    assert_eq!((world.order.len(), world.lost(), pending(&world)), (2, 0, 0));
}

#[test]
fn compressed_files_that_are_deleted_in_an_outage_are_held_open_only_up_to_the_limit() {
    let mut world = world();
    world.core.settings.pinned_deleted = 3000;
    // Every slot is taken by another container.
    for line in 0..100 {
        world.disk.append("ns_busy_uid0/app/0.log", full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    let old = |number: u32| format!("{LIVE}.20261120-1635{number:02}");
    for round in 0..20 {
        world.disk.append(LIVE, full(round, &dense(u64::from(round), 2000)).as_bytes());
        world.turn(1100);
        world.disk.rename(LIVE, &old(round));
        if let Some(before) = round.checked_sub(1) {
            world.disk.gzip(&old(before));
            world.disk.remove(&old(before));
        }
        if let Some(oldest) = round.checked_sub(3) {
            world.disk.remove(&format!("{}.gz", old(oldest)));
        }
        world.turn(1100);
        assert!(held(&world) <= 3000, "{} bytes are held in round {round}", held(&world));
        assert_eq!(world.core.snapshot().pinned_bytes, held(&world));
    }
    world.drain();
    let by_limit: u64 = world.core.ledger.rows().map(|(_, row)| row.lost[3]).sum();
    assert!(by_limit > 10 * 2000, "{by_limit}");
    assert_eq!((world.lost(), pending(&world)), (by_limit, 0));
}
