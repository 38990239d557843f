//! systemd's programs, and the export format (<https://systemd.io/JOURNAL_EXPORT_FORMATS/>) in which they are talked to.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Fields of an entry; of one name there may be several.
pub type Fields = BTreeMap<String, Vec<Vec<u8>>>;
/// An entry to be written.
pub type Made = Vec<(String, Vec<u8>)>;

/// Where `tests/servers/journal` has put them.
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// None = they are not there, which is said.
    pub fn find(test: &str) -> Option<Self> {
        let exe = std::env::current_exe().unwrap();
        let own = exe.ancestors().nth(3).unwrap().join("journal/root");
        let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/journal/root");
        let found =
            [own, usual].into_iter().find(|root| root.join("lib/systemd/systemd-journal-remote").exists());
        if found.is_none() {
            eprintln!(
                "SKIPPED {test}: systemd-journal-remote is not below target/journal (run tests/servers/journal)"
            );
        }
        found.map(|root| Self { root })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join(program));
        let lib = self.root.join("usr/lib/x86_64-linux-gnu");
        let libs = format!("{}:{}", lib.display(), lib.join("systemd").display());
        command.env("LD_LIBRARY_PATH", libs);
        command
    }

    /// Appends entries to a journal, or makes it.
    pub fn write(&self, path: &Path, entries: &[Made], env: &[(&str, &str)]) {
        let mut child = self
            .command("lib/systemd/systemd-journal-remote")
            .arg(format!("--output={}", path.display()))
            .arg("-")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = Vec::new();
        for entry in entries {
            for (name, value) in entry {
                text.extend_from_slice(name.as_bytes());
                if value.iter().any(|byte| *byte < b' ') {
                    text.push(b'\n');
                    text.extend_from_slice(&(value.len() as u64).to_le_bytes());
                } else {
                    text.push(b'=');
                }
                text.extend_from_slice(value);
                text.push(b'\n');
            }
            text.push(b'\n');
        }
        child.stdin.take().unwrap().write_all(&text).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// What journalctl reads in a journal.
    pub fn read(&self, path: &Path) -> Vec<Fields> {
        let out = self
            .command("bin/journalctl")
            .args(["--all", "--no-pager", "-o", "export", "--file"])
            .arg(path)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        export(&out.stdout)
    }

    /// Makes the next [`Tools::write`] rotate: systemd does so when a chain of its hash table is too long.
    pub fn rotate_at_the_next_write(path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&1000u64.to_le_bytes(), 240).unwrap();
    }
}

fn export(mut rest: &[u8]) -> Vec<Fields> {
    let mut all = Vec::new();
    let mut entry = Fields::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            all.push(std::mem::take(&mut entry));
            continue;
        }
        let (name, value) = if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            (&line[..equals], line[equals + 1..].to_vec())
        } else {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let value = rest[8..8 + len].to_vec();
            rest = &rest[8 + len + 1..];
            (line, value)
        };
        entry.entry(String::from_utf8(name.to_vec()).unwrap()).or_default().push(value);
    }
    all.extend((!entry.is_empty()).then_some(entry));
    all.iter_mut().flat_map(|entry| entry.values_mut()).for_each(|values| values.sort());
    all
}

/// Microseconds since the epoch of the first entry that is made.
pub const BEGIN: u64 = 1_795_000_000_000_000;

/// An entry of kubelet.service; the `n`th, one a millisecond.
pub fn made(n: u64, message: &str) -> Made {
    let text = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    vec![
        text("__REALTIME_TIMESTAMP", &(BEGIN + n * 1000).to_string()),
        text("__MONOTONIC_TIMESTAMP", &(1_000_000 + n * 1000).to_string()),
        text("_BOOT_ID", "0123456789abcdef0123456789abcdef"),
        text("_HOSTNAME", "node-1"),
        text("_TRANSPORT", "stdout"),
        text("_SYSTEMD_UNIT", "kubelet.service"),
        text("_PID", "4711"),
        text("_UID", "0"),
        text("_COMM", "kubelet"),
        text("SYSLOG_IDENTIFIER", "kubelet"),
        text("PRIORITY", "6"),
        text("MESSAGE", message),
    ]
}

/// The entry with another value in a field, or with one more.
pub fn with(mut entry: Made, name: &str, value: &str) -> Made {
    entry.retain(|(known, _)| known != name);
    if !value.is_empty() {
        entry.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    entry
}

/// Text that compresses well, but not to nothing.
pub fn big(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("{} of it; ", n * 7919 % 1000).into_bytes()).take(len).collect()
}

/// What does not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
