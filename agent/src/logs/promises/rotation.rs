//! Rotation, removal, and files that are there or not.

use super::{LIVE, full, pending, world};
use crate::logs::odd::Oddity;
use crate::logs::simulation::World;

#[test]
fn unread_bytes_of_a_deleted_pod_are_read_through_the_open_handle() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(10);
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.disk.remove(LIVE);
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two"]);
    assert_eq!(world.lost(), 0);
    assert!(world.core.files.is_empty() && world.core.lineages.is_empty(), "nothing is kept of it");
}

#[test]
fn a_pod_deleted_while_the_agent_was_down_is_counted() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.turn(1200);
    world.turn(1200);
    // Read, sent, not acknowledged; the sizes are on disk.
    world.unsettled.clear();
    world.disk.remove(LIVE);
    world.restart();
    world.drain();
    assert_eq!(world.lost(), full(2, "two").len() as u64);
}

#[test]
fn any_number_of_rotations_between_two_looks_loses_nothing() {
    let mut world = world();
    let mut expected = Vec::new();
    for rotation in 0..20 {
        for line in 0..3 {
            let body = format!("{rotation}-{line}");
            world.disk.append(LIVE, full(rotation, &body).as_bytes());
            expected.push(body);
        }
        world.disk.rename(LIVE, &format!("{LIVE}.20261120-1635{rotation:02}"));
        if rotation == 3 {
            world.turn(100);
        }
    }
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), expected);
}

#[test]
fn what_is_written_into_the_renamed_file_long_after_it_was_quiet_is_shipped_too() {
    for is_compressed in [false, true] {
        let mut world = world();
        world.disk.append(LIVE, full(1, "one").as_bytes());
        world.drain();
        let old = format!("{LIVE}.20261120-163502");
        world.disk.rename(LIVE, &old);
        world.disk.append(LIVE, full(2, "two").as_bytes());
        world.drain_for(30);
        world.disk.append(&old, full(3, "late").as_bytes());
        if is_compressed {
            world.disk.gzip(&old);
            world.disk.remove(&old);
        }
        world.drain_for(90);
        assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "late"], "compressed: {is_compressed}");
        assert_eq!(pending(&world), 0);
    }
}

#[test]
fn late_writes_into_the_renamed_file_are_shipped() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(100);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.turn(100);
    world.disk.append(&old, full(2, "two").as_bytes());
    world.turn(500);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.turn(500);
    world.disk.append(&old, full(4, "late").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three", "late"]);
}

#[test]
fn deleted_bytes_are_held_open_only_up_to_the_limit_and_what_is_lost_is_counted() {
    let mut world = world();
    world.core.settings.pinned_deleted = 3000;
    // Every slot is taken by another container.
    for line in 0..100 {
        world.disk.append("ns_busy_uid0/app/0.log", full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    for pod in 1..4 {
        for line in 0..20 {
            world
                .disk
                .append(&format!("ns_gone-{pod}_uid{pod}/app/0.log"), full(line, &"c".repeat(50)).as_bytes());
        }
    }
    world.turn(50);
    for pod in 1..4 {
        world.disk.remove(&format!("ns_gone-{pod}_uid{pod}/app/0.log"));
    }
    world.turn(1100);
    world.drain();
    let lost: u64 = world.core.ledger.rows().map(|(_, row)| row.lost[3]).sum();
    assert!(lost > 0 && lost < 6000, "{lost}");
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.pending()).sum::<u64>(), 0);
}

#[test]
fn a_rotated_file_that_was_removed_between_two_looks_is_read_before_its_successors() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(10);
    world.disk.append(LIVE, full(2, "two").as_bytes());
    world.disk.remove(LIVE);
    world.disk.append(&format!("{LIVE}.20261120-163503"), full(3, "three").as_bytes());
    world.disk.append(LIVE, full(4, "four").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three", "four"]);
    assert_eq!(world.lost(), 0);
}

#[test]
fn what_could_not_be_read_is_forgotten_when_it_is_gone() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    for path in ["", "ns_gone_uid9/app", "ns_pod_uid/side", "ns_pod_uid/app/1.log"] {
        world.core.unreadable.insert(path.to_owned());
    }
    world.drain();
    assert!(world.core.unreadable.is_empty(), "{:?}", world.core.unreadable);
}

#[test]
fn names_that_the_kubelet_would_not_make_are_said_once_a_kind_however_many_there_are() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    for n in 0..100 {
        world.disk.append(&format!("odd-{n}/app/0.log"), full(1, "odd").as_bytes());
        world.disk.append(&format!("ns_pod_uid/a\u{7}{n}/0.log"), full(1, "odd").as_bytes());
        world.disk.append(&format!("ns_pod_uid/app/x{n}.log"), full(1, "odd").as_bytes());
        world.disk.append(&format!("a\u{fffd}_b_{n}/app/0.log"), full(1, "odd").as_bytes());
        world.disk.append(&format!("ns_{}_uid/app/0.log", "n".repeat(4096 + n)), full(1, "odd").as_bytes());
    }
    world.disk.append("ns_pod_uid/app/0.log.20261120-163502.tmp", b"");
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
    let mut said =
        vec![(Oddity::NotUtf8, 1), (Oddity::NotAPod, 1), (Oddity::NotAContainer, 1), (Oddity::NotALog, 1)];
    assert_eq!(world.core.odd.times(), said);
    world.now.mono += std::time::Duration::from_secs(3600);
    world.drain();
    said.iter_mut().for_each(|(_, times)| *times = 2);
    assert_eq!(world.core.odd.times(), said);
}

#[test]
fn a_file_renamed_with_an_unread_backlog_is_shipped_to_its_end_before_the_new_one() {
    let mut world = world();
    let old: Vec<String> = (0..500).map(|line| format!("old {line:0>60}")).collect();
    world.disk.append(LIVE, old.iter().map(|body| full(1, body)).collect::<String>().as_bytes());
    for _ in 0..20 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 4, "every slot is taken, most of it is unread");
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, full(3, "new").as_bytes());
    world.drain();
    let mut expected = old;
    expected.push("new".to_owned());
    assert_eq!(world.bodies("pod", "stdout"), expected);
    assert_eq!((world.lost(), world.order.len()), (0, 501));
}

#[test]
fn rotations_while_the_agent_is_down_are_followed_from_the_exact_offset_through_the_whole_chain() {
    let mut world = world();
    let mut expected = Vec::new();
    let mut write = |world: &World, file: u32| {
        for line in 0..20 {
            let body = format!("{file}-{line}");
            world.disk.append(LIVE, full(file, &body).as_bytes());
            expected.push(body);
        }
    };
    write(&world, 1);
    world.turn(300);
    world.turn(300);
    world.accept(0, true);
    world.core.finish(world.now.mono);
    let acknowledged = world.order.len();
    assert!((1..20).contains(&acknowledged), "{acknowledged}");
    for file in 2..5 {
        let old = format!("{LIVE}.20261120-1635{file:02}");
        world.disk.rename(LIVE, &old);
        if file < 4 {
            world.disk.gzip(&old);
            world.disk.remove(&old);
        }
        write(&world, file);
    }
    let sent_before = world.order.len();
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), expected);
    assert_eq!((world.order.len() - sent_before, world.lost()), (80 - acknowledged, 0));
}

#[test]
fn two_files_with_the_same_first_bytes_are_both_shipped_whole() {
    let mut world = world();
    // Another pod's, byte for byte; and the next file of the same one, which differs in its stamp alone.
    let banner = "=".repeat(2000);
    for (path, nanos) in [(LIVE, 1), ("ns_other_uid2/app/0.log", 1), ("ns_pod_uid/app/1.log", 1)] {
        let text = format!("2026-11-20T16:35:01.{nanos:09}Z stdout F {banner}\n{}", full(2, "same"));
        world.disk.append(path, text.as_bytes());
    }
    world.disk.append(
        &format!("{LIVE}.20261120-163500"),
        format!("2026-11-20T16:35:01.000000000Z stdout F {banner}\n{}", full(2, "same")).as_bytes(),
    );
    world.drain();
    assert_eq!(world.bodies("other", "stdout"), [banner.as_str(), "same"]);
    let mut bodies = world.bodies("pod", "stdout");
    bodies.sort_unstable();
    assert_eq!(bodies, [banner.as_str(), &banner, &banner, "same", "same", "same"]);
}
