//! The agent's memory is a sum that does not depend on how much there is to read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::time::Duration;

use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, memory};

/// 1,000 files, a 1 GB backlog, the collector away, and 200 containers in the middle of a line of 900 KiB.
#[test]
fn the_agent_stays_under_40_mib_with_a_backlog_and_no_collector() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    corpus::write(&stack.pod_logs, 800, 6_250, 200).unwrap();
    for file in 0..200 {
        let uid = format!("eeeeeeee-0000-4000-8000-{file:012x}");
        let container = stack.pod_logs.join(format!("long_line-{file}_{uid}")).join("app");
        fs::create_dir_all(&container).unwrap();
        let mut out = std::io::BufWriter::new(fs::File::create(container.join("0.log")).unwrap());
        for fragment in 0..57 {
            let stamp = format!("{}.{fragment:09}Z", corpus::rfc3339(1_795_000_000));
            writeln!(out, "{stamp} stdout P {}", "y".repeat(16_384)).unwrap();
        }
    }
    stack.start_agent().unwrap();
    let pid = stack.agent.as_ref().unwrap().pid();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(500));
        assert!(stack.agent.as_mut().unwrap().alive());
    }
    let (resident, peak) = memory(pid).unwrap();
    eprintln!("collector away: {} KiB resident, {} KiB at most", resident >> 10, peak >> 10);
    assert!(peak < 40 << 20, "{peak} bytes with the collector away");
    stack.start_collector().unwrap();
    stack.wait_ready().unwrap();
    stack.wait_drained(Duration::from_secs(400)).unwrap();
    let (resident, peak) = memory(pid).unwrap();
    eprintln!("after the backlog: {} KiB resident, {} KiB at most", resident >> 10, peak >> 10);
    assert!(peak < 40 << 20, "{peak} bytes while the backlog was read");
}
