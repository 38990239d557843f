//! The scalars of proto3's JSON: numbers that may be text, bytes in base64, ids in hex.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use sonde_wire::base64;

/// The value that comes next; `null` is the default.
pub(super) fn or_default<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
    map: &mut A,
) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

/// A key, copied only where it is written with escapes.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Key<'k>(#[serde(borrow)] pub(super) Cow<'k, str>);

/// A whole number, as a number (also `1.0` and `1e3`) or as text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Integer<T>(pub(super) T);

/// A double, as a number or as text, which may be `NaN`, `Infinity` or `-Infinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Double(pub(super) f64);

/// Bytes in base64, standard or URL-safe, padded or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Base64(pub(super) Vec<u8>);

/// Bytes in hex of either case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hex(pub(super) Vec<u8>);

/// The widest that every whole number of protobuf fits into.
type Wide = i128;

impl<'de, T: TryFrom<Wide>> Deserialize<'de> for Integer<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whole<T>(PhantomData<T>);
        impl<T: TryFrom<Wide>> Whole<T> {
            fn fit<E: de::Error>(self, wide: Option<Wide>) -> Result<Integer<T>, E> {
                let fits = wide.and_then(|wide| T::try_from(wide).ok());
                fits.map(Integer).ok_or_else(|| E::invalid_value(Unexpected::Other("another"), &self))
            }
        }
        impl<T: TryFrom<Wide>> Visitor<'_> for Whole<T> {
            type Value = Integer<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number within its field's bounds, or one as text")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                self.fit(Some(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                self.fit(Some(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                self.fit(whole(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                // Digits first: a double does not hold every 64-bit number.
                self.fit(text.parse().ok().or_else(|| decimal(text).and_then(whole)))
            }
        }
        from.deserialize_any(Whole(PhantomData))
    }
}

/// A double without a fraction, within what 64-bit numbers hold.
#[allow(clippy::cast_possible_truncation, reason = "it has no fraction and is within i128's bounds")]
fn whole(value: f64) -> Option<Wide> {
    (value.fract() == 0.0 && value.abs() < 2f64.powi(64)).then_some(value as Wide)
}

/// A number as JSON writes it, not what Rust calls one besides (`inf`, `nan`, `.5`).
fn decimal(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    (plain && digits.starts_with(|c: char| c.is_ascii_digit())).then(|| text.parse().ok())?
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Double;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one as text, NaN, Infinity or -Infinity")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Double, E> {
                Ok(Double(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Double, E> {
                let value = match text {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    text => decimal(text),
                };
                value.map(Double).ok_or_else(|| E::invalid_value(Unexpected::Other("another text"), &self))
            }
        }
        from.deserialize_any(Number)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut text = Key::deserialize(from)?.0.into_owned().into_bytes();
        for byte in &mut text {
            // The URL-safe alphabet (RFC 4648, section 5).
            *byte = match *byte {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            };
        }
        base64::decode(&text).map(Self).ok_or_else(|| de::Error::custom("expected base64"))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Key::deserialize(from)?;
        hex(text.0.as_bytes()).map(Self).ok_or_else(|| de::Error::custom("expected hex digits"))
    }
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}
