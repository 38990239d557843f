//! The beginning of an LZ4 block (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>): journals of a systemd before 246
//! have their large fields in such blocks. The usual crates decode a block whole or not at all; of a field of any length only
//! its first bytes are wanted here.

/// Decodes until `out` has `limit` bytes, or the block or what was read of it ends; false = it is damaged, and `out` has what
/// came before.
pub fn decode(block: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    let mut rest = block;
    while let Some((&token, after)) = rest.split_first() {
        rest = after;
        let literals = length(usize::from(token >> 4), &mut rest);
        let take = literals.min(rest.len()).min(limit - out.len());
        out.extend_from_slice(&rest[..take]);
        if out.len() >= limit || literals >= rest.len() {
            // A block ends with literals.
            return out.len() >= limit || literals == rest.len();
        }
        rest = &rest[literals..];
        let Some((offset, after)) = rest.split_first_chunk::<2>() else { return false };
        rest = after;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let matched = length(usize::from(token & 15), &mut rest) + 4;
        let Some(from) = out.len().checked_sub(offset).filter(|_| offset > 0) else { return false };
        for at in from..from + matched.min(limit - out.len()) {
            // What is copied may be what this copy has just written.
            let Some(&byte) = out.get(at) else { return false };
            out.push(byte);
        }
        if out.len() >= limit {
            return true;
        }
    }
    false
}

/// Four bits of a token, and as many bytes behind it as say "more".
fn length(nibble: usize, rest: &mut &[u8]) -> usize {
    let mut sum = nibble;
    if nibble == 15 {
        while let Some((&byte, after)) = rest.split_first() {
            *rest = after;
            sum = sum.saturating_add(usize::from(byte));
            if byte != 255 {
                break;
            }
        }
    }
    // So that sums of lengths never overflow; no block is longer (the format's LZ4_MAX_INPUT_SIZE is 0x7E000000).
    sum.min(1 << 31)
}
