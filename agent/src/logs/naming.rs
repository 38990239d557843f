//! The bytes that name a file, of its first ones.
//!
//! A runtime's entry begins with its stamp, so as much of it as [`FIRST_ENTRY_BYTES`] names a file. Docker's stamp is at the
//! entry's end: of one that is longer than that, the last [`DOCKER_END_BYTES`] before its newline are among the bytes too, or two files whose
//! first messages are long and alike would have one name. Of a file that was named by the first ones alone (by an agent of before) the
//! name stays: a state says by how many bytes.

use std::io;

use sonde_wire::uid::{DOCKER_END_BYTES, FIRST_ENTRY_BYTES, first_entry};

use super::docker::MAX_ENTRY;
use super::format::Format;

/// Bytes that are read at a time to find the end of Docker's first entry.
const STEP: usize = 16 << 10;

/// `pread` on a file's uncompressed bytes.
pub(super) type ReadAt<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>;

/// What names a file. Memory: [`MAX_ENTRY`] at most while it is read, about a KiB then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Naming {
    bytes: Vec<u8>,
    /// None of them may change any more.
    pub(super) is_whole: bool,
}

impl Naming {
    /// Of a file that begins like this: all of it, or as much as [`Naming::read`] reads of it.
    pub(super) fn of(format: Format, beginning: &[u8]) -> Self {
        let head = beginning.get(..FIRST_ENTRY_BYTES).unwrap_or(beginning);
        let (named, is_whole) = match (format, first_entry(head)) {
            (Format::Plain, _) => (head, head.len() == FIRST_ENTRY_BYTES),
            (_, None) => (head, false),
            (Format::Docker, Some(entry)) if entry.len() == FIRST_ENTRY_BYTES => {
                return Self::of_long(head, beginning);
            }
            (_, Some(entry)) => (entry, true),
        };
        Self { bytes: named.to_vec(), is_whole }
    }

    /// Of Docker's first entry that is as long as what is hashed of it, or longer. What is longer than any of Docker's is none.
    fn of_long(head: &[u8], beginning: &[u8]) -> Self {
        let searched = beginning.get(..=MAX_ENTRY).unwrap_or(beginning);
        let end = memchr::memchr(b'\n', searched);
        let last =
            end.filter(|end| *end > FIRST_ENTRY_BYTES).map(|end| &beginning[end - DOCKER_END_BYTES..end]);
        let is_whole = end.is_some() || searched.len() > MAX_ENTRY;
        Self { bytes: [head, last.unwrap_or_default()].concat(), is_whole }
    }

    /// How many bytes of a file are needed, at least, of which these are known; none = they are enough.
    fn needed(format: Format, known: &[u8]) -> Option<usize> {
        let is_open = format == Format::Docker
            && known.len() >= FIRST_ENTRY_BYTES
            && known.len() <= MAX_ENTRY
            && memchr::memchr(b'\n', known).is_none();
        is_open.then(|| (known.len() + STEP).min(MAX_ENTRY + 1))
    }

    /// Of a file, by `read_at`, which gives fewer bytes than asked for at its end only.
    pub(super) fn read(format: Format, read_at: ReadAt<'_>) -> io::Result<Self> {
        let mut head = [0; FIRST_ENTRY_BYTES];
        let len = read_at(&mut head, 0)?;
        Self::read_behind(format, &head[..len], read_at)
    }

    /// The same of a file whose first [`FIRST_ENTRY_BYTES`] are known, as far as they are there.
    pub(super) fn read_behind(format: Format, head: &[u8], read_at: ReadAt<'_>) -> io::Result<Self> {
        let mut known = head.to_vec();
        while let Some(len) = Self::needed(format, &known) {
            let from = known.len();
            known.resize(len, 0);
            let read = read_at(&mut known[from..], from as u64)?;
            known.truncate(from + read);
            if known.len() < len {
                break;
            }
        }
        Ok(Self::of(format, &known))
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How well an identity over the first `head_len` bytes suits a file with this name; the best is the greatest, none = not at
    /// all. One over the whole first entry goes before one that was taken while the entry was unfinished: those few bytes may begin
    /// other files too, and none at all begin every file.
    pub(super) fn fit(&self, head_len: usize) -> Option<usize> {
        (1..=self.bytes.len()).contains(&head_len).then_some(head_len)
    }

    /// Whether an identity over so many bytes is one by which a file was named for good: by all of them, or by those that an agent of
    /// before knew.
    pub(super) fn is_for_good(&self, head_len: usize) -> bool {
        head_len == self.bytes.len() || self.was_named_by(head_len)
    }

    /// Whether an agent of before named it by so many bytes, which may begin another file too.
    pub(super) fn was_named_by(&self, head_len: usize) -> bool {
        head_len == FIRST_ENTRY_BYTES && self.bytes.len() > FIRST_ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(len: usize, stamp: &str) -> Vec<u8> {
        let end = format!("\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-20T16:35:{stamp}Z\"}}");
        let filler = len - end.len() - "{\"log\":\"".len();
        format!("{{\"log\":\"{}{end}", "=".repeat(filler)).into_bytes()
    }

    #[test]
    fn of_dockers_long_entries_the_stamp_is_among_the_bytes_and_of_all_others_they_are_what_they_were() {
        for len in [200, 1023, 1024, 1025, 1080, 5000, MAX_ENTRY] {
            let (mut one, mut other) = (entry(len, "01.000000001"), entry(len, "01.000000002"));
            one.push(b'\n');
            other.push(b'\n');
            let (of_one, of_other) = (Naming::of(Format::Docker, &one), Naming::of(Format::Docker, &other));
            assert!(of_one.is_whole && of_other.is_whole, "{len}");
            assert_ne!(of_one.bytes(), of_other.bytes(), "{len}");
            let before = &one[..len.min(FIRST_ENTRY_BYTES)];
            assert!(of_one.bytes().starts_with(before), "{len}");
            assert_eq!(of_one.bytes().len(), before.len() + if len > 1024 { DOCKER_END_BYTES } else { 0 });
            for format in [Format::Cri, Format::Plain] {
                let first =
                    if format == Format::Cri { before } else { &one[..one.len().min(FIRST_ENTRY_BYTES)] };
                assert_eq!(Naming::of(format, &one).bytes(), first, "{len} {format:?}");
            }
        }
    }

    #[test]
    fn an_entry_without_its_end_is_not_whole_unless_it_is_longer_than_dockers_are() {
        let unfinished = entry(5000, "01.000000001");
        let naming = Naming::of(Format::Docker, &unfinished);
        assert_eq!((naming.bytes().len(), naming.is_whole), (FIRST_ENTRY_BYTES, false));
        for end in [&b""[..], b"\n"] {
            let long = [&vec![b'x'; MAX_ENTRY + 1][..], end].concat();
            let naming = Naming::of(Format::Docker, &long);
            assert_eq!((naming.bytes().len(), naming.is_whole), (FIRST_ENTRY_BYTES, true));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_piece_by_piece_is_what_all_of_it_says(len in 0usize..140_000, newline in 0usize..140_000, seed in any::<u8>()) {
            let mut file: Vec<u8> = (0..len).map(|at| b'a' + ((at + usize::from(seed)) % 26) as u8).collect();
            if let Some(byte) = file.get_mut(newline) {
                *byte = b'\n';
            }
            for format in [Format::Cri, Format::Docker, Format::Plain] {
                let mut read_at = |buffer: &mut [u8], offset: u64| {
                    let from = file.get(offset as usize..).unwrap_or_default();
                    let len = from.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&from[..len]);
                    Ok(len)
                };
                let naming = Naming::read(format, &mut read_at).unwrap();
                prop_assert_eq!(&naming, &Naming::of(format, &file));
                prop_assert!(naming.bytes().len() <= FIRST_ENTRY_BYTES + DOCKER_END_BYTES);
            }
        }
    }
}
