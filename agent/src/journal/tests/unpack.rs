//! Compressed fields that no systemd of today writes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::real::{Tools, made};
use crate::journal::file::{Journal, Next, Scratch, Sum};
use crate::journal::lz4;
use crate::journal::pages::{JournalId, Pages};

fn decoded(block: &[u8], limit: usize) -> (bool, Vec<u8>) {
    let mut out = Vec::new();
    let is_whole = lz4::decode(block, limit, &mut out);
    (is_whole, out)
}

proptest! {
    #[test]
    fn an_lz4_block_gives_what_the_field_s_decoder_gives_and_any_beginning_of_it(
        words in proptest::collection::vec(0u8..40, 0..3000), limit in 0usize..5000,
    ) {
        let text: Vec<u8> = words.iter().flat_map(|word| format!("{word} ").into_bytes()).collect();
        let block = lz4_flex::block::compress(&text);
        prop_assert_eq!(decoded(&block, usize::MAX), (true, text.clone()));
        prop_assert_eq!(decoded(&block, limit), (true, text[..limit.min(text.len())].to_vec()));
    }

    #[test]
    fn no_bytes_are_too_bad_for_the_lz4_decoder_and_it_gives_no_more_than_was_asked_for(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in 0usize..100_000,
    ) {
        let (is_whole, out) = decoded(&bytes, limit);
        prop_assert!(out.len() <= limit);
        if let Ok(theirs) = lz4_flex::block::decompress(&bytes, 100_000) {
            prop_assert!(is_whole || limit == 0);
            prop_assert_eq!(&out[..], &theirs[..limit.min(theirs.len())]);
        }
    }
}

/// Puts other bytes in the place of the payload of the data object that begins with `found`.
fn replace(path: &std::path::Path, found: &[u8], flag: u8, payload: &[u8]) {
    let bytes = std::fs::read(path).unwrap();
    let at = memchr::memmem::find(&bytes, found).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let object = at - 72;
    assert_eq!(bytes[object], 1);
    let size = u64::from_le_bytes(bytes[object + 8..object + 16].try_into().unwrap()) as usize;
    assert!(payload.len() <= size - 72);
    file.write_all_at(payload, at as u64).unwrap();
    file.write_all_at(&[flag], object as u64 + 1).unwrap();
    file.write_all_at(&(72 + payload.len() as u64).to_le_bytes(), object as u64 + 8).unwrap();
    let flags = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) | 3;
    file.write_all_at(&flags.to_le_bytes(), 12).unwrap();
}

#[test]
fn a_field_in_lz4_is_read_and_one_in_xz_is_counted_and_costs_the_entry_no_other_field() {
    let test = "a_field_in_lz4_is_read_and_one_in_xz_is_counted_and_costs_the_entry_no_other_field";
    let Some(tools) = Tools::find(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.journal");
    let message = "lz4 ".repeat(100);
    let mut entry = made(0, &message);
    entry.push(("OTHER".into(), vec![b'x'; 200]));
    tools.write(&path, &[entry], &[]);
    let text = format!("MESSAGE={message}").into_bytes();
    let mut packed = (text.len() as u64).to_le_bytes().to_vec();
    packed.extend(lz4_flex::block::compress(&text));
    replace(&path, &text[..40], 2, &packed);
    replace(&path, b"OTHER=xxx", 1, b"\xfd7zXZ\0 and so on");
    let mut journal = Journal::open(JournalId(0), File::open(&path).unwrap()).unwrap();
    let mut pages = Pages::default();
    let Next::Entry(_, offset) = journal.next(&mut pages).unwrap() else { panic!() };
    for most in [10, 399, 400, 1000] {
        let mut found = Vec::new();
        let sum = journal
            .fields(
                &mut pages,
                offset,
                &mut Scratch::default(),
                |_| most,
                |name, value, len| found.push((name.to_vec(), value.to_vec(), len)),
            )
            .unwrap();
        assert_eq!(found.len(), 10);
        let value = message.as_bytes()[..most.min(400)].to_vec();
        assert!(found.contains(&(b"MESSAGE".to_vec(), value, 400)), "{most}");
        let bytes = found.iter().map(|(name, _, len)| name.len() as u64 + 1 + len).sum();
        assert_eq!(sum, Sum { unreadable: 1, bytes });
    }
}

#[test]
fn a_field_that_claims_to_be_longer_than_any_is_counted_as_unreadable() {
    let test = "a_field_that_claims_to_be_longer_than_any_is_counted_as_unreadable";
    let Some(tools) = Tools::find(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.journal");
    let message = "lz4 ".repeat(100);
    tools.write(&path, &[made(0, &message)], &[]);
    let text = format!("MESSAGE={message}").into_bytes();
    let mut packed = u64::MAX.to_le_bytes().to_vec();
    packed.extend(lz4_flex::block::compress(&text));
    replace(&path, &text[..40], 2, &packed);
    let mut journal = Journal::open(JournalId(0), File::open(&path).unwrap()).unwrap();
    let mut pages = Pages::default();
    let Next::Entry(_, offset) = journal.next(&mut pages).unwrap() else { panic!() };
    let sum = journal.fields(&mut pages, offset, &mut Scratch::default(), |_| 100, |_, _, _| {}).unwrap();
    assert!(sum.unreadable == 1 && sum.bytes < 1000, "{sum:?}");
}
