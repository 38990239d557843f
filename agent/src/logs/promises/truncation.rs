//! A log file that is cut, damaged, or used again by another.

use super::{LIVE, full, world};

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
