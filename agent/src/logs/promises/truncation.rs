//! A log file that is cut, damaged, or used again by another.

use super::docker::{self, JSON, labelled};
use super::{LIVE, entry, full, pending, world};
use crate::batch::Outcome;

#[test]
fn a_truncated_file_is_read_from_its_start_again_and_what_was_cut_unread_is_counted() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    let unread = full(2, "never read");
    world.disk.append(LIVE, unread.as_bytes());
    world.core.note_sizes_for_test(world.now);
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "three"]);
    assert_eq!(world.lost(), unread.len() as u64);
}

#[test]
fn a_truncated_file_that_has_outgrown_its_position_again_is_noticed() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, format!("{}{}", full(2, "two two two"), full(3, "three")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two two two", "three"]);
}

#[test]
fn an_inode_that_is_used_again_by_a_longer_file_is_read_from_its_start() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    world.core.finish(world.now.mono);
    // The same inode as far as the simulation knows: emptied and written anew while the agent is down.
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, format!("{}{}", full(2, "another first line"), full(3, "three")).as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "another first line", "three"]);
}

/// Lines of one length that differ in their stamps and first letters: the bytes before any position are the same.
fn padded(second: u32, letter: char) -> String {
    full(second, &format!("{letter}{}", "=".repeat(100)))
}

#[test]
fn a_truncated_file_whose_new_lines_end_like_the_old_ones_is_noticed() {
    for (more, restarts) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut world = world();
        world.disk.append(LIVE, format!("{}{}", padded(1, 'a'), padded(2, 'b')).as_bytes());
        world.drain();
        if restarts {
            world.core.finish(world.now.mono);
            world.restart();
            world.drain();
        }
        let new: Vec<String> = ('p'..).take(2 + more).map(|letter| padded(9, letter)).collect();
        world.disk.truncate(LIVE);
        world.disk.append(LIVE, new.concat().as_bytes());
        world.drain();
        let first: String =
            world.bodies("pod", "stdout").iter().filter_map(|body| body.chars().next()).collect();
        assert_eq!(first, if more == 0 { "abpq" } else { "abpqr" });
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn what_is_put_in_the_place_of_refused_or_unfinished_lines_does_not_get_their_names() {
    let mut world = world();
    world.disk.append(LIVE, format!("{}{}", padded(1, 'a'), padded(2, 'b')).as_bytes());
    world.turn(10);
    world.turn(300);
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, format!("{}{}", padded(3, 'c'), padded(4, 'd')).as_bytes());
    world.settle(0, Outcome::Refused { code: "413".into() });
    world.drain();
    let first = |world: &crate::logs::simulation::World| -> String {
        world.bodies("pod", "stdout").iter().filter_map(|body| body.chars().next()).collect()
    };
    assert_eq!(first(&world), "cd");
    assert_eq!((world.lost(), pending(&world)), (2 * padded(1, 'a').len() as u64, 0));

    let unfinished = entry(5, "stdout", "P", &"e".repeat(100));
    world.disk.append(LIVE, unfinished.as_bytes());
    world.turn(100);
    world.disk.truncate(LIVE);
    let same_length = entry(6, "stdout", "P", &"f".repeat(100));
    world.disk.append(LIVE, format!("{}{}{same_length}", padded(7, 'g'), padded(8, 'h')).as_bytes());
    world.disk.append(LIVE, entry(9, "stdout", "F", "end").as_bytes());
    world.drain();
    assert_eq!(first(&world), "cdghf");
    let lost = 2 * padded(1, 'a').len() as u64 + unfinished.len() as u64;
    assert_eq!((world.lost(), pending(&world)), (lost, 0));
}

#[test]
fn a_file_that_is_truncated_between_two_windows_is_read_on_from_its_new_start() {
    let mut world = world();
    let old: Vec<String> = (0..3000).map(|line| padded(line % 60, 'a')).collect();
    world.disk.append(LIVE, old.concat().as_bytes());
    world.turn(10);
    let sent: usize = world.unsettled.iter().map(|batch| batch.records as usize).sum();
    assert!(sent > 0 && sent < 3000, "{sent}");
    world.disk.truncate(LIVE);
    let new: Vec<String> = (0..3001).map(|line| padded(line % 60, 'z')).collect();
    world.disk.append(LIVE, new.concat().replace(".000000001Z", ".000000002Z").as_bytes());
    world.drain();
    while world.bodies("pod", "stdout").iter().filter(|body| body.starts_with('z')).count() < 3001 {
        let before = world.got.len();
        world.drain();
        assert!(world.got.len() > before, "stuck at {before}");
    }
    let kept = world.bodies("pod", "stdout").iter().filter(|body| body.starts_with('a')).count() as u64;
    assert_eq!(world.lost() + kept * padded(0, 'a').len() as u64, 3000 * padded(0, 'a').len() as u64);
    assert_eq!(pending(&world), 0);
}

#[test]
fn a_file_without_known_bytes_before_its_position_is_recognised_by_its_beginning() {
    // A line longer than a window leaves none to compare.
    let mut world = world();
    let long = "l".repeat(300_000);
    world.disk.append(LIVE, full(1, &long).as_bytes());
    world.drain();
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, format!("{}{}", full(2, &long), full(3, "three")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), [&long[..4096], &long[..4096], "three"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_copy_taken_before_the_truncation_adds_nothing_but_what_was_not_read() {
    let mut world = world();
    let (one, two) = (full(1, "one"), full(2, "two"));
    world.disk.append(LIVE, one.as_bytes());
    world.drain();
    // logrotate's copytruncate, with a line that was not read yet.
    world.disk.append(LIVE, two.as_bytes());
    world.disk.append(&format!("{LIVE}.1"), format!("{one}{two}").as_bytes());
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    let mut bodies = world.bodies("pod", "stdout");
    bodies.sort_unstable();
    assert_eq!(bodies, ["one", "three", "two"]);
    assert_eq!((world.lost(), pending(&world), world.order.len()), (0, 0, 3));
}

#[test]
fn a_refused_record_of_a_truncated_file_is_not_taken_from_what_has_its_name_by_then() {
    let mut world = world();
    world.disk.append("ns_other_uid2/app/0.log", full(1, "other").as_bytes());
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(0);
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, full(2, "two").as_bytes());
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.turn(200);
    assert_eq!(world.unsettled.len(), 1);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.settle(0, Outcome::Refused { code: "413".into() });
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["two", "three"]);
    assert_eq!((world.lost(), pending(&world)), (full(1, "one").len() as u64, 0));
}

#[test]
fn what_grew_anew_while_every_slot_was_taken_is_seen_once_and_none_of_it_is_lost() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    // Every slot is taken by another container.
    for line in 0..200 {
        world.disk.append("ns_busy_uid0/app/0.log", full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    world.disk.truncate(LIVE);
    let anew = full(2, "two") + &full(3, "three");
    world.disk.append(LIVE, anew.as_bytes());
    for _ in 0..3 {
        world.turn(1100);
    }
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three"]);
    let row = |key: &crate::logs::ledger::RowKey| key.pod == "pod";
    let observed: u64 =
        world.core.ledger.rows().filter(|(key, _)| row(key)).map(|(_, row)| row.observed).sum();
    assert_eq!(observed, (full(1, "one") + &anew).len() as u64);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_line_behind_a_truncation_is_not_lost_with_one_that_was_unfinished_before_it() {
    for is_copied in [false, true] {
        let mut world = labelled();
        let begin = docker::line(2, "stdout", "begin ");
        world.disk.append(JSON, format!("{}{begin}", docker::full(1, "one")).as_bytes());
        world.turn(0);
        world.disk.append(JSON, docker::full(3, "end").as_bytes());
        if is_copied {
            world.disk.append(&format!("{JSON}.1"), &world.disk.read(JSON));
        }
        world.disk.truncate(JSON);
        // Of two entries, as the simulation found it: the first of them is no continuation either.
        world.disk.append(JSON, docker::line(4, "stdout", "new ").as_bytes());
        world.disk.append(JSON, docker::full(5, "line").as_bytes());
        world.drain();
        world.drain();
        let (arrived, lost): (&[&str], u64) = match is_copied {
            true => (&["one", "begin end", "new line"], 0),
            false => (&["one", "new line"], begin.len() as u64),
        };
        assert_eq!(world.bodies("pod", "stdout"), arrived, "copied: {is_copied}");
        assert_eq!((world.lost(), pending(&world)), (lost, 0), "copied: {is_copied}");
    }
}
