//! Attributes added to the resources of a request that somebody else made, without decoding it.
//!
//! A request of logs, of metrics or of traces is a list of messages in field 1, each with a `Resource` in field 1, whose
//! attributes are field 1 (`opentelemetry/proto/collector/*/v1/*_service.proto`, `resource/v1/resource.proto`). What is
//! added is written behind all else in that one message, and its length and its parent's are written anew;
//! every other byte, fields that nobody knows among them, is copied as it is.
//!
//! - An attribute that is there is never touched, and none of the same key is added.
//! - A message without a resource gets one. Where it is there twice, which protobuf reads as one, both are looked at and
//!   the last gets the attributes.
//! - Nothing deeper is read: what is wrong there is its receiver's to refuse.
//! - Takes no memory but the result, whose length can be had before ([`enriched_len`]), and a byte for each attribute
//!   that may be added.

use crate::attrs::AttrSet;
use crate::proto::{
    LEN, ProtoError, Reader, Value, bytes_field_len, key, put_varint, raw_fields, varint_len,
};

/// `ResourceLogs`, `ResourceMetrics` or `ResourceSpans` in a request.
const GROUPS: u32 = 1;
/// `Resource` in each of those, and `attributes` in it.
const RESOURCE: u32 = 1;
const ATTRIBUTES: u32 = 1;
/// The key of those three fields.
const KEY: u8 = key(1, LEN);

/// Why a request cannot be given attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrichError {
    /// Not protobuf, as far as it was read.
    #[error("the request is malformed: {0}")]
    Proto(#[from] ProtoError),
    /// It becomes too large.
    #[error("with the attributes of its sender the request is larger than {0} bytes")]
    TooLarge(usize),
}

/// What a resource says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The message that has the resource.
    group: &'a [u8],
}

impl<'a> Said<'a> {
    /// The text of the attribute `name`; none if it is not there, or is no text. Of several the first.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let mut pairs = raw_fields(self.group)
            .filter_map(|field| len_of(field, RESOURCE))
            .flat_map(|resource| raw_fields(resource).filter_map(|field| len_of(field, ATTRIBUTES)));
        let pair = pairs.find(|pair| key_of(pair) == Ok(name.as_bytes()))?;
        let value = raw_fields(pair).filter_map(|field| len_of(field, 2)).last()?;
        std::str::from_utf8(raw_fields(value).filter_map(|field| len_of(field, 1)).last()?).ok()
    }
}

fn len_of<'a>((number, value, _): (u32, Value<'a>, &'a [u8]), wanted: u32) -> Option<&'a [u8]> {
    match value {
        Value::Len(bytes) if number == wanted => Some(bytes),
        _ => None,
    }
}

/// The key of a `KeyValue`; empty if it has none.
fn key_of(pair: &[u8]) -> Result<&[u8], ProtoError> {
    let mut found = &[][..];
    let mut reader = Reader::new(pair);
    while let Some(field) = reader.field()? {
        if let (1, Value::Len(bytes)) = field {
            found = bytes;
        }
    }
    Ok(found)
}

/// How long `request` is with the attributes that `choose` gives to each of its resources.
///
/// # Errors
/// Longer than `limit`, or malformed.
pub fn enriched_len(
    request: &[u8],
    limit: usize,
    choose: impl FnMut(Said<'_>) -> AttrSet,
) -> Result<usize, EnrichError> {
    let mut count = Count { len: 0, limit };
    walk(request, choose, &mut count)?;
    Ok(count.len)
}

/// Appends `request` to `out`, with the attributes that `choose` gives to each of its resources. The same `choose` makes it
/// as long as [`enriched_len`] said.
///
/// # Errors
/// It is malformed; `out` has a part of it then.
pub fn enrich(
    request: &[u8],
    choose: impl FnMut(Said<'_>) -> AttrSet,
    out: &mut Vec<u8>,
) -> Result<(), EnrichError> {
    walk(request, choose, out)
}

/// Where a request is written.
trait Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EnrichError>;
    /// Key and length of a field 1.
    fn head(&mut self, len: usize) -> Result<(), EnrichError>;
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EnrichError> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn head(&mut self, len: usize) -> Result<(), EnrichError> {
        self.push(KEY);
        put_varint(self, len as u64);
        Ok(())
    }
}

/// Only counts.
struct Count {
    len: usize,
    limit: usize,
}

impl Count {
    fn add(&mut self, len: usize) -> Result<(), EnrichError> {
        self.len = self.len.saturating_add(len);
        if self.len > self.limit { Err(EnrichError::TooLarge(self.limit)) } else { Ok(()) }
    }
}

impl Out for Count {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EnrichError> {
        self.add(bytes.len())
    }

    fn head(&mut self, len: usize) -> Result<(), EnrichError> {
        self.add(1 + varint_len(len as u64))
    }
}

fn walk(
    request: &[u8],
    mut choose: impl FnMut(Said<'_>) -> AttrSet,
    out: &mut impl Out,
) -> Result<(), EnrichError> {
    let mut there = Vec::new();
    let mut reader = Reader::new(request);
    let mut at = 0;
    while let Some((number, value)) = reader.field()? {
        let end = request.len() - reader.remaining();
        let raw = request.get(at..end).unwrap_or_default();
        at = end;
        match value {
            Value::Len(group) if number == GROUPS => {
                let place = Place::of(group)?;
                let ours = choose(Said { group });
                put_group(raw, group, &place, &ours, &mut there, out)?;
            }
            _ => out.put(raw)?,
        }
    }
    Ok(())
}

/// Where the last `Resource` stands in its parent.
#[derive(Default)]
struct Place<'a> {
    /// Before its key.
    start: usize,
    /// Behind its last byte.
    end: usize,
    contents: &'a [u8],
}

impl<'a> Place<'a> {
    /// At the beginning and empty where there is none.
    fn of(group: &'a [u8]) -> Result<Self, ProtoError> {
        let mut place = Self::default();
        let mut reader = Reader::new(group);
        let mut start = 0;
        while let Some(field) = reader.field()? {
            let end = group.len() - reader.remaining();
            if let (RESOURCE, Value::Len(contents)) = field {
                place = Self { start, end, contents };
            }
            start = end;
        }
        Ok(place)
    }
}

fn put_group(
    raw: &[u8],
    group: &[u8],
    place: &Place<'_>,
    ours: &AttrSet,
    there: &mut Vec<bool>,
    out: &mut impl Out,
) -> Result<(), EnrichError> {
    mark(group, ours, there)?;
    let missing = || raw_fields(ours.bytes()).zip(there.iter()).filter(|(_, there)| !**there);
    let more: usize = missing().map(|((_, _, raw), _)| raw.len()).sum();
    if more == 0 {
        return out.put(raw);
    }
    let resource = place.contents.len() + more;
    out.head(group.len() - (place.end - place.start) + bytes_field_len(resource))?;
    out.put(group.get(..place.start).unwrap_or_default())?;
    out.head(resource)?;
    out.put(place.contents)?;
    for ((_, _, raw), _) in missing() {
        out.put(raw)?;
    }
    out.put(group.get(place.end..).unwrap_or_default())
}

/// Notes which of `ours` are there already.
fn mark(group: &[u8], ours: &AttrSet, there: &mut Vec<bool>) -> Result<(), ProtoError> {
    there.clear();
    there.extend(raw_fields(ours.bytes()).map(|_| false));
    let mut reader = Reader::new(group);
    while let Some(field) = reader.field()? {
        let (RESOURCE, Value::Len(resource)) = field else { continue };
        let mut reader = Reader::new(resource);
        while let Some(field) = reader.field()? {
            let (ATTRIBUTES, Value::Len(pair)) = field else { continue };
            let name = key_of(pair)?;
            for (own, there) in raw_fields(ours.bytes()).zip(there.iter_mut()) {
                *there |= len_of(own, ATTRIBUTES).is_some_and(|own| key_of(own) == Ok(name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
