//! Records of several lines: where they end, whatever happens between.

use std::collections::BTreeMap;

use sonde_daemon::units::{Interval, Size};

use super::{LIVE, entry, full, pending};
use crate::batch::Outcome;
use crate::config::{LogRule, Logs, MultilineRule, ReadExisting, RedactRule};
use crate::logs::simulation::World;
use crate::pods::PodMeta;

fn rule(start: &str) -> MultilineRule {
    MultilineRule { start: start.into(), ..MultilineRule::default() }
}

fn with(rules: Vec<MultilineRule>) -> World {
    World::with(Logs { read_existing: ReadExisting::All, multiline: rules, ..Logs::default() }, 4)
}

/// Each record begins with `#`.
fn world() -> World {
    with(vec![rule("^#")])
}

fn lines(bodies: &[&str]) -> String {
    bodies.iter().map(|body| full(1, body)).collect()
}

fn annotate(world: &World, annotations: &[(&str, &str)]) {
    let annotations: BTreeMap<String, String> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    world.pods.replace([PodMeta {
        uid: "uid".into(),
        namespace: "ns".into(),
        name: "pod".into(),
        annotations,
        ..PodMeta::default()
    }]);
}

/// Long enough to read what there is, too short for the clock to end a record; nothing is answered.
fn read(world: &mut World) {
    for _ in 0..25 {
        world.turn(50);
    }
}

/// Long enough for the clock to end what is open.
fn wait(world: &mut World) {
    for _ in 0..70 {
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

fn nothing_is_lost(world: &World) {
    assert_eq!((world.lost(), pending(world)), (0, 0));
}

#[test]
fn lines_up_to_the_next_first_one_are_one_record_with_the_stamp_and_the_uid_of_the_first() {
    let mut world = world();
    let text = full(1, "orphan") + &full(2, "#one") + &full(3, "") + &full(4, "  at x\r") + &full(5, "#two");
    world.disk.append(LIVE, text.as_bytes());
    world.drain();
    assert_eq!(bodies(&world), ["orphan", "#one\n\n  at x\r", "#two"]);
    let offset = u64::from_str_radix(&world.order[1][20..], 16).unwrap();
    assert_eq!(offset, full(1, "orphan").len() as u64);
    nothing_is_lost(&world);
}

#[test]
fn streams_do_not_mix_and_fragments_are_joined_before_a_rule_sees_them() {
    let mut world = world();
    for (stream, tag, body) in [
        ("stdout", "P", "#o"),
        ("stderr", "F", "#error"),
        ("stdout", "F", "ut"),
        ("stderr", "P", "  at "),
        ("stdout", "P", ""),
        ("stderr", "F", "x"),
        ("stdout", "F", "more"),
        ("stdout", "P", ""),
        ("stdout", "F", "#next"),
    ] {
        world.disk.append(LIVE, entry(1, stream, tag, body).as_bytes());
    }
    world.drain();
    assert_eq!(bodies(&world), ["#out\nmore", "#next"]);
    assert_eq!(world.bodies("pod", "stderr"), ["#error\n  at x"]);
    nothing_is_lost(&world);
}

#[test]
fn a_record_that_the_clock_ended_ends_there_after_a_lost_answer_a_kill_and_more_lines() {
    let mut world = world();
    world.disk.append(LIVE, lines(&["#one", "  at x"]).as_bytes());
    wait(&mut world);
    store(&mut world);
    assert_eq!(bodies(&world), ["#one\n  at x"]);
    // Nothing of this was written after the cut but the cut itself.
    world.disk.append(LIVE, lines(&["  at y", "  at z", "#two"]).as_bytes());
    world.restart();
    world.drain();
    assert_eq!(bodies(&world), ["#one\n  at x", "  at y\n  at z", "#two"]);
    assert_eq!(world.resent_unmarked, 0);
    nothing_is_lost(&world);
}

#[test]
fn a_record_is_not_sent_for_its_age_while_the_cut_cannot_be_written() {
    let mut world = world();
    world.disk.append(LIVE, lines(&["#zero"]).as_bytes());
    world.drain();
    *world.store.full.lock().unwrap() = true;
    world.disk.append(LIVE, lines(&["#one", "  at x"]).as_bytes());
    wait(&mut world);
    assert!(world.unsettled.is_empty());
    // What ends by itself goes out all the same.
    world.disk.append(LIVE, lines(&["#two"]).as_bytes());
    read(&mut world);
    store(&mut world);
    assert_eq!(bodies(&world), ["#zero", "#one\n  at x"]);
    *world.store.full.lock().unwrap() = false;
    world.drain();
    assert_eq!(bodies(&world), ["#zero", "#one\n  at x", "#two"]);
    nothing_is_lost(&world);
}

#[test]
fn a_record_goes_on_across_rotation_compression_and_a_kill() {
    let mut world = world();
    world.disk.append(LIVE, lines(&["#zero", "#one", "  at x"]).as_bytes());
    read(&mut world);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.append(LIVE, lines(&["  at y"]).as_bytes());
    read(&mut world);
    world.restart();
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, lines(&["  at z", "#two"]).as_bytes());
    world.drain();
    assert_eq!(bodies(&world), ["#zero", "#one\n  at x\n  at y\n  at z", "#two"]);
    nothing_is_lost(&world);
}

#[test]
fn records_of_both_streams_go_on_across_rotation_compression_and_a_kill() {
    let mut world = with(vec![MultilineRule { max_wait: Interval::secs(60), ..rule("^#") }]);
    let error = |tag, body| entry(1, "stderr", tag, body);
    world.disk.append(LIVE, (lines(&["#one", "  at x"]) + &error("F", "#a")).as_bytes());
    wait(&mut world);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.append(LIVE, lines(&["  at y"]).as_bytes());
    wait(&mut world);
    world.restart();
    world.disk.gzip(&old);
    world.disk.remove(&old);
    let ends = entry(1, "stdout", "P", "  at ") + &error("F", "  at b") + &full(1, "z") + &full(1, "#two");
    world.disk.append(LIVE, (ends + &error("F", "#c") + &full(1, "#three") + &error("F", "#d")).as_bytes());
    wait(&mut world);
    store(&mut world);
    assert_eq!(bodies(&world), ["#one\n  at x\n  at y\n  at z", "#two"]);
    assert_eq!(world.bodies("pod", "stderr"), ["#a\n  at b", "#c"]);
    for _ in 0..20 {
        wait(&mut world);
    }
    world.drain();
    nothing_is_lost(&world);
}

#[test]
fn a_replay_finds_each_record_wherever_the_answers_were_lost() {
    // Records that end by a first line, by their number of lines, by their bytes and by the clock, of both streams.
    let small = MultilineRule { max_lines: 3, max_bytes: Size(40), ..rule("^#") };
    let rounds: Vec<Vec<(&str, &str)>> = vec![
        vec![
            ("stdout", "#1"),
            ("stderr", "#a"),
            ("stdout", "x"),
            ("stdout", "x"),
            ("stdout", "y"),
            ("stderr", "b"),
        ],
        vec![
            ("stdout", "y"),
            ("stderr", "#c"),
            ("stdout", "#2"),
            ("stdout", "more than there is room for in it at a"),
            ("stdout", "z"),
        ],
        vec![("stderr", "d"), ("stderr", "e"), ("stderr", "f"), ("stdout", "z"), ("stdout", "#3")],
    ];
    let expected_out = ["#1\nx\nx", "y\ny", "#2", "more than there is room for in it at a\nz", "z", "#3"];
    for lost in 0..64_u32 {
        let mut world = with(vec![small.clone()]);
        let mut nth = 0;
        for (at, round) in rounds.iter().enumerate() {
            for (stream, body) in round {
                world.disk.append(LIVE, entry(1, stream, "F", body).as_bytes());
            }
            if at == 1 {
                wait(&mut world)
            } else {
                read(&mut world)
            }
            // Each request is stored; one answer in so many arrives.
            while !world.unsettled.is_empty() {
                let is_answered = lost >> (nth % 6) & 1 == 0;
                nth += 1;
                world.accept(0, is_answered);
                if !is_answered {
                    world.unsettled.remove(0);
                }
            }
            if lost % 3 == 0 {
                world.core.finish(world.now.mono);
            }
            world.restart();
        }
        world.drain();
        let mut out = bodies(&world);
        out.sort();
        let mut expected = expected_out.to_vec();
        expected.sort();
        assert_eq!(out, expected, "{lost}");
        nothing_is_lost(&world);
    }
}

#[test]
fn what_is_settled_of_a_stream_ends_its_open_record_and_not_the_other_streams() {
    // Three requests of one record each; the answer to the second one arrives alone.
    let small = MultilineRule { max_lines: 2, max_wait: Interval::secs(15), ..rule("^#") };
    let mut world =
        World::with(Logs { read_existing: ReadExisting::All, multiline: vec![small], ..Logs::default() }, 8);
    let big = "x".repeat(900);
    for (stream, body) in [
        ("stdout", "#1"),
        ("stdout", &big),
        ("stderr", "#a"),
        ("stdout", &big),
        ("stdout", "2"),
        ("stdout", &big),
        ("stderr", "b"),
        ("stdout", "3"),
    ] {
        world.disk.append(LIVE, entry(1, stream, "F", body).as_bytes());
        read(&mut world);
    }
    for _ in 0..5 {
        wait(&mut world);
    }
    assert!(world.unsettled.len() >= 3, "{}", world.unsettled.len());
    for at in 0..world.unsettled.len() {
        world.accept(at, false);
    }
    world.accept(1, true);
    world.core.finish(world.now.mono);
    let got = world.got.len();
    world.restart();
    world.drain();
    assert_eq!(world.got.len(), got, "the same records, by the same names");
    assert_eq!(bodies(&world).len(), 3);
    assert_eq!(world.bodies("pod", "stderr"), ["#a\nb"]);
    nothing_is_lost(&world);
}

#[test]
fn a_record_of_a_refused_request_is_sent_again_as_it_was() {
    let mut world = with(vec![MultilineRule { max_lines: 2, ..rule("^#") }]);
    world.disk.append(LIVE, lines(&["#1", "x", "y", "z", "#2", "x"]).as_bytes());
    world.disk.append(LIVE, entry(1, "stderr", "F", "e").as_bytes());
    world.disk.append(LIVE, lines(&["#3"]).as_bytes());
    wait(&mut world);
    while let Some(at) = world.unsettled.iter().position(|batch| batch.records > 1) {
        world.settle(at, Outcome::Refused { code: "413".into() });
        read(&mut world);
    }
    world.drain();
    let mut out = bodies(&world);
    out.sort();
    assert_eq!(out, ["#1\nx", "#2\nx", "#3", "y\nz"]);
    nothing_is_lost(&world);
}

#[test]
fn a_rule_that_changes_applies_above_what_was_read_and_a_kill_does_not_move_that() {
    for is_stopped in [true, false] {
        let mut world = with(vec![]);
        world.disk.append(LIVE, lines(&["#one", "a", "#two"]).as_bytes());
        read(&mut world);
        store(&mut world);
        assert_eq!(bodies(&world), ["#one", "a", "#two"]);
        if is_stopped {
            world.core.finish(world.now.mono);
        }
        world.config.multiline = vec![rule("^#")];
        // Written while no agent runs: after a kill nobody knows whether it was sent.
        world.disk.append(LIVE, lines(&["b", "c"]).as_bytes());
        world.restart();
        read(&mut world);
        store(&mut world);
        world.restart();
        world.disk.append(LIVE, lines(&["#three", "d"]).as_bytes());
        world.drain();
        let between: &[&str] = if is_stopped { &["b\nc"] } else { &["b", "c"] };
        let expected = [&["#one", "a", "#two"], between, &["#three\nd"]].concat();
        assert_eq!(bodies(&world), expected);
        // And away again.
        world.core.finish(world.now.mono);
        world.config.multiline = vec![];
        world.disk.append(LIVE, lines(&["e", "f"]).as_bytes());
        world.restart();
        world.drain();
        assert_eq!(bodies(&world), [&expected[..], &["e", "f"]].concat());
        nothing_is_lost(&world);
    }
}

#[test]
fn a_record_that_is_open_when_its_rule_goes_is_the_same_after_a_kill() {
    let mut world = world();
    world.disk.append(LIVE, lines(&["#one", "a"]).as_bytes());
    read(&mut world);
    world.config.multiline = vec![rule("^%")];
    world.restart();
    read(&mut world);
    world.disk.append(LIVE, lines(&["b", "#c", "%d"]).as_bytes());
    read(&mut world);
    store(&mut world);
    world.restart();
    world.drain();
    assert_eq!(bodies(&world), ["#one\na", "b\n#c", "%d"]);
    nothing_is_lost(&world);
}

#[test]
fn a_pods_wish_goes_before_the_rules_stays_while_nobody_knows_the_pod_and_what_is_odd_is_ignored() {
    let mut world = with(vec![MultilineRule { container: "app".into(), ..rule("^%") }]);
    annotate(&world, &[("sonde.io/multiline", "^#")]);
    world.wait_for_metadata = true;
    world.restart();
    let mut expected = Vec::new();
    let mut step = |world: &mut World, written: &[&str], records: &[&str]| {
        world.disk.append(LIVE, lines(written).as_bytes());
        world.drain();
        expected.extend(records.iter().map(|record| (*record).to_owned()));
        assert_eq!(bodies(world), expected);
    };
    step(&mut world, &["#one", "%a"], &["#one\n%a"]);
    // The kubelet says nothing, in this process or the next.
    world.pods.replace([]);
    step(&mut world, &["#two", "%b"], &["#two\n%b"]);
    world.core.finish(world.now.mono);
    world.restart();
    step(&mut world, &["#three", "%c"], &["#three\n%c"]);
    annotate(&world, &[("sonde.io/multiline", "^#"), ("sonde.io/multiline.app", "java")]);
    step(&mut world, &["#four", "\tat x", "%d"], &["#four\n\tat x", "%d"]);
    annotate(&world, &[("sonde.io/multiline", "[")]);
    step(&mut world, &["#five", "%e"], &["#five", "%e"]);
    annotate(&world, &[("sonde.io/multiline", "off")]);
    step(&mut world, &["#six", "f"], &["#six", "f"]);
    annotate(&world, &[]);
    step(&mut world, &["%seven", "g"], &["%seven\ng"]);
    nothing_is_lost(&world);
}

#[test]
fn a_pods_wish_for_no_rule_stays_while_nobody_knows_the_pod_in_this_process_and_the_next_one() {
    for is_killed in [false, true] {
        let mut world = world();
        annotate(&world, &[("sonde.io/multiline", "off")]);
        world.wait_for_metadata = true;
        world.restart();
        let mut expected = Vec::new();
        let mut step = |world: &mut World, written: &[&str]| {
            world.disk.append(LIVE, lines(written).as_bytes());
            read(world);
            store(world);
            expected.extend(written.iter().map(|line| (*line).to_owned()));
            assert_eq!(bodies(world), expected);
        };
        step(&mut world, &["#one", "a"]);
        world.pods.replace([]);
        step(&mut world, &["#two", "b"]);
        if !is_killed {
            world.core.finish(world.now.mono);
        }
        world.restart();
        step(&mut world, &["#three", "c"]);
        world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
        step(&mut world, &["#four", "d"]);
        world.restart();
        step(&mut world, &["#five", "e"]);
        world.drain();
        // The kubelet is back, and the pod wants nothing any more.
        annotate(&world, &[]);
        world.disk.append(LIVE, lines(&["#six", "f"]).as_bytes());
        world.drain();
        assert_eq!(bodies(&world)[10..], ["#six\nf"]);
        nothing_is_lost(&world);
    }
}

#[test]
fn a_settled_line_without_its_newline_does_not_swallow_what_was_written_behind_it() {
    for (head, tail) in [(10, 10), (10, 300_000), (300_000, 10), (300_000, 300_000)] {
        let mut world = with(vec![MultilineRule { max_wait: Interval::secs(60), ..rule("^#") }]);
        world.disk.append(LIVE, lines(&["#one"]).as_bytes());
        read(&mut world);
        world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
        let head = format!("#two{}", "x".repeat(head));
        world.disk.append(LIVE, full(2, &head).trim_end().as_bytes());
        for _ in 0..21 {
            wait(&mut world);
        }
        assert_eq!(world.unsettled.len(), 2);
        world.accept(1, true);
        world.core.finish(world.now.mono);
        let tail = "t".repeat(tail);
        world.disk.append(LIVE, format!("{tail}\n{}", full(3, "#three")).as_bytes());
        world.restart();
        world.drain_for(70);
        let cut = |text: &str| text[..text.len().min(4096)].to_owned();
        let mut out = bodies(&world);
        out.sort();
        assert_eq!(out, ["#one".to_owned(), "#three".to_owned(), cut(&head)]);
        let raw: Vec<_> = world.got.values().filter(|got| got.malformed).map(|got| &got.body).collect();
        assert_eq!(raw, [&cut(&tail)]);
        nothing_is_lost(&world);
    }
}

#[test]
fn the_first_rule_that_fits_wins_and_other_containers_are_as_before() {
    let to = |pod: &str, start: &str| MultilineRule { pod: pod.into(), ..rule(start) };
    let mut world = with(vec![to("po*", "^#"), to("p*", "^%")]);
    for path in [LIVE, "ns_pet_uid2/app/0.log", "ns_web_uid3/app/0.log"] {
        world.disk.append(path, lines(&["#a", "%b", "c"]).as_bytes());
    }
    world.drain();
    assert_eq!(bodies(&world), ["#a\n%b\nc"]);
    assert_eq!(world.bodies("pet", "stdout"), ["#a", "%b\nc"]);
    assert_eq!(world.bodies("web", "stdout"), ["#a", "%b", "c"]);
}

#[test]
fn bounds_part_a_record_before_the_line_that_is_too_much_and_a_line_over_the_limit_is_cut_alone() {
    let mut world = with(vec![MultilineRule { max_lines: 3, max_bytes: Size::kib(2), ..rule("^#") }]);
    let long = "x".repeat(1500);
    let longer = "y".repeat(5000);
    world.disk.append(
        LIVE,
        lines(&["#a", "b", "c", "d", "e", "#f", &long, &long, "g", "#h", &longer, "i"]).as_bytes(),
    );
    world.drain();
    let cut = "y".repeat(4096);
    assert_eq!(
        bodies(&world),
        ["#a\nb\nc", "d\ne", &format!("#f\n{long}"), &format!("{long}\ng"), "#h", &cut, "i"]
    );
    let truncated: Vec<bool> = world.order.iter().map(|uid| world.got[uid].truncated).collect();
    assert_eq!(truncated, [false, false, false, false, false, true, false]);
    nothing_is_lost(&world);
}

#[test]
fn a_record_waits_as_long_as_its_rule_says_and_is_read_again_rather_than_held() {
    let mut world =
        with(vec![MultilineRule { max_wait: Interval::secs(20), max_lines: 10_000, ..rule("^#") }]);
    world.disk.append(LIVE, lines(&["#a"]).as_bytes());
    let more = "x".repeat(40);
    for _ in 0..30 {
        world.disk.append(LIVE, lines(&[&more]).as_bytes());
        wait(&mut world);
    }
    assert!(world.unsettled.is_empty() && world.got.is_empty());
    let kept: usize = world
        .core
        .lineages
        .values()
        .map(|lineage| {
            lineage
                .unfinished(sonde_wire::logs::Stream::Stdout)
                .map_or(0, |(_, last, _)| (last.end - last.start) as usize)
        })
        .sum();
    assert_eq!(kept, world.disk.read(LIVE).len(), "one range");
    for _ in 0..6 {
        wait(&mut world);
    }
    world.drain();
    assert_eq!(bodies(&world), [format!("#a{}", format!("\n{more}").repeat(30))]);
}

#[test]
fn redaction_and_fields_see_the_whole_record() {
    let mut config =
        Logs { read_existing: ReadExisting::All, multiline: vec![rule("^#")], ..Logs::default() };
    let of = LogRule::default();
    config.redact.push(RedactRule {
        namespace: of.namespace,
        pattern: "(?s)BEGIN.*END".into(),
        ..RedactRule::default()
    });
    let mut world = World::with(config, 4);
    world.disk.append(LIVE, lines(&["#key BEGIN", "secret", "END", "#next"]).as_bytes());
    world.drain();
    assert_eq!(bodies(&world), ["#key [redacted]", "#next"]);
}

#[test]
fn a_record_that_is_open_when_its_file_is_emptied_or_its_pod_is_left_out_keeps_what_can_be_read() {
    let mut world = world();
    world.disk.append(LIVE, lines(&["#one", "a"]).as_bytes());
    read(&mut world);
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, full(2, "b").as_bytes());
    for _ in 0..4 {
        world.turn(50);
    }
    world.disk.truncate(LIVE);
    world.disk.append(LIVE, full(3, "c").as_bytes());
    world.drain();
    assert_eq!(bodies(&world), ["#one\na", "c"]);
    assert_eq!((world.lost(), pending(&world)), (full(2, "b").len() as u64, 0));
    // A pod that wants no logs any more: what was open is sent, also after a kill.
    world.disk.append(LIVE, full(4, "#two").as_bytes());
    read(&mut world);
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.disk.append(LIVE, full(5, "left out").as_bytes());
    read(&mut world);
    store(&mut world);
    annotate(&world, &[]);
    world.restart();
    world.disk.append(LIVE, full(6, "d").as_bytes());
    world.drain();
    assert_eq!(bodies(&world), ["#one\na", "c", "#two", "d"]);
    assert_eq!(pending(&world), 0);
}

#[test]
fn a_record_that_is_open_when_its_pod_is_deleted_is_sent_by_the_clock_from_the_file_that_is_held_open() {
    let mut world = world();
    world.disk.append(LIVE, (lines(&["#one", "  at x"]) + &entry(1, "stderr", "F", "#error")).as_bytes());
    read(&mut world);
    world.disk.remove(LIVE);
    world.drain();
    assert_eq!(bodies(&world), ["#one\n  at x"]);
    assert_eq!(world.bodies("pod", "stderr"), ["#error"]);
    nothing_is_lost(&world);
    // One that an agent finds gone that was killed with the record open is lost, and counted.
    let path = "ns_pet_uid2/app/0.log";
    world.disk.append(path, lines(&["#two", "  at y"]).as_bytes());
    read(&mut world);
    world.disk.remove(path);
    world.restart();
    world.drain();
    let bytes = lines(&["#two", "  at y"]).len() as u64;
    assert_eq!((world.bodies("pet", "stdout"), world.lost(), pending(&world)), (vec![], bytes, 0));
}

#[test]
fn a_limit_sheds_whole_records_and_a_replay_sends_what_was_sent() {
    let mut config =
        Logs { read_existing: ReadExisting::All, multiline: vec![rule("^#")], ..Logs::default() };
    config.limits.per_container = Size(40);
    let mut world = World::with(config, 4);
    let text: String = (0..20).map(|_| lines(&["#head", "  at x"])).collect();
    world.disk.append(LIVE, text.as_bytes());
    wait(&mut world);
    store(&mut world);
    world.restart();
    world.drain();
    let out = bodies(&world);
    assert!(out.iter().all(|body| body == "#head\n  at x"), "{out:?}");
    assert!((4..8).contains(&out.len()), "{}", out.len());
    let row = world.core.ledger.rows().next().unwrap().1;
    assert_eq!(row.shed[0] + row.acked, text.len() as u64);
}
