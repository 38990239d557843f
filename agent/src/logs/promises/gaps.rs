//! Rotations that nobody saw.

use super::{LIVE, full, pending, world};
use crate::logs::simulation::World;

fn old(number: u32) -> String {
    format!("{LIVE}.20261120-1635{number:02}")
}

/// The live file is renamed, and the next one has a line.
fn rotate(world: &World, number: u32, body: &str) {
    world.disk.rename(LIVE, &old(number));
    world.disk.append(LIVE, full(number + 1, body).as_bytes());
}

#[test]
fn files_that_came_and_went_while_nobody_looked_are_a_gap_once() {
    for is_down in [true, false] {
        for is_compressed in [true, false] {
            let mut world = world();
            world.disk.append(LIVE, full(1, "one").as_bytes());
            world.drain();
            assert_eq!(world.core.gaps, 0);
            world.core.finish(world.now.mono);
            rotate(&world, 2, "never seen");
            rotate(&world, 3, "three");
            world.disk.remove(&old(2));
            if is_compressed {
                world.disk.gzip(&old(3));
            }
            world.disk.remove(&old(3));
            if is_down {
                world.restart();
            }
            world.drain();
            world.drain();
            let seen: &[&str] =
                if is_compressed { &["one", "never seen", "three"] } else { &["one", "three"] };
            assert_eq!(world.bodies("pod", "stdout"), seen, "{is_down}");
            assert_eq!((world.core.gaps, pending(&world), world.lost()), (1, 0, 0), "{is_down}");
            world.core.finish(world.now.mono);
            world.restart();
            world.drain();
            assert_eq!(world.core.gaps, 1);
        }
    }
}

#[test]
fn the_oldest_file_that_goes_and_rotations_that_were_seen_are_no_gap() {
    for is_down in [true, false] {
        let mut world = world();
        world.disk.append(LIVE, full(1, "one").as_bytes());
        for number in 2..12 {
            world.drain_for(3);
            if is_down {
                world.core.finish(world.now.mono);
            }
            rotate(&world, number, "next");
            // The kubelet's order: all but the latest are compressed, the oldest goes.
            if number > 2 {
                world.disk.gzip(&old(number - 1));
                world.disk.remove(&old(number - 1));
            }
            if number > 4 {
                world.disk.remove(&format!("{}.gz", old(number - 3)));
            }
            if is_down {
                world.restart();
            }
        }
        world.drain();
        world.drain();
        assert_eq!((world.core.gaps, pending(&world), world.lost()), (0, 0, 0), "{is_down}");
        assert_eq!(world.order.len(), 11);
    }
}

#[test]
fn a_listing_that_misses_the_live_file_for_a_moment_is_no_gap() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    // In the middle of a rename, with the next one there already.
    world.disk.rename(LIVE, "elsewhere/x");
    world.disk.append(LIVE, full(2, "two").as_bytes());
    for _ in 0..30 {
        world.turn(100);
    }
    world.disk.rename("elsewhere/x", &old(2));
    world.drain();
    world.drain();
    assert_eq!((world.core.gaps, pending(&world), world.lost()), (0, 0, 0));
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two"]);
}

#[test]
fn a_pod_that_goes_is_no_gap() {
    for is_down in [true, false] {
        let mut world = world();
        world.disk.append(LIVE, full(1, "one").as_bytes());
        world.drain();
        rotate(&world, 2, "two");
        world.drain();
        world.core.finish(world.now.mono);
        world.disk.remove(LIVE);
        if is_down {
            world.restart();
        }
        world.drain();
        world.disk.remove(&old(2));
        world.drain();
        assert_eq!((world.core.gaps, pending(&world), world.lost()), (0, 0, 0), "{is_down}");
    }
}
