//! Files that no one should write, directories that vanish, disks that are full: no crash, and no other file's loss.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sonde_tests::disk::SmallDisk;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, memory, verify, wait_until};

fn container(pod_logs: &Path, name: &str) -> PathBuf {
    let dir = pod_logs
        .join(format!("hostile_{name}_ffffffff-0000-4000-8000-0000000000{:02x}", name.len()))
        .join("app");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Bytes that repeat for a seed (xorshift64*), enough to be no format at all.
fn noise(mut seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
        })
        .collect()
}

#[test]
fn hostile_files_neither_crash_the_agent_nor_cost_another_file_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    let good = dir.path().join("good");
    corpus::write(&good, 5, 10_000, 200).unwrap();
    verify::copy_tree(&good, &stack.pod_logs).unwrap();
    for seed in 1..=8 {
        fs::write(container(&stack.pod_logs, &"r".repeat(seed)).join("0.log"), noise(seed as u64, 1 << 20))
            .unwrap();
    }
    let mut endless = fs::File::create(container(&stack.pod_logs, "endless-line").join("0.log")).unwrap();
    for _ in 0..100 {
        endless.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    let mut tail = b"2026-11-20T10:00:00.000000000Z stdout F before the crash\n".to_vec();
    tail.extend([0; 8192]);
    fs::write(container(&stack.pod_logs, "nul-tail-of-a-crash").join("0.log"), tail).unwrap();
    fs::write(
        container(&stack.pod_logs, "broken-gzip-file").join("0.log.20261120-100000.gz"),
        noise(9, 5000),
    )
    .unwrap();
    fs::create_dir_all(container(&stack.pod_logs, "a-directory-not-a-file").join("0.log")).unwrap();
    std::os::unix::fs::symlink("/nowhere", container(&stack.pod_logs, "dangling-link").join("0.log"))
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", container(&stack.pod_logs, "a-link-to-a-device").join("0.log"))
        .unwrap();
    fs::create_dir_all(stack.pod_logs.join("no_underscores-enough")).unwrap();
    fs::write(stack.pod_logs.join("a-file-among-pods"), "x").unwrap();
    let vanishing = container(&stack.pod_logs, "vanishing");
    fs::write(vanishing.join("0.log"), noise(3, 100_000)).unwrap();

    stack.start().unwrap();
    for round in 0..50 {
        let gone = container(&stack.pod_logs, &format!("short-{round}"));
        fs::write(gone.join("0.log"), "2026-11-20T10:00:00.000000000Z stdout F x\n").unwrap();
        fs::remove_dir_all(gone.parent().unwrap()).unwrap();
    }
    fs::remove_dir_all(vanishing.parent().unwrap()).unwrap();
    let good_lines = || -> u64 {
        (0..3)
            .map(|ns| {
                let body = http::text(stack.collector_http, &format!("/api/v1/logs/count?namespace=ns-{ns}"))
                    .unwrap();
                serde_json::from_str::<serde_json::Value>(&body).unwrap()["count"].as_u64().unwrap()
            })
            .sum()
    };
    wait_until("the good files' lines", Duration::from_secs(120), || good_lines() == 50_000).unwrap();
    assert!(stack.agent.as_mut().unwrap().alive());
    assert_eq!(http::get(stack.agent_http, "/healthz").unwrap().status, 200);
    let (_, peak) = memory(stack.agent.as_ref().unwrap().pid()).unwrap();
    assert!(peak < 40 << 20, "the agent's peak is {peak} bytes");
}

/// Lines of one length that differ in their stamps and first letter alone.
fn padded(letter: char, from: u32, count: u32) -> String {
    (from..from + count)
        .map(|n| format!("2026-11-20T10:00:00.{n:09}Z stdout F {letter}{}\n", "=".repeat(120)))
        .collect()
}

#[test]
fn a_file_that_is_emptied_in_its_place_and_one_with_a_damaged_end_are_stored_as_far_as_they_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    let emptied = container(&stack.pod_logs, "emptied").join("0.log");
    fs::write(&emptied, padded('a', 0, 1000)).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let noise = |n: u64| noise(n + 1, 40).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for n in 0..2000 {
        writeln!(encoder, "2026-11-20T09:00:00.{n:09}Z stdout F {}", noise(n)).unwrap();
    }
    let whole = encoder.finish().unwrap();
    let damaged = container(&stack.pod_logs, "damaged").join("0.log.20261120-100000.gz");
    fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();
    stack.start().unwrap();
    let count = |pod: &str, q: &str| -> u64 {
        let path = format!("/api/v1/logs/count?namespace=hostile&pod={pod}&q={q}");
        let body = http::text(stack.collector_http, &path).unwrap();
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["count"].as_u64().unwrap()
    };
    let limit = Duration::from_secs(60);
    wait_until("the first thousand", limit, || count("emptied", "") == 1000).unwrap();
    // In its place, and at once as long as it was: hardly a look sees it shorter.
    let file = fs::OpenOptions::new().write(true).open(&emptied).unwrap();
    file.set_len(0).unwrap();
    (&file).write_all(padded('b', 5000, 1000).as_bytes()).unwrap();
    wait_until("the second thousand", limit, || count("emptied", "") == 2000).unwrap();
    wait_until("the damaged file's lines", limit, || count("damaged", "") >= 700).unwrap();
    assert!(count("damaged", "") <= 1100);
    let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("is damaged")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("0.log.20261120-100000.gz") && said[0].contains("\"damaged\""), "{}", said[0]);
}

#[test]
fn positions_that_were_emptied_removed_or_replaced_are_said_and_nothing_is_stored_twice() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { agent: "logs: {read_existing: true}".to_owned(), ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    fs::write(container(&stack.pod_logs, "kept").join("0.log"), padded('a', 0, 1000)).unwrap();
    let positions = dir.path().join("agent-state/positions");
    stack.start().unwrap();
    stack.wait_drained(Duration::from_secs(60)).unwrap();
    type Change = fn(&Path);
    let changes: [(Change, &str); 2] = [
        (|path| drop(fs::File::create(path).unwrap()), "read positions are empty"),
        (|path| fs::remove_file(path).unwrap(), "no read positions are kept here"),
    ];
    for (change, said) in changes {
        stack.kill_agent().unwrap();
        change(&positions);
        let _ = fs::remove_file(dir.path().join("agent.log"));
        stack.start_agent().unwrap();
        stack.wait_ready().unwrap();
        stack.wait_drained(Duration::from_secs(60)).unwrap();
        assert_eq!(stack.stored().unwrap(), 1000);
        let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
        assert_eq!(log.lines().filter(|line| line.contains(said)).count(), 1, "{log}");
    }
    stack.kill_agent().unwrap();
    fs::remove_file(&positions).unwrap();
    assert!(Command::new("mkfifo").arg(&positions).status().unwrap().success());
    stack.start_agent().unwrap();
    wait_until("the agent to end", Duration::from_secs(20), || !stack.agent.as_mut().unwrap().alive())
        .unwrap();
    let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
    assert!(log.contains("not a regular file") && log.contains("agent-state/positions"), "{log}");
}

#[test]
fn five_mistakes_print_five_lines_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    fs::write(
        &file,
        "stat_dir: /tmp\nlogs:\n  max_line: ten\n  enabled: perhaps\nexport:\n  protocol: carrier-pigeon\n  batch: {age: 1 parsec}\n",
    )
    .unwrap();
    let out = Command::new(sonde_tests::daemon::binary("sonde-agent").unwrap())
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(2), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("bad.yaml:")).collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (line, expected) in lines.iter().zip([
        ":1: stat_dir",
        ":3: logs.max_line",
        ":4: logs.enabled",
        ":6: export.protocol",
        ":7: export.batch.age",
    ]) {
        assert!(line.contains(expected), "{line} lacks {expected}");
    }
    assert!(lines[0].contains("state_dir"), "the nearest key is named: {}", lines[0]);
}

#[test]
fn a_full_state_disk_is_said_survived_and_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("agent-state"), "1m").unwrap() else {
        eprintln!("SKIPPED a_full_state_disk_is_said_survived_and_recovered_from: no right to mount here");
        return;
    };
    stack.start().unwrap();
    disk.fill().unwrap();
    // More files than fit in what is left of the state file's last page.
    corpus::write(&stack.pod_logs, 200, 250, 200).unwrap();
    wait_until("lines to flow past a full state disk", Duration::from_secs(60), || {
        stack.stored().unwrap() == 50_000
    })
    .unwrap();
    let log = || fs::read_to_string(dir.path().join("agent.log")).unwrap();
    wait_until("the agent to say so", Duration::from_secs(20), || {
        log().to_lowercase().contains("no space left")
    })
    .unwrap();
    disk.free().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    stack.kill_agent().unwrap();
    stack.start_agent().unwrap();
    stack.wait_ready().unwrap();
    stack.wait_drained(Duration::from_secs(60)).unwrap();
    verify::verify(&[stack.pod_logs.clone()], stack.collector_http).unwrap();
}

#[test]
fn a_full_data_disk_pushes_back_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { collector: "queue: {max_bytes: 1GiB, min_free: 0B}".to_owned(), ..Settings::default() };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("collector-data"), "300m").unwrap() else {
        eprintln!("SKIPPED a_full_data_disk_pushes_back_and_loses_nothing: no right to mount here");
        return;
    };
    stack.start().unwrap();
    disk.fill().unwrap();
    corpus::write(&stack.pod_logs, 10, 20_000, 200).unwrap();
    let log = || fs::read_to_string(dir.path().join("collector.log")).unwrap();
    wait_until("the collector to say so", Duration::from_secs(60), || {
        log().to_lowercase().contains("no space left")
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(stack.collector.as_mut().unwrap().alive() && stack.agent.as_mut().unwrap().alive());
    disk.free().unwrap();
    stack.wait_drained(Duration::from_secs(120)).unwrap();
    assert_eq!(stack.stored().unwrap(), 200_000);
    verify::verify(&[stack.pod_logs.clone()], stack.collector_http).unwrap();
}
