//! Promises of the log reader, on the simulated node: one situation each.

use super::simulation::World;
use crate::batch::Outcome;
use crate::config::ReadExisting;

const LIVE: &str = "ns_pod_uid/app/0.log";

fn entry(second: u32, stream: &str, tag: &str, body: &str) -> String {
    format!("2026-11-20T16:35:{second:02}.000000001Z {stream} {tag} {body}\n")
}

fn full(second: u32, body: &str) -> String {
    entry(second, "stdout", "F", body)
}

fn world() -> World {
    World::new(ReadExisting::All)
}

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
                let is_bad = super::simulation::decode(&world.unsettled[0].payload)
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

fn pending(world: &World) -> u64 {
    world.core.ledger.rows().map(|(_, row)| row.pending()).sum()
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
            let is_bad = super::simulation::decode(&world.unsettled[0].payload)
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
