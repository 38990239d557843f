//! Plain files that begin alike: made anew, emptied, cut, compressed; by several names; without what was kept of them.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;

use super::files::{APP, bodies, is_quiet_after_a_restart, rotate, rule, with, world};
use super::pending;
use crate::config::{Logs, ReadExisting, RedactRule};
use crate::logs::simulation::World;

const HEADING: &str = "# the same first line\n";

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_file_that_is_deleted_and_made_anew_with_the_same_first_line_is_shipped_whole() {
    for is_down in [false, true] {
        let mut world = world();
        let mut written = String::new();
        for round in 0..4 {
            // Longer from one to the next, so that a place in the old one lies within the new one.
            let text = format!("{HEADING}{round}\n{}", format!("{round} more\n").repeat(round * 3));
            written += &text;
            world.disk.append(APP, text.as_bytes());
            world.drain();
            if is_down {
                world.core.finish(world.now.mono);
            }
            world.disk.remove(APP);
            if round == 2 {
                // And once with a look in between, so that nothing is known of it any more.
                world.drain();
            }
            if is_down {
                world.disk.append(APP, format!("{HEADING}{round} anew\n").as_bytes());
                written += &format!("{HEADING}{round} anew\n");
                world.restart();
                world.drain();
                world.disk.remove(APP);
            }
        }
        world.drain();
        assert_eq!(bodies(&world), lines(&written), "down: {is_down}");
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn a_file_that_is_emptied_and_written_anew_with_the_same_first_line_is_shipped_from_its_start() {
    for is_down in [false, true] {
        let mut world = world();
        let mut written = String::new();
        for round in 0..4 {
            let text = format!("{HEADING}{round}\n{}", format!("{round} more\n").repeat(round * 3));
            written += &text;
            world.disk.append(APP, text.as_bytes());
            if is_down {
                world.restart();
            }
            world.drain();
            if is_down {
                world.core.finish(world.now.mono);
            }
            world.disk.truncate(APP);
        }
        assert_eq!(bodies(&world), lines(&written), "down: {is_down}");
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn a_file_that_is_emptied_when_it_is_named_and_not_read_yet_is_shipped_once_however_long_it_begins_alike() {
    let heading = format!("{}\n", "#".repeat(99));
    for old in ["old\n".to_owned(), format!("{}\n", "o".repeat(2000))] {
        let mut world = world();
        world.disk.append(APP, format!("{heading}{old}").as_bytes());
        let is_named = |world: &World| world.core.files.values().any(|file| file.identity.is_some());
        for _ in 0..100 {
            if !is_named(&world) {
                world.turn(50);
            }
        }
        assert!(is_named(&world) && world.core.files.values().all(|file| file.read == 0));
        world.disk.truncate(APP);
        world.disk.append(APP, format!("{heading}new\n{}\n", "n".repeat(2000)).as_bytes());
        for _ in 0..60 {
            world.turn(50);
        }
        // Stored, and killed before that is known.
        for at in 0..world.unsettled.len() {
            world.accept(at, false);
        }
        world.restart();
        world.drain_for(30);
        assert_eq!(bodies(&world), [&heading[..99], "new", &"n".repeat(2000)]);
        assert_eq!(pending(&world), 0);
    }
}

#[test]
fn a_copy_that_is_found_when_the_emptied_file_has_its_heading_again_has_a_name_of_its_own() {
    let mut world = world();
    world.disk.append(APP, HEADING.as_bytes());
    world.drain();
    for round in 0..3 {
        let text: String = (0..200).map(|line| format!("{round} {line:03}\n")).collect();
        world.disk.append(APP, text.as_bytes());
        let copied = world.disk.read(APP);
        world.disk.rename(&format!("{APP}.1"), &format!("{APP}.{}", round + 2));
        world.disk.append(&format!("{APP}.1"), &copied);
        world.disk.truncate(APP);
        world.disk.append(APP, HEADING.as_bytes());
        // At this instant the two files agree in all that one of them has.
        world.turn(20);
        world.turn(20);
    }
    world.disk.append(APP, b"last\n");
    world.drain();
    let mut written: Vec<String> =
        (0..3).flat_map(|round| (0..200).map(move |line| format!("{round} {line:03}"))).collect();
    written.push("last".into());
    written.extend(std::iter::repeat_n(HEADING.trim_end().to_owned(), 4));
    let mut got = bodies(&world);
    got.sort_unstable();
    written.sort_unstable();
    assert_eq!(got, written);
    assert_eq!(pending(&world), 0);
}

#[test]
fn a_file_that_lost_its_end_with_the_power_is_shipped_again_rather_than_a_line_of_it_lost() {
    // Shorter than it was, and longer by now.
    for lines_after in [1, 1000] {
        let mut world = world();
        let text: String = (0..500).map(|line| format!("line {line}\n")).collect();
        world.disk.append(APP, text.as_bytes());
        world.drain();
        world.core.finish(world.now.mono);
        world.disk.shrink(APP, text.len() / 2);
        let after: String = (0..lines_after).map(|line| format!("after {line}\n")).collect();
        world.disk.append(APP, format!("\n{after}").as_bytes());
        world.restart();
        world.drain();
        let got = bodies(&world);
        assert!(after.lines().all(|line| got.iter().any(|body| body == line)), "{lines_after}");
        assert_eq!((world.lost(), pending(&world)), (0, 0));
        assert!(is_quiet_after_a_restart(&mut world));
    }
}

#[test]
fn a_process_that_has_lost_its_state_gives_the_same_names() {
    let mut world = world();
    for round in 0..3 {
        world.disk.append(APP, format!("{HEADING}{round}\n{}\n", "=".repeat(2000)).as_bytes());
        world.drain();
        rotate(&world, false);
    }
    world.drain();
    let sent = world.order.len();
    assert_eq!(sent, 9);
    world.core.finish(world.now.mono);
    *world.store.bytes.lock().unwrap() = None;
    world.restart();
    world.drain();
    assert_eq!(world.order.len(), sent);
    assert_eq!(pending(&world), 0);
}

#[test]
fn files_that_begin_alike_and_are_compressed_at_once_are_each_known_again() {
    for is_down in [false, true] {
        let mut world = world();
        let older = format!("{APP}.1");
        world.disk.append(&older, format!("{HEADING}older\n").as_bytes());
        world.disk.append(APP, format!("{HEADING}younger\n").as_bytes());
        world.drain();
        world.disk.append(APP, b"unread\n");
        world.core.finish(world.now.mono);
        world.disk.rename(&older, &format!("{APP}.2"));
        world.disk.rename(APP, &older);
        for name in [&older, &format!("{APP}.2")] {
            world.disk.gzip(name);
            world.disk.remove(name);
        }
        if is_down {
            world.restart();
        }
        world.drain();
        let text = format!("{HEADING}older\n{HEADING}younger\nunread\n");
        assert_eq!(bodies(&world), lines(&text), "down: {is_down}");
        assert!(is_quiet_after_a_restart(&mut world));
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn a_hole_before_a_line_where_a_writer_went_on_at_its_old_place_is_no_part_of_the_line() {
    for hole in [3, 4000, 300_000] {
        let mut world = world();
        let mut written = Vec::new();
        for round in 1..4 {
            for line in ["one", "two"] {
                let line = format!("{round} {line}");
                world.disk.append(APP, format!("{line}\n").as_bytes());
                written.push(line);
            }
            world.drain();
            if round == 2 {
                world.core.finish(world.now.mono);
            }
            world.disk.truncate(APP);
            world.disk.append(APP, &vec![0; hole * round]);
            if round == 2 {
                world.restart();
            }
        }
        world.disk.append(APP, b"last\n");
        written.push("last".into());
        world.drain();
        assert_eq!(bodies(&world), written, "hole: {hole}");
        assert!(world.order.iter().all(|uid| !world.got[uid].truncated));
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn files_by_pattern_are_left_out_with_what_rotation_makes_of_them() {
    let mut of = rule("/var/log/*.log");
    of.exclude = vec!["*-debug.log".into(), "/var/*/b.log".into()];
    let mut world = with(vec![of]);
    for name in ["a.log", "b.log", "b.log.1", "a-debug.log", "a-debug.log.1", "b-debug.log-20260101"] {
        world.disk.append(&format!("/var/log/{name}"), format!("{name}\n").as_bytes());
    }
    world.drain();
    let got: Vec<&str> = world.order.iter().map(|uid| world.got[uid].body.as_str()).collect();
    assert_eq!(got, ["a.log"]);
    assert_eq!(pending(&world), 0);
}

#[test]
fn a_file_by_two_paths_stays_that_of_the_path_that_was_first() {
    let mut world = with(vec![rule("/var/log/link/*.log")]);
    world.disk.append("/data/app.log", b"one\n");
    world.disk.link("/data/app.log", "/var/log/link/app.log");
    world.drain();
    world.core.finish(world.now.mono);
    // The directory of this one is looked at before the other.
    world.config.files.push(rule("/data/*.log"));
    world.disk.append("/data/app.log", b"two\n");
    world.restart();
    world.drain();
    assert_eq!(world.bodies("/var/log/link/app.log", ""), ["one", "two"]);
    assert_eq!(world.order.len(), 2);
}

#[test]
fn a_new_rule_reads_what_is_there_as_a_first_start_does_and_all_that_comes_while_no_agent_runs() {
    let files = vec![rule("/var/log/a/*.log")];
    let mut world = World::with(Logs { files, read_existing: ReadExisting::None, ..Logs::default() }, 4);
    world.disk.append("/var/log/a/a.log", b"old\n");
    world.disk.append("/var/log/b/b.log", b"old\n");
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.append("/var/log/a/new.log", b"new in a\n");
    world.config.files.push(rule("/var/log/b/*.log"));
    world.restart();
    world.drain();
    world.core.finish(world.now.mono);
    world.disk.append("/var/log/b/new.log", b"new in b\n");
    world.disk.append("/var/log/b/b.log", b"more\n");
    world.restart();
    world.drain();
    let mut got: Vec<&str> = world.order.iter().map(|uid| world.got[uid].body.as_str()).collect();
    got.sort_unstable();
    assert_eq!(got, ["more", "new in a", "new in b"]);
}

#[test]
fn a_rule_for_files_takes_secrets_out_and_a_line_has_no_time_but_that_of_its_reading() {
    let redact = RedactRule {
        container: "file:/var/log/*".into(),
        pattern: "secret-[0-9]+".into(),
        replace: "***".into(),
        ..RedactRule::default()
    };
    let files = vec![rule(APP), rule("/srv/x")];
    let mut world = World::with(
        Logs { files, redact: vec![redact], read_existing: ReadExisting::All, ..Logs::default() },
        4,
    );
    world.disk.append(APP, b"a secret-17 here\n");
    world.disk.append("/srv/x", b"a secret-17 here\n");
    while world.unsettled.is_empty() {
        world.turn(100);
    }
    let request = ExportLogsServiceRequest::decode(&world.unsettled[0].payload[..]).unwrap();
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    for record in scopes.flat_map(|scope| scope.log_records) {
        // Elasticsearch's name of a document has the time in it: what another reading changes must not be.
        assert_eq!(record.time_unix_nano, 0);
        assert_ne!(record.observed_time_unix_nano, 0);
    }
    world.drain();
    assert_eq!(bodies(&world), ["a *** here"]);
    assert_eq!(world.bodies("/srv/x", ""), ["a secret-17 here"]);
}
