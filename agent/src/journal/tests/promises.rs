//! What is promised of the journal.

use std::fs;

use super::real::{BEGIN, Tools, big, made, with};
use super::world::{Wanted, World, copy, entries, lines};
use crate::batch::Outcome;
use crate::config::{ReadExisting, RedactRule};
use crate::logs::redact;
use sonde_daemon::units::Interval;

fn accepted() -> Outcome {
    Outcome::Accepted { rejected: 0, message: String::new() }
}

#[test]
fn entries_are_shipped_once_through_rotations_while_the_agent_runs_and_while_it_does_not() {
    let test = "entries_are_shipped_once_through_rotations_while_the_agent_runs_and_while_it_does_not";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 300));
    world.drain();
    assert_eq!(world.bodies(), lines(0, 300));
    for n in 3..6 {
        Tools::rotate_at_the_next_write(&world.active());
        world.write(&entries(n * 100, (n + 1) * 100));
        world.drain();
    }
    assert_eq!((world.bodies(), world.archived().len()), (lines(0, 600), 3));
    for n in 6..10 {
        Tools::rotate_at_the_next_write(&world.active());
        world.write(&entries(n * 100, (n + 1) * 100));
    }
    world.start();
    world.drain();
    assert_eq!((world.bodies(), world.archived().len()), (lines(0, 1000), 7));
    assert_eq!(world.most_often(), 1, "what was acknowledged is not sent again");
    let lost = world.snapshot().counts;
    assert_eq!((lost.deleted, lost.damaged, lost.pinned), (0, 0, 0));
}

#[test]
fn a_lost_acknowledgement_and_a_kill_send_again_by_the_same_uid_and_say_so() {
    let test = "a_lost_acknowledgement_and_a_kill_send_again_by_the_same_uid_and_say_so";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 400));
    let mut batches = Vec::new();
    while batches.len() < 3 {
        world.turn();
        if let Some(batch) = world.take() {
            world.store(&batch);
            // The third one's acknowledgement does not arrive.
            if batches.len() < 2 {
                world.settle(&batch, accepted());
            }
            batches.push(batch);
        }
    }
    (0..8).for_each(|_| world.turn());
    let sent = world.got.len();
    assert!(sent < 400 && sent as u32 == batches.iter().map(|batch| batch.records).sum::<u32>());
    let rotated = world.active();
    Tools::rotate_at_the_next_write(&rotated);
    world.write(&entries(400, 401));
    world.start();
    world.resends.clear();
    world.drain();
    assert_eq!(world.bodies(), lines(0, 401));
    let twice = world.got.values().filter(|(_, times)| *times == 2).count();
    assert_eq!(twice as u32, batches[2].records, "only what was not acknowledged is sent again");
    assert!(world.resends[0]);
}

#[test]
fn a_journal_that_is_removed_unread_is_read_through_the_open_handle() {
    let Some(mut world) =
        World::new("a_journal_that_is_removed_unread_is_read_through_the_open_handle", Wanted::default())
    else {
        return;
    };
    world.write(&entries(0, 500));
    world.turn();
    let first = world.take();
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(500, 510));
    fs::remove_file(&world.archived()[0]).unwrap();
    (0..24).for_each(|_| world.turn());
    if let Some(first) = first {
        world.store(&first);
        world.settle(&first, accepted());
    }
    world.drain();
    assert_eq!(world.bodies(), lines(0, 510));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.counts.deleted, snapshot.files), (0, 1), "and then it is closed");
}

#[test]
fn deleted_journals_are_held_open_only_up_to_the_limit_and_what_is_lost_is_counted() {
    let test = "deleted_journals_are_held_open_only_up_to_the_limit_and_what_is_lost_is_counted";
    let wanted = Wanted { pinned_deleted: 1000, ..Wanted::default() };
    let Some(mut world) = World::new(test, wanted) else { return };
    world.write(&entries(0, 500));
    world.turn();
    let first = world.take();
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(500, 510));
    fs::remove_file(&world.archived()[0]).unwrap();
    (0..24).for_each(|_| world.turn());
    if let Some(first) = first {
        world.store(&first);
        world.settle(&first, accepted());
    }
    world.drain();
    let pinned = world.snapshot().counts.pinned;
    assert!(pinned > 0);
    assert_eq!(world.got.len() as u64, 510 - pinned);
}

#[test]
fn journals_that_were_vacuumed_while_the_agent_was_down_are_counted() {
    let Some(mut world) =
        World::new("journals_that_were_vacuumed_while_the_agent_was_down_are_counted", Wanted::default())
    else {
        return;
    };
    world.write(&entries(0, 100));
    world.drain();
    world.write(&entries(100, 130));
    for n in [130, 150, 170] {
        Tools::rotate_at_the_next_write(&world.active());
        world.write(&entries(n, n + 20));
    }
    // Of the first one 30 are unread, the second one was never seen.
    for path in &world.archived()[..2] {
        fs::remove_file(path).unwrap();
    }
    world.start();
    world.drain();
    let mut left = lines(0, 100);
    left.extend(lines(150, 190));
    assert_eq!(world.bodies(), left);
    assert_eq!(world.snapshot().counts.deleted, 50);
}

#[test]
fn a_journal_of_another_user_takes_numbers_and_no_entry_is_called_lost_for_it() {
    let Some(mut world) = World::new(
        "a_journal_of_another_user_takes_numbers_and_no_entry_is_called_lost_for_it",
        Wanted::default(),
    ) else {
        return;
    };
    world.write(&entries(0, 100));
    world.drain();
    // systemd before 254 counts in one row through all journals, each of which has its own id: numbers 1 to 60 here.
    world.tools.write(&world.journals().join("user-1000.journal"), &entries(500, 560), &[]);
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(100, 110));
    world.drain();
    assert_eq!((world.got.len(), world.snapshot().counts.deleted), (170, 0));
}

#[test]
fn a_copy_of_a_journal_is_not_read_a_second_time() {
    let Some(mut world) = World::new("a_copy_of_a_journal_is_not_read_a_second_time", Wanted::default())
    else {
        return;
    };
    world.write(&entries(0, 50));
    world.drain();
    copy(&world.active(), &world.journals().join("kept.journal"));
    fs::write(world.journals().join("broken.journal"), b"LPKSHHRH and no more").unwrap();
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 50), 1));
    assert_eq!(world.snapshot().counts.unreadable_files, 1);
    // The first one is replaced by its copy: a restored backup.
    copy(&world.active(), &world.dir.path().join("backup"));
    fs::remove_file(world.active()).unwrap();
    fs::remove_file(world.journals().join("kept.journal")).unwrap();
    world.drain();
    fs::rename(world.dir.path().join("backup"), world.active()).unwrap();
    world.write(&entries(50, 60));
    world.drain();
    assert_eq!(world.bodies(), lines(0, 60));
}

#[test]
fn what_is_there_at_the_first_start_is_read_as_read_existing_says_and_a_restart_changes_nothing() {
    let test = "what_is_there_at_the_first_start_is_read_as_read_existing_says_and_a_restart_changes_nothing";
    // The clock stands a day after the first entry.
    let half = Interval::millis(24 * 3600 * 1000 - 50);
    for (read_existing, from) in
        [(ReadExisting::All, 0), (ReadExisting::None, 100), (ReadExisting::Within(half), 50)]
    {
        let wanted = Wanted { read_existing, ..Wanted::default() };
        let Some(mut world) = World::new(test, wanted) else { return };
        world.write(&entries(0, 100));
        world.turn();
        world.start();
        world.write(&entries(100, 120));
        world.drain();
        world.start();
        world.drain();
        assert_eq!((world.bodies(), world.most_often()), (lines(from, 120), 1), "{read_existing:?}");
    }
}

#[test]
fn units_and_priority_leave_out_and_each_unit_has_its_row_of_the_ledger() {
    let test = "units_and_priority_leave_out_and_each_unit_has_its_row_of_the_ledger";
    let wanted = Wanted {
        units: vec!["kubelet.service".into(), "containerd*".into()],
        priority: 6,
        ..Wanted::default()
    };
    let Some(mut world) = World::new(test, wanted) else { return };
    let said = |n, unit, by| with(with(made(n, &format!("line {n:05}")), "_SYSTEMD_UNIT", unit), "UNIT", by);
    world.write(&[
        said(0, "kubelet.service", ""),
        said(1, "containerd.service", ""),
        said(2, "ssh.service", ""),
        // systemd about the kubelet.
        said(3, "init.scope", "kubelet.service"),
        // A program of a user that calls itself the kubelet.
        with(said(4, "evil.service", "kubelet.service"), "_UID", "1000"),
        with(said(5, "kubelet.service", ""), "PRIORITY", "7"),
        said(6, "", ""),
    ]);
    world.drain();
    assert_eq!(world.bodies(), ["line 00000", "line 00001", "line 00003"]);
    let kubelet = world.row("journal:kubelet.service").unwrap();
    let containerd = world.row("journal:containerd.service").unwrap();
    let left_out = world.row("journal").unwrap();
    assert!(kubelet.0 > containerd.0 && kubelet.0 == kubelet.1 && containerd.0 == containerd.1);
    assert_eq!((left_out.0, left_out.1), (left_out.2, 0));
    assert_eq!((world.snapshot().counts.left_out, world.snapshot().rows.len()), (4, 3));
    let before = world.snapshot().rows;
    world.start();
    world.drain();
    assert_eq!(world.snapshot().rows, before, "the ledger is kept, and nothing is counted twice");
}

#[test]
fn a_record_has_the_conventions_names() {
    let Some(mut world) = World::new("a_record_has_the_conventions_names", Wanted::default()) else { return };
    let mut kubelet = with(made(0, "E1120 16:35:00.123456    1 file.go:12] no"), "PRIORITY", "6");
    kubelet.push(("_SOURCE_REALTIME_TIMESTAMP".into(), (BEGIN - 7).to_string().into_bytes()));
    kubelet.push(("SYSLOG_FACILITY".into(), b"3".to_vec()));
    kubelet.push(("KUBE_THING".into(), b"a\nb".to_vec()));
    let kernel = with(with(made(1, "oom"), "_SYSTEMD_UNIT", ""), "_TRANSPORT", "kernel");
    let containerd = with(made(2, "time=x level=error msg=y"), "_SYSTEMD_UNIT", "containerd.service");
    world.write(&[kubelet, with(kernel, "PRIORITY", "2"), containerd]);
    world.drain();
    let mut got: Vec<_> = world.got.values().map(|(got, _)| got.clone()).collect();
    got.sort_by_key(|got| got.time);
    let map = |pairs: &[(&str, &str)]| -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let base = [("k8s.cluster.name", "lab"), ("k8s.node.name", "n1"), ("host.name", "node-1")];
    let resource = |more: &[(&str, &str)]| map(&[&base, more].concat());
    assert_eq!(got[0].time, (BEGIN - 7) * 1000);
    assert_eq!(got[0].severity, (17, "E".to_owned()));
    assert_eq!(
        got[0].resource,
        resource(&[("systemd.unit", "kubelet.service"), ("service.name", "kubelet")])
    );
    assert_eq!(
        got[0].attributes,
        map(&[
            ("process.pid", "4711"),
            ("process.executable.name", "kubelet"),
            ("syslog.identifier", "kubelet"),
            ("syslog.facility.code", "3"),
            ("systemd.transport", "stdout"),
            ("journald.KUBE_THING", "a\nb"),
        ])
    );
    assert_eq!((got[1].time, got[1].severity.clone()), ((BEGIN + 1000) * 1000, (18, "crit".to_owned())));
    assert_eq!(got[1].resource, resource(&[("service.name", "kernel")]));
    assert_eq!(got[2].severity, (17, "error".to_owned()));
    assert!(world.row("journal:kernel").is_some());
}

#[test]
fn a_long_message_is_cut_marked_and_counted_and_what_is_secret_stays_on_the_node() {
    let test = "a_long_message_is_cut_marked_and_counted_and_what_is_secret_stays_on_the_node";
    let rule = RedactRule { preset: "email".into(), container: "journal:*".into(), ..RedactRule::default() };
    let wanted = Wanted { max_line: 1000, redact: vec![rule], ..Wanted::default() };
    let Some(mut world) = World::new(test, wanted) else { return };
    let long = String::from_utf8(big(50_000)).unwrap();
    let plain = "x".repeat(1010);
    let mut secret = made(2, "from alice@example.org to bob");
    secret.push(("REPLY_TO".into(), b"carol@example.org".to_vec()));
    world.write(&[made(0, &long), made(1, &plain), secret]);
    world.drain();
    let bodies = world.bodies();
    // Of what is cut the last word goes too: half a secret looks like none.
    let kept = |text: &str| redact::without_last_word(&text.as_bytes()[..1000]);
    let (of_long, of_plain) = (kept(&long), kept(&plain));
    assert!(of_plain < 1000, "{of_plain}");
    assert_eq!(bodies, [&long[..of_long], &plain[..of_plain], "from [redacted] to bob"]);
    let cut = world.got.values().filter(|(got, _)| got.attributes.contains_key("log.truncated")).count();
    assert_eq!(
        (cut, world.row("journal:kubelet.service").unwrap().3),
        (2, 51_010 - (of_long + of_plain) as u64)
    );
    let reply = world.got.values().find_map(|(got, _)| got.attributes.get("journald.REPLY_TO").cloned());
    assert_eq!(reply.as_deref(), Some("[redacted]"));
}

#[test]
fn of_a_field_that_is_cut_the_last_word_stays_on_the_node_where_a_rule_holds() {
    let test = "of_a_field_that_is_cut_the_last_word_stays_on_the_node_where_a_rule_holds";
    // The first KiB ends in the middle of the address, and of a character.
    let secret = format!("{} alice@example.org", "word ".repeat(203));
    let wide = format!("x{} end", "\u{e9}".repeat(600));
    let rule = RedactRule { preset: "email".into(), container: "journal:*".into(), ..RedactRule::default() };
    for redact in [vec![], vec![rule]] {
        let is_on = !redact.is_empty();
        let Some(mut world) = World::new(test, Wanted { redact, ..Wanted::default() }) else { return };
        world.write(&[with(with(with(made(0, "one"), "TO", &secret), "WIDE", &wide), "WHOLE", "a word")]);
        world.drain();
        let field = |name: &str| world.got.values().find_map(|(got, _)| got.attributes.get(name).cloned());
        assert_eq!(field("journald.WHOLE").as_deref(), Some("a word"));
        let (to, of_wide) = (field("journald.TO").unwrap(), field("journald.WIDE").unwrap());
        if is_on {
            assert_eq!(to, "word ".repeat(203));
            assert_eq!(of_wide, "");
        } else {
            assert_eq!(to, secret[..1024]);
            assert!(of_wide.starts_with("x\u{e9}"));
        }
    }
}

#[test]
fn a_journal_with_a_backlog_leaves_the_others_their_turns_however_small_requests_are() {
    let test = "a_journal_with_a_backlog_leaves_the_others_their_turns_however_small_requests_are";
    let Some(mut world) = World::new(test, Wanted { batch: 300, ..Wanted::default() }) else { return };
    let loud: Vec<_> = (0..400).map(|n| made(n, &format!("loud {n}"))).collect();
    world.write(&loud);
    let quiet: Vec<_> = (500..503).map(|n| made(n, &format!("quiet {n}"))).collect();
    world.tools.write(&world.journals().join("user-1000.journal"), &quiet, &[]);
    let mut turns = 0;
    while world.bodies().iter().filter(|body| body.starts_with("quiet")).count() < 3 {
        world.turn_and_store();
        turns += 1;
        assert!(turns < 50, "{} records came before", world.got.len());
    }
    assert!(world.got.len() < 100, "{} records came before", world.got.len());
    world.drain();
    assert_eq!((world.got.len(), world.most_often()), (403, 1));
}

#[test]
fn a_rule_for_a_unit_holds_however_many_units_there_were_before_it() {
    let test = "a_rule_for_a_unit_holds_however_many_units_there_were_before_it";
    let rule = RedactRule {
        preset: "email".into(),
        container: "journal:payments.service".into(),
        ..RedactRule::default()
    };
    let wanted = Wanted { redact: vec![rule], ..Wanted::default() };
    let Some(mut world) = World::new(test, wanted) else { return };
    let mut all: Vec<_> =
        (0..300).map(|n| with(made(n, "up"), "_SYSTEMD_UNIT", &format!("run-{n}.scope"))).collect();
    all.push(with(made(300, "to alice@example.org"), "_SYSTEMD_UNIT", "payments.service"));
    world.write(&all);
    world.drain();
    assert!(world.row("journal:payments.service").is_none(), "it is among the others in the ledger");
    assert_eq!(world.bodies().last().map(String::as_str), Some("to [redacted]"));
}

#[test]
fn a_record_that_the_receiver_refuses_is_found_and_counted_and_costs_no_other() {
    let Some(mut world) = World::new(
        "a_record_that_the_receiver_refuses_is_found_and_counted_and_costs_no_other",
        Wanted::default(),
    ) else {
        return;
    };
    world.refused = Some("line 00077".into());
    world.write(&entries(0, 300));
    world.drain();
    let left: Vec<_> = lines(0, 300).into_iter().filter(|body| body != "line 00077").collect();
    assert_eq!((world.bodies(), world.most_often()), (left, 1));
    let snapshot = world.snapshot();
    let row = snapshot.rows.iter().find(|(key, _)| key.container == "journal:kubelet.service").unwrap().1;
    assert_eq!((snapshot.records.rejected, snapshot.records.acked), (1, 299));
    assert!(row.lost[4] > 0 && row.lost[4] < 400 && row.records == 300, "{row:?}");
}

#[test]
fn a_damaged_place_costs_its_entry_and_is_counted() {
    let Some(mut world) = World::new("a_damaged_place_costs_its_entry_and_is_counted", Wanted::default())
    else {
        return;
    };
    world.write(&entries(0, 100));
    let mut bytes = fs::read(world.active()).unwrap();
    let at = memchr::memmem::find(&bytes, b"MESSAGE=line 00050").unwrap();
    // The object behind the message is its entry.
    let next = (at - 72) + u64::from_le_bytes(bytes[at - 64..at - 56].try_into().unwrap()) as usize;
    let entry = next.next_multiple_of(8);
    assert_eq!(bytes[entry], 3);
    bytes[entry] = 9;
    fs::write(world.journals().join("system@0006-0123.journal~"), &bytes).unwrap();
    fs::remove_file(world.active()).unwrap();
    world.drain();
    let left: Vec<_> = lines(0, 100).into_iter().filter(|body| body != "line 00050").collect();
    assert_eq!((world.bodies(), world.snapshot().counts.damaged), (left, 1));
}
