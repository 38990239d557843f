//! The bytes of a journal file, as <https://systemd.io/JOURNAL_FILE_FORMAT/> and systemd's `journal-def.h` have them.
//! Parsers over bytes: nothing here reads a file. All numbers are little-endian, all objects begin at multiples of 8.

/// Bytes of the oldest header (systemd 187); later ones add fields behind it.
pub const HEADER_MIN: usize = 208;
/// Bytes of an object's header.
pub const OBJECT_HEADER: usize = 16;
/// Bytes of an entry before its items.
pub const ENTRY_HEAD: usize = 64;
/// Bytes of an array of entries before its items.
pub const ARRAY_HEAD: usize = 24;

const SIGNATURE: &[u8; 8] = b"LPKSHHRH";

/// `ObjectType`.
pub const DATA: u8 = 1;
/// `ObjectType`.
pub const ENTRY: u8 = 3;
/// `ObjectType`.
pub const ENTRY_ARRAY: u8 = 6;

const FLAG_XZ: u32 = 1;
const FLAG_LZ4: u32 = 2;
const FLAG_KEYED_HASH: u32 = 4;
const FLAG_ZSTD: u32 = 8;
const FLAG_COMPACT: u32 = 16;
const KNOWN_FLAGS: u32 = FLAG_XZ | FLAG_LZ4 | FLAG_KEYED_HASH | FLAG_ZSTD | FLAG_COMPACT;

/// Why bytes are not a journal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Too short, or another file.
    #[error("it is not a journal")]
    NotAJournal,
    /// Written by a systemd that is newer than this reader.
    #[error("it has incompatible flags {0:#x} that are not known here")]
    Flags(u32),
    /// A header that contradicts itself.
    #[error("its header is damaged")]
    Header,
}

/// What of the header is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Items of entries and arrays have 4 bytes instead of 16 and 8.
    pub compact: bool,
    /// Nothing is written to it any more.
    pub archived: bool,
    /// The file's name, whatever it is called.
    pub file_id: [u8; 16],
    /// Whose sequence numbers they are.
    pub seqnum_id: [u8; 16],
    /// One past the last byte that may be used.
    pub end: u64,
    /// Entries that are whole.
    pub n_entries: u64,
    /// Sequence number of the last entry; 0 = none.
    pub tail_seqnum: u64,
    /// Sequence number of the first entry; 0 = none.
    pub head_seqnum: u64,
    /// First array of entries; 0 = none.
    pub array: u64,
    /// Time of the first entry, microseconds since the epoch; 0 = none.
    pub head_realtime: u64,
    /// Time of the last entry.
    pub tail_realtime: u64,
}

/// An object's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// One of the constants above, or another.
    pub kind: u8,
    /// How a data object's payload is compressed.
    pub compression: Compression,
    /// Bytes, this header included.
    pub size: u64,
}

/// Compression of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// It is as it is.
    None,
    /// An XZ stream.
    Xz,
    /// Eight bytes of length, and an LZ4 block.
    Lz4,
    /// A zstd frame.
    Zstd,
    /// A flag that is not known here.
    Unknown,
}

/// An entry without its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// Grows within a file.
    pub seqnum: u64,
    /// Microseconds since the epoch.
    pub realtime: u64,
    /// Microseconds since the boot.
    pub monotonic: u64,
    /// Which boot.
    pub boot_id: [u8; 16],
    /// Of the hashes of its fields.
    pub xor_hash: u64,
}

impl Header {
    /// Reads the first bytes of a file of `size` bytes.
    ///
    /// # Errors
    /// It is no journal, or none that can be read here.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self, FormatError> {
        if bytes.len() < HEADER_MIN || bytes.first_chunk() != Some(SIGNATURE) {
            return Err(FormatError::NotAJournal);
        }
        let flags = u32_at(bytes, 12);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(FormatError::Flags(flags & !KNOWN_FLAGS));
        }
        let header_size = u64_at(bytes, 88);
        let end = header_size.checked_add(u64_at(bytes, 96)).ok_or(FormatError::Header)?;
        if header_size < HEADER_MIN as u64 || header_size > size {
            return Err(FormatError::Header);
        }
        Ok(Self {
            compact: flags & FLAG_COMPACT != 0,
            archived: bytes.get(16) == Some(&2),
            file_id: id_at(bytes, 24),
            seqnum_id: id_at(bytes, 72),
            end: end.min(size),
            n_entries: u64_at(bytes, 152),
            tail_seqnum: u64_at(bytes, 160),
            head_seqnum: u64_at(bytes, 168),
            array: u64_at(bytes, 176),
            head_realtime: u64_at(bytes, 184),
            tail_realtime: u64_at(bytes, 192),
        })
    }

    /// Bytes of an item in an array of entries.
    pub fn array_item(&self) -> u64 {
        if self.compact { 4 } else { 8 }
    }

    /// Bytes of an item in an entry.
    pub fn entry_item(&self) -> u64 {
        if self.compact { 4 } else { 16 }
    }

    /// Bytes of a data object before its payload.
    pub fn data_head(&self) -> u64 {
        if self.compact { 72 } else { 64 }
    }

    /// The offset at `at` in an array's or entry's items.
    pub fn offset_at(&self, bytes: &[u8], at: usize) -> u64 {
        if self.compact { u64::from(u32_at(bytes, at)) } else { u64_at(bytes, at) }
    }
}

impl Object {
    /// Reads [`OBJECT_HEADER`] bytes.
    pub fn parse(bytes: &[u8]) -> Self {
        let compression = match bytes.get(1).copied().unwrap_or_default() & 7 {
            0 => Compression::None,
            1 => Compression::Xz,
            2 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => Compression::Unknown,
        };
        Self { kind: bytes.first().copied().unwrap_or_default(), compression, size: u64_at(bytes, 8) }
    }
}

impl Entry {
    /// Reads [`ENTRY_HEAD`] bytes, the object's header included.
    pub fn parse(bytes: &[u8]) -> Self {
        Self {
            seqnum: u64_at(bytes, 16),
            realtime: u64_at(bytes, 24),
            monotonic: u64_at(bytes, 32),
            boot_id: id_at(bytes, 40),
            xor_hash: u64_at(bytes, 56),
        }
    }
}

/// Eight bytes as a number; 0 beyond the end.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |found| u64::from_le_bytes(*found))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |found| u32::from_le_bytes(*found))
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}
