//! Docker's files whose first messages are long and alike: their stamps stand behind what was once hashed of them.

use sonde_wire::uid::FileHash;

use super::docker::{DIR, JSON, compress, full, labelled, rotate};
use super::{LIVE, pending, world};
use crate::logs::checkpoint::{Checkpoints, Entry, Store};
use crate::logs::simulation::World;

fn banner() -> String {
    "=".repeat(2000)
}

fn bodies(world: &World) -> Vec<String> {
    world.bodies("pod", "stdout").iter().map(|body| body.chars().take(9).collect()).collect()
}

fn is_quiet_after_a_restart(world: &mut World) -> bool {
    world.core.finish(world.now.mono);
    world.restart();
    for _ in 0..100 {
        world.turn(100);
    }
    world.unsettled.is_empty()
}

/// The state as an agent wrote it that hashed a KiB of the first entry, whatever its length.
fn make_older(world: &mut World, first_entry: &str) {
    let (_, state) = Checkpoints::open(Box::new(world.store.clone())).unwrap();
    let older = FileHash::new("uid", "app", 0, first_entry.as_bytes());
    let mut entries: Vec<Entry> = Vec::new();
    for (mut key, mut file) in state.files {
        assert_eq!(file.head_len, 1024 + 64);
        (key.hash, file.head_len) = (older, 1024);
        entries.push(Entry::File(key, file));
    }
    entries.extend(state.rows.into_iter().map(|(key, row)| Entry::Row(key, row)));
    let mut store = world.store.clone();
    store.replace(&[]).unwrap();
    let (mut checkpoints, _) = Checkpoints::open(Box::new(store)).unwrap();
    assert!(checkpoints.write(&entries, true, world.now.mono));
    assert!(checkpoints.write(&[Entry::Stopped], false, world.now.mono));
}

#[test]
fn files_with_long_first_messages_that_are_alike_are_each_shipped_whole() {
    for is_down in [false, true] {
        for path in [JSON, LIVE] {
            let mut world = if path == JSON { labelled() } else { world() };
            world.disk.append(path, (full(1, &banner()) + &full(1, "one")).as_bytes());
            world.drain();
            if is_down {
                world.core.finish(world.now.mono);
            }
            world.disk.remove(path);
            if is_down {
                world.restart();
            } else {
                // Until nothing is known of it any more.
                world.drain_for(30);
            }
            world.disk.append(path, (full(2, &banner()) + &full(2, "two") + &full(2, "three")).as_bytes());
            world.drain();
            let alike = "=".repeat(9);
            assert_eq!(bodies(&world), [&alike, "one", &alike, "two", "three"], "{path} down: {is_down}");
            assert_eq!((world.lost(), pending(&world), world.order.len()), (0, 0, 5));
            assert!(is_quiet_after_a_restart(&mut world), "sent again");
        }
    }
}

#[test]
fn what_an_agent_of_before_named_by_a_kib_alone_goes_on_under_its_name() {
    for is_compressed in [false, true] {
        let mut world = labelled();
        let first = full(1, &banner());
        world.disk.append(JSON, (first.clone() + &full(1, "one")).as_bytes());
        world.drain();
        world.core.finish(world.now.mono);
        make_older(&mut world, &first);
        world.disk.append(JSON, full(1, "two").as_bytes());
        rotate(&world);
        if is_compressed {
            compress(&world, 1);
        }
        world.disk.append(JSON, (full(2, &banner()) + &full(2, "three")).as_bytes());
        world.restart();
        world.drain();
        let alike = "=".repeat(9);
        assert_eq!(bodies(&world), [&alike, "one", "two", &alike, "three"], "compressed: {is_compressed}");
        let older = FileHash::new("uid", "app", 0, first.as_bytes()).hex();
        assert!(world.order.iter().any(|uid| uid.starts_with(&older) && world.got[uid].body == "two"));
        assert_eq!((world.lost(), pending(&world)), (0, 0));
        assert!(is_quiet_after_a_restart(&mut world), "sent again");
    }
}

#[test]
fn a_file_that_begins_like_one_that_an_agent_of_before_knew_is_not_taken_for_it() {
    let mut world = labelled();
    let first = full(1, &banner());
    world.disk.append(JSON, (first.clone() + &full(1, "one")).as_bytes());
    world.drain();
    world.core.finish(world.now.mono);
    make_older(&mut world, &first);
    // It is elsewhere, so that its inode is nobody else's.
    world.disk.rename(JSON, "elsewhere/file");
    world.disk.append(JSON, (full(2, &banner()) + &full(2, "two")).as_bytes());
    world.restart();
    world.drain();
    let alike = "=".repeat(9);
    assert_eq!(bodies(&world), [&alike, "one", &alike, "two"]);
    assert!(world.disk.names(DIR).iter().any(|name| name == JSON));
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}
