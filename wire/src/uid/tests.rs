use proptest::prelude::*;

use super::*;

/// By another implementation: `printf 'POD\0CONTAINER\0RESTART\0ENTRY' | sha256sum | cut -c-20`.
#[test]
fn the_file_hash_is_the_documented_one() {
    let line = b"2026-11-20T18:00:00.000000001Z stdout F hello\nmore";
    let hash = FileHash::new("9c2f1a50-6d0e-4a53-8f0f-5a2f3f0f7c11", "web", 0, line);
    assert_eq!(hash.hex(), "3d19579220173d6757c8");
    let hash = FileHash::new("0123456789abcdef0123456789abcdef", "kube-apiserver", 12, &[b'x'; 4096]);
    assert_eq!(hash.hex(), "90b63b6cde4dab5bba82");
    let named = [&[b'x'; 1024][..], &[b'y'; 64]].concat();
    let hash = FileHash::of_named("ab12", "", 0, &named);
    assert_eq!(hash.hex(), "d59f2a4d0267935cac13");
}

#[test]
fn a_uid_is_the_hash_and_48_bits_of_the_offset() {
    let uid = RecordUid { file: FileHash([0, 1, 2, 3, 4, 5, 6, 7, 0xfe, 0xff]), offset: 0x0123_4567_89ab };
    assert_eq!(uid.to_string(), "0001020304050607feff0123456789ab");
    assert_eq!(RecordUid { offset: uid.offset | 0xabcd << 48, ..uid }.hex(), uid.hex());
}

#[test]
fn the_first_entry_is_known_only_when_it_cannot_grow() {
    assert_eq!(first_entry(b""), None);
    assert_eq!(first_entry(b"abc"), None);
    assert_eq!(first_entry(b"abc\nd"), Some(&b"abc"[..]));
    assert_eq!(first_entry(b"\n"), Some(&b""[..]));
    assert_eq!(first_entry(&[b'x'; 1023]), None);
    assert_eq!(first_entry(&[b'x'; 1024]), Some(&[b'x'; 1024][..]));
    // A newline behind the limit is not seen: a longer look at the file changes nothing.
    let mut late = vec![b'x'; 2000];
    late[1024] = b'\n';
    assert_eq!(first_entry(&late), Some(&[b'x'; 1024][..]));
}

#[test]
fn other_senders_uids_are_not_ours() {
    for text in [
        "",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "0001020304050607FEFF0123456789ab",
        "0001020304050607feff0123456789a",
        "0001020304050607feff0123456789abc",
        "0001020304050607feff0123456789a\u{e9}",
        "0001020304050607feff+123456789ab",
    ] {
        assert_eq!(RecordUid::parse(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_parsed(file in any::<[u8; 10]>(), offset in 0..=OFFSET_MASK) {
        let uid = RecordUid { file: FileHash(file), offset };
        let hex = uid.hex();
        let text = std::str::from_utf8(&hex).unwrap();
        prop_assert_eq!(text, format!("{}{offset:012x}", uid.file.hex()));
        prop_assert_eq!(RecordUid::parse(text), Some(uid));
        prop_assert_eq!(&uid.offset_hex()[..], &hex[UID_HEX - OFFSET_HEX..]);
    }

    #[test]
    fn a_hash_depends_on_the_first_entry_alone(entry in "[^\n]{0,40}", rest in "\\PC{0,40}") {
        let hash = |head: &str| FileHash::new("u", "c", 1, head.as_bytes());
        prop_assert_eq!(hash(&entry), hash(&format!("{entry}\n{rest}")));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
        let _ = RecordUid::parse(&text);
    }
}
