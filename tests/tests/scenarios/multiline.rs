//! Records of several lines.

use sonde_tests::stack::Settings;

use crate::proxy::Proxy;
use crate::rig::{Rig, until};

#[test]
fn a_record_that_the_clock_ended_ends_there_also_when_more_lines_come_after_a_lost_answer_and_a_kill() {
    let mut proxy = Proxy::bind();
    let agent = "logs: {multiline: [{preset: java}]}".to_owned();
    let mut rig =
        Rig::with(Settings { http: true, endpoint: proxy.endpoint(), agent, ..Settings::default() });
    proxy.forward_to(rig.stack.otlp_http);
    rig.stack.start().unwrap();
    let mut container = rig.container("late");
    container.line("first");
    rig.until_stored(1);
    proxy.mute(true);
    container.line("java.lang.IllegalStateException: x");
    container.line("\tat a.B.c(B.java:1)");
    until("the trace to be stored", || rig.stack.stored().is_ok_and(|stored| stored == 2));
    assert!(rig.ledger("pending_bytes", "") > 0, "its answer is lost");
    rig.stack.kill_agent().unwrap();
    container.line("\tat a.B.main(B.java:9)");
    container.line("\t... 1 more");
    container.line("after");
    proxy.mute(false);
    rig.start_agent();
    rig.until_stored(4);
    let expected = [
        "first",
        "java.lang.IllegalStateException: x\n\tat a.B.c(B.java:1)",
        "\tat a.B.main(B.java:9)\n\t... 1 more",
        "after",
    ];
    assert_eq!(rig.bodies("late"), expected);
    assert!(rig.resent() > 0, "it was sent again, as it was");
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}

#[test]
fn a_trace_is_one_record_across_a_rotation_and_a_kill() {
    let mut rig = Rig::started("multiline: [{start: '^#', max_wait: 60s, max_lines: 10000}, {preset: auto}]");
    let mut container = rig.container("trace");
    container.line("#first");
    container.line("  at one");
    container.entry("stderr", "F", "#error");
    rig.until_read(&container.live());
    let old = container.rotate();
    container.line("  at two");
    rig.until_read(&container.live());
    rig.stack.kill_agent().unwrap();
    container.compress(&old);
    container.entry("stdout", "P", "  at ");
    container.entry("stderr", "F", "  at an error");
    container.entry("stdout", "F", "three");
    container.line("#second");
    container.entry("stderr", "F", "#next");
    rig.start_agent();
    // The clock has no part in it: these two stay open.
    for stream in ["stdout", "stderr"] {
        container.entry(stream, "F", "#open");
    }
    until("whole records", || rig.stack.stored().is_ok_and(|stored| stored >= 4));
    let mut bodies = rig.bodies("trace");
    bodies.sort();
    assert_eq!(
        bodies,
        ["#error\n  at an error", "#first\n  at one\n  at two\n  at three", "#next", "#second"]
    );
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}
