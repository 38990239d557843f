//! A look into a queue's directory from outside: of one that a collector has open, too. Nothing is changed and nothing
//! is locked; what a running collector does meanwhile is met as it is.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::cursor::{CURSOR_FILE, Cursors, Saved};
use super::fs::open_to_read;
use super::reader::Entry;
use super::recover::{is_zero, missing, sealed_end};
use super::segment::{Gap, SEGMENT_HEADER, SEGMENT_HEADER_LEN, Stamp, Step, Walk};
use super::state::{DAMAGED_DIR, segment_name, segment_number};
use super::{Cursor, Position};

/// A queue's directory.
#[derive(Debug)]
pub struct Inspection {
    dir: PathBuf,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentFile>,
    /// The cursors as they were last written, at most a second ago.
    pub cursors: Vec<Cursor>,
    /// There is a cursor file and it cannot be read.
    pub cursors_damaged: bool,
    /// Segments that the cursor file lists, that are gone and that a reader was not done with; bytes of frames in them,
    /// at least.
    pub missing: (u64, u64),
    /// Number of files in `damaged/`.
    pub set_aside: usize,
    /// Their size, bytes.
    pub set_aside_bytes: u64,
}

/// A segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Its number.
    pub number: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// When it was begun, Unix nanoseconds; `None` where its header is damaged.
    pub created_unix_nano: Option<u64>,
    /// Behind its last frame, where it is sealed; what a collector still writes to, or died in, is not.
    pub sealed_end: Option<u64>,
}

/// What was found in a segment.
#[derive(Debug, Default)]
pub struct Found {
    /// Frames that check.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Places of what was acknowledged and does not check: from, to, number of frames at least.
    pub damaged: Vec<(u64, u64, u32)>,
    /// Bytes behind the last frame that are not zeros: a write under way, or one that a crash cut off.
    pub torn_bytes: u64,
    /// Neither copy of the header checks: nothing in it can be read.
    pub header_damaged: bool,
}

impl Inspection {
    /// Looks into `dir`.
    ///
    /// # Errors
    /// Where the directory or a file in it cannot be read. A segment that is deleted meanwhile is left out.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let mut segments = Vec::new();
        for (number, bytes) in listed(dir)? {
            match look(dir, number, bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                looked => segments.push(looked?),
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        let (saved, cursors_damaged) = match fs::read(dir.join(CURSOR_FILE)) {
            Ok(bytes) => Cursors::decode(&bytes).map_or((Saved::default(), true), |saved| (saved, false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Saved::default(), false),
            Err(error) => return Err(error),
        };
        let aside = match listed(&dir.join(DAMAGED_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            aside => aside?,
        };
        let there = |number: u64| {
            segments.iter().any(|segment| segment.number == number)
                || aside.iter().any(|(other, _)| *other == number)
        };
        let lowest = saved.cursors.lowest();
        let missing = lowest.map(|from| missing(&saved.segments, from, there)).unwrap_or_default();
        let cursors = saved.cursors.iter();
        let cursors = cursors.map(|(name, place)| Cursor { name: name.to_owned(), position: place.position });
        Ok(Self {
            dir: dir.to_owned(),
            cursors: cursors.collect(),
            cursors_damaged,
            missing,
            set_aside: aside.len(),
            set_aside_bytes: aside.iter().map(|(_, bytes)| bytes).sum(),
            segments,
        })
    }

    /// Hands over the frames of a segment from a position on, until told to break; says what it met on the way.
    ///
    /// # Errors
    /// Where the file cannot be opened. What cannot be read in it counts as damaged.
    pub fn walk(
        &self,
        number: u64,
        from: Position,
        mut each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<Found> {
        let mut found = Found::default();
        let file = open_to_read(&self.dir.join(segment_name(number)))?;
        let size = file.size()?;
        let mut block = vec![0; SEGMENT_HEADER_LEN];
        let read = file.read_at(&mut block, 0)?;
        let Some(stamp) = Stamp::decode(&block[..read], number) else {
            // A header is durable before the first frame is written.
            found.header_damaged = !is_zero(&*file, SEGMENT_HEADER, size)?;
            return Ok(found);
        };
        let (end, mut vouched) = sealed_end(&*file, &stamp, size)?.unwrap_or((size, 0));
        let start = if from.segment == number { from.offset.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
        let mut walk = Walk::new(file.clone(), stamp, start, end);
        let mut gaps: Vec<Gap> = Vec::new();
        loop {
            match walk.step() {
                Ok(Some(Step::Frame { offset, next, durable, frame })) => {
                    vouched = vouched.max(durable);
                    found.frames += 1;
                    found.records += u64::from(frame.records);
                    found.payload_bytes += frame.payload.len() as u64;
                    let position = Position { segment: number, offset };
                    let next_position = Position { segment: number, offset: next };
                    if each(Entry { position, next_position, frame }).is_break() {
                        break;
                    }
                }
                Ok(Some(Step::Gap(gap))) => gaps.push(gap),
                Ok(Some(Step::End { .. }) | None) => break,
                Err(_) => gaps.push(walk.skip()),
            }
        }
        for gap in gaps {
            if gap.offset < vouched {
                found.damaged.push((gap.offset, gap.next, gap.frames));
            } else if !is_zero(&*file, gap.offset, gap.next)? {
                found.torn_bytes += gap.next - gap.offset;
            }
        }
        Ok(found)
    }

    /// Bytes of frames at and behind a position, as far as it can be said without reading them: an unsealed segment
    /// counts as its file.
    pub fn bytes_from(&self, from: Position) -> u64 {
        let ahead = self.segments.iter().filter(|segment| segment.number >= from.segment).map(|segment| {
            let start =
                if segment.number == from.segment { from.offset.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
            segment.sealed_end.unwrap_or(segment.bytes).saturating_sub(start)
        });
        ahead.sum()
    }
}

fn listed(dir: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let (Some(number), Ok(meta)) =
            (entry.file_name().to_str().and_then(segment_number), entry.metadata())
        {
            files.push((number, meta.len()));
        }
    }
    Ok(files)
}

fn look(dir: &Path, number: u64, bytes: u64) -> io::Result<SegmentFile> {
    let file = open_to_read(&dir.join(segment_name(number)))?;
    let mut block = vec![0; SEGMENT_HEADER_LEN];
    let read = file.read_at(&mut block, 0)?;
    let stamp = Stamp::decode(&block[..read], number);
    let sealed = match &stamp {
        Some(stamp) => sealed_end(&*file, stamp, file.size()?)?,
        None => None,
    };
    Ok(SegmentFile {
        number,
        bytes,
        created_unix_nano: stamp.map(|stamp| stamp.created_unix_nano),
        sealed_end: sealed.map(|(end, _)| end),
    })
}
