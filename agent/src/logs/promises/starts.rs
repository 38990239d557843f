//! The first start, and every later one.

use super::{LIVE, full, pending, world};
use crate::config::ReadExisting;
use crate::logs::simulation::World;

#[test]
fn at_the_first_start_old_records_are_left_out_and_counted_and_a_later_file_is_read_whole() {
    let mut world = World::new(ReadExisting::Within(sonde_daemon::units::Interval::secs(60)));
    // The world's clock says 16:35:01.
    let old = "2026-11-20T16:30:00Z stdout F old\n";
    world.disk.append(LIVE, format!("{old}{}", full(0, "young")).as_bytes());
    world.turn(10);
    world.disk.append("ns_late_uid2/app/0.log", old.as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["young"]);
    assert_eq!(world.bodies("late", "stdout"), ["old"]);
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.excluded[1]).sum::<u64>(), old.len() as u64);
}

#[test]
fn at_the_first_start_files_can_be_read_from_their_end() {
    let mut world = World::new(ReadExisting::None);
    world.disk.append(LIVE, full(1, "before").as_bytes());
    world.turn(10);
    world.disk.append(LIVE, full(2, "after").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["after"]);
}

#[test]
fn the_ledger_survives_a_restart() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.core.finish(world.now.mono);
    let before: Vec<_> = world.core.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect();
    world.restart();
    world.drain();
    let after: Vec<_> = world.core.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect();
    assert_eq!(before, after);
    assert_eq!(world.order.len(), 1);
}

#[test]
fn a_file_that_starts_with_an_empty_line_does_not_take_another_files_state() {
    let mut world = world();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("\n{}", full(1, "one")).as_bytes());
    world.drain();
    world.disk.append(LIVE, format!("{}{}", full(2, "two"), full(3, "three")).as_bytes());
    world.core.finish(world.now.mono);
    world.restart();
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["", "one", "three", "two"]);
    assert_eq!((world.lost(), pending(&world), world.order.len()), (0, 0, 4));
}

#[test]
fn an_unfinished_first_line_does_not_stand_for_the_next_file_that_begins_alike() {
    let mut world = world();
    world.disk.append(LIVE, b"2026-11-20T16:35:0");
    world.drain();
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.restart();
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["2026-11-20T16:35:0", "three"]);
    assert_eq!((world.lost(), pending(&world), world.order.len()), (0, 0, 2));
}

#[test]
fn the_state_of_a_file_that_began_with_an_empty_line_and_is_gone_is_not_taken_by_the_next_one() {
    let mut world = world();
    world.disk.append(LIVE, format!("\n{}", full(1, "one")).as_bytes());
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.remove(LIVE);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("{}{}", full(2, "two"), full(3, "three")).as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three"]);
    assert_eq!((world.lost(), pending(&world), world.order.len()), (0, 0, 4));
}

#[test]
fn the_position_of_an_unfinished_first_line_is_not_taken_by_another_file_that_begins_alike() {
    let mut world = world();
    world.disk.append(LIVE, b"2026-11-20T16:35:0");
    world.drain();
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.remove(LIVE);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.restart();
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["2026-11-20T16:35:0", "three"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

/// `positions` as the first version wrote them, after [`two_rotated_files_and_a_live_one`] was read.
const VERSION_1: &str = include_str!("positions.v1.hex");

fn two_rotated_files_and_a_live_one(world: &World) {
    for (rotation, lines) in [(1, 3), (2, 2)] {
        for line in 0..lines {
            world.disk.append(LIVE, full(10 * rotation + line, "line").as_bytes());
        }
        let old = format!("{LIVE}.20261120-16350{rotation}");
        world.disk.rename(LIVE, &old);
        if rotation == 1 {
            world.disk.gzip(&old);
            world.disk.remove(&old);
        }
    }
    world.disk.append(LIVE, full(30, "live").as_bytes());
}

#[test]
fn an_upgrade_reads_the_positions_of_the_first_version_and_replays_no_old_rotated_file() {
    let mut world = world();
    two_rotated_files_and_a_live_one(&world);
    let bytes = VERSION_1.trim().as_bytes().chunks(2);
    let bytes = bytes.map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
    *world.store.bytes.lock().unwrap() = Some(bytes.collect());
    world.restart();
    world.disk.append(LIVE, full(31, "behind").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["behind"]);
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.records).sum::<u64>(), 7);
}

#[test]
fn a_downgrade_sends_again_what_the_newer_version_read_and_says_that_it_is_a_resend() {
    let mut world = world();
    two_rotated_files_and_a_live_one(&world);
    world.drain();
    world.core.finish(world.now.mono);
    // Each frame's version, and its checksum with it.
    let bytes = world.store.bytes.lock().unwrap().take().unwrap();
    let mut newer = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        let (frame, behind) = rest.split_at(12 + len);
        let mut frame = frame.to_vec();
        frame[12] = u8::MAX;
        let checksum = crc32fast::hash(&frame[12..]).to_le_bytes();
        frame[8..12].copy_from_slice(&checksum);
        newer.extend(frame);
        rest = behind;
    }
    *world.store.bytes.lock().unwrap() = Some(newer);
    let before = world.order.len();
    world.restart();
    world.turn(10);
    world.turn(300);
    assert!(!world.unsettled.is_empty(), "nothing is known of what was read");
    world.drain();
    assert_eq!((before, world.order.len(), world.resent_unmarked), (6, 6, 0));
}

#[test]
fn what_is_shown_as_persisted_may_be_deleted_and_a_kill_then_loses_nothing_in_the_ledger() {
    for is_full in [false, true] {
        let mut world = world();
        world.disk.append(LIVE, full(1, "one").as_bytes());
        world.drain();
        world.disk.append(LIVE, full(2, "two").as_bytes());
        (0..5).for_each(|_| world.turn(1000));
        // It is known that there are two; the acknowledgement of the second comes now.
        *world.store.full.lock().unwrap() = is_full;
        world.drain();
        let status = world.core.statuses(world.now.mono).pop().unwrap();
        assert_eq!((status.acked, status.lag_bytes, status.persisted), (status.size, 0, !is_full));
        world.disk.remove(LIVE);
        *world.store.full.lock().unwrap() = false;
        world.restart();
        world.drain_for(90);
        assert_eq!(world.lost() > 0, is_full, "nobody can tell any more that it was acknowledged");
    }
}
