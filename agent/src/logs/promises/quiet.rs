//! Files that nobody writes to, and files that nobody may read.

use std::time::Duration;

use super::{LIVE, full, pending, world};
use crate::logs::fs::Place;

#[test]
fn thousands_of_idle_files_wake_nobody_and_are_not_read_again() {
    let mut world = world();
    for pod in 0..2000 {
        let path = format!("ns_pod-{pod}_uid-{pod}/app/0.log");
        world.disk.append(&path, full(1, "the only line").as_bytes());
    }
    world.disk.watch_all();
    for _ in 0..20 {
        world.drain();
    }
    assert_eq!((world.got.len(), pending(&world)), (2000, 0));
    let (read, calls) = (world.disk.taken(), world.disk.calls());
    let (start, mut turns) = (world.now.mono, 0);
    while world.now.mono - start < Duration::from_secs(600) {
        let due = world.core.next_turn().expect("there is nothing to do now");
        world.turn(u64::try_from((due - world.now.mono).as_millis()).unwrap().max(1));
        turns += 1;
    }
    // A listing of everything each minute is all there is to do.
    assert!(turns <= 40, "{turns} turns in ten minutes");
    assert_eq!(world.disk.taken() - read, 0, "bytes were read of files that did not change");
    let calls = world.disk.calls() - calls;
    assert!(calls <= 11 * 4 * 2001, "{calls} looks");
}

#[test]
fn what_is_written_and_not_told_is_found_by_the_regular_listing() {
    let mut world = world();
    world.disk.watch_all();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.disk.append("ns_new_uid2/app/0.log", full(3, "three").as_bytes());
    for _ in 0..5 {
        world.drain();
    }
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two"]);
    assert_eq!(world.bodies("new", "stdout"), ["three"]);
}

#[test]
fn a_file_that_may_not_be_read_is_counted_and_tried_again_and_costs_no_other_a_line() {
    let mut world = world();
    world.disk.deny(LIVE, true);
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.disk.append("ns_other_uid2/app/0.log", full(1, "other").as_bytes());
    world.drain();
    assert_eq!(world.bodies("other", "stdout"), ["other"]);
    assert_eq!((world.got.len(), world.core.snapshot().unreadable), (1, 1));
    world.disk.deny(LIVE, false);
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
    assert_eq!((world.lost(), pending(&world), world.core.snapshot().unreadable), (0, 0, 0));
}

#[test]
fn a_directory_of_plain_files_where_much_happens_is_listed_a_few_times_a_second_and_nothing_of_it_is_missed()
{
    let mut world = super::files::world();
    let path = |file: u32| format!("/var/log/{file}.log");
    (0..200).for_each(|file| world.disk.append(&path(file), format!("{file}\n").as_bytes()));
    world.disk.watch_all();
    world.drain();
    assert_eq!(world.got.len(), 200);
    let calls = world.disk.calls();
    for file in 200..300 {
        // Ten seconds, in which other files come and go all the time.
        world.disk.append(&path(file), format!("{file}\n").as_bytes());
        for _ in 0..10 {
            world.disk.tell(Place::Dir("/var/log".into()));
            world.turn(10);
            while !world.unsettled.is_empty() {
                world.accept(0, true);
            }
        }
    }
    // A look at each file is one call; of a new one a few more.
    let calls = world.disk.calls() - calls;
    assert!(calls <= 40 * 301 + 100 * 20, "{calls} looks");
    world.drain();
    assert_eq!((world.got.len(), pending(&world)), (300, 0));
    // And the last of them is not left waiting.
    world.disk.append(&path(300), b"300\n");
    world.disk.tell(Place::Dir("/var/log".into()));
    world.turn(10);
    world.disk.append(&path(301), b"301\n");
    world.disk.tell(Place::Dir("/var/log".into()));
    world.turn(10);
    let due = world.core.next_turn().map_or(0, |due| (due - world.now.mono).as_millis());
    assert!(due <= 250, "{due} ms");
    world.drain_for(5);
    assert_eq!(world.got.len(), 302);
}
