//! Journals whose bytes lie.

use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::real::{Tools, big, made};
use crate::journal::file::{Journal, Next, Scratch};
use crate::journal::format::{Header, Object, u64_at};
use crate::journal::pages::{JournalId, Pages};
use crate::logs::fs::{LogFile, Stat};

/// A file in memory.
struct Bytes(Vec<u8>);

impl LogFile for Bytes {
    fn stat(&self) -> std::io::Result<Stat> {
        Ok(Stat { size: self.0.len() as u64, regular: true, ..Stat::default() })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// What was found in it: entries with a message as it was written, items that were passed over, steps.
fn walk(bytes: Vec<u8>, most: usize) -> Option<(u64, u64, u64)> {
    let mut journal = Journal::open(JournalId(0), Bytes(bytes)).ok()?;
    let (mut pages, mut scratch) = (Pages::default(), Scratch::default());
    let (mut good, mut damaged, mut steps, mut last) = (0, 0, 0, 0);
    journal.seek(&mut pages, |entry| entry.seqnum < 10).unwrap();
    journal.rewind();
    loop {
        steps += 1;
        match journal.next(&mut pages).unwrap() {
            Next::End => return Some((good, damaged, steps)),
            Next::Damaged => damaged += 1,
            Next::Entry(entry, offset) => {
                assert!(entry.seqnum > last, "sequence numbers grow");
                last = entry.seqnum;
                let mut is_good = false;
                let give = |name: &[u8], value: &[u8], _| {
                    assert!(value.len() <= most);
                    is_good |= name == b"MESSAGE" && value.starts_with(b"line ");
                };
                let _ = journal.fields(&mut pages, offset, &mut scratch, |_| most, give).unwrap();
                good += u64::from(is_good);
            }
        }
    }
}

/// A real journal of 200 entries without the unused space behind them; none = it cannot be had.
fn real() -> Option<&'static [u8]> {
    static REAL: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let make = || {
        let tools = Tools::find("hostile journals")?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("system.journal");
        let entries: Vec<_> = (0..200)
            .map(|n| {
                let more = if n % 10 == 0 { String::from_utf8(big(900)).unwrap() } else { String::new() };
                made(n, &format!("line {n} {more}"))
            })
            .collect();
        tools.write(&path, &entries, &[]);
        Some(used(&path))
    };
    REAL.get_or_init(make).as_deref()
}

/// Without the space that journald keeps behind the last object.
fn used(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let last = u64_at(&bytes, 136) as usize;
    let size = u64_at(&bytes, last + 8) as usize;
    bytes.truncate((last + size).next_multiple_of(8));
    bytes
}

/// Where anything but the hash tables lies.
fn places(bytes: &[u8]) -> Vec<usize> {
    let header = Header::parse(&bytes[..272], bytes.len() as u64).unwrap();
    let mut at = 264;
    let mut places: Vec<usize> = (0..264).collect();
    while at + 16 <= bytes.len() {
        let object = Object::parse(&bytes[at..at + 16]);
        if object.size < 16 {
            break;
        }
        let end = at + object.size as usize;
        // 4 and 5 are the hash tables.
        places.extend((at..end.min(bytes.len())).filter(|_| !matches!(object.kind, 4 | 5)));
        at = end.next_multiple_of(8);
    }
    assert!(header.n_entries == 200 && places.len() > 40_000);
    places
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_journal_with_some_bytes_changed_gives_the_entries_that_are_left_and_ends(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let Some(real) = real() else { return Ok(()) };
        static PLACES: OnceLock<Vec<usize>> = OnceLock::new();
        let places = PLACES.get_or_init(|| places(real));
        let mut bytes = real.to_vec();
        for (place, value) in &changes {
            bytes[*place.get(places)] = *value;
        }
        if let Some(cut) = &cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some((good, damaged, steps)) = walk(bytes, 2000) {
            prop_assert!(good <= 200 && steps <= 40_000, "{} {} {}", good, damaged, steps);
        }
    }

    #[test]
    fn a_journal_with_one_changed_byte_in_an_entry_s_own_objects_loses_that_entry_at_most(
        at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let Some(real) = real() else { return Ok(()) };
        // Entries and the fields that only one of them has lie behind the arrays that were made before them.
        let middle = memchr::memmem::find(real, b"MESSAGE=line 101 ").unwrap() - 72;
        let end = memchr::memmem::find(real, b"MESSAGE=line 102 ").unwrap() - 72;
        let mut bytes = real.to_vec();
        bytes[middle + at.index(end - middle)] = value;
        let (good, damaged, _) = walk(bytes, 2000).unwrap();
        prop_assert!((199..=200).contains(&good), "{} {}", good, damaged);
    }

    #[test]
    fn no_bytes_behind_a_journal_s_first_ones_are_too_bad(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let head = b"LPKSHHRH\0\0\0\0\0\0\0\0";
        for (byte, known) in bytes.iter_mut().zip(head) {
            *byte = *known;
        }
        if let Some(size) = bytes.get_mut(88..104) {
            size.copy_from_slice(&[208, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]);
        }
        if let Some((good, _, steps)) = walk(bytes, 100) {
            prop_assert!(good == 0 && steps < 4000);
        }
    }
}

/// A header that is read while journald writes it: the first read has its first half of before and its second half of after.
struct Torn {
    before: Vec<u8>,
    after: Vec<u8>,
    reads: std::sync::atomic::AtomicU32,
}

impl LogFile for Torn {
    fn stat(&self) -> std::io::Result<Stat> {
        Ok(Stat { size: self.after.len() as u64, regular: true, ..Stat::default() })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let read = Bytes(self.after.clone()).read_at(buffer, offset)?;
        if self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            buffer[..128].copy_from_slice(&self.before[..128]);
        }
        Ok(read)
    }
}

#[test]
fn a_header_that_is_read_while_it_is_written_costs_no_entry() {
    let Some(real) = real() else { return };
    let mut before = real.to_vec();
    let end = memchr::memmem::find(real, b"MESSAGE=line 101 ").unwrap() as u64;
    before[96..104].copy_from_slice(&(end - u64_at(real, 88)).to_le_bytes());
    let torn = Torn { before, after: real.to_vec(), reads: Default::default() };
    let mut journal = Journal::open(JournalId(0), torn).unwrap();
    let mut pages = Pages::default();
    for n in 1..=200 {
        let next = journal.next(&mut pages).unwrap();
        assert!(matches!(next, Next::Entry(entry, _) if entry.seqnum == n), "{n} {next:?}");
    }
}

#[test]
fn arrays_that_lead_back_end_the_reading_instead_of_going_round() {
    let Some(real) = real() else { return };
    let header = Header::parse(&real[..272], real.len() as u64).unwrap();
    let (mut bytes, mut arrays, mut at) = (real.to_vec(), Vec::new(), header.array as usize);
    while at != 0 {
        arrays.push(at);
        at = u64_at(real, at + 16) as usize;
    }
    assert!(arrays.len() > 3);
    let before = arrays[2];
    bytes[before + 16..before + 24].copy_from_slice(&(arrays[0] as u64).to_le_bytes());
    let (good, damaged, steps) = walk(bytes, 2000).unwrap();
    assert!(good > 0 && good < 200 && damaged == 0 && steps <= 201, "{good} {damaged} {steps}");
}

#[test]
fn a_frame_that_wants_a_huge_window_is_not_decompressed() {
    let Some(tools) = Tools::find("a_frame_that_wants_a_huge_window_is_not_decompressed") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.journal");
    let message = String::from_utf8(big(5_000)).unwrap();
    tools.write(&path, &[made(0, &format!("line {message}"))], &[]);
    let mut bytes = used(&path);
    let frame = memchr::memmem::find(&bytes, &0xFD2F_B528u32.to_le_bytes()).unwrap();
    let (good, ..) = walk(bytes.clone(), 2000).unwrap();
    assert_eq!(good, 1);
    // No single segment, no length; a window of 2 GiB (RFC 8878, 3.1.1.1).
    bytes[frame + 4] = 0;
    bytes[frame + 5] = 0xa8;
    assert_eq!(walk(bytes, 2000).unwrap().0, 0);
}
