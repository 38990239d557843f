//! What leaves the node.

use super::{LIVE, entry, full, pending};
use crate::config::{Logs, ReadExisting, RedactRule};
use crate::logs::simulation::World;

fn redacting(presets: &[&str]) -> World {
    let rule = |preset: &&str| RedactRule { preset: (*preset).to_owned(), ..RedactRule::default() };
    let config = Logs {
        read_existing: ReadExisting::All,
        redact: presets.iter().map(rule).collect(),
        ..Logs::default()
    };
    World::with(config, 4)
}

#[test]
fn no_way_to_a_record_leads_around_redaction_and_no_records_name_or_count_changes() {
    let text = [
        full(1, "mail a@b.co"),
        entry(2, "stdout", "P", "split a@"),
        entry(2, "stdout", "F", "b.co"),
        "not the runtime's: a@b.co\n".to_owned(),
        // Longer than a window: read again from its file.
        full(3, &format!("long a@b.co {}", "y".repeat(200_000))),
        // Ended by the clock.
        entry(4, "stderr", "P", "cut a@b.co"),
    ]
    .concat();
    let (mut plain, mut redacted) = (redacting(&["card"]), redacting(&["email"]));
    for world in [&mut plain, &mut redacted] {
        world.disk.append(LIVE, text.as_bytes());
        world.drain();
        world.drain();
        assert_eq!((world.got.len(), world.lost(), pending(world)), (5, 0, 0));
    }
    for (uid, record) in &plain.got {
        assert!(record.body.contains("a@b.co"));
        let sent = &redacted.got[uid];
        assert_eq!(sent.body, record.body.replace("a@b.co", "[redacted]"));
    }
    let rows = |world: &World| world.core.ledger.rows().map(|(_, row)| *row).collect::<Vec<_>>();
    assert_eq!(rows(&plain), rows(&redacted));
    assert_eq!(redacted.core.snapshot().redacted, [("0:email".to_owned(), 5)]);
}

#[test]
fn a_resend_after_a_refusal_is_redacted_too() {
    let mut world = redacting(&["card"]);
    for line in 0..4 {
        world.disk.append(LIVE, full(line, "4111 1111 1111 1111").as_bytes());
    }
    world.turn(10);
    world.turn(300);
    world.settle(0, crate::batch::Outcome::Refused { code: "413".into() });
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["[redacted]"; 4]);
}

#[test]
fn what_the_limit_leaves_of_a_secret_is_not_sent_and_its_bytes_are_counted_as_cut() {
    let of = |presets: &[&str]| {
        let mut world = redacting(presets);
        // The limit of 4096 cuts in the middle of the card's number: what is left of it is no card's.
        let line = format!("{} 4111111111111111 tail", "x".repeat(4083));
        world.disk.append(LIVE, full(1, &line).as_bytes());
        // The same of a line in two fragments.
        world.disk.append(LIVE, entry(2, "stdout", "P", &line[..1500]).as_bytes());
        world.disk.append(LIVE, entry(2, "stdout", "F", &line[1500..]).as_bytes());
        world.drain();
        let row = world.core.ledger.rows().map(|(_, row)| *row).next().unwrap();
        assert_eq!((row.observed, row.pending()), (row.acked + row.excluded[2], 0));
        (world.bodies("pod", "stdout"), row.excluded[2])
    };
    let (plain, cut) = of(&[]);
    assert!(plain.iter().all(|body| body.ends_with(" 411111111111")), "{plain:?}");
    let (redacted, more) = of(&["card"]);
    assert_eq!(redacted, ["x".repeat(4083), "x".repeat(4083)]);
    assert_eq!(more, cut + 2 * " 411111111111".len() as u64);
}

#[test]
fn bytes_that_go_with_the_cut_are_counted_as_they_are_in_the_file_and_not_as_they_would_be_sent() {
    let mut world = redacting(&["card"]);
    // In a record each of these bytes is a replacement character, which is three.
    let line =
        [b"2026-01-01T00:00:01Z stdout F ".as_slice(), &[b'x'; 96], b" ", &[0xff; 5000], b"\n"].concat();
    world.disk.append(LIVE, &line);
    world.drain();
    let row = world.core.ledger.rows().map(|(_, row)| *row).next().unwrap();
    assert_eq!(world.bodies("pod", "stdout"), ["x".repeat(96)]);
    assert_eq!((row.excluded[2], row.acked), (5001, line.len() as u64 - 5001));
}
