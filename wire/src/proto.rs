//! The protobuf wire format, as much of it as OTLP needs
//! (<https://protobuf.dev/programming-guides/encoding/>): writers that append to a `Vec`, and a reader that
//! never leaves its slice.

/// Wire type of int32, int64, uint32, bool, enum.
pub const VARINT: u32 = 0;
/// Wire type of fixed64 and double.
pub const FIXED64: u32 = 1;
/// Wire type of strings, bytes and messages.
pub const LEN: u32 = 2;
/// Wire type of fixed32.
pub const FIXED32: u32 = 5;

/// Width in bytes of a [`padded`] length.
pub const PADDED: usize = 5;

/// The key byte of a field below 16. Panics for others, which the compiler sees: field numbers are constants.
#[must_use]
pub const fn key(field: u8, wire_type: u32) -> u8 {
    assert!(field > 0 && field < 16 && wire_type < 8);
    // Below 128 by the assertion.
    (field << 3) | wire_type.to_le_bytes()[0]
}

/// How many bytes [`put_varint`] writes for `value`: 1 to 10.
#[inline]
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    // ceil(bits / 7) without a division, for bits 1..=64; protobuf's own VarintSize64.
    (((value | 1).ilog2() * 9 + 73) / 64) as usize
}

/// Appends a varint of the least width.
#[inline]
pub fn put_varint(buf: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buf.push(low7(value) | 0x80);
        value >>= 7;
    }
    buf.push(low7(value));
}

/// A length as a varint of exactly five bytes, which can be written before the length is known and
/// overwritten in place after. Good for lengths below 2^35; protobuf's own limit for a message is 2^31.
///
/// Such a varint is longer than it needs to be, and every parser takes it: protobuf's conformance suite
/// demands that over-long varints are read (`conformance/binary_json_conformance_suite.cc`, `longvarint`). A
/// length may have five bytes in C++ (`parse_context.cc`, `ReadSizeFallback`), ten in Go
/// (`protowire.ConsumeVarint`), Python (`internal/decoder.py`, `_VarintDecoder`) and prost (`decode_varint`).
/// Tried with protobuf-go 1.36.12 and with the OpenTelemetry Collector's own decoder (pdata 1.66).
#[inline]
#[must_use]
pub const fn padded(len: usize) -> [u8; PADDED] {
    let v = len as u64;
    [low7(v) | 0x80, low7(v >> 7) | 0x80, low7(v >> 14) | 0x80, low7(v >> 21) | 0x80, low7(v >> 28)]
}

/// Appends key and contents of a string, bytes or message field below 16.
#[inline]
pub fn put_bytes(buf: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    buf.push(key(field, LEN));
    put_varint(buf, bytes.len() as u64);
    buf.extend_from_slice(bytes);
}

/// Appends key and value of a varint field below 16.
#[inline]
pub fn put_uint(buf: &mut Vec<u8>, field: u8, value: u64) {
    buf.push(key(field, VARINT));
    put_varint(buf, value);
}

/// How many bytes [`put_bytes`] writes for contents of `len` bytes.
#[inline]
#[must_use]
pub const fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

#[inline]
const fn low7(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

/// What is wrong with the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// A field reaches beyond the end of its message.
    #[error("a field is cut off")]
    Truncated,
    /// A varint of more than ten bytes or 64 bits.
    #[error("a varint is longer than 64 bits")]
    Varint,
    /// Field number 0, or one above 2^29 - 1.
    #[error("a field number is out of range")]
    FieldNumber,
    /// A group (wire types 3 and 4), which OTLP does not have, or wire type 6 or 7, which nobody has.
    #[error("wire type {0} is not supported")]
    WireType(u8),
}

/// A field's contents by wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// int32, int64, uint32, bool, enum.
    Varint(u64),
    /// fixed64, double.
    Fixed64(u64),
    /// fixed32.
    Fixed32(u32),
    /// string, bytes, message.
    Len(&'a [u8]),
}

/// The fields of a message, each with its number, its contents and all its bytes. Ends at what cannot be read.
pub fn raw_fields(message: &[u8]) -> impl Iterator<Item = (u32, Value<'_>, &[u8])> {
    let mut reader = Reader::new(message);
    let mut at = 0;
    std::iter::from_fn(move || {
        let (field, value) = reader.field().ok()??;
        let end = message.len() - reader.remaining();
        let raw = message.get(at..end).unwrap_or_default();
        at = end;
        Some((field, value, raw))
    })
}

/// Reads the fields of one message.
///
/// Inlined by force: returned through memory, a field costs more than to read it (a record of eight fields
/// and two attributes was checked in 90 ns so, and in 60 ns inlined).
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Of a message's bytes, without its own key and length.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    #[inline(always)]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next field's number and contents; `None` at the end of the message. After an error the reader
    /// stands anywhere, but never outside its slice.
    #[inline(always)]
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| ProtoError::FieldNumber)?;
        let field = key >> 3;
        if field == 0 {
            return Err(ProtoError::FieldNumber);
        }
        let value = match key & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            LEN => Value::Len(self.bytes()?),
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(ProtoError::WireType(other.to_le_bytes()[0])),
        };
        Ok(Some((field, value)))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, ProtoError> {
        match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a))
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                // The tenth byte holds the 64th bit and no more.
                if i == 9 && byte > 1 {
                    return Err(ProtoError::Varint);
                }
                self.rest = self.rest.get(i + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { ProtoError::Truncated } else { ProtoError::Varint })
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline(always)]
    fn bytes(&mut self) -> Result<&'a [u8], ProtoError> {
        let len = usize::try_from(self.varint()?).map_err(|_| ProtoError::Truncated)?;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests;
