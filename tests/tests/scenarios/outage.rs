//! Receivers that are away.

use std::time::Duration;

use rustix::process::Signal;
use sonde_tests::{corpus, memory, verify};

use crate::rig::Rig;

#[test]
fn an_outage_of_the_backend_drops_nothing_takes_no_memory_and_ends_by_itself() {
    let mut rig = Rig::new("");
    corpus::write(&rig.stack.pod_logs, 10, 4_000, 200).unwrap();
    rig.start_agent();
    let mut container = rig.container("rotated");
    container.lines("before", 2000);
    // Nobody answers, the files rotate on.
    for _ in 0..3 {
        let old = container.rotate();
        container.lines("during", 2000);
        container.compress(&old);
        std::thread::sleep(Duration::from_secs(1));
    }
    let pid = rig.stack.agent.as_ref().unwrap().pid();
    let (_, peak) = memory(pid).unwrap();
    assert!(peak < 40 << 20, "{peak} bytes");
    rig.stack.start_collector().unwrap();
    // Then one that takes the connection and says nothing for a while.
    let collector = rig.stack.collector.as_ref().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    collector.signal(Signal::STOP).unwrap();
    container.lines("held", 2000);
    std::thread::sleep(Duration::from_secs(3));
    collector.signal(Signal::CONT).unwrap();
    rig.until_stored(50_000);
    assert_eq!(rig.bodies("rotated"), container.written);
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
    let (_, peak) = memory(pid).unwrap();
    assert!(peak < 40 << 20, "{peak} bytes");
    verify::verify(&[rig.stack.pod_logs.clone()], rig.stack.collector_http).unwrap();
}
