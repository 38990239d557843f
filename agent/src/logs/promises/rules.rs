//! What is left out by rule or annotation, and from where on.

use std::collections::BTreeMap;

use super::{LIVE, entry, full, pending};
use crate::config::{LogRule, Logs, ReadExisting};
use crate::logs::simulation::World;
use crate::pods::PodMeta;

fn rule(namespace: &str, pod: &str, container: &str) -> LogRule {
    LogRule { namespace: namespace.into(), pod: pod.into(), container: container.into() }
}

fn excluding(rules: Vec<LogRule>) -> World {
    World::with(Logs { read_existing: ReadExisting::All, exclude: rules, ..Logs::default() }, 4)
}

/// Observed, acknowledged, and left out by rule.
fn counted(world: &World) -> (u64, u64, u64) {
    world.core.ledger.rows().fold((0, 0, 0), |(observed, acked, rule), (_, row)| {
        (observed + row.observed, acked + row.acked, rule + row.excluded[0])
    })
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

#[test]
fn what_a_rule_leaves_out_is_counted_whole_through_rotation_and_compression_and_nothing_of_it_is_sent() {
    let mut world = excluding(vec![rule("ns", "p*", "app")]);
    let text: String = (0..50).map(|line| full(line, "excluded")).collect();
    world.disk.append(LIVE, text.as_bytes());
    world.disk.append("ns_pod_uid/other/0.log", full(1, "sent").as_bytes());
    world.drain();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.append(LIVE, full(51, "excluded").as_bytes());
    world.drain();
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, b"2026-11-20T16:35:52Z stdout F without an end");
    world.drain();
    world.disk.remove(&format!("{old}.gz"));
    world.drain();
    assert_eq!(world.got.len(), 1);
    let sent = full(1, "sent").len() as u64;
    let rule = (text.len() + full(51, "excluded").len() + 44) as u64;
    assert_eq!(counted(&world), (sent + rule, sent, rule));
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_rule_that_is_added_applies_above_what_was_read_and_counts_nothing_twice() {
    let mut world = excluding(vec![]);
    world.disk.append(LIVE, full(1, "before").as_bytes());
    world.drain();
    world.disk.append(LIVE, full(2, "stored, and its answer lost").as_bytes());
    for _ in 0..40 {
        world.turn(50);
    }
    world.accept(0, false);
    world.core.finish(world.now.mono);
    world.disk.append(LIVE, full(3, "after").as_bytes());
    world.config.exclude = vec![rule("ns", "", "")];
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["before", "stored, and its answer lost"]);
    let len = |second, body| full(second, body).len() as u64;
    let acked = len(1, "before") + len(2, "stored, and its answer lost");
    assert_eq!(counted(&world), (acked + len(3, "after"), acked, len(3, "after")));
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn a_rule_that_is_removed_applies_above_what_was_left_out() {
    let mut world = excluding(vec![rule("ns", "", "")]);
    world.disk.append(LIVE, format!("{}2026-11-20T16:35:02Z stdout F be", full(1, "left out")).as_bytes());
    for _ in 0..20 {
        world.turn(50);
    }
    world.core.finish(world.now.mono);
    world.config.exclude = vec![];
    world.disk.append(LIVE, format!("gun\n{}", full(3, "after")).as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["begun", "after"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    assert_eq!(counted(&world).2, full(1, "left out").len() as u64);
}

#[test]
fn a_rule_that_stays_sends_nothing_after_a_restart_at_any_instant() {
    let mut world = excluding(vec![rule("ns", "", "")]);
    for line in 0..40 {
        world.disk.append(LIVE, full(line, "left out").as_bytes());
        world.disk.append(LIVE, b"2026-11-20T16:35:02Z stdout F be");
        if line % 3 == 0 {
            world.turn(u64::from(line) * 40);
        }
        if line % 4 == 0 {
            world.restart();
        }
        world.turn(10);
        world.disk.append(LIVE, b"gun\n");
    }
    world.drain();
    assert!(world.got.is_empty(), "{:?}", world.got);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    assert_eq!(counted(&world).2, world.disk.read(LIVE).len() as u64);
}

#[test]
fn a_pod_that_wants_no_logs_is_left_out_from_its_first_line_and_counted() {
    let mut world = excluding(vec![]);
    world.wait_for_metadata = true;
    world.restart();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(10);
    world.turn(500);
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.drain();
    assert!(world.got.is_empty());
    let len = full(1, "one").len() as u64;
    assert_eq!((counted(&world), pending(&world)), ((len, 0, len), 0));
}

#[test]
fn an_annotation_that_comes_late_or_goes_applies_above_what_was_read() {
    let mut world = excluding(vec![]);
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), entry(2, "stdout", "P", "half")).as_bytes());
    world.drain();
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.disk.append(LIVE, full(3, "left out").as_bytes());
    world.drain();
    // The kubelet forgets a pod before its files go: what it wanted stays.
    world.pods.replace([]);
    world.disk.append(LIVE, full(4, "left out").as_bytes());
    world.drain();
    annotate(&world, &[("sonde.io/logs", "true")]);
    world.turn(2000);
    world.disk.append(LIVE, full(5, "five").as_bytes());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "half", "five"]);
    assert_eq!(counted(&world).2, 2 * full(3, "left out").len() as u64);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

/// As long as it takes to read what there is; nothing is answered.
fn read(world: &mut World) {
    for _ in 0..40 {
        world.turn(50);
    }
}

#[test]
fn what_was_read_and_not_acknowledged_when_an_annotation_comes_is_sent_and_not_left_out() {
    let mut world = excluding(vec![]);
    world.disk.append(LIVE, full(1, "one").as_bytes());
    read(&mut world);
    assert_eq!(world.unsettled.len(), 1);
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.disk.append(LIVE, full(2, "left out").as_bytes());
    read(&mut world);
    let (one, rest) = (full(1, "one").len() as u64, full(2, "left out").len() as u64);
    assert_eq!(counted(&world), (one + rest, 0, rest));
    world.drain();
    assert_eq!(counted(&world), (one + rest, one, rest));
}

#[test]
fn what_was_read_and_not_acknowledged_is_sent_by_the_next_process_although_the_pod_wants_no_logs_by_then() {
    let mut world = excluding(vec![]);
    world.disk.append(LIVE, full(1, "one").as_bytes());
    read(&mut world);
    assert_eq!(world.unsettled.len(), 1);
    world.core.finish(world.now.mono);
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.disk.append(LIVE, full(2, "left out").as_bytes());
    world.restart();
    world.drain();
    let (one, rest) = (full(1, "one").len() as u64, full(2, "left out").len() as u64);
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
    assert_eq!((counted(&world), pending(&world)), ((one + rest, one, rest), 0));
}

#[test]
fn what_a_process_only_saw_before_it_knew_that_the_pod_wants_no_logs_is_not_sent_by_the_next_one() {
    let mut world = excluding(vec![]);
    world.wait_for_metadata = true;
    world.disk.append(LIVE, full(1, "sent").as_bytes());
    world.drain();
    let other = "ns_pod_uid/other/0.log";
    for round in 0..3 {
        world.core.finish(world.now.mono);
        world.restart();
        world.disk.append(LIVE, full(2 + round, "left out").as_bytes());
        world.disk.append(other, full(2 + round, "left out").as_bytes());
        // Found, counted and written down, and the kubelet has not answered yet.
        for _ in 0..9 {
            world.turn(50);
        }
        assert!(pending(&world) > 0);
    }
    annotate(&world, &[("sonde.io/logs", "false")]);
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["sent"]);
    let left_out = 6 * full(2, "left out").len() as u64;
    assert_eq!((counted(&world).2, world.lost(), pending(&world)), (left_out, 0, 0));
}

#[test]
fn a_compressed_file_of_a_container_that_is_left_out_holds_up_nothing_and_is_not_sent_when_the_rule_goes() {
    let mut world = excluding(vec![rule("ns", "", "")]);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, full(1, "left out").as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(2, "left out").as_bytes());
    world.drain();
    world.core.finish(world.now.mono);
    world.restart();
    world.disk.append(LIVE, full(3, "left out").as_bytes());
    world.drain();
    let line = full(1, "left out").len() as u64;
    assert_eq!((counted(&world), pending(&world)), ((3 * line, 0, 3 * line), 0));
    world.core.finish(world.now.mono);
    world.config.exclude = vec![];
    world.disk.append(LIVE, full(4, "after").as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["after"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
}

#[test]
fn while_the_kubelet_is_away_a_new_container_waits_a_second_and_no_line_is_lost() {
    let mut world = excluding(vec![]);
    world.wait_for_metadata = true;
    world.restart();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    for _ in 0..19 {
        world.turn(50);
    }
    assert!(world.unsettled.is_empty());
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one"]);
}

#[test]
fn a_pod_says_whether_its_bodies_are_parsed() {
    for (annotation, severities) in [(None, vec![17]), (Some("off"), vec![0]), (Some("auto"), vec![17])] {
        let mut world = excluding(vec![]);
        if let Some(parse) = annotation {
            annotate(&world, &[("sonde.io/parse", parse)]);
        }
        world.disk.append(LIVE, full(1, "{\"level\":\"error\",\"msg\":\"x\"}").as_bytes());
        for _ in 0..10 {
            world.turn(50);
        }
        assert_eq!(crate::logs::simulation::severities(&world.unsettled[0].payload), severities);
    }
}
