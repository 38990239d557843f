//! Inodes that other files get while nobody holds them, and listings that miss a file.

use super::{LIVE, full, pending, world};
use crate::logs::simulation::World;

const OLD: &str = "ns_pod_uid/app/0.log.20261120-163502";
const NEXT: &str = "ns_pod_uid/app/0.log.20261120-163503";

/// What is done where more drained files are open than stay so.
fn close_all(world: &mut World) {
    for id in world.core.files.keys().copied().collect::<Vec<_>>() {
        world.core.close(id);
    }
}

fn compress(world: &World, path: &str) {
    world.disk.gzip(path);
    world.disk.remove(path);
}

#[test]
fn a_closed_files_inode_under_another_name_is_another_file_unless_it_begins_alike() {
    // In grace, and beyond.
    for seconds in [5, 15] {
        for is_compressed in [true, false] {
            let mut world = world();
            world.disk.append(LIVE, full(1, "one").as_bytes());
            world.drain();
            world.disk.rename(LIVE, OLD);
            world.disk.append(LIVE, full(2, "two").as_bytes());
            world.drain_for(seconds);
            close_all(&mut world);
            // Between two looks the inode that was freed is the next live file's.
            if is_compressed {
                world.disk.gzip(OLD);
            }
            world.disk.rename(LIVE, NEXT);
            world.disk.truncate(OLD);
            world.disk.rename(OLD, LIVE);
            world.disk.append(LIVE, full(3, "three").as_bytes());
            world.drain();
            world.disk.append(LIVE, full(4, "four").as_bytes());
            world.drain();
            assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three", "four"], "{seconds}");
            assert_eq!((world.order.len(), world.resent_unmarked), (4, 0));
            assert_eq!((world.lost(), pending(&world), world.core.gaps), (0, 0, 0));
        }
    }
}

#[test]
fn a_compressed_files_inode_that_is_the_next_compressed_ones_is_another_file() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.drain();
    compress(&world, OLD);
    world.drain();
    // The oldest goes, and what is compressed next has its inode.
    let packed = format!("{OLD}.gz");
    world.disk.rename(LIVE, NEXT);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.disk.gzip(NEXT);
    let bytes = world.disk.read(&format!("{NEXT}.gz"));
    world.disk.remove(NEXT);
    world.disk.remove(&format!("{NEXT}.gz"));
    world.disk.truncate(&packed);
    world.disk.append(&packed, &bytes);
    world.disk.rename(&packed, &format!("{NEXT}.gz"));
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three"]);
    world.core.finish(world.now.mono);
    // Each file is known by its own beginning: nothing is sent again.
    world.restart();
    for _ in 0..50 {
        world.turn(100);
    }
    assert!(world.unsettled.is_empty(), "sent again");
    assert_eq!((world.lost(), pending(&world), world.core.gaps), (0, 0, 0));
}

#[test]
fn a_listing_that_misses_a_closed_file_once_costs_nothing() {
    for is_compressed in [false, true] {
        let mut world = world();
        world.disk.append(LIVE, full(1, "one").as_bytes());
        world.drain();
        world.disk.rename(LIVE, OLD);
        world.disk.append(LIVE, full(2, "two").as_bytes());
        world.drain();
        close_all(&mut world);
        // Seen nowhere for a moment, as in the middle of a rename.
        world.disk.rename(OLD, "elsewhere/x");
        for _ in 0..30 {
            world.turn(100);
        }
        world.disk.rename("elsewhere/x", OLD);
        if is_compressed {
            compress(&world, OLD);
        }
        let before = world.order.len();
        for _ in 0..50 {
            world.turn(100);
        }
        assert!(world.unsettled.is_empty(), "sent again");
        world.drain();
        world.core.finish(world.now.mono);
        world.restart();
        for _ in 0..50 {
            world.turn(100);
        }
        assert!(world.unsettled.is_empty() && world.order.len() == before, "sent again by the next process");
        assert_eq!((world.lost(), pending(&world), world.core.gaps), (0, 0, 0));
    }
}
