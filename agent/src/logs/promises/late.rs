//! What comes late into a renamed file, and what the disk does not give for a while, while a line or a record is open.

use sonde_daemon::units::Interval;

use super::{LIVE, entry, full, pending};
use crate::batch::Outcome;
use crate::config::{Logs, MultilineRule, ReadExisting};
use crate::logs::simulation::World;

const OLD: &str = "ns_pod_uid/app/0.log.20261120-163501";
const NEXT: &str = "ns_pod_uid/app/0.log.20261120-163502";

/// Each record begins with `#` and waits a minute for its next line.
fn world(is_ruled: bool) -> World {
    let wait = MultilineRule { max_wait: Interval::secs(60), ..MultilineRule::default() };
    let multiline = if is_ruled { vec![MultilineRule { start: "^#".into(), ..wait }] } else { vec![] };
    World::with(Logs { read_existing: ReadExisting::All, multiline, ..Logs::default() }, 8)
}

fn read_for(world: &mut World, millis: u64) {
    for _ in 0..millis / 50 {
        world.turn(50);
    }
}

/// Stored, and no answer comes.
fn store(world: &mut World) {
    for at in 0..world.unsettled.len() {
        world.accept(at, false);
    }
}

fn bodies(world: &World) -> Vec<String> {
    world.bodies("pod", "stdout")
}

/// A kill, and everything once more by the same names; nothing is lost.
fn is_the_same_after_a_kill(world: &mut World) {
    let before = bodies(world);
    world.restart();
    world.drain_for(70);
    assert_eq!(bodies(world), before);
    assert_eq!((world.lost(), pending(world)), (0, 0));
}

#[test]
fn no_line_is_parsed_before_one_of_its_stream_that_was_written_before_it_into_the_renamed_file() {
    let mut world = world(true);
    world.disk.append(LIVE, full(1, "#one").as_bytes());
    read_for(&mut world, 1000);
    world.disk.rename(LIVE, OLD);
    // The one stream is written to the next file already, the other to both between two readings.
    world.disk.append(LIVE, entry(2, "stderr", "F", "#e").as_bytes());
    read_for(&mut world, 500);
    let late = (OLD, full(2, "  at x") + &entry(2, "stdout", "P", "  at "));
    world.disk.write_at_end_of(OLD, &[late, (LIVE, full(3, "y") + &full(4, "#two"))]);
    read_for(&mut world, 1000);
    store(&mut world);
    assert_eq!(bodies(&world), ["#one\n  at x\n  at y"]);
    read_for(&mut world, 70_000);
    store(&mut world);
    assert_eq!(bodies(&world)[1..], ["#two"]);
    is_the_same_after_a_kill(&mut world);
}

#[test]
fn what_comes_after_later_lines_of_its_stream_were_read_touches_no_open_record_also_after_a_kill() {
    for (is_ruled, is_settled, is_full) in [
        (true, false, false),
        (true, true, false),
        (true, false, true),
        (false, false, false),
        (false, true, false),
    ] {
        let mut world = world(is_ruled);
        let tag = if is_ruled { "F" } else { "P" };
        world.disk.append(LIVE, entry(1, "stdout", tag, "#one").as_bytes());
        read_for(&mut world, 1000);
        world.disk.rename(LIVE, OLD);
        world.disk.append(LIVE, entry(2, "stdout", tag, " at y").as_bytes());
        read_for(&mut world, 1000);
        *world.store.full.lock().unwrap() = is_full;
        // Long enough for a request of its own; and one that a window does not hold.
        let long = format!("#{}", "x".repeat(1500));
        let longer = "z".repeat(200_000);
        let late = full(3, " at z") + &full(3, &long) + &full(3, &longer) + &full(3, "#late");
        world.disk.append(OLD, late.as_bytes());
        read_for(&mut world, 1000);
        world.disk.append(LIVE, (entry(4, "stdout", "F", " end") + &full(5, "#two")).as_bytes());
        read_for(&mut world, 1000);
        if is_full {
            // They wait; what is behind them does not.
            store(&mut world);
            assert_eq!(bodies(&world), ["#one\n at y\n end"]);
            *world.store.full.lock().unwrap() = false;
            read_for(&mut world, 3000);
        }
        store(&mut world);
        let whole = if is_ruled { "#one\n at y\n end" } else { "#one at y end" };
        let mut expected =
            vec![" at z".to_owned(), long, longer[..4096].to_owned(), "#late".into(), whole.into()];
        if !is_ruled {
            expected.push("#two".into());
        }
        expected.sort();
        let mut got = bodies(&world);
        got.sort();
        assert_eq!(got, expected);
        if is_settled {
            world.accept(0, true);
            world.core.finish(world.now.mono);
        }
        read_for(&mut world, 70_000);
        store(&mut world);
        is_the_same_after_a_kill(&mut world);
    }
}

#[test]
fn what_is_open_waits_for_a_file_that_cannot_be_read_for_a_while_and_no_line_is_lost() {
    for seconds in [1, 15, 50] {
        let mut world = world(true);
        world.disk.append(LIVE, full(1, "#one").as_bytes());
        read_for(&mut world, 1000);
        world.disk.rename(LIVE, OLD);
        world.disk.append(LIVE, entry(2, "stdout", "P", " at ").as_bytes());
        read_for(&mut world, 1000);
        world.disk.rename(LIVE, NEXT);
        world.disk.break_reads(NEXT, true);
        world.disk.append(LIVE, (entry(3, "stdout", "F", "x") + &full(4, "#two")).as_bytes());
        read_for(&mut world, 1000 * seconds);
        assert!(world.unsettled.is_empty() == (seconds < 30) && world.lost() == 0);
        world.disk.break_reads(NEXT, false);
        read_for(&mut world, 3000);
        store(&mut world);
        // In the end the clock ends both, and says so before.
        let whole: &[&str] = if seconds < 30 { &["#one\n at x"] } else { &["#one", " at ", "x"] };
        assert_eq!(bodies(&world), whole, "{seconds}");
        read_for(&mut world, 70_000);
        store(&mut world);
        is_the_same_after_a_kill(&mut world);
    }
}

#[test]
fn a_line_whose_beginning_cannot_be_read_for_a_while_is_no_border_and_is_not_lost() {
    for is_ruled in [true, false] {
        let mut world = world(is_ruled);
        let first = if is_ruled { full(1, "#one") } else { String::new() };
        world.disk.append(LIVE, (first + &entry(1, "stdout", "P", "a")).as_bytes());
        read_for(&mut world, 1000);
        world.disk.rename(LIVE, OLD);
        // Until nobody looks at the old file any more.
        for _ in 0..8 {
            world.disk.append(LIVE, entry(2, "stdout", "P", "b").as_bytes());
            read_for(&mut world, 2000);
        }
        world.disk.break_reads(OLD, true);
        world.disk.append(LIVE, (entry(3, "stdout", "F", "c") + &full(4, "#two")).as_bytes());
        read_for(&mut world, 3000);
        assert!(world.unsettled.is_empty() && world.lost() == 0, "{is_ruled}");
        world.disk.break_reads(OLD, false);
        read_for(&mut world, 2000);
        store(&mut world);
        let expected: &[&str] = if is_ruled { &["#one\nabbbbbbbbc"] } else { &["abbbbbbbbc", "#two"] };
        assert_eq!(bodies(&world), expected);
        read_for(&mut world, 70_000);
        store(&mut world);
        is_the_same_after_a_kill(&mut world);
    }
}

#[test]
fn a_file_that_cannot_be_read_at_all_any_more_holds_its_container_up_for_a_bounded_time() {
    for is_ruled in [true, false] {
        let mut world = world(is_ruled);
        let first = if is_ruled { full(1, "#one") } else { String::new() };
        world.disk.append(LIVE, (first.clone() + &entry(1, "stdout", "P", "a")).as_bytes());
        read_for(&mut world, 1000);
        world.disk.rename(LIVE, OLD);
        for _ in 0..8 {
            world.disk.append(LIVE, entry(2, "stdout", "P", "b").as_bytes());
            read_for(&mut world, 2000);
        }
        world.disk.break_reads(OLD, true);
        world
            .disk
            .append(LIVE, (entry(3, "stdout", "F", "c") + &full(4, "#two") + &full(5, "#three")).as_bytes());
        world.drain_for(240);
        let bodies = bodies(&world);
        assert!(bodies.contains(&"#two".to_owned()) && bodies.contains(&"#three".to_owned()), "{bodies:?}");
        assert!(world.lost() > 0);
        assert_eq!(pending(&world), 0);
    }
}

#[test]
fn a_record_that_lost_what_came_next_goes_on_while_the_clocks_word_cannot_be_written() {
    let mut world = world(true);
    world.disk.append(LIVE, (full(1, "#one") + &full(1, "a")).as_bytes());
    read_for(&mut world, 1000);
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, full(2, "b").as_bytes());
    read_for(&mut world, 200);
    *world.store.full.lock().unwrap() = true;
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, (full(3, "c") + &full(4, "#two") + &full(5, "#three")).as_bytes());
    read_for(&mut world, 5000);
    store(&mut world);
    // As if what was lost had never been, which is what a replay finds.
    assert_eq!(bodies(&world), ["#one\na\nc", "#two"]);
    assert_eq!(world.lost(), full(2, "b").len() as u64);
    world.restart();
    read_for(&mut world, 3000);
    store(&mut world);
    assert_eq!(bodies(&world), ["#one\na\nc", "#two"]);
    *world.store.full.lock().unwrap() = false;
    world.drain_for(70);
    assert_eq!(bodies(&world), ["#one\na\nc", "#two", "#three"]);
    assert_eq!(pending(&world), 0);
}

#[test]
fn late_fragments_that_were_sent_apart_stay_apart_in_the_smaller_requests_of_a_refused_one() {
    let mut world = world(false);
    world.disk.append(LIVE, entry(1, "stdout", "P", "#one").as_bytes());
    read_for(&mut world, 1000);
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, entry(2, "stdout", "P", " at y").as_bytes());
    read_for(&mut world, 1000);
    world.disk.append(OLD, (entry(3, "stdout", "P", "a") + &full(3, "b")).as_bytes());
    read_for(&mut world, 1500);
    assert_eq!(world.unsettled.iter().map(|batch| batch.records).collect::<Vec<_>>(), [2]);
    world.settle(0, Outcome::Refused { code: "413".into() });
    read_for(&mut world, 1000);
    store(&mut world);
    let mut got = bodies(&world);
    got.sort();
    assert_eq!(got, ["a", "b"]);
    // Stored, and no answer: the next process finds the same records.
    world.disk.append(LIVE, full(4, " end").as_bytes());
    read_for(&mut world, 1500);
    store(&mut world);
    is_the_same_after_a_kill(&mut world);
}

/// Bytes that wait in files that are not set aside.
fn waiting(world: &World) -> u64 {
    let files = world.core.files.values().filter(|file| file.aside.is_none());
    files.map(crate::logs::tail::TailFile::pending).sum()
}

#[test]
fn a_line_that_goes_on_into_a_file_that_is_set_aside_is_counted_and_costs_no_other_file() {
    let mut world = world(false);
    let (a, b) = (entry(1, "stdout", "P", "a"), entry(2, "stdout", "P", "b"));
    world.disk.append(LIVE, a.as_bytes());
    read_for(&mut world, 500);
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, (b.clone() + &entry(2, "stderr", "P", "e")).as_bytes());
    read_for(&mut world, 500);
    world.disk.append(LIVE, b"TRAP");
    read_for(&mut world, 500);
    world.disk.rename(LIVE, NEXT);
    world.disk.append(LIVE, (full(3, "c") + &full(4, "d")).as_bytes());
    world.drain_for(70);
    assert_eq!(bodies(&world), ["c", "d"]);
    assert_eq!(world.core.snapshot().set_aside, 1);
    let lost = a.len() + b.len() + entry(2, "stderr", "P", "e").len();
    assert_eq!((world.lost(), waiting(&world)), (lost as u64, 0));
}

#[test]
fn an_error_of_our_own_while_a_record_is_open_leaves_no_byte_of_other_files_without_an_account() {
    let mut world = world(true);
    let (one, at) = (full(1, "#one"), full(2, " at y"));
    world.disk.append(LIVE, one.as_bytes());
    read_for(&mut world, 1000);
    world.disk.rename(LIVE, OLD);
    world.disk.append(LIVE, at.as_bytes());
    // Until nobody looks at the old file any more but for the record; nor does it grow.
    read_for(&mut world, 20_000);
    world.disk.truncate(OLD);
    world.disk.append(OLD, format!("{:!<1$}", "TRAP", one.len()).as_bytes());
    world.disk.append(LIVE, (full(3, "#two") + &full(4, "#three")).as_bytes());
    read_for(&mut world, 1000);
    assert_eq!(world.core.snapshot().set_aside, 1);
    world.disk.rename(LIVE, NEXT);
    world.disk.append(LIVE, full(5, "#four").as_bytes());
    world.drain_for(140);
    assert_eq!(bodies(&world), ["#four"]);
    assert_eq!((world.lost(), waiting(&world)), ((one + &at).len() as u64, 0));
    assert_eq!(world.core.snapshot().set_aside, 1);
}
