use proptest::prelude::*;

use super::*;

/// RFC 4648 section 10.
#[test]
fn the_vectors_of_the_rfc_hold_with_and_without_padding() {
    for (plain, padded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        let bare = padded.trim_end_matches('=');
        assert_eq!(encode(plain.as_bytes()), bare);
        assert_eq!(decode(padded.as_bytes()).as_deref(), Some(plain.as_bytes()));
        assert_eq!(decode(bare.as_bytes()).as_deref(), Some(plain.as_bytes()));
    }
}

#[test]
fn what_is_not_base64_is_refused() {
    for text in ["=", "Z", "Zg=", "Zg===", "Zm9v=", "Zm9vY", "Zm9v====", "Z===", "Zm=v", "Zm9v\n", "Zm-_"] {
        assert_eq!(decode(text.as_bytes()), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        let _ = decode(&bytes);
    }
}
