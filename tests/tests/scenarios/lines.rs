//! Where a record begins and ends.

use sonde_tests::stack::Settings;

use crate::proxy::Proxy;
use crate::rig::{Rig, until};

#[test]
fn one_short_line_and_last_lines_that_do_not_end_are_shipped_and_once_also_after_a_kill() {
    let mut rig = Rig::started("");
    let mut short = rig.container("short");
    short.line("hi");
    let mut torn = rig.container("torn");
    torn.line("whole");
    let text = torn.text("stdout", "F", "no newline");
    torn.append(text.trim_end().as_bytes());
    let mut partial = rig.container("partial");
    partial.entry("stdout", "P", "no end");
    let raw = rig.container("raw");
    raw.append(b"twenty bytes of text");
    let check = |rig: &Rig| {
        rig.until_stored(5);
        assert_eq!(rig.bodies("short"), ["hi"]);
        assert_eq!(rig.bodies("torn"), ["whole", "no newline"]);
        assert_eq!(rig.bodies("partial"), ["no end"]);
        assert_eq!(rig.bodies("raw"), ["twenty bytes of text"]);
    };
    check(&rig);
    rig.stack.kill_agent().unwrap();
    rig.start_agent();
    // Whatever the process before had written of its positions: a line behind each shows that it was passed.
    short.line("later");
    rig.until_stored(6);
    assert_eq!(rig.bodies("short"), ["hi", "later"]);
    assert_eq!(rig.bodies("partial"), ["no end"]);
}

#[test]
fn a_line_over_the_limit_is_cut_marked_and_counted_and_the_file_goes_on() {
    let rig = Rig::started("max_line: 64KiB");
    let mut container = rig.container("long");
    container.line("before");
    for _ in 0..20 {
        container.entry("stdout", "P", &"a".repeat(16_384));
    }
    container.entry("stdout", "F", "end");
    container.line("between");
    let one_entry = "b".repeat(500_000);
    container.entry("stdout", "F", &one_entry);
    container.line("after");
    rig.until_stored(5);
    let records = rig.records("long");
    let lengths: Vec<usize> = records.iter().map(|record| record["body"].as_str().unwrap().len()).collect();
    assert_eq!(lengths, [6, 65_536, 7, 65_536, 5]);
    let marked: Vec<bool> =
        records.iter().map(|record| record["attributes"]["log.truncated"] == true).collect();
    assert_eq!(marked, [false, true, false, true, false]);
    let cut = rig.ledger("excluded_bytes_total", "reason=\"max_line\"") as usize;
    let beyond = 20 * 16_384 + 3 - 65_536 + 500_000 - 65_536;
    // With the headers of the fragments that are beyond it as a whole.
    assert!((beyond..beyond + 20 * 64).contains(&cut), "{cut}, {beyond}");
}

#[test]
fn a_fragment_that_the_clock_ended_ends_there_also_when_its_end_comes_after_a_lost_answer_and_a_kill() {
    let mut proxy = Proxy::bind();
    let mut rig = Rig::with(Settings { http: true, endpoint: proxy.endpoint(), ..Settings::default() });
    proxy.forward_to(rig.stack.otlp_http);
    rig.stack.start().unwrap();
    let mut container = rig.container("late");
    container.line("first");
    rig.until_stored(1);
    proxy.mute(true);
    container.entry("stdout", "P", "no end");
    until("the fragment to be stored", || rig.stack.stored().is_ok_and(|stored| stored == 2));
    assert!(rig.ledger("pending_bytes", "") > 0, "its answer is lost");
    rig.stack.kill_agent().unwrap();
    container.entry("stdout", "F", "late end");
    container.line("after");
    proxy.mute(false);
    rig.start_agent();
    rig.until_stored(4);
    assert_eq!(rig.bodies("late"), ["first", "no end", "late end", "after"]);
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}
