//! The receiver's answers, and the agent's own ends and starts.

use super::{LIVE, entry, full, pending, world};
use crate::batch::Outcome;
use crate::config::ReadExisting;
use crate::logs::simulation::{World, decode};

#[test]
fn a_record_that_the_receiver_refuses_is_found_by_halving_and_counted() {
    for slots in [1, 4] {
        let mut world = World::with_slots(ReadExisting::All, slots);
        for line in 0..30 {
            world.disk.append(LIVE, full(line, &format!("{line}")).as_bytes());
        }
        for turn in 0..2000 {
            // New lines keep coming, and do not push the refused ones aside.
            world.disk.append("ns_busy_uid2/app/0.log", full(turn % 60, "busy").as_bytes());
            world.turn(20);
            while !world.unsettled.is_empty() {
                let is_bad = crate::logs::simulation::decode(&world.unsettled[0].payload)
                    .iter()
                    .any(|(_, got)| got.body == "17");
                if is_bad {
                    world.settle(0, Outcome::Refused { code: "INVALID_ARGUMENT".into() });
                } else {
                    world.accept(0, true);
                }
            }
        }
        assert_eq!(world.bodies("pod", "stdout").len(), 29);
        assert_eq!(world.lost(), full(17, "17").len() as u64);
    }
}

#[test]
fn reading_stops_while_every_slot_is_taken_and_goes_on_by_itself() {
    let mut world = world();
    for line in 0..400 {
        world.disk.append(LIVE, full(line % 60, &format!("{line:0>100}")).as_bytes());
    }
    for _ in 0..100 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 4);
    world.drain();
    assert_eq!(world.got.len(), 400);
}

#[test]
fn what_files_grow_by_while_every_slot_is_taken_is_seen_and_pending() {
    let mut world = world();
    let line = |line: u32| full(line % 60, &format!("{line:0>100}"));
    let mut written = 0;
    let mut write = |world: &mut World, lines: std::ops::Range<u32>| {
        for number in lines {
            for file in [LIVE, "ns_other_uid2/app/0.log"] {
                world.disk.append(file, line(number).as_bytes());
                written += line(number).len() as u64;
            }
        }
        written
    };
    write(&mut world, 0..1);
    world.drain();
    write(&mut world, 1..400);
    for _ in 0..100 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 4, "every slot is taken");
    let read = |world: &World| world.core.files.values().map(|file| file.read).sum::<u64>();
    let (before, settled) = (read(&world), 2 * line(0).len() as u64);
    let written = write(&mut world, 400..500);
    for _ in 0..30 {
        world.turn(50);
    }
    assert_eq!(pending(&world), written - settled);
    assert_eq!(read(&world), before, "nothing is read");
    world.drain();
    assert_eq!((world.got.len(), pending(&world)), (1000, 0));
}

#[test]
fn a_large_record_among_small_ones_that_the_receiver_refuses_is_found_too() {
    let mut world = world();
    let huge = full(5, &"h".repeat(3000));
    for line in 0..5 {
        world.disk.append(LIVE, full(line, "tiny").as_bytes());
    }
    world.disk.append(LIVE, huge.as_bytes());
    for _ in 0..200 {
        world.turn(50);
        while !world.unsettled.is_empty() {
            let is_bad = crate::logs::simulation::decode(&world.unsettled[0].payload)
                .iter()
                .any(|(_, got)| got.body.starts_with('h'));
            if is_bad {
                world.settle(0, Outcome::Refused { code: "413".into() });
            } else {
                world.accept(0, true);
            }
        }
    }
    assert_eq!(world.bodies("pod", "stdout"), ["tiny"; 5]);
    assert_eq!((world.lost(), pending(&world)), (huge.len() as u64, 0));
}

#[test]
fn bytes_of_records_that_the_receiver_refused_in_part_are_counted_as_their_share() {
    let mut world = world();
    for line in 0..4 {
        world.disk.append(LIVE, full(line, "same").as_bytes());
    }
    world.turn(10);
    world.turn(300);
    assert_eq!(world.unsettled[0].records, 4);
    world.settle(0, Outcome::Accepted { rejected: 1, message: String::new() });
    let len = full(0, "same").len() as u64;
    assert_eq!((world.lost(), pending(&world)), (len, 0));
    world.disk.append(LIVE, full(5, "none").as_bytes());
    for _ in 0..20 {
        world.turn(50);
    }
    world.settle(0, Outcome::Accepted { rejected: 9, message: String::new() });
    assert_eq!((world.lost(), pending(&world)), (2 * len, 0));
}

#[test]
fn refused_records_that_are_in_their_file_no_more_are_counted() {
    let mut world = world();
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), full(2, "two")).as_bytes());
    world.turn(10);
    world.turn(300);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    for _ in 0..400 {
        world.turn(50);
    }
    world.disk.truncate(&old);
    world.settle(0, Outcome::Refused { code: "413".into() });
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["three"]);
    assert_eq!((world.lost(), pending(&world)), (2 * full(1, "one").len() as u64, 0));
}

#[test]
fn an_error_of_our_own_costs_the_one_file_it_happened_at() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.disk.append("ns_other_uid2/app/0.log", full(1, "other").as_bytes());
    world.turn(100);
    world.disk.append(LIVE, full(2, "TRAP").as_bytes());
    world.disk.append("ns_trap_uid3/app/0.log", full(1, "TRAP").as_bytes());
    world.turn(200);
    world.disk.append("ns_other_uid2/app/0.log", full(2, "more").as_bytes());
    world.drain();
    assert_eq!(world.bodies("other", "stdout"), ["other", "more"]);
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
    assert_eq!(world.core.snapshot().set_aside, 2);
}

#[test]
fn a_container_with_a_large_backlog_does_not_hold_up_the_others() {
    let mut world = world();
    let backlog: String = (0..4000).map(|line| full(line % 60, &"b".repeat(400))).collect();
    world.disk.append("ns_busy_uid0/app/0.log", backlog.as_bytes());
    for _ in 0..20 {
        world.turn(50);
    }
    for pod in 0..20 {
        world.disk.append(&format!("ns_pod-{pod}_uid-{pod}/app/0.log"), full(1, "hello").as_bytes());
    }
    // Requests are much smaller than a window here: each visit to the backlog ends because they are full.
    let mut requests = 0;
    while (0..20).any(|pod| world.bodies(&format!("pod-{pod}"), "stdout").is_empty()) {
        world.turn(50);
        while !world.unsettled.is_empty() {
            world.accept(0, true);
            requests += 1;
        }
    }
    let busy = world.bodies("busy", "stdout").len();
    assert!(busy < 500, "{busy} lines of the backlog went before, in {requests} requests");
}

#[test]
fn a_stop_that_waits_for_answers_sleeps_until_they_come() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(10);
    world.turn(300);
    assert_eq!(world.unsettled.len(), 1);
    world.core.stop();
    for _ in 0..30 {
        world.turn(100);
    }
    let next = world.core.next_turn().expect("there is nothing to do now");
    assert!(next > world.now.mono, "a turn was due {:?} ago", world.now.mono - next);
}

#[test]
fn an_error_of_our_own_behind_a_full_request_costs_no_other_file() {
    let mut world = world();
    for line in 0..100 {
        world.disk.append(LIVE, full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 4, "every slot is taken");
    // A file whose successor cannot even be looked at: the error comes before one of its own is read.
    let old = "ns_trap_uid2/app/0.log.20261120-163502";
    world.disk.append(old, full(1, "never").as_bytes());
    world.disk.append("ns_trap_uid2/app/0.log.20261120-163503", full(2, "never").as_bytes());
    world.disk.gzip("ns_trap_uid2/app/0.log.20261120-163503");
    world.disk.remove("ns_trap_uid2/app/0.log.20261120-163503");
    world.turn(1100);
    world.disk.append("ns_trap_uid2/app/0.log.20261120-163503.gz", b"TRAP");
    for _ in 0..200 {
        world.turn(50);
        if !world.unsettled.is_empty() {
            world.accept(0, true);
        }
    }
    assert_eq!(world.bodies("pod", "stdout").len(), 100);
}

#[test]
fn a_line_that_was_cut_is_marked_also_when_it_is_sent_again_in_a_smaller_request() {
    let mut world = world();
    // As many turns of the two streams as one line may have.
    for _ in 0..256 {
        let turn = entry(1, "stdout", "P", "x") + &entry(1, "stderr", "F", "e");
        world.disk.append(LIVE, turn.as_bytes());
    }
    let mut refused = 0;
    for _ in 0..400 {
        world.turn(50);
        while let Some(batch) = world.unsettled.first() {
            let is_cut = decode(&batch.payload).iter().any(|(_, got)| got.truncated);
            let is_whole = batch.records > 1;
            world.accept(0, !(is_cut && is_whole));
            if is_cut && is_whole {
                refused += 1;
                world.settle(0, Outcome::Refused { code: "413".into() });
            }
        }
    }
    assert!(refused > 0);
    let cut: Vec<_> = world.got.values().filter(|got| got.truncated).map(|got| &got.body).collect();
    assert_eq!(cut, [&"x".repeat(256)]);
    assert_eq!((world.got.len(), world.lost(), pending(&world)), (257, 0, 0));
}
