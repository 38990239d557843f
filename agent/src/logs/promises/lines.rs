//! Lines: fragments, unfinished ones, long ones, ones that are not the runtime's.

use super::{LIVE, entry, full, pending, world};

#[test]
fn a_fragment_at_the_end_of_the_old_file_and_its_end_in_the_new_one_are_one_record() {
    let mut world = world();
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), entry(2, "stdout", "P", "ab")).as_bytes());
    world.turn(300);
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, format!("{}{}", entry(2, "stdout", "F", "cd"), full(3, "three")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "abcd", "three"]);
}

#[test]
fn the_same_across_a_restart_and_a_lost_acknowledgement() {
    let mut world = world();
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), entry(2, "stdout", "P", "ab")).as_bytes());
    world.turn(300);
    world.turn(300);
    world.accept(0, true);
    world.core.finish(world.now.mono);
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, entry(2, "stdout", "F", "cd").as_bytes());
    world.turn(2000);
    world.turn(300);
    world.accept(0, false);
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "abcd"]);
    assert_eq!(world.resent_unmarked, 0);
}

#[test]
fn fragments_of_two_streams_do_not_mix() {
    let mut world = world();
    let text =
        [entry(1, "stdout", "P", "a"), entry(1, "stderr", "F", "E"), entry(1, "stdout", "F", "b")].concat();
    world.disk.append(LIVE, text.as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["ab"]);
    assert_eq!(world.bodies("pod", "stderr"), ["E"]);
}

#[test]
fn a_fragment_whose_end_never_comes_is_shipped_and_a_replay_cuts_at_the_same_place() {
    let mut world = world();
    world.disk.append(LIVE, entry(1, "stdout", "P", "no newline at end").as_bytes());
    for _ in 0..140 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 1, "shipped after five seconds");
    // Stored, but the answer is lost and the agent dies; the end comes late.
    world.accept(0, false);
    world
        .disk
        .append(LIVE, format!("{}{}", entry(2, "stdout", "F", "late end"), full(3, "three")).as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["no newline at end", "late end", "three"]);
}

#[test]
fn a_cut_waits_while_it_cannot_be_written() {
    let mut world = world();
    world.disk.append(LIVE, entry(1, "stdout", "P", "x").as_bytes());
    world.turn(100);
    world.turn(1000);
    *world.store.full.lock().unwrap() = true;
    for _ in 0..200 {
        world.turn(50);
    }
    assert!(world.unsettled.is_empty());
    *world.store.full.lock().unwrap() = false;
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["x"]);
}

#[test]
fn a_last_line_without_a_newline_is_shipped_once_also_after_a_restart() {
    let mut world = world();
    world.disk.append(LIVE, format!("{}2026-11-20T16:35:02.0Z stdout F torn", full(1, "one")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "torn"]);
    world.core.finish(world.now.mono);
    world.restart();
    world.drain();
    assert_eq!(world.got.len(), 2);
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.pending()).sum::<u64>(), 0);
}

#[test]
fn one_short_line_without_a_newline_that_is_not_the_runtimes_is_shipped_once() {
    let mut world = world();
    world.disk.append(LIVE, b"twenty bytes of text");
    world.drain();
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.append(LIVE, b" and more\n");
    world.restart();
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| (got.body.as_str(), got.malformed)).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [(" and more", true), ("twenty bytes of text", true)]);
}

#[test]
fn a_line_over_the_limit_is_cut_marked_and_counted_and_the_file_goes_on() {
    let mut world = world();
    let long = "y".repeat(400_000);
    world.disk.append(LIVE, format!("{}{}{}", full(1, "one"), full(2, &long), full(3, "three")).as_bytes());
    world.drain();
    assert_eq!(
        world.bodies("pod", "stdout"),
        ["one".to_owned(), long[..4096].to_owned(), "three".to_owned()]
    );
    assert_eq!(world.got.values().filter(|got| got.truncated).count(), 1);
    let excluded: u64 = world.core.ledger.rows().map(|(_, row)| row.excluded[2]).sum();
    // The newline may count as part of what lies beyond the limit.
    assert!((400_000 - 4096..=400_001 - 4096).contains(&excluded), "{excluded}");
}

#[test]
fn a_line_of_many_fragments_over_the_limit_is_one_record() {
    let mut world = world();
    let mut text = String::new();
    for _ in 0..40 {
        text += &entry(1, "stdout", "P", &"z".repeat(16_384));
    }
    text += &entry(1, "stdout", "F", "end");
    world.disk.append(LIVE, (text + &full(2, "two")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["z".repeat(4096), "two".to_owned()]);
}

#[test]
fn a_tail_of_nulls_and_megabytes_without_a_newline_are_survived() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.disk.append(LIVE, &vec![0; 3 << 20]);
    world.disk.append("ns_other_uid2/app/0.log", full(1, "other").as_bytes());
    world.drain();
    assert_eq!(world.bodies("other", "stdout"), ["other"]);
    assert_eq!(world.got.values().filter(|got| got.malformed && got.truncated).count(), 1);
    assert_eq!(world.core.ledger.rows().map(|(_, row)| row.pending()).sum::<u64>(), 0);
}

#[test]
fn unfinished_lines_are_kept_as_offsets() {
    let mut world = world();
    let fragment = "f".repeat(16_000);
    for pod in 0..40 {
        for _ in 0..57 {
            world.disk.append(
                &format!("ns_pod-{pod}_uid-{pod}/app/0.log"),
                entry(1, "stdout", "P", &fragment).as_bytes(),
            );
        }
    }
    for _ in 0..40 {
        world.turn(60);
    }
    let kept: usize = world.core.lineages.values().map(|lineage| lineage.joiner.heap_bytes()).sum();
    assert!(world.core.lineages.values().all(|lineage| !lineage.joiner.is_empty()));
    assert!(kept < 40 * 300, "{kept}");
}

#[test]
fn many_lines_that_the_clock_ends_at_once_go_in_requests_of_the_usual_size() {
    let mut world = world();
    let bodies: Vec<String> = (0..40).map(|pod| format!("{pod:02}").repeat(500)).collect();
    for (pod, body) in bodies.iter().enumerate() {
        let text = entry(1, "stdout", "P", body);
        world.disk.append(&format!("ns_pod-{pod}_uid-{pod}/app/0.log"), text.as_bytes());
    }
    for _ in 0..200 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 4, "every slot is taken");
    for _ in 0..100 {
        for batch in &world.unsettled {
            // 1500 bytes, and a record that began below: a thousand and its resource.
            assert!(batch.payload.len() < 3000, "{} bytes", batch.payload.len());
        }
        if !world.unsettled.is_empty() {
            world.accept(0, true);
        }
        world.turn(50);
    }
    for (pod, body) in bodies.iter().enumerate() {
        assert_eq!(world.bodies(&format!("pod-{pod}"), "stdout"), [body.as_str()]);
    }
    assert_eq!((world.got.len(), world.lost()), (40, 0));
}

#[test]
fn a_long_fragment_that_the_clock_ended_ends_there_again_in_a_replay() {
    let mut world = world();
    let long = "l".repeat(400_000);
    world.disk.append(LIVE, entry(1, "stdout", "P", &long).as_bytes());
    for _ in 0..200 {
        world.turn(50);
    }
    assert_eq!(world.unsettled.len(), 1);
    world.accept(0, false);
    world.disk.append(LIVE, format!("{}{}", entry(2, "stdout", "F", "end"), full(3, "three")).as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), [long[..4096].to_owned(), "end".into(), "three".into()]);
}

#[test]
fn no_line_within_the_limit_is_cut_because_the_other_stream_writes_between_its_fragments() {
    // CRI-O's fragments, and a limit that they reach with many more turns than 256.
    let mut world = world();
    world.core.settings.max_line = 4 << 20;
    let fragment = "f".repeat(8192);
    let mut text = String::new();
    for _ in 0..512 {
        text += &entry(1, "stdout", "P", &fragment);
        text += &entry(1, "stderr", "F", "between");
    }
    text += &entry(2, "stdout", "F", "");
    world.disk.append(LIVE, text.as_bytes());
    while world.bodies("pod", "stdout").is_empty() {
        world.drain();
    }
    let got: Vec<_> = world.got.values().filter(|got| got.stream == "stdout").collect();
    assert_eq!((got.len(), got[0].body.len(), got[0].truncated), (1, 4 << 20, false));
    assert_eq!(world.bodies("pod", "stderr").len(), 512);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}
