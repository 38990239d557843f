//! Rotation, compression and deletion.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::rig::{Rig, until};

#[test]
fn a_file_renamed_with_an_unread_backlog_is_shipped_to_its_end_and_then_the_new_one() {
    let mut rig = Rig::new("");
    rig.start_agent();
    let mut container = rig.container("backlog");
    container.lines("old", 10_000);
    rig.until_read(&container.live());
    let old = container.rotate();
    container.lines("new", 100);
    let (size, read) = rig.until_read(&old);
    assert!(read < size / 2, "{read} of {size} bytes are read without a collector");
    rig.stack.start_collector().unwrap();
    rig.until_stored(10_100);
    assert_eq!(rig.bodies("backlog"), container.written);
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}

#[test]
fn every_file_of_several_rotations_between_two_looks_is_read() {
    let rig = Rig::started("");
    let mut container = rig.container("busy");
    container.lines("seen", 50);
    rig.until_stored(50);
    let agent = rig.stack.agent.as_ref().unwrap();
    agent.signal(Signal::STOP).unwrap();
    let mut last: Option<PathBuf> = None;
    for rotation in 0..5 {
        if let Some(last) = last.take() {
            container.compress(&last);
        }
        container.lines(&format!("unseen {rotation}"), 50);
        last = Some(container.rotate());
    }
    container.lines("last", 50);
    agent.signal(Signal::CONT).unwrap();
    rig.until_stored(350);
    assert_eq!(rig.bodies("busy"), container.written);
    assert_eq!((rig.ledger("lost_bytes_total", ""), rig.ledger("gaps_total", "")), (0, 0));
}

#[test]
fn rotations_while_the_agent_is_down_are_followed_from_the_exact_offset_through_the_whole_chain() {
    let mut rig = Rig::started("");
    let mut container = rig.container("chain");
    container.lines("before", 500);
    rig.until_stored(500);
    rig.stop_agent();
    let mut last: Option<PathBuf> = None;
    for rotation in 0..4 {
        container.lines(&format!("away {rotation}"), 200);
        if let Some(last) = last.take() {
            container.compress(&last);
        }
        last = Some(container.rotate());
    }
    container.lines("live", 10);
    rig.start_agent();
    rig.until_stored(1310);
    assert_eq!(rig.bodies("chain"), container.written);
    assert_eq!(
        (rig.resent(), rig.ledger("lost_bytes_total", "")),
        (0, 0),
        "what was acknowledged is not sent again"
    );
}

#[test]
fn a_half_read_file_that_becomes_gz_is_resumed_a_read_one_is_not_read_again_and_tmp_is_ignored() {
    let mut rig = Rig::started("");
    let mut container = rig.container("half");
    container.lines("read", 300);
    rig.until_stored(300);
    let read = container.rotate();
    container.lines("half, acknowledged", 300);
    rig.until_stored(600);
    container.compress(&read);
    container.line("a look later");
    rig.until_stored(601);
    assert_eq!(rig.resent(), 0, "a file that was read is not read again");
    rig.stack.kill_collector().unwrap();
    container.lines("half, unread", 10_000);
    let (size, position) = rig.until_read(&container.live());
    assert!(position < size / 2, "{position} of {size} bytes are read without a collector");
    rig.stop_agent();
    let half = container.rotate();
    container.compress(&half);
    container.lines("new", 10);
    let never = container.text("stdout", "F", "never");
    fs::write(container.dir.join("0.log.20261121-000009.tmp"), never).unwrap();
    rig.stack.start().unwrap();
    rig.until_stored(10_611);
    assert_eq!(rig.bodies("half"), container.written);
    assert_eq!((rig.resent(), rig.ledger("lost_bytes_total", "")), (0, 0));
}

#[test]
fn a_deleted_pods_unread_bytes_are_read_through_the_open_handle_up_to_a_limit_and_the_rest_is_counted() {
    let mut rig = Rig::new("pinned_deleted: 1MiB");
    rig.start_agent();
    let large = rig.found_whole("large", 10_000);
    rig.until_read(&large.live());
    let small = rig.found_whole("small", 1_000);
    until("the second file to be seen", || rig.file(&small.live()).is_some());
    let large_text = fs::read_to_string(large.live()).unwrap();
    fs::remove_dir_all(large.pod_dir()).unwrap();
    fs::remove_dir_all(small.pod_dir()).unwrap();
    until("the limit to be kept", || rig.ledger("lost_bytes_total", "reason=\"pinned_limit\"") > 0);
    rig.stack.start_collector().unwrap();
    until("the rest to be settled", || {
        rig.stack.stored().is_ok_and(|stored| stored >= 1_000) && rig.ledger("pending_bytes", "") == 0
    });
    // The older file's is given up first.
    assert_eq!(rig.bodies("small"), small.written);
    let stored = rig.bodies("large");
    assert_eq!(stored, large.written[..stored.len()]);
    let lost: usize = large_text.lines().skip(stored.len()).map(|line| line.len() + 1).sum();
    assert_eq!(rig.ledger("lost_bytes_total", ""), lost as u64);
    assert!(lost > 1 << 20, "{lost}");
}

#[test]
fn a_line_that_begins_in_the_old_file_and_ends_in_the_new_one_is_one_record_also_across_a_kill() {
    let mut rig = Rig::started("");
    let mut container = rig.container("torn");
    container.line("first");
    container.entry("stdout", "P", "be");
    rig.until_read(&container.live());
    container.rotate();
    container.entry("stdout", "F", "gin");
    container.entry("stderr", "F", "between");
    container.entry("stdout", "P", "an");
    rig.until_read(&container.live());
    rig.stack.kill_agent().unwrap();
    let old = container.rotate();
    container.compress(&old);
    container.entry("stdout", "F", "other");
    rig.start_agent();
    rig.until_stored(4);
    assert_eq!(rig.bodies("torn"), ["first", "begin", "between", "another"]);
}
