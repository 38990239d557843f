//! One journal: its entries in their order, and the fields of an entry.
//!
//! Whatever the bytes are: no read beyond the end of what the header and the file's size allow; no step back, for arrays and
//! entries lie behind each other in the order in which they were written, and what does not is passed over; each call of
//! [`Journal::next`] looks at one item, so that a caller bounds its work; and of a field no more is taken or decompressed than
//! is asked for.

use std::io;

use super::format::{
    ARRAY_HEAD, Compression, DATA, ENTRY, ENTRY_ARRAY, ENTRY_HEAD, Entry, FormatError, HEADER_MIN, Header,
    OBJECT_HEADER, Object, u64_at,
};
use super::lz4;
use super::pages::{JournalId, Pages};
use crate::logs::fs::LogFile;

/// Fields of an entry that are looked at; journald itself takes no more (`ENTRY_FIELD_COUNT_MAX`).
const MOST_FIELDS: u64 = 1024;
/// Longest name of a field (`journal_field_valid`).
const NAME: usize = 64;
/// Of compressed bytes, what is read beyond what is wanted of them: a zstd block is decoded whole.
const AHEAD: usize = 256 << 10;
/// Longest field, uncompressed (`DATA_SIZE_MAX`).
const LONGEST: u64 = 768 << 20;
/// Largest window of a zstd frame, as a power of two: journald's level has 2 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// What lies at the place to which the reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An entry, and its offset.
    Entry(Entry, u64),
    /// Something that is not an entry; the next call goes on behind it.
    Damaged,
    /// No more entries, for now.
    End,
}

/// What an entry's fields are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Uncompressed bytes of all fields with their names, but for those that cannot be read.
    pub bytes: u64,
    /// Fields that cannot be read.
    pub unreadable: u32,
}

/// Room that is used again for each field.
#[derive(Debug, Default)]
pub struct Scratch {
    packed: Vec<u8>,
    plain: Vec<u8>,
}

/// An open journal and a place in it.
pub struct Journal<F> {
    id: JournalId,
    file: F,
    header: Header,
    /// The array in which the next item lies; 0 = the first one.
    array: u64,
    capacity: u64,
    /// The next item of the array.
    index: u64,
    /// Items of the arrays before.
    before: u64,
    last_offset: u64,
    last_seqnum: u64,
}

impl<F: LogFile> Journal<F> {
    /// Reads the header.
    ///
    /// # Errors
    /// It cannot be read, or is no journal.
    pub fn open(id: JournalId, file: F) -> Result<Self, JournalError> {
        let header = read_header(&file)?;
        Ok(Self {
            id,
            file,
            header,
            array: 0,
            capacity: 0,
            index: 0,
            before: 0,
            last_offset: 0,
            last_seqnum: 0,
        })
    }

    /// As it was at the last look.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The open file.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// Items behind the place to which the reading has come, as the header has them.
    pub fn unread(&self) -> u64 {
        self.header.n_entries.saturating_sub(self.before + self.index)
    }

    /// Items before it.
    pub fn passed(&self) -> u64 {
        self.before + self.index
    }

    /// Looks whether there is more; whether something is other than before.
    ///
    /// # Errors
    /// The header cannot be read any more.
    pub fn refresh(&mut self, pages: &mut Pages) -> Result<bool, JournalError> {
        let header = read_header(&self.file)?;
        let is_new = header != self.header;
        if is_new {
            self.header = header;
            pages.forget(self.id);
        }
        Ok(is_new)
    }

    /// Back to the first entry.
    pub fn rewind(&mut self) {
        (self.array, self.capacity, self.index, self.before) = (0, 0, 0, 0);
        (self.last_offset, self.last_seqnum) = (0, 0);
    }

    /// Goes on to about the first entry that is not `before`, which must hold for the first entries and for no others: never
    /// behind it.
    ///
    /// # Errors
    /// The disk's.
    pub fn seek(&mut self, pages: &mut Pages, before: impl Fn(&Entry) -> bool) -> io::Result<()> {
        loop {
            if !self.enter_array(pages)? {
                return Ok(());
            }
            let there = self.capacity.min(self.header.n_entries.saturating_sub(self.before));
            if there > 0 && self.is_before(pages, there - 1, &before)? && there == self.capacity {
                self.index = self.capacity;
                if !self.next_array(pages)? {
                    return Ok(());
                }
                continue;
            }
            let (mut low, mut high) = (0, there);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.is_before(pages, middle, &before)? {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            self.index = low;
            return Ok(());
        }
    }

    /// The next entry. Its sequence number and offset are above those of all before.
    ///
    /// # Errors
    /// The disk's; the next call tries the same item.
    pub fn next(&mut self, pages: &mut Pages) -> io::Result<Next> {
        if self.unread() == 0 || !self.enter_array(pages)? {
            return Ok(Next::End);
        }
        if self.index >= self.capacity && !self.next_array(pages)? {
            return Ok(Next::End);
        }
        let found = self.entry_at(pages, self.index)?;
        self.index += 1;
        let Some((entry, offset)) = found else { return Ok(Next::Damaged) };
        if offset <= self.last_offset
            || entry.seqnum <= self.last_seqnum
            || entry.seqnum > self.header.tail_seqnum
            || self.is_jump(pages, &entry)?
        {
            return Ok(Next::Damaged);
        }
        (self.last_offset, self.last_seqnum) = (offset, entry.seqnum);
        Ok(Next::Entry(entry, offset))
    }

    /// Gives up the item at the place to which the reading has come, which the disk does not give, or all that is left if it
    /// does not say where the next one is; gives how many.
    pub fn pass_over(&mut self) -> u64 {
        let left = self.unread();
        let given_up = if self.array != 0 && self.index < self.capacity { left.min(1) } else { left };
        self.index += given_up;
        given_up
    }

    /// The sequence number of the entry at the place to which the reading has come; none = there is none that can be read.
    ///
    /// # Errors
    /// The disk's.
    pub fn peek(&mut self, pages: &mut Pages) -> io::Result<Option<u64>> {
        if self.unread() == 0 || !self.enter_array(pages)? || self.index >= self.capacity {
            return Ok(None);
        }
        Ok(self.entry_at(pages, self.index)?.map(|(entry, _)| entry.seqnum))
    }

    /// Whether an entry's number leaps over that of the entry behind it, which would then be passed over with all up to there.
    fn is_jump(&self, pages: &mut Pages, entry: &Entry) -> io::Result<bool> {
        let is_last = self.index >= self.capacity || self.unread() == 0;
        if entry.seqnum == self.last_seqnum.wrapping_add(1) || is_last {
            return Ok(false);
        }
        let behind = self.entry_at(pages, self.index)?;
        Ok(behind
            .is_some_and(|(behind, _)| behind.seqnum > self.last_seqnum && behind.seqnum <= entry.seqnum))
    }

    /// Gives name and value of each field that `wanted` gives a length for: so many bytes of the value at most, and how many
    /// it has. Of a name that is not wanted, nothing is read.
    ///
    /// # Errors
    /// The disk's.
    pub fn fields(
        &self,
        pages: &mut Pages,
        offset: u64,
        scratch: &mut Scratch,
        wanted: impl Fn(&[u8]) -> usize,
        mut give: impl FnMut(&[u8], &[u8], u64),
    ) -> io::Result<Sum> {
        let mut sum = Sum::default();
        let Some(entry) = self.object(pages, offset, ENTRY, ENTRY_HEAD as u64)? else { return Ok(sum) };
        let item = self.header.entry_item();
        let count = ((entry.size - ENTRY_HEAD as u64) / item).min(MOST_FIELDS);
        let mut items = [0u8; 64 * 16];
        let at_once = items.len() as u64 / item;
        let mut done = 0;
        while done < count {
            let now = (count - done).min(at_once);
            let len = usize::try_from(now * item).unwrap_or(0);
            if !self.fill(pages, offset + ENTRY_HEAD as u64 + done * item, &mut items[..len])? {
                sum.unreadable += 1;
                return Ok(sum);
            }
            for item in items[..len].chunks_exact(usize::try_from(item).unwrap_or(1)) {
                let data = self.header.offset_at(item, 0);
                match self.field(pages, data, scratch, &wanted, &mut give)? {
                    Some(bytes) => sum.bytes += bytes,
                    None => sum.unreadable += 1,
                }
            }
            done += now;
        }
        Ok(sum)
    }

    /// One field; gives its bytes, none if it cannot be read.
    fn field(
        &self,
        pages: &mut Pages,
        offset: u64,
        scratch: &mut Scratch,
        wanted: &impl Fn(&[u8]) -> usize,
        give: &mut impl FnMut(&[u8], &[u8], u64),
    ) -> io::Result<Option<u64>> {
        let head = self.header.data_head();
        let Some(object) = self.object(pages, offset, DATA, head)? else { return Ok(None) };
        let (start, stored) = (offset + head, object.size - head);
        if object.compression != Compression::None {
            return self.packed_field(pages, (start, stored), object.compression, scratch, wanted, give);
        }
        let mut name = [0u8; NAME + 1];
        let len = usize::try_from(stored).unwrap_or(usize::MAX).min(name.len());
        if !self.fill(pages, start, &mut name[..len])? {
            return Ok(None);
        }
        let Some(equals) = memchr::memchr(b'=', &name[..len]) else { return Ok(None) };
        let most = wanted(&name[..equals]);
        if most > 0 {
            let value = stored - equals as u64 - 1;
            let take = usize::try_from(value).unwrap_or(usize::MAX).min(most);
            scratch.plain.resize(take, 0);
            if !self.fill(pages, start + equals as u64 + 1, &mut scratch.plain)? {
                return Ok(None);
            }
            give(&name[..equals], &scratch.plain, value);
        }
        Ok(Some(stored))
    }

    fn packed_field(
        &self,
        pages: &mut Pages,
        (start, stored): (u64, u64),
        compression: Compression,
        scratch: &mut Scratch,
        wanted: &impl Fn(&[u8]) -> usize,
        give: &mut impl FnMut(&[u8], &[u8], u64),
    ) -> io::Result<Option<u64>> {
        // Its name is compressed too: first that, then as much as is wanted of it.
        let mut most = NAME + 1;
        loop {
            let take = usize::try_from(stored).unwrap_or(usize::MAX).min(most + most / 255 + AHEAD);
            scratch.packed.resize(take, 0);
            if !self.fill(pages, start, &mut scratch.packed)? {
                return Ok(None);
            }
            let Some(bytes) = unpack(&scratch.packed, compression, most, &mut scratch.plain) else {
                return Ok(None);
            };
            let Some(equals) = memchr::memchr(b'=', &scratch.plain[..scratch.plain.len().min(NAME + 1)])
            else {
                return Ok(None);
            };
            let bytes = bytes.unwrap_or(scratch.plain.len() as u64);
            if bytes > LONGEST {
                return Ok(None);
            }
            let wanted = wanted(&scratch.plain[..equals]);
            let whole = usize::try_from(bytes).unwrap_or(usize::MAX).min(equals + 1 + wanted);
            if wanted > 0 && scratch.plain.len() < whole && most == NAME + 1 {
                most = whole;
                continue;
            }
            if wanted > 0 {
                let (name, value) = scratch.plain.split_at(equals);
                let value = &value[1..];
                give(name, &value[..value.len().min(wanted)], bytes.saturating_sub(equals as u64 + 1));
            }
            return Ok(Some(bytes));
        }
    }

    /// Makes sure that there is a current array; false = there is none.
    fn enter_array(&mut self, pages: &mut Pages) -> io::Result<bool> {
        if self.array != 0 {
            return Ok(true);
        }
        self.go_to_array(pages, self.header.array)
    }

    /// The array behind the current one, which is to be passed whole.
    fn next_array(&mut self, pages: &mut Pages) -> io::Result<bool> {
        let mut next = [0u8; 8];
        if !self.fill(pages, self.array + OBJECT_HEADER as u64, &mut next)? {
            return Ok(false);
        }
        let next = u64_at(&next, 0);
        // They are made one behind the other: whatever else stands there is no way on.
        if next <= self.array {
            return Ok(false);
        }
        let passed = self.before + self.capacity;
        if !self.go_to_array(pages, next)? {
            return Ok(false);
        }
        self.before = passed;
        Ok(true)
    }

    fn go_to_array(&mut self, pages: &mut Pages, offset: u64) -> io::Result<bool> {
        let Some(object) = self.object(pages, offset, ENTRY_ARRAY, ARRAY_HEAD as u64)? else {
            return Ok(false);
        };
        self.capacity = (object.size - ARRAY_HEAD as u64) / self.header.array_item();
        (self.array, self.index) = (offset, 0);
        Ok(true)
    }

    fn is_before(&self, pages: &mut Pages, index: u64, before: &impl Fn(&Entry) -> bool) -> io::Result<bool> {
        Ok(self.entry_at(pages, index)?.is_some_and(|(entry, _)| before(&entry)))
    }

    /// The entry of an item of the current array.
    fn entry_at(&self, pages: &mut Pages, index: u64) -> io::Result<Option<(Entry, u64)>> {
        let len = self.header.array_item();
        let mut item = [0u8; 8];
        let item = &mut item[..usize::try_from(len).unwrap_or(8)];
        if !self.fill(pages, self.array + ARRAY_HEAD as u64 + index * len, item)? {
            return Ok(None);
        }
        let offset = self.header.offset_at(item, 0);
        if self.object(pages, offset, ENTRY, ENTRY_HEAD as u64)?.is_none() {
            return Ok(None);
        }
        let mut head = [0u8; ENTRY_HEAD];
        if !self.fill(pages, offset, &mut head)? {
            return Ok(None);
        }
        Ok(Some((Entry::parse(&head), offset)))
    }

    /// The header of an object of this kind that lies whole within the file.
    fn object(&self, pages: &mut Pages, offset: u64, kind: u8, least: u64) -> io::Result<Option<Object>> {
        let mut head = [0u8; OBJECT_HEADER];
        if offset < HEADER_MIN as u64 || !offset.is_multiple_of(8) || !self.fill(pages, offset, &mut head)? {
            return Ok(None);
        }
        let object = Object::parse(&head);
        let is_inside = offset.checked_add(object.size).is_some_and(|end| end <= self.header.end);
        Ok((object.kind == kind && object.size >= least && is_inside).then_some(object))
    }

    /// Reads all of `out`; false = it does not lie within the file.
    fn fill(&self, pages: &mut Pages, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.header.end) {
            return Ok(false);
        }
        Ok(pages.read(self.id, &self.file, offset, out)? == out.len())
    }
}

/// journald may be writing: entries are counted after their bytes and the space for these, so all else is read behind the count.
fn read_header<F: LogFile>(file: &F) -> Result<Header, JournalError> {
    let mut bytes = [0u8; 272];
    let read = file.read_at(&mut bytes, 0)?;
    let counted = Header::parse(&bytes[..read], u64::MAX)?;
    let read = file.read_at(&mut bytes, 0)?;
    let header = Header::parse(&bytes[..read], file.stat()?.size)?;
    Ok(Header { n_entries: counted.n_entries.min(header.n_entries), ..header })
}

/// Decompresses the first `most` bytes at least, if there are so many; gives the length of the whole where the bytes say it,
/// none if nothing can be had.
fn unpack(packed: &[u8], compression: Compression, most: usize, out: &mut Vec<u8>) -> Option<Option<u64>> {
    out.clear();
    match compression {
        Compression::Lz4 => {
            let (len, block) = packed.split_first_chunk::<8>()?;
            let len = u64::from_le_bytes(*len);
            let is_whole = lz4::decode(block, most.min(usize::try_from(len).unwrap_or(usize::MAX)), out);
            (is_whole || !out.is_empty()).then_some(Some(len))
        }
        Compression::Zstd => {
            let len = zstd::zstd_safe::get_frame_content_size(packed).ok()?;
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).ok()?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
            // An error behind the first bytes leaves these.
            let _ = io::Read::read_to_end(&mut io::Read::take(decoder.single_frame(), most as u64), out);
            (!out.is_empty()).then_some(len)
        }
        Compression::None | Compression::Xz | Compression::Unknown => None,
    }
}
