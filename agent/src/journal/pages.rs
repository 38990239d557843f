//! A small cache over `pread`: an entry of a journal is two dozen objects all over its file, most of which are shared with
//! the entries before.

use std::io;

use crate::logs::fs::LogFile;

/// Bytes of a page.
const PAGE: usize = 8 << 10;
/// Pages that are kept.
const SLOTS: usize = 128;
/// Longer reads go past the cache.
const LARGE: usize = 2 * PAGE;

/// Names an open journal within this process; never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub u32);

/// Pages of all open journals; one megabyte.
pub struct Pages {
    slots: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    of: Option<(JournalId, u64)>,
    bytes: Vec<u8>,
}

impl Default for Pages {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); SLOTS] }
    }
}

impl Pages {
    /// Drops what is kept of a file: more may be written in it by now.
    pub fn forget(&mut self, id: JournalId) {
        for slot in &mut self.slots {
            if slot.of.is_some_and(|(of, _)| of == id) {
                slot.of = None;
            }
        }
    }

    /// Fills `out` from `offset`; fewer bytes only at the file's end.
    ///
    /// # Errors
    /// What `pread` says.
    pub fn read<F: LogFile>(
        &mut self,
        id: JournalId,
        file: &F,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<usize> {
        if out.len() > LARGE {
            return file.read_at(out, offset);
        }
        let mut filled = 0;
        while filled < out.len() {
            let at = offset + filled as u64;
            let page = self.page(id, file, at / PAGE as u64)?;
            let within = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let rest = page.get(within..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let take = rest.len().min(out.len() - filled);
            out[filled..filled + take].copy_from_slice(&rest[..take]);
            filled += take;
        }
        Ok(filled)
    }

    fn page<F: LogFile>(&mut self, id: JournalId, file: &F, number: u64) -> io::Result<&[u8]> {
        let mixed = number.wrapping_add(u64::from(id.0).wrapping_mul(37));
        let slot = &mut self.slots[usize::try_from(mixed % SLOTS as u64).unwrap_or(0)];
        if slot.of != Some((id, number)) {
            slot.of = None;
            slot.bytes.resize(PAGE, 0);
            let read = file.read_at(&mut slot.bytes, number * PAGE as u64)?;
            slot.bytes.truncate(read);
            slot.of = Some((id, number));
        }
        Ok(&slot.bytes)
    }
}
