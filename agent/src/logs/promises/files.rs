//! Plain files of the node.

use std::collections::BTreeMap;

use super::{full, pending};
use crate::batch::Outcome;
use crate::config::{FileRule, Limits, Logs, ReadExisting};
use crate::logs::ledger::RowKey;
use crate::logs::simulation::World;

pub(super) const APP: &str = "/var/log/app.log";

pub(super) fn rule(path: &str) -> FileRule {
    FileRule { path: path.into(), ..FileRule::default() }
}

pub(super) fn with(files: Vec<FileRule>) -> World {
    World::with(Logs { files, read_existing: ReadExisting::All, ..Logs::default() }, 4)
}

pub(super) fn world() -> World {
    with(vec![rule("/var/log/*.log")])
}

pub(super) fn bodies(world: &World) -> Vec<String> {
    world.bodies(APP, "")
}

pub(super) fn is_quiet_after_a_restart(world: &mut World) -> bool {
    world.core.finish(world.now.mono);
    world.restart();
    for _ in 0..100 {
        world.turn(100);
    }
    world.unsettled.is_empty()
}

/// As logrotate does it: numbers move up, older ones are compressed.
pub(super) fn rotate(world: &World, compress: bool) {
    for number in (1..9).rev() {
        for end in ["", ".gz"] {
            world.disk.rename(&format!("{APP}.{number}{end}"), &format!("{APP}.{}{end}", number + 1));
        }
    }
    if compress && world.disk.names(APP).contains(&format!("{APP}.2")) {
        world.disk.gzip(&format!("{APP}.2"));
        world.disk.remove(&format!("{APP}.2"));
    }
    world.disk.rename(APP, &format!("{APP}.1"));
}

#[test]
fn each_line_is_a_record_with_the_time_it_was_read_and_no_stream() {
    let mut world = world();
    world.disk.append(APP, b"one\n\n  two \r\nlevel=error three\n");
    world.drain();
    assert_eq!(bodies(&world), ["one", "", "  two \r", "level=error three"]);
    assert!(world.order.iter().all(|uid| !world.got[uid].malformed && world.got[uid].stream.is_empty()));
    let rows: Vec<RowKey> = world.core.ledger.rows().map(|(key, _)| key.clone()).collect();
    assert_eq!(rows, [RowKey { container: format!("file:{APP}"), ..RowKey::default() }]);
    assert_eq!((world.lost(), pending(&world), world.core.records.malformed), (0, 0, 0));
}

#[test]
fn rotations_by_number_with_compression_lose_nothing_and_send_nothing_twice_also_while_the_agent_is_down() {
    for is_down in [false, true] {
        let mut world = world();
        let mut written = Vec::new();
        for round in 0..6 {
            for line in 0..4 {
                let body = format!("{round} {line}");
                world.disk.append(APP, format!("{body}\n").as_bytes());
                written.push(body);
                if (round, line) == (1, 1) || (!is_down && line == 2) {
                    world.drain();
                    world.core.finish(world.now.mono);
                }
            }
            rotate(&world, true);
        }
        if is_down {
            assert_eq!(world.order.len(), 6);
            world.restart();
        }
        world.drain();
        assert_eq!(bodies(&world), written, "down: {is_down}");
        assert_eq!((world.lost(), pending(&world), world.core.gaps), (0, 0, 0));
        assert!(is_quiet_after_a_restart(&mut world), "sent again");
    }
}

#[test]
fn rotations_by_date_are_one_stream_with_the_file_that_is_written_to() {
    for is_down in [false, true] {
        for (first, second) in [
            ("app.log-20260101", "app.log-20260102"),
            ("app-2026-01-01T00-00-00.000.log", "app-2026-01-02T00-00-00.000.log"),
        ] {
            let mut world = world();
            let (first, second) = (format!("/var/log/{first}"), format!("/var/log/{second}"));
            world.disk.append(APP, b"one\n");
            world.drain();
            world.disk.append(APP, b"two\n");
            world.core.finish(world.now.mono);
            world.disk.rename(APP, &first);
            world.disk.gzip(&first);
            world.disk.remove(&first);
            world.disk.append(APP, b"three\n");
            world.disk.rename(APP, &second);
            world.disk.append(APP, b"four\n");
            if is_down {
                world.restart();
            }
            world.drain();
            assert_eq!(bodies(&world), ["one", "two", "three", "four"], "{first} down: {is_down}");
            assert!(is_quiet_after_a_restart(&mut world), "sent again");
        }
    }
}

#[test]
fn a_second_program_that_writes_on_into_the_renamed_file_loses_no_line() {
    for (is_compressed, is_removed) in [(false, false), (true, false), (false, true)] {
        let mut world = world();
        world.disk.append(APP, b"one\n");
        world.drain();
        rotate(&world, false);
        world.disk.append(APP, b"two\n");
        world.drain_for(30);
        let old = format!("{APP}.1");
        world.disk.append(&old, b"from the second\n");
        if is_compressed {
            world.disk.gzip(&old);
        }
        if is_compressed || is_removed {
            world.disk.remove(&old);
        }
        world.drain_for(90);
        assert_eq!(bodies(&world), ["one", "two", "from the second"], "{is_compressed} {is_removed}");
        assert_eq!(pending(&world), 0);
        assert!(is_quiet_after_a_restart(&mut world), "sent again");
    }
}

#[test]
fn a_file_that_is_copied_and_truncated_is_shipped_once_with_what_the_copy_has_of_it() {
    for header in ["", "# the same first line\n"] {
        let mut world = world();
        let mut written = Vec::new();
        for round in 0..4 {
            let text = format!("{header}{round} a\n{round} b\n");
            written.extend(text.lines().map(str::to_owned));
            world.disk.append(APP, text.as_bytes());
            world.drain();
            // One that is not read yet, and one that comes while it is copied.
            world.disk.append(APP, format!("{round} c\n").as_bytes());
            written.push(format!("{round} c"));
            for number in (1..4).rev() {
                world.disk.rename(&format!("{APP}.{number}"), &format!("{APP}.{}", number + 1));
            }
            let copied = world.disk.read(APP);
            world.disk.append(&format!("{APP}.1"), &copied);
            world.turn(100);
            world.disk.truncate(APP);
            world.turn(100);
        }
        world.drain();
        assert_eq!(bodies(&world), written, "header: {header:?}");
        assert_eq!((world.lost(), pending(&world)), (0, 0));
        assert!(is_quiet_after_a_restart(&mut world), "sent again: {header:?}");
    }
}

#[test]
fn a_file_that_is_copied_and_truncated_while_the_agent_is_down_is_gone_on_with_in_the_copy() {
    for header in ["", "# the same first line\n"] {
        let mut world = world();
        world.disk.append(APP, format!("{header}one\n").as_bytes());
        world.drain();
        world.core.finish(world.now.mono);
        world.disk.append(APP, b"two\n");
        let copied = world.disk.read(APP);
        world.disk.append(&format!("{APP}.1"), &copied);
        world.disk.truncate(APP);
        world.disk.append(APP, format!("{header}three\n").as_bytes());
        world.restart();
        world.drain();
        let written = format!("{header}one\ntwo\n{header}three\n");
        assert_eq!(bodies(&world), written.lines().collect::<Vec<_>>());
        assert_eq!((world.lost(), pending(&world)), (0, 0));
        assert!(is_quiet_after_a_restart(&mut world));
    }
}

#[test]
fn files_that_begin_with_the_same_line_are_all_shipped_whole_and_keep_their_names() {
    for is_down in [false, true] {
        let mut world = world();
        let mut written = Vec::new();
        for round in 0..4 {
            let text = format!("# the same first line\n{round}\n");
            written.extend(text.lines().map(str::to_owned));
            world.disk.append(APP, text.as_bytes());
            world.drain();
            world.core.finish(world.now.mono);
            if is_down {
                world.restart();
            }
            rotate(&world, true);
        }
        world.drain();
        assert_eq!(bodies(&world), written, "down: {is_down}");
        assert!(is_quiet_after_a_restart(&mut world), "sent again");
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn a_copy_that_somebody_made_is_not_shipped_again_also_after_a_restart() {
    let mut world = world();
    world.disk.append(APP, b"one\ntwo\n");
    world.drain();
    world.disk.append(&format!("{APP}.1"), b"one\ntwo\n");
    world.drain();
    for _ in 0..2 {
        assert!(is_quiet_after_a_restart(&mut world));
    }
    world.disk.append(APP, b"three\n");
    world.drain();
    assert_eq!(bodies(&world), ["one", "two", "three"]);
}

#[test]
fn a_last_line_without_its_end_is_shipped_once_and_what_comes_later_is_a_record_of_its_own() {
    let mut world = world();
    world.disk.append(APP, b"one\nno end");
    world.drain();
    assert_eq!(bodies(&world), ["one", "no end"]);
    world.core.finish(world.now.mono);
    world.disk.append(APP, b" of it\ntwo\n");
    world.restart();
    world.drain();
    assert_eq!(bodies(&world), ["one", "no end", " of it", "two"]);
}

#[test]
fn a_file_that_is_deleted_is_read_through_the_open_handle_and_what_went_while_the_agent_was_down_is_counted()
{
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.turn(10);
    world.disk.append(APP, b"two\n");
    world.disk.remove(APP);
    world.drain();
    assert_eq!(bodies(&world), ["one", "two"]);
    assert!(world.core.files.is_empty() && world.core.lineages.is_empty());
    world.disk.append(APP, b"three\n");
    world.drain();
    world.disk.append(APP, b"four\n");
    world.core.note_sizes_for_test(world.now);
    world.core.finish(world.now.mono);
    world.disk.remove(APP);
    world.restart();
    world.drain();
    assert_eq!((world.lost(), pending(&world)), (5, 0));
}

#[test]
fn lines_over_the_limit_and_longer_than_a_window_are_cut_and_refused_ones_are_found() {
    let mut world = world();
    let long = "l".repeat(300_000);
    world.disk.append(APP, format!("one\n{}\n{long}\nbad\ntwo\n", "m".repeat(5000)).as_bytes());
    for _ in 0..400 {
        world.turn(50);
        while let Some(batch) = world.unsettled.first() {
            if memchr::memmem::find(&batch.payload, b"bad").is_some() {
                world.settle(0, Outcome::Refused { code: "400".into() });
            } else {
                world.accept(0, true);
            }
        }
    }
    let mut got = bodies(&world);
    got.sort_unstable();
    assert_eq!(got, [&long[..4096], &"m".repeat(4096), "one", "two"]);
    assert_eq!((world.lost(), pending(&world)), (4, 0));
}

#[test]
fn a_path_may_mean_many_directories_and_files_and_each_is_read_once() {
    let mut named = rule("/srv/*/logs/app*");
    named.name = "apps".into();
    named.attributes = BTreeMap::from([("team".into(), "a".into())]);
    let mut world = with(vec![named, rule("/srv/a/logs/*.log"), rule("/var/log/pods/link*")]);
    for path in
        ["/srv/a/logs/app.log", "/srv/b/logs/app.log", "/srv/b/logs/app.log.1", "/srv/b/logs/other.log"]
    {
        world.disk.append(path, format!("{path}\n").as_bytes());
    }
    world.disk.append("/srv/.hidden/logs/app.log", b"hidden\n");
    // A link to one beside it, and one to a container's log.
    world.disk.link("/srv/a/logs/app.log", "/srv/a/logs/applink");
    world.disk.append(super::LIVE, full(1, "container").as_bytes());
    world.disk.link(super::LIVE, "/var/log/pods/link.log");
    world.drain();
    let mut got: Vec<String> = world.order.iter().map(|uid| world.got[uid].body.clone()).collect();
    got.sort_unstable();
    assert_eq!(got, ["/srv/a/logs/app.log", "/srv/b/logs/app.log", "/srv/b/logs/app.log.1", "container"]);
    // A directory that comes later.
    world.disk.append("/srv/c/logs/app.log", b"later\n");
    world.drain();
    assert_eq!(world.bodies("/srv/c/logs/app.log", ""), ["later"]);
    let set = world.core.lineages.values().find(|lineage| &*lineage.pod_dir == "file:/srv/c/logs").unwrap();
    let text = String::from_utf8_lossy(set.attributes.as_ref().unwrap().0.bytes()).into_owned();
    for part in ["service.name", "apps", "team", "log.file.name", "app.log", "k8s.node.name"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_file_that_is_renamed_to_another_ones_kind_of_name_is_still_the_same() {
    let mut world = world();
    world.disk.append(APP, b"one\n");
    world.drain();
    world.disk.append(APP, b"two\n");
    world.disk.rename(APP, "/var/log/yesterday.log");
    world.disk.append(APP, b"three\n");
    world.drain();
    assert_eq!(bodies(&world), ["one", "two", "three"]);
    assert_eq!(world.order.len(), 3);
}

#[test]
fn limits_and_container_rules_do_not_touch_plain_files() {
    let exclude = vec![crate::config::LogRule { container: "*".into(), ..Default::default() }];
    let limits = Limits { per_container: sonde_daemon::units::Size::kib(1), ..Limits::default() };
    let files = vec![rule(APP)];
    let mut world =
        World::with(Logs { files, exclude, limits, read_existing: ReadExisting::All, ..Logs::default() }, 4);
    for line in 0..2000 {
        world.disk.append(APP, format!("line {line} {}\n", "=".repeat(50)).as_bytes());
    }
    world.drain();
    assert_eq!(bodies(&world).len(), 2000);
}

#[test]
fn what_is_older_than_read_existing_is_left_out_by_the_files_last_write() {
    // The simulated files were written in the far future.
    let files = vec![rule(APP)];
    let mut world = World::with(Logs { files, read_existing: ReadExisting::None, ..Logs::default() }, 4);
    world.disk.append(APP, b"old\n");
    world.drain();
    world.disk.append(APP, b"new\n");
    world.drain();
    assert_eq!(bodies(&world), ["new"]);
}
