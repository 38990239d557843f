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
    let (mut plain, mut redacted) = (redacting(&[]), redacting(&["email"]));
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
