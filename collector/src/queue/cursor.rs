//! Where each reader stands, by name, and the small file that remembers it.

use std::collections::BTreeMap;
use std::path::Path;
use std::{io, io::IoSlice};

use super::Position;
use super::fs::Filesystem;

/// The file of all cursors; replaced as a whole.
pub(super) const CURSOR_FILE: &str = "cursors";
/// What it is written as before it takes the name.
pub(super) const CURSOR_TEMP: &str = "cursors.tmp";

const MAGIC: &[u8; 8] = b"SONDEC\x00\x02";
/// As it was before it listed the segments.
const MAGIC_1: &[u8; 8] = b"SONDEC\x00\x01";

/// A named reader's place: all before it is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The reader's name.
    pub name: String,
    /// The first frame that is not done with.
    pub position: Position,
}

/// The cursors of a queue.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    by_name: BTreeMap<String, Place>,
    changed: bool,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub cursors: Cursors,
    /// The segments that there were, each with the end of its frames.
    pub segments: Vec<(u64, u64)>,
}

/// A cursor's place and the age of what it holds back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub position: Position,
    /// When the frame there was received, Unix nanoseconds, once it was looked up.
    pub received_unix_nano: Option<u64>,
}

impl Cursors {
    pub fn get(&self, name: &str) -> Option<Position> {
        self.by_name.get(name).map(|place| place.position)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.by_name.iter().map(|(name, place)| (name.as_str(), place))
    }

    /// Sets a cursor wherever it was.
    pub fn set(&mut self, name: &str, position: Position) {
        let place = Place { position, received_unix_nano: None };
        self.by_name.insert(name.to_owned(), place);
        self.changed = true;
    }

    /// Moves a known cursor forward; one that is further, or not known, stays as it is.
    pub fn advance(&mut self, name: &str, position: Position) -> bool {
        match self.by_name.get_mut(name) {
            Some(place) if place.position < position => {
                *place = Place { position, received_unix_nano: None };
                self.changed = true;
                true
            }
            _ => false,
        }
    }

    pub fn forget(&mut self, name: &str) {
        self.changed |= self.by_name.remove(name).is_some();
    }

    /// Remembers when the frame at a cursor was received, unless the cursor has moved since.
    pub fn set_received(&mut self, name: &str, position: Position, unix_nano: u64) {
        if let Some(place) = self.by_name.get_mut(name).filter(|place| place.position == position) {
            place.received_unix_nano = Some(unix_nano);
        }
    }

    /// The lowest place of all; `None` without cursors.
    pub fn lowest(&self) -> Option<Position> {
        self.by_name.values().map(|place| place.position).min()
    }

    pub fn highest_segment(&self) -> u64 {
        self.by_name.values().map(|place| place.position.segment).max().unwrap_or(0)
    }

    /// The file's content, if it would differ from what was last taken.
    pub fn take_changed(&mut self, segments: &[(u64, u64)]) -> Option<Vec<u8>> {
        std::mem::take(&mut self.changed).then(|| self.encode(segments))
    }

    /// The file does not say what is here.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The file is to be written again: what was taken did not reach the disk, or segments came or ended.
    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    fn encode(&self, segments: &[(u64, u64)]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let count = u32::try_from(self.by_name.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for (name, place) in &self.by_name {
            let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&name.as_bytes()[..usize::from(len)]);
            out.extend_from_slice(&place.position.segment.to_le_bytes());
            out.extend_from_slice(&place.position.offset.to_le_bytes());
        }
        for (number, end) in segments {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file's content; `None` where it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Saved> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (mut rest, count) = match body.strip_prefix(MAGIC_1) {
            Some(rest) => (rest, None),
            None => {
                let mut rest = body.strip_prefix(MAGIC)?;
                let count = u32::from_le_bytes(*take(&mut rest)?);
                (rest, Some(count as usize))
            }
        };
        let mut by_name = BTreeMap::new();
        let mut entries = 0;
        while count.map_or(!rest.is_empty(), |count| entries < count) {
            entries += 1;
            let len = usize::from(u16::from_le_bytes(*take(&mut rest)?));
            let (name, tail) = rest.split_at_checked(len)?;
            rest = tail;
            let segment = u64::from_le_bytes(*take(&mut rest)?);
            let offset = u64::from_le_bytes(*take(&mut rest)?);
            let place = Place { position: Position { segment, offset }, received_unix_nano: None };
            by_name.insert(std::str::from_utf8(name).ok()?.to_owned(), place);
        }
        let mut segments = Vec::new();
        while !rest.is_empty() {
            let number = u64::from_le_bytes(*take(&mut rest)?);
            segments.push((number, u64::from_le_bytes(*take(&mut rest)?)));
        }
        Some(Saved { cursors: Self { by_name, changed: false }, segments })
    }
}

/// Replaces the cursor file; once this returns, the new content is durable.
pub(super) fn write(fs: &dyn Filesystem, dir: &Path, content: &[u8]) -> io::Result<()> {
    let temp = dir.join(CURSOR_TEMP);
    match fs.remove(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs.create(&temp)?;
    file.write_at(&[IoSlice::new(content)], 0)?;
    file.sync()?;
    fs.rename(&temp, &dir.join(CURSOR_FILE))?;
    fs.sync_dir(dir)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}
