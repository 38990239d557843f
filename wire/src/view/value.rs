//! `AnyValue` and what holds it (`common.proto`).

use super::{Messages, text};
use crate::proto::{Reader, Value};

/// An `AnyValue`.
#[derive(Clone, Debug)]
pub enum AnyValueView<'a> {
    /// Not set; also a `string_value_strindex`, which receivers of logs are to read as absent (common.proto).
    Empty,
    /// A string.
    Str(&'a str),
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// A list of values.
    Array(Values<'a>),
    /// A list of keys with values.
    Map(Attributes<'a>),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> AnyValueView<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut view = Self::Empty;
        let mut reader = Reader::new(bytes);
        while let Ok(Some((field, value))) = reader.field() {
            view = match (field, value) {
                (1, Value::Len(bytes)) => Self::Str(text(bytes)),
                (2, Value::Varint(v)) => Self::Bool(v != 0),
                (3, Value::Varint(v)) => Self::Int(v.cast_signed()),
                (4, Value::Fixed64(v)) => Self::Double(f64::from_bits(v)),
                (5, Value::Len(bytes)) => Self::Array(Values(Messages::new(bytes, 1))),
                (6, Value::Len(bytes)) => Self::Map(Attributes::new(bytes, 1)),
                (7, Value::Len(bytes)) => Self::Bytes(bytes),
                _ => continue,
            };
        }
        view
    }

    /// The string, if it is one.
    #[must_use]
    pub const fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// The elements of an array.
#[derive(Clone, Debug)]
pub struct Values<'a>(Messages<'a>);

impl<'a> Iterator for Values<'a> {
    type Item = AnyValueView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(AnyValueView::new)
    }
}

/// Keys with their values, as sent: a sender may have written a key twice.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(Messages<'a>);

impl<'a> Attributes<'a> {
    /// The field `field` of a message, which holds KeyValues.
    pub(super) const fn new(message: &'a [u8], field: u32) -> Self {
        Self(Messages::new(message, field))
    }

    /// The first value of a key.
    #[must_use]
    pub fn get(mut self, key: &str) -> Option<AnyValueView<'a>> {
        self.find(|(own, _)| *own == key).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, AnyValueView<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (mut key, mut any) = ("", AnyValueView::Empty);
        let mut reader = Reader::new(self.0.next()?);
        while let Ok(Some((field, value))) = reader.field() {
            match (field, value) {
                (1, Value::Len(bytes)) => key = text(bytes),
                (2, Value::Len(bytes)) => any = AnyValueView::new(bytes),
                _ => {}
            }
        }
        Some((key, any))
    }
}
