//! Promises of the log reader, on the simulated node: one situation each.

use super::simulation::World;
use crate::config::ReadExisting;

const LIVE: &str = "ns_pod_uid/app/0.log";

fn entry(second: u32, stream: &str, tag: &str, body: &str) -> String {
    format!("2026-11-20T16:35:{second:02}.000000001Z {stream} {tag} {body}\n")
}

fn full(second: u32, body: &str) -> String {
    entry(second, "stdout", "F", body)
}

#[test]
fn a_truncated_file_is_read_from_its_start_again_and_what_was_cut_unread_is_counted() {
    let mut world = World::new(ReadExisting::All);
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
