use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::super::admission::Admission;
use super::*;

const LIMIT: usize = 4 << 20;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd_sized(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 3).unwrap()
}

fn zstd_unsized(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn whole(codec: Encoding, input: &[u8]) -> Result<Vec<u8>, InflateError> {
    let mut grant = Admission::new(64 << 20).reserve(0).unwrap();
    inflate(codec, input, LIMIT, None, Impression::Usual, &mut grant, 0)
}

/// Text that compresses about as log lines do.
fn text(length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 64);
    let mut seed = 7u64;
    while out.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        writeln!(out, "GET /cart/{:016x} 200 {}ms", seed, seed >> 54).unwrap();
    }
    out.truncate(length);
    out
}

#[test]
fn what_was_compressed_comes_back() {
    for length in [0, 1, 100, 5_000, 100_000, 1 << 20, LIMIT - 1, LIMIT] {
        let content = text(length);
        for (codec, input) in [
            (Encoding::Gzip, gzip(&content)),
            (Encoding::Zstd, zstd_sized(&content)),
            (Encoding::Zstd, zstd_unsized(&content)),
        ] {
            assert!(whole(codec, &input).unwrap() == content, "{codec:?} {length}");
        }
    }
}

#[test]
fn a_zstd_frame_that_is_shorter_than_it_says_is_refused_however_it_is_decoded() {
    // It says 22,829 bytes, and its only block is empty: libzstd takes that where it decodes in steps.
    let lie = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2d, 0x58, 1, 0, 0];
    for impression in [Impression::Usual, Impression::Suspect] {
        for input in [lie.to_vec(), [zstd_sized(b"x"), lie.to_vec()].concat()] {
            let mut grant = Admission::new(64 << 20).reserve(0).unwrap();
            let result = inflate(Encoding::Zstd, &input, LIMIT, None, impression, &mut grant, 0);
            assert!(matches!(result, Err(InflateError::Malformed(_))), "{impression:?} {result:?}");
        }
    }
}

#[test]
fn what_compresses_well_and_is_within_the_limit_comes_back_too() {
    let content = vec![b'a'; LIMIT];
    for (codec, input) in [
        (Encoding::Gzip, gzip(&content)),
        (Encoding::Zstd, zstd_sized(&content)),
        (Encoding::Zstd, zstd_unsized(&content)),
    ] {
        assert!(whole(codec, &input).unwrap() == content);
    }
}

#[test]
fn a_body_of_several_members_is_one_content() {
    let (a, b) = (text(1000), text(70_000));
    let both = [a.as_slice(), &b].concat();
    assert!(whole(Encoding::Gzip, &[gzip(&a), gzip(&b)].concat()).unwrap() == both);
    assert!(whole(Encoding::Zstd, &[zstd_sized(&a), zstd_unsized(&b)].concat()).unwrap() == both);
}

#[test]
fn a_bomb_is_refused_without_its_memory() {
    let zeros = vec![0u8; 200 << 20];
    let member = gzip(&zeros[..3 << 20]);
    let bombs = [
        (Encoding::Gzip, gzip(&zeros)),
        (Encoding::Gzip, member.repeat(20)),
        (Encoding::Zstd, zstd_sized(&zeros)),
        (Encoding::Zstd, zstd_unsized(&zeros)),
        (Encoding::Zstd, zstd_unsized(&zeros[..3 << 20]).repeat(20)),
    ];
    for (codec, input) in bombs {
        // Memory for what is trusted and no more: a bomb that were kept would be refused for that.
        let trusted = (input.len() * TRUSTED_RATIO).max(TRUSTED_BYTES);
        let admission = Admission::new((input.len() + trusted + (64 << 10)) as u64);
        let mut grant = admission.reserve(input.len()).unwrap();
        let result = inflate(codec, &input, LIMIT, None, Impression::Usual, &mut grant, input.len());
        assert_eq!(result, Err(InflateError::TooLarge(LIMIT)), "{codec:?}");
    }
}

#[test]
fn the_first_part_of_a_bomb_is_enough_to_refuse_it() {
    let zeros = vec![0u8; 300 << 20];
    for (codec, input) in [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd_unsized(&zeros))] {
        let part = &input[..input.len() / 2];
        assert_eq!(probe(codec, part, LIMIT, None), Err(InflateError::TooLarge(LIMIT)));
        let outline = Outline::new(None, LIMIT as u64);
        assert!(matches!(probe(codec, part, LIMIT, Some(outline)), Err(InflateError::Outline(_))));
    }
    let outline = || Some(Outline::new(None, LIMIT as u64));
    for (codec, input) in [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd_unsized(&zeros))] {
        assert!(matches!(peek(codec, &input[..1000], outline()), Err(InflateError::Outline(_))));
        assert!(matches!(peek(codec, &input[..1000], None), Err(InflateError::Malformed(_))));
    }
    let fine = gzip(&[b" { \"a\": 7 ", text(1 << 20).as_slice()].concat());
    assert_eq!(peek(Encoding::Gzip, &fine[..fine.len() / 3], None), Ok(Impression::Usual));
    assert_eq!(peek(Encoding::Gzip, &fine[..4], outline()), Ok(Impression::Usual), "too little to tell");
    for (codec, input) in
        [(Encoding::Gzip, gzip(&[b'{'; 1 << 20])), (Encoding::Zstd, zstd_unsized(&[b'{'; 1 << 20]))]
    {
        assert_eq!(peek(codec, &input, None), Ok(Impression::Suspect));
        assert_eq!(probe(codec, &input, LIMIT, None), Ok(Impression::Suspect));
    }
    assert_eq!(probe(Encoding::Gzip, &fine[..fine.len() / 3], LIMIT, None), Ok(Impression::Usual));
}

#[test]
fn a_missing_end_and_bytes_behind_the_end_are_malformed() {
    let content = text(10_000);
    for (codec, input) in [
        (Encoding::Gzip, gzip(&content)),
        (Encoding::Zstd, zstd_sized(&content)),
        (Encoding::Zstd, zstd_unsized(&content)),
    ] {
        for cut in [0, 1, 5, input.len() / 2, input.len() - 1] {
            assert!(
                matches!(whole(codec, &input[..cut]), Err(InflateError::Malformed(_))),
                "{codec:?} {cut}"
            );
        }
        for garbage in [&b"\0"[..], b"garbage behind", &[0; 600]] {
            let input = [input.as_slice(), garbage].concat();
            assert!(matches!(whole(codec, &input), Err(InflateError::Malformed(_))), "{codec:?}");
        }
    }
    let mut wrong_sum = gzip(&content);
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    assert!(matches!(whole(Encoding::Gzip, &wrong_sum), Err(InflateError::Malformed(_))));
}

#[test]
fn a_zstd_frame_with_a_huge_window_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&text(3 << 20)).unwrap();
    let input = encoder.finish().unwrap();
    assert!(matches!(whole(Encoding::Zstd, &input), Err(InflateError::Malformed(_))));
}

#[test]
fn members_without_end_are_refused() {
    let input = gzip(b"").repeat(2000);
    assert!(matches!(whole(Encoding::Gzip, &input), Err(InflateError::Malformed(_))));
    // Skippable frames of zstd: magic, length 0.
    let input = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(2000);
    assert!(matches!(whole(Encoding::Zstd, &input), Err(InflateError::Malformed(_))));
}

#[test]
fn memory_that_is_not_there_refuses_the_request() {
    let input = gzip(&text(900 << 10));
    let admission = Admission::new(300 << 10);
    let mut grant = admission.reserve(0).unwrap();
    assert!(matches!(
        inflate(Encoding::Gzip, &input, LIMIT, None, Impression::Usual, &mut grant, 0),
        Err(InflateError::Memory(_))
    ));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300), valid in any::<bool>(), at in 0usize..300, flip in any::<u8>()) {
        for codec in [Encoding::Gzip, Encoding::Zstd] {
            let mut input = match (valid, codec) {
                (false, _) => bytes.clone(),
                (true, Encoding::Zstd) => zstd_unsized(&bytes),
                (true, _) => gzip(&bytes),
            };
            if let Some(byte) = input.get_mut(at) {
                *byte ^= flip;
            }
            let _ = whole(codec, &input);
            let _ = probe(codec, &input, LIMIT, None);
        }
    }
}
