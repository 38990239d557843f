//! A block: records of one origin and one file, in (time, uid) order, compressed together.
//!
//! On disk, little-endian: magic `SBK1`, CRC-32 of all that follows, length of the compressed part, length of it
//! unpacked, length of the origin in it, number of records (4 bytes each), then one zstd frame with the origin and
//! the rows ([`super::row`]).

use super::origin::Origin;
use super::row;

/// Bytes of rows after which a block is cut; one record alone may be larger.
pub const ROWS_BYTES: usize = 128 << 10;
/// Unpacked size above which a block is taken for damaged: the largest request that can be configured is smaller.
const UNPACKED_MAX: usize = 1 << 30;
/// What a block begins with.
pub const MAGIC: [u8; 4] = *b"SBK1";
/// Bytes before the compressed part.
pub const HEADER_BYTES: usize = 24;
/// Log text: level 1 is about twice as fast as 3 and a tenth larger.
const LEVEL: i32 = 1;

/// A block, unpacked.
#[derive(Debug)]
pub struct Block {
    /// What its records have in common.
    pub origin: Origin,
    /// Its records, [`row::rows`].
    pub rows: Vec<u8>,
}

/// Why bytes are not a block.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Its header or checksum is wrong.
    #[error("the checksum does not match")]
    Checksum,
    /// The checksum is right and the content is not: written by something else.
    #[error("the content cannot be unpacked")]
    Content,
}

/// Packs blocks; keeps its compression context and buffers.
pub struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl Packer {
    /// A packer; fails where the compression context cannot be had.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(LEVEL)?, plain: Vec::new() })
    }

    /// Packs records, each given by its bytes, into `out`, which is cleared.
    pub fn pack<'a>(
        &mut self,
        origin: &Origin,
        records: impl IntoIterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        self.plain.clear();
        origin.encode(&mut self.plain);
        let origin_len = self.plain.len();
        let mut count = 0_usize;
        for record in records {
            self.plain.extend_from_slice(record);
            count += 1;
        }
        let body = self.zstd.compress(&self.plain)?;
        out.clear();
        out.resize(HEADER_BYTES, 0);
        out[..4].copy_from_slice(&MAGIC);
        for (field, value) in [(2, body.len()), (3, self.plain.len()), (4, origin_len), (5, count)] {
            let value = u32::try_from(value).map_err(std::io::Error::other)?;
            out[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&body);
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        // One huge record must not keep its size in the buffer for ever.
        self.plain.shrink_to(2 * ROWS_BYTES);
        Ok(())
    }
}

/// Length of the block that begins with these bytes, by its header; `None` where none does.
pub fn length(head: &[u8]) -> Option<u64> {
    let head = head.get(..HEADER_BYTES)?;
    (head[..4] == MAGIC).then(|| (HEADER_BYTES + field(head, 2)) as u64)
}

/// One of the header's numbers.
fn field(head: &[u8], n: usize) -> usize {
    head[n * 4..n * 4 + 4].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
}

/// Unpacks a block.
pub fn unpack(bytes: &[u8]) -> Result<Block, BlockError> {
    let (head, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(BlockError::Checksum)?;
    let checks = crc32fast::hash(&bytes[8..]) as usize == field(head, 1) && body.len() == field(head, 2);
    if head[..4] != MAGIC || !checks {
        return Err(BlockError::Checksum);
    }
    let (plain_len, origin_len) = (field(head, 3), field(head, 4));
    // Before memory is taken for it: the frame must say the same.
    let frame_len = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
    if plain_len > UNPACKED_MAX || frame_len != Some(plain_len as u64) {
        return Err(BlockError::Content);
    }
    let mut plain = zstd::bulk::decompress(body, plain_len).map_err(|_| BlockError::Content)?;
    if plain.len() != plain_len || origin_len > plain_len {
        return Err(BlockError::Content);
    }
    let origin = Origin::decode(&plain[..origin_len]).ok_or(BlockError::Content)?;
    plain.drain(..origin_len);
    Ok(Block { origin, rows: plain })
}

/// The start offsets of a block's records in their file, sorted.
pub fn offsets(block: &Block) -> Vec<u64> {
    let mut offsets: Vec<u64> = row::rows(&block.rows).map(|(_, row)| row::uid_offset(&row.uid)).collect();
    offsets.sort_unstable();
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reads_back_and_any_changed_byte_is_seen() {
        let origin =
            Origin { names: [None, Some("n".into()), None, None, None], attributes: "\"a\":1".into() };
        let mut out = Vec::new();
        Packer::new().unwrap().pack(&origin, [&b"one"[..], b"two"], &mut out).unwrap();
        let block = unpack(&out).unwrap();
        assert_eq!((block.origin, block.rows.as_slice()), (origin, &b"onetwo"[..]));
        for at in 0..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 0x40;
            assert!(unpack(&damaged).is_err(), "{at}");
            assert!(unpack(&out[..at]).is_err(), "{at}");
        }
    }
}
