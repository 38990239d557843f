use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn strings_and_numbers_read_back(text: String, number: f64) {
        let mut out = Vec::new();
        write_str(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        out.clear();
        write_f64(number, &mut out);
        if number.is_finite() {
            // serde_json's own reading of numbers is not exact.
            let read: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read, number);
            prop_assert!(serde_json::from_slice::<f64>(&out).is_ok());
        }
    }
}

#[test]
fn base64_has_the_vectors_of_rfc_4648() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
    ] {
        let mut out = Vec::new();
        write_base64(bytes.as_bytes(), &mut out);
        assert_eq!(out, format!("\"{text}\"").into_bytes());
    }
}
