//! One stored record as bytes: the same form in memory and, compressed, in a block.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | time, Unix nanoseconds, little-endian (as all numbers here) |
//! | 8 | time at which it was observed, 0 = unknown |
//! | 16 | uid: 10 bytes of file hash, 6 bytes of offset (big-endian, so that bytes sort as numbers) |
//! | 1 | flags: bit 0 has a uid; bits 1–2 stream; bits 3–4 kind of body |
//! | 1 | severity number, 0 = none |
//! | 4 + 4 | length of the body, length of the attributes |
//! | … | the body; the attributes as the members of a JSON object, without its braces |

/// Bytes before the body.
pub const HEADER_BYTES: usize = 42;

/// Where a container wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Not said, or neither of the two.
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a body was when it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There was none.
    None,
    /// A string, as it was.
    Text,
    /// Any other value, as JSON text.
    Json,
}

/// A record, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Unix nanoseconds; what it is ordered and filtered by.
    pub time: u64,
    /// When it was observed, Unix nanoseconds, 0 = unknown.
    pub observed: u64,
    /// File hash and offset; zeros where the record has no uid.
    pub uid: [u8; 16],
    /// Whether `uid` means something.
    pub has_uid: bool,
    /// Where the container wrote it.
    pub stream: Stream,
    /// What `body` was.
    pub kind: BodyKind,
    /// OTLP severity number, 0 = none.
    pub severity: u8,
    /// UTF-8.
    pub body: &'a [u8],
    /// Members of a JSON object, without braces; UTF-8.
    pub attributes: &'a [u8],
}

impl<'a> Row<'a> {
    /// Appends the record's bytes. A part over 4 GiB cannot come here: requests are smaller.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.has_uid) | (self.stream as u8) << 1 | (self.kind as u8) << 3;
        let body = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        let attributes = u32::try_from(self.attributes.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.observed.to_le_bytes());
        out.extend_from_slice(&self.uid);
        out.push(flags);
        out.push(self.severity);
        out.extend_from_slice(&body.to_le_bytes());
        out.extend_from_slice(&attributes.to_le_bytes());
        out.extend_from_slice(&self.body[..body as usize]);
        out.extend_from_slice(&self.attributes[..attributes as usize]);
    }

    /// Reads the record at the start of `bytes`; gives it and its length. `None` where the bytes are no record.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let time = u64::from_le_bytes(head[..8].try_into().ok()?);
        let observed = u64::from_le_bytes(head[8..16].try_into().ok()?);
        let uid = head[16..32].try_into().ok()?;
        let flags = head[32];
        let body_len = u32::from_le_bytes(head[34..38].try_into().ok()?) as usize;
        let attributes_len = u32::from_le_bytes(head[38..42].try_into().ok()?) as usize;
        let (body, rest) = rest.split_at_checked(body_len)?;
        let (attributes, _) = rest.split_at_checked(attributes_len)?;
        let stream = match (flags >> 1) & 3 {
            0 => Stream::None,
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let kind = match (flags >> 3) & 3 {
            0 => BodyKind::None,
            1 => BodyKind::Text,
            2 => BodyKind::Json,
            _ => return None,
        };
        let (severity, has_uid) = (head[33], flags & 1 == 1);
        let row = Self { time, observed, uid, has_uid, stream, kind, severity, body, attributes };
        Some((row, row.size()))
    }

    /// Length of its bytes.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.body.len() + self.attributes.len()
    }

    /// What records are ordered by.
    pub fn key(&self) -> (u64, [u8; 16]) {
        (self.time, self.uid)
    }
}

/// Walks the records in `bytes`; ends early where they are damaged.
pub fn rows(bytes: &[u8]) -> impl Iterator<Item = (usize, Row<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (row, len) = Row::decode(bytes.get(at..)?)?;
        let start = at;
        at += len;
        Some((start, row))
    })
}

/// The start offset in its file that a uid names.
pub fn uid_offset(uid: &[u8; 16]) -> u64 {
    uid[10..].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// The file hash that a uid names.
pub fn uid_file(uid: &[u8; 16]) -> [u8; 10] {
    let mut file = [0; 10];
    file.copy_from_slice(&uid[..10]);
    file
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_reads_back_and_any_cut_of_it_is_refused(
            time: u64, observed: u64, uid: [u8; 16], has_uid: bool, severity: u8, body: Vec<u8>, attributes: Vec<u8>, cut: usize
        ) {
            let row = Row {
                time, observed, uid, has_uid, stream: Stream::Stderr, kind: BodyKind::Json, severity,
                body: &body, attributes: &attributes,
            };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            prop_assert_eq!(Row::decode(&bytes), Some((row, bytes.len())));
            prop_assert_eq!(Row::decode(&bytes[..cut % bytes.len()]), None);
        }

        #[test]
        fn any_bytes_are_walked_without_a_panic(bytes: Vec<u8>) {
            for (at, row) in rows(&bytes) {
                prop_assert!(at + HEADER_BYTES + row.body.len() <= bytes.len());
            }
        }
    }
}
