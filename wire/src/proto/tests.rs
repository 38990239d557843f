use proptest::prelude::*;
use prost::encoding;

use super::*;

fn fields(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut fields = Vec::new();
    while let Some(field) = reader.field()? {
        fields.push(field);
    }
    Ok(fields)
}

#[test]
fn varints_of_more_than_64_bits_are_refused() {
    let longest = [&[0x08][..], &[0xff; 9], &[1]].concat();
    assert_eq!(fields(&longest), Ok(vec![(1, Value::Varint(u64::MAX))]));
    assert_eq!(fields(&[&[0x08][..], &[0xff; 9], &[2]].concat()), Err(ProtoError::Varint));
    assert_eq!(fields(&[&[0x08][..], &[0x80; 10], &[0]].concat()), Err(ProtoError::Varint));
    assert_eq!(fields(&[0x08, 0x80]), Err(ProtoError::Truncated));
}

#[test]
fn what_reaches_beyond_the_end_is_refused() {
    assert_eq!(fields(&[0x09, 0, 0, 0, 0, 0, 0, 0]), Err(ProtoError::Truncated));
    assert_eq!(fields(&[0x0d, 0, 0, 0]), Err(ProtoError::Truncated));
    assert_eq!(fields(&[0x0a, 2, 0]), Err(ProtoError::Truncated));
    let huge = [&[0x0a][..], &[0xff; 9], &[1]].concat();
    assert_eq!(fields(&huge), Err(ProtoError::Truncated));
}

#[test]
fn keys_out_of_range_and_groups_are_refused() {
    assert_eq!(fields(&[0x00, 0]), Err(ProtoError::FieldNumber));
    assert_eq!(fields(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]), Err(ProtoError::FieldNumber));
    assert_eq!(fields(&[0xf8, 0xff, 0xff, 0xff, 0x0f, 7]), Ok(vec![(536_870_911, Value::Varint(7))]));
    for wire_type in [3, 4, 6, 7] {
        assert_eq!(fields(&[0x08 | wire_type]), Err(ProtoError::WireType(wire_type)));
    }
}

proptest! {
    #[test]
    fn varints_are_written_as_prost_writes_them(bits in 0..64u32, value in any::<u64>()) {
        let value = value >> bits;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        put_varint(&mut ours, value);
        encoding::encode_varint(value, &mut theirs);
        prop_assert_eq!(&ours, &theirs);
        prop_assert_eq!(ours.len(), varint_len(value));
        let field = [&[0x08], &ours[..]].concat();
        prop_assert_eq!(fields(&field), Ok(vec![(1, Value::Varint(value))]));
    }

    #[test]
    fn a_padded_length_is_read_as_any_other(len in 0..1usize << 35) {
        prop_assert_eq!(encoding::decode_varint(&mut &padded(len)[..]), Ok(len as u64));
        prop_assert_eq!(Reader::new(&padded(len)).varint(), Ok(len as u64));
    }

    #[test]
    fn arbitrary_bytes_are_read_to_the_end_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut buf = &bytes[..];
        let mut theirs = Ok(());
        while !buf.is_empty() && theirs.is_ok() {
            theirs = encoding::decode_key(&mut buf)
                .and_then(|(tag, wire)| encoding::skip_field(wire, tag, &mut buf, Default::default()));
        }
        match fields(&bytes) {
            Err(ProtoError::WireType(3)) => {}
            ours => prop_assert_eq!(ours.is_ok(), theirs.is_ok()),
        }
    }
}
