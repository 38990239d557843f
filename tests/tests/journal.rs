//! A real systemd-journald in a mount namespace of its own, and the agent that reads what it writes.
//!
//! `tests/servers/journal` puts systemd's programs below `target/journal`; without them, and without the right to make such a
//! namespace, this test is skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{http, root, wait_until};

/// `/run` and `/var/log` of the namespace are its own; the journals lie in the test's directory. Small journals, so that they
/// rotate by themselves; none is removed.
const START: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/systemd/system /run/log/journal /run/systemd/journald.conf.d /var/log/journal
mount --bind "$1" /var/log/journal
mount --bind "$2" /etc/machine-id
# As if a boot had come so far that what is written goes to /var.
touch /run/systemd/journal/flushed
cat > /run/systemd/journald.conf.d/test.conf <<END
[Journal]
Storage=persistent
SystemMaxFileSize=512K
SystemMaxUse=2G
SystemKeepFree=1M
SystemMaxFiles=1000
RateLimitIntervalSec=0
ReadKMsg=no
END
exec "$3"
"#;

struct Journald {
    root: PathBuf,
    journals: PathBuf,
    machine_id: PathBuf,
    child: Option<Child>,
}

impl Journald {
    fn find(dir: &Path, test: &str) -> Option<Self> {
        let exe = std::env::current_exe().unwrap();
        let own = exe.ancestors().nth(3).unwrap().join("journal/root");
        let places = [own, root().join("target/journal/root")];
        let Some(root) = places.into_iter().find(|place| place.join("lib/systemd/systemd-journald").exists())
        else {
            eprintln!(
                "SKIPPED {test}: systemd-journald is not below target/journal (run tests/servers/journal)"
            );
            return None;
        };
        let may = Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount --make-rprivate / && mount -t tmpfs tmpfs /run && test -e /etc/machine-id",
            ])
            .stderr(Stdio::null())
            .status();
        if !may.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED {test}: no right to mount in a namespace of its own, or no /etc/machine-id");
            return None;
        }
        let journals = dir.join("journal");
        fs::create_dir_all(journals.join("0123456789abcdef0123456789abcdef")).unwrap();
        let machine_id = dir.join("machine-id");
        fs::write(&machine_id, "0123456789abcdef0123456789abcdef\n").unwrap();
        Some(Self { root, journals, machine_id, child: None })
    }

    fn command(&self, program: &str) -> Command {
        let lib = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", format!("{}:{}", lib.display(), lib.join("systemd").display()));
        command
    }

    fn start(&mut self) {
        let child = self
            .command("unshare")
            .args(["-m", "sh", "-c", START, "sh"])
            .args([&self.journals, &self.machine_id, &self.root.join("lib/systemd/systemd-journald")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let socket = self.socket();
        wait_until("journald", Duration::from_secs(30), || {
            UnixDatagram::unbound().unwrap().connect(&socket).is_ok()
        })
        .unwrap();
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn socket(&self) -> PathBuf {
        format!("/proc/{}/root/run/systemd/journal/socket", self.pid()).into()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// All messages that journalctl finds, sorted.
    fn messages(&self) -> Vec<String> {
        let journalctl = self.root.join("bin/journalctl");
        let out = self
            .command(journalctl.to_str().unwrap())
            .args(["--all", "--no-pager", "-o", "json", "-D"])
            .arg(&self.journals)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let message = |line: &str| {
            let entry: Value = serde_json::from_str(line).unwrap();
            entry["MESSAGE"].as_str().unwrap_or_default().to_owned()
        };
        let mut all: Vec<String> = text.lines().map(message).collect();
        all.sort();
        all
    }

    fn files(&self) -> usize {
        fs::read_dir(self.journals.join("0123456789abcdef0123456789abcdef")).unwrap().count()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Sends messages until it is told to stop. A message that journald did not take is sent again.
fn write(socket: &dyn Fn() -> PathBuf, count: &AtomicU32, stop: &AtomicBool) {
    let mut sender = None;
    while !stop.load(Ordering::Relaxed) {
        let n = count.load(Ordering::Relaxed);
        let body = if n.is_multiple_of(50) { "many words ".repeat(300) } else { "few words".to_owned() };
        let text = format!("MESSAGE=line {n:06} {body}\nPRIORITY={}\nSYSLOG_IDENTIFIER=test\n", n % 8);
        let sent = match &sender {
            None => UnixDatagram::unbound().and_then(|new| {
                new.connect(socket())?;
                sender = Some(new);
                Ok(0)
            }),
            Some(sender) => UnixDatagram::send(sender, text.as_bytes()),
        };
        match sent {
            Ok(0) => {}
            Ok(_) => {
                count.fetch_add(1, Ordering::Relaxed);
                if n.is_multiple_of(20) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Err(_) => {
                sender = None;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn stored(stack: &Stack) -> Vec<String> {
    let page = http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap();
    let body = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["body"].as_str().unwrap().to_owned()
    };
    let mut all: Vec<String> = page.lines().map(body).collect();
    all.sort();
    all
}

#[test]
fn the_journal_of_a_real_journald_is_stored_once_through_rotations_and_kills_of_everyone() {
    let test = "the_journal_of_a_real_journald_is_stored_once_through_rotations_and_kills_of_everyone";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut journald) = Journald::find(dir.path(), test) else { return };
    journald.start();
    let journals = journald.journals.display();
    let agent =
        format!("logs: {{read_existing: true, journald: {{enabled: true, paths: [{journals}], units: []}}}}");
    let export = vec!["batch: {bytes: 64KiB, age: 200ms}".to_owned()];
    let mut stack = Stack::new(dir.path(), &Settings { agent, export, ..Settings::default() }).unwrap();
    stack.start().unwrap();

    let (count, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let socket = std::sync::Mutex::new(journald.socket());
    std::thread::scope(|scope| {
        scope.spawn(|| write(&|| socket.lock().unwrap().clone(), &count, &stop));
        for round in 0..8 {
            let target = (round + 1) * 2000;
            wait_until("lines to be written", Duration::from_secs(90), || {
                count.load(Ordering::Relaxed) > target
            })
            .unwrap();
            match round {
                1 | 5 => journald.signal("-USR2"),
                3 => {
                    journald.kill();
                    journald.start();
                    *socket.lock().unwrap() = journald.socket();
                }
                4 => {
                    stack.kill_collector().unwrap();
                    stack.start_collector().unwrap();
                }
                _ => {}
            }
            stack.kill_agent().unwrap();
            stack.start_agent().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    stack.wait_ready().unwrap();
    journald.signal("-TERM");
    journald.child.take().unwrap().wait().unwrap();
    let theirs = journald.messages();
    assert!(theirs.len() > 16_000 && journald.files() > 5, "{} {}", theirs.len(), journald.files());
    let all = theirs.len() as u64;
    wait_until("all entries", Duration::from_secs(90), || stack.stored().is_ok_and(|stored| stored >= all))
        .unwrap();
    stack.wait_drained(Duration::from_secs(60)).unwrap();
    let ours = stored(&stack);
    assert_eq!(ours.len(), theirs.len());
    let other = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    assert_eq!(other, None);
    let lost = http::metric(stack.agent_http, "/metrics/self", "sonde_agent_journal_lost_entries_total", "")
        .unwrap();
    let page = http::text(stack.agent_http, "/metrics/self").unwrap();
    assert!(page.contains("container=\"journal:"), "{page}");
    eprintln!("{} entries in {} journals, {lost} called lost", theirs.len(), journald.files());
}
