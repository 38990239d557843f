//! Limits: what is shed, and that nothing else is.

use sonde_daemon::units::Size;

use super::{LIVE, entry, full, pending};
use crate::config::{Limits, Logs, ReadExisting};
use crate::logs::simulation::World;

fn limited(per_container: u64, per_namespace: u64) -> World {
    let limits = Limits { per_container: Size(per_container), per_namespace: Size(per_namespace) };
    World::with(Logs { read_existing: ReadExisting::All, limits, ..Logs::default() }, 4)
}

fn shed(world: &World, pod: &str) -> u64 {
    world.core.ledger.rows().filter(|(key, _)| key.pod == pod).map(|(_, row)| row.shed[0]).sum()
}

#[test]
fn a_loud_container_is_shed_and_counted_and_its_neighbour_is_not() {
    let mut world = limited(100, 0);
    let line = full(30, &"l".repeat(50));
    world.disk.append("ns_loud_uid1/app/0.log", line.repeat(100).as_bytes());
    world.disk.append("ns_quiet_uid2/app/0.log", full(30, "quiet").as_bytes());
    world.drain();
    let sent = world.bodies("loud", "stdout").len();
    assert_eq!(sent, 1000usize.div_ceil(line.len()), "ten seconds' worth, and one record");
    assert_eq!(shed(&world, "loud"), ((100 - sent) * line.len()) as u64);
    assert_eq!((shed(&world, "quiet"), world.bodies("quiet", "stdout").len()), (0, 1));
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    assert_eq!(world.core.snapshot().records.shed, 100 - sent as u64);
}

#[test]
fn what_was_written_within_the_limit_while_the_receiver_was_away_is_not_shed() {
    let mut world = limited(100, 100);
    // 45 bytes a second for 55 seconds, all of which are read in one instant.
    let text: String = (0..55).map(|second| full(second, "12345678")).collect();
    world.disk.append(LIVE, text.as_bytes());
    world.drain();
    assert_eq!((world.bodies("pod", "stdout").len(), shed(&world, "pod")), (55, 0));
}

#[test]
fn what_was_shed_is_neither_sent_nor_counted_again_by_the_next_process() {
    let mut world = limited(100, 0);
    world.disk.append(LIVE, full(30, &"l".repeat(50)).repeat(100).as_bytes());
    world.drain();
    let (sent, before) = (world.got.len(), shed(&world, "pod"));
    world.core.finish(world.now.mono);
    world.restart();
    world.drain();
    assert_eq!((world.got.len(), shed(&world, "pod")), (sent, before));
}

#[test]
fn what_was_stored_and_not_acknowledged_is_not_shed_by_the_next_process_although_a_neighbour_comes_first() {
    let mut world = limited(0, 100);
    let line = full(30, &"l".repeat(50));
    world.disk.append("ns_b_uid2/app/0.log", line.repeat(10).as_bytes());
    for _ in 0..20 {
        world.turn(50);
    }
    // Stored; the answers are lost with the process.
    let stored = world.unsettled.iter().map(|batch| batch.records).sum::<u32>() as usize;
    assert_eq!(stored, 10);
    for at in 0..world.unsettled.len() {
        world.accept(at, false);
    }
    world.disk.append("ns_a_uid1/app/0.log", line.repeat(100).as_bytes());
    world.restart();
    world.drain();
    assert_eq!((world.bodies("b", "stdout").len(), shed(&world, "b")), (10, 0));
    assert_eq!(pending(&world), 0);
}

#[test]
fn a_line_of_many_fragments_is_shed_whole_and_one_that_the_clock_ends_is_sent() {
    let mut world = limited(10, 0);
    let first = full(30, &"l".repeat(200));
    let fragments = [entry(31, "stdout", "P", "ab"), entry(31, "stdout", "F", "cd")].concat();
    let text = [first, fragments.clone(), entry(32, "stderr", "P", "without an end")].concat();
    world.disk.append(LIVE, text.as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stderr"), ["without an end"]);
    assert_eq!(world.bodies("pod", "stdout"), ["l".repeat(200)]);
    assert_eq!((shed(&world, "pod"), pending(&world)), (fragments.len() as u64, 0));
}
