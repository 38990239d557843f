//! The agent's memory is a sum that does not depend on how much there is to read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, memory, wait_until};

const LIMIT: u64 = 40 << 20;
const LONG: usize = 200;
const FILES: usize = 800;
const LINES: usize = 6_250;
/// Of 16 KiB each: 912 KiB.
const FRAGMENTS: usize = 57;

/// Containers in the middle of a line, each of which gets another byte every second: nothing ends the line but its writer.
struct LongLines {
    ended: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl LongLines {
    fn start(pod_logs: &Path) -> Self {
        let mut files: Vec<File> = (0..LONG).map(|file| begin_line(pod_logs, file)).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let writer = std::thread::spawn(move || {
            let entry = |tag: &str| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                format!("{}.000000000Z stdout {tag} z\n", corpus::rfc3339(now))
            };
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                files.iter_mut().for_each(|file| file.write_all(entry("P").as_bytes()).unwrap());
            }
            files.iter_mut().for_each(|file| file.write_all(entry("F").as_bytes()).unwrap());
        });
        Self { ended, writer: Some(writer) }
    }

    /// All lines get their end.
    fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap();
        }
    }
}

impl Drop for LongLines {
    fn drop(&mut self) {
        self.end();
    }
}

fn begin_line(pod_logs: &Path, file: usize) -> File {
    let uid = format!("eeeeeeee-0000-4000-8000-{file:012x}");
    let container = pod_logs.join(format!("long_line-{file}_{uid}")).join("app");
    fs::create_dir_all(&container).unwrap();
    let mut out = File::create(container.join("0.log")).unwrap();
    let stamp = corpus::rfc3339(1_795_000_000);
    let text = "y".repeat(16_384);
    for fragment in 0..FRAGMENTS {
        out.write_all(format!("{stamp}.{fragment:09}Z stdout P {text}\n").as_bytes()).unwrap();
    }
    out
}

/// How many long lines were read to their present end while nothing of them is settled.
fn open_lines(stack: &Stack) -> usize {
    let Ok(text) = http::text(stack.agent_http, "/debug/files") else { return 0 };
    let files: Value = serde_json::from_str(&text).unwrap();
    let is_open = |file: &&Value| {
        file["namespace"] == "long"
            && file["read"].as_u64().unwrap() > (FRAGMENTS * 16_384) as u64
            && file["acked"] == 0
    };
    files.as_array().expect("a list").iter().filter(is_open).count()
}

/// 1,000 files, a 1 GB backlog, the collector away, and 200 containers in the middle of a line of 900 KiB: all at once.
#[test]
fn the_agent_stays_under_40_mib_with_a_backlog_and_no_collector() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(dir.path(), &Settings::default()).unwrap();
    stack.start().unwrap();
    let pid = stack.agent.as_ref().unwrap().pid();
    let mut long = LongLines::start(&stack.pod_logs);
    wait_until("all long lines to be open", Duration::from_secs(120), || open_lines(&stack) == LONG).unwrap();
    assert_eq!(stack.stored().unwrap(), 0, "none of them has ended");
    stack.kill_collector().unwrap();
    assert_eq!(open_lines(&stack), LONG);
    corpus::write(&stack.pod_logs, FILES, LINES, 200).unwrap();
    let open_files =
        || http::metric(stack.agent_http, "/metrics/self", "sonde_agent_log_open_files", "").unwrap_or(0.0);
    wait_until("all files to be open", Duration::from_secs(120), || open_files() >= (FILES + LONG) as f64)
        .unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(500));
        assert!(stack.agent.as_mut().unwrap().alive());
    }
    let open = open_lines(&stack);
    let (resident, peak) = memory(pid).unwrap();
    eprintln!(
        "collector away, {open} lines open: {} KiB resident, {} KiB at most",
        resident >> 10,
        peak >> 10
    );
    assert_eq!(open, LONG);
    assert!(peak < LIMIT, "{peak} bytes with the collector away");
    stack.start_collector().unwrap();
    stack.wait_ready().unwrap();
    long.end();
    stack.wait_drained(Duration::from_secs(400)).unwrap();
    let (resident, peak) = memory(pid).unwrap();
    eprintln!("after the backlog: {} KiB resident, {} KiB at most", resident >> 10, peak >> 10);
    assert!(peak < LIMIT, "{peak} bytes while the backlog was read");
    assert_eq!(stack.stored().unwrap(), (FILES * LINES + LONG) as u64, "each line is one record");
}
