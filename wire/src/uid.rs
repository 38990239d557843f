//! `log.record.uid`: the name of a record that any resend, restart, rename or compression leaves as it is.
//!
//! 32 lower-case hex digits: 20 of [`FileHash`], then 12 of the record's start offset in the uncompressed
//! file, 48 bits big-endian. Contract section 4 fixes the form; stores hold these names, so the formula of what they hold
//! never changes.

use sha2::{Digest, Sha256};

/// Length of a uid in hex digits.
pub const UID_HEX: usize = 32;

/// How many of them are the record's offset.
pub const OFFSET_HEX: usize = 12;

/// Most bytes of a file's first entry that are hashed.
pub const FIRST_ENTRY_BYTES: usize = 1024;

/// Bytes of the end of Docker's first entry that are hashed too where it is longer: the stamp and the key before it take about forty.
pub const DOCKER_END_BYTES: usize = 64;

/// Offsets are kept in 48 bits (256 TiB).
pub const OFFSET_MASK: u64 = (1 << 48) - 1;

/// Names the contents of one log file: the first ten bytes of
/// `SHA-256(pod_uid ‖ 0x00 ‖ container ‖ 0x00 ‖ restart in decimal ‖ 0x00 ‖ first entry)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHash(pub [u8; 10]);

impl FileHash {
    /// `pod_uid` is the last `_` part of the pod directory's name, `head` the beginning of the file, of which
    /// the first entry ([`first_entry`]) is hashed; a file that ends before its first newline is hashed as it
    /// is.
    #[must_use]
    pub fn new(pod_uid: &str, container: &str, restart: u32, head: &[u8]) -> Self {
        Self::of_named(pod_uid, container, restart, first_entry(head).unwrap_or(head))
    }

    /// The same over all of `named`: the bytes that name a file. Of an entry of Docker's that is longer than [`FIRST_ENTRY_BYTES`]
    /// these are as many and the last [`DOCKER_END_BYTES`] before its newline, because its stamp is at its end.
    #[must_use]
    pub fn of_named(pod_uid: &str, container: &str, restart: u32, named: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [pod_uid, container, &restart.to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(named);
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0; 10];
        first.copy_from_slice(&digest[..10]);
        Self(first)
    }

    /// The name of something that is not a container's log: the first ten bytes of `SHA-256(kind ‖ 0x00 ‖ bytes)`. No pod's
    /// uid is a `kind`.
    #[must_use]
    pub fn of_bytes(kind: &str, bytes: &[u8]) -> Self {
        let digest: [u8; 32] =
            Sha256::new().chain_update(kind).chain_update([0]).chain_update(bytes).finalize().into();
        let mut first = [0; 10];
        first.copy_from_slice(&digest[..10]);
        Self(first)
    }

    /// 20 lower-case hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().flat_map(|&b| HEX[usize::from(b)]).map(char::from).collect()
    }
}

/// The file's first entry: its first bytes up to but without the first newline, at most
/// [`FIRST_ENTRY_BYTES`]. `None` while `head` is shorter than that and has no newline: bytes may yet be
/// appended, and the hash would change.
#[must_use]
pub fn first_entry(head: &[u8]) -> Option<&[u8]> {
    let most = head.get(..FIRST_ENTRY_BYTES);
    let searched = most.unwrap_or(head);
    memchr::memchr(b'\n', searched).map(|end| &searched[..end]).or(most)
}

/// Names one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordUid {
    /// The file.
    pub file: FileHash,
    /// Where the record starts in the uncompressed file, bytes. The low 48 bits are kept.
    pub offset: u64,
}

impl RecordUid {
    /// Writes the 32 hex digits.
    #[inline]
    pub fn write_hex(&self, out: &mut [u8; UID_HEX]) {
        let [_, _, offset @ ..] = self.offset.to_be_bytes();
        let (pairs, _) = out.as_chunks_mut::<2>();
        for (pair, &byte) in pairs.iter_mut().zip(self.file.0.iter().chain(&offset)) {
            *pair = HEX[usize::from(byte)];
        }
    }

    /// The last 12 of the hex digits, those of the offset.
    #[inline]
    #[must_use]
    pub fn offset_hex(&self) -> [u8; OFFSET_HEX] {
        let mut out = [0; OFFSET_HEX];
        let (first, low) = out.split_at_mut(4);
        let [_, _, a, b, ..] = self.offset.to_be_bytes();
        first[..2].copy_from_slice(&HEX[usize::from(a)]);
        first[2..].copy_from_slice(&HEX[usize::from(b)]);
        low.copy_from_slice(&eight_digits(self.offset & 0xffff_ffff));
        out
    }

    /// The 32 hex digits as ASCII.
    #[inline]
    #[must_use]
    pub fn hex(&self) -> [u8; UID_HEX] {
        let mut out = [0; UID_HEX];
        self.write_hex(&mut out);
        out
    }

    /// Reads exactly 32 lower-case hex digits; `None` for anything else, which is another sender's uid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; UID_HEX] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0u8; UID_HEX / 2];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        let (file, offset) = bytes.split_first_chunk::<10>()?;
        let offset = offset.iter().fold(0, |sum, &b| sum << 8 | u64::from(b));
        Some(Self { file: FileHash(*file), offset })
    }
}

impl std::fmt::Display for RecordUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

/// The hex digits of 32 bits, all at once: each nibble is moved into a byte of its own, then made a digit or a letter.
#[inline]
const fn eight_digits(bits: u64) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    let bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (bits | bits << 4) & (ONES * 0x0f);
    // 6 more than a nibble above 9 reaches the fifth bit.
    let letters = (nibbles + ONES * 6) >> 4 & ONES;
    (nibbles + ONES * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The two digits of each byte.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = [DIGITS[i >> 4], DIGITS[i & 15]];
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests;
