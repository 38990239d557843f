//! Docker's json-file layout.

use sonde_wire::uid::FileHash;

use super::{LIVE, pending, world};
use crate::batch::Outcome;
use crate::config::{Logs, ReadExisting};
use crate::logs::ledger::RowKey;
use crate::logs::simulation::{World, docker_config};

pub(super) const DIR: &str = "docker:/ab12";
pub(super) const JSON: &str = "docker:/ab12/ab12-json.log";

pub(super) fn line(second: u32, stream: &str, log: &str) -> String {
    format!("{{\"log\":\"{log}\",\"stream\":\"{stream}\",\"time\":\"2026-11-20T16:35:{second:02}.5Z\"}}\n")
}

pub(super) fn full(second: u32, body: &str) -> String {
    line(second, "stdout", &format!("{body}\\n"))
}

/// A container of the pod `pod`, that of [`LIVE`].
pub(super) fn labelled() -> World {
    let world = world();
    world.disk.append(&format!("{DIR}/config.v2.json"), docker_config("pod", "uid").as_bytes());
    world
}

/// As Docker rotates: each number moves up, the live file becomes `.1`.
pub(super) fn rotate(world: &World) {
    for number in (1..9).rev() {
        for end in ["", ".gz"] {
            world.disk.rename(&format!("{JSON}.{number}{end}"), &format!("{JSON}.{}{end}", number + 1));
        }
    }
    world.disk.rename(JSON, &format!("{JSON}.1"));
}

pub(super) fn compress(world: &World, number: u32) {
    world.disk.gzip(&format!("{JSON}.{number}"));
    world.disk.remove(&format!("{JSON}.{number}"));
}

#[test]
fn rotations_that_renumber_and_compress_lose_nothing_and_send_nothing_twice_also_while_the_agent_is_down() {
    for is_down in [false, true] {
        let mut world = labelled();
        let mut written = Vec::new();
        for second in 1..8 {
            let bodies = [format!("{second} a"), format!("{second} b"), format!("{second} c")];
            for body in &bodies {
                world.disk.append(JSON, full(second, body).as_bytes());
            }
            written.extend(bodies);
            if second == 2 {
                // In the middle of the second file, which is three files back when it is read again.
                world.disk.append(JSON, full(second, "2 half").as_bytes());
                world.drain();
                world.disk.append(JSON, full(second, "2 rest").as_bytes());
                written.extend(["2 half".to_owned(), "2 rest".to_owned()]);
                world.core.finish(world.now.mono);
            }
            if !is_down && second > 4 {
                world.drain();
            }
            rotate(&world);
            if second > 1 && second % 2 == 0 {
                compress(&world, 1);
                compress(&world, 2);
            }
        }
        let before = world.order.len();
        if is_down {
            assert_eq!(before, 7);
            world.restart();
        }
        world.drain();
        assert_eq!(world.bodies("pod", "stdout"), written, "down: {is_down}");
        assert_eq!((world.lost(), pending(&world), world.core.gaps), (0, 0, 0));
        world.core.finish(world.now.mono);
        world.restart();
        for _ in 0..50 {
            world.turn(100);
        }
        assert!(world.unsettled.is_empty(), "sent again");
    }
}

#[test]
fn fragments_are_joined_per_stream_across_files_and_restarts() {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.disk.append(JSON, line(2, "stdout", "be\\\"g").as_bytes());
    world.disk.append(JSON, line(2, "stderr", "other ").as_bytes());
    world.disk.append(JSON, line(2, "stdout", "in ").as_bytes());
    world.drain_for(2);
    world.core.finish(world.now.mono);
    rotate(&world);
    compress(&world, 1);
    world.disk.append(JSON, line(3, "stderr", "stream\\n").as_bytes());
    world.disk.append(JSON, line(3, "stdout", "end\\u003c\\n").as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "be\"gin end<"]);
    assert_eq!(world.bodies("pod", "stderr"), ["other stream"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_fragment_whose_end_never_comes_is_sent_once_and_what_comes_later_is_a_record_of_its_own() {
    let mut world = labelled();
    world.disk.append(JSON, format!("{}{}", full(1, "one"), line(2, "stdout", "begin")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "begin"]);
    world.disk.append(JSON, line(3, "stdout", "late\\n").as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "begin", "late"]);
}

#[test]
fn what_is_not_dockers_json_is_shipped_raw_and_marked_and_the_file_goes_on() {
    let mut world = labelled();
    let torn = "{\"log\":\"to{\"log\":\"rn\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-20T16:35:02Z\"}";
    world.disk.append(JSON, format!("{}{torn}\n\n{}", full(1, "one"), full(3, "three")).as_bytes());
    // Longer than a window, and than anything that Docker writes.
    let long = full(4, &"l".repeat(200_000));
    world.disk.append(JSON, format!("{long}{}", full(5, "five")).as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "three", "five"]);
    let raw: Vec<_> = world.order.iter().map(|uid| &world.got[uid]).filter(|got| got.malformed).collect();
    assert_eq!(raw.iter().map(|got| got.body.as_str()).collect::<Vec<_>>(), [torn, "", &long[..4096]]);
    assert!(raw[2].truncated);
    assert_eq!((world.lost(), pending(&world), world.core.records.malformed), (0, 0, 3));
}

#[test]
fn half_a_surrogate_pair_is_replaced_and_counted() {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "a\\ud800b").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["a\u{fffd}b"]);
    assert_eq!(world.core.invalid_utf8, 1);
}

#[test]
fn a_line_over_the_limit_is_cut_by_what_it_means_and_not_by_how_it_is_written() {
    let mut world = labelled();
    world.disk.append(JSON, full(1, &"\\u0041".repeat(4096)).as_bytes());
    world.disk.append(JSON, full(2, &"\\u0042".repeat(4097)).as_bytes());
    for second in 3..6 {
        world.disk.append(JSON, line(second, "stdout", &"\\u0043".repeat(4000)).as_bytes());
    }
    world.disk.append(JSON, full(6, "end").as_bytes());
    world.disk.append(JSON, full(7, "next").as_bytes());
    world.drain();
    let of = |letter: &str| letter.repeat(4096);
    assert_eq!(world.bodies("pod", "stdout"), [of("A"), of("B"), of("C"), "next".to_owned()]);
    let cut: Vec<bool> = world.order.iter().map(|uid| world.got[uid].truncated).collect();
    assert_eq!(cut, [false, true, true, false]);
}

#[test]
fn a_refused_request_is_halved_down_to_the_record_at_fault() {
    let mut world = labelled();
    for second in 0..20 {
        // In two fragments.
        world.disk.append(JSON, line(second, "stdout", "line \\\"").as_bytes());
        world.disk.append(JSON, full(second, &format!("{second}\\\"")).as_bytes());
    }
    world.turn(100);
    world.turn(1000);
    for _ in 0..200 {
        world.turn(100);
        while let Some(batch) = world.unsettled.first() {
            let is_bad = memchr::memmem::find(&batch.payload, b"line \"13\"").is_some();
            if is_bad {
                world.settle(0, Outcome::Refused { code: "400".into() });
            } else {
                world.accept(0, true);
            }
        }
    }
    let expected: Vec<String> =
        (0..20).filter(|second| *second != 13).map(|second| format!("line \"{second}\"")).collect();
    let mut got = world.bodies("pod", "stdout");
    got.sort_by_key(|body| expected.iter().position(|other| other == body));
    assert_eq!(got, expected);
    let lost = line(13, "stdout", "line \\\"") + &full(13, "13\\\"");
    assert_eq!((world.lost(), pending(&world)), (lost.len() as u64, 0));
}

#[test]
fn a_container_is_named_by_its_labels_as_the_pod_path_would_name_it_or_by_its_id_alone() {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.disk.append("docker:/cd34/cd34-json.log", full(2, "two").as_bytes());
    world.disk.append("docker:/cd34/config.v2.json", br#"{"Config":{"Labels":{"maintainer":"x"}}}"#);
    world.drain();
    let of_pod = FileHash::new("uid", "app", 0, full(1, "one").as_bytes()).hex();
    let of_id = FileHash::new("cd34", "", 0, full(2, "two").as_bytes()).hex();
    let mut uids = world.order.clone();
    uids.sort_by_key(|uid| world.got[uid].body.clone());
    assert_eq!(uids, [format!("{of_pod}{:012x}", 0), format!("{of_id}{:012x}", 0)]);
    assert_eq!(world.bodies("cd34", "stdout"), ["two"]);
    let rows: Vec<RowKey> = world.core.ledger.rows().map(|(key, _)| key.clone()).collect();
    let row = |namespace: &str, pod: &str, container: &str| RowKey {
        namespace: namespace.into(),
        pod: pod.into(),
        container: container.into(),
    };
    assert_eq!(rows, [row("", "", "cd34"), row("ns", "pod", "app")]);
    // The same names after a restart, and nothing again.
    world.core.finish(world.now.mono);
    world.restart();
    for _ in 0..50 {
        world.turn(100);
    }
    assert!(world.unsettled.is_empty());
    assert_eq!(world.lost(), 0);
}

#[test]
fn what_the_pod_path_links_to_is_read_once_with_its_rotations_and_a_container_without_labels_has_the_paths_name()
 {
    for has_labels in [true, false] {
        let mut world = if has_labels { labelled() } else { world() };
        world.disk.append(JSON, full(1, "one").as_bytes());
        rotate(&world);
        world.disk.append(JSON, full(2, "two").as_bytes());
        world.disk.link(JSON, LIVE);
        world.drain();
        assert_eq!(world.bodies("pod", "stdout"), ["one", "two"], "labels: {has_labels}");
        assert_eq!(world.order.len(), 2);
        assert_eq!(world.core.files.len(), 2);
        let acked: u64 = world.core.ledger.rows().map(|(_, row)| row.acked).sum();
        assert_eq!(acked, (full(1, "one") + &full(2, "two")).len() as u64);
    }
}

#[test]
fn a_link_to_dockers_file_is_read_as_such_and_goes_on_there_when_the_directory_can_be_seen() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
    world.disk.append(&format!("{DIR}/config.v2.json"), docker_config("pod", "uid").as_bytes());
    world.disk.link(LIVE, JSON);
    world.disk.append(JSON, full(2, "two").as_bytes());
    world.drain();
    rotate(&world);
    world.disk.remove(LIVE);
    world.disk.append(JSON, full(3, "three").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two", "three"]);
    assert_eq!((world.lost(), pending(&world), world.resent_unmarked), (0, 0, 0));
    let written = full(1, "one") + &full(2, "two") + &full(3, "three");
    let observed: u64 = world.core.ledger.rows().map(|(_, row)| row.observed).sum();
    assert_eq!(observed, written.len() as u64);
}

#[test]
fn a_file_that_docker_empties_in_its_place_is_read_from_its_start_and_what_was_cut_is_counted() {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.drain();
    let unread = full(2, "never read");
    world.disk.append(JSON, unread.as_bytes());
    world.core.note_sizes_for_test(world.now);
    world.disk.truncate(JSON);
    world.disk.append(JSON, full(3, "one").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "one"]);
    assert_eq!((world.lost(), pending(&world)), (unread.len() as u64, 0));
}

#[test]
fn a_container_that_is_removed_is_read_through_the_open_handle_and_what_went_while_the_agent_was_down_is_counted()
 {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.turn(10);
    let two = full(2, "two");
    world.disk.append(JSON, two.as_bytes());
    world.disk.remove(JSON);
    world.disk.remove(&format!("{DIR}/config.v2.json"));
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "two"]);
    assert!(world.core.lineages.is_empty() && world.core.files.is_empty());

    let mut world = World::new(ReadExisting::All);
    // Docker's directory itself stays.
    world.disk.append("docker:/cd34/config.v2.json", b"{}");
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.drain();
    world.disk.append(JSON, two.as_bytes());
    world.core.note_sizes_for_test(world.now);
    world.core.finish(world.now.mono);
    world.disk.remove(JSON);
    world.restart();
    world.drain();
    assert_eq!((world.lost(), pending(&world)), (two.len() as u64, 0));
}

#[test]
fn rules_say_of_dockers_containers_what_they_say_of_others() {
    let exclude = vec![crate::config::LogRule { container: "cd*".into(), ..Default::default() }];
    let mut world = World::with(Logs { exclude, read_existing: ReadExisting::All, ..Logs::default() }, 4);
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.disk.append("docker:/cd34/cd34-json.log", full(2, "two").as_bytes());
    world.drain();
    assert_eq!(world.bodies("ab12", "stdout"), ["one"]);
    assert_eq!(world.order.len(), 1);
    let excluded: u64 = world.core.ledger.rows().map(|(_, row)| row.excluded[0]).sum();
    assert_eq!(excluded, full(2, "two").len() as u64);
}

#[test]
fn containers_known_by_their_ids_alone_that_come_and_go_leave_one_row_and_nothing_else_behind() {
    let mut world = world();
    let mut written = 0;
    for round in 0..20 {
        let id = format!("{round:012x}");
        let text = full(1, &format!("round {round}"));
        written += text.len() as u64;
        world.disk.append(&format!("docker:/{id}/{id}-json.log"), text.as_bytes());
        world.drain_for(3);
        world.disk.remove(&format!("docker:/{id}/{id}-json.log"));
        world.drain_for(12);
        // Two minutes a round: those of the last ten have their rows.
        world.turn(105_000);
        let rows = world.core.ledger.rows().count();
        assert!(rows <= 7, "{rows}");
    }
    world.turn(600_000);
    world.turn(1000);
    let rows: Vec<_> = world.core.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].0, rows[0].1.observed, rows[0].1.acked), (&RowKey::default(), written, written));
    assert_eq!((world.core.lineages.len(), world.core.files.len()), (0, 0));
    assert_eq!(world.core.docker.places(true).count(), 1, "the directory itself");
    assert_eq!(world.got.len(), 20);
    world.restart();
    assert_eq!(world.core.ledger.rows().map(|(key, row)| (key.clone(), *row)).collect::<Vec<_>>(), rows);
}

#[test]
fn what_an_earlier_process_sent_of_a_file_that_is_known_late_is_marked_when_it_is_sent_again() {
    // Without labels it has its name a second later; or nobody may open it at first.
    for is_docker in [true, false] {
        let mut world = world();
        let path = if is_docker { JSON } else { LIVE };
        let text = if is_docker { full(1, "one") } else { super::full(1, "one") };
        world.disk.append(path, text.as_bytes());
        for _ in 0..60 {
            world.turn(50);
        }
        assert_eq!(world.unsettled.len(), 1);
        world.accept(0, false);
        world.core.finish(world.now.mono);
        world.disk.deny(path, !is_docker);
        world.restart();
        world.drain_for(2);
        world.disk.deny(path, false);
        world.drain();
        assert_eq!(world.got.len(), 1);
        assert_eq!((world.lost(), pending(&world), world.resent_unmarked), (0, 0, 0), "Docker: {is_docker}");
    }
}

#[test]
fn what_there_was_at_a_first_start_is_left_out_as_it_is_asked_also_of_a_container_without_labels() {
    for has_labels in [true, false] {
        let mut world = World::new(ReadExisting::None);
        if has_labels {
            world.disk.append(&format!("{DIR}/config.v2.json"), docker_config("pod", "uid").as_bytes());
        }
        world.disk.append(JSON, full(1, "older").as_bytes());
        rotate(&world);
        compress(&world, 1);
        world.disk.append(JSON, full(2, "old").as_bytes());
        world.turn(100);
        // While it has no name yet.
        world.disk.append(JSON, full(3, "soon").as_bytes());
        world.turn(100);
        rotate(&world);
        world.disk.append(JSON, full(4, "sooner").as_bytes());
        world.drain();
        // One that comes later is read whole.
        world.disk.append("docker:/cd34/cd34-json.log", full(5, "other").as_bytes());
        world.drain();
        let name = if has_labels { "pod" } else { "ab12" };
        assert_eq!(world.bodies(name, "stdout"), ["soon", "sooner"], "labels: {has_labels}");
        assert_eq!(world.bodies("cd34", "stdout"), ["other"]);
        let old: u64 = world.core.ledger.rows().map(|(_, row)| row.excluded[1]).sum();
        assert_eq!(old, (full(1, "older") + &full(2, "old")).len() as u64);
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}

#[test]
fn nothing_is_given_up_or_sent_again_where_dockers_directory_is_there_later_than_the_agent() {
    for has_labels in [true, false] {
        let mut world = if has_labels { labelled() } else { world() };
        world.disk.append(JSON, full(1, "one").as_bytes());
        rotate(&world);
        world.disk.append(JSON, full(2, "two").as_bytes());
        world.drain();
        world.disk.append(JSON, full(3, "three").as_bytes());
        world.core.note_sizes_for_test(world.now);
        world.core.finish(world.now.mono);
        let away = |path: &str| path.replace("docker:/", "away/");
        let names = world.disk.names("docker:/");
        names.iter().for_each(|path| world.disk.rename(path, &away(path)));
        world.restart();
        world.drain();
        names.iter().for_each(|path| world.disk.rename(&away(path), path));
        let before = world.order.len();
        world.drain();
        assert_eq!(world.order.len(), before + 1, "labels: {has_labels}");
        let observed: u64 = world.core.ledger.rows().map(|(_, row)| row.observed).sum();
        assert_eq!(observed, (full(1, "one") + &full(2, "two") + &full(3, "three")).len() as u64);
        assert_eq!((world.lost(), pending(&world), world.resent_unmarked), (0, 0, 0));
        assert_eq!((world.core.gaps, world.core.snapshot().unreadable), (0, 0));
    }
}

#[test]
fn where_dockers_directory_is_gone_for_good_what_was_not_read_there_is_lost_after_ten_minutes_and_nothing_is_kept()
 {
    let mut world = labelled();
    world.disk.append(JSON, full(1, "one").as_bytes());
    world.drain();
    let two = full(2, "two");
    world.disk.append(JSON, two.as_bytes());
    world.core.note_sizes_for_test(world.now);
    world.core.finish(world.now.mono);
    world.disk.names("docker:/").iter().for_each(|path| world.disk.remove(path));
    world.restart();
    world.drain_for(60);
    assert_eq!((world.lost(), pending(&world)), (0, two.len() as u64), "it may be there later");
    world.turn(600_000);
    world.drain_for(2);
    assert_eq!((world.lost(), pending(&world)), (two.len() as u64, 0));
    assert!(world.core.restored.is_empty());
    world.core.finish(world.now.mono);
    world.restart();
    assert!(world.core.restored.is_empty(), "nothing is kept of it");
}
