//! Plain files that are known under other names, and others in their places.

use super::files::{APP, bodies, is_quiet_after_a_restart, rotate, world};
use super::pending;
use crate::batch::Outcome;

const OTHER: &str = "/var/log/yesterday.log";

#[test]
fn a_file_that_is_renamed_to_what_the_pattern_means_for_itself_is_the_same_for_the_next_process_too() {
    for is_down in [false, true] {
        for end in ["", ".gz"] {
            let mut world = world();
            world.disk.append(APP, format!("one\n{}\n", "=".repeat(2000)).as_bytes());
            world.drain();
            if is_down {
                world.core.finish(world.now.mono);
            }
            world.disk.append(APP, b"two\n");
            world.disk.rename(APP, OTHER);
            world.disk.append(APP, b"three\n");
            if !is_down {
                world.drain();
                world.core.finish(world.now.mono);
            }
            if !end.is_empty() && !is_down {
                world.disk.gzip(OTHER);
                world.disk.remove(OTHER);
            }
            world.restart();
            world.drain();
            let written = ["one", &"=".repeat(2000), "two", "three"];
            assert_eq!(bodies(&world), written, "down: {is_down} {end}");
            assert_eq!(
                (world.order.len(), world.lost(), pending(&world)),
                (4, 0, 0),
                "down: {is_down} {end}"
            );
            assert!(is_quiet_after_a_restart(&mut world), "sent again");
        }
    }
}

#[test]
fn a_file_that_was_given_the_inode_of_a_deleted_one_is_known_by_its_own_name() {
    for is_down in [false, true] {
        let mut world = world();
        world.disk.append(APP, b"one\n");
        world.drain();
        world.core.finish(world.now.mono);
        let open: Vec<_> = world.core.files.keys().copied().collect();
        if is_down {
            world.restart();
        } else {
            open.into_iter().for_each(|id| world.core.close(id));
        }
        world.disk.remove(APP);
        world.disk.append(OTHER, b"another one\n");
        world.drain();
        assert_eq!(
            (bodies(&world), world.bodies(OTHER, "")),
            (vec!["one".into()], vec!["another one".into()])
        );
        assert_eq!((world.lost(), pending(&world)), (0, 0));
        assert!(is_quiet_after_a_restart(&mut world), "sent again: down: {is_down}");
    }
}

#[test]
fn what_was_refused_is_not_taken_from_another_file_however_long_it_begins_alike() {
    let heading = format!("{}\n", "#".repeat(99));
    let mut world = world();
    let old = format!("{heading}one\ntwo\n");
    world.disk.append(APP, old.as_bytes());
    for _ in 0..100 {
        if world.unsettled.is_empty() {
            world.turn(50);
        }
    }
    assert_eq!(world.unsettled[0].records, 3);
    world.disk.truncate(APP);
    world.disk.append(APP, format!("{heading}new one\nnew two\n").as_bytes());
    world.settle(0, Outcome::Refused { code: "413".into() });
    world.drain_for(30);
    assert_eq!(bodies(&world), [&heading[..99], "new one", "new two"]);
    assert_eq!((world.lost(), pending(&world)), (old.len() as u64, 0));
}

#[test]
fn a_line_longer_than_a_window_does_not_go_on_in_another_file_that_begins_alike() {
    let heading = format!("{}\n", "#".repeat(99));
    let begin = |name: &str| heading.clone() + &format!("{name}\n").repeat(2000);
    let mut world = world();
    world.disk.append(APP, format!("{}{}", begin("old"), "a".repeat(300_000)).as_bytes());
    // Its first lines are read, and the end of its last one is looked for.
    for _ in 0..60 {
        world.turn(50);
        while !world.unsettled.is_empty() {
            world.accept(0, true);
        }
    }
    assert!(world.core.files.values().any(|file| file.scanned > file.read && file.read > 4096));
    world.disk.truncate(APP);
    world.disk.append(APP, format!("{}{}\nnext\n", begin("new"), "b".repeat(400_000)).as_bytes());
    world.drain_for(30);
    let got = bodies(&world);
    let count = |body: &str| got.iter().filter(|other| *other == body).count();
    assert_eq!((count(&heading[..99]), count("old"), count("new"), count("next")), (2, 2000, 2000, 1));
    assert_eq!((count(&"b".repeat(4096)), got.len()), (1, 4004));
    assert_eq!((world.lost(), pending(&world)), (300_000, 0));
}

#[test]
fn a_compressed_file_that_begins_like_another_one_and_ends_otherwise_is_no_copy_of_it() {
    for is_emptied in [false, true] {
        let heading: String = (0..1000).map(|line| format!("{line:0>100}\n")).collect();
        let mut world = world();
        let live = format!("{heading}the live one\n");
        world.disk.append(APP, live.as_bytes());
        world.drain();
        let other = format!("{APP}.1");
        world.disk.append(&other, format!("{heading}other\nend of it\n").as_bytes()[..live.len()].as_ref());
        world.disk.gzip(&other);
        world.disk.remove(&other);
        if is_emptied {
            world.disk.truncate(APP);
        }
        world.drain_for(30);
        let got = bodies(&world);
        assert_eq!(got.iter().filter(|body| *body == "the live one").count(), 1);
        assert_eq!(got.iter().filter(|body| *body == "other").count(), 1, "emptied: {is_emptied}");
        assert_eq!((got.len(), world.lost(), pending(&world)), (2003, 0, 0), "emptied: {is_emptied}");
    }
}

#[test]
fn nothing_is_sent_again_where_the_cluster_has_another_name_and_what_comes_is_known_by_that() {
    for is_compressed in [false, true] {
        let mut world = world();
        let heading = format!("{}\n", "#".repeat(2000));
        for text in ["one\n", &format!("{heading}two\n")] {
            world.disk.append(APP, text.as_bytes());
            world.drain();
            rotate(&world, is_compressed);
        }
        world.disk.append(APP, b"three\n");
        world.drain();
        for round in 0..3 {
            world.core.finish(world.now.mono);
            world.cluster = format!("cluster {round}");
            world.disk.append(APP, format!("{round} behind\n").as_bytes());
            world.restart();
            world.drain();
            world.disk.append(APP, format!("{round} live\n").as_bytes());
            rotate(&world, is_compressed);
            world.disk.append(APP, format!("{heading}{round} anew\n").as_bytes());
            world.drain_for(30);
        }
        let mut written = vec!["one".to_owned(), heading.trim_end().into(), "two".into(), "three".into()];
        for round in 0..3 {
            written.extend([format!("{round} behind"), format!("{round} live")]);
            written.extend([heading.trim_end().into(), format!("{round} anew")]);
        }
        assert_eq!(bodies(&world), written, "compressed: {is_compressed}");
        assert_eq!((world.order.len(), world.lost(), pending(&world)), (written.len(), 0, 0));
        assert!(is_quiet_after_a_restart(&mut world), "sent again");
    }
}
