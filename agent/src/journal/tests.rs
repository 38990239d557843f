//! Against journals that systemd's own programs wrote: `tests/servers/journal` puts them below `target/journal`; without them
//! these tests are skipped, loudly.

#[path = "tests/faults.rs"]
mod faults;
#[path = "tests/hostile.rs"]
mod hostile;
#[path = "tests/promises.rs"]
mod promises;
#[path = "tests/real.rs"]
mod real;
#[path = "tests/unpack.rs"]
mod unpack;
#[path = "tests/world.rs"]
mod world;

use std::fs::File;

use super::file::{Journal, Next, Scratch};
use super::format::Entry;
use super::pages::{JournalId, Pages};
use real::{Fields, Tools, big, made};

/// All entries of a journal with all their fields.
fn read_all(path: &std::path::Path) -> Vec<(Entry, Fields)> {
    let mut journal = Journal::open(JournalId(0), File::open(path).unwrap()).unwrap();
    let (mut pages, mut scratch) = (Pages::default(), Scratch::default());
    let mut all = Vec::new();
    loop {
        match journal.next(&mut pages).unwrap() {
            Next::End => return all,
            Next::Damaged => panic!("{}: entry {} is damaged", path.display(), all.len()),
            Next::Entry(entry, offset) => {
                let mut fields = Fields::new();
                let mut bytes = 0;
                let sum = journal.fields(
                    &mut pages,
                    offset,
                    &mut scratch,
                    |_| usize::MAX >> 1,
                    |name, value, len| {
                        assert_eq!(value.len() as u64, len);
                        bytes += name.len() as u64 + 1 + len;
                        fields
                            .entry(String::from_utf8(name.to_vec()).unwrap())
                            .or_default()
                            .push(value.to_vec());
                    },
                );
                let sum = sum.unwrap();
                assert_eq!((sum.bytes, sum.unreadable), (bytes, 0));
                fields.values_mut().for_each(|values| values.sort());
                all.push((entry, fields));
            }
        }
    }
}

#[test]
fn every_field_of_every_entry_is_what_journalctl_reads_in_all_formats() {
    let Some(tools) = Tools::find("every_field_of_every_entry_is_what_journalctl_reads_in_all_formats")
    else {
        return;
    };
    for (compact, keyed) in [("1", "1"), ("0", "1"), ("0", "0")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("system.journal");
        let mut entries: Vec<_> = (0..3000).map(|n| made(n, &format!("line {n}"))).collect();
        // Compressed: 512 bytes and more; with a newline, binary, empty; a name twice.
        entries[7].push(("MESSAGE".into(), big(300_000)));
        entries[8].push(("PAYLOAD".into(), big(2_000)));
        entries[9].push(("TEXT".into(), b"two\nlines".to_vec()));
        entries[10].push(("BINARY".into(), (0..=255).collect()));
        entries[11].push(("EMPTY".into(), Vec::new()));
        entries[12].push(("TWICE".into(), b"a".to_vec()));
        entries[12].push(("TWICE".into(), b"b".to_vec()));
        entries[13].push(("RANDOM".into(), real::noise(70_000)));
        let env = [("SYSTEMD_JOURNAL_COMPACT", compact), ("SYSTEMD_JOURNAL_KEYED_HASH", keyed)];
        tools.write(&path, &entries[..1500], &env);
        tools.write(&path, &entries[1500..], &env);
        let theirs = tools.read(&path);
        let ours = read_all(&path);
        assert_eq!((ours.len(), theirs.len()), (3000, 3000), "{compact} {keyed}");
        for ((entry, mut ours), mut theirs) in ours.into_iter().zip(theirs) {
            let cursor = String::from_utf8(theirs.remove("__CURSOR").unwrap().remove(0)).unwrap();
            let boot = real::hex(&entry.boot_id);
            let (seqnum, monotonic, realtime) = (entry.seqnum, entry.monotonic, entry.realtime);
            let told =
                format!(";i={seqnum:x};b={boot};m={monotonic:x};t={realtime:x};x={:x}", entry.xor_hash);
            assert!(cursor.ends_with(&told), "{cursor} {told}");
            // The boot id is a field for journalctl; in the file it is the entry's.
            for name in ["__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP"] {
                theirs.remove(name);
            }
            ours.remove("_BOOT_ID");
            theirs.remove("_BOOT_ID");
            assert_eq!(ours, theirs, "{cursor}");
        }
    }
}

#[test]
fn reading_goes_on_at_any_entry_and_sees_what_is_written_meanwhile() {
    let Some(tools) = Tools::find("reading_goes_on_at_any_entry_and_sees_what_is_written_meanwhile") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.journal");
    let write = |from: u64, to: u64| {
        let entries: Vec<_> = (from..to).map(|n| made(n, &format!("line {n}"))).collect();
        tools.write(&path, &entries, &[]);
    };
    write(0, 1000);
    let mut pages = Pages::default();
    let mut journal = Journal::open(JournalId(3), File::open(&path).unwrap()).unwrap();
    for target in [1, 2, 3, 4, 5, 77, 499, 500, 998, 999, 1000] {
        journal.rewind();
        journal.seek(&mut pages, |entry| entry.seqnum < target).unwrap();
        let next = journal.next(&mut pages).unwrap();
        assert!(matches!(next, Next::Entry(entry, _) if entry.seqnum == target), "{target}: {next:?}");
        assert_eq!(journal.passed(), target);
    }
    assert_eq!(journal.next(&mut pages).unwrap(), Next::End);
    assert!(!journal.refresh(&mut pages).unwrap());
    write(1000, 1003);
    assert!(journal.refresh(&mut pages).unwrap());
    for seqnum in 1001..=1003 {
        let next = journal.next(&mut pages).unwrap();
        assert!(matches!(next, Next::Entry(entry, _) if entry.seqnum == seqnum), "{seqnum}: {next:?}");
    }
    assert_eq!((journal.next(&mut pages).unwrap(), journal.unread()), (Next::End, 0));
}
