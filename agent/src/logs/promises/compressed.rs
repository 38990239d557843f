//! Compressed rotated files.

use super::{LIVE, entry, full, pending, world};

#[test]
fn a_half_read_file_that_was_compressed_while_the_agent_was_down_resumes_at_its_offset() {
    let mut world = world();
    for line in 0..50 {
        world.disk.append(LIVE, full(line, &format!("{line}")).as_bytes());
    }
    world.turn(300);
    world.turn(300);
    assert!(!world.unsettled.is_empty());
    world.accept(0, true);
    world.core.finish(world.now.mono);
    let acked = world.got.len();
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.gzip(&format!("{LIVE}.20261120-163502"));
    world.disk.remove(&format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, full(59, "new").as_bytes());
    world.restart();
    let sent_before = world.order.len();
    world.drain();
    let expected: Vec<String> = (0..50).map(|line| format!("{line}")).chain(["new".to_owned()]).collect();
    assert_eq!(world.bodies("pod", "stdout"), expected);
    assert_eq!(world.order.len() - sent_before, 51 - acked);
    assert_eq!(world.lost(), 0);
}

#[test]
fn a_damaged_compression_costs_its_own_rest_only() {
    let mut world = world();
    for line in 0..59 {
        world.disk.append(LIVE, full(line, &"unlike ".repeat(line as usize)).as_bytes());
    }
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.corrupt(&format!("{old}.gz"));
    world.disk.append(LIVE, full(59, "new").as_bytes());
    world.drain();
    assert!(world.bodies("pod", "stdout").contains(&"new".to_owned()));
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.pending()).sum::<u64>(), 0);
}

#[test]
fn a_file_that_was_found_empty_and_compressed_while_every_slot_was_taken_is_read_once() {
    let mut world = world();
    // Every slot is taken by another container.
    for line in 0..100 {
        world.disk.append("ns_busy_uid0/app/0.log", full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    world.disk.append(LIVE, b"");
    world.turn(1100);
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), entry(2, "stdout", "P", "ab")).as_bytes());
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, entry(3, "stdout", "F", "cd").as_bytes());
    world.turn(1100);
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "abcd"]);
    let sent = world.order.iter().filter(|uid| world.got[*uid].pod == "pod").count();
    assert_eq!(sent, 2, "each record was sent once");
}

#[test]
fn a_last_line_without_a_newline_in_a_compressed_file_is_shipped_once() {
    let mut world = world();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("{}2026-11-20T16:35:02.0Z stdout F torn", full(1, "one")).as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    let mut bodies = world.bodies("pod", "stdout");
    bodies.sort();
    assert_eq!(bodies, ["one", "three", "torn"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    world.core.finish(world.now.mono);
    world.restart();
    world.drain();
    assert_eq!(world.order.len(), 3);
}

#[test]
fn a_compressed_file_that_is_shorter_than_its_file_was_costs_what_it_does_not_hold_and_no_more() {
    let mut world = world();
    let (one, torn) = (full(1, "one"), "2026-11-20T16:35:02.0Z stdout F torn");
    world.disk.append(LIVE, one.as_bytes());
    world.drain();
    world.disk.append(LIVE, format!("{torn}{}", "-".repeat(100)).as_bytes());
    world.turn(1100);
    world.core.finish(world.now.mono);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("{one}{torn}").as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.remove(LIVE);
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "torn"]);
    assert_eq!((world.lost(), pending(&world)), (100, 0));
}

#[test]
fn a_file_known_by_an_unfinished_first_line_is_known_again_when_it_is_compressed() {
    let mut world = world();
    world.disk.append(LIVE, b"an unfinished first line");
    world.drain();
    world.disk.append(LIVE, b" and its end\n");
    world.drain();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [" and its end", "an unfinished first line", "three"]);
}
